//! What a Service is called.

/// Every name that a Service has inside its cluster. The first is the one that API servers and
/// sidecars call it by.
pub(super) fn names(service: &str, namespace: &str, domain: &str) -> Vec<String> {
    vec![
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.{domain}"),
        format!("{service}.{namespace}"),
        service.to_owned(),
    ]
}

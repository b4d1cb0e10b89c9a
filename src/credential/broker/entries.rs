//! From what the broker tells to what the cache takes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::api::document::read_object;
use crate::core::binding::Binding;
use crate::core::name::ServerName;
use crate::core::upstream::Scheme;
use crate::core::wire::{self, Cause, Gap};
use crate::credential::source::{Entry, Missing, Snapshot, Value};

/// What of the pod decides which bindings can be served.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Whether no other container can read along: all run as non-root and drop every capability.
    pub hardened: bool,
    /// The only servers wanted, where that was narrowed.
    pub servers: Option<HashSet<ServerName>>,
}

/// The entries of a snapshot, and what is wrong with the documents that are not among them.
pub fn entries(told: wire::Snapshot, pod: &Pod) -> (Snapshot, Vec<String>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for item in told.items {
        match binding(&item.document) {
            Ok(binding) if !pod.wants(&binding) => {}
            Ok(binding) => entries.push(entry(binding, item, pod)),
            Err(problem) => problems.push(problem),
        }
    }
    (Snapshot { entries }, problems)
}

impl Pod {
    fn wants(&self, binding: &Binding) -> bool {
        self.servers.as_ref().is_none_or(|servers| servers.contains(&binding.server.name))
    }
}

fn entry(binding: Binding, item: wire::Item, pod: &Pod) -> Entry {
    let too_weak = binding.server.url.scheme == Scheme::Http && !pod.hardened;
    let value = match item.value {
        _ if too_weak => Err(Missing::PodTooWeak),
        Ok(value) => Ok(Value {
            secret: value.secret,
            version: value.version,
            changed: value.changed.map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
        }),
        Err(gap) => Err(missing(gap)),
    };
    let ca_bundle = item.ca_bundle.map(|bundle| bundle.map(|pem| Arc::from(pem.as_bytes())).map_err(missing));
    Entry { binding: Arc::new(binding), value, ca_bundle }
}

fn missing(gap: Gap) -> Missing {
    match gap.cause {
        Cause::Absent => Missing::Absent(gap.text),
        Cause::Invalid => Missing::Unusable(gap.text),
        Cause::NotConsented => Missing::NotConsented(gap.text),
        Cause::NotGranted | Cause::Other => Missing::Withheld(gap.text),
    }
}

/// Reads a document. One that is newer than this sidecar may say what it does not understand, and
/// is not served: a rule that is passed over would be a hole.
fn binding(document: &serde_json::value::RawValue) -> Result<Binding, String> {
    let object: serde_json::Value =
        serde_json::from_str(document.get()).map_err(|_| "a document that is no JSON object".to_owned())?;
    read_object(&object).map_err(|faults| {
        let name = |field: &str| object.pointer(&format!("/metadata/{field}")).and_then(|name| name.as_str());
        let faults: Vec<String> =
            faults.iter().map(|fault| format!("{}: expected {}", fault.path, fault.expected)).collect();
        format!("binding {}/{}: {}", name("namespace").unwrap_or("?"), name("name").unwrap_or("?"), faults.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;
    use crate::core::secret::SecretValue;

    fn item(name: &str, url: &str, extra: Option<&str>, value: Result<&str, Cause>) -> wire::Item {
        let mut spec = json!({
            "serviceAccounts": ["sa"],
            "server": {"name": name, "url": url, "allowPlaintext": url.starts_with("http:")},
            "credential": {"type": "Bearer", "secretRef": {"name": "s", "key": "t"}},
        });
        if let Some(field) = extra {
            spec[field] = json!(true);
        }
        let document = json!({
            "apiVersion": "postern.dev/v1alpha1", "kind": "CredentialBinding",
            "metadata": {"name": name, "namespace": "ns"}, "spec": spec,
        });
        let secret = |text: &str| Arc::new(SecretValue::parse(text.into()).ok().unwrap());
        let value = value.map(|text| wire::Value { secret: secret(text), version: "7".into(), changed: Some(1500) });
        let value = value.map_err(|cause| Gap { cause, text: "why".into() });
        wire::Item { document: Arc::from(RawValue::from_string(document.to_string()).unwrap()), value, ca_bundle: None }
    }

    fn read(items: Vec<wire::Item>, pod: &Pod) -> (Vec<(String, Option<Missing>)>, Vec<String>) {
        let (snapshot, problems) = entries(wire::Snapshot { items }, pod);
        let told = |entry: Entry| (entry.binding.server.name.to_string(), entry.value.err());
        (snapshot.entries.into_iter().map(told).collect(), problems)
    }

    #[test]
    fn causes_become_what_is_missing() {
        let items = vec![
            item("a", "https://h/a", None, Ok("one")),
            item("b", "https://h/b", None, Err(Cause::Absent)),
            item("c", "https://h/c", None, Err(Cause::Invalid)),
            item("d", "https://h/d", None, Err(Cause::NotConsented)),
            item("e", "https://h/e", None, Err(Cause::NotGranted)),
            item("f", "https://h/f", None, Err(Cause::Other)),
        ];
        let why = || "why".to_owned();
        let (entries, problems) = read(items, &Pod::default());
        assert_eq!(problems, Vec::<String>::new());
        let expected = [
            None,
            Some(Missing::Absent(why())),
            Some(Missing::Unusable(why())),
            Some(Missing::NotConsented(why())),
            Some(Missing::Withheld(why())),
            Some(Missing::Withheld(why())),
        ];
        assert_eq!(entries.into_iter().map(|(_, missing)| missing).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_document_from_the_future_is_refused_and_no_other() {
        let items =
            vec![item("a", "https://h/a", Some("newRule"), Ok("one")), item("b", "https://h/b", None, Ok("two"))];
        let (entries, problems) = read(items, &Pod::default());
        assert_eq!(entries, [("b".to_owned(), None)]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("binding ns/a: spec.newRule: expected"), "{problems:?}");
    }

    #[test]
    fn plaintext_needs_a_hardened_pod() {
        let items = || vec![item("a", "http://h/a", None, Ok("one")), item("b", "https://h/b", None, Ok("two"))];
        let missing = |pod: &Pod| read(items(), pod).0.into_iter().map(|(_, missing)| missing).collect::<Vec<_>>();
        assert_eq!(missing(&Pod::default()), [Some(Missing::PodTooWeak), None]);
        assert_eq!(missing(&Pod { hardened: true, servers: None }), [None, None]);
    }

    #[test]
    fn servers_can_be_narrowed_and_never_widened() {
        let items = vec![item("a", "https://h/a", None, Ok("one")), item("b", "https://h/b", None, Ok("two"))];
        let servers = ["b", "c"].map(|name| ServerName::parse(name).unwrap());
        let (entries, problems) = read(items, &Pod { hardened: false, servers: Some(HashSet::from(servers)) });
        assert_eq!((entries, problems), (vec![("b".to_owned(), None)], Vec::new()));
    }
}

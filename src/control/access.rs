//! Whether a service account may do something, as the API server is asked, and what its answer means.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};

use crate::core::name::{Namespace, ObjectName, ServiceAccount};

/// Whether a service account may do something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    /// The namespace of the service account.
    pub(super) home: Namespace,
    pub(super) account: String,
    pub(super) right: Right,
}

/// What may be done, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    pub(super) namespace: Namespace,
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
    pub(super) subresource: Option<&'static str>,
    pub(super) name: Option<String>,
}

impl Question {
    /// A right of an agent by which a Secret can be read. The name counts for `list` and `watch` too: a right to all
    /// Secrets holds for each, and a right to this one is enough to list it by its name.
    pub(super) fn of_secret(
        namespace: &Namespace,
        account: &ServiceAccount,
        secret: &ObjectName,
        verb: &'static str,
    ) -> Self {
        let name = Some(secret.to_string());
        let right = Right { namespace: namespace.clone(), verb, resource: "secrets", subresource: None, name };
        Self { home: namespace.clone(), account: account.to_string(), right }
    }

    /// As the API server is asked.
    pub(super) fn review(&self) -> SubjectAccessReview {
        let Self { home, account, right } = self;
        let attributes = ResourceAttributes {
            namespace: Some(right.namespace.to_string()),
            verb: Some(right.verb.to_owned()),
            version: Some("v1".into()),
            resource: Some(right.resource.to_owned()),
            subresource: right.subresource.map(str::to_owned),
            name: right.name.clone(),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{home}:{account}")),
            // Those that the API server itself gives to each service account: rights may be given to them.
            groups: Some(vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{home}"),
                "system:authenticated".into(),
            ]),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        SubjectAccessReview { spec, ..SubjectAccessReview::default() }
    }
}

/// Whether it is allowed; else why the answer is none.
pub(super) fn allowed(answer: SubjectAccessReview) -> Result<bool, &'static str> {
    match answer.status {
        Some(status) if status.allowed => Ok(true),
        // An authorizer that failed has not said no. Its words may quote anything.
        Some(status) if status.evaluation_error.is_some() => Err("the API server could not tell"),
        Some(_) => Ok(false),
        None => Err("an answer without a status"),
    }
}

//! Whether an agent could read the Secret of its binding itself: then it needs no Postern, and Postern protects nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use super::door::Door;
use crate::core::name::{Namespace, ObjectName, ServiceAccount};

/// A right by which a Secret can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Reads it.
    Get,
    /// Reads all of them, or this one where it is named.
    List,
    /// Likewise, as they change.
    Watch,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Get, Self::List, Self::Watch];

    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

/// Which service accounts may read the Secret of their binding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Those that may, and by which rights.
    pub may: BTreeMap<ServiceAccount, BTreeSet<Verb>>,
    /// Whether each was asked about with an answer.
    pub complete: bool,
}

/// Asks the API server about each of `accounts`. The first question without an answer is the last.
pub(super) async fn ask<'a>(
    client: &kube::Client,
    door: &Door,
    namespace: &Namespace,
    secret: &ObjectName,
    accounts: impl Iterator<Item = &'a ServiceAccount>,
) -> Reach {
    let mut reach = Reach::default();
    for account in accounts {
        for verb in Verb::ALL {
            match allowed(client, door, &question(namespace, secret, account, verb)).await {
                Ok(true) => drop(reach.may.entry(account.clone()).or_default().insert(verb)),
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(%namespace, %secret, why, "who may read a Secret cannot be asked; trying again");
                    return reach;
                }
            }
        }
    }
    reach.complete = true;
    reach
}

/// The name counts for `list` and `watch` too: a right to all Secrets holds for each, and a right to this one is enough
/// to list it by its name.
fn question(namespace: &Namespace, secret: &ObjectName, account: &ServiceAccount, verb: Verb) -> SubjectAccessReview {
    let attributes = ResourceAttributes {
        namespace: Some(namespace.to_string()),
        verb: Some(verb.as_str().to_owned()),
        version: Some("v1".into()),
        resource: Some("secrets".into()),
        name: Some(secret.to_string()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(format!("system:serviceaccount:{namespace}:{account}")),
        // Those that the API server itself gives to each service account: rights may be given to them.
        groups: Some(vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ]),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

async fn allowed(client: &kube::Client, door: &Door, question: &SubjectAccessReview) -> Result<bool, String> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = door.pass(api.create(&PostParams::default(), question)).await;
    match answer.map_err(|failed| failed.to_string())?.status {
        Some(status) if status.allowed => Ok(true),
        // An authorizer that failed has not said no. Its words may quote anything.
        Some(status) if status.evaluation_error.is_some() => Err("the API server could not tell".into()),
        Some(_) => Ok(false),
        None => Err("an answer without a status".into()),
    }
}

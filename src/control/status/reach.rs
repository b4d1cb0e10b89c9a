//! Whether an agent could read the Secret of its binding itself: then it needs no Postern, and Postern protects nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};

use super::door::Door;
use crate::control::access::{self, Question};
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
            match allowed(client, door, &Question::of_secret(namespace, account, secret, verb.as_str())).await {
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

async fn allowed(client: &kube::Client, door: &Door, question: &Question) -> Result<bool, String> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = door.pass(api.create(&PostParams::default(), &question.review())).await;
    access::allowed(answer.map_err(|failed| failed.to_string())?).map_err(str::to_owned)
}

//! Reads from the API server, page by page, with the rights of whoever asks.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bindings::Contents;
use super::finding::{Seen, Unseen, Why};
use super::rights::Answers;
use crate::api::{CA_BUNDLE_LABEL, CREDENTIAL_LABEL};
use crate::control::access::{self, Question};
use crate::control::broker::kind;
use crate::control::index::Kind;
use crate::control::watch::{self, bundle, secret};
use crate::core::name::Namespace;

/// Objects of one answer.
const PAGE: u32 = 500;
/// Questions under way at once.
const AT_ONCE: usize = 8;
/// The API server is given this long for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bindings of a namespace, or of all, as they stand on the API server.
pub(super) async fn bindings(client: &Client, namespace: Option<&Namespace>) -> Seen<Vec<Value>> {
    let kind = watch::bindings();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace.as_str(), &kind),
        None => Api::all_with(client.clone(), &kind),
    };
    let mut all = Vec::new();
    // What cannot be read as a binding is the index's matter.
    list(&api, None, &within("CredentialBindings", namespace), |one| all.extend(serde_json::to_value(one))).await?;
    Ok(all)
}

/// What the bindings of a namespace refer to, as far as it is labelled: nobody asks for more.
pub(super) async fn contents(client: &Client, namespace: &Namespace, kinds: &BTreeSet<Kind>) -> Vec<Seen<Contents>> {
    let mut read = Vec::new();
    for kind in kinds {
        read.push(match kind {
            Kind::Secrets => {
                let (api, what): (Api<Secret>, _) = scoped(client, Some(namespace), "Secrets");
                let (label, mut all) = (format!("{CREDENTIAL_LABEL}=true"), Vec::new());
                let listed = list(&api, Some(&label), &what, |one| all.extend(secret(one))).await;
                listed.map(|()| Contents::Secrets(all))
            }
            Kind::Bundles => {
                let (api, what): (Api<ConfigMap>, _) = scoped(client, Some(namespace), "ConfigMaps");
                let (label, mut all) = (format!("{CA_BUNDLE_LABEL}=true"), Vec::new());
                let listed = list(&api, Some(&label), &what, |one| all.extend(bundle(one))).await;
                listed.map(|()| Contents::Bundles(all))
            }
        });
    }
    read
}

/// The objects of one namespace, or of all, and what they are called in a sentence.
pub(super) fn scoped<K>(client: &Client, namespace: Option<&Namespace>, what: &str) -> (Api<K>, String)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace.as_str()),
        None => Api::all(client.clone()),
    };
    (api, within(what, namespace))
}

fn within(what: &str, namespace: Option<&Namespace>) -> String {
    namespace.map_or_else(|| what.to_owned(), |namespace| format!("{what} in {namespace}"))
}

/// Has `take` take every object of a list; `what` names them: `Secrets in research`.
pub(super) async fn list<K>(api: &Api<K>, labels: Option<&str>, what: &str, mut take: impl FnMut(K)) -> Seen<()>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut page = ListParams::default().limit(PAGE);
    if let Some(labels) = labels {
        page = page.labels(labels);
    }
    loop {
        let unseen = |why| Unseen { tried: format!("list {what}"), why };
        let list = answered(api.list(&page)).await.map_err(unseen)?;
        list.items.into_iter().for_each(&mut take);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Gets one object, if it is there; `what` names it: `Deployment postern-system/postern-controller`.
pub(super) async fn get<K>(api: &Api<K>, name: &str, what: &str) -> Seen<Option<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    answered(api.get_opt(name)).await.map_err(|why| Unseen { tried: format!("get {what}"), why })
}

async fn answered<T>(question: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Why> {
    match tokio::time::timeout(PATIENCE, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(Why::Forbidden),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Why::UnknownKind),
        Ok(Err(error)) => Err(Why::Failed(kind(&error))),
        Err(_) => Err(Why::Failed(format!("no answer within {PATIENCE:?}"))),
    }
}

/// Asks all questions, a few at a time. Who may ask none is not asked for the others.
pub(super) async fn review(client: &Client, questions: Vec<Question>, asked: impl Fn(usize)) -> Answers {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let mut answers = Answers::default();
    let mut rest = questions.into_iter();
    let Some(first) = rest.next() else { return answers };
    let answer = answer(&api, &first).await;
    let is_forbidden = matches!(answer, Err(Why::Forbidden));
    answers.take(first, answer);
    if is_forbidden {
        return answers;
    }
    let api = &api;
    let asking = futures_util::stream::iter(rest.map(|question| async move {
        let answer = self::answer(api, &question).await;
        (question, answer)
    }));
    let mut asking = std::pin::pin!(asking.buffer_unordered(AT_ONCE));
    let mut count = 1;
    while let Some((question, answer)) = asking.next().await {
        count += 1;
        asked(count);
        answers.take(question, answer);
    }
    answers
}

async fn answer(api: &Api<SubjectAccessReview>, question: &Question) -> Result<bool, Why> {
    let review = answered(api.create(&PostParams::default(), &question.review())).await?;
    access::allowed(review).map_err(|why| Why::Failed(why.to_owned()))
}

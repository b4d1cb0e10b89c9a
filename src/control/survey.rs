//! A survey of a cluster: what Postern's installation, its bindings and its pods are like now, with the rights of
//! whoever asks. What those do not reach is said to be unchecked, and never taken for good.
//!
//! ```text
//! [ read: objects, reviews ] -> [ installation | bindings | rights | pods ] -> findings
//! ```
//! Everything is read once, and decided without further questions. Of Secrets, only labelled ones of namespaces that
//! have bindings are read, and let go with the namespace they are of.

mod bindings;
mod captures;
mod finding;
mod installation;
mod pods;
mod read;
mod rights;

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{self, ConfigMap};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::core::PartialObjectMeta;
use serde_json::Value;
use tokio::sync::watch;

use self::bindings::{Bindings, Dated, Known};
pub use self::finding::{Finding, Grade, Place, Section, Seen, Topic, Unseen, Why};
use self::installation::Policies;
pub use self::installation::{POLICIES, SIGNERS, SIGNERS_KEY};
use self::pods::{Bound, Measure, NamespaceSeen, PodSeen};
pub use self::rights::BROKER_ACCOUNT;
use crate::api::INJECT;
use crate::core::name::{BindingId, CallerKey, Namespace};
use crate::core::wire::Snapshot;

/// The Deployment that says which image is injected.
const CONTROLLER: &str = "postern-controller";

/// What is looked at.
#[derive(Debug, Clone)]
pub struct SurveyScope {
    /// This namespace's bindings and pods; without it, all.
    pub namespace: Option<Namespace>,
    /// The namespace of the installation.
    pub home: Namespace,
    /// The image that sidecars should have; without it, what the controller's Deployment says.
    pub image: Option<String>,
}

/// How far a survey is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// What is being looked at.
    pub what: &'static str,
    /// How many of them were.
    pub done: usize,
    /// Of how many, if that is known.
    pub of: Option<usize>,
}

/// A survey, to be made.
pub struct Survey {
    /// With the rights of whoever asks.
    pub client: Client,
    /// What is looked at.
    pub scope: SurveyScope,
    /// Where it tells how far it is.
    pub progress: watch::Sender<Step>,
}

impl Survey {
    /// Looks at all of it.
    pub async fn run(&self) -> Vec<Finding> {
        self.at("the installation", 0, None);
        let (definition, webhooks, policies, signers, image) =
            tokio::join!(self.definition(), self.webhooks(), self.policies(), self.signers(), self.image());
        let (policies, guards) = installation::policies(&policies);
        let mut findings = vec![installation::definition(&definition)];
        findings.extend(installation::webhooks(&webhooks));
        findings.extend(policies);
        findings.push(installation::signers(self.scope.home.as_str(), &signers));

        self.at("bindings", 0, None);
        let mut hosts = BTreeMap::new();
        let known = match read::bindings(&self.client, self.scope.namespace.as_ref()).await {
            Ok(list) => {
                hosts = bindings::hosts(&list);
                Ok(self.look(Bindings::new(list)).await)
            }
            Err(why) => {
                let mut finding = Finding::unchecked(Topic::Binding, Place::all("CredentialBindings"), &why);
                if self.scope.namespace.is_none() && why.why == Why::Forbidden {
                    finding.fix = Some("--namespace asks for those of one namespace".into());
                }
                findings.push(finding);
                Err(why)
            }
        };
        if let Ok(known) = &known {
            findings.extend(known.iter().flat_map(bindings::judge));
            let questions = rights::questions(known, &self.scope.home);
            let all = questions.len();
            let asked = |done| self.at("rights", done, Some(all));
            let answers = read::review(&self.client, questions, asked).await;
            findings.extend(rights::judge(known, &self.scope.home, &answers, guards));
        }

        let (namespaces, pods) = (self.namespaces().await, self.pods().await);
        if let (Some(name), Ok(namespaces)) = (&self.scope.namespace, &namespaces)
            && namespaces.is_empty()
        {
            let place = Place::of_cluster("Namespace", name.as_str());
            findings.push(Finding::wrong(Topic::Injection, place, "there is no such namespace", "see --namespace"));
        }
        let bound = known.map(|known| bound(&known, &hosts));
        let home = self.scope.home.as_str();
        let measure = Measure { home, namespaces: &namespaces, bound: &bound, image: &image, signers: &signers };
        findings.extend(pods::judge(&pods, &measure));
        findings
    }

    fn at(&self, what: &'static str, done: usize, of: Option<usize>) {
        self.progress.send_replace(Step { what, done, of });
    }

    async fn look(&self, mut bindings: Bindings) -> Vec<Known> {
        let (mut known, wanted) = (Vec::new(), bindings.wanted());
        for (done, (namespace, kinds)) in wanted.iter().enumerate() {
            self.at("namespaces with bindings", done, Some(wanted.len()));
            let unseen = bindings.fill(namespace, read::contents(&self.client, namespace, kinds).await);
            known.extend(bindings.settle(namespace, kinds, &unseen));
        }
        known
    }

    async fn definition(&self) -> Seen<Option<Value>> {
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let kind = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let name = installation::definition_name();
        let found = read::get(&api, &name, &format!("CustomResourceDefinition {name}")).await?;
        Ok(found.map(|object| object.data))
    }

    async fn webhooks(&self) -> Seen<Vec<MutatingWebhookConfiguration>> {
        let mut all = Vec::new();
        let api = Api::all(self.client.clone());
        read::list(&api, None, "MutatingWebhookConfigurations", |one| all.push(one)).await?;
        Ok(all)
    }

    async fn policies(&self) -> Seen<Policies> {
        let (mut policies, mut bindings) = (Vec::new(), Vec::new());
        let of_policies = Api::all(self.client.clone());
        read::list(&of_policies, None, "ValidatingAdmissionPolicies", |one| policies.push(one)).await?;
        let of_bindings = Api::all(self.client.clone());
        read::list(&of_bindings, None, "ValidatingAdmissionPolicyBindings", |one| bindings.push(one)).await?;
        Ok(Policies { policies, bindings })
    }

    async fn signers(&self) -> Seen<Option<String>> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.scope.home.as_str());
        let found = read::get(&api, SIGNERS, &format!("ConfigMap {}/{SIGNERS}", self.scope.home)).await?;
        Ok(found.and_then(|map| map.data?.remove(SIGNERS_KEY)))
    }

    /// The image that the controller was started with.
    async fn image(&self) -> Seen<Option<String>> {
        if let Some(image) = &self.scope.image {
            return Ok(Some(image.clone()));
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), self.scope.home.as_str());
        let found = read::get(&api, CONTROLLER, &format!("Deployment {}/{CONTROLLER}", self.scope.home)).await?;
        let pod = found.and_then(|deployment| deployment.spec?.template.spec);
        let containers = pod.map(|pod| pod.containers).unwrap_or_default();
        Ok(containers.into_iter().find_map(|container| argument(&container.args?, "--image")))
    }

    async fn namespaces(&self) -> Seen<BTreeMap<String, NamespaceSeen>> {
        self.at("namespaces", 0, None);
        let api: Api<PartialObjectMeta<v1::Namespace>> = Api::all(self.client.clone());
        let mut all = BTreeMap::new();
        let mut take = |namespace: PartialObjectMeta<v1::Namespace>| {
            let mut labels = namespace.metadata.labels.unwrap_or_default();
            let seen = NamespaceSeen {
                switch: labels.remove(INJECT),
                standard: labels.remove(captures::STANDARD),
                capture: namespace.metadata.annotations.and_then(|mut all| all.remove(&captures::annotation())),
            };
            all.insert(namespace.metadata.name.unwrap_or_default(), seen);
        };
        match &self.scope.namespace {
            None => read::list(&api, None, "Namespaces", take).await?,
            Some(name) => {
                let found = read::get(&api, name.as_str(), &format!("Namespace {name}")).await?;
                found.into_iter().for_each(&mut take);
            }
        }
        Ok(all)
    }

    async fn pods(&self) -> Seen<Vec<PodSeen>> {
        let mut all = Vec::new();
        let (api, what) = read::scoped(&self.client, self.scope.namespace.as_ref(), "Pods");
        let mut count = 0;
        let take = |pod| {
            count += 1;
            self.at("pods", count, None);
            all.extend(PodSeen::read(pod));
        };
        read::list(&api, None, &what, take).await?;
        Ok(all)
    }
}

/// What a sidecar of one service account would be told.
pub struct Viewed {
    /// It.
    pub snapshot: Snapshot,
    /// What could not be looked at: values are told as missing for that alone.
    pub unseen: Vec<Unseen>,
}

/// Draws what the broker would tell the sidecars of `caller`, from the cluster's objects.
pub async fn view(client: &Client, home: &Namespace, caller: &CallerKey) -> Seen<Viewed> {
    let namespace = &caller.namespace;
    let mut bindings = Bindings::new(read::bindings(client, Some(namespace)).await?);
    let kinds = bindings.wanted().remove(namespace).unwrap_or_default();
    let mut unseen = bindings.fill(namespace, read::contents(client, namespace, &kinds).await);
    let answers = read::review(client, rights::of_broker(home, namespace, &kinds), |_| {}).await;
    for kind in kinds {
        match rights::may_broker(&answers, home, namespace, kind) {
            Ok(true) => {}
            Ok(false) => bindings.deny(kind, namespace),
            Err(why) => unseen.push(why),
        }
    }
    Ok(Viewed { snapshot: bindings.view(caller), unseen })
}

/// The value of a flag, in either form.
fn argument(arguments: &[String], flag: &str) -> Option<String> {
    let at = arguments.iter().position(|one| one == flag || one.starts_with(&format!("{flag}=")))?;
    match arguments.get(at)?.split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => arguments.get(at + 1).cloned(),
    }
}

fn bound(known: &[Known], hosts: &BTreeMap<BindingId, Dated>) -> Bound {
    let mut bound = Bound::new();
    for facts in known.iter().map(|known| &known.facts) {
        for account in facts.standing.keys() {
            let of_account = bound.entry((facts.id.namespace.to_string(), account.to_string())).or_default();
            let Some(Dated { host: Some(host), created }) = hosts.get(&facts.id) else { continue };
            // Whichever came first.
            let first = of_account.entry(host.clone()).or_insert_with(|| created.clone());
            *first = first.take().min(created.clone());
        }
    }
    bound
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;

//! What a decision needs to know and a review does not say.

use std::future::{Future, ready};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use futures_util::stream::StreamExt as _;
use k8s_openapi::api::core::v1;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::control::admission::{ConfigMap, NamespaceMeta};
use crate::core::name::{Namespace, ObjectName};
use crate::runtime::task::OwnedTask;

/// Knows namespaces.
pub trait Namespaces: Send + Sync {
    /// The labels and annotations of a namespace; `None` if they cannot be had now.
    fn get<'a>(&'a self, name: &'a Namespace) -> BoxFuture<'a, Option<NamespaceMeta>>;
}

/// Reads ConfigMaps.
pub trait ConfigMaps: Send + Sync {
    /// Those of these that are there, within a second.
    fn get<'a>(&'a self, namespace: &'a Namespace, names: &'a [ObjectName]) -> BoxFuture<'a, ReadConfigMaps>;
}

/// What could be read.
#[derive(Debug, Clone, Default)]
pub struct ReadConfigMaps {
    /// The ConfigMaps.
    pub found: Vec<ConfigMap>,
    /// Whether each name is found, or surely not there.
    pub complete: bool,
}

/// For all that is asked about one pod.
const PATIENCE: Duration = Duration::from_secs(1);

/// The cluster's namespaces, watched. One that is too new to have been seen is asked for.
pub struct WatchedNamespaces {
    store: Store<Meta>,
    api: Api<Meta>,
    _watch: OwnedTask,
}

type Meta = PartialObjectMeta<v1::Namespace>;

impl WatchedNamespaces {
    /// Watches from now on.
    pub fn start(client: Client) -> Self {
        let api: Api<Meta> = Api::all(client);
        let (store, writer) = reflector::store();
        let events = watcher(api.clone(), watcher::Config::default())
            .default_backoff()
            .modify(|namespace| namespace.managed_fields_mut().clear())
            .reflect(writer);
        let watch = events.for_each(|event| {
            if let Err(error) = event {
                tracing::warn!(%error, "namespaces cannot be watched; trying again");
            }
            ready(())
        });
        Self { store, api, _watch: OwnedTask::spawn(watch) }
    }

    /// Waits until all namespaces have been seen once.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<> {
        let store = self.store.clone();
        async move {
            let _ended_with_its_owner = store.wait_until_ready().await;
        }
    }
}

impl Namespaces for WatchedNamespaces {
    fn get<'a>(&'a self, name: &'a Namespace) -> BoxFuture<'a, Option<NamespaceMeta>> {
        async move {
            if let Some(known) = self.store.get(&ObjectRef::new(name.as_str())) {
                return Some(meta(&known));
            }
            let asked = tokio::time::timeout(PATIENCE, self.api.get_opt(name.as_str())).await;
            match asked {
                Ok(Ok(found)) => found.as_ref().map(meta),
                Ok(Err(error)) => {
                    tracing::warn!(%name, %error, "a namespace cannot be read");
                    None
                }
                Err(_) => None,
            }
        }
        .boxed()
    }
}

fn meta(namespace: &Meta) -> NamespaceMeta {
    NamespaceMeta { labels: namespace.labels().clone(), annotations: namespace.annotations().clone() }
}

/// Reads them from the API server, each time anew.
pub struct LiveConfigMaps(Client);

impl LiveConfigMaps {
    /// Reads through this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    async fn one(&self, namespace: &Namespace, name: &ObjectName) -> Option<Option<ConfigMap>> {
        let api: Api<v1::ConfigMap> = Api::namespaced(self.0.clone(), namespace.as_str());
        match tokio::time::timeout(PATIENCE, api.get_opt(name.as_str())).await {
            Ok(Ok(found)) => Some(found.map(|map| ConfigMap { name: name.to_string(), data: json!(map.data) })),
            Ok(Err(error)) => {
                tracing::warn!(%namespace, %name, %error, "a ConfigMap cannot be read");
                None
            }
            Err(_) => None,
        }
    }
}

impl ConfigMaps for LiveConfigMaps {
    fn get<'a>(&'a self, namespace: &'a Namespace, names: &'a [ObjectName]) -> BoxFuture<'a, ReadConfigMaps> {
        async move {
            let read = join_all(names.iter().map(|name| self.one(namespace, name))).await;
            let complete = read.iter().all(Option::is_some);
            ReadConfigMaps { found: read.into_iter().flatten().flatten().collect(), complete }
        }
        .boxed()
    }
}

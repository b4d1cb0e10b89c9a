//! One object of the API server, watched: a word that it is worth a look. What it holds then is read,
//! never taken from the watch.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use kube::api::{Api, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;

use super::broker::kind;

/// A watch that breaks off is worth a look too, but not many in a moment.
const BREATH: Duration = Duration::from_secs(1);

/// Returns when the object `name` is not the one of `version` any more, or may not be. Where that
/// cannot be seen at all, it does not return: whoever waits has a clock beside it.
pub async fn changed<K>(api: &Api<K>, name: &str, version: &str)
where
    K: Clone + DeserializeOwned + Debug + 'static,
{
    let this = WatchParams::default().fields(&format!("metadata.name={name}"));
    match api.watch_metadata(&this, version).await {
        Ok(events) => {
            tokio::pin!(events);
            while let Some(Ok(event)) = events.next().await {
                match event {
                    WatchEvent::Bookmark(_) => {}
                    WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_) => return,
                    // The version is too old to begin from, most likely.
                    WatchEvent::Error(_) => break,
                }
            }
            tokio::time::sleep(BREATH).await;
        }
        Err(error) => {
            let kind_of_object = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
            tracing::warn!("{kind_of_object} {name} cannot be watched, only looked at: {}", kind(&error));
            std::future::pending().await
        }
    }
}

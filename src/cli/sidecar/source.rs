//! Where the sidecar's bindings and values come from: prepared before its sockets are bound, begun
//! once they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use super::{Publisher, StartError};
use crate::config::sidecar::SourceSettings;
use crate::credential::broker::BrokerSource;
use crate::credential::cache::Credentials;
use crate::credential::file::{FileWatch, OnRead};
use crate::runtime::task::OwnedTask;

/// A source whose changes are not told yet.
pub(super) enum Prepared {
    /// It has been read once, and watches; its thread waits for the endpoint's port.
    File(FileWatch, SyncSender<u16>),
    /// It has not connected yet.
    Broker(Box<BrokerSource>),
}

/// A source at work; dropping it ends it.
pub(super) enum Source {
    File { _watch: FileWatch },
    Broker { _task: OwnedTask },
}

impl Prepared {
    pub(super) fn new(settings: SourceSettings, publish: &Publisher) -> Result<(Self, Credentials), StartError> {
        match settings {
            SourceSettings::File(settings) => {
                let (sender, port) = sync_channel(1);
                let watch = FileWatch::start(settings, on_read(publish.clone(), port));
                let (watch, credentials) = watch.map_err(StartError::Problems)?;
                Ok((Self::File(watch, sender), credentials))
            }
            SourceSettings::Broker(settings) => {
                let source = BrokerSource::new(*settings, Arc::clone(&publish.telemetry));
                let source = source.map_err(|error| StartError::Io("source.broker".into(), error))?;
                let credentials = source.credentials();
                Ok((Self::Broker(Box::new(source)), credentials))
            }
        }
    }

    /// Whether what is bound is known already.
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Self::File(..))
    }

    /// `started` is set once what is bound is known and written.
    pub(super) fn begin(self, publish: Publisher, port: u16, started: Arc<AtomicBool>) -> Source {
        match self {
            Self::File(watch, endpoint) => {
                // The receiver lives in the watch's thread.
                let _received = endpoint.send(port);
                watch.look_again();
                Source::File { _watch: watch }
            }
            Self::Broker(source) => {
                let on_snapshot = move |credentials: &Credentials, _problems| {
                    if publish.keep(credentials, port) {
                        started.store(true, Ordering::Release);
                    }
                };
                Source::Broker { _task: OwnedTask::spawn(source.run(Box::new(on_snapshot))) }
            }
        }
    }
}

fn on_read(publish: Publisher, endpoint: std::sync::mpsc::Receiver<u16>) -> OnRead {
    let mut port = None;
    Box::new(move |credentials, problems| {
        publish.telemetry.metrics.source_read(problems);
        port = port.or_else(|| endpoint.recv().ok());
        if let Some(port) = port {
            publish.keep(credentials, port);
        }
    })
}

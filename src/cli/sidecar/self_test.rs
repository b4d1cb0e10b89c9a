//! Whether the pod's connections really come to its sidecar: found out before the agents start.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::StartError;
use crate::core::capture::Capture;
use crate::nft::probe::Probe;
use crate::proxy::CaptureSettings;
use crate::runtime::task::OwnedTask;

/// Between two looks at a capture that does not work.
const PAUSE: Duration = Duration::from_secs(2);

/// The test of one start.
pub(super) struct SelfTest {
    /// For the listener, which has a part in it. `None` where nothing is redirected.
    pub(super) probe: Option<Arc<Probe>>,
    /// Whether it has passed, or need not be.
    pub(super) passed: Arc<AtomicBool>,
}

impl SelfTest {
    pub(super) fn new(capture: &CaptureSettings) -> Result<Self, StartError> {
        let wanted = capture.kind == Capture::Redirect && capture.self_test;
        let fail = |error| StartError::Io("capture.selfTest".into(), io::Error::other(error));
        let probe = wanted.then(Probe::new).transpose().map_err(fail)?.map(Arc::new);
        Ok(Self { passed: Arc::new(AtomicBool::new(probe.is_none())), probe })
    }

    /// Looks until it has passed. The listeners must be accepting.
    pub(super) fn begin(self) -> Option<OwnedTask> {
        let Self { probe, passed } = self;
        probe.map(|probe| OwnedTask::spawn(until_captured(probe, passed)))
    }
}

async fn until_captured(probe: Arc<Probe>, passed: Arc<AtomicBool>) {
    loop {
        match probe.test().await {
            Ok(families) => {
                tracing::info!(ipv4 = families.v4, ipv6 = families.v6, "connections of this pod are captured");
                passed.store(true, Ordering::Release);
                return;
            }
            Err(error) => tracing::error!(%error, "the capture cannot be relied on; the pod does not start"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

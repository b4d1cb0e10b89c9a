//! A broker with many sidecars: benches/swarm as one of the rig's workloads.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::report::known;
use super::round::Figures;
use super::subject::Program;

/// Runs the swarm once; in words why it gives no figures, if so.
pub fn round(
    swarm: Option<&Path>,
    broker: Option<&Program>,
    sidecars: usize,
    core: usize,
    quiet: Duration,
) -> Result<Figures, String> {
    let (Some(swarm), Some(broker)) = (swarm, broker) else {
        return Err("benches/run found no API server for it: tests/cluster/setup kube makes one".to_owned());
    };
    let output = Command::new(swarm)
        .arg("--json")
        .args(["--core", &core.to_string()])
        .args(["--quiet", &quiet.as_secs_f64().to_string()])
        .arg("--binary")
        .arg(&broker.path)
        .arg(sidecars.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(|error| format!("the swarm: {error}"))?;
    if !output.status.success() {
        return Err(format!("the swarm ended with {}; it said why", output.status));
    }
    figures(&String::from_utf8_lossy(&output.stdout))
}

/// What it printed.
pub fn figures(text: &str) -> Result<Figures, String> {
    serde_json::from_str(text.trim()).map(known).map_err(|error| format!("what the swarm said: {error}"))
}

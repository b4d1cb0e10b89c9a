//! What is injected, as `postern controller` and `postern inject` are told alike.

use std::path::{Path, PathBuf};

use crate::control::admission::settings::{Allowed, InjectionSettings, PullPolicy, Resources, is_quantity};
use crate::core::capture::{Capture, HostPattern};
use crate::core::network::Cidr;
use crate::core::upstream::{Scheme, UpstreamUrl};
use crate::tls::client::parse_bundle;

/// What a variable of a process can hold is 128 KiB.
const EXTRA_ROOTS_BYTES: usize = 96 * 1024;

/// The flags.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What is injected")]
pub(super) struct InjectionArgs {
    /// The sidecar's image
    #[arg(long, value_parser = image)]
    image: String,
    /// When nodes fetch the image: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent", value_parser = pull_policy)]
    image_pull_policy: PullPolicy,
    /// A Secret to fetch the image with; may be given several times
    #[arg(long, value_name = "SECRET")]
    image_pull_secret: Vec<String>,
    /// Where the sidecar finds the broker: an https URL with a whole name
    #[arg(long, value_name = "URL", value_parser = broker)]
    broker: String,
    /// requests.cpu of a sidecar whose pod does not say otherwise
    #[arg(long, value_name = "QUANTITY", default_value = "10m", value_parser = quantity)]
    cpu_request: String,
    /// limits.cpu likewise; none, as a throttled proxy is a slow one
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    cpu_limit: Option<String>,
    /// requests.memory likewise
    #[arg(long, value_name = "QUANTITY", default_value = "24Mi", value_parser = quantity)]
    memory_request: String,
    /// limits.memory likewise
    #[arg(long, value_name = "QUANTITY", default_value = "96Mi", value_parser = quantity)]
    memory_limit: String,
    /// More authorities that agents are to trust with capture proxy or redirect, as a file of PEM
    /// certificates, such as a company's own
    #[arg(long, value_name = "FILE")]
    extra_roots: Option<PathBuf>,
    /// A capture that pods may ask for: endpoint, proxy or redirect; may be given several times
    #[arg(long, value_name = "CAPTURE", default_values = ["endpoint", "proxy", "redirect"], value_parser = capture)]
    allow_capture: Vec<Capture>,
    /// A path of the node that pods may mount, with what is below it; may be given several times
    #[arg(long, value_name = "PATH")]
    allow_host_path: Vec<String>,
    /// A host, exact or *.suffix, that pods may ask to reach without a credential; may be given
    /// several times
    #[arg(long, value_name = "HOST", value_parser = host)]
    allow_passthrough_host: Vec<HostPattern>,
    /// A port that pods may ask not to capture; may be given several times
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    allow_skip_port: Vec<u16>,
    /// A network that pods may ask not to capture; may be given several times
    #[arg(long, value_name = "CIDR", value_parser = network)]
    allow_skip_cidr: Vec<Cidr>,
}

fn image(text: &str) -> Result<String, &'static str> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err("expected the name of an image") }
}

fn pull_policy(text: &str) -> Result<PullPolicy, &'static str> {
    let all = [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never];
    all.into_iter().find(|policy| policy.as_str() == text).ok_or("expected Always, IfNotPresent or Never")
}

fn broker(text: &str) -> Result<String, &'static str> {
    let url = UpstreamUrl::parse(text).ok().filter(|url| url.scheme == Scheme::Https).ok_or("expected an https URL")?;
    // Sidecars take no name for the beginning of another one: agents share the pod's search domains.
    if url.host.to_string().ends_with(".svc") {
        return Err("expected the whole name of the Service, with the cluster's domain behind .svc");
    }
    Ok(text.to_owned())
}

fn capture(text: &str) -> Result<Capture, &'static str> {
    Capture::parse(text).ok_or("expected endpoint, proxy or redirect")
}

fn quantity(text: &str) -> Result<String, &'static str> {
    if is_quantity(text) { Ok(text.to_owned()) } else { Err("expected a quantity above zero such as 10m or 96Mi") }
}

fn host(text: &str) -> Result<HostPattern, &'static str> {
    HostPattern::parse(text).ok_or("expected a host such as api.example.com or *.example.com")
}

fn network(text: &str) -> Result<Cidr, &'static str> {
    // All there is: nothing would be redirected.
    Cidr::parse(text).filter(|network| network.bits() > 0).ok_or("expected a network such as 10.0.0.0/8")
}

impl InjectionArgs {
    /// The file with more authorities.
    pub(super) fn extra_roots(&self) -> Option<&Path> {
        self.extra_roots.as_deref()
    }

    /// The settings, without what the sidecar is to trust the broker by and to ask for addresses. `extra_roots` is what
    /// that file holds.
    pub(super) fn settings(&self, extra_roots: Option<String>) -> Result<InjectionSettings, String> {
        if let Some(fault) = extra_roots.as_deref().and_then(unfit_roots) {
            return Err(format!("--extra-roots: expected {fault}"));
        }
        let settings = InjectionSettings {
            image: self.image.clone(),
            image_pull_policy: self.image_pull_policy,
            image_pull_secrets: self.image_pull_secret.clone(),
            broker: self.broker.clone(),
            broker_ca: None,
            extra_roots,
            resolvers: Vec::new(),
            resources: Resources {
                cpu_request: self.cpu_request.clone(),
                cpu_limit: self.cpu_limit.clone(),
                memory_request: self.memory_request.clone(),
                memory_limit: self.memory_limit.clone(),
            },
            allowed: Allowed {
                captures: self.allow_capture.clone(),
                host_paths: self.allow_host_path.clone(),
                passthrough_hosts: self.allow_passthrough_host.clone(),
                skip_ports: self.allow_skip_port.clone(),
                skip_cidrs: self.allow_skip_cidr.clone(),
            },
        };
        match settings.resources.exceeded().first() {
            Some((what, limit)) => {
                Err(format!("--{what}-request is above the limit of {limit}; set --{what}-limit too"))
            }
            None => Ok(settings),
        }
    }
}

/// What is expected instead. Every pod with a sidecar shows the text to whoever may look at it.
fn unfit_roots(pem: &str) -> Option<&'static str> {
    if pem.contains("PRIVATE KEY") {
        Some("certificates alone: every pod shows them")
    } else if pem.len() > EXTRA_ROOTS_BYTES {
        Some("96 KiB at most")
    } else if parse_bundle(pem.as_bytes()).is_err() {
        Some("PEM certificates")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_everything_is_left_uncaptured() {
        assert!(network("10.0.0.0/8").is_ok() && network("fd00::/8").is_ok());
        assert!(network("0.0.0.0/0").is_err() && network("::/0").is_err());
    }

    #[test]
    fn only_certificates_get_into_pods() {
        let pair = rcgen::generate_simple_self_signed(vec!["root.example".into()]).unwrap();
        let (pem, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        assert_eq!(unfit_roots(&pem), None);
        assert_eq!(unfit_roots(&format!("# ours\n{pem}{pem}")), None);
        for (unfit, expected) in [
            (format!("{pem}{key}"), "alone"),
            (String::new(), "PEM"),
            ("text".to_owned(), "PEM"),
            (pem.repeat(EXTRA_ROOTS_BYTES / pem.len() + 1), "96 KiB"),
        ] {
            assert!(unfit_roots(&unfit).is_some_and(|told| told.contains(expected)), "{expected}");
        }
    }
}

//! What is injected, as `postern controller` and `postern inject` are told alike.

use crate::control::admission::settings::{
    Allowed, HostPattern, InjectionSettings, PullPolicy, Resources, is_quantity,
};
use crate::core::network::Cidr;
use crate::core::upstream::{Scheme, UpstreamUrl};

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

fn quantity(text: &str) -> Result<String, &'static str> {
    if is_quantity(text) { Ok(text.to_owned()) } else { Err("expected a quantity above zero such as 10m or 96Mi") }
}

fn host(text: &str) -> Result<HostPattern, &'static str> {
    HostPattern::parse(text).ok_or("expected a host such as api.example.com or *.example.com")
}

fn network(text: &str) -> Result<Cidr, &'static str> {
    Cidr::parse(text).ok_or("expected a network such as 10.0.0.0/8")
}

impl InjectionArgs {
    /// The settings, without what the sidecar is to trust and to ask for addresses.
    pub(super) fn settings(&self) -> Result<InjectionSettings, String> {
        let settings = InjectionSettings {
            image: self.image.clone(),
            image_pull_policy: self.image_pull_policy,
            image_pull_secrets: self.image_pull_secret.clone(),
            broker: self.broker.clone(),
            broker_ca: None,
            resolvers: Vec::new(),
            resources: Resources {
                cpu_request: self.cpu_request.clone(),
                cpu_limit: self.cpu_limit.clone(),
                memory_request: self.memory_request.clone(),
                memory_limit: self.memory_limit.clone(),
            },
            allowed: Allowed {
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

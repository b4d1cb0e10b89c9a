//! `postern check explain`: one decision, with what a sidecar knows or would be told.

use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderValue, Method, header};

use super::access::AccessArgs;
use crate::cli::{FAILED, INVALID, OK, tell, variable};
use crate::config::sidecar::{self as config, SourceSettings};
use crate::control::survey::{self, Unseen, Viewed};
use crate::core::capture::{Direct, HostPattern, Way, is_loopback};
use crate::core::decide::{Ask, Decision, Plan, Refusal, decide};
use crate::core::fields::Fields;
use crate::core::message;
use crate::core::name::{CallerKey, Namespace, ServiceAccount};
use crate::core::reason::Fault;
use crate::core::request::{Framing, Head, Target};
use crate::core::routes::{Routes, below};
use crate::core::upstream::{Scheme, UpstreamUrl};
use crate::credential::View;
use crate::credential::broker::{Pod, entries};
use crate::credential::cache::Cache;
use crate::credential::file;
use crate::credential::source::Snapshot;
use crate::runtime::clock;

/// Say what a sidecar would do with one call, and why
///
/// With --config: by the documents that a sidecar reads. With --cluster: by what the broker would tell
/// the pods of a service account, as far as whoever calls may read the same.
///
/// Exit codes: 0 it would be forwarded; 1 it would be refused (the reason and what to do are
/// printed), or not all could be checked; 2 the configuration is wrong.
///
/// Example: postern check explain --config postern.yaml --url http://127.0.0.1:15101/github
/// --method tools/call --tool search_code
///
/// Example: postern check explain --cluster --namespace research --service-account research-agent
/// --url http://127.0.0.1:15101/github
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The sidecar's configuration file
    #[arg(long, short, value_name = "FILE", required_unless_present = "cluster")]
    config: Option<PathBuf>,
    /// What the agent calls: the endpoint's URL, or the server's own
    #[arg(long, value_name = "URL")]
    url: String,
    /// The MCP method
    #[arg(long, default_value = "tools/list", value_name = "METHOD")]
    method: String,
    /// The tool, for tools/call
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// Explain by the objects of a cluster instead
    #[arg(long, help_heading = "The cluster")]
    cluster: bool,
    #[command(flatten)]
    access: AccessArgs,
    /// The pod's namespace
    #[arg(long, short, value_name = "NAME", requires = "cluster", value_parser = super::cluster::namespace)]
    #[arg(required_if_eq("cluster", "true"))]
    namespace: Option<Namespace>,
    /// The pod's service account
    #[arg(long, value_name = "NAME", requires = "cluster", value_parser = service_account)]
    #[arg(required_if_eq("cluster", "true"))]
    service_account: Option<ServiceAccount>,
}

fn service_account(text: &str) -> Result<ServiceAccount, String> {
    ServiceAccount::parse(text).map_err(|error| format!("expected {error}"))
}

impl Explain {
    pub(super) fn run(&self) -> u8 {
        match (&self.config, &self.namespace, &self.service_account) {
            (Some(_), ..) if self.cluster => {
                eprintln!("postern: --cluster looks at a cluster and takes no --config");
                INVALID
            }
            (Some(config), ..) => self.by_files(config),
            (None, Some(namespace), Some(account)) => {
                let (namespace, service_account) = (namespace.clone(), account.clone());
                self.by_cluster(&CallerKey { namespace, service_account, user: None })
            }
            // The command line requires one of them.
            (None, ..) => INVALID,
        }
    }

    fn by_files(&self, config: &Path) -> u8 {
        let settings = match config::load(config, &variable) {
            Ok(settings) => settings,
            Err(problems) => {
                tell(&problems);
                return INVALID;
            }
        };
        let SourceSettings::File(source) = &settings.source else {
            eprintln!("postern: the source is the broker: what it tells is explained with --cluster");
            return INVALID;
        };
        let directory = &source.directory;
        let loaded = file::load_bindings(directory);
        let wrong = loaded.all_problems();
        if !wrong.is_empty() {
            tell(&wrong);
            return INVALID;
        }
        let caller = &settings.caller.key;
        let passthrough = &settings.proxy.capture.passthrough;
        self.explain(caller, file::snapshot(directory, &loaded.bindings, caller), &[], passthrough)
    }

    fn by_cluster(&self, caller: &CallerKey) -> u8 {
        let home = &self.access.broker_namespace;
        let viewed = self.access.with_client(async |reached| survey::view(&reached.client, home, caller).await);
        let Viewed { snapshot, unseen } = match viewed {
            Ok(Ok(viewed)) => viewed,
            Ok(Err(why)) => {
                eprintln!("postern: {why}");
                return FAILED;
            }
            Err(code) => return code,
        };
        // What a pod is like is not looked at; a plaintext upstream is told of.
        let (snapshot, problems) = entries(snapshot, &Pod { hardened: true, servers: None });
        for problem in problems {
            eprintln!("postern: {problem}");
        }
        self.explain(caller, snapshot, &unseen, &[])
    }

    fn explain(&self, caller: &CallerKey, snapshot: Snapshot, unseen: &[Unseen], passthrough: &[HostPattern]) -> u8 {
        println!("caller      {} / {}", caller.namespace, caller.service_account);
        let mut cache = Cache::default();
        cache.apply(snapshot, clock::wall());
        let view = cache.readers().view();
        let Ok(url) = UpstreamUrl::parse(self.url.split('?').next().unwrap_or_default()) else {
            println!("refused     not an http or https URL: {}", self.url);
            return INVALID;
        };
        let way = way(&view.routes, &url);
        if way != Way::Endpoint
            && let Some(pattern) = passthrough.iter().find(|pattern| pattern.matches(&url.host))
            && !view.routes.iter().any(|route| route.binding.server.url.host == url.host)
        {
            println!("passed      without a credential: capture.passthroughHosts has {pattern}");
            return OK;
        }
        let decision = self.decide(&view.routes, &way, &url);
        for why in unseen {
            println!("not checked {why}");
        }
        let code = match decision {
            Decision::Forward(plan) => self.forwarded(&view, &plan, unseen),
            Decision::NotFound => {
                println!("answered    404: an OAuth discovery path is never forwarded");
                FAILED
            }
            Decision::Refuse(refusal) => refused(&refusal),
        };
        if unseen.is_empty() { code } else { code.max(FAILED) }
    }

    fn forwarded(&self, view: &View, plan: &Plan, unseen: &[Unseen]) -> u8 {
        let binding = &plan.route.binding;
        println!("binding     {}", binding.id);
        println!("server      {} -> {}", binding.server.name, binding.server.url);
        if self.cluster && binding.server.url.scheme == Scheme::Http {
            println!("note        plaintext: only where every other container is non-root and drops all capabilities");
        }
        match view.lease(&plan.route) {
            Ok(lease) => {
                let credential = &lease.credential;
                println!(
                    "credential  Secret {} in header {}, generation {} (version {})",
                    credential.secret, credential.header, credential.generation, credential.version
                );
                println!("forwarded");
                OK
            }
            Err(_) if !unseen.is_empty() => {
                println!("credential  not known: it could not be checked");
                FAILED
            }
            Err(refusal) => refused(&refusal),
        }
    }

    fn decide(&self, routes: &Routes, way: &Way, url: &UpstreamUrl) -> Decision {
        let params =
            self.tool.as_ref().map(|tool| serde_json::json!({"name": tool})).unwrap_or_else(|| serde_json::json!({}));
        let body = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": self.method, "params": params}).to_string();
        let mut headers = HeaderMap::new();
        let host = if *way == Way::Endpoint { "127.0.0.1".to_owned() } else { url.authority() };
        headers.extend(HeaderValue::from_str(&host).ok().map(|host| (header::HOST, host)));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let target = Target { authority: None, path: url.path().to_owned(), query: None };
        let head = Head {
            method: Method::POST,
            target,
            headers: Fields::from(&headers),
            framing: Framing::Length(body.len() as u64),
        };
        let read = message::parse(body.as_bytes());
        decide(
            routes,
            &Ask { way, interception: None, head: &head, body: Some(&read), stream_target: None, session_givers: &[] },
        )
    }
}

/// The endpoint is called on loopback, every other place by an agent that is captured.
fn way(routes: &Routes, url: &UpstreamUrl) -> Way {
    if is_loopback(&url.host) {
        return Way::Endpoint;
    }
    println!("note        by this URL only with the capture proxy or redirect (docs/interception.md)");
    if let Some(route) = routes.covering(url) {
        let server = &route.binding.server;
        let rest = below(server.url.path(), url.path()).unwrap_or_default();
        println!("note        at the endpoint it is http://127.0.0.1:<endpoint.port>/{}{rest}", server.name);
    }
    Way::Direct(Direct { scheme: url.scheme, host: Some(url.host.clone()), port: None, original: None })
}

fn refused(refusal: &Refusal) -> u8 {
    println!("refused     {}", refusal.reason);
    if let Some(detail) = &refusal.detail {
        println!("because     {detail}");
    }
    println!("what to do  {}", refusal.reason.advice());
    let who = match refusal.reason.fault() {
        Fault::Agent => "the agent's side",
        Fault::Operator => "whoever owns the binding and its Secret",
        Fault::Upstream => "whoever runs the MCP server",
        Fault::Us => "whoever runs Postern",
    };
    println!("who         {who}");
    FAILED
}

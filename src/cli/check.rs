//! `postern check`: lint documents, or explain one decision without sending anything.

use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderValue, Method, header};

use super::{FAILED, INVALID, OK, tell, variable};
use crate::api::document::{Located, Problem};
use crate::config::sidecar::{self as config, SidecarSettings, SourceSettings};
use crate::core::decide::{Ask, Decision, Plan, Refusal, decide};
use crate::core::message;
use crate::core::name::CallerKey;
use crate::core::reason::Fault;
use crate::core::request::{Framing, Head, Target};
use crate::core::routes::Routes;
use crate::core::upstream::UpstreamUrl;
use crate::credential::View;
use crate::credential::cache::{Cache, is_short};
use crate::credential::file::{self, Loaded};
use crate::credential::source::Missing;
use crate::runtime::clock;

/// Lint bindings, or explain one decision
///
/// Reads CredentialBinding documents (a directory as `source.file.directory` names it, or single
/// files) and says everything that is wrong with them, and which credentials are not there.
/// Never prints a value. A very short value is a warning, and changes no exit code.
///
/// Exit codes: 0 all is well; 1 a credential is missing or unusable; 2 a document is wrong.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    /// Directories or files of CredentialBinding documents
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Explain(Explain),
}

/// Say what a sidecar would do with one call, and why
///
/// Exit codes: 0 it would be forwarded; 1 it would be refused (the reason and what to do are
/// printed); 2 the configuration is wrong.
///
/// Example: postern check explain --config postern.yaml --url http://127.0.0.1:15101/github
/// --method tools/call --tool search_code
#[derive(Debug, clap::Args)]
struct Explain {
    /// The sidecar's configuration file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// What the agent calls: the endpoint's URL, or the upstream's own
    #[arg(long, value_name = "URL")]
    url: String,
    /// The MCP method
    #[arg(long, default_value = "tools/list", value_name = "METHOD")]
    method: String,
    /// The tool, for tools/call
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
}

pub(super) fn run(args: &Args) -> u8 {
    match &args.command {
        Some(Command::Explain(explain)) => match config::load(&explain.config, &variable) {
            Ok(settings) => explain.run(&settings),
            Err(problems) => {
                tell(&problems);
                INVALID
            }
        },
        None => lint(&args.paths),
    }
}

fn lint(paths: &[PathBuf]) -> u8 {
    let mut worst = OK;
    for path in paths {
        let loaded = if path.is_dir() {
            file::load_bindings(path)
        } else {
            let mut loaded = Loaded::default();
            file::load_file(path, &mut loaded);
            loaded
        };
        worst = worst.max(report(path, &loaded));
    }
    worst
}

fn report(path: &Path, loaded: &Loaded) -> u8 {
    let wrong = loaded.all_problems();
    for problem in &wrong {
        eprintln!("{problem}");
    }
    let missing = if path.is_dir() { values(path, &loaded.bindings) } else { Vec::new() };
    for problem in &missing {
        eprintln!("{problem}");
    }
    let (bindings, problems) = (loaded.bindings.len(), wrong.len());
    println!(
        "{}: {bindings} good bindings, {problems} problems, {} credentials missing or unusable",
        path.display(),
        missing.len()
    );
    match (problems, missing.len()) {
        (0, 0) => OK,
        (0, _) => FAILED,
        _ => INVALID,
    }
}

/// What the bindings refer to and is not there, or not usable.
fn values(directory: &Path, bindings: &[Located]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for located in bindings {
        let Some(account) = located.binding.service_accounts.first() else { continue };
        let caller =
            CallerKey { namespace: located.binding.id.namespace.clone(), service_account: account.clone(), user: None };
        let snapshot = file::snapshot(directory, std::slice::from_ref(located), &caller);
        for entry in snapshot.entries {
            let told = |missing: &Missing| format!("a usable value ({missing})");
            if is_short(&entry) {
                let expected = "8 characters or more: masking a shorter value will change ordinary text";
                eprintln!("warning: {}", located.problem("spec.credential.secretRef", expected));
            }
            if let Err(missing) = &entry.value {
                problems.push(located.problem("spec.credential.secretRef", told(missing)));
            }
            if let Some(Err(missing)) = &entry.ca_bundle {
                problems.push(located.problem("spec.server.tls.caBundle", told(missing)));
            }
        }
    }
    problems
}

impl Explain {
    fn run(&self, settings: &SidecarSettings) -> u8 {
        let SourceSettings::File(source) = &settings.source else {
            eprintln!("postern: the source is the broker; only bindings in files can be explained here");
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
        println!("caller      {} / {}", caller.namespace, caller.service_account);
        let mut cache = Cache::default();
        cache.apply(file::snapshot(directory, &loaded.bindings, caller), clock::wall());
        let view = cache.readers().view();
        let Some(path) = self.path(&view.routes) else {
            println!("refused     not an http or https URL: {}", self.url);
            return INVALID;
        };
        match self.decide(&view.routes, path) {
            Decision::Forward(plan) => forwarded(&view, &plan),
            Decision::NotFound => {
                println!("answered    404: an OAuth discovery path is never forwarded");
                FAILED
            }
            Decision::Refuse(refusal) => refused(&refusal),
        }
    }

    /// The path at the endpoint that the URL stands for.
    fn path(&self, routes: &Routes) -> Option<String> {
        let url = UpstreamUrl::parse(self.url.split('?').next().unwrap_or_default()).ok()?;
        let Some(route) = routes.covering(&url) else { return Some(url.path().to_owned()) };
        let server = &route.binding.server;
        let rest = crate::core::routes::below(server.url.path(), url.path()).unwrap_or_default();
        println!("note        an agent calls the endpoint, http://127.0.0.1:<endpoint.port>/{}{rest}", server.name);
        Some(format!("/{}{rest}", server.name))
    }

    fn decide(&self, routes: &Routes, path: String) -> Decision {
        let params =
            self.tool.as_ref().map(|tool| serde_json::json!({"name": tool})).unwrap_or_else(|| serde_json::json!({}));
        let body = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": self.method, "params": params}).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let target = Target { authority: None, path, query: None };
        let head = Head { method: Method::POST, target, headers, framing: Framing::Length(body.len() as u64) };
        let read = message::parse(body.as_bytes());
        decide(routes, &Ask { head: &head, body: Some(&read), stream_target: None, session_givers: &[] })
    }
}

fn forwarded(view: &View, plan: &Plan) -> u8 {
    let binding = &plan.route.binding;
    println!("binding     {}", binding.id);
    println!("server      {} -> {}", binding.server.name, binding.server.url);
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
        Err(refusal) => refused(&refusal),
    }
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

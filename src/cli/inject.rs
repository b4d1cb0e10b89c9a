//! `postern inject`: what the webhook would do, for manifests.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::injection::InjectionArgs;
use super::{FAILED, INVALID, OK};
use crate::control::admission::settings::InjectionSettings;
use crate::control::admission::{NamespaceMeta, Outcome, Verdict, decide};
use crate::tls::client::parse_bundle;
use read::{Document, Format};
use tree::Node;
use workload::Workload;

mod read;
mod tree;
mod workload;
mod write;

/// Add the sidecar to manifests, as the webhook would
///
/// Reads YAML or JSON, any number of documents, and prints them all. Pods are changed, and the
/// templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs, alone or in
/// a List. Which ones, says the label postern.dev/inject of the pod or its template ("true" or
/// "false"); for those without it, the namespace's, given with --namespace-label. Whatever is not
/// changed is printed byte for byte; in what is changed, comments are lost.
///
/// Standard error tells what was done with each. Injecting twice changes nothing, and neither does
/// the webhook afterwards, if it has the same settings.
///
/// Exit codes: 0 done; 1 a file cannot be read or nobody reads the output; 2 something is refused
/// or is no manifest: each cause and its fix stand on standard error, and nothing is printed.
///
/// Example: kubectl get deployment agent -o yaml | postern inject --image
/// registry.example/postern:0.1.0 --broker
/// https://postern-broker.postern-system.svc.cluster.local:8443 --broker-ca broker-ca.crt --resolvers 10.96.0.10 | kubectl apply -f -
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Manifests; `-` or none reads standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    injection: InjectionArgs,
    /// The broker's CA certificates, as PEM
    #[arg(long, value_name = "FILE")]
    broker_ca: PathBuf,
    /// The cluster's DNS servers, joined by commas: the sidecar trusts no resolv.conf of the pod
    ///
    /// kubectl -n kube-system get service kube-dns -o jsonpath='{.spec.clusterIP}'
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', required = true)]
    resolvers: Vec<IpAddr>,
    /// A label of the namespace, such as postern.dev/inject=enabled; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    namespace_label: Vec<(String, String)>,
    /// An annotation of the namespace: a default of config.postern.dev/...; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    namespace_annotation: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn run(args: &Args) -> u8 {
    match inject(args) {
        Ok(code) => code,
        Err(Trouble::Given(texts)) => {
            for text in &texts {
                eprintln!("{text}");
            }
            let count = texts.len();
            eprintln!("postern: {count} problem{}; nothing was printed", if count == 1 { "" } else { "s" });
            INVALID
        }
        Err(Trouble::Io(what, error)) => {
            eprintln!("postern: {what}: {error}");
            FAILED
        }
    }
}

/// Why nothing is printed.
enum Trouble {
    /// What was given is wrong or refused: a line for each.
    Given(Vec<String>),
    /// Something cannot be read or written.
    Io(String, io::Error),
}

fn inject(args: &Args) -> Result<u8, Trouble> {
    let injection = Injection { settings: settings(args)?, namespace: namespace(args) };
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &standard_input } else { args.files.as_slice() };
    let (mut output, mut told, mut problems) = (String::new(), Vec::new(), Vec::new());
    for file in files {
        let text = content(file)?;
        let name = if file.as_os_str() == "-" { "standard input".into() } else { file.display().to_string() };
        match read::documents(&text) {
            Ok(documents) => append(&mut output, &injection.file(&name, &text, documents, &mut told, &mut problems)),
            Err(fault) => problems.push(format!("{name}:{}: expected {}", fault.line, fault.expected)),
        }
    }
    if !problems.is_empty() {
        return Err(Trouble::Given(problems));
    }
    for line in told {
        eprintln!("{line}");
    }
    let written = io::stdout().write_all(output.as_bytes()).and_then(|()| io::stdout().flush());
    written.map(|()| OK).map_err(|error| Trouble::Io("the manifests cannot be written".into(), error))
}

fn settings(args: &Args) -> Result<InjectionSettings, Trouble> {
    let broker_ca = content(&args.broker_ca)?;
    if parse_bundle(broker_ca.as_bytes()).is_err() {
        let text = format!("--broker-ca {}: expected PEM certificates", args.broker_ca.display());
        return Err(Trouble::Given(vec![text]));
    }
    let extra_roots = args.injection.extra_roots().map(content).transpose()?;
    let injection = args.injection.settings(extra_roots).map_err(|problem| Trouble::Given(vec![problem]))?;
    Ok(InjectionSettings { broker_ca: Some(broker_ca), resolvers: args.resolvers.clone(), ..injection })
}

fn namespace(args: &Args) -> NamespaceMeta {
    let map = |pairs: &[(String, String)]| pairs.iter().cloned().collect::<BTreeMap<_, _>>();
    NamespaceMeta { labels: map(&args.namespace_label), annotations: map(&args.namespace_annotation) }
}

fn content(file: &Path) -> Result<String, Trouble> {
    let read = if file.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| Trouble::Io(format!("{} cannot be read", file.display()), error))
}

/// Puts the documents of one file behind those of another.
fn append(output: &mut String, text: &str) {
    if !output.is_empty() && !text.is_empty() {
        if !output.ends_with('\n') {
            output.push('\n');
        }
        if !text.starts_with("---") {
            output.push_str("---\n");
        }
    }
    output.push_str(text);
}

/// What decides about each pod.
struct Injection {
    settings: InjectionSettings,
    namespace: NamespaceMeta,
}

impl Injection {
    /// A file's text with the sidecars in it.
    fn file(
        &self,
        name: &str,
        text: &str,
        documents: Vec<Document>,
        told: &mut Vec<String>,
        problems: &mut Vec<String>,
    ) -> String {
        let (mut output, mut at) = (String::new(), 0);
        for document in documents {
            let raw = text.get(document.range.clone()).unwrap_or_default();
            output.push_str(text.get(at..document.range.start).unwrap_or_default());
            at = document.range.end;
            let place = format!("{name}:{}", document.line);
            match self.document(document, &place, told, problems) {
                Some((format, tree)) => output.push_str(&written(format, &tree, raw)),
                None => output.push_str(raw),
            }
        }
        output.push_str(text.get(at..).unwrap_or_default());
        output
    }

    /// The changed document, if it is changed.
    fn document(
        &self,
        document: Document,
        place: &str,
        told: &mut Vec<String>,
        problems: &mut Vec<String>,
    ) -> Option<(Format, Node)> {
        let mut tree = document.tree?;
        let mut changed = false;
        for Workload { name, path } in workload::find(&tree) {
            let pod = workload::at(&mut tree, &path);
            let value = pod.as_deref().map_or(serde_json::Value::Null, Node::value);
            let Verdict { outcome, warnings } = decide(&value, &self.namespace, &[], &self.settings);
            told.extend(warnings.iter().map(|warning| format!("{place}: {name}: warning: {warning}")));
            match outcome {
                Outcome::Patched(patch) => match pod.and_then(|pod| pod.apply(&patch)) {
                    Some(()) => {
                        changed = true;
                        told.push(format!("{place}: {name}: injected"));
                    }
                    None => problems.push(format!("{place}: {name}: the patch does not fit; this is a bug of Postern")),
                },
                Outcome::Unchanged(why) => told.push(format!("{place}: {name}: left alone: {}", why.as_str())),
                Outcome::Refused(faults) => {
                    problems.extend(faults.iter().map(|fault| format!("{place}: {name}: {fault}")));
                }
            }
        }
        changed.then_some((document.format, tree))
    }
}

/// A changed document as text, behind the comments that it began with.
fn written(format: Format, tree: &Node, raw: &str) -> String {
    if format == Format::Json {
        return write::json(tree);
    }
    let is_comment = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let mut text: String = raw.split_inclusive('\n').take_while(is_comment).collect();
    if raw.starts_with(' ') && text.is_empty() {
        // It began on the marker's line.
        text.push('\n');
    }
    text.push_str(&write::yaml(tree));
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::init_net;
    use crate::config::sidecar::{SourceSettings, of_pod};
    use crate::control::admission::settings::{Allowed, PullPolicy, Resources};
    use crate::core::capture::{Capture, HostPattern};
    use crate::core::network::Cidr;

    fn certificate(name: &str) -> String {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.pem()
    }

    /// The init containers that a pod with every annotation for `redirect` gets.
    fn written(broker_ca: &str, roots: &str) -> Value {
        let annotations = json!({
            "config.postern.dev/capture": "redirect",
            "config.postern.dev/passthrough-hosts": "files.pypi.example, *.a.example",
            "config.postern.dev/skip-ports": "5432, 6379",
            "config.postern.dev/skip-cidrs": "10.0.0.0/8,fd00::/8",
            "config.postern.dev/servers": "github, jira",
            "config.postern.dev/log-level": "debug",
            "config.postern.dev/shutdown-grace": "7s",
        });
        let hard = json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        let pod = json!({
            "metadata": {"labels": {"postern.dev/inject": "true"}, "annotations": annotations},
            "spec": {"containers": [{"name": "agent", "securityContext": hard}]},
        });
        let settings = InjectionSettings {
            image: "i".into(),
            image_pull_policy: PullPolicy::Never,
            image_pull_secrets: Vec::new(),
            broker: "https://broker.example:8443".into(),
            broker_ca: Some(broker_ca.to_owned()),
            extra_roots: Some(roots.to_owned()),
            resolvers: vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()],
            resources: Resources::default(),
            allowed: Allowed {
                passthrough_hosts: ["*.pypi.example", "*.a.example"]
                    .into_iter()
                    .filter_map(HostPattern::parse)
                    .collect(),
                skip_ports: vec![5432, 6379],
                skip_cidrs: ["10.0.0.0/8", "fd00::/8"].into_iter().filter_map(Cidr::parse).collect(),
                ..Allowed::default()
            },
        };
        let verdict = decide(&pod, &NamespaceMeta::default(), &[], &settings);
        let Outcome::Patched(patch) = verdict.outcome else { panic!("{verdict:?}") };
        let is_list = |value: &&Value| value.pointer("/1/name") == Some(&json!("postern"));
        patch.operations().iter().map(|operation| &operation.value).find(is_list).unwrap().clone()
    }

    /// What a container finds in its environment.
    fn variables(container: &Value) -> HashMap<String, String> {
        let of_pod_fields = HashMap::from([
            ("metadata.name", "agent-0"),
            ("metadata.namespace", "research"),
            ("metadata.uid", "u"),
            ("spec.serviceAccountName", "research-agent"),
            ("status.podIP", "fd00::7"),
        ]);
        let told = |one: &Value| {
            let value = one["value"].as_str();
            let value =
                value.unwrap_or_else(|| of_pod_fields[one["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap()]);
            (one["name"].as_str().unwrap().to_owned(), value.to_owned())
        };
        container["env"].as_array().unwrap().iter().map(told).collect()
    }

    /// What the webhook writes, the sidecar reads: each variable as it is meant.
    #[test]
    fn the_sidecar_reads_what_is_injected() {
        let (broker_ca, roots) = (certificate("broker.example"), certificate("root.example"));
        let variables = variables(&written(&broker_ca, &roots)[1]);
        let read = of_pod(&|name| variables.get(name).cloned()).unwrap();
        assert_eq!(read.caller.key.namespace.as_str(), "research");
        assert_eq!(read.caller.key.service_account.as_str(), "research-agent");
        let capture = &read.proxy.capture;
        let passed: Vec<String> = capture.passthrough.iter().map(ToString::to_string).collect();
        assert_eq!((capture.kind, capture.port), (Capture::Redirect, 15103));
        assert_eq!(passed, ["files.pypi.example", "*.a.example"]);
        assert_eq!(read.extra_roots, roots.as_bytes());
        assert_eq!(read.shutdown_grace, std::time::Duration::from_secs(7));
        assert_eq!(read.log.level, tracing::level_filters::LevelFilter::DEBUG);
        let SourceSettings::Broker(broker) = &read.source else { panic!("{:?}", read.source) };
        assert_eq!(broker.url.to_string(), "https://broker.example:8443/");
        assert_eq!(&*broker.ca, broker_ca.as_bytes());
        assert!(broker.pod.hardened);
        assert_eq!(read.admin.to_string(), "[fd00::7]:15190");
        let servers = broker.pod.servers.iter().flatten().map(ToString::to_string);
        assert_eq!(servers.collect::<std::collections::BTreeSet<_>>(), ["github", "jira"].map(str::to_owned).into());
        let resolvers = format!("{:?}", read.proxy.dial.resolvers);
        assert!(resolvers.contains("10.96.0.10:53") && resolvers.contains("[fd00::a]:53"), "{resolvers}");
    }

    /// Likewise the init container of `redirect`, without a flag.
    #[test]
    fn the_init_container_reads_what_is_injected() {
        let init = written(&certificate("broker.example"), &certificate("root.example"))[0].take();
        assert_eq!(init["args"], json!(["init-net"]));
        let variables = variables(&init);
        let read = init_net::read(&init_net::Given::default(), &|name| variables.get(name).cloned());
        let Ok(read) = read else { panic!("{variables:?}") };
        let texts = |items: &[Cidr]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(read.ports, [5432, 6379]);
        assert_eq!(texts(&read.networks), ["10.0.0.0/8", "fd00::/8"]);
        let resolvers: Vec<String> = read.resolvers.iter().map(ToString::to_string).collect();
        assert_eq!(resolvers, ["10.96.0.10:53", "[fd00::a]:53"]);
    }
}

//! Where pods stand in a manifest.

use super::tree::Node;

/// One place in a document at which a pod is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload {
    /// `Deployment research/agent`
    pub(super) name: String,
    /// The way to it from the document's root; numbers lead into lists.
    pub(super) path: Vec<String>,
}

/// Everything in a document that makes pods.
pub(super) fn find(document: &Node) -> Vec<Workload> {
    let mut found = Vec::new();
    collect(document, &mut Vec::new(), &mut found);
    found
}

fn collect(node: &Node, path: &mut Vec<String>, found: &mut Vec<Workload>) {
    let of = |name: &str| node.get(name).and_then(Node::text).unwrap_or_default();
    let (version, kind) = (of("apiVersion"), of("kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let below: &[&str] = match (group, kind) {
        ("", "Pod") => &[],
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job") => &["spec", "template"],
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        // Also the lists of one kind that clients write, such as PodList.
        (_, kind) if kind.ends_with("List") => {
            let Some(Node::List(items)) = node.get("items") else { return };
            path.push("items".into());
            for (index, item) in items.iter().enumerate() {
                path.push(index.to_string());
                collect(item, path, found);
                path.pop();
            }
            path.pop();
            return;
        }
        _ => return,
    };
    let meta = |name: &str| node.get("metadata").and_then(|meta| meta.get(name)).and_then(Node::text);
    let name = meta("name").or(meta("generateName")).unwrap_or("(without a name)");
    let place = meta("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    let steps = path.iter().cloned().chain(below.iter().map(|step| (*step).to_owned()));
    found.push(Workload { name: format!("{kind} {place}"), path: steps.collect() });
}

/// The node at a path.
pub(super) fn at<'a>(document: &'a mut Node, path: &[String]) -> Option<&'a mut Node> {
    path.iter().try_fold(document, |node, step| match node {
        Node::List(nodes) => nodes.get_mut(step.parse::<usize>().ok()?),
        other => other.get_mut(step),
    })
}

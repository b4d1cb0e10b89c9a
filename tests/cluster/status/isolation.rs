//! Whether an agent can read the Secret of its binding itself.

use serde_json::{Value, json};

use super::stage::Stage;
use super::{GOOD, served};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Lets `subject` do that to the Secrets of the namespace, or to one of them.
fn grant(stage: &Stage, verbs: &Value, secret: Option<&str>, subject: &Value) {
    let mut rule = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": verbs});
    if let Some(secret) = secret {
        rule["resourceNames"] = json!([secret]);
    }
    let metadata = json!({"name": "reader"});
    stage.apply(&json!({"apiVersion": RBAC, "kind": "Role", "metadata": metadata, "rules": [rule]}));
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"});
    let mut binding = json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": metadata, "roleRef": role});
    binding["subjects"] = json!([subject]);
    stage.apply(&binding);
}

/// By the right to this one, to all of them, and by a group that every service account is in.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_can_read_the_secret_itself_is_told_of() {
    let mut stage = Stage::new("isolated").await;
    let _replica = stage.replica("a");
    served(&mut stage, "git").await;
    let not_isolated = [GOOD[0], GOOD[1], GOOD[2], "Isolated False AgentCanReadSecret"];
    let agent = json!({"kind": "ServiceAccount", "name": "agent", "namespace": stage.namespace});
    let group = |name: &str| json!({"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    let of_namespace = group(&format!("system:serviceaccounts:{}", stage.namespace));
    for (verbs, secret, subject, told) in [
        (json!(["get"]), Some("secret"), &agent, "agent may get;"),
        (json!(["list"]), Some("secret"), &agent, "agent may list;"),
        (json!(["list", "watch"]), None, &agent, "agent may list, watch;"),
        (json!(["*"]), None, &of_namespace, "agent may get, list, watch;"),
        (json!(["get"]), None, &group("system:serviceaccounts"), "agent may get;"),
        (json!(["watch"]), None, &group("system:authenticated"), "agent may watch;"),
    ] {
        grant(&stage, &verbs, secret, subject);
        let binding = stage.until_said("git", &not_isolated).await;
        let message = binding["status"]["conditions"][3]["message"].as_str().expect("a message").to_owned();
        assert!(message.contains(told), "{message}");
        stage.server.kubectl(&["delete", "role,rolebinding", "reader", "--namespace", &stage.namespace]);
        stage.until_said("git", &GOOD).await;
    }
    // A right to another Secret is none to this one.
    grant(&stage, &json!(["get"]), Some("other"), &agent);
    stage.bind("git-2", |document| {
        document["spec"]["server"] = json!({"name": "git-2", "url": "https://git.example/2"});
    });
    stage.until_said("git-2", &GOOD).await;
}

//! Finding stdio servers in a pod: a `mcpServers` or `servers` map, in arguments, environment or
//! ConfigMaps, with an entry that is started as a process. Such a server talks over pipes inside
//! the container, where nothing guards it.

use serde_json::Value;

use super::pod::{Container, Pod, field, objects, text, texts};
use super::reason::{AdmissionReason, Fault, printable};

/// A longer text is no configuration of an agent.
const MAX_TEXT: usize = 256 << 10;
/// YAML is read at a cost that JSON is not.
const MAX_YAML: usize = 64 << 10;
/// How many places of a text are tried as the beginning of JSON.
const MAX_ATTEMPTS: usize = 64;

/// Keys that hold servers.
const SERVER_MAPS: [&str; 2] = ["mcpServers", "servers"];

/// Every stdio server in what the containers are given.
pub(super) fn check<'a>(containers: impl Iterator<Item = Container<'a>>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for container in containers {
        for list in ["command", "args"] {
            // A configuration may stand behind its flag, or be split from it.
            for argument in texts(container.raw, &[list]) {
                tell(find(argument), &format!("{container}.{list}"), &mut faults);
            }
        }
        for variable in objects(container.raw, "env") {
            let name = text(variable, &["name"]).unwrap_or_default();
            let value = text(variable, &["value"]).unwrap_or_default();
            tell(find(value), &format!("{container}.env {}", printable(name)), &mut faults);
        }
    }
    faults
}

/// Every stdio server in a ConfigMap's data.
pub(super) fn check_config_map(name: &str, data: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (key, value) in data.as_object().into_iter().flatten() {
        let place = format!("ConfigMap {}, {}", printable(name), printable(key));
        tell(value.as_str().and_then(find), &place, &mut faults);
    }
    faults
}

fn tell(found: Option<String>, place: &str, faults: &mut Vec<Fault>) {
    if let Some(server) = found {
        let cause = format!("{place} configures the stdio server {}", printable(&server));
        faults.push(Fault::new(AdmissionReason::StdioUnsupported, cause));
    }
}

/// The ConfigMaps that a pod refers to, each once, in the order in which they stand.
pub(super) fn config_maps(pod: Pod<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: Option<&str>| {
        if let Some(name) = name
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    };
    for volume in pod.volumes() {
        add(text(volume, &["configMap", "name"]));
        let sources = field(volume, &["projected"]).map_or(&[] as &[Value], |projected| objects(projected, "sources"));
        for source in sources {
            add(text(source, &["configMap", "name"]));
        }
    }
    for container in pod.containers() {
        for from in objects(container.raw, "envFrom") {
            add(text(from, &["configMapRef", "name"]));
        }
        for variable in objects(container.raw, "env") {
            add(text(variable, &["valueFrom", "configMapKeyRef", "name"]));
        }
    }
    names
}

/// The name of the first stdio server in a text.
fn find(content: &str) -> Option<String> {
    if content.len() > MAX_TEXT || !SERVER_MAPS.iter().any(|key| content.contains(key)) {
        return None;
    }
    json_values(content).find_map(|value| in_value(&value)).or_else(|| in_yaml(content))
}

/// Every JSON object in a text, outermost first: a whole file, or what stands in a shell command.
fn json_values(content: &str) -> impl Iterator<Item = Value> {
    let mut from = 0;
    let mut attempts = 0;
    std::iter::from_fn(move || {
        while attempts < MAX_ATTEMPTS {
            attempts += 1;
            let start = from + content.get(from..)?.find('{')?;
            let mut values = serde_json::Deserializer::from_str(content.get(start..)?).into_iter::<Value>();
            if let Some(Ok(value)) = values.next() {
                from = start + values.byte_offset();
                return Some(value);
            }
            from = start + 1;
        }
        None
    })
}

fn in_yaml(content: &str) -> Option<String> {
    if content.len() > MAX_YAML {
        return None;
    }
    let mut documents = serde_yaml::Deserializer::from_str(content);
    documents.find_map(|document| in_value(&serde::Deserialize::deserialize(document).ok()?))
}

fn in_value(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) => map.iter().find_map(|(key, value)| {
            let servers = SERVER_MAPS.contains(&key.as_str()).then(|| in_servers(value)).flatten();
            servers.or_else(|| in_value(value))
        }),
        Value::Array(list) => list.iter().find_map(in_value),
        _ => None,
    }
}

fn in_servers(servers: &Value) -> Option<String> {
    match servers {
        Value::Object(map) => map.iter().find(|(_, entry)| is_stdio(entry)).map(|(name, _)| name.clone()),
        Value::Array(list) => {
            let entry = list.iter().find(|entry| is_stdio(entry))?;
            Some(text(entry, &["name"]).unwrap_or("without a name").to_owned())
        }
        _ => None,
    }
}

fn is_stdio(entry: &Value) -> bool {
    let says = |name: &str| text(entry, &[name]).is_some_and(|kind| kind.eq_ignore_ascii_case("stdio"));
    field(entry, &["command"]).is_some() || ["type", "transport", "transportType"].into_iter().any(says)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stdio_servers_are_found_in_every_form() {
        let entry = r#"{"mcpServers": {"files": {"command": "npx", "args": ["-y"]}}}"#;
        let cases: &[(&str, &str)] = &[
            (entry, "files"),
            (&format!("--mcp-config={entry}"), "files"),
            (&format!("echo '{{' && exec claude --mcp-config '{entry}' --verbose"), "files"),
            (&format!("{{broken {entry}"), "files"),
            (r#"{"servers": {"a": {"type": "http", "url": "http://x"}, "b": {"type": "STDIO"}}}"#, "b"),
            (r#"{"servers": {"b": {"transport": "stdio"}}}"#, "b"),
            (r#"{"outer": [{"mcpServers": {"deep": {"command": ["x"]}}}]}"#, "deep"),
            (r#"{"a": 1} {"mcpServers": {"second": {"command": "x"}}}"#, "second"),
            (r#"{"mcpServers": [{"name": "listed", "command": "x"}]}"#, "listed"),
            ("mcpServers:\n  yaml:\n    command: npx\n", "yaml"),
            ("a: 1\n---\nmcpServers: {second: {type: stdio}}\n", "second"),
        ];
        for (content, server) in cases {
            assert_eq!(find(content).as_deref(), Some(*server), "{content}");
        }
    }

    #[test]
    fn what_is_no_stdio_server_is_let_through() {
        let deep = format!("{}\"mcpServers\"{}", "{\"a\":".repeat(5000), "}".repeat(5000));
        for content in [
            "",
            "mcpServers",
            r#"{"mcpServers": {"a": {"type": "http", "url": "http://127.0.0.1:15101/a"}}}"#,
            r#"{"mcpServers": {"a": {"command": null}}}"#,
            r#"{"servers": ["a:1", "b:2"], "command": "x"}"#,
            r#"{"servers": 3}"#,
            "start all servers {",
            "servers: [a, b]\ncommand: x\n",
            &deep,
        ] {
            assert_eq!(find(content), None, "{content}");
        }
    }

    #[test]
    fn each_place_of_a_pod_is_looked_at() {
        let config = r#"{"mcpServers":{"s":{"command":"x"}}}"#;
        let pod = json!({"spec": {
            "initContainers": [{"name": "i", "command": ["sh", "-c", config]}],
            "containers": [
                {"name": "a", "args": ["--config", config]},
                {"name": "e", "env": [{"name": "MCP", "value": config}, {"name": "SK live", "value": config}]},
            ],
        }});
        let causes: Vec<_> =
            check(Pod::read(&pod).unwrap().containers()).into_iter().map(|fault| fault.cause).collect();
        assert_eq!(
            causes,
            [
                "spec.initContainers[i].command configures the stdio server s",
                "spec.containers[a].args configures the stdio server s",
                "spec.containers[e].env MCP configures the stdio server s",
                "spec.containers[e].env (unprintable) configures the stdio server s",
            ]
        );
    }

    #[test]
    fn config_maps_are_found_wherever_a_pod_refers_to_them() {
        let pod = json!({"spec": {
            "volumes": [
                {"name": "v", "configMap": {"name": "one"}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "two"}}, {"secret": {"name": "no"}}]}},
            ],
            "containers": [{
                "name": "a",
                "envFrom": [{"configMapRef": {"name": "three"}}, {"secretRef": {"name": "no"}}],
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "four", "key": "k"}}},
                        {"name": "Y", "valueFrom": {"configMapKeyRef": {"name": "one", "key": "k"}}}],
            }],
        }});
        assert_eq!(config_maps(Pod::read(&pod).unwrap()), ["one", "two", "three", "four"]);
        let data = json!({"mcp.json": r#"{"servers":{"s":{"type":"stdio"}}}"#, "other": "servers"});
        let faults = check_config_map("one", &data);
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].cause, "ConfigMap one, mcp.json configures the stdio server s");
    }
}

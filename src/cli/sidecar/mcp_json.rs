//! `mcp.json`: what an agent's MCP client is configured with.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::core::binding::Server;
use crate::core::routes::Routes;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct McpJson<'a> {
    mcp_servers: BTreeMap<&'a str, Entry>,
}

#[derive(Serialize)]
struct Entry {
    r#type: &'static str,
    url: String,
}

/// The file's text: every served binding at the endpoint's port, in the form that MCP clients
/// have in common. No credential, because there is none to give.
pub(in crate::cli) fn mcp_json(routes: &Routes, port: u16) -> String {
    let entry = |server: &Server| Entry {
        r#type: if server.transports.streamable_http { "http" } else { "sse" },
        url: format!("http://127.0.0.1:{port}/{}", server.name),
    };
    let servers = routes.iter().map(|route| &route.binding.server);
    let mcp_servers = servers.map(|server| (server.name.as_str(), entry(server))).collect();
    let mut text = serde_json::to_string_pretty(&McpJson { mcp_servers }).unwrap_or_default();
    text.push('\n');
    text
}

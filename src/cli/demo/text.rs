//! What the demo writes, on paper and on disk.

use std::io::{self, Write as _};
use std::time::Duration;

use super::call::Sent;
use super::server::Received;

/// What runs where.
pub(super) struct Facts {
    pub(super) upstream: String,
    pub(super) credential: String,
    pub(super) binding: String,
    pub(super) endpoint: String,
    pub(super) metrics: String,
    pub(super) mcp_json: String,
}

/// The binding document of the demo.
pub(super) fn binding(url: &str) -> String {
    format!(
        "\
apiVersion: postern.dev/v1alpha1
kind: CredentialBinding
metadata: {{name: demo, namespace: demo}}
spec:
  serviceAccounts: [demo-agent]
  server:
    name: demo
    url: {url}
    tls: {{caBundle: {{configMapRef: {{name: demo-ca, key: ca.crt}}}}}}
  credential:
    type: Bearer
    secretRef: {{name: demo, key: token}}
"
    )
}

/// The configuration of the demo's sidecar.
pub(super) fn config(port: u16) -> String {
    format!(
        "\
caller: {{namespace: demo, serviceAccount: demo-agent}}
source: {{file: {{directory: ./bindings}}}}
endpoint: {{port: {port}}}
admin: {{address: 127.0.0.1, port: 0}}
dial: {{allowLoopback: true}}     # the sample server is on this machine
public: {{directory: ./public}}
rotationGrace: 1s
"
    )
}

/// The first thing a user reads.
pub(super) fn introduction(facts: &Facts) -> String {
    let Facts { upstream, credential, binding, endpoint, metrics, mcp_json } = facts;
    let mcp_json = mcp_json.trim_end().replace('\n', "\n  ");
    format!(
        "\
An MCP server that demands a token, and a sidecar that holds it, so that the agent does not.

  MCP server  {upstream}   TLS; wants Authorization: Bearer <token>
  token       {credential}
  binding     {binding}
  sidecar     {endpoint}   the agent calls this, without a token
  metrics     {metrics}

mcp.json for an agent:
  {mcp_json}

Try it with curl:
  curl -s {endpoint} -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\
    -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{{}},\"clientInfo\":{{\"name\":\"curl\",\"version\":\"1\"}}}}}}'

Try it with Python (pip install 'mcp>=2'):
  import asyncio
  from mcp import Client
  async def main():
      async with Client(\"{endpoint}\") as client:
          print(await client.call_tool(\"whoami\", {{}}))
  asyncio.run(main())

"
    )
}

/// What the agent sent beside what the server received.
pub(super) fn show_call(sent: &Sent, received: Option<&Received>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "One call, made just now (tools/call whoami):")?;
    writeln!(out, "  the agent sent            POST {}", sent.path)?;
    for (name, value) in sent.headers.iter().filter(|(name, _)| is_shown(name)) {
        writeln!(out, "                              {name}: {value}")?;
    }
    match received {
        Some(received) => {
            writeln!(out, "  the server received       {} {}", received.method, received.path)?;
            for (name, value) in received.headers.iter().filter(|(name, _)| is_shown(name)) {
                writeln!(out, "                              {name}: {value}")?;
            }
            let verdict = if received.accepted() { "accepted" } else { "refused" };
            writeln!(out, "  the server                {verdict} the credential")?;
        }
        None => writeln!(out, "  the server received       nothing")?,
    }
    writeln!(out, "  the agent got             HTTP {} {}", sent.status, sent.answer)?;
    out.flush()
}

fn is_shown(name: &str) -> bool {
    ["authorization", "cookie", "host", "mcp-method", "mcp-name", "mcp-protocol-version"].contains(&name)
}

/// Before the demo waits.
pub(super) fn show_log_follows(rotation: Option<Duration>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(every) = rotation {
        writeln!(out, "\nThe token changes every {every:?}; call again and watch \"generation\".")?;
    }
    writeln!(out, "\nCtrl-C ends it. Each call leaves one access line here:")?;
    out.flush()
}

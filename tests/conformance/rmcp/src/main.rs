//! An agent on the official Rust SDK. The commands are those of ../clients/agent.py; the SDK has no
//! HTTP+SSE of 2024-11-05, and is given no OAuth provider.

use std::error::Error;

use rmcp::ClientHandler;
use rmcp::model::{CallToolRequestParams, ProgressNotificationParam, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, NotificationContext, RoleClient, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Command {
    Connect { url: String, mode: String },
    List,
    Call { tool: String, text: String },
    Close,
}

/// Tells the progress as soon as it is there.
struct Teller;

impl ClientHandler for Teller {
    async fn on_progress(&self, told: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        println!("{}", json!({"progress": told.progress}));
    }
}

type Session = RunningService<RoleClient, Teller>;
type Failure = Box<dyn Error + Send + Sync>;

async fn connect(url: String, mode: &str) -> Result<Session, Failure> {
    let transport = StreamableHttpClientTransport::from_uri(url);
    let lifecycle = match mode {
        "auto" => ClientLifecycleMode::Auto { preferred_versions: vec![ProtocolVersion::LATEST], legacy_version: None },
        _ => ClientLifecycleMode::Initialize,
    };
    Ok(Teller.serve_with_lifecycle(transport, lifecycle).await?)
}

async fn act(session: &mut Option<Session>, command: Command) -> Result<Value, Failure> {
    if let Command::Connect { url, mode } = command {
        let opened = session.insert(connect(url, &mode).await?);
        return Ok(json!(opened.peer_info().map(|info| info.protocol_version.to_string())));
    }
    let Some(open) = session.as_mut().filter(|open| !open.is_closed()) else {
        return Err("the session is gone".into());
    };
    match command {
        Command::Connect { .. } => unreachable!("handled above"),
        Command::List => {
            let tools = open.list_all_tools().await?;
            Ok(tools.into_iter().map(|tool| tool.name.into_owned()).collect())
        }
        Command::Call { tool, text } => {
            let arguments = json!({"text": text}).as_object().cloned().unwrap_or_default();
            let result = open.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await?;
            let first = result.content.first().and_then(|content| content.as_text());
            Ok(json!(first.map(|content| content.text.as_str())))
        }
        Command::Close => {
            open.close().await?;
            *session = None;
            Ok(Value::Null)
        }
    }
}

/// The error as it prints itself, and apart from that what it holds but does not print.
fn told(failure: &(dyn Error + Send + Sync)) -> Value {
    json!({"ok": false, "error": failure.to_string(), "kept": format!("{failure:?}")})
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut session = None;
    while let Some(line) = lines.next_line().await? {
        let answer = match act(&mut session, serde_json::from_str(&line)?).await {
            Ok(value) => json!({"ok": true, "value": value}),
            Err(failure) => told(failure.as_ref()),
        };
        println!("{answer}");
    }
    Ok(())
}

//! `postern demo`: the embedded default. A sample MCP server over TLS that demands a token, a
//! credential file, and a sidecar, all in this process and on loopback only.

mod call;
mod certificate;
mod server;
mod text;

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::sidecar::{Sidecar, Signals, StartError, start};
use super::{FAILED, OK, runtime, tell};
use crate::api::duration::parse_duration;
use crate::api::env::ENDPOINT_PORT;
use crate::config::sidecar as config;
use crate::core::secret::SecretValue;
use crate::runtime::harden::harden;
use crate::telemetry::logs::{self, Format, LogSettings};
use server::{Expected, SampleServer};

/// See it work: a sample MCP server, a credential file and a sidecar in one process
///
/// Needs no cluster and nothing installed; everything is on loopback and in a temporary
/// directory that is removed at the end. Ctrl-C ends it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Give the server and the credential file a new token this often (500ms, 5s, 1m)
    #[arg(long, value_name = "TIME", value_parser = rotation)]
    rotate_every: Option<Duration>,
    /// The endpoint's port; 15101 if it is free, else any free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Make the one call, show it, and end
    #[arg(long)]
    once: bool,
}

fn rotation(text: &str) -> Result<Duration, String> {
    let shortest = Duration::from_millis(500);
    let time = parse_duration(text).filter(|time| *time >= shortest);
    time.ok_or_else(|| "a time such as 500ms, 5s or 1m, not below 500ms".to_owned())
}

pub(super) fn run(args: &Args) -> u8 {
    logs::init(LogSettings { level: tracing::level_filters::LevelFilter::WARN, format: Some(Format::Text) });
    harden();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let code = match runtime.block_on(demo(args)) {
        Ok(()) => OK,
        Err(error) => {
            eprintln!("postern: the demo cannot go on: {error}");
            FAILED
        }
    };
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// What a demo is made of.
struct Stage {
    directory: TempDir,
    server: SampleServer,
    expected: watch::Sender<Arc<Expected>>,
    sidecar: Sidecar,
}

async fn demo(args: &Args) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let stage = Stage::set(args.port).await?;
    let mut out = io::stdout().lock();
    out.write_all(text::introduction(&stage.facts()).as_bytes())?;
    out.flush()?;
    drop(out);
    let mut received = stage.server.received();
    let played = async {
        text::show_call(&call::whoami(stage.sidecar.endpoint).await?, received.recv().await.ok().as_ref())?;
        if args.once {
            return Ok(());
        }
        text::show_log_follows(args.rotate_every)?;
        match args.rotate_every {
            None => std::future::pending().await,
            Some(every) => stage.rotate(every).await,
        }
    };
    tokio::select! {
        ended = played => ended?,
        () = signals.stop() => {
            let _unheard = timeout(LAST_WORD, say("\nThe demo ends; its files are removed.\n")).await;
        }
    }
    stage.sidecar.stop(Duration::from_secs(2)).await;
    Ok(())
}

/// For what is said at the end. It may be that nobody reads it.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Says something between access lines: while nobody reads, those block whoever would write to stdout too.
async fn say(text: &'static str) -> io::Result<()> {
    let said = tokio::task::spawn_blocking(|| {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    });
    said.await?
}

impl Stage {
    async fn set(port: Option<u16>) -> io::Result<Self> {
        let (token, text) = new_token()?;
        let (expected, watched) = watch::channel(Arc::new(Expected::first("demo", token)));
        let server = SampleServer::start(watched).await.map_err(io::Error::other)?;
        let directory = tempfile::Builder::new().prefix("postern-demo-").tempdir()?;
        write_files(directory.path(), &server, &text)?;
        let sidecar = match port {
            Some(port) => sidecar_at(directory.path(), port).await?,
            // The usual port makes for the usual URL; another sidecar may have it.
            None => match sidecar_at(directory.path(), ENDPOINT_PORT).await {
                Ok(sidecar) => sidecar,
                Err(_) => sidecar_at(directory.path(), 0).await?,
            },
        };
        Ok(Self { directory, server, expected, sidecar })
    }

    fn facts(&self) -> text::Facts {
        let directory = self.directory.path();
        text::Facts {
            upstream: self.server.url(),
            credential: directory.join(SECRET).display().to_string(),
            binding: directory.join(BINDING).display().to_string(),
            endpoint: format!("http://{}/demo", self.sidecar.endpoint),
            metrics: format!("http://{}/metrics", self.sidecar.admin),
            mcp_json: std::fs::read_to_string(directory.join("public/mcp.json")).unwrap_or_default(),
        }
    }

    async fn rotate(&self, every: Duration) -> io::Result<()> {
        loop {
            tokio::time::sleep(every).await;
            let (token, text) = new_token()?;
            // First the server, which takes the old token as well, then the file.
            self.expected.send_modify(|expected| *expected = Arc::new(expected.rotated(token)));
            let file = self.directory.path().join(SECRET);
            let beside = file.with_extension("new");
            std::fs::write(&beside, text.as_bytes())?;
            std::fs::rename(&beside, &file)?;
            say("rotated: the file and the server have a new token; new calls carry it at once\n").await?;
        }
    }
}

const SECRET: &str = "bindings/secrets/demo/token";
const BINDING: &str = "bindings/demo.yaml";

fn write_files(directory: &Path, server: &SampleServer, token: &str) -> io::Result<()> {
    let files = [
        (SECRET, token.to_owned()),
        (BINDING, text::binding(&server.url())),
        ("bindings/configmaps/demo-ca/ca.crt", server.ca_pem.clone()),
    ];
    for (name, content) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(directory))?;
        std::fs::write(path, content)?;
    }
    Ok(())
}

async fn sidecar_at(directory: &Path, port: u16) -> io::Result<Sidecar> {
    let file = directory.join("postern.yaml");
    let problems = |problems: Vec<_>| {
        tell(&problems);
        io::Error::other("its own documents are wrong")
    };
    std::fs::write(&file, text::config(port))?;
    let settings = config::load(&file, &|_| None).map_err(problems)?;
    start(settings).await.map_err(|error| match error {
        StartError::Problems(all) => problems(all),
        StartError::Io(what, error) => io::Error::other(format!("{what}: {error}")),
    })
}

/// A random token: the value for the server, the text for the file.
fn new_token() -> io::Result<(SecretValue, String)> {
    let mut bytes = [0; 24];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness can be had"))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let value = SecretValue::parse(text.clone().into_bytes()).map_err(io::Error::other)?;
    Ok((value, text))
}

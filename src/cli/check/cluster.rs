//! `postern check --cluster`: makes the survey and prints it.

use std::io::{self, IsTerminal as _, Write as _};
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;

use super::access::{AccessArgs, Reached};
use super::report::{Output, Report};
use crate::cli::FAILED;
use crate::control::survey::{Finding, Step, Survey, SurveyScope};
use crate::core::name::Namespace;

/// What is surveyed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The cluster")]
pub(super) struct ClusterArgs {
    /// Check a cluster instead of documents
    #[arg(long)]
    pub(super) cluster: bool,
    #[command(flatten)]
    access: AccessArgs,
    /// The bindings and pods of this namespace; without it, of all
    #[arg(long, short, value_name = "NAME", requires = "cluster", value_parser = namespace)]
    namespace: Option<Namespace>,
    /// The image that sidecars should have; without it, what the controller's Deployment injects, or what
    /// most pods have
    #[arg(long, value_name = "IMAGE", requires = "cluster")]
    image: Option<String>,
    /// Findings as lines for people, or as one JSON document
    #[arg(long, short, value_name = "FORM", requires = "cluster", value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Reads the name of a namespace.
pub(super) fn namespace(text: &str) -> Result<Namespace, String> {
    Namespace::parse(text).map_err(|error| format!("expected {error}"))
}

impl ClusterArgs {
    pub(super) fn run(&self) -> u8 {
        let surveyed = self.access.with_client(async |reached| Box::pin(self.survey(reached)).await);
        let report = match surveyed {
            Ok(report) => report,
            Err(code) => return code,
        };
        let written = io::stdout().write_all(report.print(self.output).as_bytes()).and_then(|()| io::stdout().flush());
        match written {
            Ok(()) => report.code(),
            Err(error) => {
                eprintln!("postern: the findings cannot be written: {error}");
                FAILED
            }
        }
    }

    async fn survey(&self, reached: Reached) -> Report {
        let scope = SurveyScope {
            namespace: self.namespace.clone(),
            home: self.access.broker_namespace.clone(),
            image: self.image.clone(),
        };
        let (progress, steps) = watch::channel(Step::default());
        let survey = Survey { client: reached.client, scope, progress };
        Report { cluster: reached.url, findings: Box::pin(shown(survey.run(), steps)).await }
    }
}

/// Someone who waits longer than this is told for what.
const QUIET: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(250);

/// Does the work, and tells a terminal how far it is.
async fn shown(work: impl Future<Output = Vec<Finding>>, steps: watch::Receiver<Step>) -> Vec<Finding> {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    let mut wait = QUIET;
    loop {
        tokio::select! {
            done = &mut work => {
                if wait != QUIET {
                    eprint!("\r\x1b[K");
                }
                return done;
            }
            () = tokio::time::sleep(wait) => wait = TICK,
        }
        let Step { what, done, of } = *steps.borrow();
        let count = match (done, of) {
            (0, None) => String::new(),
            (done, None) => format!(" {done}"),
            (done, Some(of)) => format!(" {done}/{of}"),
        };
        eprint!("\r\x1b[Klooking at {what}{count}");
    }
}

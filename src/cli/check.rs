//! `postern check`: lint documents, survey a cluster, or explain one decision without sending anything.

mod access;
mod cluster;
mod explain;
mod report;

use std::path::{Path, PathBuf};

use self::cluster::ClusterArgs;
use self::explain::Explain;
use super::{FAILED, INVALID, OK};
use crate::api::document::{Located, Problem};
use crate::core::name::CallerKey;
use crate::credential::cache::is_short;
use crate::credential::file::{self, Loaded};
use crate::credential::source::Missing;

/// Lint bindings, survey a cluster, or explain one decision
///
/// With paths: reads CredentialBinding documents (a directory as `source.file.directory` names it, or single
/// files) and says everything that is wrong with them, and which credentials are not there.
/// Never prints a value. A very short value is a warning, and changes no exit code.
///
/// With --cluster: looks at an installation with the rights of whoever calls: its objects, what each
/// binding lacks, which service accounts could get at a credential without Postern, which pods have an
/// old sidecar or none. What those rights do not reach is said to be not checked.
///
/// Exit codes: 0 all is well, or warnings only; 1 a credential is missing or unusable, in a cluster
/// anything is wrong or was not checked; 2 a document or the command line is wrong.
///
/// Example: postern check --cluster --namespace research
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    /// Directories or files of CredentialBinding documents
    #[arg(required_unless_present = "cluster", value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    survey: ClusterArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Explain(Explain),
}

pub(super) fn run(args: &Args) -> u8 {
    match &args.command {
        Some(Command::Explain(explain)) => explain.run(),
        // Not clap's conflict: where one stands, it forgets what other flags require.
        None if args.survey.cluster && !args.paths.is_empty() => {
            eprintln!("postern: --cluster looks at a cluster and takes no PATH");
            INVALID
        }
        None if args.survey.cluster => args.survey.run(),
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

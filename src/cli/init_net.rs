//! `postern init-net`: the rules of `redirect`, before anything else runs in the pod.

use super::{FAILED, INVALID, OK, tell, variable};
use crate::api::env::{REDIRECT_PORT, UID};
use crate::config::init_net::{self as config, Given};
use crate::nft::kernel::{self, NftError};
use crate::nft::rules::{self, Exceptions, Table};

/// Write the rules that redirect a pod's connections to its sidecar
///
/// For the init container of a pod with capture `redirect`. It puts one nftables table, `inet postern`, in
/// the place of any of that name, for IPv4 and IPv6, all or nothing, and reads it back:
///
/// - TCP of every user but 64321, the sidecar's, goes to the sidecar at loopback port 15103.
///
/// - What is not captured does not leave the pod, and whoever tries is told at once.
///
/// - Inside the pod, and on connections that come from outside, nothing changes.
///
/// - Let through: DNS to the given resolvers, and the ports and networks to be skipped.
///
/// It needs the capability NET_ADMIN, and Linux 5.2 or newer with nf_tables. It refuses to run in the
/// network of the machine itself.
///
/// Exit codes: 0 the rules are in place; 1 they are not, and the pod must not start; 2 the command
/// line or a variable is wrong.
///
/// Example: postern init-net --print --resolvers 10.96.0.10 --skip-ports 5432
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster's DNS servers, joined by commas [variable: POSTERN_RESOLVERS]
    #[arg(long, value_name = "ADDRESSES")]
    resolvers: Option<String>,
    /// Ports, joined by commas, to which everybody may send UDP and TCP [variable: POSTERN_SKIP_PORTS]
    #[arg(long, value_name = "PORTS")]
    skip_ports: Option<String>,
    /// Networks, joined by commas, to which everybody may send anything [variable: POSTERN_SKIP_CIDRS]
    #[arg(long, value_name = "NETWORKS")]
    skip_cidrs: Option<String>,
    /// Print the rules instead, in the words of nft(8); changes nothing and needs no capability
    #[arg(long, conflicts_with = "verify")]
    print: bool,
    /// Only see whether the rules are in place
    #[arg(long)]
    verify: bool,
}

pub(super) fn run(args: &Args) -> u8 {
    let given = Given {
        resolvers: args.resolvers.clone(),
        skip_ports: args.skip_ports.clone(),
        skip_cidrs: args.skip_cidrs.clone(),
    };
    let exceptions = match config::read(&given, &variable) {
        Ok(exceptions) => exceptions,
        Err(problems) => {
            tell(&problems);
            return INVALID;
        }
    };
    let table = rules::table(&exceptions);
    if args.print {
        print!("{table}");
        return OK;
    }
    let done = if args.verify { kernel::verify(&table) } else { put(&table) };
    match done {
        Ok(()) => {
            let verb = if args.verify { "is in place" } else { "was written and read back" };
            println!("postern init-net: table inet {} {verb}: {}", rules::TABLE, summary(&exceptions));
            OK
        }
        Err(error) => {
            eprintln!("postern init-net: {error}");
            FAILED
        }
    }
}

fn put(table: &Table) -> Result<(), NftError> {
    kernel::write(table)?;
    kernel::verify(table)
}

fn summary(exceptions: &Exceptions) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!(
        "TCP of users other than {UID} goes to port {REDIRECT_PORT}; let through: {}, {}, {}",
        count(exceptions.resolvers.len(), "resolver"),
        count(exceptions.ports.len(), "port"),
        count(exceptions.networks.len(), "network")
    )
}

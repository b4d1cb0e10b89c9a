//! Writes the table into the kernel, all or nothing, and reads it back.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::expression::Expression;
use super::message::{self, Answer, ChainHead, Verb};
use super::rules::{Rule, TABLE, Table};
use super::socket::Socket;

/// What is refused where it is no part of the table.
const NETLINK: &str = "netlink";
/// How often a list is read again that was changed meanwhile: other tables, most likely.
const READINGS: usize = 10;

/// Why the table is not in place. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// It is the machine that would be cut off.
    #[error(
        "this is the network of the machine itself, not of a pod: the rules would cut it off. In a cluster, take hostNetwork off the pod; to try it out, run it in a namespace of its own (unshare --net)"
    )]
    Machine,
    /// The kernel refused; nothing was changed.
    #[error("{what}: {error}; {}", cause(*.error, what))]
    Refused {
        /// What it was to do.
        what: String,
        /// Its error.
        error: Errno,
    },
    /// It answered something else than it should.
    #[error(
        "the kernel's answer about table inet {TABLE} cannot be read: {0}; run it again, and report it if that does not help"
    )]
    Answer(&'static str),
    /// What is in the kernel is not what should be there: a line for each difference.
    #[error(
        "table inet {TABLE} is not what it should be, so the pod is not guarded: {}. Something else changed it: find out what by `nft monitor`, and run init-net again",
        .0.join("; ")
    )]
    Differs(Vec<String>),
}

/// What an error number means here, and what to do.
fn cause(error: Errno, what: &str) -> &'static str {
    // Else it is about one of the table's parts.
    let whole = what == NETLINK;
    match error {
        Errno::PERM | Errno::ACCESS if whole => {
            "the capability NET_ADMIN is missing: let the container run as user 0 with securityContext.capabilities.add: [NET_ADMIN]"
        }
        Errno::PERM => "another program owns this table: take its rules out of the pod",
        Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT if whole => {
            "this kernel has no nf_tables: load its module nf_tables on the node (Linux 5.2 or newer; gVisor has none), or use another capture"
        }
        Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::INVAL => {
            "this kernel lacks a part of nf_tables: load nft_chain_nat, nft_redir, nft_fib_inet, nft_reject_inet and nft_ct on the node (Linux 5.2 or newer), or use another capture"
        }
        Errno::AGAIN => "the kernel does not answer: run it again",
        Errno::NOMEM | Errno::NOBUFS => "the node is out of memory",
        _ => "the kernel did not take it: run it again, and report it if that does not help",
    }
}

fn refused(what: &str) -> impl Fn(io::Error) -> NftError {
    move |error| {
        let error = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        NftError::Refused { what: what.to_owned(), error }
    }
}

/// Writes the table in one transaction: before it, the former one holds, after it, this one; if it
/// fails, nothing has changed. Connections that were captured go on.
///
/// # Errors
/// [`NftError::Machine`] where the network namespace is the machine's own, [`NftError::Refused`] where
/// the kernel will not, [`NftError::Answer`] where it cannot be told whether it did.
pub fn write(table: &Table) -> Result<(), NftError> {
    if is_machine() {
        return Err(NftError::Machine);
    }
    let batch = message::replace(table);
    let socket = Socket::open().map_err(refused(NETLINK))?;
    socket.send(&batch.bytes).map_err(refused(NETLINK))?;
    // The first result is that of what failed first, or of the last message: only that is asked for one.
    let bytes = socket.receive().map_err(refused(NETLINK))?;
    match message::answers(&bytes).and_then(|answers| answers.into_iter().next()) {
        Some(Answer::Result(sequence, 0)) if sequence == batch.last() => Ok(()),
        Some(Answer::Result(sequence, code)) if code != 0 => {
            // Nothing is before the first one: that is the whole, which the kernel did not look at.
            let place = usize::try_from(sequence).ok().and_then(|sequence| sequence.checked_sub(1));
            let what = place.and_then(|place| batch.tells.get(place)).map_or(NETLINK, String::as_str);
            Err(NftError::Refused { what: what.to_owned(), error: Errno::from_raw_os_error(code) })
        }
        _ => Err(NftError::Answer("a result was expected")),
    }
}

/// Reads the table back.
///
/// # Errors
/// [`NftError::Differs`] where the kernel holds something else, the others where it cannot be asked.
pub fn verify(table: &Table) -> Result<(), NftError> {
    let found = read()?;
    let differences = found.differences(table);
    if differences.is_empty() { Ok(()) } else { Err(NftError::Differs(differences)) }
}

/// Whether this network namespace is the one that the machine was started with: only there are
/// the settings of all its devices together. Without /proc it cannot be told.
fn is_machine() -> bool {
    ["netdev_max_backlog", "netdev_budget"].iter().all(|name| Path::new("/proc/sys/net/core").join(name).exists())
}

/// Its expressions, `None` among them for one that we never write.
type FoundRule = Vec<Option<Expression>>;

/// What the kernel holds under our table's name.
#[derive(Debug, Default)]
struct Found {
    /// Whether there is a table, and whether it is in force.
    awake: Option<bool>,
    chains: BTreeMap<String, (ChainHead, Vec<FoundRule>)>,
}

fn read() -> Result<Found, NftError> {
    let socket = Socket::open().map_err(refused(NETLINK))?;
    for _ in 0..READINGS {
        if let Some(found) = read_once(&socket)? {
            return Ok(found);
        }
    }
    Err(NftError::Answer("it changes all the time"))
}

/// `None` where something was changed meanwhile.
fn read_once(socket: &Socket) -> Result<Option<Found>, NftError> {
    let mut found = Found::default();
    let what = format!("table inet {TABLE}");
    socket.send(&message::get_table()).map_err(refused(&what))?;
    let bytes = socket.receive().map_err(refused(&what))?;
    for answer in message::answers(&bytes).ok_or(NftError::Answer("a table was expected"))? {
        match answer {
            Answer::Result(_, code) if Errno::from_raw_os_error(code) == Errno::NOENT => return Ok(Some(found)),
            Answer::Result(_, code) => {
                return Err(NftError::Refused { what, error: Errno::from_raw_os_error(code) });
            }
            Answer::Object(table) => found.awake = Some(message::is_awake(table)),
            Answer::Done | Answer::Interrupted => {}
        }
    }
    let chains = dump(socket, Verb::GetChain, |read| {
        if let Some((name, head)) = message::chain(read) {
            found.chains.insert(name, (head, Vec::new()));
        }
    })?;
    let mut lost = false;
    let rules = dump(socket, Verb::GetRule, |read| {
        let Some((chain, expressions)) = message::rule(read) else { return };
        match found.chains.get_mut(&chain) {
            Some((_, rules)) => rules.push(expressions),
            None => lost = true,
        }
    })?;
    Ok((chains && rules && !lost).then_some(found))
}

/// Reads a whole list. `false` where it was changed meanwhile.
fn dump(socket: &Socket, verb: Verb, mut each: impl FnMut(message::Read<'_>)) -> Result<bool, NftError> {
    let what = format!("table inet {TABLE}");
    socket.send(&message::list(verb)).map_err(refused(&what))?;
    let mut whole = true;
    loop {
        let bytes = socket.receive().map_err(refused(&what))?;
        for answer in message::answers(&bytes).ok_or(NftError::Answer("a list was expected"))? {
            match answer {
                Answer::Done => return Ok(whole),
                Answer::Interrupted => whole = false,
                Answer::Object(read) => each(read),
                Answer::Result(_, code) => {
                    return Err(NftError::Refused { what, error: Errno::from_raw_os_error(code) });
                }
            }
        }
    }
}

impl Found {
    /// What is not as it should be, in words.
    fn differences(&self, table: &Table) -> Vec<String> {
        match self.awake {
            None => return vec!["there is none".into()],
            Some(false) => return vec!["it is switched off (dormant)".into()],
            Some(true) => {}
        }
        let mut told = Vec::new();
        for chain in &table.0 {
            let name = chain.name;
            let Some((head, rules)) = self.chains.get(name) else {
                told.push(format!("chain {name} is missing"));
                continue;
            };
            if *head != ChainHead::of(chain) {
                told.push(format!("chain {name} has another type, hook, priority or policy"));
            }
            let same = |found: &FoundRule, rule: &Rule| {
                found.iter().map(Option::as_ref).eq(Expression::of(rule).iter().map(Some))
            };
            let wrong = chain
                .rules
                .iter()
                .enumerate()
                .find(|(at, rule)| !rules.get(*at).is_some_and(|found| same(found, rule)));
            if let Some((at, rule)) = wrong {
                told.push(format!("chain {name}: rule {} is not `{rule}`", at + 1));
            } else if rules.len() > chain.rules.len() {
                told.push(format!("chain {name} has {} rules, not {}", rules.len(), chain.rules.len()));
            }
        }
        let known = |name: &String| table.0.iter().any(|chain| chain.name == name);
        told.extend(self.chains.keys().filter(|name| !known(name)).map(|name| format!("chain {name} is not ours")));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_says_what_to_do() {
        for (error, what, expected) in [
            (Errno::PERM, NETLINK, "securityContext.capabilities.add: [NET_ADMIN]"),
            (Errno::PERM, "table inet postern", "another program owns this table"),
            (Errno::PROTONOSUPPORT, NETLINK, "load its module nf_tables"),
            (Errno::OPNOTSUPP, NETLINK, "load its module nf_tables"),
            (Errno::NOENT, "chain capture", "load nft_chain_nat"),
            (Errno::NOENT, "chain guard: fib daddr type local accept", "nft_fib_inet"),
            (Errno::AGAIN, NETLINK, "run it again"),
            (Errno::IO, "chain guard", "report it"),
        ] {
            let told = NftError::Refused { what: what.into(), error }.to_string();
            assert!(told.starts_with(&format!("{what}: ")) && told.contains(expected), "{told}");
        }
    }
}

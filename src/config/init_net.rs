//! What `postern init-net` lets through: from its flags, else from the variables of the init container.

use std::net::{IpAddr, SocketAddr};

use super::sidecar::Environment;
use crate::api::document::Problem;
use crate::api::env;
use crate::api::shape::Fault;
use crate::core::network::Cidr;
use crate::nft::rules::Exceptions;

/// Each is one rule or two, and the kernel goes through them for every packet that leaves.
const MOST_RESOLVERS: usize = 16;
const MOST_PORTS: usize = 64;
const MOST_NETWORKS: usize = 64;

/// The flags, as they were given.
#[derive(Debug, Default)]
pub struct Given {
    /// `--resolvers`.
    pub resolvers: Option<String>,
    /// `--skip-ports`.
    pub skip_ports: Option<String>,
    /// `--skip-cidrs`.
    pub skip_cidrs: Option<String>,
}

/// Reads them.
///
/// # Errors
/// Every fault with the place of the value, which is never quoted.
pub fn read(given: &Given, environment: Environment<'_>) -> Result<Exceptions, Vec<Problem>> {
    let mut reader = Reader { environment, problems: Vec::new() };
    let exceptions = Exceptions {
        resolvers: reader.list(
            ("--resolvers", env::RESOLVERS, given.resolvers.as_deref()),
            MOST_RESOLVERS,
            "the IP address of a DNS server, with a port if it is not 53",
            resolver,
        ),
        ports: reader.list(
            ("--skip-ports", env::SKIP_PORTS, given.skip_ports.as_deref()),
            MOST_PORTS,
            "a port of 1 to 65535",
            |text| text.parse().ok().filter(|port| *port != 0),
        ),
        networks: reader.list(
            ("--skip-cidrs", env::SKIP_CIDRS, given.skip_cidrs.as_deref()),
            MOST_NETWORKS,
            "a network such as 10.0.0.0/8, with zeros behind its prefix, and not everything (/0)",
            |text| Cidr::parse(text).filter(|network| network.bits() > 0),
        ),
    };
    if exceptions.resolvers.is_empty() && reader.problems.is_empty() {
        let expected = "the addresses of the cluster's DNS servers: in `redirect` an agent resolves names by itself";
        let fault = Fault::new(format!("--resolvers or {}", env::RESOLVERS), expected);
        reader.problems.push(Problem { file: "postern init-net".to_owned(), line: None, fault });
    }
    if reader.problems.is_empty() { Ok(exceptions) } else { Err(reader.problems) }
}

struct Reader<'a> {
    environment: Environment<'a>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// A list joined by commas, each value once. `of`: the flag, the variable, the flag's text.
    fn list<T: PartialEq>(
        &mut self,
        of: (&str, &str, Option<&str>),
        most: usize,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let (flag, variable, text) = of;
        let (file, name, text) = match text {
            Some(text) => ("command line", flag, Some(text.to_owned())),
            None => ("environment", variable, (self.environment)(variable)),
        };
        let problem = |path: String, expected: &str| Problem {
            file: file.to_owned(),
            line: None,
            fault: Fault::new(path, expected),
        };
        let mut list = Vec::new();
        let text = text.unwrap_or_default();
        for (at, item) in text.split(',').enumerate().filter(|_| !text.is_empty()) {
            match parse(item.trim()) {
                Some(value) if list.contains(&value) => {}
                Some(value) => list.push(value),
                None => self.problems.push(problem(format!("{name}[{at}]"), expected)),
            }
        }
        if list.len() > most {
            self.problems.push(problem(name.to_owned(), &format!("at most {most} values")));
        }
        list
    }
}

fn resolver(text: &str) -> Option<SocketAddr> {
    let server = text.parse::<SocketAddr>().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53)))?;
    let usable = match server.ip() {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        // As IPv6 it would never match: packets to it are IPv4.
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && v6.to_ipv4_mapped().is_none(),
    };
    (usable && server.port() != 0).then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(variables: &[(&str, &str)], given: &Given) -> Vec<String> {
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let problems = read(given, &environment).err().unwrap_or_default();
        problems.iter().map(|problem| format!("{}: {}", problem.file, problem.fault.path)).collect()
    }

    #[test]
    fn flags_stand_before_variables() {
        let environment = |name: &str| match name {
            env::RESOLVERS => Some("10.96.0.10, fd00::a,10.96.0.10,10.0.0.1:5353".to_owned()),
            env::SKIP_PORTS => Some("5432".to_owned()),
            _ => None,
        };
        let given = Given { skip_ports: Some("25,587".into()), ..Given::default() };
        let exceptions = read(&given, &environment).unwrap();
        let resolvers: Vec<String> = exceptions.resolvers.iter().map(ToString::to_string).collect();
        assert_eq!(resolvers, ["10.96.0.10:53", "[fd00::a]:53", "10.0.0.1:5353"]);
        assert_eq!((exceptions.ports, exceptions.networks), (vec![25, 587], vec![]));
    }

    #[test]
    fn every_fault_names_its_place() {
        let given = Given { skip_cidrs: Some("10.0.0.0/8,10.0.0.1/8,::/0,10.0.0.0".into()), ..Given::default() };
        let bad = "dns.example,0.0.0.0,::ffff:10.0.0.1,224.0.0.1,10.0.0.1:0,10.0.0.1,";
        let expected: Vec<String> = [0, 1, 2, 3, 4, 6]
            .map(|at| format!("environment: POSTERN_RESOLVERS[{at}]"))
            .into_iter()
            .chain(["0", "1"].map(|at| format!("environment: POSTERN_SKIP_PORTS[{at}]")))
            .chain([1, 2, 3].map(|at| format!("command line: --skip-cidrs[{at}]")))
            .collect();
        assert_eq!(faults(&[(env::RESOLVERS, bad), (env::SKIP_PORTS, "0,70000,1")], &given), expected);
    }

    #[test]
    fn lists_have_an_end_and_resolvers_a_beginning() {
        let many: Vec<String> = (1..=65).map(|port: u16| port.to_string()).collect();
        let given = Given { resolvers: Some("10.0.0.1".into()), skip_ports: Some(many.join(",")), skip_cidrs: None };
        assert_eq!(faults(&[], &given), ["command line: --skip-ports"]);
        assert_eq!(faults(&[], &Given::default()), ["postern init-net: --resolvers or POSTERN_RESOLVERS"]);
    }
}

//! What `postern controller` is told on its command line, into the settings of its parts.

use std::net::IpAddr;
use std::time::Duration;

use super::service;
use crate::control::certificate::{AuthoritySettings, CertificateFiles, CertificateSource};

/// The command line, as far as it is more than a value for one part.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Service that API servers call it by.
    pub service: String,
    /// The namespace it runs in.
    pub namespace: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// More names and addresses of it.
    pub extra_names: Vec<String>,
    /// The Secret that holds its authority.
    pub cert_secret: String,
    /// A certificate instead of an authority of its own.
    pub files: Option<CertificateFiles>,
}

/// Whoever trusts it is told by us: it need not last longer.
const AUTHORITY_LIFE: Duration = Duration::from_secs(5 * 365 * 86_400);

impl Options {
    /// Where the certificate comes from.
    pub fn certificate(self) -> CertificateSource {
        let mut names = service::names(&self.service, &self.namespace, &self.cluster_domain);
        names.extend(self.extra_names);
        match self.files {
            Some(files) => CertificateSource::Files(files),
            None => CertificateSource::Authority(AuthoritySettings {
                secret: self.cert_secret,
                name: "Postern webhook",
                life: AUTHORITY_LIFE,
                names,
            }),
        }
    }
}

/// Why the controller's own resolvers are no sidecar's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoResolvers {
    /// There are none.
    #[error("it names no nameserver")]
    None,
    /// They are asked on this machine only.
    #[error("its nameservers are on loopback, which is another place in each pod")]
    Loopback,
}

/// The resolvers that a `resolv.conf` names, as pods can ask them.
pub fn resolvers(resolv_conf: &str) -> Result<Vec<IpAddr>, NoResolvers> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    };
    let named: Vec<IpAddr> = resolv_conf.lines().filter_map(line).collect();
    let reached: Vec<IpAddr> =
        named.iter().copied().filter(|address| !address.is_loopback() && !address.is_unspecified()).collect();
    match (named.is_empty(), reached.is_empty()) {
        (true, _) => Err(NoResolvers::None),
        (false, true) => Err(NoResolvers::Loopback),
        _ => Ok(reached),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolvers_of_a_pod_are_taken_and_those_of_a_machine_are_not() {
        let of_pod = "search a.svc.cluster.local\nnameserver 10.96.0.10\n# nameserver 1.1.1.1\n nameserver\tfd00::a \noptions ndots:5\n";
        let addresses = ["10.96.0.10", "fd00::a"].map(|text| text.parse().unwrap());
        assert_eq!(resolvers(of_pod), Ok(addresses.to_vec()));
        assert_eq!(resolvers("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"), Ok(vec!["10.0.0.1".parse().unwrap()]));
        assert_eq!(resolvers("nameserver 127.0.0.53\nnameserver ::1\n"), Err(NoResolvers::Loopback));
        for none in ["", "search a\n", "nameserver\n", "nameserver fe80::1%eth0\n", "nameservers 10.0.0.1\n"] {
            assert_eq!(resolvers(none), Err(NoResolvers::None), "{none}");
        }
    }

    #[test]
    fn the_first_name_is_the_one_that_api_servers_call() {
        let options = Options {
            service: "postern-injector".into(),
            namespace: "postern-system".into(),
            cluster_domain: "cluster.local".into(),
            extra_names: vec!["127.0.0.1".into()],
            cert_secret: "s".into(),
            files: None,
        };
        let CertificateSource::Authority(settings) = options.certificate() else { panic!("an authority") };
        assert_eq!(
            settings.names,
            [
                "postern-injector.postern-system.svc",
                "postern-injector.postern-system.svc.cluster.local",
                "postern-injector.postern-system",
                "postern-injector",
                "127.0.0.1",
            ]
        );
    }
}

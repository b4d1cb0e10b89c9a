//! Addresses that no credentialed request may be sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is never dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// 127/8, ::1: in a pod, that is the agent itself.
    #[error("loopback")]
    Loopback,
    /// 169.254/16, fe80::/10.
    #[error("link-local")]
    LinkLocal,
    /// A cloud's metadata service outside the link-local range.
    #[error("metadata service")]
    Metadata,
    /// Multicast or broadcast.
    #[error("multicast or broadcast")]
    Multicast,
    /// 0/8, ::, 240/4: not a host.
    #[error("unspecified or reserved")]
    Unspecified,
    /// An address of this very machine.
    #[error("own address")]
    Own,
}

impl AddressFault {
    /// Whether `dial.allowLoopback` lifts it: both mean "this machine".
    pub const fn is_local(self) -> bool {
        matches!(self, Self::Loopback | Self::Own)
    }
}

/// Metadata services that are not link-local: Alibaba, Azure, Oracle; Google (IPv6).
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);
/// AWS keeps fd00:ec2::/32 for what only a machine itself may ask: metadata (::254), pod identities
/// (::23), DNS, time.
const AWS_LOCAL: [u16; 2] = [0xfd00, 0xec2];

/// Checks one address, seeing through every form that carries an IPv4 address inside IPv6.
///
/// Private ranges pass: MCP servers in the cluster are the main case.
pub fn check(address: IpAddr) -> Result<(), AddressFault> {
    match address {
        IpAddr::V4(v4) => check_v4(v4),
        IpAddr::V6(v6) => check_v6(v6),
    }
}

fn check_v4(v4: Ipv4Addr) -> Result<(), AddressFault> {
    let first = v4.octets()[0];
    if v4.is_loopback() {
        Err(AddressFault::Loopback)
    } else if v4.is_link_local() {
        Err(AddressFault::LinkLocal)
    } else if METADATA_V4.contains(&v4) {
        Err(AddressFault::Metadata)
    } else if v4.is_multicast() || v4.is_broadcast() {
        Err(AddressFault::Multicast)
    } else if first == 0 || first >= 240 {
        Err(AddressFault::Unspecified)
    } else {
        Ok(())
    }
}

fn check_v6(v6: Ipv6Addr) -> Result<(), AddressFault> {
    if v6.is_loopback() {
        return Err(AddressFault::Loopback);
    }
    if v6.is_unspecified() {
        return Err(AddressFault::Unspecified);
    }
    for inner in embedded_v4(v6).into_iter().flatten() {
        check_v4(inner)?;
    }
    let first = v6.segments()[0];
    // fec0::/10, site-local, is deprecated but still routed to the local link by some stacks.
    if first & 0xffc0 == 0xfe80 || first & 0xffc0 == 0xfec0 {
        Err(AddressFault::LinkLocal)
    } else if v6 == METADATA_V6 || v6.segments().starts_with(&AWS_LOCAL) {
        Err(AddressFault::Metadata)
    } else if v6.is_multicast() {
        Err(AddressFault::Multicast)
    } else {
        Ok(())
    }
}

/// The IPv4 addresses an IPv6 address may lead to: mapped and compatible (RFC 4291), NAT64
/// (RFC 6052, and the local-use prefix of RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380: the
/// client's address, inverted), ISATAP (RFC 5214).
fn embedded_v4(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    let isatap = if s[5] == 0x5efe && s[4] & 0xfdff == 0 { v4(s[6], s[7]) } else { None };
    let tail = match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => v4(s[6], s[7]),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0x64, 0xff9b, 1, ..] => v4(s[6], s[7]),
        [0x2002, ..] => v4(s[1], s[2]),
        [0x2001, 0, ..] => v4(!s[6], !s[7]),
        _ => None,
    };
    [isatap, tail]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_addresses_in_every_disguise() {
        use AddressFault::*;
        let rows = [
            ("8.8.8.8", Ok(())),
            ("10.1.2.3", Ok(())),
            ("192.168.0.1", Ok(())),
            ("172.16.0.1", Ok(())),
            ("100.64.0.1", Ok(())),
            ("2001:db8::1", Ok(())),
            ("fd12::1", Ok(())),
            ("64:ff9b::808:808", Ok(())),
            ("127.0.0.1", Err(Loopback)),
            ("127.255.255.254", Err(Loopback)),
            ("::1", Err(Loopback)),
            ("::ffff:127.0.0.1", Err(Loopback)),
            ("::127.0.0.1", Err(Loopback)),
            ("::ffff:0:7f00:1", Err(Loopback)),
            ("64:ff9b::7f00:1", Err(Loopback)),
            ("64:ff9b:1::7f00:1", Err(Loopback)),
            ("2002:7f00:1::", Err(Loopback)),
            ("2001:0:1:2:3:4:80ff:fffe", Err(Loopback)),
            ("fe80::5efe:7f00:1", Err(Loopback)),
            ("169.254.169.254", Err(LinkLocal)),
            ("::ffff:169.254.169.254", Err(LinkLocal)),
            ("64:ff9b::a9fe:a9fe", Err(LinkLocal)),
            ("fe80::1", Err(LinkLocal)),
            ("fec0::1", Err(LinkLocal)),
            ("fd00:ec2::254", Err(Metadata)),
            ("fd00:ec2::23", Err(Metadata)),
            ("fd00:ec3::254", Ok(())),
            ("fd20:ce::254", Err(Metadata)),
            ("fd20:ce::255", Ok(())),
            ("100.100.100.200", Err(Metadata)),
            ("168.63.129.16", Err(Metadata)),
            ("224.0.0.1", Err(Multicast)),
            ("255.255.255.255", Err(Multicast)),
            ("ff02::1", Err(Multicast)),
            ("0.0.0.0", Err(Unspecified)),
            ("0.1.2.3", Err(Unspecified)),
            ("240.0.0.1", Err(Unspecified)),
            ("::", Err(Unspecified)),
        ];
        for (text, expected) in rows {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(check(address), expected, "{text}");
        }
    }
}

//! Networks, as an administrator names them.

use std::fmt;
use std::net::IpAddr;

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Reads `10.0.0.0/8`; the bits behind the prefix must be zero.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let width = if address.is_ipv4() { 32 } else { 128 };
        let cidr = Self { address, bits };
        (bits <= width && cidr.head(bits) == number(address)).then_some(cidr)
    }

    /// The network of one address alone.
    pub fn one(address: IpAddr) -> Self {
        Self { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits of the address count.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The address with all but its first `bits` cleared.
    fn head(&self, bits: u8) -> u128 {
        let width: u32 = if self.address.is_ipv4() { 32 } else { 128 };
        let cleared = width.saturating_sub(u32::from(bits));
        let mask = u128::MAX.checked_shl(cleared).unwrap_or(0);
        number(self.address) & mask
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_written_in_one_way() {
        for (text, written) in
            [("10.0.0.0/8", "10.0.0.0/8"), ("1.2.3.4/32", "1.2.3.4/32"), ("fd00:0::/8", "fd00::/8"), ("::/0", "::/0")]
        {
            assert_eq!(Cidr::parse(text).unwrap().to_string(), written);
        }
        for bad in ["", "10.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "fd00::/129", "a/8", "10.0.0.0/-1"] {
            assert_eq!(Cidr::parse(bad), None, "{bad}");
        }
    }
}

//! The expressions that a rule is to the kernel: each loads something into the one register that we
//! use, or judges what is in it. The names are those of `nft --debug=netlink`.

use std::net::IpAddr;

use super::message::{Attributes, Read};
use super::rules::{Protocol, Rule, Test, Verdict};
use crate::api::env::{REDIRECT_PORT, UID};
use crate::core::network::Cidr;

const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const DIRECTION_REPLY: u8 = 1;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_TYPE: u32 = 3;
/// RTN_LOCAL.
const TYPE_LOCAL: u32 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const VERDICT_DROP: i32 = 0;
const VERDICT_ACCEPT: i32 = 1;
const VERDICT_RETURN: i32 = -5;
/// NF_NAT_RANGE_PROTO_SPECIFIED: the port is given.
const REDIRECT_TO_PORT: u32 = 2;
const REJECT_RESET: u32 = 1;
const REJECT_ANY_FAMILY: u32 = 2;
const ADMIN_PROHIBITED: u8 = 3;

const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const CODE: u16 = 1;

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads what is known beside the packet.
    Meta(u32),
    /// Loads what is known of its connection.
    Connection(u32),
    /// Loads what kind of address one of the packet's is: local or not.
    AddressType { flags: u32 },
    /// Loads bytes of it.
    Payload { header: u32, offset: u32, length: u32 },
    /// Clears the bits that are not in the mask.
    Mask(Vec<u8>),
    /// Goes on if the register holds this, or if it does not.
    Compare { equal: bool, with: Vec<u8> },
    /// Loads a value.
    Load(Vec<u8>),
    /// Sends the connection to the port in the register.
    Redirect { flags: u32 },
    /// Refuses.
    Reject { kind: u32, code: u8 },
    /// Ends the chain.
    Verdict(i32),
}

impl Expression {
    /// A rule, as the kernel is told it.
    pub(super) fn of(rule: &Rule) -> Vec<Self> {
        let mut list: Vec<Self> = rule.tests.iter().flat_map(Self::of_test).collect();
        match rule.verdict {
            Verdict::Accept => list.push(Self::Verdict(VERDICT_ACCEPT)),
            Verdict::Drop => list.push(Self::Verdict(VERDICT_DROP)),
            Verdict::Return => list.push(Self::Verdict(VERDICT_RETURN)),
            Verdict::Redirect => {
                list.push(Self::Load(REDIRECT_PORT.to_be_bytes().to_vec()));
                list.push(Self::Redirect { flags: REDIRECT_TO_PORT });
            }
            Verdict::Reset => list.push(Self::Reject { kind: REJECT_RESET, code: 0 }),
            Verdict::Prohibit => list.push(Self::Reject { kind: REJECT_ANY_FAMILY, code: ADMIN_PROHIBITED }),
        }
        list
    }

    fn of_test(test: &Test) -> Vec<Self> {
        // The kernel's own numbers are in the machine's order, what is on the wire in the network's.
        match test {
            Test::Sidecar(true) => vec![Self::Meta(META_SKUID), Self::equals(&UID.to_ne_bytes())],
            Test::Sidecar(false) => vec![Self::Meta(META_SKUID), Self::differs(&UID.to_ne_bytes())],
            Test::ToLocal => {
                vec![Self::AddressType { flags: FIB_DESTINATION }, Self::equals(&TYPE_LOCAL.to_ne_bytes())]
            }
            Test::FromForeign => {
                vec![Self::AddressType { flags: FIB_SOURCE }, Self::differs(&TYPE_LOCAL.to_ne_bytes())]
            }
            Test::To(network) => Self::destination(network),
            Test::Protocol(protocol) => Self::protocol(*protocol),
            Test::Port(protocol, port) => {
                let load = Self::Payload { header: TRANSPORT_HEADER, offset: 2, length: 2 };
                [Self::protocol(*protocol), vec![load, Self::equals(&port.to_be_bytes())]].concat()
            }
            Test::Known => {
                let mask = Self::Mask((STATE_ESTABLISHED | STATE_RELATED).to_ne_bytes().to_vec());
                vec![Self::Connection(CT_STATE), mask, Self::differs(&0_u32.to_ne_bytes())]
            }
            Test::Reply => vec![Self::Connection(CT_DIRECTION), Self::equals(&[DIRECTION_REPLY])],
        }
    }

    fn protocol(protocol: Protocol) -> Vec<Self> {
        vec![Self::Meta(META_L4PROTO), Self::equals(&[protocol as u8])]
    }

    fn destination(network: &Cidr) -> Vec<Self> {
        let (family, offset, address) = match network.address() {
            IpAddr::V4(v4) => (NFPROTO_IPV4, 16, v4.octets().to_vec()),
            IpAddr::V6(v6) => (NFPROTO_IPV6, 24, v6.octets().to_vec()),
        };
        // As nft does it: whole bytes are compared alone, and only what is left needs a mask.
        let masked = !network.bits().is_multiple_of(8);
        let length = if masked { address.len() } else { usize::from(network.bits() / 8) };
        let load = Self::Payload { header: NETWORK_HEADER, offset, length: u32::try_from(length).unwrap_or(u32::MAX) };
        let mut list = vec![Self::Meta(META_NFPROTO), Self::equals(&[family]), load];
        if masked {
            list.push(Self::Mask(mask(network.bits(), length)));
        }
        list.push(Self::equals(address.get(..length).unwrap_or(&address)));
        list
    }

    fn equals(with: &[u8]) -> Self {
        Self::Compare { equal: true, with: with.to_vec() }
    }

    fn differs(with: &[u8]) -> Self {
        Self::Compare { equal: false, with: with.to_vec() }
    }

    /// It, as an element of a list.
    pub(super) fn attributes(&self) -> Attributes {
        let new = Attributes::default;
        let value = |bytes: &[u8]| new().put(VALUE, bytes);
        let (name, data) = match self {
            Self::Meta(key) => ("meta", new().number(1, REGISTER).number(2, *key)),
            Self::Connection(key) => ("ct", new().number(1, REGISTER).number(2, *key)),
            Self::AddressType { flags } => ("fib", new().number(1, REGISTER).number(2, FIB_TYPE).number(3, *flags)),
            Self::Payload { header, offset, length } => {
                ("payload", new().number(1, REGISTER).number(2, *header).number(3, *offset).number(4, *length))
            }
            Self::Mask(mask) => {
                let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
                let data = new().number(1, REGISTER).number(2, REGISTER).number(3, length);
                ("bitwise", data.nest(4, value(mask)).nest(5, value(&vec![0; mask.len()])))
            }
            Self::Compare { equal, with } => {
                ("cmp", new().number(1, REGISTER).number(2, u32::from(!equal)).nest(3, value(with)))
            }
            Self::Load(bytes) => ("immediate", new().number(1, REGISTER).nest(2, value(bytes))),
            Self::Redirect { flags } => ("redir", new().number(1, REGISTER).number(2, REGISTER).number(3, *flags)),
            Self::Reject { kind, code } => ("reject", new().number(1, *kind).put(2, &[*code])),
            Self::Verdict(code) => {
                let verdict = new().put(CODE, &code.to_be_bytes());
                ("immediate", new().number(1, VERDICT_REGISTER).nest(2, new().nest(VERDICT, verdict)))
            }
        };
        new().text(NAME, name).nest(DATA, data)
    }

    /// Reads an element of a list. `None` for whatever we do not write: another expression, another
    /// register, an operation besides the one above.
    ///
    /// What a later kernel tells in addition is not looked at.
    pub(super) fn read(element: Read<'_>) -> Option<Self> {
        let data = element.nest(DATA)?;
        let register = |kind| data.number(kind) == Some(REGISTER);
        let value = |kind| data.nest(kind)?.get(VALUE);
        match element.text(NAME)? {
            "meta" if register(1) => data.number(2).map(Self::Meta),
            // The third and fourth would be the direction to look at, and a value to set.
            "ct" if register(1) && data.get(3).is_none() && data.get(4).is_none() => {
                data.number(2).map(Self::Connection)
            }
            "fib" if register(1) && data.number(2) == Some(FIB_TYPE) => {
                Some(Self::AddressType { flags: data.number(3)? })
            }
            "payload" if register(1) => {
                Some(Self::Payload { header: data.number(2)?, offset: data.number(3)?, length: data.number(4)? })
            }
            "bitwise" if register(1) && register(2) && data.number(6).unwrap_or(0) == 0 => {
                let mask = value(4)?;
                let whole = data.number(3) == u32::try_from(mask.len()).ok() && value(5)? == vec![0; mask.len()];
                whole.then(|| Self::Mask(mask.to_vec()))
            }
            "cmp" if register(1) => match data.number(2)? {
                equality @ 0..=1 => Some(Self::Compare { equal: equality == 0, with: value(3)?.to_vec() }),
                _ => None,
            },
            "immediate" if register(1) => value(2).map(|bytes| Self::Load(bytes.to_vec())),
            "immediate" if data.number(1) == Some(VERDICT_REGISTER) => {
                let code = data.nest(2)?.nest(VERDICT)?.get(CODE)?.try_into().ok()?;
                Some(Self::Verdict(i32::from_be_bytes(code)))
            }
            "redir" if register(1) && data.number(2).unwrap_or(REGISTER) == REGISTER => {
                Some(Self::Redirect { flags: data.number(3)? })
            }
            "reject" => {
                let code = data.get(2).map_or(Some(0), |code| code.first().copied())?;
                Some(Self::Reject { kind: data.number(1)?, code })
            }
            _ => None,
        }
    }
}

/// The first `bits` of `length` bytes.
fn mask(bits: u8, length: usize) -> Vec<u8> {
    let bits = usize::from(bits);
    let byte = |at: usize| match bits.saturating_sub(at * 8) {
        0 => 0,
        left @ 1..=7 => u8::MAX << (8 - left),
        _ => u8::MAX,
    };
    (0..length).map(byte).collect()
}

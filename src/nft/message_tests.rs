//! The bytes, as the kernel's headers want them, and whatever bytes may come back.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::expression::Expression;
use super::message::{Answer, Attributes, Read, answers, list, replace, rule};
use super::rules::{Exceptions, Rule, Test, Verdict, table};
use crate::core::network::Cidr;
use crate::nft::message::Verb;

fn exceptions() -> impl Strategy<Value = Exceptions> {
    let resolver = (any::<IpAddr>(), 1..u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    let network = (any::<IpAddr>(), 1..=128_u8).prop_filter_map("a network", |(ip, bits)| match ip {
        IpAddr::V4(v4) if bits <= 32 => {
            let head = u32::from(v4) & u32::MAX << (32 - bits);
            Cidr::parse(&format!("{}/{bits}", std::net::Ipv4Addr::from(head)))
        }
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => {
            let head = u128::from(v6) & u128::MAX << (128 - bits);
            Cidr::parse(&format!("{}/{bits}", std::net::Ipv6Addr::from(head)))
        }
    });
    let some = |most| 0..most;
    (
        prop::collection::vec(resolver, some(4)),
        prop::collection::vec(1..u16::MAX, some(8)),
        prop::collection::vec(network, some(8)),
    )
        .prop_map(|(resolvers, ports, networks)| Exceptions { resolvers, ports, networks })
}

/// The messages of a batch: type, flags, sequence number, attributes.
fn messages(mut bytes: &[u8]) -> Vec<(u16, u16, u32, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
        let short = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
        let sequence = u32::from_ne_bytes(bytes[8..12].try_into().unwrap());
        found.push((short(4), short(6), sequence, &bytes[20..length]));
        bytes = &bytes[length..];
    }
    found
}

#[test]
fn a_rule_is_these_bytes() {
    let one = Rule { tests: vec![Test::Sidecar(true)], verdict: Verdict::Return, why: "" };
    let bytes: Vec<u8> = Expression::of(&one).iter().flat_map(|it| it.attributes().bytes().to_vec()).collect();
    // Attributes are [length, type] in the machine's order, padded to four bytes; numbers are in the network's.
    let head = |length: u16, kind: u16| [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    let nested = 0x8000;
    let number = |kind, value: u32| [head(8, kind), value.to_be_bytes().to_vec()].concat();
    let expected = [
        // meta load skuid => reg 1
        [head(9, 1), b"meta\0\0\0\0".to_vec(), head(20, 2 | nested), number(1, 1), number(2, 10)].concat(),
        // cmp eq reg 1 64321
        [
            [head(8, 1), b"cmp\0".to_vec(), head(32, 2 | nested), number(1, 1), number(2, 0)].concat(),
            [head(12, 3 | nested), head(8, 1), 64321_u32.to_ne_bytes().to_vec()].concat(),
        ]
        .concat(),
        // immediate reg 0 return
        [
            [head(14, 1), b"immediate\0\0\0".to_vec(), head(28, 2 | nested), number(1, 0)].concat(),
            [head(16, 2 | nested), head(12, 2 | nested), head(8, 1), (-5_i32).to_be_bytes().to_vec()].concat(),
        ]
        .concat(),
    ]
    .concat();
    assert_eq!(bytes, expected);
}

#[test]
fn a_batch_replaces_the_table_in_one() {
    let batch = replace(&table(&Exceptions::default()));
    let found = messages(&batch.bytes);
    let kinds: Vec<u16> = found.iter().map(|(kind, ..)| *kind).collect();
    // begin, add the table, delete it, add it; the chains; the rules; the table again, to be acknowledged; end.
    let rules = batch.tells.len() - 7;
    let mut expected = vec![0x10, 0xa00, 0xa02, 0xa00, 0xa03, 0xa03, 0xa03];
    expected.extend(vec![0xa06; rules]);
    expected.extend([0xa00, 0x11]);
    assert_eq!(kinds, expected);
    let acknowledged: Vec<u32> = found.iter().filter(|(_, flags, ..)| flags & 4 != 0).map(|it| it.2).collect();
    assert_eq!(acknowledged, [batch.last()]);
    let sequences: Vec<u32> = found[1..found.len() - 1].iter().map(|it| it.2).collect();
    assert_eq!(sequences, (1..=batch.last()).collect::<Vec<_>>());
}

#[test]
fn what_we_do_not_write_is_not_taken_for_ours() {
    let read = |name: &str, data: Attributes| {
        let bytes = Attributes::default().text(1, name).nest(2, data).bytes().to_vec();
        Expression::read(Read(&bytes))
    };
    let new = Attributes::default;
    assert_eq!(read("meta", new().number(1, 1).number(2, 10)), Some(Expression::Meta(10)));
    // Another register; a value set instead of read; an exclusive or; greater than; a counter; a lookup.
    assert_eq!(read("meta", new().number(1, 2).number(2, 10)), None);
    assert_eq!(read("ct", new().number(1, 1).number(2, 0).number(4, 1)), None);
    let value = |bytes: &[u8]| new().put(1, bytes);
    let mask = new().number(1, 1).number(2, 1).number(3, 1).nest(4, value(&[1]));
    assert_eq!(read("bitwise", mask.clone().nest(5, value(&[0]))), Some(Expression::Mask(vec![1])));
    assert_eq!(read("bitwise", mask.clone().nest(5, value(&[1]))), None);
    assert_eq!(read("bitwise", mask.nest(5, value(&[0])).number(6, 1)), None);
    assert_eq!(read("cmp", new().number(1, 1).number(2, 4).nest(3, value(&[1]))), None);
    assert_eq!(read("counter", new()), None);
    assert_eq!(read("lookup", new().text(1, "s").number(2, 1)), None);
    // What a later kernel may tell in addition.
    assert_eq!(read("meta", new().number(1, 1).number(2, 10).number(9, 7)), Some(Expression::Meta(10)));
}

#[test]
fn results_are_told_from_objects() {
    let mut bytes = Vec::new();
    for (kind, flags, body) in
        [(2_u16, 0x300_u16, [(-1_i32).to_ne_bytes(), [0; 4]].concat()), (0xa00, 0x10, vec![1, 0, 0, 0])]
    {
        // A result repeats the header of what it is about: the sequence number is its third word.
        let body = if kind == 2 { [body, vec![0; 4], 7_u32.to_ne_bytes().to_vec(), vec![0; 4]].concat() } else { body };
        let length = u32::try_from(16 + body.len()).unwrap();
        bytes.extend(
            [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], &body].concat(),
        );
    }
    let read = answers(&bytes).unwrap();
    assert!(matches!(read[..], [Answer::Result(7, 1), Answer::Interrupted, Answer::Object(_)]), "{read:?}");
    for cut in 1..bytes.len() {
        let whole = answers(&bytes[..cut]).map_or(0, |found| found.len());
        assert!(cut == 36 && whole == 1 || whole == 0, "{cut} bytes give {whole} answers");
    }
}

proptest! {
    /// What the kernel gives back of a rule is read as what was sent.
    #[test]
    fn what_is_written_is_read(exceptions in exceptions()) {
        let table = table(&exceptions);
        let batch = replace(&table);
        let read: Vec<_> = messages(&batch.bytes)
            .into_iter()
            .filter(|(kind, ..)| *kind == 0xa06)
            .map(|(.., attributes)| rule(Read(attributes)).unwrap())
            .collect();
        let chains = table.0.iter().flat_map(|chain| chain.rules.iter().map(|rule| (chain.name.to_owned(), rule)));
        let sent: Vec<_> =
            chains.map(|(chain, rule)| (chain, Expression::of(rule).into_iter().map(Some).collect::<Vec<_>>())).collect();
        prop_assert_eq!(read, sent);
    }

    /// Whatever comes: it is read or not, and that is all.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec(any::<(u16, u8)>(), 1..8)) {
        let _ = answers(&bytes);
        let mut good = list(Verb::GetRule);
        good.extend(replace(&table(&Exceptions::default())).bytes);
        for (at, byte) in flips {
            let at = usize::from(at) % good.len();
            good[at] = byte;
        }
        for answer in answers(&good).unwrap_or_default() {
            if let Answer::Object(read) = answer {
                let _ = rule(read);
            }
        }
    }
}

//! The few facts that we need of a certificate (RFC 5280 section 4.1), read from its DER.
//!
//! No signature is checked here: that is what handshakes do.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::authority::Validity;

/// What a certificate says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts<'a> {
    pub(super) validity: Validity,
    /// The subject's common name, if that is all there is to its name.
    pub(super) common_name: Option<&'a str>,
    /// SubjectPublicKeyInfo, with its tag and length.
    pub(super) public_key: &'a [u8],
    pub(super) is_authority: bool,
}

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// Reads them; `None` for what is no certificate.
pub(super) fn facts(der: &[u8]) -> Option<Facts<'_>> {
    let mut certificate = Reader(Reader(der).expect(SEQUENCE)?);
    let mut fields = Reader(certificate.expect(SEQUENCE)?);
    fields.maybe(VERSION);
    for _serial_algorithm_issuer in 0..3 {
        fields.next()?;
    }
    let mut times = Reader(fields.expect(SEQUENCE)?);
    let validity = Validity { not_before: time(times.next()?)?, not_after: time(times.next()?)? };
    let common_name = common_name(fields.expect(SEQUENCE)?);
    let public_key = fields.next()?;
    let mut is_authority = false;
    while let Some(field) = fields.next() {
        if field.tag == EXTENSIONS {
            is_authority = allows_signing(field.content)?;
        }
    }
    (public_key.tag == SEQUENCE).then_some(Facts { validity, common_name, public_key: public_key.whole, is_authority })
}

fn common_name(name: &[u8]) -> Option<&str> {
    let mut parts = Reader(name);
    let mut part = Reader(parts.expect(SET)?);
    let mut attribute = Reader(part.expect(SEQUENCE)?);
    let is_it = attribute.expect(OBJECT_ID)? == COMMON_NAME && parts.0.is_empty() && part.0.is_empty();
    std::str::from_utf8(attribute.expect(UTF8_STRING)?).ok().filter(|_| is_it)
}

/// Whether basicConstraints say `cA`.
fn allows_signing(extensions: &[u8]) -> Option<bool> {
    let mut extensions = Reader(Reader(extensions).expect(SEQUENCE)?);
    while let Some(extension) = extensions.maybe(SEQUENCE) {
        let mut extension = Reader(extension);
        let id = extension.expect(OBJECT_ID)?;
        let _critical = extension.maybe(BOOLEAN);
        if id == BASIC_CONSTRAINTS {
            let mut constraints = Reader(Reader(extension.expect(OCTET_STRING)?).expect(SEQUENCE)?);
            return Some(constraints.maybe(BOOLEAN).is_some_and(|value| value != [0]));
        }
    }
    Some(false)
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(element: Element<'_>) -> Option<SystemTime> {
    let text = std::str::from_utf8(element.content).ok()?;
    let (year_digits, century) = match element.tag {
        UTC_TIME => (2, None),
        GENERALIZED_TIME => (4, Some(0)),
        _ => return None,
    };
    let digits = text.strip_suffix('Z').filter(|digits| digits.len() == year_digits + 10)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = digits.split_at(year_digits);
    let year: i16 = year.parse().ok()?;
    let year = year + century.unwrap_or(if year < 50 { 2000 } else { 1900 });
    let two = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let civil = DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    let seconds = civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// One element: tag, length, content.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// Elements one after another.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Element { tag: *tag, content, whole })
    }

    /// The next element's content, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|element| element.tag == tag).map(|element| element.content)
    }

    /// The next element's content if it has this tag; else it stays the next.
    fn maybe(&mut self, tag: u8) -> Option<&'a [u8]> {
        (self.0.first() == Some(&tag)).then(|| self.expect(tag)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PublicKeyData as _, date_time_ymd};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["h.example".into()]).unwrap();
        change(&mut params);
        (params.self_signed(&key).unwrap(), key)
    }

    #[test]
    fn the_facts_are_those_that_were_put_in() {
        let (authority, key) = made(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.distinguished_name.push(DnType::CommonName, "an authority");
            (params.not_before, params.not_after) = (date_time_ymd(1999, 12, 31), date_time_ymd(2051, 2, 3));
        });
        let read = facts(authority.der()).unwrap();
        let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        // Before 2050 in two digits, then in four.
        assert_eq!(read.validity, Validity { not_before: day(10_956), not_after: day(29_618) });
        assert_eq!(read.public_key, key.subject_public_key_info());
        assert_eq!((read.common_name, read.is_authority), (Some("an authority"), true));

        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            let (leaf, _) = made(|params| {
                params.is_ca = is_ca;
                params.distinguished_name.push(DnType::CommonName, "a");
                params.distinguished_name.push(DnType::OrganizationName, "b");
            });
            let read = facts(leaf.der()).unwrap();
            assert_eq!((read.common_name, read.is_authority), (None, false));
        }
    }

    proptest! {
        /// Whatever the bytes: read or not, never a panic; and a cut certificate is none.
        #[test]
        fn other_bytes_are_no_certificate(at in 0usize..400, byte: u8, cut in 1usize..400) {
            let (certificate, _) = made(|_| {});
            let mut der = certificate.der().to_vec();
            let len = der.len();
            prop_assert_eq!(facts(&der[..len - cut.min(len)]), None);
            der[at % len] = byte;
            facts(&der);
        }
    }
}

//! The fields of an answer, as one list (RFC 9113 section 8.3).

use http::StatusCode;

use crate::core::fields::{Field, Fields, Known};

/// The most bytes of a list, names and values (what RFC 9113 section 6.5.2 counts beside them is counted too).
pub const MAX_LIST: usize = 64 * 1024;
const FIELD_BYTES: usize = 32;

/// An answer's fields on their way in.
#[derive(Default)]
pub struct AnswerList {
    status: Option<StatusCode>,
    fields: Fields,
    size: usize,
    /// Something in it may not be there.
    malformed: bool,
}

impl AnswerList {
    /// Adds the next field.
    pub fn take(&mut self, name: &[u8], value: &[u8]) {
        self.size = self.size.saturating_add(name.len() + value.len() + FIELD_BYTES);
        if self.size > MAX_LIST || self.malformed {
            self.malformed = true;
        } else if name.first() == Some(&b':') {
            // In front of all others, and once.
            let status = Some(value).filter(|_| name == b":status" && self.status.is_none() && self.fields.is_empty());
            self.status = status.and_then(|status| StatusCode::from_bytes(status).ok());
            self.malformed = self.status.is_none();
        } else {
            self.malformed = !self.add(name, value);
        }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) -> bool {
        // What belongs to one connection (RFC 9113 section 8.2.2) has no meaning on one that many share.
        const FOREIGN: [Known; 4] = [Known::Connection, Known::KeepAlive, Known::TransferEncoding, Known::Upgrade];
        match Field::read(name, value) {
            Some(field) if field.known().is_some_and(|known| FOREIGN.contains(&known)) => false,
            Some(_) if name == b"proxy-connection" => false,
            Some(field) => {
                self.fields.push(field);
                true
            }
            None => false,
        }
    }

    /// The status and the other fields; `None` where this is no answer's head.
    pub fn finish(self) -> Option<(StatusCode, Fields)> {
        let Self { status, fields, malformed, .. } = self;
        status.filter(|_| !malformed).map(|status| (status, fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Option<(u16, Vec<(String, String)>)> {
        let mut list = AnswerList::default();
        fields.iter().for_each(|(name, value)| list.take(name.as_bytes(), value.as_bytes()));
        let (status, fields) = list.finish()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((status.as_u16(), fields.iter().map(|field| (text(field.name()), text(field.value()))).collect()))
    }

    #[test]
    fn an_answers_fields_are_kept_in_their_order() {
        let told = read(&[(":status", "200"), ("content-type", "a/b"), ("x-a", " 1\t2 "), ("x-a", "")]).unwrap();
        let fields = [("content-type", "a/b"), ("x-a", "1\t2"), ("x-a", "")];
        assert_eq!(told, (200, fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let ok = (":status", "200");
        let long = "x".repeat(MAX_LIST);
        for fields in [
            &[][..],
            &[("content-type", "a/b")],
            &[ok, ok],
            &[("x-a", "1"), ok],
            &[ok, ("x-a", "1"), ok],
            &[(":status", "20")],
            &[(":status", "099")],
            &[(":status", "2000")],
            &[(":path", "/")],
            &[ok, (":path", "/")],
            &[(":path", "/"), ok],
            &[ok, ("", "1")],
            &[ok, ("X-A", "1")],
            &[ok, ("Content-Type", "1")],
            &[ok, ("x a", "1")],
            &[ok, ("x:a", "1")],
            &[ok, ("x-a", "1\r\nx-b: 2")],
            &[ok, ("x-a", "\0")],
            &[ok, ("connection", "close")],
            &[ok, ("keep-alive", "1")],
            &[ok, ("proxy-connection", "1")],
            &[ok, ("transfer-encoding", "chunked")],
            &[ok, ("upgrade", "h2c")],
            &[ok, ("x-a", &long)],
        ] {
            assert_eq!(read(fields), None, "{fields:?}");
        }
    }
}

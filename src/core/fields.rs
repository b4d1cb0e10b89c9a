//! Header fields as they stand in a head: one text, and where in it each name and each value is.
//!
//! Most fields of a call are looked at once and written on. A map would hash every name and copy or count every
//! value, which costs more than to look through the dozen that there are.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::eights;

macro_rules! known {
    ($($length:literal { $($name:ident $text:literal)* })*) => {
        /// The names that are looked for, or met in nearly every call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is what it is called")]
        pub enum Known {
            $($($name,)*)*
        }

        impl Known {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$name,)*)*];

            /// The name, in lower case.
            pub const fn as_bytes(self) -> &'static [u8] {
                match self {
                    $($(Self::$name => $text,)*)*
                }
            }

            /// Told apart by their lengths first: few of them have the same.
            fn of(name: &[u8]) -> Option<Self> {
                match name.len() {
                    $($length => match name {
                        $($text => Some(Self::$name),)*
                        _ => None,
                    },)*
                    _ => None,
                }
            }
        }
    };
}

known! {
    4 { Host b"host" Date b"date" }
    6 { Accept b"accept" Cookie b"cookie" Expect b"expect" Origin b"origin" Server b"server" }
    7 { Upgrade b"upgrade" Baggage b"baggage" }
    8 { Location b"location" McpName b"mcp-name" }
    10 { Connection b"connection" KeepAlive b"keep-alive" McpMethod b"mcp-method" SetCookie b"set-cookie" TraceState b"tracestate" UserAgent b"user-agent" }
    11 { TraceParent b"traceparent" }
    12 { ContentType b"content-type" }
    13 { Authorization b"authorization" CacheControl b"cache-control" LastEventId b"last-event-id" }
    14 { ContentLength b"content-length" McpSessionId b"mcp-session-id" }
    15 { AcceptEncoding b"accept-encoding" AcceptLanguage b"accept-language" }
    16 { ContentEncoding b"content-encoding" WwwAuthenticate b"www-authenticate" }
    17 { TransferEncoding b"transfer-encoding" }
    20 { McpProtocolVersion b"mcp-protocol-version" }
}

/// The known names as the library has them, made once.
static NAMES: LazyLock<Vec<Option<HeaderName>>> =
    LazyLock::new(|| Known::ALL.iter().map(|known| HeaderName::from_bytes(known.as_bytes()).ok()).collect());

impl Known {
    /// The name for a map.
    fn to_name(self) -> Option<HeaderName> {
        NAMES.get(self as usize)?.clone()
    }
}

/// Fields that were read, in the order in which they came.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields {
    text: Vec<u8>,
    places: Vec<Place>,
    /// A bit for each of the known names that is there.
    present: u64,
}

const _: () = assert!(Known::ALL.len() <= u64::BITS as usize);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    name: Span,
    value: Span,
    known: Option<Known>,
}

/// Where something stands in the text.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u32,
    to: u32,
}

impl Span {
    fn new(range: Range<usize>) -> Option<Self> {
        Some(Self { from: u32::try_from(range.start).ok()?, to: u32::try_from(range.end).ok()? })
    }

    fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.from as usize..self.to as usize).unwrap_or_default()
    }
}

/// Why something is no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldFault {
    /// The name is not a token (RFC 9110 section 5.1).
    Name,
    /// The value holds a control character that is not the tab (RFC 9110 section 5.5).
    Value,
}

/// One field. Only what has been read as one, or is one for the `http` library, can be such: its name is a token in
/// lower case, and its value cannot end the line it is written on.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
    known: Option<Known>,
}

impl<'a> Field<'a> {
    /// A field of our own.
    pub fn new(name: &'a HeaderName, value: &'a HeaderValue) -> Self {
        let name = name.as_str().as_bytes();
        Self { name, value: value.as_bytes(), known: Known::of(name) }
    }

    /// A field as HTTP/2 has it: its name must be in lower case already (RFC 9113 section 8.2.1). Blanks around the
    /// value are not of it. `None` where it is no field.
    pub fn read(name: &'a [u8], value: &'a [u8]) -> Option<Self> {
        let known = Known::of(name);
        let may = |byte: &u8| is_token(*byte) && !byte.is_ascii_uppercase();
        let is_name = known.is_some() || (!name.is_empty() && name.iter().all(may));
        (is_name && is_value(value)).then(|| Self { name, value: value.trim_ascii(), known })
    }

    /// With another value.
    #[must_use]
    pub fn with(self, value: &'a HeaderValue) -> Self {
        Self { value: value.as_bytes(), ..self }
    }

    /// Which of the known names it has, if one.
    pub fn known(self) -> Option<Known> {
        self.known
    }

    /// The name, in lower case.
    pub fn name(self) -> &'a [u8] {
        self.name
    }

    /// The value.
    pub fn value(self) -> &'a [u8] {
        self.value
    }
}

impl Fields {
    /// No fields yet; they are to be found in `text`.
    pub fn within(text: Vec<u8>) -> Self {
        Self { text, places: Vec::with_capacity(16), present: 0 }
    }

    /// Reads the lines of `text` behind `from`, of which the last has no end, if they are as nearly all are: name,
    /// colon, and a value without tabs in it. `None` where they are not, or are more than `most`: a slower reader
    /// tells what is wrong with them, if anything.
    pub fn read_plain(text: &[u8], from: usize, most: usize) -> Option<Self> {
        let mut fields = Self::within(text.to_vec());
        let mut at = from;
        loop {
            let line = text.get(at..)?;
            let colon = eights::find(line, |eight| eights::equal(eight, b':'))?;
            let value = line.get(colon + 1..)?;
            let end = eights::find(value, eights::control).unwrap_or(value.len());
            let next = match value.get(end..)? {
                [] => end,
                [b'\r', b'\n', _, ..] => end + 2,
                _ => return None,
            };
            let (start, end) = without_spaces(value.get(..end)?);
            let value = at + colon + 1;
            let known = read_name(fields.text.get_mut(at..at + colon)?)?;
            if fields.places.len() == most {
                return None;
            }
            let (name, place) = (Span::new(at..at + colon)?, Span::new(value + start..value + end)?);
            fields.put(Place { name, value: place, known });
            at = value + next;
            if at == text.len() {
                return Some(fields);
            }
        }
    }

    /// Adds the field that stands at these places of the text.
    pub fn add(&mut self, name: Range<usize>, value: Range<usize>) -> Result<(), FieldFault> {
        let known = self.text.get_mut(name.clone()).and_then(read_name).ok_or(FieldFault::Name)?;
        let name = Span::new(name).ok_or(FieldFault::Name)?;
        if !self.text.get(value.clone()).is_some_and(is_value) {
            return Err(FieldFault::Value);
        }
        let value = Span::new(value).ok_or(FieldFault::Value)?;
        self.put(Place { name, value, known });
        Ok(())
    }

    /// Adds a field at the end.
    pub fn push(&mut self, field: Field<'_>) {
        let from = self.text.len();
        self.text.extend_from_slice(field.name);
        let middle = self.text.len();
        self.text.extend_from_slice(field.value);
        // More than 4 GiB of fields are never read.
        if let (Some(name), Some(value)) = (Span::new(from..middle), Span::new(middle..self.text.len())) {
            self.put(Place { name, value, known: field.known });
        }
    }

    fn put(&mut self, place: Place) {
        self.present |= place.known.map_or(0, |known| 1 << known as u32);
        self.places.push(place);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many bytes they take, about.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.places.iter().map(|place| Field {
            name: place.name.of(&self.text),
            value: place.value.of(&self.text),
            known: place.known,
        })
    }

    /// The values of a field.
    pub fn all(&self, name: Known) -> impl Iterator<Item = &[u8]> {
        let places = if self.contains(name) { self.places.as_slice() } else { &[] };
        places.iter().filter(move |place| place.known == Some(name)).map(|place| place.value.of(&self.text))
    }

    /// The first value of a field.
    pub fn get(&self, name: Known) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The same, if it is ASCII.
    pub fn text(&self, name: Known) -> Option<&str> {
        self.get(name).and_then(ascii)
    }

    /// Whether they say that the connection is to be closed (RFC 9112 section 9.6).
    pub fn say_close(&self) -> bool {
        let mut options = self.all(Known::Connection).flat_map(|value| value.split(|byte| *byte == b','));
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    }

    /// Whether a field is there.
    pub fn contains(&self, name: Known) -> bool {
        self.present & (1 << name as u32) != 0
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let size = map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let mut fields = Self { text: Vec::with_capacity(size), places: Vec::with_capacity(map.len()), present: 0 };
        map.iter().for_each(|(name, value)| fields.push(Field::new(name, value)));
        fields
    }
}

/// Tells the names: a value may be somebody's credential.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|field| String::from_utf8_lossy(field.name))).finish()
    }
}

/// A value that is ASCII throughout, as a text.
pub fn ascii(value: &[u8]) -> Option<&str> {
    if value.is_ascii() { std::str::from_utf8(value).ok() } else { None }
}

/// A number in decimal digits, and nothing else.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    let next = |number: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    (!digits.is_empty()).then_some(digits)?.iter().try_fold(0, next)
}

/// Fields to be written, as HTTP/1.1 has them: a line for each, with its end.
#[derive(Clone, Default)]
pub struct FieldLines(Vec<u8>);

impl FieldLines {
    /// With room for lines of so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Adds a line.
    pub fn push(&mut self, field: Field<'_>) {
        write_line(&mut self.0, field.name, field.value);
    }

    /// The lines.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        fields_of(&self.0)
    }

    /// The same as a map, where HTTP/2 wants one.
    pub fn to_map(&self) -> HeaderMap {
        // One copy, which all the values share.
        let lines = Bytes::copy_from_slice(&self.0);
        let field = |field: Field<'_>| {
            let name = field.known.and_then(Known::to_name).or_else(|| HeaderName::from_bytes(field.name).ok());
            Some((name?, HeaderValue::from_maybe_shared(lines.slice_ref(field.value)).ok()?))
        };
        // More than most need: to make room later costs more.
        let mut map = HeaderMap::with_capacity(16);
        // Whatever is one for us is one there.
        for (name, value) in fields_of(&lines).filter_map(field) {
            map.append(name, value);
        }
        map
    }
}

fn fields_of(lines: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut from = 0;
    let lines = memchr::memchr_iter(b'\n', lines).filter_map(move |end| {
        let line = lines.get(std::mem::replace(&mut from, end + 1)..end)?;
        line.strip_suffix(b"\r")
    });
    lines.filter_map(|line| {
        let (name, value) = line.split_at(eights::find(line, |eight| eights::equal(eight, b':'))?);
        Some(Field { name, value: value.strip_prefix(b": ")?, known: Known::of(name) })
    })
}

impl From<&HeaderMap> for FieldLines {
    fn from(map: &HeaderMap) -> Self {
        let mut lines = Self::default();
        map.iter().for_each(|(name, value)| lines.push(Field::new(name, value)));
        lines
    }
}

/// Writes one line of a head.
pub fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether a token may hold the byte (RFC 9110 section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Puts a field's name in lower case, and tells which of the known ones it is; `None` where it is no token.
fn read_name(name: &mut [u8]) -> Option<Option<Known>> {
    eights::lower(name);
    let known = Known::of(name);
    let is_name = known.is_some() || (!name.is_empty() && name.iter().all(|byte| is_token(*byte)));
    is_name.then_some(known)
}

/// Where what is inside the spaces begins and ends.
fn without_spaces(value: &[u8]) -> (usize, usize) {
    let start = value.iter().position(|byte| *byte != b' ').unwrap_or(value.len());
    let end = value.iter().rposition(|byte| *byte != b' ').map_or(start, |last| last + 1);
    (start, end)
}

/// Whether a value may hold all of these bytes.
fn is_value(bytes: &[u8]) -> bool {
    let may = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
    // Tabs are rare.
    eights::find(bytes, eights::control).is_none() || bytes.iter().all(may)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(name: &[u8], value: &[u8]) -> Result<Fields, FieldFault> {
        let mut fields = Fields::within([name, value].concat());
        fields.add(0..name.len(), name.len()..name.len() + value.len())?;
        Ok(fields)
    }

    fn told<'a>(fields: impl Iterator<Item = Field<'a>>) -> Vec<(Vec<u8>, Vec<u8>)> {
        fields.map(|field| (field.name().to_vec(), field.value().to_vec())).collect()
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let mut fields = read(b"Accept", b"a").unwrap();
        for (name, value) in [("accept", "b"), ("accept-encoding", "c"), ("origin", "caf\u{e9}")] {
            fields.push(Field::new(&HeaderName::from_static(name), &HeaderValue::from_str(value).unwrap()));
        }
        assert_eq!((fields.len(), fields.is_empty(), Fields::default().is_empty()), (4, false, true));
        assert_eq!(Vec::from_iter(fields.all(Known::Accept)), [b"a", b"b"]);
        assert_eq!((fields.get(Known::Accept), fields.text(Known::Accept)), (Some(b"a".as_slice()), Some("a")));
        assert_eq!((fields.get(Known::Host), fields.contains(Known::AcceptEncoding)), (None, true));
        assert_eq!((fields.contains(Known::Origin), fields.text(Known::Origin)), (true, None));
    }

    #[test]
    fn each_known_name_is_known() {
        for known in Known::ALL {
            let name = known.as_bytes();
            assert_eq!(Known::of(name), Some(*known), "{known:?}");
            let field = read(&name.to_ascii_uppercase(), b"").unwrap();
            assert_eq!(Known::ALL.iter().filter(|other| field.contains(**other)).collect::<Vec<_>>(), [known]);
            assert_eq!(told(field.iter()), [(name.to_vec(), Vec::new())]);
        }
        assert_eq!((Known::of(b"hosts"), Known::of(b"hos1"), Known::of(b"")), (None, None, None));
    }

    #[test]
    fn places_outside_the_text_are_no_fields() {
        assert_eq!(Fields::within(b"ab".to_vec()).add(0..1, 1..3), Err(FieldFault::Value));
        assert_eq!(Fields::within(b"ab".to_vec()).add(1..3, 0..1), Err(FieldFault::Name));
    }

    #[test]
    fn no_value_is_told() {
        assert_eq!(format!("{:?}", read(b"Authorization", b"Bearer x").unwrap()), "{\"authorization\"}");
    }

    proptest! {
        /// What is a field here is one for a well-known library, and the other way round.
        #[test]
        fn a_field_is_what_others_take_for_one(name in bytes(), value in bytes()) {
            let known = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value));
            match (read(&name, &value), known) {
                (Ok(fields), (Ok(name), Ok(value))) => {
                    prop_assert_eq!(fields.iter().next().and_then(|field| ascii(field.value())), value.to_str().ok());
                    let map: HeaderMap = [(name, value)].into_iter().collect();
                    prop_assert_eq!(told(fields.iter()), told(Fields::from(&map).iter()));
                    // As lines, they are read again as the same.
                    let mut lines = FieldLines::default();
                    fields.iter().for_each(|field| lines.push(field));
                    prop_assert_eq!(told(lines.iter()), told(fields.iter()));
                    let same = FieldLines::from(&map);
                    prop_assert_eq!(lines.as_bytes(), same.as_bytes());
                    prop_assert_eq!(lines.to_map(), map);
                }
                (Err(FieldFault::Name), (Err(_), _)) | (Err(FieldFault::Value), (Ok(_), Err(_))) => {}
                (read, known) => prop_assert!(false, "{:?} {:?}", read, known),
            }
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let often = proptest::sample::select(b"aZ-9_~ \t:".to_vec());
        proptest::collection::vec(prop_oneof![8 => often, 1 => any::<u8>()], 0..40)
    }
}

//! The first message of a TLS client, read for the one thing that decides where it may go: the name
//! it asks for. TLS itself is the TLS library's; it reads the same bytes again.

use super::decide::Refusal;
use super::reason::Reason;
use super::upstream::Host;

/// The longest ClientHello that is looked at; with post-quantum keys they have about 2 KiB.
pub const MAX_HELLO: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// Encrypted ClientHello (RFC 9849), and the drafts under other numbers that came before it.
const HIDDEN_NAME: [u16; 7] = [0xfe0d, 0xfe0c, 0xfe0b, 0xfe0a, 0xfe09, 0xfe08, 0xffce];

/// What it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server name (RFC 6066 section 3), where there is one.
    pub server_name: Option<Host>,
    /// Whether another name may be inside that only the server can read.
    pub hidden: bool,
}

/// Why a first message cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloFault {
    /// Another protocol.
    #[error("the bytes are no TLS ClientHello")]
    NotTls,
    /// Something that two parsers could read differently.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// Longer than [`MAX_HELLO`].
    #[error("the ClientHello is too large")]
    TooLarge,
    /// A server name that is no DNS name.
    #[error("the TLS server name is no DNS name")]
    Name,
}

impl From<HelloFault> for Refusal {
    fn from(fault: HelloFault) -> Self {
        match fault {
            HelloFault::Name => Self::because(Reason::AuthorityMismatch, fault),
            _ => Self::because(Reason::NotHttp, fault),
        }
    }
}

/// Whether the first byte of a connection begins a TLS handshake.
pub fn is_tls(first: u8) -> bool {
    first == HANDSHAKE
}

/// Reads what has come so far; `None` asks for more.
pub fn read(bytes: &[u8]) -> Result<Option<Hello>, HelloFault> {
    match message(bytes)? {
        Some(message) => hello(&message).map(Some),
        None => Ok(None),
    }
}

impl Hello {
    /// The name that was asked for on a connection to `known`, if that was told; it must be the same,
    /// and nothing may be hidden.
    pub fn agreed(&self, known: Option<&Host>) -> Result<Host, Refusal> {
        let mismatch = |detail: &str| Refusal::because(Reason::AuthorityMismatch, detail);
        if self.hidden {
            return Err(mismatch("the ClientHello hides its server name (ECH)"));
        }
        match (&self.server_name, known) {
            (Some(name), None) => Ok(name.clone()),
            (Some(name), Some(known)) if name == known => Ok(name.clone()),
            (Some(_), Some(_)) => Err(mismatch("the TLS server name and the target of CONNECT disagree")),
            // RFC 6066: an address is no server name.
            (None, Some(known @ Host::Address(_))) => Ok(known.clone()),
            (None, _) => Err(mismatch("the ClientHello names no server")),
        }
    }
}

/// The handshake message, taken out of its records (RFC 8446 section 5.1).
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, HelloFault> {
    let mut message = Vec::new();
    let mut rest = Reader(bytes);
    loop {
        match rest.0.first() {
            Some(&HANDSHAKE) => {}
            Some(_) if message.is_empty() => return Err(HelloFault::NotTls),
            Some(_) => return Err(HelloFault::Malformed),
            None => return Ok(None),
        }
        match rest.0.get(1) {
            Some(3) | None => {}
            Some(_) => return Err(HelloFault::NotTls),
        }
        let Some(header) = rest.take(5) else { return Ok(None) };
        let Some(length) = header.get(3..).and_then(|bytes| Reader(bytes).number(2)) else { return Ok(None) };
        if length == 0 {
            return Err(HelloFault::Malformed);
        }
        if message.len() + length > MAX_HELLO {
            return Err(HelloFault::TooLarge);
        }
        let Some(fragment) = rest.take(length) else { return Ok(None) };
        message.extend_from_slice(fragment);
        if message.first() != Some(&CLIENT_HELLO) {
            return Err(HelloFault::NotTls);
        }
        let mut reader = Reader(message.get(1..).unwrap_or_default());
        let Some(wanted) = reader.number(3) else { continue };
        match reader.0.len() {
            there if there == wanted => return Ok(Some(reader.0.to_vec())),
            there if there > wanted => return Err(HelloFault::Malformed),
            _ if wanted > MAX_HELLO => return Err(HelloFault::TooLarge),
            _ => {}
        }
    }
}

/// RFC 8446 section 4.1.2.
fn hello(message: &[u8]) -> Result<Hello, HelloFault> {
    let mut reader = Reader(message);
    // Version and random; session, cipher suites, compression.
    for part in [reader.take(2 + 32), reader.vector(1), reader.vector(2), reader.vector(1)] {
        part.ok_or(HelloFault::Malformed)?;
    }
    let mut found = Hello { server_name: None, hidden: false };
    if reader.0.is_empty() {
        return Ok(found);
    }
    let mut extensions = Reader(reader.vector(2).filter(|_| reader.0.is_empty()).ok_or(HelloFault::Malformed)?);
    let mut named = false;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2).and_then(|kind| u16::try_from(kind).ok());
        let (Some(kind), Some(data)) = (kind, extensions.vector(2)) else { return Err(HelloFault::Malformed) };
        found.hidden |= HIDDEN_NAME.contains(&kind);
        if kind == SERVER_NAME {
            if std::mem::replace(&mut named, true) {
                return Err(HelloFault::Malformed);
            }
            found.server_name = Some(server_name(data)?);
        }
    }
    Ok(found)
}

/// One name of the one kind that there is.
fn server_name(data: &[u8]) -> Result<Host, HelloFault> {
    let mut outer = Reader(data);
    let list = outer.vector(2).filter(|_| outer.0.is_empty()).ok_or(HelloFault::Malformed)?;
    let mut list = Reader(list);
    let kind = list.number(1);
    let name = list.vector(2).filter(|_| kind == Some(0) && list.0.is_empty()).ok_or(HelloFault::Malformed)?;
    match std::str::from_utf8(name).ok().and_then(Host::parse) {
        Some(host @ Host::Name(_)) => Ok(host),
        _ => Err(HelloFault::Name),
    }
}

/// Takes from the front, as far as there is something.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        self.take(width).map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What follows its own length of this width.
    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.number(width)?;
        self.take(length)
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;

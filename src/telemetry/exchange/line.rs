//! The access line: gathered while the exchange runs, and written once, straight to where it waits.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::Outcome;
use crate::core::decide::Refusal;
use crate::core::name::{Caller, ServerName};
use crate::core::session::SessionDigest;
use crate::telemetry::json::{milliseconds, number, plain, text};

/// What the line tells. None of it can hold a value, a query or an argument.
#[derive(Debug, Default)]
pub(super) struct Line {
    http: Cow<'static, str>,
    pub(super) capture: Option<&'static str>,
    pub(super) destination: Option<SocketAddr>,
    pub(super) protocol: Option<&'static str>,
    pub(super) passthrough: Option<String>,
    pub(super) method: Option<&'static str>,
    pub(super) tool: Option<Kept>,
    pub(super) rpc_id: Option<Kept>,
    pub(super) status: Option<u16>,
    pub(super) masked: Option<u64>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) headers: Option<Duration>,
    pub(super) session: Option<SessionDigest>,
    pub(super) secret: Option<Kept>,
    pub(super) secret_version: Option<Kept>,
    pub(super) generation: Option<u64>,
    pub(super) traceparent: Option<Kept>,
    pub(super) texts: Texts,
}

/// What is known only at the end.
pub(super) struct End<'a> {
    pub(super) caller: &'a CallerFields,
    pub(super) server: Option<&'a ServerName>,
    pub(super) outcome: Outcome,
    pub(super) refusal: Option<&'a Refusal>,
    pub(super) time: Duration,
}

/// The caller as every line tells it.
#[derive(Debug)]
pub(super) struct CallerFields(Vec<u8>);

impl CallerFields {
    pub(super) fn of(caller: &Caller) -> Self {
        let mut out = b"{\"namespace\":".to_vec();
        text(&mut out, caller.key.namespace.as_str());
        out.extend_from_slice(b",\"serviceAccount\":");
        text(&mut out, caller.key.service_account.as_str());
        if let Some(pod) = &caller.pod {
            out.extend_from_slice(b",\"pod\":");
            text(&mut out, pod.as_str());
        }
        out.push(b'}');
        Self(out)
    }
}

/// The texts of one line, one after the other: they are kept and dropped at once.
#[derive(Debug, Default)]
pub(super) struct Texts(String);

/// Where one of them is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    start: u32,
    end: u32,
}

/// The longest text of the agent's that goes into the log, in characters.
const MAX_TEXT: usize = 128;

impl Texts {
    /// Keeps a text as it is.
    pub(super) fn keep(&mut self, text: &str) -> Kept {
        let start = self.0.len();
        if start == 0 {
            // What a call usually has to keep.
            self.0.reserve(128);
        }
        self.0.push_str(text);
        let at = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        Kept { start: at(start), end: at(self.0.len()) }
    }

    /// Keeps the beginning of a text of the agent's.
    pub(super) fn keep_clipped(&mut self, text: &str) -> Kept {
        let Some(beginning) = clipped(text) else { return self.keep(text) };
        let mut kept = self.keep(beginning);
        kept.end = self.keep("…").end;
        kept
    }

    fn get(&self, kept: Kept) -> &str {
        self.0.get(kept.start as usize..kept.end as usize).unwrap_or_default()
    }
}

/// The beginning of a text that is too long.
fn clipped(text: &str) -> Option<&str> {
    if text.len() <= MAX_TEXT {
        return None;
    }
    let (end, _) = text.char_indices().nth(MAX_TEXT)?;
    text.get(..end)
}

/// The methods by which exchanges begin, but for the agent's inventions; and what stands for one where
/// there is none.
const METHODS: [&str; 10] = ["POST", "GET", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS", "CONNECT", "TLS", "?"];

/// The comma, the name and the colon before a field's value.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

impl Line {
    /// A line of an exchange with this HTTP method.
    pub(super) fn new(http: &str) -> Self {
        let known = METHODS.into_iter().find(|known| *known == http).map(Cow::Borrowed);
        let invented = || clipped(http).map_or_else(|| http.to_owned(), |beginning| format!("{beginning}…")).into();
        Self { http: known.unwrap_or_else(invented), ..Self::default() }
    }

    /// The HTTP method.
    pub(super) fn http(&self) -> &str {
        &self.http
    }

    /// The method as a label.
    pub(super) fn method_label(&self) -> &'static str {
        // Without a method in the body, the kind of request is what there is to tell.
        self.method.unwrap_or(match self.http() {
            "GET" => "get",
            "DELETE" => "delete",
            "POST" => "response",
            _ => "other",
        })
    }

    /// Writes it, with its line feed.
    pub(super) fn write(&self, out: &mut Vec<u8>, time: impl FnOnce(&mut Vec<u8>), end: &End<'_>) {
        // What most lines need: a buffer that grows while it is written to is copied.
        out.reserve(768);
        out.extend_from_slice(b"{\"time\":\"");
        time(out);
        out.push(b'"');
        out.extend_from_slice(key!("caller"));
        out.extend_from_slice(&end.caller.0);
        self.request(out, end);
        self.course(out, end);
        self.credential(out);
        out.extend_from_slice(b"}\n");
    }

    /// What the request was.
    fn request(&self, out: &mut Vec<u8>, end: &End<'_>) {
        field(out, key!("server"), end.server.map(ServerName::as_str), plain);
        field(out, key!("http"), Some(self.http()), text);
        field(out, key!("capture"), self.capture, plain);
        field(out, key!("destination"), self.destination, address);
        field(out, key!("protocol"), self.protocol, plain);
        field(out, key!("passthrough"), self.passthrough.as_deref(), text);
        field(out, key!("method"), self.method, plain);
        field(out, key!("tool"), self.kept(self.tool), text);
        field(out, key!("rpc_id"), self.kept(self.rpc_id), text);
    }

    /// What became of it.
    fn course(&self, out: &mut Vec<u8>, end: &End<'_>) {
        let detail = end.refusal.and_then(|refusal| refusal.detail.as_deref());
        field(out, key!("status"), self.status.map(u64::from), number);
        field(out, key!("outcome"), Some(end.outcome.as_str()), plain);
        field(out, key!("reason"), end.refusal.map(|refusal| refusal.reason.as_str()), plain);
        field(out, key!("detail"), detail, text);
        field(out, key!("masked"), self.masked, number);
        field(out, key!("bytes_in"), Some(self.bytes_in), number);
        field(out, key!("bytes_out"), Some(self.bytes_out), number);
        field(out, key!("headers_ms"), self.headers, milliseconds);
        field(out, key!("duration_ms"), Some(end.time), milliseconds);
    }

    /// What it had, and where it belongs.
    fn credential(&self, out: &mut Vec<u8>) {
        field(out, key!("session"), self.session.map(|digest| digest.short()), plain);
        field(out, key!("secret"), self.kept(self.secret), text);
        field(out, key!("secret_version"), self.kept(self.secret_version), text);
        field(out, key!("generation"), self.generation, number);
        field(out, key!("traceparent"), self.kept(self.traceparent), text);
    }

    fn kept(&self, kept: Option<Kept>) -> Option<&str> {
        kept.map(|kept| self.texts.get(kept))
    }
}

/// One field, if it has a value. Inlined, so that the key is copied as the few words that it is.
#[inline(always)]
fn field<T>(out: &mut Vec<u8>, key: &'static [u8], value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        write(out, value);
    }
}

fn address(out: &mut Vec<u8>, address: SocketAddr) {
    // A vector takes whatever is written to it.
    let _never = write!(out, "\"{address}\"");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::{CallerKey, Namespace, ObjectName, ServiceAccount};
    use crate::core::reason::Reason;

    fn caller(pod: Option<&str>) -> CallerFields {
        let key = CallerKey {
            namespace: Namespace::parse("research").unwrap(),
            service_account: ServiceAccount::parse("research-agent").unwrap(),
            user: None,
        };
        CallerFields::of(&Caller { key, pod: pod.map(|pod| ObjectName::parse(pod).unwrap()) })
    }

    fn written(line: &Line, end: &End<'_>) -> String {
        let mut out = b"before\n".to_vec();
        line.write(&mut out, |out| out.extend_from_slice(b"2026-11-24T04:37:17.395Z"), end);
        String::from_utf8(out).unwrap()
    }

    /// Whoever reads the log counts on this form: a change of it is a breaking change.
    #[test]
    fn a_line_with_every_field_is_pinned() {
        let mut line = Line::new("POST");
        line.capture = Some("redirect");
        line.destination = Some("[2001:db8::1]:443".parse().unwrap());
        line.protocol = Some("HTTP/1.1");
        line.passthrough = Some("*.example".into());
        line.method = Some("tools/call");
        line.tool = Some(line.texts.keep_clipped("se\u{202e}arch"));
        line.rpc_id = Some(line.texts.keep_clipped("\"r-1\""));
        line.status = Some(502);
        line.masked = Some(2);
        (line.bytes_in, line.bytes_out) = (271, 18_446_744_073_709_551_615);
        line.headers = Some(Duration::from_micros(787));
        line.session = Some(SessionDigest::of(b"abc"));
        line.secret = Some(line.texts.keep("github-secret"));
        line.secret_version = Some(line.texts.keep(""));
        line.generation = Some(1);
        line.traceparent = Some(line.texts.keep_clipped("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        let refusal = Refusal::because(Reason::UpstreamUnreachable, "a\\b");
        let server = ServerName::parse("github").unwrap();
        let end = End {
            caller: &caller(Some("agent-0")),
            server: Some(&server),
            outcome: Outcome::Refused,
            refusal: Some(&refusal),
            time: Duration::from_micros(1_182_010),
        };
        let expected = concat!(
            "before\n",
            r#"{"time":"2026-11-24T04:37:17.395Z","#,
            r#""caller":{"namespace":"research","serviceAccount":"research-agent","pod":"agent-0"},"#,
            r#""server":"github","http":"POST","capture":"redirect","destination":"[2001:db8::1]:443","#,
            r#""protocol":"HTTP/1.1","passthrough":"*.example","method":"tools/call","tool":"se\u202earch","#,
            r#""rpc_id":"\"r-1\"","status":502,"outcome":"refused","reason":"upstream_unreachable","#,
            r#""detail":"a\\b","masked":2,"bytes_in":271,"bytes_out":18446744073709551615,"headers_ms":0.787,"#,
            // SHA-256 of abc, as FIPS 180-2 has it.
            r#""duration_ms":1182.01,"session":"ba7816bf","secret":"github-secret","secret_version":"","#,
            r#""generation":1,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
            "\n"
        );
        assert_eq!(written(&line, &end), expected);
    }

    #[test]
    fn a_field_without_a_value_is_left_out() {
        let end = End {
            caller: &caller(None),
            server: None,
            outcome: Outcome::ClientClosed,
            refusal: None,
            time: Duration::ZERO,
        };
        let expected = concat!(
            "before\n",
            r#"{"time":"2026-11-24T04:37:17.395Z","#,
            r#""caller":{"namespace":"research","serviceAccount":"research-agent"},"http":"?","#,
            r#""outcome":"client_closed","bytes_in":0,"bytes_out":0,"duration_ms":0.0}"#,
            "\n"
        );
        assert_eq!(written(&Line::new("?"), &end), expected);
    }

    /// By characters, whatever they take.
    #[test]
    fn a_text_of_the_agents_is_cut() {
        for character in ["x", "é", "\u{1f600}"] {
            let mut line = Line::new(&character.repeat(129));
            assert_eq!(line.http(), character.repeat(128) + "…");
            let (fits, longer) = (character.repeat(128), character.repeat(129));
            let kept = [line.texts.keep_clipped(&fits), line.texts.keep_clipped(&longer), line.texts.keep("last")];
            let texts = kept.map(|kept| line.texts.get(kept));
            assert_eq!(texts, [fits.as_str(), &(character.repeat(128) + "…"), "last"]);
        }
    }

    #[test]
    fn without_a_method_in_the_body_the_request_has_a_label() {
        for (http, label) in [("GET", "get"), ("DELETE", "delete"), ("POST", "response"), ("BREW", "other")] {
            assert_eq!((Line::new(http).http(), Line::new(http).method_label()), (http, label));
        }
        assert_eq!(Line { method: Some("ping"), ..Line::new("POST") }.method_label(), "ping");
    }
}

//! What a server says on an HTTP/2 connection, after its settings: wherever it is cut, the answers are the same, each
//! the bytes that were sent for it and no others; and what we say in return is in frames, within the windows.
//!
//! Three calls are under way: 1 without a body, 3 with a long one, and 5, the answer of which has no body.

use std::task::{Context, Poll, Waker};

use http::{HeaderName, HeaderValue};
use postern::core::http2::session::{Loss, Session};

use super::pieces;

const BODY: &[u8] = &[b'x'; 200_000];
const CALLS: [(u32, bool, &[u8]); 3] = [(1, false, b""), (3, false, BODY), (5, true, b"")];
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// A frame's kind, flags, stream and payload.
type Frame<'a> = (u8, u8, u32, &'a [u8]);

pub fn check(data: &[u8]) -> &'static str {
    let told = run(&[data]);
    for pieces in pieces::ways(data) {
        assert_eq!(run(&pieces), told, "depends on the pieces {pieces:?}");
    }
    let (came, _) = frames(data);
    for answer in &told.answers {
        sent_for_it(answer, &came);
    }
    let (said, rest) = frames(&told.said);
    assert_eq!(rest, b"", "a frame that is cut off");
    in_return(&told, &came, &said);
    if told.over {
        "broken"
    } else if told.answers.iter().any(|answer| answer.end == Some(Ok(()))) {
        "answered"
    } else {
        "open"
    }
}

/// A name and a value.
type Field = (Vec<u8>, Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
struct Told {
    answers: Vec<Answer>,
    /// What we say in return.
    said: Vec<u8>,
    over: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    id: u32,
    head: Option<(u16, Vec<Field>)>,
    data: Vec<u8>,
    end: Option<Result<(), Loss>>,
}

fn run(pieces: &[&[u8]]) -> Told {
    let cx = Context::from_waker(Waker::noop());
    let mut session = Session::new(CALLS.len() as u32);
    session.feed(SETTINGS);
    for (id, bodiless, body) in CALLS {
        let body = Some(body).filter(|body| !body.is_empty());
        let opened = session.poll_open(&cx, bodiless, body, |out| out.push(0x82));
        assert_eq!(opened, Poll::Ready(Ok(id)));
    }
    session.take_out(&mut Vec::new());
    let mut unread = Vec::new();
    for piece in pieces {
        unread.extend_from_slice(piece);
        let whole = session.feed(&unread);
        unread.drain(..whole);
    }
    let mut answers = Vec::new();
    for (id, ..) in CALLS {
        let head = match session.poll_head(id, &cx) {
            Poll::Ready(Ok(head)) => {
                let fields = head.fields.iter().map(|field| (field.name().to_vec(), field.value().to_vec()));
                Some((head.status.as_u16(), fields.collect()))
            }
            _ => None,
        };
        let (mut data, mut end) = (Vec::new(), None);
        while let Poll::Ready(next) = session.poll_data(id, &cx) {
            match next {
                Some(Ok(piece)) => data.extend_from_slice(&piece),
                other => {
                    end = Some(other.map_or(Ok(()), |lost| Err(lost.expect_err("pieces were taken"))));
                    break;
                }
            }
        }
        answers.push(Answer { id, head, data, end });
    }
    let mut said = Vec::new();
    loop {
        let mut more = Vec::new();
        session.take_out(&mut more);
        if more.is_empty() {
            return Told { answers, said, over: session.is_over() };
        }
        said.append(&mut more);
    }
}

fn frames(mut bytes: &[u8]) -> (Vec<Frame<'_>>, &[u8]) {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, d, e, f, g, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, next)) = rest.split_at_checked(length) else { break };
        frames.push((*kind, *flags, u32::from_be_bytes([*d, *e, *f, *g]) & (u32::MAX >> 1), payload));
        bytes = next;
    }
    (frames, bytes)
}

/// The body is the payloads of the stream, as far as they go, and all of them where it has ended.
fn sent_for_it(answer: &Answer, came: &[Frame<'_>]) {
    let mut whole = Vec::new();
    let mut has_ended = false;
    for (kind, flags, id, payload) in came {
        if *id != answer.id || has_ended {
            continue;
        }
        if *kind == 0 {
            whole.extend_from_slice(match payload.split_first() {
                Some((padding, rest)) if flags & 8 != 0 => &rest[..rest.len().saturating_sub(usize::from(*padding))],
                _ if flags & 8 != 0 => b"",
                _ => payload,
            });
        }
        has_ended |= flags & 1 != 0 && matches!(kind, 0 | 1);
    }
    assert!(whole.starts_with(&answer.data), "{}: other bytes than came for it", answer.id);
    assert!(answer.data.is_empty() || answer.head.is_some(), "{}: a body without a head", answer.id);
    if answer.end == Some(Ok(())) {
        assert!(has_ended && whole == answer.data, "{}: ended, but not where the server says", answer.id);
    }
    let fields = answer.head.iter().flat_map(|(_, fields)| fields);
    for (name, value) in fields {
        let lower = !name.iter().any(u8::is_ascii_uppercase);
        assert!(lower && HeaderName::from_bytes(name).is_ok() && HeaderValue::from_bytes(value).is_ok(), "no field");
    }
}

fn in_return(told: &Told, came: &[Frame<'_>], said: &[Frame<'_>]) {
    let count = |frames: &[Frame<'_>], kind: u8, ack: u8| {
        frames.iter().filter(|(other, flags, ..)| *other == kind && flags & 1 == ack).count()
    };
    for (kind, acknowledged) in [(4, count(said, 4, 1)), (6, count(said, 6, 1))] {
        let asked = count(came, kind, 0);
        assert!(acknowledged <= asked && (told.over || acknowledged == asked), "{kind}: {acknowledged} of {asked}");
    }
    let mut sent = 0;
    for (kind, flags, id, payload) in said {
        match kind {
            0 => sent += payload.len(),
            3 => assert!([1, 3, 5].contains(id) && payload.len() == 4),
            4 | 6 => assert!(*id == 0 && *flags == 1),
            7 => assert!(told.over && *id == 0),
            8 => assert!(payload.len() == 4 && *payload != [0; 4]),
            other => panic!("a frame of kind {other}"),
        }
    }
    let windows = came.iter().filter(|(kind, _, id, _)| *kind == 8 && *id == 0);
    let more: usize = windows.filter_map(|frame| Some(u32::from_be_bytes(frame.3.try_into().ok()?) as usize)).sum();
    // The first windows were used before.
    assert!(sent <= more.min(BODY.len()), "{sent} bytes beyond the window");
}

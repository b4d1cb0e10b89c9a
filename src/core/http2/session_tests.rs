//! A connection from its first byte to its last, without a socket: what comes, what is said in return, what each
//! exchange is told.

use super::super::Frame;
use super::super::hpack::{Keep, put_field, put_known, put_value};
use super::*;

#[path = "session/window_tests.rs"]
mod windows;

const MOST: u32 = 4;
const OK: u8 = 8;

type Call = Session<&'static [u8]>;
/// An answer's status and length, or its loss and whether not a byte of the request was taken.
type Told = Result<(u16, Option<u64>), (Loss, bool)>;

/// A connection that the server has greeted, with what we said first gone.
fn greeted() -> Call {
    let mut session = Session::new(MOST);
    sent(&mut session);
    session.feed(&settings(&[]));
    sent(&mut session);
    session
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, kind, flags, id, payload);
    out
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        pairs.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

fn list(status: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_known(&mut out, status);
    fields.iter().for_each(|(name, value)| put_field(&mut out, name.as_bytes(), value.as_bytes(), Keep::Not));
    out
}

fn head(id: u32, ends: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | u8::from(ends), id, &list(OK, fields))
}

fn data(id: u32, ends: bool, data: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(ends), id, data)
}

fn number(kind: u8, id: u32, number: u32) -> Vec<u8> {
    frame(kind, 0, id, &number.to_be_bytes())
}

fn go_away(last: u32, code: Code) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Begins an exchange with this body.
fn open(session: &mut Call, body: &'static [u8]) -> Poll<Result<u32, Loss>> {
    session.poll_open(&cx(), false, Some(body).filter(|body| !body.is_empty()), |out| put_known(out, 2))
}

fn opened(session: &mut Call, body: &'static [u8]) -> u32 {
    let Poll::Ready(Ok(id)) = open(session, body) else { panic!("there is room for one more") };
    id
}

/// What is sent next, and is taken: kind, flags, stream and payload of each frame.
fn sent(session: &mut Call) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut out = Vec::new();
    session.take_out(&mut out);
    session.took(out.len());
    let mut rest = out.strip_prefix(PREFACE).unwrap_or(&out);
    let mut frames = Vec::new();
    while let Some((frame, length)) = Frame::read(rest).unwrap() {
        frames.push((frame.kind, frame.flags, frame.id, frame.payload.to_vec()));
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    frames
}

fn told(session: &mut Call, id: u32) -> Poll<Told> {
    session.poll_head(id, &cx()).map(|head| head.map(|head| (head.status.as_u16(), head.length)))
}

fn piece(session: &mut Call, id: u32) -> Poll<Option<Result<Bytes, Loss>>> {
    session.poll_data(id, &cx())
}

fn some(text: &'static str) -> Poll<Option<Result<Bytes, Loss>>> {
    Poll::Ready(Some(Ok(Bytes::from_static(text.as_bytes()))))
}

#[test]
fn a_connection_begins_as_it_must() {
    let mut session: Call = Session::new(MOST);
    let mut out = Vec::new();
    session.take_out(&mut out);
    let settings = b"\0\x02\0\0\0\0\0\x04\0\x02\0\0\0\x06\0\x01\0\0";
    let expected = [PREFACE, &frame(kind::SETTINGS, 0, 0, settings), b"\0\0\x04\x08\0\0\0\0\0\0\xff\0\x01"].concat();
    assert_eq!(out, expected);
}

#[test]
fn an_exchange_has_its_answer() {
    let mut session = greeted();
    let id = opened(&mut session, b"question");
    let request = vec![(kind::HEADERS, flag::END_HEADERS, 1, vec![0x82]), (kind::DATA, 1, 1, b"question".to_vec())];
    assert_eq!((id, sent(&mut session)), (1, request));
    assert_eq!((told(&mut session, id), piece(&mut session, id)), (Poll::Pending, Poll::Pending));
    session.feed(&[head(1, false, &[("content-length", "6")]), data(1, false, b"an"), data(1, true, b"swer")].concat());
    assert_eq!(told(&mut session, id), Poll::Ready(Ok((200, Some(6)))));
    assert_eq!(piece(&mut session, id), some("answer"));
    assert_eq!(piece(&mut session, id), Poll::Ready(None));
    session.close(id);
    assert!(session.is_idle() && sent(&mut session).is_empty());
}

/// Heads may come in parts, with padding and with a priority, after heads that are none yet; trailers are passed over.
#[test]
fn a_head_may_come_in_any_dress() {
    let mut session = greeted();
    let id = opened(&mut session, b"");
    assert_eq!(sent(&mut session), [(kind::HEADERS, 5, 1, vec![0x82])]);
    let mut interim = Vec::new();
    put_value(&mut interim, 8, b"103");
    session.feed(&frame(kind::HEADERS, flag::END_HEADERS, 1, &interim));
    assert_eq!(told(&mut session, id), Poll::Pending);
    let list = list(OK, &[("x-a", "b")]);
    let dressed = [b"\x02\0\0\0\x01\xff".as_slice(), &list[..2], b"\0\0"].concat();
    session.feed(&frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &dressed));
    session.feed(&frame(kind::CONTINUATION, 0, 1, &list[2..3]));
    session.feed(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, &list[3..]));
    assert_eq!(told(&mut session, id), Poll::Ready(Ok((200, None))));
    session.feed(&frame(kind::DATA, flag::PADDED, 1, b"\x03text\0\0\0"));
    session.feed(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[0x82]));
    assert_eq!((piece(&mut session, id), piece(&mut session, id)), (some("text"), Poll::Ready(None)));
}

#[test]
fn a_long_head_is_sent_in_parts() {
    let mut session = greeted();
    let long = vec![b'x'; 2 * MAX_FRAME];
    let opened = session.poll_open(&cx(), false, None, |out| out.extend_from_slice(&long));
    assert_eq!(opened, Poll::Ready(Ok(1)));
    let frames = sent(&mut session);
    let shapes: Vec<_> = frames.iter().map(|(kind, flags, id, list)| (*kind, *flags, *id, list.len())).collect();
    let (first, last) = ((kind::HEADERS, flag::END_STREAM, 1, MAX_FRAME), (kind::CONTINUATION, 4, 1, MAX_FRAME));
    assert_eq!(shapes, [first, last]);
    assert!(frames.iter().all(|frame| frame.3.iter().all(|byte| *byte == b'x')));
}

/// The end of a body is at its END_STREAM, and where its head says.
#[test]
fn a_length_that_is_not_kept_is_a_break() {
    let length = [("content-length", "3")];
    for (frames, whole) in [
        (vec![head(1, false, &length), data(1, true, b"abc")], true),
        (vec![head(1, false, &length), data(1, true, b"ab")], false),
        (vec![head(1, false, &length), data(1, false, b"abcd")], false),
        (vec![head(1, true, &length)], false),
        (vec![head(1, true, &[])], true),
        (vec![head(1, true, &[("content-length", "0")])], true),
        (vec![head(1, false, &[("content-length", "3"), ("content-length", "4")])], false),
        (vec![head(1, false, &[("content-length", "x")])], false),
    ] {
        let mut session = greeted();
        let id = opened(&mut session, b"");
        sent(&mut session);
        session.feed(&frames.concat());
        let answered = matches!(told(&mut session, id), Poll::Ready(Ok(_)));
        let mut last = piece(&mut session, id);
        while matches!(last, Poll::Ready(Some(Ok(_)))) {
            last = piece(&mut session, id);
        }
        let lost = Loss::Malformed(Code::PROTOCOL_ERROR);
        let expected = if whole { None } else { Some(Err(lost)) };
        assert_eq!(last, Poll::Ready(expected), "{frames:?}");
        assert!(answered || !whole, "{frames:?}");
        let resets = if whole { vec![] } else { vec![(kind::RST_STREAM, 0, 1, vec![0, 0, 0, 1])] };
        assert_eq!(sent(&mut session), resets, "{frames:?}");
        assert!(!session.is_over(), "the connection goes on");
    }
}

/// Whatever their fields say.
#[test]
fn some_answers_have_no_body() {
    for (status, bodiless) in [(OK, true), (9, false), (11, false)] {
        let mut session = greeted();
        let opened = session.poll_open(&cx(), bodiless, None, |out| put_known(out, 2));
        assert_eq!(opened, Poll::Ready(Ok(1)));
        session.feed(&frame(kind::HEADERS, 5, 1, &list(status, &[("content-length", "3")])));
        assert!(matches!(told(&mut session, 1), Poll::Ready(Ok((_, Some(0))))), "{status}");
        assert_eq!(piece(&mut session, 1), Poll::Ready(None), "{status}");
    }
}

/// What breaks a rule on one stream costs that stream.
#[test]
fn a_malformed_answer_costs_its_stream() {
    for (frames, code) in [
        (data(1, true, b"no head"), Code::PROTOCOL_ERROR),
        (head(1, false, &[("connection", "close")]), Code::PROTOCOL_ERROR),
        (frame(kind::HEADERS, 4, 1, &[]), Code::PROTOCOL_ERROR),
        (number(kind::WINDOW_UPDATE, 1, 0), Code::PROTOCOL_ERROR),
        (number(kind::WINDOW_UPDATE, 1, MAX_ID), Code::FLOW_CONTROL_ERROR),
    ] {
        let mut session = greeted();
        let (first, second) = (opened(&mut session, b""), opened(&mut session, b""));
        sent(&mut session);
        session.feed(&frames);
        assert_eq!(told(&mut session, first), Poll::Ready(Err((Loss::Malformed(code), false))), "{frames:?}");
        assert_eq!(sent(&mut session), [(kind::RST_STREAM, 0, 1, code.0.to_be_bytes().to_vec())], "{frames:?}");
        session.feed(&head(second, true, &[]));
        assert!(told(&mut session, second).is_ready(), "{frames:?}");
    }
    // What follows 101 would be something else, and nothing follows an end.
    for (status, flags) in [(b"101", flag::END_HEADERS), (b"103", flag::END_HEADERS | flag::END_STREAM)] {
        let mut session = greeted();
        let id = opened(&mut session, b"");
        let mut list = Vec::new();
        put_value(&mut list, 8, status);
        session.feed(&frame(kind::HEADERS, flags, 1, &list));
        assert!(matches!(told(&mut session, id), Poll::Ready(Err((Loss::Malformed(_), _)))));
    }
}

/// What breaks a rule of the connection ends it, and says why.
#[test]
fn a_broken_protocol_ends_the_connection() {
    let long = vec![b'x'; MAX_FRAME];
    for (frames, code) in [
        (data(0, false, b""), Code::PROTOCOL_ERROR),
        (data(2, false, b""), Code::PROTOCOL_ERROR),
        (data(5, false, b""), Code::PROTOCOL_ERROR),
        (head(0, false, &[]), Code::PROTOCOL_ERROR),
        (head(5, false, &[]), Code::PROTOCOL_ERROR),
        (number(kind::RST_STREAM, 5, 0), Code::PROTOCOL_ERROR),
        (frame(kind::RST_STREAM, 0, 1, b"abc"), Code::FRAME_SIZE_ERROR),
        (frame(kind::SETTINGS, 0, 1, b""), Code::PROTOCOL_ERROR),
        (frame(kind::SETTINGS, 0, 0, b"12345"), Code::FRAME_SIZE_ERROR),
        (frame(kind::SETTINGS, flag::ACK, 0, b"123456"), Code::FRAME_SIZE_ERROR),
        (settings(&[(2, 1)]), Code::PROTOCOL_ERROR),
        (settings(&[(4, MAX_ID + 1)]), Code::FLOW_CONTROL_ERROR),
        (settings(&[(5, 16_383)]), Code::PROTOCOL_ERROR),
        (settings(&[(5, 1 << 24)]), Code::PROTOCOL_ERROR),
        (frame(kind::PUSH_PROMISE, 4, 1, b"\0\0\0\x02\x82"), Code::PROTOCOL_ERROR),
        (frame(kind::PING, 0, 0, b"1234567"), Code::FRAME_SIZE_ERROR),
        (frame(kind::PING, 0, 1, b"12345678"), Code::PROTOCOL_ERROR),
        (frame(kind::GOAWAY, 0, 0, b"1234567"), Code::FRAME_SIZE_ERROR),
        (frame(kind::GOAWAY, 0, 1, b"12345678"), Code::PROTOCOL_ERROR),
        (number(kind::WINDOW_UPDATE, 0, 0), Code::PROTOCOL_ERROR),
        (number(kind::WINDOW_UPDATE, 0, MAX_ID), Code::FLOW_CONTROL_ERROR),
        (number(kind::WINDOW_UPDATE, 5, 1), Code::PROTOCOL_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 1, b"abc"), Code::FRAME_SIZE_ERROR),
        (frame(kind::CONTINUATION, 4, 1, b""), Code::PROTOCOL_ERROR),
        ([frame(kind::HEADERS, 0, 1, b""), frame(kind::PING, 0, 0, b"12345678")].concat(), Code::PROTOCOL_ERROR),
        ([frame(kind::HEADERS, 0, 1, b""), frame(kind::CONTINUATION, 4, 3, b"")].concat(), Code::PROTOCOL_ERROR),
        (frame(kind::HEADERS, 4, 1, b"\x80"), Code::COMPRESSION_ERROR),
        (frame(kind::HEADERS, 4 | flag::PRIORITY, 1, b"1234"), Code::FRAME_SIZE_ERROR),
        (frame(kind::HEADERS, 4 | flag::PADDED, 1, b"\x01"), Code::PROTOCOL_ERROR),
        (frame(0x77, 0, 1, &[long.clone(), long.clone()].concat()), Code::FRAME_SIZE_ERROR),
        // Heads without end, by their size and by their parts.
        (
            [frame(kind::HEADERS, 0, 1, &long), frame(kind::CONTINUATION, 0, 1, &long).repeat(4)].concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            [frame(kind::HEADERS, 0, 1, b""), frame(kind::CONTINUATION, 0, 1, b"").repeat(64)].concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        (frame(kind::PING, 0, 0, b"12345678").repeat(1001), Code::ENHANCE_YOUR_CALM),
        (settings(&[]).repeat(1001), Code::ENHANCE_YOUR_CALM),
    ] {
        let mut session = greeted();
        let (first, second) = (opened(&mut session, b""), opened(&mut session, b""));
        sent(&mut session);
        session.feed(&[frames.clone(), head(second, true, &[])].concat());
        let shown = &frames[..frames.len().min(40)];
        assert!(session.is_over() && session.is_closed(), "{shown:?}");
        for id in [first, second] {
            assert_eq!(told(&mut session, id), Poll::Ready(Err((Loss::Broken(code), false))), "{shown:?}");
        }
        assert_eq!(open(&mut session, b""), Poll::Ready(Err(Loss::Broken(code))), "{shown:?}");
        let last = sent(&mut session).pop().unwrap();
        assert_eq!(last, (kind::GOAWAY, 0, 0, [0, code.0].map(u32::to_be_bytes).concat()), "{shown:?}");
    }
}

#[test]
fn a_server_begins_with_its_settings() {
    for frames in
        [frame(kind::SETTINGS, flag::ACK, 0, b""), frame(kind::PING, 0, 0, b"12345678"), frame(0x77, 0, 0, b"")]
    {
        let mut session: Call = Session::new(MOST);
        session.feed(&frames);
        assert!(session.is_over(), "{frames:?}");
    }
}

#[test]
fn what_is_asked_is_answered_and_what_is_unknown_passed_over() {
    let mut session = greeted();
    session.feed(&[frame(0x77, 0xff, 9, b"what?"), frame(2, 0, 9, b"12345"), settings(&[(0x77, 1)])].concat());
    session.feed(&frame(kind::PING, 0, 0, b"are you?"));
    session.feed(&frame(kind::PING, flag::ACK, 0, b"postern?"));
    let replies = [(kind::SETTINGS, flag::ACK, 0, vec![]), (kind::PING, flag::ACK, 0, b"are you?".to_vec())];
    assert_eq!(sent(&mut session), replies);
    // As often as it hears the answers.
    for _ in 0..3 {
        session.feed(&frame(kind::PING, 0, 0, b"12345678").repeat(1000));
        assert_eq!(sent(&mut session).len(), 1000);
    }
    session.ping();
    assert_eq!(sent(&mut session), [(kind::PING, 0, 0, b"postern?".to_vec())]);
}

/// Beyond what the server takes at once an exchange waits, until another ends or the server takes more.
#[test]
fn exchanges_wait_for_room() {
    let mut session = greeted();
    session.feed(&settings(&[(3, 1)]));
    let first = opened(&mut session, b"");
    assert_eq!((session.limit(), open(&mut session, b"")), (1, Poll::Pending));
    session.feed(&settings(&[(3, 2)]));
    let second = opened(&mut session, b"");
    assert_eq!(open(&mut session, b""), Poll::Pending);
    session.close(first);
    assert_eq!((second, opened(&mut session, b"")), (3, 5));
    session.feed(&settings(&[(3, u32::MAX)]));
    assert_eq!(session.limit(), MOST, "ours counts too");
}

#[test]
fn what_is_given_up_is_reset() {
    let mut session = greeted();
    let (open, ended, early) =
        (opened(&mut session, b""), opened(&mut session, b""), opened(&mut session, &[0; 70_000]));
    sent(&mut session);
    session.feed(&[head(ended, true, &[]), head(early, true, &[])].concat());
    for id in [open, ended, early] {
        session.close(id);
    }
    let reset = |id, code: Code| (kind::RST_STREAM, 0, id, code.0.to_be_bytes().to_vec());
    assert_eq!(sent(&mut session), [reset(open, Code::CANCEL), reset(early, Code::NO_ERROR)]);
    // What crosses that on its way is passed over, and what it says of other heads is read.
    let kept = frame(kind::HEADERS, 4, open, &[&[0x88, 0x40][..], b"\x03x-a\x01b"].concat());
    session.feed(&[kept, data(open, true, b"late"), number(kind::RST_STREAM, open, 8)].concat());
    let next = opened(&mut session, b"");
    session.feed(&frame(kind::HEADERS, 5, next, &[0x88, 0xbe]));
    let Poll::Ready(Ok(head)) = session.poll_head(next, &cx()) else { panic!("its head has come") };
    assert_eq!(
        head.fields.iter().map(|field| (field.name(), field.value())).collect::<Vec<_>>(),
        [(&b"x-a"[..], &b"b"[..])]
    );
}

#[test]
fn a_server_that_goes_away_finishes_what_it_has_begun() {
    let mut session = greeted();
    let (first, second) = (opened(&mut session, b""), opened(&mut session, b""));
    sent(&mut session);
    let third = opened(&mut session, b"");
    session.feed(&go_away(1, Code::NO_ERROR));
    let gone = Loss::GoneAway(Code::NO_ERROR);
    assert_eq!(told(&mut session, second), Poll::Ready(Err((gone, false))));
    assert_eq!(told(&mut session, third), Poll::Ready(Err((gone, true))), "not a byte of it was taken");
    assert_eq!(open(&mut session, b""), Poll::Ready(Err(gone)));
    assert!(session.is_closed() && !session.is_over());
    session.feed(&[head(first, false, &[]), data(first, true, b"answer")].concat());
    assert!(told(&mut session, first).is_ready());
    assert_eq!((piece(&mut session, first), piece(&mut session, first)), (some("answer"), Poll::Ready(None)));
}

/// Where the connection takes no more, what it has taken may still be answered. Then it ends, and what came whole stays.
#[test]
fn an_end_costs_only_what_has_not_come() {
    let mut session = greeted();
    let (whole, half) = (opened(&mut session, b""), opened(&mut session, b""));
    sent(&mut session);
    let unsent = opened(&mut session, b"");
    session.deafen();
    assert_eq!(told(&mut session, unsent), Poll::Ready(Err((Loss::Line, true))));
    session.feed(
        &[head(whole, false, &[]), data(whole, true, b"answer"), head(half, false, &[]), data(half, false, b"an")]
            .concat(),
    );
    session.end(Loss::Line);
    for (id, text, end) in [(whole, "answer", None), (half, "an", Some(Err(Loss::Line)))] {
        assert!(matches!(told(&mut session, id), Poll::Ready(Ok(_))));
        assert_eq!((piece(&mut session, id), piece(&mut session, id)), (some(text), Poll::Ready(end)));
    }
}

#[test]
fn numbers_run_out() {
    let mut session = greeted();
    session.next = MAX_ID;
    assert_eq!(opened(&mut session, b""), MAX_ID);
    assert!(session.is_closed() && matches!(open(&mut session, b""), Poll::Ready(Err(_))));
}

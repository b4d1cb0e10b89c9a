//! The windows of both sides: no more is sent than they have room for, and they are opened in time.

use super::*;

/// How many bytes of bodies are sent next, by stream, and whether they end there.
fn bodies(session: &mut Call) -> Vec<(u32, usize, bool)> {
    let frames = sent(session).into_iter().filter(|(kind, ..)| *kind == kind::DATA);
    frames.map(|(_, flags, id, payload)| (id, payload.len(), flags & flag::END_STREAM != 0)).collect()
}

/// Bodies go out as far as both windows are open, a frame of each in turn.
#[test]
fn bodies_wait_for_their_windows() {
    static LONG: [u8; 100_000] = [b'x'; 100_000];
    let mut session = greeted();
    session.feed(&settings(&[(4, 30_000)]));
    let (first, second) = (opened(&mut session, &LONG), opened(&mut session, &LONG[..20_000]));
    let whole = MAX_FRAME;
    // A body that fits goes at once, but no more than is taken soon.
    let all = bodies(&mut session);
    assert_eq!(
        all,
        [(first, whole, false), (first, 30_000 - whole, false), (second, whole, false), (second, 20_000 - whole, true)]
    );
    assert_eq!(bodies(&mut session), []);
    // The connection has 15,535 left, the stream is opened by more.
    session.feed(&number(kind::WINDOW_UPDATE, first, 40_000));
    assert_eq!(bodies(&mut session), [(first, 65_535 - 50_000, false)]);
    session.feed(&number(kind::WINDOW_UPDATE, 0, 100_000));
    assert_eq!(bodies(&mut session), [(first, whole, false), (first, 40_000 - 15_535 - whole, false)]);
    // What is taken back must be given again first.
    session.feed(&settings(&[(4, 0)]));
    session.feed(&number(kind::WINDOW_UPDATE, first, 30_000));
    assert_eq!(bodies(&mut session), []);
    session.feed(&settings(&[(4, 10)]));
    assert_eq!(bodies(&mut session), [(first, 10, false)]);
    session.feed(&number(kind::WINDOW_UPDATE, first, 29_990));
    assert_eq!(bodies(&mut session), [(first, whole, false), (first, 29_990 - whole, true)]);
}

#[test]
fn no_more_is_made_ready_than_is_taken_soon() {
    static LONG: [u8; 300_000] = [b'x'; 300_000];
    let mut session = greeted();
    session.feed(&[settings(&[(4, MAX_ID)]), number(kind::WINDOW_UPDATE, 0, 1_000_000)].concat());
    opened(&mut session, &LONG);
    let mut total = 0;
    loop {
        let count: usize = bodies(&mut session).iter().map(|(_, count, _)| count).sum();
        assert!(count <= MAX_READY + MAX_FRAME);
        total += count;
        if count == 0 {
            break;
        }
    }
    assert_eq!(total, LONG.len());
}

/// The server is told that it may send more when half of a window was read, and not before; what nobody reads any
/// more counts as read.
#[test]
fn windows_are_opened_by_who_reads() {
    let mut session = greeted();
    let (id, other) = (opened(&mut session, b""), opened(&mut session, b""));
    session.feed(&[head(id, false, &[]), head(other, false, &[])].concat());
    sent(&mut session);
    let full = data(id, false, &[b'x'; MAX_FRAME]);
    session.feed(&full.repeat(8));
    assert_eq!(sent(&mut session), [], "nothing was read");
    assert!(matches!(piece(&mut session, id), Poll::Ready(Some(Ok(data))) if data.len() == 8 * MAX_FRAME));
    assert_eq!(sent(&mut session), [(kind::WINDOW_UPDATE, 0, id, STREAM_WINDOW.to_be_bytes().to_vec())]);
    session.feed(&full.repeat(8));
    assert!(!session.is_over());
    // One byte more than it may: this stream alone is ended.
    session.feed(&data(id, false, b"x"));
    assert!(piece(&mut session, id).is_ready());
    assert_eq!(piece(&mut session, id), Poll::Ready(Some(Err(Loss::Malformed(Code::FLOW_CONTROL_ERROR)))));
    session.close(id);
    sent(&mut session);
    // Nobody reads this any more. It opens the window of the connection, that of its 8 MiB.
    let unread = data(id, false, &[b'x'; MAX_FRAME]).repeat(512 - 16 - 1);
    session.feed(&unread);
    assert_eq!(sent(&mut session), [], "half of it less a frame, and two bytes");
    session.feed(&full);
    let more = CONNECTION_WINDOW / 2 + 1;
    assert_eq!(sent(&mut session), [(kind::WINDOW_UPDATE, 0, 0, more.to_be_bytes().to_vec())]);
}

/// Padding counts as read when it comes, what is given up when it is, and who has ended is told nothing.
#[test]
fn what_nobody_will_read_opens_the_windows_too() {
    let padded = frame(kind::DATA, flag::PADDED, 1, &[&[255], &[0; 256][..]].concat());
    let mut session = greeted();
    opened(&mut session, b"");
    sent(&mut session);
    session.feed(&[head(1, false, &[]), padded.repeat(256)].concat());
    assert_eq!(sent(&mut session), [(kind::WINDOW_UPDATE, 0, 1, (256 * 256u32).to_be_bytes().to_vec())]);
    let mut session = greeted();
    opened(&mut session, b"");
    for id in (3..).step_by(2).take(64) {
        assert_eq!(opened(&mut session, b""), id);
        session.feed(&[head(id, false, &[]), data(id, false, &[b'x'; MAX_FRAME]).repeat(8)].concat());
        sent(&mut session);
        session.close(id);
    }
    let reset = (kind::RST_STREAM, 0, 129, Code::CANCEL.0.to_be_bytes().to_vec());
    assert_eq!(
        sent(&mut session),
        [reset, (kind::WINDOW_UPDATE, 0, 0, (CONNECTION_WINDOW / 2).to_be_bytes().to_vec())]
    );
    session.feed(&[head(1, false, &[]), data(1, false, &[b'x'; MAX_FRAME]).repeat(4), data(1, true, b"")].concat());
    assert!(matches!(piece(&mut session, 1), Poll::Ready(Some(Ok(_)))));
    assert_eq!(sent(&mut session), []);
}

#[test]
fn all_together_may_not_overflow_the_connection() {
    let mut session = Session::new(1000);
    session.feed(&settings(&[]));
    for _ in 0..129 {
        let id = opened(&mut session, b"");
        session.feed(&[head(id, false, &[]), data(id, false, &[b'x'; MAX_FRAME]).repeat(8)].concat());
    }
    assert_eq!(open(&mut session, b""), Poll::Ready(Err(Loss::Broken(Code::FLOW_CONTROL_ERROR))));
}

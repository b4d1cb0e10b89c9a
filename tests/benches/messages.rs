//! HTTP/1.1 and MCP, as the rig reads and writes them.

use std::time::Instant;

use serde_json::Value;

use crate::rig::message::{Chunks, Framing, answer, call, event, framing, head_end, json, listen, stamps, values};
use crate::rig::upstream::{AGENTS, INJECTED};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  12 \r\nX-A: 1\r\nx-a: 2\r\nX-AB: 3\r\n\r\nbody";

#[test]
fn a_head_ends_behind_its_empty_line() {
    assert_eq!(head_end(HEAD), Some(HEAD.len() - 4));
    assert_eq!(head_end(&HEAD[..HEAD.len() - 5]), None);
}

#[test]
fn a_header_is_found_by_its_whole_name_in_any_case_as_often_as_it_is_there() {
    let found: Vec<&[u8]> = values(HEAD, "x-a").collect();
    assert_eq!(found, [b"1", b"2"]);
    assert_eq!(framing(HEAD), Framing::Length(12));
    assert_eq!(framing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"), Framing::Chunked);
    assert_eq!(framing(b"HTTP/1.1 204 No Content\r\n\r\n"), Framing::Length(0));
}

#[test]
fn a_chunked_body_is_walked_alike_however_it_comes() {
    let body = b"4\r\nWiki\r\n1A;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\nnext";
    for split in 0..=body.len() {
        let (mut chunks, mut data) = (Chunks::default(), Vec::new());
        let first = chunks.walk(&body[..split], |piece| data.extend_from_slice(piece));
        let second =
            if chunks.ended() { 0 } else { chunks.walk(&body[split..], |piece| data.extend_from_slice(piece)) };
        assert!(chunks.ended(), "split at {split}");
        assert_eq!(first + second, body.len() - 4, "split at {split}: what follows is not the body's");
        assert_eq!(data, b"Wikiabcdefghijklmnopqrstuvwxyz", "split at {split}");
        assert_eq!(chunks.data, data.len());
    }
}

#[test]
fn messages_are_json_of_exactly_the_size_that_was_asked_for() {
    for size in [300, 400, 64 << 10, 1 << 20] {
        assert_eq!(json(size).len(), size);
        serde_json::from_str::<Value>(&json(size)).expect("an answer is JSON");
        let call = call("/mcp/0", "localhost:1", None, size, false);
        let (head, body) = call.split_at(head_end(&call).expect("it has a head"));
        assert_eq!(framing(head), Framing::Length(size));
        assert_eq!(body.len(), size);
        let body: Value = serde_json::from_slice(body).expect("a call is JSON");
        assert_eq!(body["method"], "tools/call");
        let answer = answer(size);
        assert_eq!(framing(&answer), Framing::Length(answer.len() - head_end(&answer).expect("it has a head")));
    }
}

#[test]
fn an_agent_sends_its_own_credential_unless_it_has_the_right_one() {
    let own = format!("Bearer {AGENTS}");
    for (authorization, expected) in [(None, own.as_str()), (Some(INJECTED), INJECTED)] {
        for request in [call("/a", "h", authorization, 300, false), listen("/a", "h", authorization)] {
            let sent: Vec<&[u8]> = values(&request, "authorization").collect();
            assert_eq!(sent, [expected.as_bytes()]);
        }
    }
}

#[test]
fn an_event_says_when_it_was_sent_and_a_part_of_one_waits_for_the_rest() {
    let epoch = Instant::now();
    let before = epoch.elapsed().as_nanos() as u64;
    let events = [event(epoch), event(epoch)].concat();
    let after = epoch.elapsed().as_nanos() as u64;
    let mut data = Vec::new();
    Chunks::default().walk(&events, |piece| data.extend_from_slice(piece));

    let mut sent = Vec::new();
    assert_eq!(stamps(&data, |stamp| sent.push(stamp)), 0);
    assert_eq!(sent.len(), 2);
    assert!(before <= sent[0] && sent[0] <= sent[1] && sent[1] <= after, "{before} {sent:?} {after}");

    let half = data.len() / 2;
    let mut first = Vec::new();
    let left = stamps(&data[..half + 10], |stamp| first.push(stamp));
    assert_eq!((first.as_slice(), left), (&sent[..1], 10));
}

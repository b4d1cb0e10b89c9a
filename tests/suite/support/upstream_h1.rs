//! The HTTP/1.1 side of a capture: bytes in, bytes kept, requests cut out of them, answers out.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::answer::{Answer, End, Framing, Step, Steps};
use super::capture::{Request, Script, Seen, Wire};
use super::message::{Head, Parsed, parse_request};
use super::observed::Observed;

/// Serves one connection until either side ends it.
pub async fn serve(number: usize, wire: Box<dyn Wire>, seen: &Observed<Seen>, script: &Script) {
    let (mut read, mut write) = split(wire);
    let (arrived, requests) = mpsc::unbounded_channel();
    let end = tokio::select! {
        () = receive(number, &mut read, seen, script, arrived) => End::Cut,
        end = answer_all(&mut write, requests, seen, script) => end,
    };
    finish(read, write, end).await;
    seen.update(|seen| seen.connections[number].hung_up = true);
}

async fn finish(read: ReadHalf<Box<dyn Wire>>, write: WriteHalf<Box<dyn Wire>>, end: End) {
    let mut wire = read.unsplit(write);
    match end {
        End::Reset => wire.socket().set_zero_linger().expect("an open socket takes options"),
        End::Close | End::KeepOpen => drop(wire.shutdown().await),
        End::Cut => {}
    }
}

/// Reads until the peer ends the connection; keeps every byte and hands on every whole request.
async fn receive(
    number: usize,
    read: &mut (impl AsyncRead + Unpin),
    seen: &Observed<Seen>,
    script: &Script,
    arrived: mpsc::UnboundedSender<usize>,
) {
    let mut parsed_until = 0;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = read.read(script.appetite(&mut buffer)).await {
        script.digest().await;
        seen.update(|seen| {
            seen.connections[number].bytes.extend_from_slice(&buffer[..count]);
            while let Some((request, used)) = next_request(number, &seen.connections[number].bytes[parsed_until..]) {
                parsed_until += used;
                seen.requests.push(request);
                // The answering side may have ended the connection already.
                let _ = arrived.send(seen.requests.len() - 1);
            }
        });
    }
    seen.update(|seen| {
        seen.connections[number].peer_closed = true;
        let pending = seen.requests.iter_mut().filter(|r| r.connection == number && !r.answered);
        pending.for_each(|request| request.abandoned = true);
    });
}

fn next_request(connection: usize, bytes: &[u8]) -> Option<(Request, usize)> {
    let Parsed { head, body, trailers, used, .. } = parse_request(bytes)?;
    let Head { first_line, headers, .. } = head;
    let mut words = first_line.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut request = Request {
        connection,
        method,
        target,
        authority: String::new(),
        headers,
        body,
        trailers,
        whole: true,
        answered: false,
        abandoned: false,
    };
    request.authority = request.values("host").join(", ");
    Some((request, used))
}

/// Answers requests in order until one answer ends the connection.
async fn answer_all(
    write: &mut (impl AsyncWrite + Unpin),
    mut requests: mpsc::UnboundedReceiver<usize>,
    seen: &Observed<Seen>,
    script: &Script,
) -> End {
    while let Some(number) = requests.recv().await {
        let request = seen.read(|seen| seen.requests[number].clone());
        // Called before the last byte goes out: whoever has read the answer finds it marked.
        let complete = || seen.update(|seen| seen.requests[number].answered = true);
        let end = write_answer(write, script.answer(&request), complete).await;
        if end != End::KeepOpen {
            return end;
        }
    }
    std::future::pending().await
}

async fn write_answer(write: &mut (impl AsyncWrite + Unpin), answer: Answer, complete: impl FnOnce()) -> End {
    let answer = answer.given().await.unwrap_or(Answer::Never);
    match answer {
        Answer::Full { status, headers, body } => {
            complete();
            let mut bytes = head(status, &headers, Framing::Length(body.len()));
            bytes.extend_from_slice(&body);
            put(write, &bytes).await.map_or(End::Cut, |()| End::KeepOpen)
        }
        Answer::Stream { status, headers, framing, steps } => {
            let bytes = head(status, &headers, framing);
            match put(write, &bytes).await {
                Some(()) => write_steps(write, framing, steps, complete).await,
                None => End::Cut,
            }
        }
        Answer::Raw(bytes, end) => {
            complete();
            put(write, &bytes).await.map_or(End::Cut, |()| end)
        }
        Answer::Pieces(pieces, end) => {
            complete();
            for piece in pieces {
                if put(write, &piece).await.is_none() {
                    return End::Cut;
                }
                // Whoever reads may do so before the next one comes.
                tokio::task::yield_now().await;
            }
            end
        }
        Answer::Never | Answer::Later(_) => std::future::pending().await,
    }
}

async fn write_steps(
    write: &mut (impl AsyncWrite + Unpin),
    framing: Framing,
    mut steps: Steps,
    complete: impl FnOnce(),
) -> End {
    while let Some(step) = steps.receiver.recv().await {
        match step {
            Step::Send(piece) => {
                let length = piece.len();
                let written = match framing {
                    Framing::Chunked => put(write, &chunk(&piece)).await,
                    Framing::Length(_) | Framing::UntilClose => put(write, &piece).await,
                };
                if written.is_none() {
                    return End::Cut;
                }
                steps.pushed.update(|pushed| *pushed += length);
            }
            Step::Finish => {
                complete();
                return match framing {
                    Framing::Chunked => put(write, b"0\r\n\r\n").await.map_or(End::Cut, |()| End::KeepOpen),
                    Framing::Length(_) => End::KeepOpen,
                    Framing::UntilClose => End::Close,
                };
            }
            Step::End(end) => return end,
        }
    }
    // The test let go of the stream without ending it: it stays open like a quiet server.
    std::future::pending().await
}

fn chunk(piece: &Bytes) -> Vec<u8> {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
}

fn head(status: u16, headers: &[(String, String)], framing: Framing) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match framing {
        // RFC 9110: no Content-Length with 204 and 304.
        Framing::Length(length) if !matches!(status, 204 | 304) => {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::UntilClose => head.push_str("Connection: close\r\n"),
        Framing::Length(_) => {}
    }
    head.push_str("\r\n");
    head.into_bytes()
}

async fn put(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Option<()> {
    write.write_all(bytes).await.ok()?;
    write.flush().await.ok()
}

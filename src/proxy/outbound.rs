//! The writing half of an agent's connection: heads, whole bodies, chunks.

use std::io;

use bytes::{Buf as _, Bytes};
use http::{Response, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::core::fields::{FieldLines, write_line};

/// How the body of an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFrame {
    /// None, by the rules of HTTP.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Writes one connection.
pub(super) struct Outbound<W> {
    writer: W,
    buffer: Vec<u8>,
}

/// Data up to this size is copied behind its head or chunk size, to go out in one write.
const COPY_BYTES: usize = 16 * 1024;

/// Where an answer goes.
pub(super) trait Out: Send {
    /// Puts a head before what comes; it goes out with the next flush or data.
    fn head(&mut self, status: StatusCode, headers: &FieldLines, frame: BodyFrame, close: bool);
    /// Puts data behind the head, framed, as long as it is small; the flush comes later.
    fn buffer_data(&mut self, data: &Bytes, frame: BodyFrame) -> bool;
    /// Writes data, framed, and whatever waits before it. When this returns, it is out of our hands.
    fn data(&mut self, data: Bytes, frame: BodyFrame) -> impl Future<Output = io::Result<()>> + Send;
    /// Forgets what waits: another answer takes its place.
    fn forget(&mut self);
    /// Marks the end of a body whose length was not told.
    fn end_chunks(&mut self);
    /// Writes what waits.
    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Writes a whole answer. `head_only` for HEAD.
    fn whole(
        &mut self,
        response: &Response<Bytes>,
        close: bool,
        head_only: bool,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

impl<W: AsyncWrite + Unpin> Outbound<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, buffer: Vec::new() }
    }

    /// Says that the body may come (RFC 9110 section 10.1.1).
    pub(super) async fn go_on(&mut self) -> io::Result<()> {
        self.writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        self.writer.flush().await
    }

    /// Says that what follows on the connection is the tunnel's (RFC 9110 section 9.3.6).
    pub(super) async fn tunnel_open(&mut self) -> io::Result<()> {
        self.writer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await
    }

    /// Ends our side of the connection.
    pub(super) async fn shutdown(&mut self) {
        // An error means that the other side is gone already.
        let _gone = self.writer.shutdown().await;
    }
}

impl<W: AsyncWrite + Unpin + Send> Out for Outbound<W> {
    async fn whole(&mut self, response: &Response<Bytes>, close: bool, head_only: bool) -> io::Result<()> {
        let body = response.body();
        self.head(response.status(), &response.headers().into(), BodyFrame::Length(body.len() as u64), close);
        if !head_only {
            self.buffer.extend_from_slice(body);
        }
        self.flush().await
    }

    fn head(&mut self, status: StatusCode, headers: &FieldLines, frame: BodyFrame, close: bool) {
        let out = &mut self.buffer;
        let body =
            if let BodyFrame::Length(length) = frame { usize::try_from(length).unwrap_or(COPY_BYTES) } else { 0 };
        // What is copied behind it has room as well.
        out.reserve(headers.as_bytes().len() + 128 + body.min(COPY_BYTES));
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(headers.as_bytes());
        match frame {
            BodyFrame::Empty => {}
            BodyFrame::Length(length) => {
                write_line(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            BodyFrame::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn buffer_data(&mut self, data: &Bytes, frame: BodyFrame) -> bool {
        if self.buffer.len() + data.len() > COPY_BYTES {
            return false;
        }
        if frame != BodyFrame::Chunked {
            self.buffer.extend_from_slice(data);
            return true;
        }
        self.buffer.reserve(SIZE_LINE + data.len() + 2);
        put_size_line(&mut self.buffer, data.len());
        self.buffer.extend_from_slice(data);
        self.buffer.extend_from_slice(b"\r\n");
        true
    }

    async fn data(&mut self, data: Bytes, frame: BodyFrame) -> io::Result<()> {
        if self.buffer_data(&data, frame) {
            return self.flush().await;
        }
        let mut before = std::mem::take(&mut self.buffer);
        let mut after: &[u8] = b"";
        if frame == BodyFrame::Chunked {
            put_size_line(&mut before, data.len());
            after = b"\r\n";
        }
        let mut all = before.as_slice().chain(data).chain(after);
        self.writer.write_all_buf(&mut all).await?;
        self.writer.flush().await
    }

    fn forget(&mut self) {
        self.buffer.clear();
    }

    fn end_chunks(&mut self) {
        self.buffer.extend_from_slice(b"0\r\n\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.buffer);
        if waiting.is_empty() {
            return Ok(());
        }
        self.writer.write_all(&waiting).await?;
        // TLS keeps what it has sealed until it is told.
        self.writer.flush().await
    }
}

/// The line before a chunk is no longer than this.
const SIZE_LINE: usize = 2 * size_of::<usize>() + 2;

/// Tells a chunk's size (RFC 9112 section 7.1).
fn put_size_line(out: &mut Vec<u8>, size: usize) {
    let digits = size.max(1).ilog2() / 4;
    let digit = |place: u32| b"0123456789abcdef".get(size >> (4 * place) & 0xf);
    out.extend((0..=digits).rev().filter_map(digit));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_told_in_hexadecimal_digits() {
        let edges = (0..usize::BITS).flat_map(|bit| [(1_usize << bit) - 1, 1 << bit]);
        for size in edges.chain([usize::MAX, 0xa5, 0x1234_cdef]) {
            let mut line = Vec::new();
            put_size_line(&mut line, size);
            assert_eq!(line, format!("{size:x}\r\n").as_bytes());
            assert!(line.len() <= SIZE_LINE);
        }
    }
}

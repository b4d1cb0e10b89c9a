//! A connection that is read to its end, though it takes no more writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Takes a write that fails for done, so that only the reading side ends the connection.
///
/// A server that has closed may have answered before. What it sent waits in the kernel, but a write to
/// it fails already, be it for another exchange or a mere acknowledgement; and at a write that fails,
/// hyper gives up every call on an HTTP/2 connection, unread answers and all. Reading says the same a
/// moment later, after the answers.
pub(super) struct ReadOut<S> {
    inner: S,
    /// A write has failed: what is written now goes nowhere.
    closed: bool,
}

impl<S> ReadOut<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, closed: false }
    }
}

impl<S: AsyncWrite + Unpin> ReadOut<S> {
    /// Writes unless that has failed before; `otherwise` is what it claims then.
    fn attempt<T>(
        &mut self,
        otherwise: T,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.closed {
            match ready!(write(Pin::new(&mut self.inner))) {
                Ok(done) => return Poll::Ready(Ok(done)),
                Err(_) => self.closed = true,
            }
        }
        Poll::Ready(Ok(otherwise))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadOut<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadOut<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.attempt(bytes.len(), |inner| inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        self.attempt(all, |inner| inner.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attempt((), |inner| inner.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attempt((), |inner| inner.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::Waker;

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;
    use crate::runtime::task::{self, OwnedTask};

    /// What a server sends before it closes: SETTINGS; of stream 1 a 200 and "{}" with END_STREAM.
    const LAST_WORDS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x01\0\0\0\x01{}";
    /// The preface and the head of a frame.
    const PREFACE: usize = 24;
    const FRAME_HEAD: usize = 9;
    const HEADERS: u8 = 1;

    /// The far end as the kernel shows it: what it sent is noticed only after a write has failed.
    #[derive(Default)]
    struct Kernel {
        written: Vec<u8>,
        closed: bool,
        failed: bool,
        read: usize,
        reader: Option<Waker>,
    }

    impl Kernel {
        /// How many requests have gone out.
        fn requests(&self) -> usize {
            let mut rest = self.written.get(PREFACE..).unwrap_or_default();
            let mut count = 0;
            while let [a, b, c, kind, ..] = *rest {
                count += usize::from(kind == HEADERS);
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                rest = rest.get(FRAME_HEAD + length..).unwrap_or_default();
            }
            count
        }
    }

    #[derive(Clone, Default)]
    struct Socket(Arc<Mutex<Kernel>>);

    impl AsyncRead for Socket {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let mut kernel = self.0.lock().unwrap();
            if !kernel.failed {
                kernel.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let unread = &LAST_WORDS[kernel.read..];
            let count = unread.len().min(buffer.remaining());
            buffer.put_slice(&unread[..count]);
            kernel.read += count;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let mut kernel = self.0.lock().unwrap();
            if kernel.closed {
                kernel.failed = true;
                kernel.reader.take().into_iter().for_each(Waker::wake);
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            kernel.written.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Two calls on one connection; the server answers the first and closes. The second is given up
    /// before that is read, so that its reset is the write that fails: the answer arrives all the same.
    #[tokio::test]
    async fn an_answer_outlives_a_write_that_fails() {
        let socket = Socket::default();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(ReadOut::new(socket.clone()))).await.unwrap();
        let _task = OwnedTask::spawn(connection);
        let call = || {
            let mut sender = sender.clone();
            let request = Request::get("https://server.example/mcp").body(Empty::<Bytes>::new()).unwrap();
            task::spawn(async move { sender.send_request(request).await })
        };
        let first = call();
        while socket.0.lock().unwrap().requests() < 1 {
            tokio::task::yield_now().await;
        }
        let second = call();
        while socket.0.lock().unwrap().requests() < 2 {
            tokio::task::yield_now().await;
        }
        socket.0.lock().unwrap().closed = true;
        second.abort();
        let response = first.await.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), &*response.collect().await.unwrap().to_bytes()), (200, &b"{}"[..]));
        assert!(second.await.unwrap_err().is_cancelled());
    }
}

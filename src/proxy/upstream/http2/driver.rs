//! The task that reads and writes an HTTP/2 connection for all who share it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Shared;
use crate::core::http2::session::Loss;
use crate::proxy::upstream::broken;
use crate::runtime::reading::{READ_BYTES, poll_take};

/// How often a connection in use is asked whether it is there, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(20);
/// How much room for what is to be sent is kept while nothing is.
const KEPT_BYTES: usize = 16 * 1024;

/// Reads and writes a connection.
pub(super) struct Driver<W> {
    wire: W,
    shared: Arc<Shared>,
    /// Is being sent, from `sent` on.
    sending: Vec<u8>,
    sent: usize,
    flushed: bool,
    /// A write has failed: what is written now goes nowhere. A server that has closed may have answered before, which
    /// waits in the kernel while a write fails already. Reading comes to the same end a moment later, after the answers.
    deaf: bool,
    /// Came, and is no whole frame.
    unread: Vec<u8>,
}

impl<W: AsyncRead + AsyncWrite + Unpin> Driver<W> {
    pub(super) fn new(wire: W, shared: Arc<Shared>) -> Self {
        Self { wire, shared, sending: Vec::new(), sent: 0, flushed: true, deaf: false, unread: Vec::new() }
    }

    /// Ends with the connection.
    pub(super) async fn run(mut self) {
        let silent = silence(Arc::clone(&self.shared));
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.poll(cx)) => {}
            () = silent => self.end(&io::ErrorKind::TimedOut.into()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let written = self.poll_write(cx);
            if self.is_done(written.is_ready()) {
                return Poll::Ready(());
            }
            ready!(self.poll_read(cx));
        }
    }

    /// Whether nothing is left to be done. What we say last may not be taken any more.
    fn is_done(&self, written: bool) -> bool {
        let session = &self.shared.lock().session;
        session.is_over() || written && session.is_closed() && session.is_idle()
    }

    /// Sends what is to be sent.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sent == self.sending.len() && !self.refill(cx) {
                if self.flushed || self.deaf {
                    return Poll::Ready(());
                }
                // TLS keeps what it has sealed until it is told.
                let flushed = ready!(Pin::new(&mut self.wire).poll_flush(cx));
                self.flushed = true;
                self.heed(flushed);
                continue;
            }
            if self.deaf {
                self.sent = self.sending.len();
                continue;
            }
            let rest = self.sending.get(self.sent..).unwrap_or_default();
            let written = match ready!(Pin::new(&mut self.wire).poll_write(cx, rest)) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                written => written,
            };
            self.flushed = false;
            if let Some(count) = self.heed(written) {
                self.sent += count;
                self.shared.lock().session.took(count);
            }
        }
    }

    /// Fetches what is to be sent next; `false` where there is nothing, and the task is woken when there is.
    fn refill(&mut self, cx: &Context<'_>) -> bool {
        self.sending.clear();
        self.sending.shrink_to(KEPT_BYTES);
        self.sent = 0;
        let state = &mut *self.shared.lock();
        state.session.take_out(&mut self.sending);
        if self.sending.is_empty() && !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        !self.sending.is_empty()
    }

    fn heed<T>(&mut self, written: io::Result<T>) -> Option<T> {
        if let Err(error) = &written {
            self.deaf = true;
            let state = &mut *self.shared.lock();
            state.line.get_or_insert_with(|| broken(error));
            state.session.deafen();
        }
        written.ok()
    }

    /// Takes in what has come.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { wire, shared, unread, .. } = self;
        match ready!(poll_take::<READ_BYTES, _, _>(wire, cx, |bytes| take(bytes, shared, unread))) {
            Ok(true) => {}
            Ok(false) => self.end(&io::ErrorKind::UnexpectedEof.into()),
            Err(error) => self.end(&error),
        }
        Poll::Ready(())
    }

    fn end(&mut self, error: &io::Error) {
        let state = &mut *self.shared.lock();
        state.line.get_or_insert_with(|| broken(error));
        state.session.end(Loss::Line);
    }
}

/// Hands on what has come, and keeps of it what is no whole frame yet. Whether anything has come.
fn take(bytes: &[u8], shared: &Shared, unread: &mut Vec<u8>) -> bool {
    if bytes.is_empty() {
        return false;
    }
    let state = &mut *shared.lock();
    state.heard = true;
    if unread.is_empty() {
        let whole = state.session.feed(bytes);
        unread.extend_from_slice(bytes.get(whole..).unwrap_or_default());
        return true;
    }
    unread.extend_from_slice(bytes);
    let whole = state.session.feed(unread);
    unread.drain(..whole);
    if unread.is_empty() {
        // An idle wait holds no memory for what may come.
        *unread = Vec::new();
    }
    true
}

/// However it ends: nobody is left to wait on it.
impl<W> Drop for Driver<W> {
    fn drop(&mut self) {
        self.shared.lock().session.end(Loss::Line);
    }
}

/// Ends when a connection in use has not answered for too long.
async fn silence(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        {
            let state = &mut *shared.lock();
            if state.session.is_idle() {
                continue;
            }
            state.heard = false;
            state.session.ping();
            state.rouse();
        }
        tokio::time::sleep(PING_TIME).await;
        if !shared.lock().heard {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::super::State;
    use super::*;
    use crate::core::http2::session::Session;
    use crate::runtime::task::OwnedTask;

    /// What a server sends before it closes: SETTINGS; of stream 1 a 200 and "{}" with END_STREAM.
    const LAST_WORDS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x01\0\0\0\x01{}";

    /// The far end as the kernel shows it: what it sent is noticed some time after a write has failed.
    #[derive(Default)]
    struct Kernel {
        written: usize,
        closed: bool,
        noticed: bool,
        read: usize,
        reader: Option<Waker>,
    }

    #[derive(Clone, Default)]
    struct Socket(Arc<Mutex<Kernel>>);

    impl AsyncRead for Socket {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let mut kernel = self.0.lock().unwrap();
            if !kernel.noticed {
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
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            kernel.written += bytes.len();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn open(shared: &Shared) -> u32 {
        let state = &mut *shared.lock();
        let cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(id)) = state.session.poll_open(&cx, false, None, |out| out.push(0x82)) else {
            panic!("there is room for one more")
        };
        state.rouse();
        id
    }

    async fn written(socket: &Socket, more_than: usize) -> usize {
        loop {
            let written = socket.0.lock().unwrap().written;
            if written > more_than {
                return written;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Two calls on one connection; the server answers the first and closes. The second is given up before that is
    /// read, so that its reset is the write that fails: the answer arrives all the same. A third, of which not a byte
    /// was taken, hears at once that it may be sent elsewhere.
    #[tokio::test]
    async fn an_answer_outlives_a_write_that_fails() {
        let socket = Socket::default();
        let state = State { session: Session::new(3), line: None, heard: false, waker: None };
        let shared = Arc::new(Shared(Mutex::new(state)));
        let task = OwnedTask::spawn(Driver::new(socket.clone(), Arc::clone(&shared)).run());
        let greeting = written(&socket, 0).await;
        let first = open(&shared);
        let once = written(&socket, greeting).await;
        let second = open(&shared);
        written(&socket, once).await;
        socket.0.lock().unwrap().closed = true;
        {
            let state = &mut *shared.lock();
            state.session.close(second);
            state.rouse();
        }
        let third = open(&shared);
        let lost = poll_fn(|cx| shared.lock().session.poll_head(third, cx)).await.map(|head| head.status);
        assert_eq!(lost, Err((Loss::Line, true)));
        {
            let mut kernel = socket.0.lock().unwrap();
            kernel.noticed = true;
            kernel.reader.take().into_iter().for_each(Waker::wake);
        }
        let data = poll_fn(|cx| shared.lock().session.poll_data(first, cx)).await;
        assert_eq!(data.unwrap().unwrap(), "{}");
        assert_eq!(poll_fn(|cx| shared.lock().session.poll_data(first, cx)).await, None);
        drop(task);
    }
}

//! TLS on a stream of bytes, for the way that calls and answers take.
//!
//! It stands on rustls' unbuffered interface, so that a connection on which nothing happens holds no buffer,
//! and one on which much happens is read and written in large pieces.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use buffer::{RECORD, Scratch};
use engine::Engine;
use session::Asked;
pub use session::Session;

mod buffer;
mod engine;
mod session;

/// A connection to a server.
pub type ClientStream<IO> = Stream<IO, UnbufferedClientConnection>;
/// A connection of a client.
pub type ServerStream<IO> = Stream<IO, UnbufferedServerConnection>;

/// One side of a TLS connection over `IO`. What is written may wait until it is flushed.
pub struct Stream<IO, S> {
    io: IO,
    engine: Engine<S>,
    /// `io` gives no more.
    over: bool,
}

/// Shakes hands with a server, whose certificate must be good for `name`.
///
/// As everywhere here, an error that is the other side's or a certificate's has a [`rustls::Error`] inside.
pub async fn connect<IO>(config: Arc<ClientConfig>, name: ServerName<'static>, io: IO) -> io::Result<ClientStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
    Stream::shaken(io, Engine::new(session, Vec::new())).await
}

/// Shakes hands with a client, of which `early` was received already. With the connection comes the name of the
/// server that the client asked for.
pub async fn accept<IO>(config: &ServerConfig, io: IO, early: Vec<u8>) -> io::Result<(ServerStream<IO>, Option<String>)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (asked, config) = Asked::about(config);
    let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    let stream = Stream::shaken(io, Engine::new(session, early)).await?;
    Ok((stream, asked.name()))
}

impl<IO, S: Session> Stream<IO, S> {
    /// What both sides have agreed to speak (RFC 7301).
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.engine.state().alpn_protocol()
    }

    /// Whether all that was received has been taken, and more could be.
    pub fn is_silent(&self) -> bool {
        !self.over && self.engine.is_silent()
    }

    /// What it stands on.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Session> Stream<IO, S> {
    async fn shaken(io: IO, engine: Engine<S>) -> io::Result<Self> {
        let mut stream = Self { io, engine, over: false };
        poll_fn(|cx| stream.poll_shake(cx)).await?;
        Ok(stream)
    }

    fn poll_shake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut nothing = ReadBuf::new(&mut []);
        // A client speaks first, and of a server's client a part may be here already.
        self.engine.resume(&mut nothing);
        loop {
            if let Err(fault) = self.engine.sound() {
                let _best_effort = self.poll_send(cx);
                return Poll::Ready(Err(fault));
            }
            let sent = match self.poll_send(cx)? {
                Poll::Ready(()) => Pin::new(&mut self.io).poll_flush(cx)?,
                Poll::Pending => Poll::Pending,
            };
            if !self.engine.state().is_handshaking() {
                return sent.map(Ok);
            }
            if self.over {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the TLS handshake is cut off")));
            }
            // Also while something is unsent: the other side may read nothing until it has been heard.
            ready!(self.poll_receive(cx, &mut nothing))?;
        }
    }

    /// Receives once, as much as is useful to fill `out`.
    fn poll_receive(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut scratch = Scratch::take();
        let part = self.engine.part();
        let Some((before, room)) = scratch.split_at_mut_checked(part.len()).filter(|(_, room)| !room.is_empty()) else {
            // No message of a handshake may be that long.
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message is too long")));
        };
        let useful = room.len().min(RECORD.max(out.remaining() + RECORD / 8));
        let mut received = ReadBuf::new(room.get_mut(..useful).unwrap_or_default());
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut received))?;
        let count = received.filled().len();
        if count == 0 {
            self.over = true;
            return Poll::Ready(Ok(()));
        }
        before.copy_from_slice(part);
        let length = before.len() + count;
        self.engine.receive(scratch.get_mut(..length).unwrap_or_default(), out);
        Poll::Ready(Ok(()))
    }

    /// Sends what waits to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.engine.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, self.engine.outgoing.rest()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.engine.outgoing.consume(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Session + Unpin> AsyncRead for Stream<IO, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.remaining();
        let is_silent = this.engine.outgoing.is_empty();
        this.engine.give(out);
        loop {
            if out.remaining() < before || before == 0 || this.engine.has_ended() {
                return Poll::Ready(Ok(()));
            }
            if let Err(fault) = this.engine.sound() {
                if is_silent {
                    // The other side is told why, if that is possible at once. Whoever is writing has his own turn.
                    let _best_effort = this.poll_send(cx);
                }
                return Poll::Ready(Err(fault));
            }
            if this.over {
                // Anybody on the way could have cut the connection off here.
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed without a TLS close_notify",
                )));
            }
            ready!(this.poll_receive(cx, out))?;
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Session + Unpin> AsyncWrite for Stream<IO, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let mut scratch = Scratch::take();
        let (taken, mut records) = this.engine.seal(slices, &mut scratch)?;
        let whole = records.len();
        while !records.is_empty() {
            let failed = match Pin::new(&mut this.io).poll_write(cx, records) {
                Poll::Ready(Ok(sent @ 1..)) => {
                    records = records.get(sent..).unwrap_or_default();
                    continue;
                }
                Poll::Ready(Ok(0)) => Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => Some(error),
                Poll::Pending => None,
            };
            // Whoever hears of an error here may send all of it again, elsewhere.
            if let Some(error) = failed.filter(|_| records.len() == whole) {
                return Poll::Ready(Err(error));
            }
            // Nothing more is taken until these have gone. What kept them fails again then.
            this.engine.outgoing.put(records);
            break;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.engine.sound()?;
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.engine.close();
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The other side was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;

#[cfg(test)]
mod break_tests;

#[cfg(test)]
mod handshake_tests;

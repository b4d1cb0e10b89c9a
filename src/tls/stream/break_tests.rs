//! A wire that breaks while something is being sent.

use rustls::version::TLS13;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

use super::tests::Settings;
use super::*;

/// A wire that takes so many bytes more, and then none.
struct Breaking {
    inner: DuplexStream,
    left: usize,
}

impl AsyncRead for Breaking {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, out)
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let most = bytes.len().min(self.left);
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes.get(..most).unwrap_or_default()))?;
        self.left -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A call of which nothing went out may be sent again on another connection; one of which a part did may not. So only
/// the first of them is a write that failed.
#[tokio::test]
async fn what_went_out_in_part_is_not_said_to_have_stayed() {
    for (left, stayed) in [(0, true), (1, false), (1000, false), (20_000, false)] {
        let (near, far) = duplex(1 << 20);
        let wire = |inner| Breaking { inner, left: usize::MAX };
        let (mut stream, _other) = Settings::new(&TLS13).as_client(wire(near), wire(far)).await;
        stream.io.left = left;
        assert_eq!(stream.write(&[7; 50_000]).await.is_err(), stayed, "{left}");
        assert_eq!(stream.flush().await.is_err(), !stayed, "{left}: the break is told with the rest");
    }
}

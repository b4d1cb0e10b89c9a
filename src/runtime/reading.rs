//! Reading on connections of which most only wait.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// How much is read at once, where nothing else is known of it.
pub const READ_BYTES: usize = 16 * 1024;

/// Reads once, at most `MOST` bytes, and gives what has come to `take`; nothing, at the end. Until then no memory is
/// held for it.
///
/// # Errors
/// Those of the reader.
pub fn poll_take<const MOST: usize, R: AsyncRead + Unpin, T>(
    reader: &mut R,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    let mut room = [const { MaybeUninit::uninit() }; MOST];
    let mut read = ReadBuf::uninit(&mut room);
    ready!(Pin::new(reader).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(take(read.filled())))
}

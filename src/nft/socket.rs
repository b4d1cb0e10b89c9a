//! The netlink socket: bytes to the kernel and from it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recvfrom, sendto, socket_with,
};

/// The kernel answers while it is asked; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel fills at most 32 KiB at a time.
const LARGEST: usize = 64 << 10;

pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        let sent = sendto(&self.0, bytes, SendFlags::empty(), &kernel)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// One datagram of the kernel's: any process may send to us, and is not heard.
    pub(super) fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut buffer = vec![0; LARGEST];
            let (_, length, from) = recvfrom(&self.0, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let sender = from.and_then(|from| netlink::SocketAddrNetlink::try_from(from).ok());
            if sender.is_some_and(|sender| sender.pid() != 0) {
                continue;
            }
            if length > LARGEST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

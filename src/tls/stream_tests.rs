//! Our streams against those of the TLS library, over wires that deliver as they like.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::*;
use crate::runtime::clock;
use crate::tls::authority::Authority;
use crate::tls::client;

pub(super) const HOST: &str = "server.example";

/// Settings of both sides.
pub(super) struct Settings {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl Settings {
    pub(super) fn new(version: &'static rustls::SupportedProtocolVersion) -> Self {
        let now = clock::wall();
        let authority = Authority::new("a", Duration::from_secs(3600), now).unwrap();
        let leaf = authority.issue(&[HOST.to_owned()], Duration::from_secs(60), now).unwrap();
        let server = ServerConfig::builder_with_provider(client::provider());
        let server = server.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
        let mut server = server.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(leaf.certified)));
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = client::settings(Some(authority.certificate().as_bytes())).unwrap();
        Self { client, server: Arc::new(server) }
    }

    /// We are the client, and the library is the server.
    pub(super) async fn as_client<IO>(&self, near: IO, far: IO) -> (ClientStream<IO>, server::TlsStream<IO>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connect = connect(Arc::clone(&self.client), ServerName::try_from(HOST).unwrap(), near);
        let accept = TlsAcceptor::from(Arc::clone(&self.server)).accept(far);
        tokio::try_join!(connect, accept).unwrap()
    }

    /// The other way round.
    pub(super) async fn as_server<IO>(
        &self,
        near: IO,
        far: IO,
    ) -> (ServerStream<IO>, tokio_rustls::client::TlsStream<IO>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.client));
        let connect = connector.connect(ServerName::try_from(HOST).unwrap(), far);
        let ((stream, asked), other) = tokio::try_join!(accept(&self.server, near, Vec::new()), connect).unwrap();
        assert_eq!(asked.as_deref(), Some(HOST));
        (stream, other)
    }
}

/// A wire that takes and gives pieces of these sizes in turn; 0 lets the other side go first.
pub(super) struct Wire {
    inner: DuplexStream,
    reads: VecDeque<usize>,
    writes: VecDeque<usize>,
    /// What went out, a write each.
    pub(super) sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Wire {
    fn new(inner: DuplexStream, reads: &[usize], writes: &[usize]) -> Self {
        let turns = |sizes: &[usize]| sizes.iter().copied().collect();
        Self { inner, reads: turns(reads), writes: turns(writes), sent: Arc::default() }
    }

    /// Two ends of a wire of so many bytes, where ours has no whims.
    pub(super) fn pair(bytes: usize) -> (Self, Self) {
        let (near, far) = tokio::io::duplex(bytes);
        (Self::new(near, &[], &[]), Self::new(far, &[], &[]))
    }
}

/// The size whose turn it is; `None` for none.
fn turn(sizes: &mut VecDeque<usize>, cx: &Context<'_>) -> Poll<usize> {
    let size = sizes.pop_front().unwrap_or(usize::MAX);
    if size < usize::MAX {
        sizes.push_back(size);
    }
    if size == 0 {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    Poll::Ready(size)
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = ready!(turn(&mut self.reads, cx)).min(out.remaining());
        let mut part = ReadBuf::new(out.initialize_unfilled_to(size));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        out.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let size = ready!(turn(&mut self.writes, cx)).min(bytes.len());
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &bytes[..size]))?;
        self.sent.lock().unwrap().push(bytes[..count].to_vec());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// So many bytes that differ everywhere.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Writes all of it in slices of these sizes, says goodbye, and reads with so much room until the other does.
async fn exchange(stream: impl AsyncRead + AsyncWrite, said: &[u8], slices: &[usize], room: usize) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        let mut rest = said;
        while !rest.is_empty() {
            let mut behind = rest;
            let pieces: Vec<_> = slices
                .iter()
                .map(|size| {
                    let (piece, others) = behind.split_at((*size).min(behind.len()));
                    behind = others;
                    IoSlice::new(piece)
                })
                .collect();
            let count = writer.write_vectored(&pieces).await.unwrap();
            assert_ne!(count, 0);
            rest = &rest[count..];
        }
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let (mut heard, mut piece) = (Vec::new(), vec![0; room]);
        loop {
            match reader.read(&mut piece).await.unwrap() {
                0 => return heard,
                count => heard.extend_from_slice(&piece[..count]),
            }
        }
    };
    tokio::join!(write, read).1
}

fn holds_nothing<IO, S: Session>(stream: &Stream<IO, S>) -> bool {
    stream.engine.holds() == 0
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(test)
}

fn sizes(largest: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![0..8usize, 1..largest], 0..6).prop_map(|mut sizes| {
        // Something must get through.
        sizes.push(1 + sizes.len());
        sizes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the wire cuts what goes over it, and however it is written and read: it arrives, as it was said.
    #[test]
    fn whatever_the_pieces_all_of_it_arrives(
        newest: bool,
        serves: bool,
        wire in prop_oneof![1..600usize, 1..40_000usize],
        reads in sizes(30_000),
        writes in sizes(30_000),
        slices in prop::collection::vec(1..60_000usize, 1..4),
        their_slice in 100..20_000usize,
        room in 1..40_000usize,
        (ours, theirs) in (0..150_000usize, 0..150_000usize),
    ) {
        // Byte by byte takes its time.
        let most = |sizes: &[usize]| sizes.iter().max().copied().unwrap_or(1).saturating_mul(2_000);
        let (ours, theirs) = (ours.min(most(&writes)).min(wire * 2_000), theirs.min(most(&reads)).min(wire * 2_000));
        let (ours, theirs) = (text(ours), text(theirs.min(room * 2_000)));
        let their_slices = [their_slice];
        let heard = run(async {
            let (near, far) = tokio::io::duplex(wire);
            let (near, far) = (Wire::new(near, &reads, &writes), Wire::new(far, &[], &[]));
            let settings = Settings::new(if newest { &TLS13 } else { &TLS12 });
            let name = ServerName::try_from(HOST).unwrap();
            // Each goes on as soon as it can: a server's tickets may need a client that reads.
            if serves {
                let near = async {
                    let (near, _) = accept(&settings.server, near, Vec::new()).await.unwrap();
                    exchange(near, &ours, &slices, room).await
                };
                let far = async {
                    let far = TlsConnector::from(Arc::clone(&settings.client)).connect(name, far).await.unwrap();
                    exchange(far, &theirs, &their_slices, 8 * 1024).await
                };
                tokio::join!(near, far)
            } else {
                let near = async {
                    let near = connect(Arc::clone(&settings.client), name, near).await.unwrap();
                    exchange(near, &ours, &slices, room).await
                };
                let far = async {
                    let far = TlsAcceptor::from(Arc::clone(&settings.server)).accept(far).await.unwrap();
                    exchange(far, &theirs, &their_slices, 8 * 1024).await
                };
                tokio::join!(near, far)
            }
        });
        prop_assert!(heard == (theirs, ours));
    }

    /// What was changed on the way is never read; all that came before it is. The other side is told.
    #[test]
    fn a_change_on_the_way_is_an_error(newest: bool, at in 0..50_000usize, bit in 0..8u32) {
        run(async {
            let settings = Settings::new(if newest { &TLS13 } else { &TLS12 });
            let (near, far) = Wire::pair(128 * 1024);
            let sent = Arc::clone(&far.sent);
            let (near, mut far) = settings.as_client(near, far).await;
            let said = text(40_000);
            sent.lock().unwrap().clear();
            far.write_all(&said).await.unwrap();
            far.flush().await.unwrap();
            let mut records = sent.lock().unwrap().concat();
            let at = at % records.len();
            records[at] ^= 1 << bit;
            // The same connection, but what arrives is ours to choose.
            let (wire, mut chooser) = tokio::io::duplex(128 * 1024);
            let mut near = Stream { io: wire, engine: near.engine, over: false };
            chooser.write_all(&records).await.unwrap();
            chooser.shutdown().await.unwrap();
            let mut heard = Vec::new();
            let error = near.read_to_end(&mut heard).await.unwrap_err();
            assert!(said.starts_with(&heard), "{} bytes", heard.len());
            // A length that grew waits for what does not come.
            let cut = error.kind() == io::ErrorKind::UnexpectedEof;
            assert!(cut || error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()), "{error}");
            if !cut {
                assert!(near.write_all(b"more").await.is_err());
                drop(near);
                let mut told = Vec::new();
                chooser.read_to_end(&mut told).await.unwrap();
                assert!(!told.is_empty(), "an alert");
            }
        });
    }

    /// Anything at all instead of a handshake: an error, and no panic.
    #[test]
    fn what_is_no_tls_is_an_error(babble in prop::collection::vec(any::<u8>(), 0..600), head in 0..4usize) {
        let heads: [&[u8]; 4] = [b"", b"\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03", b"\x16\x03\x03\x02\x00\x02", b"\x15\x03\x03\x00\x02"];
        let babble = [heads[head], &babble].concat();
        run(async {
            let settings = Settings::new(&TLS13);
            for (serves, early) in [(false, 0), (true, 0), (true, babble.len() / 2)] {
                let (near, mut far) = tokio::io::duplex(64 * 1024);
                far.write_all(&babble[early..]).await.unwrap();
                far.shutdown().await.unwrap();
                let failed = if serves {
                    accept(&settings.server, near, babble[..early].to_vec()).await.is_err()
                } else {
                    let name = ServerName::try_from(HOST).unwrap();
                    connect(Arc::clone(&settings.client), name, near).await.is_err()
                };
                assert!(failed);
            }
        });
    }
}

#[tokio::test]
async fn an_end_without_goodbye_is_an_error() {
    for version in [&TLS12, &TLS13] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (mut near, mut far) = Settings::new(version).as_client(near, far).await;
        far.write_all(b"a part").await.unwrap();
        far.flush().await.unwrap();
        drop(far);
        let mut heard = [0; 64];
        assert_eq!(near.read(&mut heard).await.unwrap(), 6);
        for _again in 0..2 {
            assert_eq!(near.read(&mut heard).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test]
async fn each_side_ends_for_itself() {
    for version in [&TLS12, &TLS13] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (mut near, mut far) = Settings::new(version).as_server(near, far).await;
        let mut heard = Vec::new();
        near.write_all(b"all of it").await.unwrap();
        near.shutdown().await.unwrap();
        let mut scratch = Scratch::take();
        let more = near.engine.seal(&[IoSlice::new(b"more")], &mut scratch);
        assert_eq!(more.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"all of it");
        far.write_all(b"an answer").await.unwrap();
        far.shutdown().await.unwrap();
        heard.clear();
        near.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"an answer");
        assert!(holds_nothing(&near));
    }
}

#[tokio::test]
async fn we_may_go_on_when_the_other_side_has_ended() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut near, mut far) = Settings::new(&TLS13).as_client(near, far).await;
    far.shutdown().await.unwrap();
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    near.write_all(b"after that").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"after that");
}

#[tokio::test]
async fn what_is_unread_stands_in_no_ones_way() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut near, mut far) = Settings::new(&TLS13).as_server(near, far).await;
    for word in [&b"one "[..], b"two ", b"three"] {
        far.write_all(word).await.unwrap();
    }
    far.shutdown().await.unwrap();
    assert_eq!(near.read_u8().await.unwrap(), b'o');
    near.write_all(b"answer").await.unwrap();
    near.shutdown().await.unwrap();
    let (mut heard, mut rest) = (Vec::new(), Vec::new());
    far.read_to_end(&mut heard).await.unwrap();
    near.read_to_end(&mut rest).await.unwrap();
    assert_eq!((&heard[..], &rest[..]), (&b"answer"[..], &b"ne two three"[..]));
}

#[tokio::test]
async fn a_connection_that_is_still_holds_no_buffer() {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let (mut near, mut far) = Settings::new(&TLS13).as_client(near, far).await;
    for size in [1, 20_000, 100_000] {
        let said = text(size);
        let mut heard = vec![0; size];
        near.write_all(&said).await.unwrap();
        near.flush().await.unwrap();
        far.read_exact(&mut heard).await.unwrap();
        assert!(heard == said);
        far.write_all(&said).await.unwrap();
        far.flush().await.unwrap();
        heard.fill(0);
        near.read_exact(&mut heard).await.unwrap();
        assert!(heard == said);
        assert!(holds_nothing(&near), "{} bytes after {size}", near.engine.holds());
    }
}

#[tokio::test]
async fn who_reads_nothing_is_not_written_to_without_end() {
    let (near, far) = tokio::io::duplex(4 * 1024);
    let (mut near, mut far) = Settings::new(&TLS13).as_client(near, far).await;
    let said = text(1024 * 1024);
    let mut taken = 0;
    poll_fn(|cx| {
        while let Poll::Ready(count) = Pin::new(&mut near).poll_write(cx, &said[taken..]) {
            taken += count.unwrap();
        }
        Poll::Ready(())
    })
    .await;
    assert!(taken <= buffer::BATCH && near.engine.holds() <= buffer::BATCH + 4 * 64, "{taken} {}", near.engine.holds());
    let write = async {
        near.write_all(&said[taken..]).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, read) = tokio::join!(write, far.read_to_end(&mut heard));
    read.unwrap();
    assert!(heard == said);
    assert!(holds_nothing(&near));
}

/// The lengths of the records in it.
pub(super) fn records(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        lengths.push(length);
        bytes = &rest[length..];
    }
    lengths
}

#[tokio::test]
async fn what_is_written_together_goes_out_together() {
    // A type and a tag (RFC 8446 section 5.2).
    const MORE: usize = 1 + 16;
    let (near, far) = Wire::pair(1024 * 1024);
    let sent = Arc::clone(&near.sent);
    let (mut near, _far) = Settings::new(&TLS13).as_client(near, far).await;
    let (head, body) = (text(300), text(90_000));
    for (body, lengths) in [
        (&body[..100], vec![400 + MORE]),
        (&body[..20_000], vec![300 + MORE, 16_384 + MORE, 3_616 + MORE]),
        (&body[..65_536], [&[300 + MORE][..], &[16_384 + MORE; 4]].concat()),
        // No more than a batch.
        (&body[..], [&[300 + MORE][..], &[16_384 + MORE; 4], &[16_084 + MORE]].concat()),
    ] {
        sent.lock().unwrap().clear();
        let count = near.write_vectored(&[IoSlice::new(&head), IoSlice::new(&[]), IoSlice::new(body)]).await.unwrap();
        assert_eq!(count, (head.len() + body.len()).min(buffer::BATCH));
        let sent = sent.lock().unwrap();
        assert_eq!((sent.len(), records(&sent[0])), (1, lengths));
    }
}

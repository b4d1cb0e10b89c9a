//! What the two sides of a connection have in common, and what rustls' interface lacks.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConnectionData, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::UnbufferedStatus;
use rustls::{CommonState, ServerConfig};

/// A side of a connection.
pub trait Session {
    /// What the side keeps.
    type Data;

    /// Takes the connection on by what was received.
    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// How things stand.
    fn state(&self) -> &CommonState;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// Which server the client of one connection asks for. The library tells it to whoever chooses the
/// certificate, and to nobody else.
#[derive(Debug)]
pub(super) struct Asked {
    name: Mutex<Option<String>>,
    chooser: Arc<dyn ResolvesServerCert>,
}

impl Asked {
    /// The settings for one connection, and what will be learned on it.
    pub(super) fn about(settings: &ServerConfig) -> (Arc<Self>, Arc<ServerConfig>) {
        let asked = Arc::new(Self { name: Mutex::default(), chooser: Arc::clone(&settings.cert_resolver) });
        let mut settings = settings.clone();
        settings.cert_resolver = Arc::<Self>::clone(&asked);
        (asked, Arc::new(settings))
    }

    pub(super) fn name(&self) -> Option<String> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ResolvesServerCert for Asked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = hello.server_name().map(str::to_owned);
        self.chooser.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.chooser.only_raw_public_keys()
    }
}

//! What is to be said and what was heard on one connection. No I/O.

use std::io::{self, IoSlice};

use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};
use tokio::io::ReadBuf;

use super::buffer::{BATCH, PLAIN, Waiting, put_what_fits};
use super::session::Session;

/// One side of a connection, with what waits on it.
pub(super) struct Engine<S> {
    /// Apart, since it is large, and futures hold a connection more than once while it is made.
    session: Box<S>,
    /// Why nothing more can be said or heard.
    fault: Option<Error>,
    /// Received and not decrypted: a part of a record, mostly.
    incoming: Waiting,
    /// Whether `incoming` may have whole records.
    whole: bool,
    /// Decrypted and not taken.
    plain: Waiting,
    /// Encrypted and not sent.
    pub(super) outgoing: Waiting,
    /// Of what was encoded, rustls has not been told yet that it goes out. It takes nothing new to be said until then.
    untold: bool,
    /// The other side has said that it has said everything.
    ended: bool,
    /// We have.
    closed: bool,
}

impl<S: Session> Engine<S> {
    /// `early` is what was received already.
    pub(super) fn new(session: S, early: Vec<u8>) -> Self {
        Self {
            session: Box::new(session),
            fault: None,
            incoming: Waiting::new(early),
            whole: true,
            plain: Waiting::default(),
            outgoing: Waiting::default(),
            untold: false,
            ended: false,
            closed: false,
        }
    }

    pub(super) fn state(&self) -> &CommonState {
        self.session.state()
    }

    /// Whether the other side has ended its part, and all of it has been taken.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && self.plain.is_empty()
    }

    /// Whether nothing was received that has not been taken, and nothing stands against more.
    pub(super) fn is_silent(&self) -> bool {
        self.incoming.is_empty() && self.plain.is_empty() && self.fault.is_none() && !self.ended
    }

    /// How many bytes of memory its buffers take.
    #[cfg(test)]
    pub(super) fn holds(&self) -> usize {
        [&self.incoming, &self.plain, &self.outgoing].iter().map(|waiting| waiting.holds()).sum()
    }

    /// Fails once nothing more can be said or heard.
    pub(super) fn sound(&self) -> io::Result<()> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(failed(fault.clone())),
        }
    }

    /// The part of a record that more is to be received of.
    pub(super) fn part(&self) -> &[u8] {
        self.incoming.rest()
    }

    /// Gives what is there already.
    pub(super) fn give(&mut self, out: &mut ReadBuf<'_>) {
        if !self.plain.is_empty() {
            self.plain.give(out);
        }
        if self.whole && out.remaining() > 0 {
            self.resume(out);
        }
    }

    /// Goes on with what was received before.
    pub(super) fn resume(&mut self, out: &mut ReadBuf<'_>) {
        let mut incoming = std::mem::take(&mut self.incoming);
        let used = self.advance(incoming.rest_mut(), out);
        incoming.consume(used);
        self.incoming = incoming;
    }

    /// Goes on with `received`, which begins with [`part`](Self::part).
    pub(super) fn receive(&mut self, received: &mut [u8], out: &mut ReadBuf<'_>) {
        let used = self.advance(received, out);
        self.incoming.replace(received.get(used..).unwrap_or_default());
    }

    /// Goes on as far as `received` leads and `out` has room; how much of `received` is done with.
    fn advance(&mut self, received: &mut [u8], out: &mut ReadBuf<'_>) -> usize {
        let mut used = 0;
        self.whole = false;
        while let Some(rest) = received.get_mut(used..) {
            let UnbufferedStatus { mut discard, state } = self.session.process(rest);
            let goes_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let given = put_what_fits(record.payload, out);
                        self.plain.put(record.payload.get(given..).unwrap_or_default());
                    }
                    self.whole = out.remaining() == 0;
                    // To ask what is next costs something, where nothing can be.
                    !self.whole && (received.len() > used + discard || self.session.state().wants_write())
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                    self.untold = true;
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It is where it will be sent from, in its turn.
                    data.done();
                    self.untold = false;
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    true
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                    // It would have asked by now.
                    self.untold = false;
                    false
                }
                // Early data is not accepted; whatever else there will be is not known here.
                Ok(_) => {
                    self.fault = Some(Error::General("a state of the connection that is not known".into()));
                    false
                }
                Err(fault) => {
                    self.fault = Some(fault);
                    false
                }
            };
            used += discard;
            if !goes_on {
                break;
            }
        }
        if self.fault.is_some() {
            self.alert();
        }
        used
    }

    /// Has the other side told of a fault.
    fn alert(&mut self) {
        while self.session.state().wants_write() {
            match self.session.process(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.outgoing),
                _ => break,
            }
        }
    }

    /// Deals with all that comes before anything new can be said.
    fn settle(&mut self) {
        while self.fault.is_none() && (self.whole || self.untold || self.session.state().wants_write()) {
            self.resume(&mut ReadBuf::new(&mut []));
        }
    }

    /// Encrypts as much of `slices` as makes a batch, into `scratch`. How much of them that was, and the records.
    pub(super) fn seal<'s>(&mut self, slices: &[IoSlice<'_>], scratch: &'s mut [u8]) -> io::Result<(usize, &'s [u8])> {
        self.settle();
        self.sound()?;
        let UnbufferedStatus { discard, state } = self.session.process(self.incoming.rest_mut());
        let sealed = match state {
            Ok(ConnectionState::WriteTraffic(traffic)) if !self.closed => {
                Batch::new(traffic, scratch).seal(slices).map_err(|_| Error::EncryptError)
            }
            // Both sides have closed, or we have.
            _ => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        self.incoming.consume(discard);
        if let Err(fault) = &sealed {
            // A part of it may be encrypted already: what would follow it is not known.
            self.fault = Some(fault.clone());
        }
        sealed.map_err(failed)
    }

    /// Says that nothing more will be said.
    pub(super) fn close(&mut self) {
        self.settle();
        if self.closed || self.fault.is_some() {
            return;
        }
        self.closed = true;
        let mut alert = [0; 128];
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = self.session.process(self.incoming.rest_mut()).state
            && let Ok(length) = traffic.queue_close_notify(&mut alert)
        {
            self.outgoing.put(alert.get(..length).unwrap_or_default());
        }
    }
}

fn failed(fault: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, outgoing: &mut Waiting) {
    // It tells its size by refusing.
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) {
        let _fits = data.encode(outgoing.put_room(required_size));
    }
}

/// Records in the making.
struct Batch<'c, 's, D> {
    traffic: WriteTraffic<'c, D>,
    /// Where small pieces meet: a record costs as much as some hundred bytes.
    gather: &'s mut [u8],
    gathered: usize,
    records: &'s mut [u8],
    length: usize,
}

impl<'c, 's, D> Batch<'c, 's, D> {
    fn new(traffic: WriteTraffic<'c, D>, scratch: &'s mut [u8]) -> Self {
        let (gather, records) = scratch.split_at_mut(PLAIN.min(scratch.len()));
        Self { traffic, gather, gathered: 0, records, length: 0 }
    }

    fn seal(mut self, slices: &[IoSlice<'_>]) -> Result<(usize, &'s [u8]), EncryptError> {
        let mut taken = 0;
        let alone = slices.iter().filter(|slice| !slice.is_empty()).count() == 1;
        for slice in slices {
            let (piece, left) = slice.split_at(slice.len().min(BATCH - taken));
            match self.gather.get_mut(self.gathered..self.gathered + piece.len()) {
                Some(room) if !alone => {
                    room.copy_from_slice(piece);
                    self.gathered += piece.len();
                }
                _ => {
                    self.encrypt_gathered()?;
                    self.length += self.traffic.encrypt(piece, room_behind(self.records, self.length))?;
                }
            }
            taken += piece.len();
            if !left.is_empty() {
                break;
            }
        }
        self.encrypt_gathered()?;
        Ok((taken, self.records.get(..self.length).unwrap_or_default()))
    }

    fn encrypt_gathered(&mut self) -> Result<(), EncryptError> {
        if self.gathered > 0 {
            let (pieces, _) = self.gather.split_at(self.gathered);
            self.length += self.traffic.encrypt(pieces, room_behind(self.records, self.length))?;
            self.gathered = 0;
        }
        Ok(())
    }
}

fn room_behind(records: &mut [u8], length: usize) -> &mut [u8] {
    records.get_mut(length..).unwrap_or_default()
}

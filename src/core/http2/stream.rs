//! One exchange of those that share a connection.

use std::task::{Context, Waker};

use http::StatusCode;

use super::Code;
use crate::core::fields::Fields;

/// How many bytes of one answer may be unread. A slow reader holds at most so many.
pub const STREAM_WINDOW: u32 = 128 * 1024;

/// Why an exchange has no answer, or not all of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The server ended the exchange.
    Reset(Code),
    /// The server ends the connection, and has not begun with this one.
    GoneAway(Code),
    /// What the server sent is no answer, or breaks a rule; on this exchange alone.
    Malformed(Code),
    /// The server broke a rule of the connection.
    Broken(Code),
    /// The connection takes no more, or is gone.
    Line,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// The status; of 200 and above.
    pub status: StatusCode,
    /// The fields as they came.
    pub fields: Fields,
    /// How many bytes the body has, where that is known: more or fewer are a break.
    pub length: Option<u64>,
}

/// How far the answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    Open,
    Ended,
    Lost(Loss),
}

/// What was not sent of a request's body.
pub(super) struct Rest<B> {
    pub(super) body: B,
    pub(super) from: usize,
}

pub(super) struct Stream<B> {
    /// Which byte of all that the connection sends is its first.
    pub(super) first: u64,
    pub(super) rest: Option<Rest<B>>,
    /// How much more the server takes of it.
    pub(super) send_window: i64,
    /// Whether its answer has no body, whatever its fields say.
    pub(super) bodiless: bool,
    pub(super) course: Course,
    /// Has come, and was not taken.
    pub(super) head: Option<Head>,
    /// The head has come.
    pub(super) begun: bool,
    /// How many bytes are to come, where that is known.
    pub(super) left: Option<u64>,
    /// Has come, and was not taken.
    pub(super) data: Vec<u8>,
    pub(super) receive: Receive,
    waker: Option<Waker>,
}

impl<B> Stream<B> {
    pub(super) fn new(first: u64, bodiless: bool, send_window: u32) -> Self {
        Self {
            first,
            rest: None,
            send_window: i64::from(send_window),
            bodiless,
            course: Course::Open,
            head: None,
            begun: false,
            left: None,
            data: Vec::new(),
            receive: Receive::new(STREAM_WINDOW),
            waker: None,
        }
    }

    /// Whoever waits for it is woken.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// It has no answer, or no more of it. What has come whole stays.
    pub(super) fn lose(&mut self, loss: Loss) {
        self.rest = None;
        if self.course == Course::Open {
            self.course = Course::Lost(loss);
            self.wake();
        }
    }

    /// Takes in a piece of the body; all of it, or nothing where there is more, or less, than the head said.
    pub(super) fn append(&mut self, data: &[u8], ends: bool) -> Result<(), Code> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(data.len() as u64).ok_or(Code::PROTOCOL_ERROR)?;
        }
        if ends {
            self.end()?;
        }
        self.data.extend_from_slice(data);
        Ok(())
    }

    /// The answer is whole.
    pub(super) fn end(&mut self) -> Result<(), Code> {
        if self.left.is_some_and(|left| left != 0) {
            return Err(Code::PROTOCOL_ERROR);
        }
        self.course = Course::Ended;
        Ok(())
    }
}

/// How much the server may send, and how much more it is to be told that it may.
pub(super) struct Receive {
    size: u32,
    room: u32,
    due: u32,
}

impl Receive {
    pub(super) fn new(size: u32) -> Self {
        Self { size, room: size, due: 0 }
    }

    /// So much has come; `Err` where that is more than was allowed.
    pub(super) fn take(&mut self, bytes: u32) -> Result<(), Code> {
        self.room = self.room.checked_sub(bytes).ok_or(Code::FLOW_CONTROL_ERROR)?;
        Ok(())
    }

    /// So much is held no more. What the server is to be told now: not every little piece.
    pub(super) fn release(&mut self, bytes: u32) -> Option<u32> {
        self.due += bytes;
        if self.due < self.size / 2 {
            return None;
        }
        self.room += self.due;
        Some(std::mem::take(&mut self.due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_opened_again_when_half_of_it_was_used() {
        let mut window = Receive::new(10);
        assert_eq!((window.take(6), window.release(4), window.release(0)), (Ok(()), None, None));
        assert_eq!((window.take(4), window.release(1)), (Ok(()), Some(5)));
        assert_eq!((window.take(5), window.take(1)), (Ok(()), Err(Code::FLOW_CONTROL_ERROR)));
    }
}

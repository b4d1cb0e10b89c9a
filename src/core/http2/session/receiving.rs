//! What comes from the server.

use std::collections::VecDeque;
use std::ops::Deref;

use http::StatusCode;

use super::{Head, Loss, Part, Session, setting};
use crate::core::answer;
use crate::core::http2::answer::{AnswerList, MAX_LIST};
use crate::core::http2::stream::{Course, Stream};
use crate::core::http2::{Code, Frame, MAX_FRAME, MAX_ID, flag, kind, put};

/// How many replies the server may have waiting, and in how many parts it may send one head.
const MAX_REPLIES: u32 = 1000;
const MAX_PARTS: u32 = 64;

impl<B: Deref<Target = [u8]>> Session<B> {
    /// Takes in what came, and returns how many bytes were whole frames: the others are to be handed in again, with
    /// what follows.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while !self.over {
            let taken = match Frame::read(bytes.get(at..).unwrap_or_default()) {
                Ok(None) => break,
                Ok(Some((frame, length))) => {
                    at += length;
                    self.take(frame)
                }
                Err(code) => Err(code),
            };
            if let Err(code) = taken {
                // The last of its streams that we have begun with: it has none.
                put(&mut self.out, kind::GOAWAY, 0, 0, &[[0; 4], code.0.to_be_bytes()].concat());
                self.end(Loss::Broken(code));
            }
        }
        at
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        let is_greeting = frame.kind == kind::SETTINGS && !frame.has(flag::ACK);
        let of_part = self.part.as_ref().is_none_or(|part| part.id == frame.id);
        if !(self.greeted || is_greeting) || !of_part || self.part.is_some() != (frame.kind == kind::CONTINUATION) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let of_connection = matches!(frame.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        let of_stream = matches!(frame.kind, kind::DATA | kind::HEADERS | kind::RST_STREAM);
        if of_connection && frame.id != 0 || of_stream && self.is_unknown(frame.id) {
            return Err(Code::PROTOCOL_ERROR);
        }
        match frame.kind {
            kind::DATA => self.take_data(frame),
            kind::HEADERS => self.take_headers(frame),
            kind::CONTINUATION => self.take_continuation(frame),
            kind::RST_STREAM => {
                let code = Code(frame.number()?);
                if let Some(stream) = self.streams.get_mut(&frame.id) {
                    stream.lose(Loss::Reset(code));
                }
                Ok(())
            }
            kind::SETTINGS => self.take_settings(frame),
            kind::PING => self.take_ping(frame),
            kind::GOAWAY => self.take_go_away(frame.payload),
            kind::WINDOW_UPDATE => self.take_window(frame),
            // None was allowed.
            kind::PUSH_PROMISE => Err(Code::PROTOCOL_ERROR),
            _ => Ok(()),
        }
    }

    /// Whether it is a stream of the server's own, or one that we have not begun.
    fn is_unknown(&self, id: u32) -> bool {
        id.is_multiple_of(2) || id >= self.next
    }

    fn take_data(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        let size = u32::try_from(frame.payload.len()).map_err(|_| Code::FRAME_SIZE_ERROR)?;
        self.receive.take(size)?;
        let data = frame.unpadded()?;
        let open = self.streams.get_mut(&frame.id).filter(|stream| stream.course == Course::Open);
        let Some(stream) = open else {
            // Somebody has just lost interest in it.
            self.release(None, frame.payload.len());
            return Ok(());
        };
        let appended = if stream.begun { stream.receive.take(size) } else { Err(Code::PROTOCOL_ERROR) };
        match appended.and_then(|()| stream.append(data, frame.has(flag::END_STREAM))) {
            Ok(()) => {
                stream.wake();
                self.release(Some(frame.id), frame.payload.len() - data.len());
            }
            Err(code) => {
                self.break_off(frame.id, code);
                self.release(None, frame.payload.len());
            }
        }
        Ok(())
    }

    /// A stream has broken a rule: it is ended from here.
    fn break_off(&mut self, id: u32, code: Code) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.course == Course::Open) {
            stream.lose(Loss::Malformed(code));
            self.reset(id, code);
        }
    }

    fn take_headers(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        let mut list = frame.unpadded()?;
        if frame.has(flag::PRIORITY) {
            list = list.get(5..).ok_or(Code::FRAME_SIZE_ERROR)?;
        }
        let ends = frame.has(flag::END_STREAM);
        if frame.has(flag::END_HEADERS) {
            return self.take_list(frame.id, ends, list);
        }
        self.part = Some(Part { id: frame.id, ends, list: list.to_vec(), count: 1 });
        Ok(())
    }

    fn take_continuation(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        let Some(mut part) = self.part.take() else { return Err(Code::PROTOCOL_ERROR) };
        part.count += 1;
        part.list.extend_from_slice(frame.payload);
        if part.list.len() > MAX_LIST || part.count > MAX_PARTS {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        if frame.has(flag::END_HEADERS) {
            return self.take_list(part.id, part.ends, &part.list);
        }
        self.part = Some(part);
        Ok(())
    }

    /// A whole head, or what follows a body.
    fn take_list(&mut self, id: u32, ends: bool, list: &[u8]) -> Result<(), Code> {
        let mut answer = AnswerList::default();
        // Also where nobody wants it: what follows can be read only by who has read this.
        let read = self.unpacker.read(list, |name, value| answer.take(name, value));
        read.map_err(|_| Code::COMPRESSION_ERROR)?;
        let open = self.streams.get_mut(&id).filter(|stream| stream.course == Course::Open);
        let Some(stream) = open else { return Ok(()) };
        let taken = if stream.begun {
            // Trailers, which are not passed on.
            if ends { stream.end() } else { Err(Code::PROTOCOL_ERROR) }
        } else {
            begin(stream, answer, ends)
        };
        match taken {
            Ok(()) => stream.wake(),
            Err(code) => self.break_off(id, code),
        }
        Ok(())
    }

    fn take_settings(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        if frame.has(flag::ACK) {
            return if frame.payload.is_empty() { Ok(()) } else { Err(Code::FRAME_SIZE_ERROR) };
        }
        let (settings, []) = frame.payload.as_chunks::<6>() else { return Err(Code::FRAME_SIZE_ERROR) };
        self.greeted = true;
        for [a, b, value @ ..] in settings {
            self.heed(u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))?;
        }
        self.reply(kind::SETTINGS, &[])
    }

    fn heed(&mut self, name: u16, value: u32) -> Result<(), Code> {
        match name {
            setting::ENABLE_PUSH if value != 0 => return Err(Code::PROTOCOL_ERROR),
            setting::MAX_FRAME_SIZE if !(MAX_FRAME as u32..1 << 24).contains(&value) => {
                return Err(Code::PROTOCOL_ERROR);
            }
            setting::MAX_CONCURRENT_STREAMS => {
                self.limit = value.min(self.most);
                self.wake_waiting();
            }
            setting::INITIAL_WINDOW_SIZE if value > MAX_ID => return Err(Code::FLOW_CONTROL_ERROR),
            setting::INITIAL_WINDOW_SIZE => {
                let change = i64::from(value) - i64::from(self.first_window);
                self.first_window = value;
                for (id, stream) in &mut self.streams {
                    widen(stream, *id, change, &mut self.ready)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Who asks without end, and hears nothing, has lost his right to be answered.
    fn reply(&mut self, kind: u8, payload: &[u8]) -> Result<(), Code> {
        self.replies += 1;
        if self.replies > MAX_REPLIES {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        put(&mut self.out, kind, flag::ACK, 0, payload);
        Ok(())
    }

    fn take_ping(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        match frame.payload.len() {
            8 if frame.has(flag::ACK) => Ok(()),
            8 => self.reply(kind::PING, frame.payload),
            _ => Err(Code::FRAME_SIZE_ERROR),
        }
    }

    fn take_go_away(&mut self, payload: &[u8]) -> Result<(), Code> {
        let (last, rest) = payload.split_first_chunk().ok_or(Code::FRAME_SIZE_ERROR)?;
        let code = rest.first_chunk().ok_or(Code::FRAME_SIZE_ERROR)?;
        let (last, loss) = (u32::from_be_bytes(*last) & MAX_ID, Loss::GoneAway(Code(u32::from_be_bytes(*code))));
        self.close_to_new(loss);
        self.streams.iter_mut().filter(|(id, _)| **id > last).for_each(|(_, stream)| stream.lose(loss));
        Ok(())
    }

    fn take_window(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        let more = frame.number()? & MAX_ID;
        if frame.id == 0 {
            self.send_window += i64::from(more);
            return match more {
                0 => Err(Code::PROTOCOL_ERROR),
                _ if self.send_window > i64::from(MAX_ID) => Err(Code::FLOW_CONTROL_ERROR),
                _ => Ok(()),
            };
        }
        if self.is_unknown(frame.id) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.get_mut(&frame.id) else { return Ok(()) };
        let widened = match more {
            0 => Err(Code::PROTOCOL_ERROR),
            more => widen(stream, frame.id, i64::from(more), &mut self.ready),
        };
        if let Err(code) = widened {
            self.break_off(frame.id, code);
        }
        Ok(())
    }
}

/// A stream may send so much more, or less. Its body goes on if it had to wait.
fn widen<B>(stream: &mut Stream<B>, id: u32, change: i64, ready: &mut VecDeque<u32>) -> Result<(), Code> {
    let had_to_wait = stream.send_window <= 0;
    stream.send_window += change;
    if stream.send_window > i64::from(MAX_ID) {
        return Err(Code::FLOW_CONTROL_ERROR);
    }
    if had_to_wait && stream.send_window > 0 && stream.rest.is_some() {
        ready.push_back(id);
    }
    Ok(())
}

/// The head of an answer has come, or one that only tells of it.
fn begin<B>(stream: &mut Stream<B>, answer: AnswerList, ends: bool) -> Result<(), Code> {
    let (status, fields) = answer.finish().ok_or(Code::PROTOCOL_ERROR)?;
    if status.is_informational() {
        // To speak something else is not possible here (RFC 9113 section 8.6).
        let is_fine = !ends && status != StatusCode::SWITCHING_PROTOCOLS;
        return if is_fine { Ok(()) } else { Err(Code::PROTOCOL_ERROR) };
    }
    let bodiless = stream.bodiless || answer::is_bodiless(status);
    stream.left = if bodiless { Some(0) } else { answer::length(&fields).map_err(|_| Code::PROTOCOL_ERROR)? };
    let length = if ends { Some(0) } else { stream.left };
    stream.begun = true;
    if ends {
        stream.end()?;
    }
    stream.head = Some(Head { status, fields, length });
    Ok(())
}

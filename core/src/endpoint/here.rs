//! A service that is asked by a caller beside it, without a session, a packet or a copy between.

use super::host::{Body, CallError, Host, Outcome, PendingCall, Reply, RequestHead, SessionId};
use crate::time::Instant;
use crate::wire::message::{
    ArgEntry, Arguments, HEAD_BYTES_MAX, Method, RESPONSE_HEADER_BYTES, ResponseHeader, Status,
    TraceId, arguments_bytes, emit_arguments,
};

/// Room for the heads of a request and its answer.
#[derive(Debug)]
pub struct Heads {
    request: [u8; HEAD_BYTES_MAX],
    answer: [u8; HEAD_BYTES_MAX],
}

impl Default for Heads {
    fn default() -> Self {
        Self { request: [0; HEAD_BYTES_MAX], answer: [0; HEAD_BYTES_MAX] }
    }
}

/// What a caller asks of a service beside it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The operation.
    pub method: Method,
    /// Arguments and references.
    pub arguments: &'a [ArgEntry],
    /// Parameters of the operation.
    pub parameters: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// The session in whose name it is asked.
    pub session: SessionId,
}

/// The answer of a service beside its caller.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// How the request ended.
    pub status: Status,
    /// Results: arguments, references and parameters.
    pub arguments: Arguments<'a>,
    /// Length in bytes of the body, which is at the front of the room that was given.
    pub body_bytes: usize,
}

/// Asks `service`, and puts the answer's body at the front of `room`. `None` if the service has no
/// room now: nothing has happened, and the caller tries again.
///
/// # Errors
/// [`CallError::Malformed`] if the request does not fit its head, or the service answers later,
/// which only a service over an endpoint can; [`CallError::AnswerTooLarge`].
pub fn ask<'h, H: Host>(
    service: &mut H,
    now: Instant,
    asked: &Asked<'_>,
    room: &mut [u8],
    heads: &'h mut Heads,
) -> Option<Result<Answered<'h>, CallError>> {
    let Asked { method, arguments, parameters, body, session } = *asked;
    let bytes = arguments_bytes(arguments) + parameters.len();
    if bytes > HEAD_BYTES_MAX {
        return Some(Err(CallError::Malformed));
    }
    let table =
        if arguments.is_empty() { 0 } else { emit_arguments(arguments, &mut heads.request) };
    heads.request[table..table + parameters.len()].copy_from_slice(parameters);
    let Ok(arguments) = Arguments::parse(arguments.len() as u8, &heads.request[..bytes]) else {
        return Some(Err(CallError::Malformed));
    };
    let call = PendingCall { session, slot: 0, request: 0 };
    let trace = TraceId::default();
    let head = RequestHead { call, method, depth: 0, deadline: None, trace, arguments };
    let room_bytes = u32::try_from(room.len()).unwrap_or(u32::MAX);
    let mut reply = Reply::new(&mut heads.answer, room_bytes);
    match service.request(now, &head, Body::Whole(body), &mut reply) {
        Outcome::Busy => return None,
        Outcome::Later => return Some(Err(CallError::Malformed)),
        Outcome::Replied => {}
    }
    let finished = reply.finish();
    let (head, inline) = (usize::from(finished.head), usize::from(finished.inline));
    let body_bytes = match finished.source {
        Some((source, bytes)) => {
            let bytes = bytes as usize;
            // The service was told the room.
            if let Some(room) = room.get_mut(..bytes) {
                service.supply(source, 0, room);
            }
            service.release(source);
            bytes
        }
        None => {
            if let Some(room) = room.get_mut(..inline - head) {
                room.copy_from_slice(&heads.answer[head..inline]);
            }
            inline - head
        }
    };
    if body_bytes > room.len() {
        return Some(Err(CallError::AnswerTooLarge { bytes: body_bytes as u32, room: room_bytes }));
    }
    let parsed = ResponseHeader::parse(&heads.answer[..head]).and_then(|header| {
        let arguments = Arguments::parse(header.args, &heads.answer[RESPONSE_HEADER_BYTES..head])?;
        Ok(Answered { status: header.status, arguments, body_bytes })
    });
    Some(parsed.map_err(|_| CallError::Malformed))
}

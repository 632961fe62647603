//! What the endpoint asks of a node while it is polled.

use dmrpc_core::endpoint::Host;
use dmrpc_core::endpoint::host::{
    Admission, Body, CallError, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent,
    SessionId, Side, Sink, Source,
};
use dmrpc_core::memory::Loan;
use dmrpc_core::time::Instant;
use dmrpc_core::wire::bytes::copy_short;
use dmrpc_core::wire::message::Status;

use crate::args::Arg;
use crate::pending::{Interest, Pending, Phase, Place, Ticket};
use crate::state::State;
use crate::visit::{Visit, entry_of};

/// The name of the slices of a blocking call. Other names are numbers of buffers.
pub(crate) const USER: u64 = u64::MAX;

/// The slices that a blocking call's caller lends while it waits.
pub(crate) struct UserBytes<'u> {
    /// The request's body: the inline ones, one after the other.
    pub(crate) parts: &'u [Arg<'u>],
    /// Room for the answer's body.
    pub(crate) sink: &'u mut [u8],
    /// Looks at the bytes of reads that go nowhere else.
    pub(crate) visit: Option<&'u mut Visit<'u>>,
}

impl UserBytes<'_> {
    fn supply(&self, offset: u32, out: &mut [u8]) {
        copy_parts(self.parts, offset as usize, out);
    }
}

/// Fills `out` from the bytes of the inline parts, from `skip` on.
pub(crate) fn copy_parts(parts: &[Arg<'_>], mut skip: usize, mut out: &mut [u8]) {
    for part in parts {
        let Arg::Inline(bytes) = part else { continue };
        if skip >= bytes.len() {
            skip -= bytes.len();
            continue;
        }
        let count = out.len().min(bytes.len() - skip);
        let (now, later) = out.split_at_mut(count);
        now.copy_from_slice(&bytes[skip..skip + count]);
        out = later;
        skip = 0;
        if out.is_empty() {
            return;
        }
    }
}

/// The host of one poll.
pub(crate) struct PollHost<'a, 'u> {
    pub(crate) state: &'a mut State,
    pub(crate) user: Option<&'a mut UserBytes<'u>>,
}

#[inline]
fn copy_to(out: &mut [u8], offset: u32, bytes: &[u8]) {
    let offset = offset as usize;
    // The endpoint checked the message's length against the room.
    if let Some(out) = out.get_mut(offset..offset + bytes.len()) {
        copy_short(out, bytes);
    }
}

impl PollHost<'_, '_> {
    /// Stores the end of a call in its entry. Returns which that is, and who wants to know.
    #[inline(always)]
    fn finish(&mut self, completion: &Completion<'_>) -> Option<(Ticket, Interest)> {
        let State { pending, pool, operations, peers, replies, order, .. } = &mut *self.state;
        let (ticket, entry) = pending.by_token(completion.token)?;
        let count = &mut operations[entry.operation as usize];
        entry.phase = Phase::Done;
        let result = match &completion.result {
            Ok(response) => match response.body {
                Body::Absorbed { bytes, .. } => Ok((response, bytes as usize)),
                Body::Whole(body) => {
                    let kept = keep_body((ticket, &mut *entry), body, pool, &mut self.user);
                    kept.map(|()| (response, body.len()))
                }
            },
            Err(error) => Err(*error),
        };
        match result {
            Ok((response, bytes)) => {
                let mut reply = replies.take();
                reply.fill(response.status, &response.arguments, bytes);
                entry.reply = Some(reply);
                count.done += 1;
                count.bytes_in += bytes as u64;
                count.bytes_out += entry.bytes_out;
            }
            Err(error) => {
                entry.error = Some(error);
                entry.address = peers.get(entry.peer).map(|peer| peer.address);
                count.failed += 1;
            }
        }
        if let Some(region) = &entry.region {
            order.ended(region, completion.call);
        }
        Some((ticket, entry.interest))
    }

    /// Shows bytes of a read to the visitor of this poll.
    fn show(&mut self, entry: u32, offset: u32, bytes: &[u8]) {
        let Some((ticket, entry)) = self.state.pending.under_way(entry) else { return };
        match self.user.as_mut().and_then(|user| user.visit.as_mut()) {
            _ if entry.interest == Interest::Abandoned => {}
            Some(visit) => visit(ticket, offset.into(), bytes),
            None => entry.unvisited = true,
        }
    }

    fn refuse(&mut self, body: &Body<'_>) {
        if let Body::Absorbed { sink, .. } = body {
            self.state.release_buffer(sink.0 as u16);
        }
    }
}

/// Copies a body that came in one packet to where the call wants it.
#[inline(always)]
fn keep_body(
    (ticket, entry): (Ticket, &mut Pending),
    body: &[u8],
    pool: &mut crate::buffers::Pool,
    user: &mut Option<&mut UserBytes<'_>>,
) -> Result<(), CallError> {
    if body.len() > entry.room as usize {
        let bytes = body.len() as u32;
        return Err(CallError::AnswerTooLarge { bytes, room: entry.room });
    }
    match entry.place {
        Place::Nowhere => {}
        Place::Buffer(index) => copy_to(pool.bytes(index), 0, body),
        Place::User => {
            if let Some(user) = user {
                copy_to(user.sink, 0, body);
            }
        }
        Place::Visitor => match user.as_mut().and_then(|user| user.visit.as_mut()) {
            Some(visit) => visit(ticket, 0, body),
            None => entry.unvisited = true,
        },
    }
    Ok(())
}

impl Host for PollHost<'_, '_> {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        let state = &mut *self.state;
        if !state.inbox.open || head.method.is_system() {
            state.served.unknown += 1;
            return Admission::Reject(Status::UNKNOWN_METHOD);
        }
        if body_bytes as usize > state.pool.bytes_max() {
            return Admission::Reject(Status::MALFORMED);
        }
        let reserved =
            if state.inbox.has_room() { state.pool.reserve(body_bytes as usize) } else { None };
        match reserved {
            Some(index) => Admission::Accept(Sink(index.into())),
            None => {
                state.served.busy += 1;
                Admission::Busy
            }
        }
    }

    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        if sink.0 == USER {
            if let Some(user) = &mut self.user {
                copy_to(user.sink, offset, bytes);
            }
        } else if let Some(entry) = entry_of(sink) {
            self.show(entry, offset, bytes);
        } else {
            copy_to(self.state.pool.bytes(sink.0 as u16), offset, bytes);
        }
    }

    #[inline]
    fn place(&mut self, sink: Sink, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        let whole: &mut [u8] = if sink.0 == USER {
            &mut *self.user.as_mut()?.sink
        } else if entry_of(sink).is_some() {
            // Shown where they came in, so not before they are known to be right.
            return None;
        } else {
            self.state.pool.bytes(sink.0 as u16)
        };
        whole.get_mut(offset as usize..)?.get_mut(..bytes as usize)
    }

    fn abandon(&mut self, sink: Sink) {
        if sink.0 != USER {
            self.state.release_buffer(sink.0 as u16);
        }
    }

    #[inline]
    fn request(
        &mut self,
        _now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if !self.state.inbox.open || head.method.is_system() {
            self.refuse(&body);
            self.state.served.unknown += 1;
            reply.head(Status::UNKNOWN_METHOD, &[], &[]);
            return Outcome::Replied;
        }
        if self.state.sync.is_there()
            && let Some(outcome) = self.state.serve_sync(head, &body, reply)
        {
            return outcome;
        }
        let mut bytes_in = 0;
        let put = self.state.inbox.put(head, |request| {
            (request.body_bytes, request.absorbed) = match body {
                Body::Whole(bytes) => {
                    copy_short(&mut request.body[..bytes.len()], bytes);
                    (bytes.len(), None)
                }
                Body::Absorbed { sink, bytes } => (bytes as usize, Some(sink.0 as u16)),
            };
            bytes_in = request.body_bytes as u64;
        });
        if !put {
            self.refuse(&body);
            self.state.served.busy += 1;
            return Outcome::Busy;
        }
        self.state.served.requests += 1;
        self.state.served.bytes_in += bytes_in;
        Outcome::Later
    }

    fn cancelled(&mut self, call: PendingCall) {
        let state = &mut *self.state;
        if let Some(task) = state.inbox.cancel(call) {
            state.served.cancelled += 1;
            state.ready.set(task);
        }
    }

    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        if source.0 != USER {
            let bytes = self.state.pool.look(source.0 as u16);
            if let Some(bytes) = bytes.get(offset as usize..offset as usize + out.len()) {
                out.copy_from_slice(bytes);
            }
        } else if let Some(user) = &self.user {
            user.supply(offset, out);
        }
    }

    #[inline]
    fn look(&self, source: Source, offset: u32, bytes: u32) -> Option<&[u8]> {
        if source.0 == USER {
            // Pieces of several arguments.
            return None;
        }
        let whole = self.state.pool.look(source.0 as u16);
        whole.get(offset as usize..)?.get(..bytes as usize)
    }

    /// The slices of a blocking call are their caller's again as soon as it is over, whatever a
    /// device still has to send: only buffers are lent.
    #[inline]
    fn lend(&mut self, source: Source, offset: u32, least: u32, most: u32) -> Option<Loan> {
        if source.0 == USER {
            return None;
        }
        self.state.pool.loan(source.0 as u16, offset, least, most)
    }

    fn release(&mut self, source: Source) {
        if source.0 != USER {
            self.state.release_buffer(source.0 as u16);
        }
    }

    #[inline]
    fn completed(&mut self, _now: Instant, completion: Completion<'_>) {
        let Some((ticket, interest)) = self.finish(&completion) else { return };
        match interest {
            Interest::Asking => {}
            Interest::Listed => self.state.pending.list(ticket.index()),
            Interest::Task(task) => self.state.wake(ticket, task),
            Interest::Abandoned => self.state.abandon(ticket),
        }
        self.state.wake_waiting();
    }

    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        if side == Side::Client {
            self.state.peers.event(now, session, event);
            self.state.wake_waiting();
        }
    }
}

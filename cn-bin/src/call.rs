//! Calls: begun now and finished later.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::{CallId, SessionId, Sink, Source};
use dmrpc_core::endpoint::{Call, StartError};
use dmrpc_core::time::Duration;
use dmrpc_core::wire::memory_op::RegionName;
use dmrpc_core::wire::message::{
    ArgEntry, HEAD_BYTES_MAX, Method, REQUEST_HEADER_BYTES, TraceId, arguments_bytes,
};

use crate::args::{Arg, parts_bytes, table};
use crate::buffers::{Buffer, LentBuffer};
use crate::error::Error;
use crate::hosting::{USER, copy_parts};
use crate::memory::MESSAGE_BODY_BYTES_MAX;
use crate::node::{Core, Node};
use crate::order::RegionKey;
use crate::peers::Peer;
use crate::pending::{ArgList, Begin, Interest, Phase, Place, Ticket};
use crate::replies::LentReply;
use crate::state::State;
use crate::statistics::Operation;
use crate::visit::sink_of;

/// How a call is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long to wait for the answer; `None` for `NodeConfig::deadline`. Of calls that leave with
    /// the same poll, all wait from the time at which the first of them began.
    pub deadline: Option<Duration>,
    /// The trace that the call belongs to.
    pub trace: TraceId,
    /// How many calls this one is nested in. See [`Context`](crate::Context) for calls made by a
    /// handler.
    pub depth: u8,
}

impl CallOptions {
    /// Nothing is asked for.
    pub(crate) const NONE: &Self = &Self { deadline: None, trace: TraceId(0), depth: 0 };
}

/// A call, without the bytes of its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) peer: Peer,
    pub(crate) method: Method,
    pub(crate) operation: Operation,
    /// The region that it works on.
    pub(crate) region: Option<RegionName>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) arguments: &'a [ArgEntry],
    pub(crate) parameters: &'a [u8],
    pub(crate) options: &'a CallOptions,
}

impl Spec<'_> {
    #[inline(always)]
    pub(crate) fn head_bytes(&self) -> usize {
        REQUEST_HEADER_BYTES + arguments_bytes(self.arguments) + self.parameters.len()
    }
}

/// Where a request's body comes from.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) inline: &'a [u8],
    pub(crate) source: Option<(Source, u32)>,
}

/// A call that has ended with an answer.
#[derive(Debug)]
pub struct Finished<'n> {
    /// What it was for.
    pub operation: Operation,
    /// Who answered.
    pub peer: Peer,
    /// The answer's head.
    pub reply: LentReply<'n>,
    /// The answer's body, if the call was given a buffer for it.
    pub buffer: Option<Buffer<'n>>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Why a call did not begin.
enum Refused {
    /// All entries are in use.
    NoCall { limit: usize },
    /// The endpoint says why.
    Start(StartError),
}

impl<D: Device> Node<D> {
    /// Begins a call: makes an entry for it and gives it to the endpoint.
    #[inline(always)]
    pub(crate) fn begin(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        sink: (Place, u32),
        interest: Interest,
    ) -> Result<Ticket, Error> {
        match self.try_begin(spec, outgoing, sink, interest) {
            Ok(ticket) => Ok(ticket),
            Err(refused) => self.begin_anew(spec, outgoing, sink, interest, refused),
        }
    }

    /// Begins a call in the session that has followed, if there is one.
    #[cold]
    #[inline(never)]
    fn begin_anew(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        sink: (Place, u32),
        interest: Interest,
        mut refused: Refused,
    ) -> Result<Ticket, Error> {
        let mut spec = *spec;
        loop {
            let error = match refused {
                Refused::NoCall { limit } => return Err(Error::NoCall { limit }),
                Refused::Start(error) => error,
            };
            spec.peer = {
                let (mut core, mut state) = (self.core.borrow_mut(), self.state.borrow_mut());
                self.renewed(&mut core, &mut state, &spec, error)?
            };
            match self.try_begin(&spec, outgoing, sink, interest) {
                Ok(ticket) => return Ok(ticket),
                Err(error) => refused = error,
            }
        }
    }

    /// Begins a call in the session of its peer. The one place where calls are made; always part
    /// of its callers, so that what they leave out costs nothing.
    #[inline(always)]
    fn try_begin(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        (place, room): (Place, u32),
        interest: Interest,
    ) -> Result<Ticket, Refused> {
        self.forget_places(spec);
        let mut core = self.core.borrow_mut();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let region = spec.region.map(|name| RegionKey { session: spec.peer.session, name });
        let bytes_out =
            outgoing.inline.len() + outgoing.source.map_or(0, |(_, bytes)| bytes as usize);
        let begin = Begin {
            peer: spec.peer,
            method: spec.method,
            operation: spec.operation,
            interest,
            region,
            place,
            room,
            offset: spec.offset,
            length: spec.length,
            bytes_out: bytes_out as u64,
        };
        let limit = state.pending.count();
        let ticket = state.pending.next_free().ok_or(Refused::NoCall { limit })?;
        let sink = match place {
            Place::Nowhere => None,
            Place::User => Some((Sink(USER), room)),
            Place::Buffer(index) => Some((Sink(index.into()), room)),
            Place::Visitor => Some((sink_of(ticket.index()), room)),
        };
        let call = Call {
            method: spec.method,
            arguments: spec.arguments,
            parameters: spec.parameters,
            body: outgoing.inline,
            source: outgoing.source,
            sink,
            deadline: Some(spec.options.deadline.unwrap_or(self.config.deadline)),
            trace: spec.options.trace,
            depth: spec.options.depth,
            after: region.and_then(|region| state.order.last(&region)),
            token: ticket.token(),
        };
        let session = spec.peer.session;
        let id = if interest == Interest::Asking {
            // Somebody waits for this one call: it leaves before anything is noted of it.
            self.call_now(&mut core, session, &call)
        } else {
            let now = self.now_of_burst();
            core.endpoint.with(|endpoint| endpoint.call(now, session, &call))
        };
        let id = id.map_err(Refused::Start)?;
        state.pending.begin(begin).ok_or(Refused::NoCall { limit })?;
        begun(state, ticket, region, id);
        Ok(ticket)
    }

    /// Begins a call that leaves at once if it can.
    #[inline(always)]
    fn call_now(
        &self,
        core: &mut Core<D>,
        session: SessionId,
        call: &Call<'_>,
    ) -> Result<CallId, StartError> {
        let Core { endpoint, device, polls, .. } = core;
        let sent_before = endpoint.get().counters().packets_sent;
        let id = endpoint.with(|endpoint| endpoint.call_now(|| self.now(), device, session, call));
        polls.count_sent(endpoint.get().counters().packets_sent - sent_before);
        id
    }

    #[cold]
    pub(crate) fn start_error(&self, state: &State, spec: &Spec<'_>, error: StartError) -> Error {
        let Some(peer) = state.peers.get(spec.peer) else { return Error::StalePeer };
        let address = peer.address;
        match error {
            StartError::Suspected => Error::Suspected { address },
            StartError::NoSlot => Error::NoSlot { address, slots: self.config.slots },
            StartError::TooDeep { depth } => Error::TooDeep { depth },
            StartError::HeadTooLarge { bytes } => Error::HeadTooLarge { bytes },
            StartError::MessageTooLarge { bytes } => Error::MessageTooLarge { bytes },
            StartError::UnknownSession | StartError::Connecting => {
                let why = state.peers.why_over(spec.peer);
                why.map_or(Error::StalePeer, |why| Error::SessionLost { address, why })
            }
        }
    }

    /// Begins a call with buffers of the node's: a body that does not fit the head is copied.
    #[inline(always)]
    pub(crate) fn start(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        reply: Option<Buffer<'_>>,
        interest: Interest,
    ) -> Result<Ticket, Error> {
        // At once: what is moved about later is moved in pieces that are not as they were stored.
        let reply = self.hand_over(reply);
        match parts {
            [Arg::Inline(bytes)] if spec.head_bytes() + bytes.len() <= HEAD_BYTES_MAX => {
                self.start_with(spec, bytes, None, reply, interest)
            }
            _ => self.start_copied(spec, parts, reply, interest),
        }
    }

    /// Begins a call whose body is copied first.
    #[inline(never)]
    fn start_copied(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        reply: Option<LentBuffer>,
        interest: Interest,
    ) -> Result<Ticket, Error> {
        let total = parts_bytes(parts);
        let mut head = [0; HEAD_BYTES_MAX];
        let (inline, source) = if spec.head_bytes() + total <= HEAD_BYTES_MAX {
            copy_parts(parts, 0, &mut head[..total]);
            (&head[..total], None)
        } else {
            let source = self.buffer(total).map(|mut source| {
                copy_parts(parts, 0, &mut source);
                Some(source)
            });
            match source {
                Ok(source) => (&[][..], self.hand_over(source)),
                Err(error) => {
                    self.release([reply, None]);
                    return Err(error);
                }
            }
        };
        self.start_with(spec, inline, source, reply, interest)
    }

    /// Begins a call with a body in a buffer, or inline.
    #[inline(always)]
    pub(crate) fn start_with(
        &self,
        spec: &Spec<'_>,
        inline: &[u8],
        source: Option<LentBuffer>,
        reply: Option<LentBuffer>,
        interest: Interest,
    ) -> Result<Ticket, Error> {
        let (place, room) = match reply {
            Some(LentBuffer { index, bytes }) => (Place::Buffer(index), bytes),
            None => (Place::Nowhere, 0),
        };
        let from = source.map(|LentBuffer { index, bytes }| (Source(index.into()), bytes));
        let outgoing = Outgoing { inline, source: from };
        if self.runs_here(spec) {
            return self.begin_here(spec, outgoing, (place, room), interest);
        }
        if spec.method == Method::MEMORY
            && self.pens.borrow().is_some()
            && let Some(begun) = self.begin_by_pen(spec, outgoing, (place, room), interest)
        {
            return begun;
        }
        let result = self.begin(spec, outgoing, (place, room), interest);
        if result.is_err() {
            self.release([source, reply]);
        }
        result
    }

    /// Puts a buffer where transfers find it.
    #[inline(always)]
    pub(crate) fn hand_over(&self, buffer: Option<Buffer<'_>>) -> Option<LentBuffer> {
        Some(buffer?.lend(&mut self.state.borrow_mut().pool))
    }

    /// Buffers that were lent to a call that has not begun.
    fn release(&self, buffers: [Option<LentBuffer>; 2]) {
        let mut state = self.state.borrow_mut();
        buffers.into_iter().flatten().for_each(|buffer| state.release_buffer(buffer.index));
    }

    /// The end of a call; `None` before it.
    #[inline(always)]
    pub(crate) fn finish(&self, ticket: Ticket) -> Option<Result<Finished<'_>, Error>> {
        let mut state = self.state.borrow_mut();
        let State { pending, pool, .. } = &mut *state;
        let Some(entry) = pending.get(ticket) else { return Some(Err(Error::StaleTicket)) };
        if entry.phase != Phase::Done {
            return None;
        }
        if let Some(error) = entry.error {
            let method = entry.method;
            let error = match entry.address {
                Some(address) => Error::Call { address, method, error },
                None => Error::StalePeer,
            };
            state.drop_call(ticket);
            return Some(Err(error));
        }
        if entry.unvisited {
            state.drop_call(ticket);
            return Some(Err(Error::NotVisited));
        }
        let reply = entry.reply.take()?;
        let buffer = match entry.place {
            Place::Buffer(index) => Some(Buffer::take(&self.state, pool, index, reply.body_bytes)),
            Place::Nowhere | Place::User | Place::Visitor => None,
        };
        let finished = Finished {
            operation: entry.operation,
            peer: entry.peer,
            reply: LentReply::new(reply, Some(&self.state)),
            buffer,
            offset: entry.offset,
            length: entry.length,
        };
        pending.free(ticket);
        Some(Ok(finished))
    }

    /// The end of a call that was begun by one of the `start` methods; `None` before it. To be
    /// asked between polls. A ticket is finished once.
    #[inline]
    pub fn try_finish(&self, ticket: Ticket) -> Option<Result<Finished<'_>, Error>> {
        self.finish(ticket)
    }

    /// The next call that has ended and not been finished, in order of their ends, each told once.
    pub fn next_ended(&self) -> Option<Ticket> {
        self.state.borrow_mut().pending.next_listed()
    }

    /// Gives a call up: it is cancelled if it has not ended, and what it held comes back to the
    /// node when it has. What a memory operation made all the same, a region or a reference, is
    /// given back.
    pub fn give_up(&self, ticket: Ticket) {
        let mut core = self.core.borrow_mut();
        let mut state = self.state.borrow_mut();
        let Some(entry) = state.pending.get(ticket) else { return };
        if entry.phase == Phase::Done {
            state.abandon(ticket);
            self.chores.set(!state.given_up.is_empty() || self.chores.get());
            return;
        }
        entry.interest = Interest::Abandoned;
        if let Some(call) = entry.call {
            let now = self.now();
            core.endpoint.with(|endpoint| endpoint.cancel(now, call));
        }
    }

    /// Begins a call of `method` and returns at once; the call travels with the next polls.
    /// Inline arguments are copied. The answer's body, if there is to be one, goes to `reply`,
    /// whose length says how long it may be.
    ///
    /// # Errors
    /// [`Error`]: nothing was begun. [`Error::is_room`] tells what may succeed later.
    pub fn start_call(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        reply: Option<Buffer<'_>>,
        options: CallOptions,
    ) -> Result<Ticket, Error> {
        let mut list = ArgList::new();
        let spec = call_spec(peer, method, table(args, &mut list)?, &options);
        self.start(&spec, args, reply, Interest::Listed)
    }

    /// As [`Node::start_call`] with one inline argument, which is sent from where it lies: the
    /// contents of `body`. The buffer comes back to the node when the call has ended.
    ///
    /// # Errors
    /// As [`Node::start_call`]. The buffer is back with the node then, too.
    pub fn start_call_from(
        &self,
        peer: Peer,
        method: Method,
        body: Buffer<'_>,
        reply: Option<Buffer<'_>>,
        options: CallOptions,
    ) -> Result<Ticket, Error> {
        let spec = call_spec(peer, method, &[], &options);
        if spec.head_bytes() + body.len() <= HEAD_BYTES_MAX {
            return self.start_call(peer, method, &[Arg::Inline(&body)], reply, options);
        }
        if body.len() > MESSAGE_BODY_BYTES_MAX {
            return Err(Error::MessageTooLarge { bytes: body.len() });
        }
        let (body, reply) = (self.hand_over(Some(body)), self.hand_over(reply));
        self.start_with(&spec, &[], body, reply, Interest::Listed)
    }
}

/// A call has a number now.
#[inline(always)]
fn begun(state: &mut State, ticket: Ticket, region: Option<RegionKey>, id: CallId) {
    if let Some(entry) = state.pending.get(ticket) {
        entry.call = Some(id);
    }
    if let Some(region) = region {
        state.order.begun(region, id);
    }
}

/// A call of a service.
#[inline(always)]
pub(crate) fn call_spec<'a>(
    peer: Peer,
    method: Method,
    arguments: &'a [ArgEntry],
    options: &'a CallOptions,
) -> Spec<'a> {
    Spec {
        peer,
        method,
        operation: Operation::Call,
        region: None,
        offset: 0,
        length: 0,
        arguments,
        parameters: &[],
        options,
    }
}

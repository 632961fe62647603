//! Calls: blocking, and begun now and finished later.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::{CallId, Sink, Source};
use dmrpc_core::endpoint::{Call, StartError};
use dmrpc_core::time::Duration;
use dmrpc_core::wire::memory_op::RegionName;
use dmrpc_core::wire::message::{
    ArgEntry, HEAD_BYTES_MAX, Method, REQUEST_HEADER_BYTES, TraceId, arguments_bytes,
};
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::idle::Wait;

use crate::buffers::Buffer;
use crate::error::Error;
use crate::hosting::{USER, UserBytes, copy_parts};
use crate::node::Node;
use crate::order::RegionKey;
use crate::peers::Peer;
use crate::pending::{ArgList, Begin, Interest, Phase, Place, Reply, Ticket};
use crate::state::State;
use crate::statistics::Operation;
use crate::visit::sink_of;

/// An argument of a call, or of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg<'a> {
    /// Bytes that travel in the message.
    Inline(&'a [u8]),
    /// A reference to bytes that stay where they are.
    Ref(Ref),
}

/// How a call is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long to wait for the answer; `None` for `NodeConfig::deadline`.
    pub deadline: Option<Duration>,
    /// The trace that the call belongs to.
    pub trace: TraceId,
    /// How many calls this one is nested in. See [`Context`](crate::Context) for calls made by a
    /// handler.
    pub depth: u8,
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
    pub(crate) options: CallOptions,
}

impl Spec<'_> {
    fn head_bytes(&self) -> usize {
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
    pub reply: Reply,
    /// The answer's body, if the call was given a buffer for it.
    pub buffer: Option<Buffer<'n>>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The entries of an argument table for `args`, and the length of their bytes.
pub(crate) fn entries(args: &[Arg<'_>]) -> Result<(ArgList, usize), Error> {
    let mut list = ArgList::new();
    let mut total = 0;
    for arg in args {
        let entry = match arg {
            Arg::Inline(bytes) => {
                total += bytes.len();
                let bytes = u32::try_from(bytes.len());
                ArgEntry::Inline { bytes: bytes.map_err(|_| too_large(total))? }
            }
            Arg::Ref(reference) => ArgEntry::Ref(*reference),
        };
        list.push(entry).map_err(|_| Error::TooManyArgs { given: args.len() })?;
    }
    u32::try_from(total).map_err(|_| too_large(total))?;
    Ok((list, total))
}

fn too_large(bytes: usize) -> Error {
    Error::MessageTooLarge { bytes }
}

/// Length of the inline parts in bytes.
pub(crate) fn parts_bytes(parts: &[Arg<'_>]) -> usize {
    parts.iter().map(|part| if let Arg::Inline(bytes) = part { bytes.len() } else { 0 }).sum()
}

/// The inline parts as one slice: the only one, or copied together to `out`.
fn gather<'o>(parts: &[Arg<'o>], out: &'o mut [u8]) -> &'o [u8] {
    if let [Arg::Inline(bytes)] = parts {
        return bytes;
    }
    copy_parts(parts, 0, out);
    out
}

impl<D: Device> Node<D> {
    /// Begins a call: makes an entry for it and gives it to the endpoint.
    #[inline]
    pub(crate) fn begin(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        sink: (Place, u32),
        interest: Interest,
    ) -> Result<Ticket, Error> {
        self.forget_places(spec);
        let mut core = self.core.borrow_mut();
        let mut borrowed = self.state.borrow_mut();
        let state = &mut *borrowed;
        let (place, room) = sink;
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
        let ticket = state.pending.begin(begin).ok_or(Error::NoCall { limit })?;
        let sink = match place {
            Place::Nowhere => None,
            Place::User => Some((Sink(USER), room)),
            Place::Buffer(index) => Some((Sink(index.into()), room)),
            Place::Visitor => Some((sink_of(ticket.index), room)),
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
        let now = self.now();
        match core.endpoint.with(|endpoint| endpoint.call(now, spec.peer.session, &call)) {
            Ok(id) => {
                begun(state, ticket, id);
                Ok(ticket)
            }
            Err(error) => {
                state.pending.free(ticket);
                let peer = self.renewed(&mut core, state, spec, error)?;
                drop((core, borrowed));
                self.begin(&Spec { peer, ..*spec }, outgoing, (place, room), interest)
            }
        }
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
    pub(crate) fn start(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        reply: Option<Buffer<'_>>,
        interest: Interest,
    ) -> Result<Ticket, Error> {
        let total = parts_bytes(parts);
        let mut head = [0; HEAD_BYTES_MAX];
        if spec.head_bytes() + total <= HEAD_BYTES_MAX {
            let inline = gather(parts, &mut head[..total]);
            return self.start_with(spec, inline, None, reply, interest);
        }
        let mut source = self.buffer(total)?;
        copy_parts(parts, 0, &mut source);
        self.start_with(spec, &[], Some(source), reply, interest)
    }

    /// Begins a call with a body in a buffer, or inline.
    pub(crate) fn start_with(
        &self,
        spec: &Spec<'_>,
        inline: &[u8],
        source: Option<Buffer<'_>>,
        reply: Option<Buffer<'_>>,
        interest: Interest,
    ) -> Result<Ticket, Error> {
        let (place, room, source_index) = {
            let pool = &mut self.state.borrow_mut().pool;
            let source = source.map(|buffer| buffer.lend(pool));
            let (place, room) = match reply.map(|buffer| buffer.lend(pool)) {
                Some((index, length)) => (Place::Buffer(index), length as u32),
                None => (Place::Nowhere, 0),
            };
            (place, room, source)
        };
        let source = source_index.map(|(index, length)| (Source(index.into()), length as u32));
        let outgoing = Outgoing { inline, source };
        if self.runs_here(spec) {
            return self.begin_here(spec, outgoing, (place, room), interest);
        }
        let result = self.begin(spec, outgoing, (place, room), interest);
        if result.is_err() {
            let mut state = self.state.borrow_mut();
            if let Some((index, _)) = source_index {
                state.release_buffer(index);
            }
            if let Place::Buffer(index) = place {
                state.release_buffer(index);
            }
        }
        result
    }

    /// The end of a call; `None` before it.
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
        let reply = entry.reply.clone();
        let buffer = match entry.place {
            Place::Buffer(index) => Some(Buffer::take(&self.state, pool, index, reply.body_bytes)),
            Place::Nowhere | Place::User | Place::Visitor => None,
        };
        let finished = Finished {
            operation: entry.operation,
            peer: entry.peer,
            reply,
            buffer,
            offset: entry.offset,
            length: entry.length,
        };
        pending.free(ticket);
        Some(Ok(finished))
    }

    /// The end of a call that was begun by one of the `start` methods; `None` before it. To be
    /// asked between polls. A ticket is finished once.
    pub fn try_finish(&self, ticket: Ticket) -> Option<Result<Finished<'_>, Error>> {
        self.finish(ticket)
    }

    /// The next call that has ended and not been finished, in order of their ends, each told once.
    pub fn next_ended(&self) -> Option<Ticket> {
        self.state.borrow_mut().pending.next_listed()
    }

    /// Gives a call up: it is cancelled if it has not ended, and what it held comes back to the
    /// node when it has.
    pub fn give_up(&self, ticket: Ticket) {
        let mut core = self.core.borrow_mut();
        let mut state = self.state.borrow_mut();
        let Some(entry) = state.pending.get(ticket) else { return };
        if entry.phase == Phase::Done {
            return state.drop_call(ticket);
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
        let (arguments, _) = entries(args)?;
        let spec = call_spec(peer, method, &arguments, options);
        self.start(&spec, args, reply, Interest::Listed)
    }
}

/// The call that `spec` describes has a number now.
fn begun(state: &mut State, ticket: Ticket, id: CallId) {
    let Some(entry) = state.pending.get(ticket) else { return };
    entry.call = Some(id);
    if let Some(region) = entry.region {
        state.order.begun(region, id);
    }
}

/// A call of a service.
pub(crate) fn call_spec(
    peer: Peer,
    method: Method,
    arguments: &[ArgEntry],
    options: CallOptions,
) -> Spec<'_> {
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

impl<D: Device + Wait> Node<D> {
    /// Calls `method` of the service at `peer` and waits for the answer. Inline results go to
    /// `reply`, one after the other, straight from the packets that they come in; inline arguments
    /// are sent from where they are.
    ///
    /// # Errors
    /// [`Error`]. A status other than `OK` is the service's answer, not an error of the call.
    ///
    /// # Example
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use dmrpc_cn::{Arg, Method, Node, NodeConfig};
    /// let node = Node::open_udp(&NodeConfig::default())?;
    /// let peer = node.connect("127.0.0.1:7100".parse()?)?;
    /// let mut answer = [0; 64];
    /// let reply = node.call(peer, Method(1), &[Arg::Inline(b"hello")], &mut answer)?;
    /// println!("{:?}", &answer[..reply.body_bytes]);
    /// # Ok(()) }
    /// ```
    pub fn call(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        reply: &mut [u8],
    ) -> Result<Reply, Error> {
        self.call_with(peer, method, args, reply, CallOptions::default())
    }

    /// As [`Node::call`], with a deadline, a trace or a depth.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub fn call_with(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        reply: &mut [u8],
        options: CallOptions,
    ) -> Result<Reply, Error> {
        let (arguments, _) = entries(args)?;
        let spec = call_spec(peer, method, &arguments, options);
        self.block(&spec, args, reply).map(|finished| finished.reply)
    }

    /// Asks a memory node for page `page` of its counters and gauges: lines of `name value` in
    /// `out`, of which there are none past the last page.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub fn statistics_page(&self, peer: Peer, page: u16, out: &mut [u8]) -> Result<Reply, Error> {
        let parameters = page.to_le_bytes();
        let call = call_spec(peer, Method::STATISTICS, &[], CallOptions::default());
        let spec = Spec { parameters: &parameters, ..call };
        self.block(&spec, &[], out).map(|finished| finished.reply)
    }

    /// Makes a call and waits for its end, with the caller's slices as source and sink.
    pub(crate) fn block(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        sink: &mut [u8],
    ) -> Result<Finished<'_>, Error> {
        if self.runs_here(spec) {
            return self.block_here(spec, parts, sink);
        }
        if let Some(done) = self.block_by_pen(spec, parts, sink) {
            return done;
        }
        let total = parts_bytes(parts);
        let mut head = [0; HEAD_BYTES_MAX];
        let outgoing = if spec.head_bytes() + total <= HEAD_BYTES_MAX {
            Outgoing { inline: gather(parts, &mut head[..total]), source: None }
        } else {
            let bytes = u32::try_from(total).map_err(|_| too_large(total))?;
            Outgoing { inline: &[], source: Some((Source(USER), bytes)) }
        };
        let room = u32::try_from(sink.len()).unwrap_or(u32::MAX);
        let place = if room == 0 { Place::Nowhere } else { Place::User };
        let ticket = self.begin_waiting(spec, outgoing, (place, room))?;
        let mut user = UserBytes { parts, sink, visit: None };
        while !self.state.borrow().pending.is_done(ticket) {
            self.step_with(Some(&mut user), false);
        }
        self.finish(ticket).unwrap_or(Err(Error::StaleTicket))
    }

    /// Begins a call as soon as there is room for it, at most until its deadline.
    fn begin_waiting(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        sink: (Place, u32),
    ) -> Result<Ticket, Error> {
        match self.begin(spec, outgoing, sink, Interest::Asking) {
            Err(error) if error.is_room() => {}
            result => return result,
        }
        let end = self.now() + spec.options.deadline.unwrap_or(self.config.deadline);
        loop {
            self.step();
            let now = self.now();
            let options = CallOptions { deadline: Some(end.since(now)), ..spec.options };
            let spec = Spec { options, ..*spec };
            match self.begin(&spec, outgoing, sink, Interest::Asking) {
                Err(error) if error.is_room() && now < end => {}
                result => return result,
            }
        }
    }
}

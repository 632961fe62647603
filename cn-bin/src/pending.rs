//! Calls that have begun and are not finished by their caller.

use std::net::SocketAddrV4;
use std::task::Waker;

use dmrpc_core::endpoint::host::{CallError, CallId};
use dmrpc_core::wire::message::{ARGS_MAX, ArgEntry, Arguments, Method, Status};
use dmrpc_core::wire::reference::Ref;

use crate::order::RegionKey;
use crate::peers::Peer;
use crate::statistics::Operation;

/// Results and arguments as a message's head lists them.
pub(crate) type ArgList = heapless::Vec<ArgEntry, ARGS_MAX>;

/// Longest parameters of an answer that are kept, in bytes: those of memory operations.
pub(crate) const PARAMETER_BYTES: usize = 32;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How the request ended, in the words of its service.
    pub status: Status,
    /// Length of the body in bytes: inline results, one after the other.
    pub body_bytes: usize,
    pub(crate) results: ArgList,
    pub(crate) parameters: heapless::Vec<u8, PARAMETER_BYTES>,
}

impl Reply {
    /// The answer of a service beside this node.
    pub(crate) fn of(status: Status, arguments: &Arguments<'_>, body_bytes: usize) -> Self {
        let mut reply = Self::EMPTY;
        reply.fill(status, arguments, body_bytes);
        reply
    }

    #[inline]
    pub(crate) fn fill(&mut self, status: Status, arguments: &Arguments<'_>, body_bytes: usize) {
        self.status = status;
        self.body_bytes = body_bytes;
        self.results.clear();
        if !arguments.is_empty() {
            self.results.extend(arguments.iter().take(ARGS_MAX));
        } else if let Some(bytes) = u32::try_from(body_bytes).ok().filter(|bytes| *bytes > 0) {
            let _ = self.results.push(ArgEntry::Inline { bytes });
        }
        self.parameters.clear();
        let parameters = arguments.parameters();
        if !parameters.is_empty() {
            // What is longer is nothing that this library asks for.
            let kept = parameters.len().min(PARAMETER_BYTES);
            let _ = self.parameters.extend_from_slice(&parameters[..kept]);
        }
    }

    pub(crate) const EMPTY: Self = Self {
        status: Status::OK,
        body_bytes: 0,
        results: ArgList::new(),
        parameters: heapless::Vec::new(),
    };

    /// The results in order. The bytes of inline ones follow one another in the body.
    pub fn results(&self) -> &[ArgEntry] {
        &self.results
    }

    /// The references among the results, in order.
    pub fn refs(&self) -> impl Iterator<Item = Ref> + '_ {
        self.results.iter().filter_map(|result| match result {
            ArgEntry::Ref(reference) => Some(*reference),
            ArgEntry::Inline { .. } => None,
        })
    }
}

/// Names a call that has begun: an index and which use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(
    /// The generation's bits above those of the index: one word, so that a ticket that was stored a
    /// moment ago is loaded at once.
    u64,
);

impl Ticket {
    #[inline]
    fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    /// A number that no other call has at the same time, below `NodeConfig::calls`.
    #[inline]
    pub fn place(self) -> usize {
        self.index() as usize
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    pub(crate) fn token(self) -> u64 {
        self.0
    }

    #[inline]
    fn of_token(token: u64) -> Self {
        Self(token)
    }
}

/// Where the body of an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No body is expected.
    Nowhere,
    /// To the slice of the blocking call.
    User,
    /// To this buffer.
    Buffer(u16),
    /// To the visitor of the polls that it comes in.
    Visitor,
}

/// Who wants to know that a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Whoever asks.
    Asking,
    /// It is to be listed among the finished.
    Listed,
    /// This task.
    Task(u16),
    /// Nobody any more.
    Abandoned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Free,
    Waiting,
    Done,
}

/// A call.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    pub(crate) interest: Interest,
    /// Next free or next listed entry, previous listed entry.
    next: u32,
    previous: u32,
    listed: bool,
    pub(crate) call: Option<CallId>,
    pub(crate) peer: Peer,
    pub(crate) method: Method,
    pub(crate) operation: Operation,
    pub(crate) region: Option<RegionKey>,
    pub(crate) place: Place,
    /// Bytes that the place has room for.
    pub(crate) room: u32,
    /// The range that a memory operation was given, in bytes.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Bytes that the call carries to its service.
    pub(crate) bytes_out: u64,
    pub(crate) error: Option<CallError>,
    /// Bytes came in a poll without their visitor.
    pub(crate) unvisited: bool,
    /// Whom a call that failed was for: its session may have a successor when that is asked.
    pub(crate) address: Option<SocketAddrV4>,
    /// The answer's head, once it is there.
    pub(crate) reply: Option<Box<Reply>>,
    /// For tasks of other executors.
    pub(crate) waker: Option<Waker>,
}

const NONE: u32 = u32::MAX;

/// All calls.
pub(crate) struct PendingTable {
    entries: Box<[Pending]>,
    free: u32,
    /// Finished calls that are listed: first and last.
    first: u32,
    last: u32,
    pub(crate) outstanding: usize,
}

/// What is known of a call when it begins.
pub(crate) struct Begin {
    pub(crate) peer: Peer,
    pub(crate) method: Method,
    pub(crate) operation: Operation,
    pub(crate) interest: Interest,
    pub(crate) region: Option<RegionKey>,
    pub(crate) place: Place,
    pub(crate) room: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) bytes_out: u64,
}

impl PendingTable {
    pub(crate) fn new(count: usize) -> Self {
        let entry = |index: usize| Pending {
            generation: 0,
            phase: Phase::Free,
            interest: Interest::Asking,
            next: if index + 1 == count { NONE } else { index as u32 + 1 },
            previous: NONE,
            listed: false,
            call: None,
            peer: Peer::NOBODY,
            method: Method(0),
            operation: Operation::Call,
            region: None,
            place: Place::Nowhere,
            room: 0,
            offset: 0,
            length: 0,
            bytes_out: 0,
            error: None,
            unvisited: false,
            address: None,
            reply: None,
            waker: None,
        };
        let entries = (0..count).map(entry).collect();
        Self { entries, free: 0, first: NONE, last: NONE, outstanding: 0 }
    }

    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// What the next call will be named. `None` if all entries are in use.
    #[inline]
    pub(crate) fn next_free(&self) -> Option<Ticket> {
        let entry = self.entries.get(self.free as usize)?;
        Some(Ticket::new(self.free, entry.generation))
    }

    /// Takes an entry. `None` if all are in use.
    #[inline]
    pub(crate) fn begin(&mut self, begin: Begin) -> Option<Ticket> {
        let index = self.free;
        let entry = self.entries.get_mut(index as usize)?;
        self.free = entry.next;
        entry.phase = Phase::Waiting;
        entry.listed = false;
        let Begin { peer, method, operation, interest, region, place, room, .. } = begin;
        (entry.peer, entry.method, entry.operation) = (peer, method, operation);
        (entry.interest, entry.region) = (interest, region);
        (entry.place, entry.room) = (place, room);
        (entry.offset, entry.length, entry.bytes_out) =
            (begin.offset, begin.length, begin.bytes_out);
        (entry.call, entry.error, entry.address, entry.waker) = (None, None, None, None);
        entry.unvisited = false;
        self.outstanding += 1;
        Some(Ticket::new(index, entry.generation))
    }

    #[inline]
    pub(crate) fn get(&mut self, ticket: Ticket) -> Option<&mut Pending> {
        let entry = self.entries.get_mut(ticket.place())?;
        (entry.generation == ticket.generation() && entry.phase != Phase::Free).then_some(entry)
    }

    /// The call in entry `index`, under way.
    pub(crate) fn under_way(&mut self, index: u32) -> Option<(Ticket, &mut Pending)> {
        let entry = self.entries.get_mut(index as usize)?;
        let ticket = Ticket::new(index, entry.generation);
        (entry.phase == Phase::Waiting).then_some((ticket, entry))
    }

    #[inline]
    pub(crate) fn by_token(&mut self, token: u64) -> Option<(Ticket, &mut Pending)> {
        let ticket = Ticket::of_token(token);
        Some((ticket, self.get(ticket)?))
    }

    #[inline]
    pub(crate) fn is_done(&self, ticket: Ticket) -> bool {
        let entry = &self.entries[ticket.place()];
        entry.phase == Phase::Done || entry.generation != ticket.generation()
    }

    /// Gives an entry back.
    #[inline]
    pub(crate) fn free(&mut self, ticket: Ticket) {
        if self.get(ticket).is_none() {
            return;
        }
        self.unlist(ticket.index());
        let entry = &mut self.entries[ticket.place()];
        entry.phase = Phase::Free;
        entry.generation = entry.generation.wrapping_add(1);
        entry.waker = None;
        entry.next = self.free;
        self.free = ticket.index();
        self.outstanding -= 1;
    }

    /// Puts a finished call at the end of the list.
    #[inline]
    pub(crate) fn list(&mut self, index: u32) {
        let last = std::mem::replace(&mut self.last, index);
        let entry = &mut self.entries[index as usize];
        (entry.next, entry.previous, entry.listed) = (NONE, last, true);
        match last {
            NONE => self.first = index,
            last => self.entries[last as usize].next = index,
        }
    }

    #[inline]
    fn unlist(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        if !entry.listed {
            return;
        }
        entry.listed = false;
        let (next, previous) = (entry.next, entry.previous);
        match previous {
            NONE => self.first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => self.entries[next as usize].previous = previous,
        }
    }

    /// Takes the first finished call off the list.
    #[inline]
    pub(crate) fn next_listed(&mut self) -> Option<Ticket> {
        let index = self.first;
        let generation = self.entries.get(index as usize)?.generation;
        self.unlist(index);
        Some(Ticket::new(index, generation))
    }
}

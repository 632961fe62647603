//! Reading and writing pages of a pool in flush mode: by this process itself, where they are.
//!
//! The memory node is asked where pages are, and for the pen of those to be written; all else is
//! [`dmrpc_core::pen`]'s. Whatever is done to a region by a message makes what is known of it void.

use std::sync::Arc;

use dmrpc_core::device::Device;
use dmrpc_core::pen::{
    KnownPage, KnownRegion, PLACES_MAX, Pens, QUESTION_BYTES, Question, RegionOf, Unknown,
};
use dmrpc_core::wire::memory_op::RegionName;
use dmrpc_core::wire::message::{Arguments, Method, Status};
use dmrpc_cxl::{Direct, Pool, PoolMemory};
use dmrpc_host::idle::Wait;

use crate::args::Arg;
use crate::call::{CallOptions, Finished, Outgoing, Spec};
use crate::call_here::ended_here;
use crate::error::Error;
use crate::local::POOL_ADDRESS;
use crate::memory::{Making, Region};
use crate::node::Node;
use crate::order::RegionKey;
use crate::peers::Peer;
use crate::pending::{Begin, Interest, Place, Reply, Ticket};
use crate::replies::LentReply;
use crate::staged::Staged;
use crate::statistics::Operation;
use crate::zero_copy::{Lent, Views};

/// Regions that places are kept of.
const REGIONS: usize = 256;
/// Pages whose places are kept: 16 MiB of a region. Twice what a message may carry.
const PAGES: usize = 4096;
/// Questions of one read or write before it is left to the memory node: twice those that the
/// longest message takes.
const QUESTIONS_MAX: usize = 2 * 2048 / PLACES_MAX;
/// Bytes of the longest answer.
pub(crate) const ANSWER_BYTES: usize = 8 * PLACES_MAX;

/// What a participant of a pool in flush mode knows.
pub(crate) struct PoolPens {
    pub(crate) pens: Pens<'static, PoolMemory>,
    /// Operations that are between their stages.
    pub(crate) staged: Vec<Staged>,
    /// Keeps the mapping.
    pool: Arc<Pool>,
    /// What slices were made of.
    pub(crate) lent: Lent,
    /// Regions that only a view may touch.
    pub(crate) views: Views,
}

impl PoolPens {
    pub(crate) fn new(pool: &Arc<Pool>, calls: usize) -> Self {
        // Some bytes for as long as the process lives: not worth a way to give them back.
        let regions = Box::leak(vec![KnownRegion::EMPTY; REGIONS].into_boxed_slice());
        let pages = Box::leak(vec![KnownPage::EMPTY; PAGES].into_boxed_slice());
        let pens = Pens::new(pool.store_memory(), regions, pages);
        // Each has an entry among the calls.
        let staged = Vec::with_capacity(calls);
        let (lent, views) = (Lent::default(), Views::default());
        Self { pens, staged, pool: Arc::clone(pool), lent, views }
    }

    /// The store's bytes where they are.
    pub(crate) fn direct(&self) -> Direct {
        self.pool.store_direct()
    }

    /// As [`Pens::runs`].
    pub(crate) fn runs(
        &self,
        region: Region,
        offset: u64,
        visit: impl FnMut(Option<u64>, u64),
    ) -> Result<(), Unknown> {
        let of = region_of(region.peer, region.name);
        self.pens.runs(of, offset, region.length - offset, visit)
    }
}

impl Drop for PoolPens {
    fn drop(&mut self) {
        // Of views that were forgotten: nothing of what they wrote shall come later.
        self.views.give_all_back(&self.pens);
    }
}

pub(crate) fn region_of(peer: Peer, RegionName(name): RegionName) -> RegionOf {
    let session = peer.session;
    (u64::from(session.generation) << 32 | u64::from(session.index), name)
}

impl<D> Node<D> {
    /// Forgets where pages of a region are: before a message does something to it.
    #[inline]
    pub(crate) fn forget_places(&self, spec: &Spec<'_>) {
        if let Some(region) = spec.region
            && let Some(pens) = self.pens.borrow_mut().as_mut()
        {
            pens.pens.forget(region_of(spec.peer, region));
        }
    }

    /// Whether this process looks at pages of the memory at `peer` itself, though the memory node
    /// owns the counts.
    pub(crate) fn has_pens(&self, peer: Peer) -> bool {
        self.pens.borrow().is_some() && self.state.borrow().peers.is_up(peer, POOL_ADDRESS)
    }

    /// Whether pages of a region are this process's to look at now: its session is the present one
    /// with the pool's memory node, and no message about it is under way.
    fn has_pen(&self, spec: &Spec<'_>, name: RegionName) -> bool {
        let state = self.state.borrow();
        let is_there = state.peers.is_up(spec.peer, POOL_ADDRESS);
        is_there && state.order.last(&RegionKey { session: spec.peer.session, name }).is_none()
    }
}

impl<D: Device + Wait> Node<D> {
    /// Reads or writes pages where they are, if this process may; `None` to leave it to the memory
    /// node.
    pub(crate) fn block_by_pen(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        sink: &mut [u8],
    ) -> Option<Result<Finished<'_>, Error>> {
        let region = spec.region?;
        if self.pens.borrow().is_none() {
            return None;
        }
        if let Err(error) = self.check_unviewed(spec) {
            return Some(Err(error));
        }
        if spec.length == 0 {
            return None;
        }
        let source = match (spec.operation, parts) {
            (Operation::Read, _) if spec.length == sink.len() as u64 => None,
            (Operation::Write, [Arg::Inline(bytes)]) => Some(*bytes),
            _ => return None,
        };
        let of = region_of(spec.peer, region);
        // Bytes that have been read.
        let mut done = 0;
        for _ in 0..QUESTIONS_MAX {
            if !self.has_pen(spec, region) {
                return None;
            }
            let tried = {
                let mut pens = self.pens.borrow_mut();
                let PoolPens { pens, .. } = pens.as_mut()?;
                match source {
                    Some(source) => pens.write(of, spec.offset, source),
                    None => {
                        pens.read(of, spec.offset.checked_add(done)?, &mut sink[done as usize..])
                    }
                }
            };
            let unknown = match tried {
                Ok(()) => return Some(Ok(self.done_by_pen(spec, source.is_some()))),
                Err(unknown) => unknown,
            };
            done = unknown.offset - spec.offset;
            match self.ask_places(spec, of, unknown, source.is_some()) {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    let Spec { operation, peer, offset, length, .. } = *spec;
                    return Some(Ok(Finished {
                        operation,
                        peer,
                        reply,
                        buffer: None,
                        offset,
                        length,
                    }));
                }
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    fn done_by_pen(&self, spec: &Spec<'_>, is_write: bool) -> Finished<'_> {
        let Spec { operation, peer, offset, length, .. } = *spec;
        let mut state = self.state.borrow_mut();
        let count = &mut state.operations[operation as usize];
        count.done += 1;
        let body_bytes = if is_write { 0 } else { length as usize };
        count.bytes_in += body_bytes as u64;
        count.bytes_out += if is_write { length } else { 0 };
        let mut reply = state.replies.take();
        reply.fill(Status::OK, &Arguments::NONE, body_bytes);
        let reply = LentReply::new(reply, Some(&self.state));
        Finished { operation, peer, reply, buffer: None, offset, length }
    }

    /// Asks the memory node where pages are; its answer, if that is no.
    pub(crate) fn ask_places(
        &self,
        spec: &Spec<'_>,
        of: RegionOf,
        unknown: Unknown,
        with_pen: bool,
    ) -> Result<Option<LentReply<'_>>, Error> {
        let question = question(of, unknown, with_pen);
        let mut body = [0; ANSWER_BYTES];
        let reply = self.block(&asking(spec, &question), &[], &mut body)?.reply;
        if reply.status != Status::OK {
            return Ok(Some(reply));
        }
        self.learn(of, unknown.offset, &reply, &body);
        Ok(None)
    }
}

/// The question for the pages of a range.
fn question(
    of: RegionOf,
    Unknown { offset, length }: Unknown,
    with_pen: bool,
) -> [u8; QUESTION_BYTES] {
    Question { region: of.1, offset, length, with_pen }.to_bytes()
}

/// The call that asks it.
fn asking<'s>(spec: &Spec<'s>, question: &'s [u8]) -> Spec<'s> {
    Spec {
        peer: spec.peer,
        method: Method::PLACES,
        operation: Operation::Call,
        region: None,
        offset: 0,
        length: 0,
        arguments: &[],
        parameters: question,
        options: spec.options,
    }
}

impl<D: Device + Wait> Node<D> {
    /// Makes a region and learns where its pages are. None if the memory node says no: in other
    /// words than those of the operation that this is for.
    pub(crate) fn make_placed(
        &self,
        making: &Making,
        options: &CallOptions,
    ) -> Result<Option<Region>, Error> {
        let mut body = [0; ANSWER_BYTES];
        let Finished { peer, reply, .. } = self.block(&making.spec(options), &[], &mut body)?;
        Ok(self.learn_made(peer, (making.offset, making.length), &reply, &body))
    }
}

impl<D> Node<D> {
    /// Takes note of the region that an answer tells of, which has `length` bytes, and of the
    /// places of its pages from that of `offset` on.
    pub(crate) fn learn_made(
        &self,
        peer: Peer,
        (offset, length): (u64, u64),
        reply: &Reply,
        body: &[u8],
    ) -> Option<Region> {
        let (numbers, _) = reply.parameters.as_chunks::<8>();
        let (Status::OK, [_, _, name]) = (reply.status, numbers) else { return None };
        let name = RegionName(u64::from_le_bytes(*name));
        self.learn(region_of(peer, name), offset, reply, body);
        Some(Region { peer, name, length })
    }

    /// Takes note of an answer.
    pub(crate) fn learn(&self, of: RegionOf, offset: u64, reply: &Reply, body: &[u8]) {
        let (numbers, _) = reply.parameters.as_chunks::<8>();
        let (words, _) = body[..reply.body_bytes.min(body.len())].as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        if let (Some(pens), [base, length, ..]) = (self.pens.borrow_mut().as_mut(), numbers) {
            let extent = (u64::from_le_bytes(*base), u64::from_le_bytes(*length));
            pens.pens.learn(of, offset, extent, words);
        }
    }
}

impl<D: Device> Node<D> {
    /// Does a read or a write that is begun, or begins what has several stages, if this process may
    /// look at the pages, and keeps what it came to under a ticket; `None` to leave it to the
    /// memory node. If places of a region have to be asked for, this waits for the answer: what is
    /// begun later must not come before.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin_by_pen(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        (place, room): (Place, u32),
        interest: Interest,
    ) -> Option<Result<Ticket, Error>> {
        let Some(region) = spec.region else {
            return self.begin_staged(spec, outgoing, (place, room), interest);
        };
        if let Err(error) = self.check_unviewed(spec) {
            let mut state = self.state.borrow_mut();
            if let Some((source, _)) = outgoing.source {
                state.release_buffer(source.0 as u16);
            }
            if let Place::Buffer(index) = place {
                state.release_buffer(index);
            }
            return Some(Err(error));
        }
        let is_write = match (spec.operation, place) {
            (Operation::Read, Place::Buffer(_)) if spec.length == u64::from(room) => false,
            (Operation::Write, Place::Nowhere) => true,
            _ => return None,
        };
        if spec.length == 0 {
            return None;
        }
        let of = region_of(spec.peer, region);
        for _ in 0..QUESTIONS_MAX {
            if !self.has_pen(spec, region) {
                return None;
            }
            let tried = {
                let (mut state, mut pens) = (self.state.borrow_mut(), self.pens.borrow_mut());
                let PoolPens { pens, .. } = pens.as_mut()?;
                match (outgoing.source, place) {
                    (Some((source, bytes)), _) => {
                        let body = &state.pool.bytes(source.0 as u16)[..bytes as usize];
                        pens.write(of, spec.offset, body)
                    }
                    (None, Place::Buffer(index)) => {
                        pens.read(of, spec.offset, &mut state.pool.bytes(index)[..room as usize])
                    }
                    (None, _) => pens.write(of, spec.offset, outgoing.inline),
                }
            };
            let Err(unknown) = tried else {
                return Some(self.begun_by_pen(spec, outgoing, (place, room), interest));
            };
            if !self.ask_places_now(spec, of, unknown, is_write) {
                return None;
            }
        }
        None
    }

    fn begun_by_pen(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        (place, room): (Place, u32),
        interest: Interest,
    ) -> Result<Ticket, Error> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if let Some((source, _)) = outgoing.source {
            state.release_buffer(source.0 as u16);
        }
        let Spec { peer, method, operation, offset, length, .. } = *spec;
        let bytes_out = if operation == Operation::Write { length } else { 0 };
        let region = None;
        let begin = Begin {
            peer,
            method,
            operation,
            interest,
            region,
            place,
            room,
            offset,
            length,
            bytes_out,
        };
        let limit = state.pending.count();
        let Some(ticket) = state.pending.begin(begin) else {
            if let Place::Buffer(index) = place {
                state.release_buffer(index);
            }
            return Err(Error::NoCall { limit });
        };
        let reply = Reply::of(Status::OK, &Arguments::NONE, room as usize);
        ended_here(state, operation, ticket, interest, Ok(reply), bytes_out);
        Ok(ticket)
    }

    /// Asks the memory node where pages are, without a caller's slices to wait with. Returns
    /// whether it said.
    fn ask_places_now(
        &self,
        spec: &Spec<'_>,
        of: RegionOf,
        unknown: Unknown,
        with_pen: bool,
    ) -> bool {
        if self.lends.get() {
            // Bytes that arrive meanwhile would miss the slices of whoever waits.
            return false;
        }
        let question = question(of, unknown, with_pen);
        let Ok(room) = self.buffer(ANSWER_BYTES) else { return false };
        let asked = asking(spec, &question);
        let Ok(ticket) = self.start(&asked, &[], Some(room), Interest::Asking) else {
            return false;
        };
        while !self.state.borrow().pending.is_done(ticket) {
            self.poll();
        }
        let Some(Ok(finished)) = self.finish(ticket) else { return false };
        let Some(body) = &finished.buffer else { return false };
        if finished.reply.status != Status::OK {
            return false;
        }
        self.learn(of, unknown.offset, &finished.reply, body);
        true
    }
}

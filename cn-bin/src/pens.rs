//! Reading and writing pages of a pool in flush mode: by this process itself, where they are.
//!
//! The memory node is asked where pages are, and for the pen of those to be written; all else is
//! [`dmrpc_core::pen`]'s. Whatever is done to a region by a message makes what is known of it void.

use std::sync::Arc;

use dmrpc_core::device::Device;
use dmrpc_core::pen::{KnownPage, KnownRegion, PLACES_MAX, Pens, Question, RegionOf, Unknown};
use dmrpc_core::wire::memory_op::RegionName;
use dmrpc_core::wire::message::{Arguments, Method, Status};
use dmrpc_cxl::{Pool, PoolMemory};
use dmrpc_host::idle::Wait;

use crate::args::Arg;
use crate::call::{Finished, Spec};
use crate::error::Error;
use crate::local::POOL_ADDRESS;
use crate::node::Node;
use crate::order::RegionKey;
use crate::peers::Peer;
use crate::replies::LentReply;
use crate::statistics::Operation;

/// Regions that places are kept of.
const REGIONS: usize = 256;
/// Pages whose places are kept: 16 MiB of a region. Twice what a message may carry.
const PAGES: usize = 4096;
/// Questions of one read or write before it is left to the memory node: twice those that the
/// longest message takes.
const QUESTIONS_MAX: usize = 2 * 2048 / PLACES_MAX;

/// What a participant of a pool in flush mode knows.
pub(crate) struct PoolPens {
    pens: Pens<'static, PoolMemory>,
    /// Keeps the mapping.
    _pool: Arc<Pool>,
}

impl PoolPens {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        // Some bytes for as long as the process lives: not worth a way to give them back.
        let regions = Box::leak(vec![KnownRegion::EMPTY; REGIONS].into_boxed_slice());
        let pages = Box::leak(vec![KnownPage::EMPTY; PAGES].into_boxed_slice());
        let pens = Pens::new(pool.store_memory(), regions, pages);
        Self { pens, _pool: Arc::clone(pool) }
    }
}

fn region_of(peer: Peer, RegionName(name): RegionName) -> RegionOf {
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
        if self.pens.borrow().is_none() || spec.length == 0 {
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
    fn ask_places(
        &self,
        spec: &Spec<'_>,
        of: RegionOf,
        unknown: Unknown,
        with_pen: bool,
    ) -> Result<Option<LentReply<'_>>, Error> {
        let Unknown { offset, length } = unknown;
        let question = Question { region: of.1, offset, length, with_pen }.to_bytes();
        let asked = Spec {
            method: Method::PLACES,
            operation: Operation::Call,
            region: None,
            offset: 0,
            length: 0,
            parameters: &question,
            ..*spec
        };
        let mut body = [0; 8 * PLACES_MAX];
        let reply = self.block(&asked, &[], &mut body)?.reply;
        if reply.status != Status::OK {
            return Ok(Some(reply));
        }
        let (numbers, _) = reply.parameters.as_chunks::<8>();
        let (words, _) = body[..reply.body_bytes.min(body.len())].as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        if let (Some(pens), [base, length]) = (self.pens.borrow_mut().as_mut(), numbers) {
            let extent = (u64::from_le_bytes(*base), u64::from_le_bytes(*length));
            pens.pens.learn(of, offset, extent, words);
        }
        Ok(None)
    }
}

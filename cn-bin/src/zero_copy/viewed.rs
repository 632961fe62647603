//! Views where the memory node owns all counts: regions that nothing but a view may touch, on pages
//! that this process has the pen for.
//!
//! What is written by a slice stays in this host's cache until it is written back, which the slice
//! cannot do. So a page is given back before another is given out, and when its view ends: at most
//! one page of a view is ever behind. A region ends with its session, and its pages then go to
//! others; so a session that the program ends is kept open until no view of a region of its is
//! left.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::CallError;
use dmrpc_core::memory::Memory as PoolMemory;
use dmrpc_core::pen::{Pens, RegionOf, Unknown};
use dmrpc_core::store::PAGE_BYTES;
use dmrpc_core::wire::message::Method;
use dmrpc_host::idle::Wait;

use crate::call::{CallOptions, Finished, call_spec};
use crate::error::Error;
use crate::local::POOL_ADDRESS;
use crate::memory::{Cause, OperationError, Region};
use crate::node::Node;
use crate::order::RegionKey;
use crate::peers::Peer;
use crate::pens::region_of;
use crate::statistics::Operation;

/// Questions until a page is one's own: where it is, and for the pen.
const QUESTIONS_MAX: usize = 4;

/// A region with a view.
struct Viewed {
    of: RegionOf,
    peer: Peer,
    /// The page that may have been written to since it was given out.
    out: Option<u64>,
}

/// Regions with views.
#[derive(Default)]
pub(crate) struct Views {
    views: Vec<Viewed>,
    /// Sessions that the program has ended.
    left: Vec<Peer>,
}

impl Views {
    /// Whether a view has a region to itself.
    pub(crate) fn has(&self, of: RegionOf) -> bool {
        self.views.iter().any(|viewed| viewed.of == of)
    }

    /// Writes back what was written to pages that are given out.
    pub(crate) fn give_all_back<M: PoolMemory>(&mut self, pens: &Pens<'_, M>) {
        for page in self.views.iter_mut().filter_map(|viewed| viewed.out.take()) {
            pens.give_back(page, PAGE_BYTES);
        }
    }

    /// Whether a session has to stay open for the views of its regions; then it is told by
    /// [`Views::next_left`] when they are gone.
    pub(crate) fn keep_open(&mut self, peer: Peer) -> bool {
        let is_its = |viewed: &Viewed| viewed.peer.session == peer.session;
        let is_needed = self.views.iter().any(is_its);
        if is_needed && self.left.iter().all(|left| left.session != peer.session) {
            self.left.push(peer);
        }
        is_needed
    }

    /// A session that the program has ended, and no view needs any more.
    pub(crate) fn next_left(&mut self) -> Option<Peer> {
        let views = &self.views;
        let is_over = |left: &Peer| views.iter().all(|viewed| viewed.peer.session != left.session);
        let position = self.left.iter().position(is_over)?;
        Some(self.left.swap_remove(position))
    }
}

impl<D> Node<D> {
    /// Gives back the page of a view that was given out, and notes the one that is now, if any.
    pub(super) fn give_out(&self, region: Region, place: Option<u64>) {
        let of = region_of(region.peer, region.name);
        let mut pens = self.pens.borrow_mut();
        let Some(pens) = pens.as_mut() else { return };
        let page = place.map(|place| place & !(PAGE_BYTES - 1));
        let viewed = pens.views.views.iter_mut().find(|viewed| viewed.of == of);
        if let Some(viewed) = viewed.filter(|viewed| viewed.out != page)
            && let Some(before) = std::mem::replace(&mut viewed.out, page)
        {
            pens.pens.give_back(before, PAGE_BYTES);
        }
    }

    /// Ends a view. What had to wait for that is done with the next poll.
    pub(super) fn end_view(&self, region: Region) {
        self.give_out(region, None);
        let of = region_of(region.peer, region.name);
        if let Some(pens) = self.pens.borrow_mut().as_mut() {
            pens.views.views.retain(|viewed| viewed.of != of);
            if !pens.views.left.is_empty() {
                self.chores.set(true);
            }
        }
    }
}

impl<D: Device + Wait> Node<D> {
    /// Reserves a region for a view, as soon as no message about it is under way.
    pub(super) fn reserve(&self, region: Region) -> Result<(), Cause> {
        let Region { peer, name, .. } = region;
        let of = region_of(peer, name);
        let key = RegionKey { session: peer.session, name };
        let end = self.now() + self.config.deadline;
        loop {
            if let Some(pens) = self.pens.borrow_mut().as_mut() {
                if pens.views.has(of) {
                    return Err(Cause::Call(Error::Viewed));
                }
                if self.state.borrow().order.last(&key).is_none() {
                    pens.views.views.push(Viewed { of, peer, out: None });
                    break;
                }
            }
            if self.now() >= end {
                let (address, method) = (POOL_ADDRESS, Method::MEMORY);
                let busy = Error::Call { address, method, error: CallError::Busy };
                return Err(Cause::Call(busy));
            }
            self.step();
        }
        // There is such a region, and it is the session's.
        let known = self.place_of(region, 0, false);
        if known.is_err() {
            self.end_view(region);
        }
        known.map(drop).map_err(|error| error.cause)
    }

    /// Where the bytes from `offset` to the end of its page are, if that is the region's own: with
    /// the pen, it is made so.
    pub(super) fn place_of(
        &self,
        region: Region,
        offset: u64,
        with_pen: bool,
    ) -> Result<Option<(u64, u64)>, OperationError> {
        let error = |cause| super::failed(Operation::Write, (offset, 1), cause);
        let of = region_of(region.peer, region.name);
        let spec = call_spec(region.peer, Method::PLACES, &[], CallOptions::NONE);
        for _ in 0..QUESTIONS_MAX {
            let told = match self.pens.borrow().as_ref() {
                Some(pens) => pens.pens.own_place(of, offset),
                None => return Err(error(Cause::NotMapped)),
            };
            let unknown = match told {
                Ok(place) if place.is_some() || !with_pen => return Ok(place),
                Ok(_) => Unknown { offset, length: 1 },
                Err(unknown) => unknown,
            };
            let asked = self.ask_places(&spec, of, unknown, with_pen);
            if let Some(reply) = asked.map_err(|asked| error(Cause::Call(asked)))? {
                let (operation, length) = (Operation::Write, 1);
                let peer = region.peer;
                let refused = Finished { operation, peer, reply, buffer: None, offset, length };
                refused.checked()?;
            }
        }
        Err(error(Cause::BadAnswer))
    }
}

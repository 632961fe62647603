//! What slices are made of where the memory node owns all counts: mappings of their own, in a
//! session of their own.
//!
//! A mapping ends with its session, and then its pages go to others. So that no call of the
//! program's can end it while there are slices, the session is one that the program is not handed:
//! it stays open until [`Node::disconnect_all`] finds no slices any more, or the process ends.

use dmrpc_core::device::Device;
use dmrpc_core::wire::message::Method;
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::idle::Wait;

use super::slices::Run;
use crate::call::{CallOptions, call_spec};
use crate::error::Error;
use crate::local::POOL_ADDRESS;
use crate::memory::{Cause, OperationError, Region};
use crate::node::Node;
use crate::peers::Peer;
use crate::pens::region_of;
use crate::statistics::Operation;

/// What is lent.
#[derive(Default)]
pub(crate) struct Lent {
    /// The session that mappings are made in.
    lender: Option<Peer>,
    /// How many there are.
    count: usize,
    /// Those whose slices are gone.
    ended: Vec<Region>,
}

impl<D> Node<D> {
    /// Notes that the slices of a mapping are gone; it is given back with the next poll.
    pub(super) fn end_lent(&self, mapped: Region) {
        if let Some(pens) = self.pens.borrow_mut().as_mut() {
            pens.lent.count -= 1;
            pens.lent.ended.push(mapped);
            self.chores.set(true);
        }
    }
}

impl<D: Device> Node<D> {
    /// Gives mappings back whose slices are gone. Returns whether any are left.
    pub(crate) fn unmap_lent(&self) -> bool {
        loop {
            let ended = self.pens.borrow_mut().as_mut().and_then(|pens| pens.lent.ended.pop());
            let Some(mapped) = ended else { return false };
            if !self.memory(mapped.peer).begin_free(mapped) {
                if let Some(pens) = self.pens.borrow_mut().as_mut() {
                    pens.lent.ended.push(mapped);
                }
                return true;
            }
        }
    }

    /// Ends the session that mappings are made in, unless there are slices.
    pub(crate) fn dismiss_lender(&self) {
        let lender = match self.pens.borrow_mut().as_mut() {
            Some(pens) if pens.lent.count == 0 => {
                pens.lent.ended.clear();
                pens.lent.lender.take()
            }
            _ => None,
        };
        if let Some(lender) = lender {
            self.state.borrow_mut().peers.kept = None;
            self.disconnect(lender);
        }
    }
}

impl<D: Device + Wait> Node<D> {
    /// The session that mappings are made in.
    fn lender(&self) -> Result<Peer, Cause> {
        let known = self.pens.borrow().as_ref().and_then(|pens| pens.lent.lender);
        if let Some(lender) = known {
            return Ok(self.state.borrow().peers.now(lender));
        }
        let opened = self.connect(POOL_ADDRESS).map_err(|_| Cause::Call(Error::StalePeer))?;
        self.state.borrow_mut().peers.kept = Some(opened.line.0);
        if let Some(pens) = self.pens.borrow_mut().as_mut() {
            pens.lent.lender = Some(opened);
        }
        Ok(opened)
    }

    /// Maps what a reference refers to, and tells where it is.
    pub(super) fn lend(&self, reference: &Ref) -> Result<(Region, Vec<Run>), OperationError> {
        let length = reference.length;
        let error = |cause| super::failed(Operation::ReadRef, (0, length), cause);
        let lender = self.lender().map_err(error)?;
        let mapped =
            self.memory(lender).map_ref(reference).map_err(|refused| error(refused.cause))?;
        if let Some(pens) = self.pens.borrow_mut().as_mut() {
            pens.lent.count += 1;
        }
        let runs = self.runs_of(mapped);
        if runs.is_err() {
            self.end_lent(mapped);
        }
        runs.map(|runs| (mapped, runs)).map_err(error)
    }

    fn runs_of(&self, mapped: Region) -> Result<Vec<Run>, Cause> {
        let spec = call_spec(mapped.peer, Method::PLACES, &[], CallOptions::NONE);
        let (mut runs, mut offset) = (Vec::<Run>::new(), 0);
        loop {
            let mut found = |place: Option<u64>, bytes| match runs.last_mut() {
                Some(last) if last.is_followed_by(place) => last.bytes += bytes,
                _ => runs.push(Run { place, bytes }),
            };
            let told = match self.pens.borrow().as_ref() {
                Some(pens) => pens.runs(mapped, offset, &mut found),
                None => return Err(Cause::NotMapped),
            };
            let Err(unknown) = told else { return Ok(runs) };
            offset = unknown.offset;
            let asked = self.ask_places(&spec, region_of(mapped.peer, mapped.name), unknown, false);
            if asked.map_err(Cause::Call)?.is_some() {
                return Err(Cause::BadAnswer);
            }
        }
    }
}

//! A region's own pages, where they are.

use std::fmt;

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::CallError;
use dmrpc_core::store::HolderId;
use dmrpc_core::wire::message::Method;
use dmrpc_host::idle::Wait;

use super::failed;
use super::place::Reserved;
use crate::error::Error;
use crate::local::POOL_ADDRESS;
use crate::memory::{Cause, OperationError, Region};
use crate::node::Node;
use crate::pens::PoolPens;
use crate::statistics::Operation;

/// Direct access to the pages of a region that are its own: see
/// [`Memory::view`](crate::Memory::view).
///
/// Pages are told by any offset within them. The first and the last of a region may be shorter.
pub struct View<'n, D> {
    node: &'n Node<D>,
    region: Region,
    held: Held,
    reserved: Reserved,
}

/// How a region is reserved.
#[derive(Clone, Copy)]
enum Held {
    /// By this participant of the store.
    Here(HolderId),
    /// In flush mode, by the pen for its pages.
    ByPen,
}

impl<D> fmt::Debug for View<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("region", &self.region).finish_non_exhaustive()
    }
}

impl<'n, D: Device + Wait> View<'n, D> {
    pub(super) fn new(node: &'n Node<D>, region: Region) -> Result<Self, OperationError> {
        let error = |cause| failed(Operation::Write, (0, region.length), cause);
        if node.has_pens(region.peer) {
            return Self::by_pen(node, region);
        }
        let mut shared = node.shared_with(region.peer).map_err(error)?;
        let Some(local) = shared.as_mut() else { return Err(error(Cause::NotMapped)) };
        let holder = local
            .reserve(region.peer.as_holder(), region.name)
            .map_err(|refused| error(refused.map_or(Cause::Call(Error::Viewed), Cause::Memory)))?;
        let reserved = Reserved::new(local.direct());
        drop(shared);
        Ok(Self { node, region, held: Held::Here(holder), reserved })
    }

    /// In flush mode, where the memory node keeps the pages.
    fn by_pen(node: &'n Node<D>, region: Region) -> Result<Self, OperationError> {
        let error = |cause| failed(Operation::Write, (0, region.length), cause);
        let direct = node.pens.borrow().as_ref().map(PoolPens::direct);
        let direct = direct.ok_or_else(|| error(Cause::NotMapped))?;
        node.reserve(region).map_err(error)?;
        Ok(Self { node, region, held: Held::ByPen, reserved: Reserved::new(direct) })
    }
}

impl<D> View<'_, D> {
    /// The region.
    pub fn region(&self) -> Region {
        self.region
    }

    fn slice(&mut self, (place, bytes): (u64, u64)) -> &mut [u8] {
        if let Held::ByPen = self.held {
            self.node.give_out(self.region, Some(place));
        }
        self.reserved.slice_mut(place, bytes)
    }
}

impl<D: Device + Wait> View<'_, D> {
    /// Where the bytes from `offset` to the end of its page are, if they may be written there.
    fn own_place(&self, offset: u64) -> Result<Option<(u64, u64)>, OperationError> {
        let error = |cause| failed(Operation::Write, (offset, 1), cause);
        let holder = match self.held {
            Held::Here(holder) => holder,
            Held::ByPen => return self.node.place_of(self.region, offset, false),
        };
        let shared = self.node.shared.borrow();
        let Some(local) = shared.as_ref() else { return Err(error(Cause::NotMapped)) };
        match local.own_place(holder, self.region.name, offset) {
            Ok((place, bytes)) => Ok(place.map(|place| (place, bytes))),
            Err(refused) => Err(error(refused.map_or(Cause::BadAnswer, Cause::Memory))),
        }
    }

    /// The bytes from `offset` to the end of its page, or of the region, if that page is the
    /// region's own: they are read and written where they are. `None` if others see the page too,
    /// or it was never written: [`View::make_own`] changes that.
    ///
    /// # Errors
    /// [`OperationError`]: an offset beyond the region; in flush mode, that the memory node did not
    /// say where the page is.
    pub fn own(&mut self, offset: u64) -> Result<Option<&mut [u8]>, OperationError> {
        let place = self.own_place(offset)?;
        Ok(place.map(|place| self.slice(place)))
    }

    /// Makes the page of `offset` the region's own, by a copy if others see it too, and gives its
    /// bytes from `offset` on.
    ///
    /// # Errors
    /// As [`View::own`]; and no memory for a copy.
    pub fn make_own(&mut self, offset: u64) -> Result<&mut [u8], OperationError> {
        let place = match self.held {
            Held::Here(holder) => self.make_own_here(holder, offset)?,
            Held::ByPen => {
                let place = self.node.place_of(self.region, offset, true)?;
                let error = || failed(Operation::Write, (offset, 1), Cause::BadAnswer);
                place.ok_or_else(error)?
            }
        };
        Ok(self.slice(place))
    }

    fn make_own_here(&self, holder: HolderId, offset: u64) -> Result<(u64, u64), OperationError> {
        let error = |cause| failed(Operation::Write, (offset, 1), cause);
        let mut end = None;
        loop {
            if let Some(place) = self.own_place(offset)? {
                return Ok(place);
            }
            let made = match self.node.shared.borrow_mut().as_mut() {
                Some(local) => local.service().own_page(holder, self.region.name, offset),
                None => return Err(error(Cause::NotMapped)),
            };
            match made {
                Ok(()) => {}
                Err(Some(refused)) => return Err(error(Cause::Memory(refused))),
                Err(None) => {
                    // It waits for memory that is being freed, by the memory node.
                    let now = self.node.now();
                    if now >= *end.get_or_insert(now + self.node.config.deadline) {
                        let (address, method) = (POOL_ADDRESS, Method::MEMORY);
                        let busy = Error::Call { address, method, error: CallError::Busy };
                        return Err(error(Cause::Call(busy)));
                    }
                    self.node.step();
                }
            }
        }
    }
}

impl<D> Drop for View<'_, D> {
    fn drop(&mut self) {
        if let Held::ByPen = self.held {
            return self.node.end_view(self.region);
        }
        if let Some(local) = self.node.shared.borrow_mut().as_mut() {
            local.let_go(self.region.peer.as_holder(), self.region.name);
        }
    }
}

//! `read_ref`, `put` and `take` where the memory node owns all counts but this process maps the
//! pool: their bytes go straight through it.
//!
//! What is read is mapped for as long as that takes: a region of one's own, which nobody else
//! knows, keeps its pages as they are. What is put is written to a region of one's own, which is
//! made into a reference. Whatever the memory node refuses on the way is left to the plain
//! operation, which is refused in the right words.

use dmrpc_core::device::Device;
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::idle::Wait;

use super::request::{Making, Request};
use super::{Memory, OperationError, Region};
use crate::pending::Interest;
use crate::statistics::Operation;

/// An error of a part, told as one of the whole.
fn part_of(operation: Operation) -> impl Fn(OperationError) -> OperationError {
    move |error| OperationError { operation, ..error }
}

impl<D> Memory<'_, D> {
    /// Whether bytes go straight through the pool though the memory node owns all counts.
    #[inline]
    pub(super) fn has_pens(&self) -> bool {
        self.node.has_pens(self.peer)
    }
}

impl<D: Device> Memory<'_, D> {
    /// Begins to free a region, whose end nobody waits for; false if there is no room.
    pub(crate) fn begin_free(&self, region: Region) -> bool {
        let request = Request::free(region);
        let spec = request.spec(&self.options);
        match self.node.start(&spec, &[], None, Interest::Abandoned) {
            Ok(_) => true,
            // A session that is over took the region with it.
            Err(error) => !error.is_room(),
        }
    }
}

impl<D: Device + Wait> Memory<'_, D> {
    fn let_go(&self, region: Region) {
        if !self.begin_free(region) {
            // It fails only if the session is over.
            let _ = self.free(region);
        }
    }

    /// The region that `making` makes; the error is of `request`, which that is for.
    fn made(&self, making: &Making, request: &Request) -> Result<Option<Region>, OperationError> {
        self.node.make_placed(making, &self.options).map_err(|error| request.failed(error))
    }

    /// As [`Memory::read_ref`]; `None` if that is to be done by a message.
    pub(super) fn read_ref_by_pen(
        &self,
        reference: &Ref,
        offset: u64,
        out: &mut [u8],
    ) -> Option<Result<(), OperationError>> {
        let request = Request::read_ref(self.peer, reference, offset, out.len());
        request.within(reference.length).ok()?;
        let making = Making::map(self.peer, reference, (offset, out.len() as u64));
        let mapped = match self.made(&making, &request) {
            Ok(made) => made?,
            Err(error) => return Some(Err(error)),
        };
        let read = self.read(mapped, offset, out);
        self.let_go(mapped);
        Some(read.map_err(part_of(Operation::ReadRef)))
    }

    /// As [`Memory::put`]; `None` if that is to be done by a message.
    pub(super) fn put_by_pen(&self, bytes: &[u8]) -> Option<Result<Ref, OperationError>> {
        let request = Request::put(self.peer, bytes.len());
        let region = match self.made(&Making::alloc(self.peer, bytes.len() as u64), &request) {
            Ok(made) => made?,
            Err(error) => return Some(Err(error)),
        };
        let made = self
            .write(region, 0, bytes)
            .and_then(|()| self.run_ref(&Request::refer_and_free(region), &[]));
        if made.is_err() {
            self.let_go(region);
        }
        Some(made.map_err(part_of(Operation::Put)))
    }

    /// As [`Memory::take`], into all of `out`; `None` if that is to be done by a message.
    pub(super) fn take_by_pen(
        &self,
        reference: &Ref,
        out: &mut [u8],
    ) -> Option<Result<(), OperationError>> {
        let request = Request::take(self.peer, reference);
        // Of what is short, all that can fail is in the first message.
        let is_short = out.len() as u64 <= Making::TOLD_BYTES;
        let making = match is_short {
            true => Making::take(self.peer, reference),
            false => Making::map(self.peer, reference, (0, out.len() as u64)),
        };
        let mapped = match self.made(&making, &request) {
            Ok(made) => made?,
            Err(error) => return Some(Err(error)),
        };
        let mut taken = self.read(mapped, 0, out);
        if !is_short && taken.is_ok() {
            taken = self.run_bare(&Request::end_mapped(reference, mapped), &[]);
        }
        if is_short || taken.is_err() {
            self.let_go(mapped);
        }
        Some(taken.map_err(part_of(Operation::Take)))
    }
}

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

use super::request::{Request, StepBytes};
use super::{AsyncMemory, Memory, OperationError, Region};
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
        let (request, mut steps) = (Request::free(region), StepBytes::default());
        let spec = request.spec(self.options, &mut steps);
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

    /// As [`Memory::read_ref`]; `None` if that is to be done by a message.
    pub(super) fn read_ref_by_pen(
        &self,
        reference: &Ref,
        offset: u64,
        out: &mut [u8],
    ) -> Option<Result<(), OperationError>> {
        let mapped = self.map_ref(reference).ok()?;
        let read = self.read(mapped, offset, out);
        self.let_go(mapped);
        Some(read.map_err(part_of(Operation::ReadRef)))
    }

    /// As [`Memory::put`]; `None` if that is to be done by a message.
    pub(super) fn put_by_pen(&self, bytes: &[u8]) -> Option<Result<Ref, OperationError>> {
        let region = self.alloc(bytes.len() as u64).ok()?;
        let made = self
            .write(region, 0, bytes)
            .and_then(|()| self.run(&Request::refer_and_free(region), &[], &mut [])?.reference());
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
        let mapped = self.map_ref(reference).ok()?;
        let taken = self.read(mapped, 0, out).and_then(|()| {
            self.run(&Request::end_mapped(reference, mapped), &[], &mut []).map(drop)
        });
        if taken.is_err() {
            self.let_go(mapped);
        }
        Some(taken.map_err(part_of(Operation::Take)))
    }
}

impl<D: Device> AsyncMemory<'_, D> {
    /// As [`Memory::read_ref_by_pen`].
    pub(super) async fn read_ref_by_pen(
        &self,
        reference: &Ref,
        offset: u64,
        out: &mut [u8],
    ) -> Option<Result<(), OperationError>> {
        let mapped = self.own(self.map_ref(reference).await.ok()?);
        let read = self.read(*mapped, offset, out).await;
        Some(read.map_err(part_of(Operation::ReadRef)))
    }

    /// As [`Memory::put_by_pen`].
    pub(super) async fn put_by_pen(&self, bytes: &[u8]) -> Option<Result<Ref, OperationError>> {
        let region = self.own(self.alloc(bytes.len() as u64).await.ok()?);
        let made = match self.write(*region, 0, bytes).await {
            Ok(()) => match self.run(&Request::refer_and_free(*region), &[], 0).await {
                Ok(finished) => finished.reference(),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if made.is_ok() {
            let _freed = region.keep();
        }
        Some(made.map_err(part_of(Operation::Put)))
    }

    /// As [`Memory::take_by_pen`].
    pub(super) async fn take_by_pen(
        &self,
        reference: &Ref,
        out: &mut [u8],
    ) -> Option<Result<(), OperationError>> {
        let mapped = self.own(self.map_ref(reference).await.ok()?);
        let taken = match self.read(*mapped, 0, out).await {
            Ok(()) => self.run(&Request::end_mapped(reference, *mapped), &[], 0).await.map(drop),
            Err(error) => Err(error),
        };
        if taken.is_ok() {
            let _freed = mapped.keep();
        }
        Some(taken.map_err(part_of(Operation::Take)))
    }
}

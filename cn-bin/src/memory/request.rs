//! Requests to a memory node, as values.

use dmrpc_core::pen::{PLACES_MAX, QUESTION_BYTES, Question};
use dmrpc_core::store::PAGE_BYTES;
use dmrpc_core::wire::memory_op::{
    self, MemoryError, RefOperand, RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step,
};
use dmrpc_core::wire::message::{ArgEntry, Method};
use dmrpc_core::wire::reference::{Ref, Rights};

use super::outcome::{Cause, OperationError};
use super::{ALL_RIGHTS, Region};
use crate::call::{CallOptions, Spec};
use crate::error::Error;
use crate::peers::Peer;
use crate::statistics::{Makes, Operation};

/// Most bytes of a question for places with the steps that make the region.
const MAKING_BYTES_MAX: usize = QUESTION_BYTES + 3 * STEP_BYTES;

/// The first argument, which is the reference that a request is about.
const ARGUMENT: RefOperand = RefOperand::Argument(0);

/// A request to a memory node, without the bytes to be written.
#[derive(Clone)]
pub(crate) struct Request {
    peer: Peer,
    operation: Operation,
    region: Option<RegionName>,
    /// The range, for errors and for the handles made.
    offset: u64,
    pub(crate) length: u64,
    reference: Option<ArgEntry>,
    /// As they travel.
    steps: heapless::Vec<[u8; STEP_BYTES], STEPS_MAX>,
}

// All of it is part of its callers: most of a request is constant there.
impl Request {
    #[inline(always)]
    fn new(peer: Peer, operation: Operation, range: (u64, u64), steps: &[Step]) -> Self {
        let (offset, length) = range;
        let steps = steps.iter().map(Step::to_bytes).collect();
        Self { peer, operation, region: None, offset, length, reference: None, steps }
    }

    #[inline(always)]
    fn on_region(operation: Operation, region: Region, range: (u64, u64), step: Step) -> Self {
        let request = Self::new(region.peer, operation, range, &[step]);
        Self { region: Some(region.name), ..request }
    }

    #[inline(always)]
    fn on_ref(
        peer: Peer,
        operation: Operation,
        reference: &Ref,
        range: (u64, u64),
        steps: &[Step],
    ) -> Self {
        let request = Self::new(peer, operation, range, steps);
        Self { reference: Some(ArgEntry::Ref(*reference)), ..request }
    }

    #[inline(always)]
    pub(crate) fn alloc(peer: Peer, length: u64) -> Self {
        Self::new(peer, Operation::Alloc, (0, length), &[Step::Alloc { length }])
    }

    #[inline(always)]
    pub(crate) fn free(region: Region) -> Self {
        let step = Step::Free { region: RegionOperand::Named(region.name) };
        Self::on_region(Operation::Free, region, (0, region.length), step)
    }

    #[inline(always)]
    pub(crate) fn read(region: Region, offset: u64, bytes: usize) -> Self {
        let length = bytes as u64;
        let step = Step::Read { region: RegionOperand::Named(region.name), offset, length };
        Self::on_region(Operation::Read, region, (offset, length), step)
    }

    #[inline(always)]
    pub(crate) fn write(region: Region, offset: u64, bytes: usize) -> Self {
        let step = Step::Write { region: RegionOperand::Named(region.name), offset };
        Self::on_region(Operation::Write, region, (offset, bytes as u64), step)
    }

    #[inline(always)]
    pub(crate) fn create_ref(region: Region, offset: u64, length: u64, rights: Rights) -> Self {
        let operand = RegionOperand::Named(region.name);
        let step = Step::CreateRef { region: operand, offset, length, rights };
        Self::on_region(Operation::CreateRef, region, (offset, length), step)
    }

    #[inline(always)]
    pub(crate) fn map_ref(peer: Peer, reference: &Ref) -> Self {
        let step = Step::MapRef { reference: ARGUMENT };
        Self::on_ref(peer, Operation::MapRef, reference, (0, reference.length), &[step])
    }

    pub(crate) fn claim_ref(peer: Peer, reference: &Ref) -> Self {
        let step = Step::ClaimRef { reference: ARGUMENT };
        Self::on_ref(peer, Operation::ClaimRef, reference, (0, reference.length), &[step])
    }

    pub(crate) fn detach(peer: Peer, reference: &Ref) -> Self {
        let step = Step::Detach { reference: ARGUMENT };
        Self::on_ref(peer, Operation::Detach, reference, (0, reference.length), &[step])
    }

    #[inline(always)]
    pub(crate) fn drop_ref(peer: Peer, reference: &Ref) -> Self {
        let step = Step::DropRef { reference: ARGUMENT };
        Self::on_ref(peer, Operation::DropRef, reference, (0, reference.length), &[step])
    }

    pub(crate) fn narrow(
        peer: Peer,
        reference: &Ref,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Self {
        let step = Step::Narrow { reference: ARGUMENT, offset, length, rights };
        Self::on_ref(peer, Operation::Narrow, reference, (offset, length), &[step])
    }

    #[inline(always)]
    pub(crate) fn read_ref(peer: Peer, reference: &Ref, offset: u64, bytes: usize) -> Self {
        let length = bytes as u64;
        let step = Step::ReadRef { reference: ARGUMENT, offset, length };
        Self::on_ref(peer, Operation::ReadRef, reference, (offset, length), &[step])
    }

    pub(crate) fn put(peer: Peer, bytes: usize) -> Self {
        let length = bytes as u64;
        Self::new(peer, Operation::Put, (0, length), &memory_op::put(length, ALL_RIGHTS))
    }

    pub(crate) fn take(peer: Peer, reference: &Ref) -> Self {
        let length = reference.length;
        let steps = memory_op::take(length);
        Self::on_ref(peer, Operation::Take, reference, (0, length), &steps)
    }

    /// The reference becomes a region of one's own. With `write_at`, the body is written there
    /// before the reference ends, so what fails leaves all as it was.
    pub(crate) fn take_region(peer: Peer, reference: &Ref, write_at: Option<u64>) -> Self {
        let region = RegionOperand::MadeBy(0);
        let mut steps = heapless::Vec::<Step, STEPS_MAX>::new();
        let written = write_at.map(|offset| Step::Write { region, offset });
        let claimed = RefOperand::MadeBy(1 + u8::from(written.is_some()));
        steps.extend([Step::MapRef { reference: ARGUMENT }]);
        steps.extend(written);
        steps
            .extend([Step::ClaimRef { reference: ARGUMENT }, Step::DropRef { reference: claimed }]);
        Self::on_ref(peer, Operation::TakeRegion, reference, (0, reference.length), &steps)
    }

    /// Claims and drops.
    pub(crate) fn end(peer: Peer, reference: &Ref) -> Self {
        let steps = [
            Step::ClaimRef { reference: ARGUMENT },
            Step::DropRef { reference: RefOperand::MadeBy(0) },
        ];
        Self::on_ref(peer, Operation::Take, reference, (0, reference.length), &steps)
    }

    /// Claims and drops a reference, and frees the region that it was mapped as.
    pub(crate) fn end_mapped(reference: &Ref, mapped: Region) -> Self {
        let mut request = Self::end(mapped.peer, reference);
        let free = Step::Free { region: RegionOperand::Named(mapped.name) };
        request.steps.extend([free.to_bytes()]);
        Self { region: Some(mapped.name), ..request }
    }

    /// Makes a reference to all of a region and frees the region.
    pub(crate) fn refer_and_free(region: Region) -> Self {
        let operand = RegionOperand::Named(region.name);
        let Region { peer, length, .. } = region;
        let create = Step::CreateRef { region: operand, offset: 0, length, rights: ALL_RIGHTS };
        let steps = [create, Step::Free { region: operand }];
        let request = Self::new(peer, Operation::Put, (0, length), &steps);
        Self { region: Some(region.name), ..request }
    }

    /// The call.
    #[inline(always)]
    pub(crate) fn spec<'a>(&'a self, options: &'a CallOptions) -> Spec<'a> {
        Spec {
            peer: self.peer,
            method: Method::MEMORY,
            operation: self.operation,
            region: self.region,
            offset: self.offset,
            length: self.length,
            arguments: self.reference.as_slice(),
            parameters: self.steps.as_flattened(),
            options,
        }
    }

    pub(crate) fn makes(&self) -> Makes {
        self.operation.makes()
    }

    /// The error of a request that has no answer.
    pub(crate) fn failed(&self, error: Error) -> OperationError {
        self.error(Cause::Call(error))
    }

    #[cold]
    pub(crate) fn error(&self, cause: Cause) -> OperationError {
        let Self { operation, offset, length, .. } = *self;
        OperationError { operation, offset, length, cause }
    }

    /// Checks the range against the `size` that a handle tells: before a transfer of several
    /// messages, so that a range that makes no sense has no effect at all.
    pub(crate) fn within(&self, size: u64) -> Result<(), OperationError> {
        let end = self.offset.checked_add(self.length);
        match end {
            Some(end) if end <= size => Ok(()),
            _ => {
                let end = end.unwrap_or(u64::MAX);
                Err(self.error(Cause::Memory(MemoryError::OutOfRange { end, size })))
            }
        }
    }

    /// The length as a number of bytes in memory, if the caller has room for it.
    pub(crate) fn room(&self, room: usize) -> Result<usize, OperationError> {
        match usize::try_from(self.length) {
            Ok(length) if length <= room => Ok(length),
            _ => Err(self.error(Cause::RoomTooSmall { room })),
        }
    }
}

/// A request that makes a region and asks where its first pages are, in one message: for those who
/// move the bytes themselves.
pub(crate) struct Making {
    peer: Peer,
    reference: Option<ArgEntry>,
    /// Where the pages that are asked about begin, and the region's length, in bytes.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    question: heapless::Vec<u8, MAKING_BYTES_MAX>,
}

impl Making {
    /// Bytes whose places one answer tells, wherever in a page they begin.
    pub(crate) const TOLD_BYTES: u64 = (PLACES_MAX as u64 - 1) * PAGE_BYTES;

    /// About `bytes` bytes from `offset` on of a region of `length` bytes.
    fn new(
        peer: Peer,
        (offset, bytes, length): (u64, u64, u64),
        with_pen: bool,
        steps: &[Step],
    ) -> Self {
        let question = Question { region: 0, offset, length: bytes, with_pen }.to_bytes();
        let steps = steps.iter().flat_map(Step::to_bytes);
        let question = question.into_iter().chain(steps).collect();
        Self { peer, reference: None, offset, length, question }
    }

    /// A new region, to be written.
    pub(crate) fn alloc(peer: Peer, length: u64) -> Self {
        Self::new(peer, (0, length, length), true, &[Step::Alloc { length }])
    }

    /// What a reference refers to, of which `bytes` bytes from `offset` on are to be read.
    pub(crate) fn map(peer: Peer, reference: &Ref, (offset, bytes): (u64, u64)) -> Self {
        let steps = [Step::MapRef { reference: ARGUMENT }];
        let making = Self::new(peer, (offset, bytes, reference.length), false, &steps);
        Self { reference: Some(ArgEntry::Ref(*reference)), ..making }
    }

    /// The same, all of it, and the reference ends. What the answer does not tell the
    /// place of might be lost with the session: for what is not longer than
    /// [`Making::TOLD_BYTES`].
    pub(crate) fn take(peer: Peer, reference: &Ref) -> Self {
        let steps = [
            Step::MapRef { reference: ARGUMENT },
            Step::ClaimRef { reference: ARGUMENT },
            Step::DropRef { reference: RefOperand::MadeBy(1) },
        ];
        let length = reference.length;
        let making = Self::new(peer, (0, length, length), false, &steps);
        Self { reference: Some(ArgEntry::Ref(*reference)), ..making }
    }

    /// The call.
    pub(crate) fn spec<'a>(&'a self, options: &'a CallOptions) -> Spec<'a> {
        Spec {
            peer: self.peer,
            method: Method::PLACES,
            operation: Operation::Call,
            region: None,
            offset: self.offset,
            length: self.length,
            arguments: self.reference.as_slice(),
            parameters: &self.question,
            options,
        }
    }
}

//! Requests of one step with no body, or one that came with it, or that is written where its step
//! says: all small operations are that, and all plain reads and writes.
//!
//! They need no book of what to give back, because a step that fails has made nothing; and what
//! they answer goes straight into the answer's buffer.

use super::failure::{Failure, answer, translate, with_size};
use super::memory_node::{Identity, MemoryNode};
use super::steps::{entry, within};
use crate::endpoint::host::{Body, Outcome, Reply, RequestHead, Sink, Source};
use crate::memory::Memory;
use crate::store::{EntryId, HolderId, RegionId};
use crate::wire::memory_op::{
    MemoryError, RefOperand, RegionName, RegionOperand, STEP_BYTES, Step,
};
use crate::wire::message::Status;
use crate::wire::reference::{Ref, Rights};

/// The parameters of an answer that names no region.
const NO_REGION: [u8; 8] = [0; 8];

/// Where writes are counted among [`OPERATIONS`](super::memory_node::OPERATIONS).
const WRITE: usize = 3;

/// A region as the parameters of an answer name it.
#[inline(always)]
fn name_of(region: RegionId) -> [u8; 8] {
    region.raw().to_le_bytes()
}

/// The region that the only step of a request works on: no step was there to make one.
#[inline(always)]
fn named(operand: RegionOperand) -> Result<RegionId, MemoryError> {
    match operand {
        RegionOperand::Named(RegionName(name)) => Ok(RegionId::from_raw(name)),
        RegionOperand::MadeBy(_) => Err(MemoryError::Malformed),
    }
}

/// What came of a step: bytes that it moved, or why not; `None` to try again later.
type Moved = Result<u64, Option<MemoryError>>;

impl<M: Memory> MemoryNode<'_, M> {
    /// Runs a request's steps and fills in the reply.
    #[inline]
    pub(super) fn serve_steps(
        &mut self,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let parameters = head.arguments.parameters();
        match (body, <&[u8; STEP_BYTES]>::try_from(parameters)) {
            (Body::Whole(bytes), Ok(step)) => {
                let step = Step::parse(step, 0);
                let Ok(step) = step else { return Failure::MALFORMED.answer(reply) };
                if let Some(outcome) = self.one_step(head, &step, bytes, reply) {
                    return outcome;
                }
            }
            (Body::Absorbed { sink, bytes }, Ok(step)) => {
                if let Ok(step @ Step::Write { region: RegionOperand::Named(_), .. }) =
                    Step::parse(step, 0)
                {
                    return self.write_staged(head, &step, (sink, bytes), reply);
                }
            }
            _ => {}
        }
        self.steps(head, body, reply)
    }

    /// Runs the only step of a request, a write to a region that was there before, whose bytes were
    /// staged as they came in.
    fn write_staged(
        &mut self,
        head: &RequestHead<'_>,
        step: &Step,
        (sink, bytes): (Sink, u32),
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let index = sink.0 as usize;
        let holder = match self.holder_of(head.call.session) {
            Ok(holder) => holder,
            Err(failure) => {
                self.drop_transfer(index);
                return failure.answer(reply);
            }
        };
        let committed = self.commit_transfer(holder, index);
        let counts = &mut self.operations[WRITE];
        match committed {
            Ok(()) => {
                counts.done += 1;
                counts.bytes += u64::from(bytes);
                reply.head(Status::OK, &[], &NO_REGION);
                Outcome::Replied
            }
            Err(error) => {
                counts.failed += u64::from(error.is_some());
                self.failed_alone(holder, step, &error, reply)
            }
        }
    }

    /// A reference to a range of an entry.
    #[inline(always)]
    pub(super) fn sealed(
        &self,
        entry: EntryId,
        (offset, length): (u64, u64),
        rights: Rights,
    ) -> Ref {
        let Identity { memory_node, incarnation, .. } = self.identity;
        let EntryId { index, generation } = entry;
        let reference =
            Ref { memory_node, incarnation, index, generation, offset, length, rights, tag: 0 };
        reference.sealed_by(&self.sealer)
    }

    /// Runs the only step of a request and fills in the reply. `None`, and nothing has happened, if
    /// it is a step of the rarer kinds.
    #[inline(always)]
    fn one_step(
        &mut self,
        head: &RequestHead<'_>,
        step: &Step,
        body: &[u8],
        reply: &mut Reply<'_>,
    ) -> Option<Outcome> {
        let number = match step {
            Step::Alloc { .. } => 0,
            Step::Free { .. } => 1,
            Step::Read { .. } => 2,
            Step::Write { .. } => WRITE,
            Step::CreateRef { .. } => 4,
            Step::MapRef { .. } => 5,
            Step::DropRef { .. } => 8,
            Step::ReadRef { .. } => 10,
            Step::ClaimRef { .. } | Step::Detach { .. } | Step::Narrow { .. } => return None,
        };
        let holder = match self.holder_of(head.call.session) {
            Ok(holder) => holder,
            Err(failure) => return Some(failure.answer(reply)),
        };
        let moved = self.step_alone(holder, head, step, body, reply);
        let counts = &mut self.operations[number];
        match moved {
            Ok(bytes) => {
                counts.done += 1;
                counts.bytes += bytes;
                Some(Outcome::Replied)
            }
            Err(error) => {
                counts.failed += u64::from(error.is_some());
                Some(self.failed_alone(holder, step, &error, reply))
            }
        }
    }

    #[inline(always)]
    fn step_alone(
        &mut self,
        holder: HolderId,
        head: &RequestHead<'_>,
        step: &Step,
        body: &[u8],
        reply: &mut Reply<'_>,
    ) -> Moved {
        match *step {
            Step::CreateRef { region, offset, length, rights } => {
                let region = named(region)?;
                let entry =
                    self.store.create_ref(holder, region, offset, length).map_err(translate)?;
                let reference = self.sealed(entry, (0, length), rights);
                reply.one_ref(&reference, &NO_REGION);
                Ok(length)
            }
            Step::Free { region } => {
                self.store.free(holder, named(region)?).map_err(translate)?;
                reply.head(Status::OK, &[], &NO_REGION);
                Ok(0)
            }
            Step::Alloc { length } => {
                let region = self.store.alloc(holder, length).map_err(translate)?;
                reply.head(Status::OK, &[], &name_of(region));
                Ok(length)
            }
            Step::Write { region, offset } => {
                self.store.write(holder, named(region)?, offset, body).map_err(translate)?;
                reply.head(Status::OK, &[], &NO_REGION);
                Ok(body.len() as u64)
            }
            Step::Read { region, offset, length } => {
                self.read_alone(holder, head, (named(region)?, offset, length), reply)
            }
            Step::MapRef { reference }
            | Step::DropRef { reference }
            | Step::ReadRef { reference, .. } => {
                self.on_ref_alone(holder, head, (step, reference), reply)
            }
            Step::ClaimRef { .. } | Step::Detach { .. } | Step::Narrow { .. } => {
                Err(Some(MemoryError::Malformed))
            }
        }
    }

    /// A step on a reference: one place where it is proven genuine.
    #[inline(always)]
    fn on_ref_alone(
        &mut self,
        holder: HolderId,
        head: &RequestHead<'_>,
        (step, operand): (&Step, RefOperand),
        reply: &mut Reply<'_>,
    ) -> Moved {
        let right = match step {
            Step::DropRef { .. } => Rights::DROP,
            &Step::ReadRef { length, .. } => {
                readable(reply.body_bytes_max(), length)?;
                Rights::MAP
            }
            _ => Rights::MAP,
        };
        let RefOperand::Argument(number) = operand else {
            return Err(Some(MemoryError::Malformed));
        };
        let reference = head.arguments.reference(number.into()).ok_or(MemoryError::Malformed)?;
        self.genuine(&reference, right)?;
        let entry = entry(&reference);
        match *step {
            Step::DropRef { .. } => {
                self.store.drop_ref(holder, entry).map_err(translate)?;
                reply.head(Status::OK, &[], &NO_REGION);
                Ok(0)
            }
            Step::ReadRef { offset, length, .. } => {
                let start = within(&reference, offset, length)?;
                self.read_entry_alone(head, (entry, start, length), reply)
            }
            _ => {
                let Ref { offset, length, .. } = reference;
                let region = self.store.map_ref(holder, entry, offset, length, true);
                reply.head(Status::OK, &[], &name_of(region.map_err(translate)?));
                Ok(length)
            }
        }
    }

    /// A read: what is short is copied into the answer, what is long is kept as it is meanwhile.
    #[inline(always)]
    fn read_alone(
        &mut self,
        holder: HolderId,
        head: &RequestHead<'_>,
        (region, offset, length): (RegionId, u64, u64),
        reply: &mut Reply<'_>,
    ) -> Moved {
        let bytes = readable(reply.body_bytes_max(), length)?;
        reply.head(Status::OK, &[], &NO_REGION);
        let store = &mut self.store;
        if bytes as usize <= reply.inline_room() {
            let read =
                reply.body_with(bytes as usize, |out| store.read(holder, region, offset, out));
            read.map_err(translate)?;
            return Ok(length);
        }
        let pin = store.pin(holder, region, offset, length).map_err(translate)?;
        reply.body_from(Source(pin.raw()), bytes);
        self.keep(head.call.session, pin);
        Ok(length)
    }

    #[inline(always)]
    fn read_entry_alone(
        &mut self,
        head: &RequestHead<'_>,
        (entry, start, length): (EntryId, u64, u64),
        reply: &mut Reply<'_>,
    ) -> Moved {
        let bytes = readable(reply.body_bytes_max(), length)?;
        reply.head(Status::OK, &[], &NO_REGION);
        let store = &mut self.store;
        if bytes as usize <= reply.inline_room() {
            let read = reply.body_with(bytes as usize, |out| store.read_ref(entry, start, out));
            read.map_err(translate)?;
            return Ok(length);
        }
        let pin = store.pin_ref(entry, start, length).map_err(translate)?;
        reply.body_from(Source(pin.raw()), bytes);
        self.keep(head.call.session, pin);
        Ok(length)
    }

    /// Answers a step that failed: if a region was overrun, with the region's size.
    #[cold]
    fn failed_alone(
        &self,
        holder: HolderId,
        step: &Step,
        error: &Option<MemoryError>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if let Step::Read { region, .. }
        | Step::Write { region, .. }
        | Step::CreateRef { region, .. } = step
            && let Ok(region) = named(*region)
        {
            return answer(0, &with_size(&self.store, holder, region, *error), reply);
        }
        answer(0, error, reply)
    }
}

/// The length of a body, if it is at most `max` bytes.
#[inline(always)]
pub(super) fn readable(max: u32, length: u64) -> Result<u32, MemoryError> {
    let max = u64::from(max);
    if length <= max { Ok(length as u32) } else { Err(MemoryError::TooLong { length, max }) }
}

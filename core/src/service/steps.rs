//! One request's steps, run against the page store.

use super::failure::{Failure, translate, with_size};
use super::memory_node::{MemoryNode, Results};
use super::one_step::readable;
use crate::endpoint::host::{Reply, Source};
use crate::memory::Memory;
use crate::store::{EntryId, Error, HolderId, PinId, RegionId, StageId, Store};
use crate::time::Instant;
use crate::wire::memory_op::{
    MemoryError, RefOperand, RegionName, RegionOperand, Resource, STEPS_MAX, Step, Steps,
};
use crate::wire::message::{ArgEntry, Arguments, Status};
use crate::wire::reference::{Ref, Rights};

/// What a step made.
#[derive(Clone, Copy, Debug, Default)]
enum Made {
    #[default]
    Nothing,
    Region(RegionId),
    /// A reference behind which stands a new entry.
    Ref(Ref),
    /// A reference to an entry that was there before, or has another name since.
    Alias(Ref),
}

/// One request at work.
pub(super) struct Run<'r, 'm, 'a, M> {
    node: &'r mut MemoryNode<'m, M>,
    holder: HolderId,
    arguments: Arguments<'a>,
    body_bytes_max: u32,
    /// Length of the request's body.
    body_bytes: u64,
    made: [Made; STEPS_MAX],
    steps: u8,
    /// A step has changed what was there before the request: the request can't be tried again as
    /// if nothing had happened.
    changed: bool,
    /// The bytes to be read, and how many.
    snapshot: Option<(PinId, u32)>,
}

/// Units of freeing that a request may have to do itself, some tens of microseconds, if it needs
/// what is being freed and can't be put off.
const RECLAIM_UNITS_MAX: u32 = 256;

impl<'r, 'm, 'a, M: Memory> Run<'r, 'm, 'a, M> {
    #[inline]
    pub(super) fn new(
        node: &'r mut MemoryNode<'m, M>,
        holder: HolderId,
        arguments: Arguments<'a>,
        body_bytes_max: u32,
    ) -> Self {
        let made = [Made::Nothing; STEPS_MAX];
        Self {
            node,
            holder,
            arguments,
            body_bytes_max,
            body_bytes: 0,
            made,
            steps: 0,
            changed: false,
            snapshot: None,
        }
    }

    /// Runs the first step alone.
    pub(super) fn make_first(&mut self, step: &Step) -> Result<(), Failure> {
        self.step(0, step, &[], None)
    }

    /// Takes over what the first step made earlier.
    pub(super) fn adopt_first(&mut self, region: RegionId) {
        self.made[0] = Made::Region(region);
        self.steps = 1;
    }

    /// Runs all steps that have not been run yet. `bytes` is the body, unless it is in `stage`.
    pub(super) fn all(
        &mut self,
        steps: Steps<'_>,
        bytes: &[u8],
        stage: Option<(StageId, u32)>,
    ) -> Result<(), Failure> {
        self.body_bytes = stage.map_or(bytes.len() as u64, |(_, bytes)| bytes.into());
        let stage = stage.map(|(stage, _)| stage);
        for (number, step) in steps.iter().enumerate().skip(self.steps.into()) {
            let is_final = self.is_final(&step);
            let mut result = self.step(number as u8, &step, bytes, stage);
            if self.changed && matches!(result, Err(failure) if failure.is_pending()) {
                // The store remembers the latest time.
                self.node.store.reclaim(Instant::ZERO, RECLAIM_UNITS_MAX);
                result = self.step(number as u8, &step, bytes, stage);
                if matches!(result, Err(failure) if failure.is_pending()) {
                    result = Err(self.shortage(number as u8, &step));
                }
            }
            result?;
            self.changed |= is_final;
            self.steps = number as u8 + 1;
        }
        Ok(())
    }

    /// The page store.
    pub(super) fn store(&mut self) -> &mut Store<M> {
        &mut self.node.store
    }

    /// Whether the request has changed what was there before.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Whether a step, once done, has changed what was there before the request.
    fn is_final(&self, step: &Step) -> bool {
        match step {
            Step::Free { region } | Step::Write { region, .. } => {
                matches!(region, RegionOperand::Named(_))
            }
            Step::ClaimRef { reference }
            | Step::Detach { reference }
            | Step::DropRef { reference } => match reference {
                RefOperand::Argument(_) => true,
                RefOperand::MadeBy(step) => {
                    matches!(self.made[usize::from(*step)], Made::Alias(_))
                }
            },
            _ => false,
        }
    }

    /// What a step is refused for that can neither wait nor be done.
    #[cold]
    fn shortage(&self, number: u8, step: &Step) -> Failure {
        let config = self.node.store.config();
        let (resource, limit) = match step {
            Step::MapRef { .. } => (Resource::Regions, config.regions),
            Step::CreateRef { .. } => (Resource::References, config.entries),
            Step::Read { .. } | Step::ReadRef { .. } => (Resource::Pins, config.pins),
            _ => (Resource::Frames, config.frames),
        };
        let error = MemoryError::Exhausted { resource, limit: limit.into() };
        Failure { step: number, error: Some(error) }
    }

    fn step(
        &mut self,
        number: u8,
        step: &Step,
        bytes: &[u8],
        stage: Option<StageId>,
    ) -> Result<(), Failure> {
        let (operation, result) = match *step {
            Step::Alloc { length } => (0, self.alloc(length)),
            Step::Free { region } => (1, self.free(region)),
            Step::Read { region, offset, length } => (2, self.read(region, offset, length)),
            Step::Write { region, offset } => (3, self.write(region, offset, bytes, stage)),
            Step::CreateRef { region, offset, length, rights } => {
                (4, self.create_ref(region, offset, length, rights))
            }
            Step::MapRef { reference } => (5, self.map_ref(reference)),
            Step::ClaimRef { reference } => (6, self.claim_ref(reference)),
            Step::Detach { reference } => (7, self.detach(reference)),
            Step::DropRef { reference } => (8, self.drop_ref(reference)),
            Step::Narrow { reference, offset, length, rights } => {
                (9, self.narrow(reference, offset, length, rights))
            }
            Step::ReadRef { reference, offset, length } => {
                (10, self.read_ref(reference, offset, length))
            }
        };
        let counts = &mut self.node.operations[operation];
        match result {
            Ok((made, bytes)) => {
                counts.done += 1;
                counts.bytes += bytes;
                self.made[usize::from(number)] = made;
                Ok(())
            }
            Err(error) => {
                counts.failed += u64::from(error.is_some());
                Err(Failure { step: number, error: self.with_size(step, error) })
            }
        }
    }

    /// An overflow told with the size of what was overrun.
    fn with_size(&self, step: &Step, error: Option<MemoryError>) -> Option<MemoryError> {
        let (Step::Read { region, .. }
        | Step::Write { region, .. }
        | Step::CreateRef { region, .. }) = step
        else {
            return error;
        };
        // One that names no region has failed for that.
        let Some(region) = self.region(*region) else { return error };
        with_size(&self.node.store, self.holder, region, error)
    }

    /// The region that an operand names.
    #[inline]
    pub(super) fn region(&self, operand: RegionOperand) -> Option<RegionId> {
        match operand {
            RegionOperand::Named(RegionName(name)) => Some(RegionId::from_raw(name)),
            RegionOperand::MadeBy(step) => match self.made[usize::from(step)] {
                Made::Region(region) => Some(region),
                _ => None,
            },
        }
    }

    /// The reference that an operand names, proven genuine, with at least `rights`.
    fn reference(&self, operand: RefOperand, rights: Rights) -> Result<Ref, MemoryError> {
        let reference = match operand {
            RefOperand::Argument(number) => {
                self.arguments.reference(number.into()).ok_or(MemoryError::Malformed)?
            }
            RefOperand::MadeBy(step) => match self.made[usize::from(step)] {
                Made::Ref(reference) | Made::Alias(reference) => {
                    // What the request itself took, it may end: `take` works without the right.
                    let missing = rights - reference.rights - Rights::DROP;
                    if !missing.is_empty() {
                        return Err(MemoryError::MissingRights { rights: missing });
                    }
                    return Ok(reference);
                }
                _ => return Err(MemoryError::Malformed),
            },
        };
        self.node.genuine(&reference, rights)?;
        Ok(reference)
    }

    fn alloc(&mut self, length: u64) -> StepResult {
        let region = self.node.store.alloc(self.holder, length).map_err(translate)?;
        Ok((Made::Region(region), length))
    }

    fn free(&mut self, operand: RegionOperand) -> StepResult {
        let region = self.region(operand).ok_or(MemoryError::Malformed)?;
        self.node.store.free(self.holder, region).map_err(translate)?;
        Ok((Made::Nothing, 0))
    }

    fn read(&mut self, operand: RegionOperand, offset: u64, length: u64) -> StepResult {
        let bytes = readable(self.body_bytes_max, length)?;
        let region = self.region(operand).ok_or(MemoryError::Malformed)?;
        let pin = self.node.store.pin(self.holder, region, offset, length).map_err(translate)?;
        self.snapshot = Some((pin, bytes));
        Ok((Made::Nothing, length))
    }

    fn read_ref(&mut self, operand: RefOperand, offset: u64, length: u64) -> StepResult {
        let bytes = readable(self.body_bytes_max, length)?;
        let reference = self.reference(operand, Rights::MAP)?;
        let start = within(&reference, offset, length)?;
        let pin = self.node.store.pin_ref(entry(&reference), start, length).map_err(translate)?;
        self.snapshot = Some((pin, bytes));
        Ok((Made::Nothing, length))
    }

    fn write(
        &mut self,
        operand: RegionOperand,
        offset: u64,
        bytes: &[u8],
        stage: Option<StageId>,
    ) -> StepResult {
        let region = self.region(operand).ok_or(MemoryError::Malformed)?;
        let store = &mut self.node.store;
        match stage {
            None => store.write(self.holder, region, offset, bytes).map_err(translate)?,
            Some(stage) => store.stage_commit(self.holder, stage).map_err(translate)?,
        }
        Ok((Made::Nothing, self.body_bytes))
    }

    fn create_ref(
        &mut self,
        operand: RegionOperand,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> StepResult {
        let region = self.region(operand).ok_or(MemoryError::Malformed)?;
        let store = &mut self.node.store;
        let entry = store.create_ref(self.holder, region, offset, length).map_err(translate)?;
        Ok((Made::Ref(self.node.sealed(entry, (0, length), rights)), length))
    }

    fn map_ref(&mut self, operand: RefOperand) -> StepResult {
        let reference = self.reference(operand, Rights::MAP)?;
        let Ref { offset, length, .. } = reference;
        let region = self
            .node
            .store
            .map_ref(self.holder, entry(&reference), offset, length, true)
            .map_err(translate)?;
        Ok((Made::Region(region), length))
    }

    fn claim_ref(&mut self, operand: RefOperand) -> StepResult {
        let reference = self.reference(operand, Rights::CONSUME)?;
        let claimed =
            self.node.store.claim_ref(self.holder, entry(&reference)).map_err(translate)?;
        self.node.detachments.remove(entry(&reference));
        let claimed =
            self.node.sealed(claimed, (reference.offset, reference.length), reference.rights);
        // The claimed one is this request's now: if the request fails later, it goes, because
        // nobody will ever have its name.
        for made in &mut self.made {
            if let Made::Ref(before) = *made
                && entry(&before) == entry(&reference)
            {
                *made = Made::Alias(before);
            }
        }
        Ok((Made::Ref(claimed), 0))
    }

    fn detach(&mut self, operand: RefOperand) -> StepResult {
        let reference = self.reference(operand, Rights::empty())?;
        let MemoryNode { store, detachments, .. } = &mut *self.node;
        if !detachments.may_add(self.holder, |index| store.detached_generation(index)) {
            let (resource, limit) = (Resource::Detached, detachments.limit());
            return Err(Some(MemoryError::Quota { resource, limit, wanted: limit + 1 }));
        }
        store.detach(self.holder, entry(&reference)).map_err(translate)?;
        detachments.add(self.holder, entry(&reference));
        Ok((Made::Nothing, 0))
    }

    fn drop_ref(&mut self, operand: RefOperand) -> StepResult {
        let reference = self.reference(operand, Rights::DROP)?;
        self.node.store.drop_ref(self.holder, entry(&reference)).map_err(translate)?;
        Ok((Made::Nothing, 0))
    }

    fn narrow(
        &mut self,
        operand: RefOperand,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> StepResult {
        let reference = self.reference(operand, Rights::NARROW)?;
        let missing = rights - reference.rights;
        if !missing.is_empty() {
            return Err(Some(MemoryError::MissingRights { rights: missing }));
        }
        let start = within(&reference, offset, length)?;
        // Whatever is behind it must still be there.
        self.node.store.ref_len(entry(&reference)).map_err(translate)?;
        Ok((Made::Alias(self.node.sealed(entry(&reference), (start, length), rights)), length))
    }

    /// Gives back what the steps so far have made.
    pub(super) fn undo(&mut self) {
        let store = &mut self.node.store;
        if let Some((pin, _)) = self.snapshot.take() {
            let _ = store.unpin(pin);
        }
        for made in self.made[..self.steps.into()].iter().rev() {
            // What a later step has ended already is not there any more: that is all right.
            match made {
                Made::Region(region) => drop(store.free(self.holder, *region)),
                Made::Ref(reference) => {
                    let entry = entry(reference);
                    // A detached one has to be owned again first.
                    if store.drop_ref(self.holder, entry) == Err(Error::NotOwner)
                        && let Ok(own) = store.claim_ref(self.holder, entry)
                    {
                        let _ = store.drop_ref(self.holder, own);
                        self.node.detachments.remove(entry);
                    }
                }
                Made::Nothing | Made::Alias(_) => {}
            }
        }
    }

    /// Fills in the answer of a request that succeeded. Returns the pin that it is made of, if it
    /// is.
    #[inline]
    pub(super) fn answer(self, reply: &mut Reply<'_>) -> Option<PinId> {
        let mut results = Results { references: heapless::Vec::new(), regions: [0; STEPS_MAX] };
        for (number, made) in self.made[..self.steps.into()].iter().enumerate() {
            match made {
                Made::Region(region) => results.regions[number] = region.raw(),
                Made::Ref(reference) | Made::Alias(reference) => {
                    let pushed = results.references.push(ArgEntry::Ref(*reference));
                    debug_assert!(pushed.is_ok(), "room for a reference a step");
                }
                Made::Nothing => {}
            }
        }
        let mut parameters = [0; STEPS_MAX * 8];
        for (name, bytes) in results.regions.iter().zip(parameters.as_chunks_mut::<8>().0) {
            *bytes = name.to_le_bytes();
        }
        let parameters = &parameters[..usize::from(self.steps) * 8];
        reply.head(Status::OK, &results.references, parameters);
        let (pin, bytes) = self.snapshot?;
        if bytes as usize > reply.inline_room() {
            reply.body_from(Source(pin.raw()), bytes);
            return Some(pin);
        }
        // Short enough to be kept with the answer: the snapshot need not outlive this.
        let store = &mut self.node.store;
        let read = reply.body_with(bytes as usize, |out| store.read_pin(pin, 0, out));
        let unpinned = store.unpin(pin);
        debug_assert!(read.is_ok() && unpinned.is_ok(), "pinned a moment ago");
        None
    }
}

/// What a step made and how many bytes it moved, or why not; `None` to try again later.
type StepResult = Result<(Made, u64), Option<MemoryError>>;

pub(super) fn entry(reference: &Ref) -> EntryId {
    EntryId { index: reference.index, generation: reference.generation }
}

/// The start, in the entry's range, of a range given relative to a reference.
pub(super) fn within(reference: &Ref, offset: u64, length: u64) -> Result<u64, MemoryError> {
    if length == 0 {
        return Err(MemoryError::ZeroLength);
    }
    let end = offset.checked_add(length);
    match end {
        Some(end) if end <= reference.length => Ok(reference.offset + offset),
        _ => Err(MemoryError::OutOfRange { end: end.unwrap_or(u64::MAX), size: reference.length }),
    }
}

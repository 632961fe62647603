//! Writes of several packets on their way in.

use super::failure::{Failure, translate};
use super::memory_node::MemoryNode;
use super::steps::Run;
use crate::endpoint::host::RequestHead;
use crate::memory::Memory;
use crate::store::{HolderId, PAGE_BYTES, RegionId, StageId, StagedRun};
use crate::wire::memory_op::{MemoryError, RegionName, RegionOperand, Resource, Step, Steps};

/// No transfer.
const NONE: u32 = u32::MAX;

/// A write of several packets on its way in.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// The staged bytes; `None` while the slot is free.
    pub(super) staged: Option<(HolderId, StageId)>,
    /// The region that step 0 made when the write was admitted.
    pub(super) made: Option<RegionId>,
    /// Pages that the staged bytes touch at most.
    pages: u64,
    /// Where bytes that come in belong, as far as it was looked up.
    run: StagedRun,
    /// Bytes that were written there.
    pub(super) placed: u64,
    /// The session that it is of.
    session: u32,
    /// The next free slot, while this one is free.
    next: u32,
}

impl Transfer {
    /// A free slot.
    pub const EMPTY: Self = Self {
        staged: None,
        made: None,
        pages: 0,
        run: StagedRun::EMPTY,
        placed: 0,
        session: 0,
        next: NONE,
    };
}

impl Default for Transfer {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// All of them. The slot that was freed last is the next to be taken.
pub(super) struct Transfers<'m> {
    slots: &'m mut [Transfer],
    free: u32,
}

impl<'m> Transfers<'m> {
    /// None yet.
    pub(super) fn new(slots: &'m mut [Transfer]) -> Self {
        let mut transfers = Self { slots, free: NONE };
        for index in (0..transfers.slots.len()).rev() {
            transfers.put(index);
        }
        transfers
    }

    fn put(&mut self, index: usize) {
        self.slots[index] = Transfer { next: self.free, ..Transfer::EMPTY };
        self.free = index as u32;
    }

    fn has_room(&self) -> bool {
        self.free != NONE
    }

    /// Puts a transfer into a free slot. Returns which; `None` without one.
    fn begin(&mut self, transfer: Transfer) -> Option<usize> {
        let index = self.free as usize;
        let slot = self.slots.get_mut(index)?;
        self.free = slot.next;
        *slot = transfer;
        Some(index)
    }

    /// What is in a slot.
    #[inline]
    pub(super) fn get(&self, index: usize) -> &Transfer {
        &self.slots[index]
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> &mut Transfer {
        &mut self.slots[index]
    }

    /// Forgets where bytes of a holder's belong, whose frames will be others'.
    pub(super) fn forget_places(&mut self, holder: HolderId) {
        for transfer in self.slots.iter_mut() {
            if transfer.staged.is_some_and(|(of, _)| of == holder) {
                transfer.run = StagedRun::EMPTY;
            }
        }
    }
}

impl<M: Memory> MemoryNode<'_, M> {
    /// Whether a session may stage so many pages now; an error if it never may.
    fn may_stage(&self, step: u8, session: u32, pages: u64) -> Result<bool, Failure> {
        let limit = self.staged_pages_max;
        if pages > limit {
            let resource = Resource::StagedPages;
            let error = MemoryError::Quota { resource, limit, wanted: pages };
            return Err(Failure::refused(step, error));
        }
        let entry = &self.sessions[session as usize];
        Ok(pages <= limit.saturating_sub(entry.staged_pages)
            && (entry.transfers as usize) < self.transfers_max)
    }

    /// Frees the slot of a transfer, if it is in use, and returns what was in it.
    pub(super) fn end_transfer(&mut self, index: usize) -> Option<Transfer> {
        let transfer = *self.transfers.get(index);
        let (holder, _) = transfer.staged?;
        let entry = &mut self.sessions[transfer.session as usize];
        // The session may have ended meanwhile, and another begun in its place.
        if entry.holder == Some(holder) {
            entry.transfers -= 1;
            entry.staged_pages -= transfer.pages;
        }
        self.transfers.put(index);
        Some(transfer)
    }

    /// Takes in bytes of a transfer, wherever they belong.
    #[inline]
    pub(super) fn absorb_in_transfer(&mut self, index: usize, offset: u64, bytes: &[u8]) {
        let Some((holder, stage)) = self.transfers.get(index).staged else { return };
        if !bytes.is_empty() {
            // A holder that has left took the stage with it; the commit will say so.
            let _ = self.store.stage_write(holder, stage, offset, bytes);
        }
    }

    /// Where bytes of a transfer belong, if they lie together and nobody else uses the pool.
    #[inline]
    pub(super) fn place_in_transfer(
        &mut self,
        index: usize,
        offset: u64,
        bytes: u64,
    ) -> Option<&mut [u8]> {
        let transfer = self.transfers.get_mut(index);
        if !transfer.run.has(offset, bytes) {
            if self.store.memory().shared() {
                return None;
            }
            let (holder, stage) = transfer.staged?;
            transfer.run = self.store.stage_run(holder, stage, offset).unwrap_or_default();
        }
        self.store.staged_bytes(&transfer.run, offset, bytes)
    }

    /// Tells the store how many bytes of a transfer were written to their places.
    pub(super) fn count_placed(&mut self, transfer: &Transfer) {
        let Some((holder, stage)) = transfer.staged else { return };
        // As in `absorb_in_transfer`.
        let _ = self.store.stage_placed(holder, stage, transfer.placed);
    }

    /// Makes the bytes of a transfer appear, and ends it, whether they do or not.
    ///
    /// # Errors
    /// Why they do not; `None` to try again later.
    pub(super) fn commit_transfer(
        &mut self,
        holder: HolderId,
        index: usize,
    ) -> Result<(), Option<MemoryError>> {
        let transfer = *self.transfers.get(index);
        let (_, stage) = transfer.staged.ok_or(MemoryError::Malformed)?;
        self.count_placed(&transfer);
        let committed = self.store.stage_commit(holder, stage);
        match committed {
            Ok(()) => {
                self.end_transfer(index);
            }
            Err(_) => self.drop_transfer(index),
        }
        committed.map_err(translate)
    }

    /// Prepares for the body of a write of several packets: makes what step 0 makes, if the write
    /// goes there, and stages the bytes.
    pub(super) fn admit_write(
        &mut self,
        head: &RequestHead<'_>,
        body_bytes: u32,
    ) -> Result<Option<usize>, Failure> {
        let steps = Steps::parse(head.arguments.parameters()).map_err(|_| Failure::MALFORMED)?;
        let write = steps.iter().enumerate().find_map(|(number, step)| match step {
            Step::Write { region, offset } => Some((number as u8, region, offset)),
            _ => None,
        });
        let (number, region, offset) = write.ok_or(Failure::MALFORMED)?;
        if !self.transfers.has_room() {
            return Ok(None);
        }
        let holder = self.holder_of(head.call.session)?;
        // One more than the bytes fill, for a range that begins within a page.
        let pages = u64::from(body_bytes).div_ceil(PAGE_BYTES) + 1;
        let session = head.call.session.index;
        if !self.may_stage(number, session, pages)? {
            return Ok(None);
        }
        let (region, made) = match region {
            RegionOperand::Named(RegionName(name)) => (RegionId::from_raw(name), None),
            RegionOperand::MadeBy(0) => {
                let first = steps.iter().next().ok_or(Failure::MALFORMED)?;
                if !matches!(first, Step::Alloc { .. } | Step::MapRef { .. }) {
                    return Err(Failure::MALFORMED);
                }
                let mut run = Run::new(self, holder, head.arguments, 0);
                run.make_first(&first)?;
                let made = run.region(RegionOperand::MadeBy(0)).ok_or(Failure::MALFORMED)?;
                (made, Some(made))
            }
            // Only what step 0 makes exists before the body is here.
            RegionOperand::MadeBy(_) => return Err(Failure::MALFORMED),
        };
        match self.store.stage_begin(holder, region, offset, body_bytes.into()) {
            Ok(stage) => {
                let staged = Some((holder, stage));
                let transfer = Transfer { staged, made, pages, session, ..Transfer::EMPTY };
                let entry = &mut self.sessions[session as usize];
                entry.transfers += 1;
                entry.staged_pages += pages;
                Ok(self.transfers.begin(transfer))
            }
            Err(error) => {
                let failure = Failure::of_region(number, error, &self.store, holder, region);
                if let Some(made) = made {
                    // It was made a moment ago by the same holder.
                    let _ = self.store.free(holder, made);
                }
                Err(failure)
            }
        }
    }

    /// Forgets a transfer and what was made for it.
    pub(super) fn drop_transfer(&mut self, index: usize) {
        let Some(transfer) = self.end_transfer(index) else { return };
        let Some((holder, stage)) = transfer.staged else { return };
        // A holder that has left took both with it.
        let _ = self.store.stage_abort(holder, stage);
        if let Some(made) = transfer.made {
            let _ = self.store.free(holder, made);
        }
    }
}

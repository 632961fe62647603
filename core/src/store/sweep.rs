//! Holders that left: freeing what is theirs.
//!
//! There is no list of what a holder has: that would be one more thing to keep right through
//! deaths, and references change hands between participants. The tables are swept instead, once
//! for all holders that wait: regions and staged writes at once, references after the grace.

use super::entry::{End, Word};
use super::ids::HolderId;
use super::records::{
    LINK, STATE_BITS, STATE_EXPIRING, STATE_FREE, STATE_GRACE, STATE_LEAVING, STATE_LIVE,
    STATE_SWEEPING, Table, WORD, holder, region, stage, superblock,
};
use super::{Memory, Store};

/// Records that one step looks at.
const LOOKS_MAX: u32 = 64;
/// Records that one step frees.
const FREES_MAX: u32 = 8;
/// Frames that could be given back instead of ending one region or reference.
const FREE_COSTS: u32 = 4;

/// What is being swept, as the pool has it.
mod phase {
    pub(super) const NONE: u32 = 0;
    pub(super) const REGIONS: u32 = 1;
    pub(super) const STAGES: u32 = 2;
    /// Holders go on to their grace.
    pub(super) const TO_GRACE: u32 = 3;
    pub(super) const ENTRIES: u32 = 4;
    /// Holders are freed.
    pub(super) const TO_FREE: u32 = 5;
}

impl<M: Memory> Store<M> {
    /// One step for the holders that left; false if there was nothing to do.
    pub(super) fn sweep_step(&mut self) -> bool {
        match self.mem.load_u32(superblock::SWEEP) {
            phase::NONE => return self.begin_sweep(),
            phase::REGIONS => {
                let done = self.sweep_table(self.lay.regions, Self::sweep_region);
                self.next_phase(done, phase::STAGES);
            }
            phase::STAGES => {
                let done = self.sweep_table(self.lay.stages, Self::sweep_stage);
                self.next_phase(done, phase::TO_GRACE);
            }
            phase::TO_GRACE => {
                let done = self.holder_to_grace();
                self.next_phase(done, phase::NONE);
            }
            phase::ENTRIES => {
                let done = self.sweep_table(self.lay.entries, Self::sweep_entry);
                self.next_phase(done, phase::TO_FREE);
            }
            _ => {
                let done = self.free_holder();
                self.next_phase(done, phase::NONE);
            }
        }
        true
    }

    fn next_phase(&mut self, done: bool, phase: u32) {
        if done {
            self.set_u32(superblock::SWEEP_CURSOR, 0);
            self.set_u32(superblock::SWEEP, phase);
            self.close();
        }
    }

    /// Takes a step for the holders that left since the last look; false if there are none. They
    /// come from a stack, who left last first, and queue up in the order in which they left, which
    /// is that of the ends of their graces.
    fn collect_left(&mut self) -> bool {
        let is_empty = |store: &Self, list: u64| store.mem.load_u32(list) == 0;
        if is_empty(self, superblock::LEFT_DRAINED) && is_empty(self, superblock::LEFT_TURNED) {
            self.drain(superblock::LEFT, superblock::LEFT_DRAINED);
        }
        let is_turned = is_empty(self, superblock::LEFT_DRAINED);
        let list = if is_turned { superblock::LEFT_TURNED } else { superblock::LEFT_DRAINED };
        let Some(index) = self.mem.load_u32(list).checked_sub(1) else { return false };
        let link = self.at(self.lay.holders, index) + LINK;
        let next = self.mem.load_u32(link);
        self.set_u32(list, next);
        if is_turned || next == 0 {
            self.set_state(index, STATE_SWEEPING);
            self.enqueue(self.lay.holders, superblock::SWEEP_QUEUE, index);
        } else {
            self.set_u32(link, self.mem.load_u32(superblock::LEFT_TURNED));
            self.set_u32(superblock::LEFT_TURNED, index + 1);
        }
        self.close();
        true
    }

    /// Collects who waits, one holder a step, then begins; false if nobody does.
    fn begin_sweep(&mut self) -> bool {
        if self.collect_left() {
            return true;
        }
        if let Some(first) = self.first(superblock::SWEEP_QUEUE) {
            // Most who leave alone have nothing left: no need to look through the tables.
            let at = self.at(self.lay.holders, first);
            let empty = self.mem.load_u32(at + holder::REGION_COUNT) == 0
                && self.mem.load_u32(at + holder::STAGE_COUNT) == 0;
            if empty {
                self.holder_to_grace();
            } else {
                self.next_phase(true, phase::REGIONS);
            }
            return true;
        }
        if let Some(index) = self.expired() {
            self.dequeue(self.lay.holders, superblock::GRACE_QUEUE, index);
            self.set_state(index, STATE_EXPIRING);
            self.enqueue(self.lay.holders, superblock::EXPIRE_QUEUE, index);
            self.close();
            return true;
        }
        if let Some(first) = self.first(superblock::EXPIRE_QUEUE) {
            if self.entries_of(self.at(self.lay.holders, first)) == 0 {
                self.free_holder();
            } else {
                self.next_phase(true, phase::ENTRIES);
            }
            return true;
        }
        false
    }

    fn state_of(&self, index: u32) -> u64 {
        self.mem.load_u64(self.at(self.lay.holders, index) + WORD) & ((1 << STATE_BITS) - 1)
    }

    fn set_state(&mut self, index: u32, state: u64) {
        let at = self.at(self.lay.holders, index) + WORD;
        let generation = self.mem.load_u64(at) >> STATE_BITS;
        self.set_u64(at, generation << STATE_BITS | state);
    }

    /// Looks at the next records of a table and frees those that `f` says; whether that was all.
    fn sweep_table(&mut self, table: Table, f: impl Fn(&mut Self, u32) -> bool) -> bool {
        let (first, high) = (self.mem.load_u32(superblock::SWEEP_CURSOR), self.high(table));
        let end = high.min(first.saturating_add(LOOKS_MAX));
        let (mut index, mut freed) = (first, 0);
        while index < end && freed < FREES_MAX {
            freed += u32::from(f(self, index));
            index += 1;
        }
        self.spend(freed * FREE_COSTS, index - first);
        // Whoever dies before this looks at the same records again.
        self.mem.store_u32(superblock::SWEEP_CURSOR, index);
        index >= high
    }

    fn is_live(&self, at: u64) -> bool {
        self.mem.load_u64(at + WORD) & ((1 << STATE_BITS) - 1) == STATE_LIVE
    }

    fn sweep_region(&mut self, index: u32) -> bool {
        let at = self.at(self.lay.regions, index);
        let holder = self.mem.load_u32(at + region::HOLDER);
        let theirs = self.is_live(at) && self.state_of(holder) == STATE_SWEEPING;
        if theirs {
            self.end_region(index);
        }
        theirs
    }

    fn sweep_stage(&mut self, index: u32) -> bool {
        let at = self.at(self.lay.stages, index);
        let holder = self.mem.load_u32(at + stage::HOLDER);
        let theirs = self.is_live(at) && self.state_of(holder) == STATE_SWEEPING;
        if theirs {
            self.abort_stage(index);
        }
        theirs
    }

    fn sweep_entry(&mut self, index: u32) -> bool {
        let at = self.at(self.lay.entries, index);
        let word = Word(self.mem.load_u64(at + WORD));
        let Some(owner) = word.holder().filter(|_| word.state() != STATE_FREE) else {
            return false;
        };
        if self.state_of(owner) != STATE_EXPIRING {
            return false;
        }
        // One that its owner was ending when it died is nobody else's any more.
        if word.state() == STATE_LIVE && !self.begin_end(at, word) {
            return false;
        }
        if word.state() != STATE_LIVE && word.state() != STATE_LEAVING {
            self.corrupt.set(true);
            return false;
        }
        self.end_entry(index, End::Expired);
        true
    }

    /// Sends the first of the holders without regions to its grace, or past it if it has no
    /// reference to outlive it: clients that come and go must not use up the table. Whether it was
    /// the last.
    fn holder_to_grace(&mut self) -> bool {
        if let Some(index) = self.first(superblock::SWEEP_QUEUE) {
            self.dequeue(self.lay.holders, superblock::SWEEP_QUEUE, index);
            let (state, queue) = if self.entries_of(self.at(self.lay.holders, index)) == 0 {
                (STATE_EXPIRING, superblock::EXPIRE_QUEUE)
            } else {
                (STATE_GRACE, superblock::GRACE_QUEUE)
            };
            self.set_state(index, state);
            self.enqueue(self.lay.holders, queue, index);
            self.close();
        }
        self.first(superblock::SWEEP_QUEUE).is_none()
    }

    /// Frees the first of the holders without references; whether it was the last.
    fn free_holder(&mut self) -> bool {
        if let Some(index) = self.first(superblock::EXPIRE_QUEUE) {
            self.dequeue(self.lay.holders, superblock::EXPIRE_QUEUE, index);
            self.put_record(self.lay.holders, index);
            self.close();
        }
        self.first(superblock::EXPIRE_QUEUE).is_none()
    }

    /// Whether a holder left and nobody has taken note of it yet.
    pub(super) fn is_leaving(&self, index: u32) -> bool {
        self.state_of(index) == STATE_LEAVING
    }

    /// The live holder in a slot, if there is one.
    pub(super) fn live_holder(&self, index: u32) -> Option<HolderId> {
        let word = self.mem.load_u64(self.at(self.lay.holders, index) + WORD);
        let live = word & ((1 << STATE_BITS) - 1) == STATE_LIVE;
        live.then(|| HolderId::new(index, word >> STATE_BITS))
    }
}

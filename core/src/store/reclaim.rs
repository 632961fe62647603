//! Freeing, a bounded step at a time. Nothing else in the store does unbounded work.
//!
//! Participant 0 frees for all; the others hand their versions and holders to it.

use super::dead::Item;
use super::family::Fate;
use super::layout::{FAN_OUT, FAN_OUT_SHIFT};
use super::participant::RECLAIMER;
use super::records::{LINK, count, holder, superblock, version as field};
use super::{Memory, Store};
use crate::time::Instant;

/// Units of freeing that a memory node does between two polls: some 10 microseconds, so that the
/// latency of others hardly shows it. A unit is up to about 300 instructions.
pub const RECLAIM_UNITS_A_POLL: u32 = 192;

/// Units that one step costs at most: a node with 64 frames below it, found in a tree of the
/// largest region.
pub const STEP_UNITS_MAX: u32 = 48;

/// Frames or nodes given back for a unit.
const FREES_A_UNIT: u32 = 2;
/// Links or records looked at for a unit.
pub(super) const LOOKS_A_UNIT: u32 = 32;

/// Kinds of work: versions, aborted staged writes, holders that left.
const QUEUES: u32 = 3;

impl<M: Memory> Store<M> {
    /// Whether there is work for [`Store::reclaim`] now, or what it freed is on its way to others.
    /// References whose owner left and whose grace still runs are not work yet.
    #[inline]
    pub fn pending(&self) -> bool {
        // Work goes from link to link while they are looked at, and is in none of them when the
        // reclaimer has it, alive or dead: what was seen counts only if no turn was under way.
        let turns = self.mem.load_u64(superblock::TURNS);
        turns & 1 != 0 || self.is_work_linked() || self.mem.load_u64(superblock::TURNS) != turns
    }

    #[inline]
    fn is_work_linked(&self) -> bool {
        let links = [
            superblock::CURRENT,
            superblock::DRAINED,
            superblock::SWEEP,
            superblock::LEFT_DRAINED,
            superblock::LEFT_TURNED,
            superblock::SWEEP_QUEUE,
            superblock::EXPIRE_QUEUE,
            superblock::ABORT_QUEUE,
        ];
        let stacks = [superblock::WORK, superblock::LEFT];
        links.iter().any(|link| self.mem.load_u32(*link) != 0)
            || stacks.iter().any(|stack| self.mem.load_u64(*stack) != 0)
            || self.expired().is_some()
    }

    /// The first holder whose grace is over.
    pub(super) fn expired(&self) -> Option<u32> {
        let index = self.first(superblock::GRACE_QUEUE)?;
        let expiry = self.mem.load_u64(self.at(self.lay.holders, index) + holder::EXPIRY);
        (expiry <= self.now().as_nanos()).then_some(index)
    }

    /// Does about `budget` units of freeing and returns how many it did, at most `budget`; fewer
    /// mean that no more is to be done. Work is done in steps, of which the last may begin with one
    /// unit left: each costs at most [`STEP_UNITS_MAX`]. A step frees a few region or reference
    /// records, or looks at one node or chunk: at most 64 entries of it, and 63 links on each level
    /// above.
    ///
    /// # Panics
    /// If a step costs more than it may: that would be an error here.
    ///
    /// `now` lets references expire whose owner's grace is over. A participant other than the
    /// first only returns what its caches have too much of; that is no step.
    pub fn reclaim(&mut self, now: Instant, budget: u32) -> u32 {
        let mut done = 0;
        let turn = if self.me == RECLAIMER {
            self.advance(now);
            let turn = self.begin_turn();
            // Operations may free a little themselves: that is not this call's.
            self.spent = 0;
            while done < budget && self.reclaim_step() {
                let spent = core::mem::take(&mut self.spent);
                assert!(spent < STEP_UNITS_MAX, "a step of {spent} units");
                done = budget.min(done + 1 + spent);
            }
            turn
        } else {
            None
        };
        self.balance();
        if let Some(next) = turn {
            self.mem.store_u64(superblock::TURNS, next);
        }
        // What made no sense was not touched, and is nobody's fault who could be told here.
        self.corrupt.set(false);
        done
    }

    /// Says that the reclaimer is at work, if others look at it and there is some: what to say when
    /// that is over and what was freed is theirs.
    fn begin_turn(&self) -> Option<u64> {
        if !self.mem.shared() || !self.pending() {
            return None;
        }
        // Odd already if an earlier life of the reclaimer died at work.
        let turn = self.mem.load_u64(superblock::TURNS) | 1;
        self.mem.store_u64(superblock::TURNS, turn);
        Some(turn.wrapping_add(1))
    }

    /// Notes that the step that runs gives back so many frames or nodes and looks at so many links
    /// or records, beside the little that every step does.
    pub(super) fn spend(&mut self, frees: u32, looks: u32) {
        let units = frees / FREES_A_UNIT + looks / LOOKS_A_UNIT;
        self.spent = self.spent.saturating_add(units);
    }

    /// One step; false if there was nothing to do. The queues take turns, so that none of them
    /// waits for ever behind another that is never empty.
    fn reclaim_step(&mut self) -> bool {
        for turn in 1..=QUEUES {
            let queue = (self.turn + turn) % QUEUES;
            let worked = match queue {
                0 => self.version_queue_step(),
                1 => self.abort_queue_step(),
                _ => self.sweep_step(),
            };
            if worked {
                self.turn = queue;
                return true;
            }
        }
        false
    }

    fn abort_queue_step(&mut self) -> bool {
        let Some(stage) = self.first(superblock::ABORT_QUEUE) else { return false };
        if self.abort_step(stage) {
            // Its link in the queue is needed for the free list: out of the queue first.
            self.dequeue(self.lay.stages, superblock::ABORT_QUEUE, stage);
            self.put_record(self.lay.stages, stage);
            self.close();
        }
        true
    }

    /// One step for the version that is being worked on, or for the next one that waits.
    fn version_queue_step(&mut self) -> bool {
        let version = match self.mem.load_u32(superblock::CURRENT).checked_sub(1) {
            Some(version) => version,
            None => match self.next_version() {
                Some(version) => version,
                None => return false,
            },
        };
        self.version_step(version);
        true
    }

    /// Takes the next version that waits.
    fn next_version(&mut self) -> Option<u32> {
        if self.mem.load_u32(superblock::DRAINED) == 0 {
            self.drain(superblock::WORK, superblock::DRAINED);
        }
        let version = self.mem.load_u32(superblock::DRAINED).checked_sub(1)?;
        let at = self.version_at(version);
        let next = self.mem.load_u32(at + LINK);
        self.set_u32(superblock::DRAINED, next);
        self.set_u32(superblock::CURRENT, version.wrapping_add(1));
        self.decide(at + field::COUNT, |_, word| Some(word & !count::QUEUED));
        self.close();
        Some(version)
    }

    /// Takes all that is on a stack: its first link goes to `drained`, which is empty.
    pub(super) fn drain(&mut self, stack: u64, drained: u64) {
        let mut first = self.mem.load_u64(stack);
        while first != 0 {
            // Recovery finds out whether both have it, and empties this one then.
            self.mem.store_u32(drained, first as u32);
            match self.mem.compare_exchange_u64(stack, first, 0) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }

    /// Puts the current version back into the queue, because a writer is at it.
    fn defer(&mut self, version: u32) {
        self.queue_version(version);
        self.mem.store_u32(superblock::CURRENT, 0);
    }

    /// One step for a version.
    fn version_step(&mut self, version: u32) {
        let at = self.version_at(version);
        if self.mem.load_u32(at + field::PENDING) != 0 {
            if !self.seize(version) {
                return self.defer(version);
            }
            let threshold = self.mem.load_u64(at + field::THRESHOLD);
            self.spend(FAN_OUT, 0);
            self.sort_chunk(at + field::PENDING, at + field::DEAD, threshold);
            self.close();
            return self.let_go();
        }
        let fate = self.fate(version);
        if fate != Fate::Lives && self.count(version).has(count::QUEUED) {
            // It changed since it was taken from the queue, and comes again: not to be freed
            // while it waits there.
            return self.mem.store_u32(superblock::CURRENT, 0);
        }
        match fate {
            Fate::Dead => {
                if self.mem.load_u32(at + field::ROOT) != 0 {
                    self.walk_step(at);
                } else if self.mem.load_u32(at + field::DEAD) != 0 {
                    self.drop_chunk(at + field::DEAD);
                } else {
                    return self.end_version(version);
                }
                self.close();
            }
            Fate::Merge(child) => self.merge_step(version, child),
            Fate::Childless => {
                self.mem.store_u32(superblock::CURRENT, 0);
                self.unmark_forked(version);
            }
            Fate::Lives => self.mem.store_u32(superblock::CURRENT, 0),
        }
    }

    /// Merges a version into its only child, unless that is about to be freed: its walk relies
    /// on its threshold, and its parent is looked at again when it is gone.
    fn merge_step(&mut self, version: u32, child: u32) {
        if self.count(child).dead() {
            return self.mem.store_u32(superblock::CURRENT, 0);
        }
        if !self.seize(child) {
            return self.defer(version);
        }
        // Whoever was making the child is done now, and has said what there was to say.
        if self.fate(version) == Fate::Merge(child) && !self.count(version).has(count::QUEUED) {
            self.merge(version, child);
        } else {
            self.mem.store_u32(superblock::CURRENT, 0);
        }
        self.let_go();
    }

    /// One step of freeing the tree of a version that nobody can see any more: its next node, or
    /// the frame of a region of one page. What is not its own is somebody else's still. The walk
    /// goes from the last page to the first (pages are counted from the end here), because free
    /// frames are stacks: a region that is written later gets them in order, in one run.
    fn walk_step(&mut self, at: u64) {
        let threshold = self.mem.load_u64(at + field::THRESHOLD);
        let mut level = self.depth(at);
        let mut page = self.mem.load_u64(at + field::CURSOR);
        let mut link_at = at + field::ROOT;
        let root = self.mem.load_u32(link_at).wrapping_sub(1);
        let item = if level == 0 { Item::Frame(root) } else { Item::Node(root) };
        if !self.is_own(item, threshold) || level == 0 {
            self.set_u32(link_at, 0);
            if self.is_own(item, threshold) {
                self.put_stamped(self.lay.frames, root);
            }
            return;
        }
        let mut node = root;
        while level > 1 {
            let Some((slot, child, skipped)) = self.next_own_child(node, level, page, threshold)
            else {
                break;
            };
            self.spend(0, skipped as u32 + LOOKS_A_UNIT);
            if skipped != 0 {
                let shift = FAN_OUT_SHIFT * (level - 1);
                page = ((page >> shift) + skipped) << shift;
            }
            (link_at, node) = (slot, child);
            level -= 1;
        }
        if level == 1 {
            let frees = self.put_own_frames(node, threshold);
            self.spend(frees, FAN_OUT);
        }
        self.set_u64(at + field::CURSOR, page);
        self.set_u32(link_at, 0);
        self.put_stamped(self.lay.nodes, node);
    }

    fn is_own(&self, item: Item, threshold: u64) -> bool {
        match item {
            Item::Frame(frame) => self.frame_stamp(frame) > threshold,
            Item::Node(node) => self.node_stamp(node) > threshold,
        }
    }

    /// The next node below `node`, from the position of `page` on, counted from the end, that is
    /// the version's own: the place of its link, its index, and how many positions were skipped.
    fn next_own_child(
        &self,
        node: u32,
        level: u32,
        page: u64,
        threshold: u64,
    ) -> Option<(u64, u32, u64)> {
        let first = super::tree::position(page, level);
        for position in first..u64::from(FAN_OUT) {
            let slot = self.node_at(node) + 4 * (u64::from(FAN_OUT) - 1 - position);
            if let Some(child) = self.mem.load_u32(slot).checked_sub(1)
                && self.node_stamp(child) > threshold
            {
                return Some((slot, child, position - first));
            }
        }
        None
    }

    /// Gives back the frames below a node that are the version's own, the last first: they are
    /// taken again in the order of their pages, so that what was written together lies together
    /// the next time, too. How many there were.
    fn put_own_frames(&mut self, node: u32, threshold: u64) -> u32 {
        let mut frees = 0;
        for position in (0..FAN_OUT).rev() {
            let link = self.mem.load_u32(self.node_at(node) + 4 * u64::from(position));
            if let Some(frame) = link.checked_sub(1)
                && self.frame_stamp(frame) > threshold
            {
                self.put_stamped(self.lay.frames, frame);
                frees += 1;
            }
        }
        frees
    }
}

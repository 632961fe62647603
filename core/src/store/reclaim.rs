//! Freeing, a bounded step at a time. Nothing else in the store does unbounded work.

use super::dead::Item;
use super::entry::End;
use super::layout::{FAN_OUT, FAN_OUT_SHIFT};
use super::records::{holder, superblock, version as field};
use super::{Memory, Store};
use crate::time::Instant;

/// Queues of things to be freed.
const QUEUES: u32 = 4;

impl<M: Memory> Store<M> {
    /// Whether there is work for [`Store::reclaim`] now. References whose owner left and whose
    /// grace still runs are not work yet.
    #[inline]
    pub fn pending(&self) -> bool {
        let queues =
            [superblock::VERSION_QUEUE, superblock::LEAVING_QUEUE, superblock::ABORT_QUEUE];
        queues.iter().any(|queue| self.mem.load_u32(*queue) != 0) || self.expired().is_some()
    }

    /// The first holder whose grace is over.
    fn expired(&self) -> Option<u32> {
        let index = self.first(superblock::GRACE_QUEUE)?;
        let expiry = self.mem.load_u64(self.lay.holders.at(index) + holder::EXPIRY);
        (expiry <= self.now().as_nanos()).then_some(index)
    }

    /// Does at most `budget` steps of freeing and returns how many it did; fewer mean that no
    /// more is to be done. A step frees one region or reference record, or looks at one node or
    /// chunk: at most 64 entries of it, and 63 links on each level above.
    ///
    /// `now` lets references expire whose owner's grace is over.
    pub fn reclaim(&mut self, now: Instant, budget: u32) -> u32 {
        self.advance(now);
        let mut done = 0;
        while done < budget && self.reclaim_step() {
            done += 1;
        }
        done
    }

    /// One step; false if there was nothing to do. The queues take turns, so that none of them
    /// waits for ever behind another that is never empty.
    fn reclaim_step(&mut self) -> bool {
        for turn in 1..=QUEUES {
            let queue = (self.turn + turn) % QUEUES;
            if self.queue_step(queue) {
                self.turn = queue;
                return true;
            }
        }
        false
    }

    /// One step for one of the queues; false if it is empty.
    fn queue_step(&mut self, queue: u32) -> bool {
        let first = match queue {
            0 => self.first(superblock::VERSION_QUEUE),
            1 => self.first(superblock::ABORT_QUEUE),
            2 => self.first(superblock::LEAVING_QUEUE),
            _ => self.expired(),
        };
        let Some(first) = first else { return false };
        match queue {
            0 => self.version_step(first),
            1 => self.abort_queue_step(first),
            2 => self.leave_step(first),
            _ => self.expire_step(first),
        }
        true
    }

    fn abort_queue_step(&mut self, stage: u32) {
        if self.abort_step(stage) {
            // Its link in the queue is needed for the free list: out of the queue first.
            self.dequeue(self.lay.stages, superblock::ABORT_QUEUE, stage);
            self.put_record(self.lay.stages, stage);
        }
    }

    /// Frees one thing of a holder that left; with none left, its grace begins.
    fn leave_step(&mut self, index: u32) {
        let at = self.lay.holders.at(index);
        if let Some(region) = self.mem.load_u32(at + holder::REGIONS).checked_sub(1) {
            self.end_region(region);
        } else if let Some(stage) = self.mem.load_u32(at + holder::STAGES).checked_sub(1) {
            self.abort_stage(stage);
        } else {
            self.dequeue(self.lay.holders, superblock::LEAVING_QUEUE, index);
            self.enqueue(self.lay.holders, superblock::GRACE_QUEUE, index);
        }
    }

    /// Ends one reference of a holder whose grace is over; with none left, the holder.
    fn expire_step(&mut self, index: u32) {
        let at = self.lay.holders.at(index);
        if let Some(entry) = self.mem.load_u32(at + holder::ENTRIES).checked_sub(1) {
            self.end_entry(entry, End::Expired);
        } else {
            self.dequeue(self.lay.holders, superblock::GRACE_QUEUE, index);
            self.put_record(self.lay.holders, index);
        }
    }

    /// One step for the version at the head of the queue.
    fn version_step(&mut self, version: u32) {
        let at = self.version_at(version);
        if self.mem.load_u32(at + field::PENDING) != 0 {
            let threshold = self.mem.load_u64(at + field::THRESHOLD);
            self.sort_chunk(at + field::PENDING, at + field::DEAD, threshold);
            return;
        }
        let count = self.count(version);
        if count.dead() {
            if self.mem.load_u32(at + field::ROOT) != 0 {
                self.walk_step(at);
            } else if self.mem.load_u32(at + field::DEAD) != 0 {
                self.drop_chunk(at + field::DEAD);
            } else {
                self.unqueue_version(version);
                self.end_version(version);
            }
            return;
        }
        self.unqueue_version(version);
        if count.holders() == 0 && count.children() == 1 {
            let child = self.mem.load_u32(at + field::CHILD) - 1;
            // A child that is about to be freed is not merged into: its walk relies on its
            // threshold, and its parent is looked at again when it is gone.
            if !self.count(child).dead() {
                self.merge(version, child);
            }
        }
    }

    /// One step of freeing the tree of a version that nobody can see any more: its next node, or
    /// the frame of a region of one page. What is not its own is somebody else's still.
    fn walk_step(&mut self, at: u64) {
        let threshold = self.mem.load_u64(at + field::THRESHOLD);
        let mut level = self.mem.load_u32(at + field::DEPTH);
        let mut page = self.mem.load_u64(at + field::CURSOR);
        let mut link_at = at + field::ROOT;
        let root = self.mem.load_u32(link_at) - 1;
        let item = if level == 0 { Item::Frame(root) } else { Item::Node(root) };
        if !self.is_own(item, threshold) || level == 0 {
            self.mem.store_u32(link_at, 0);
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
            if skipped != 0 {
                let shift = FAN_OUT_SHIFT * (level - 1);
                page = ((page >> shift) + skipped) << shift;
            }
            (link_at, node) = (slot, child);
            level -= 1;
        }
        if level == 1 {
            self.put_own_frames(node, threshold);
        }
        // The link goes first: a node that is free must not be reached again.
        self.mem.store_u64(at + field::CURSOR, page);
        self.mem.store_u32(link_at, 0);
        self.put_stamped(self.lay.nodes, node);
    }

    fn is_own(&self, item: Item, threshold: u64) -> bool {
        match item {
            Item::Frame(frame) => self.frame_stamp(frame) > threshold,
            Item::Node(node) => self.node_stamp(node) > threshold,
        }
    }

    /// The next node below `node`, from the position of `page` on, that is the version's own:
    /// the place of its link, its index, and how many positions were skipped.
    fn next_own_child(
        &self,
        node: u32,
        level: u32,
        page: u64,
        threshold: u64,
    ) -> Option<(u64, u32, u64)> {
        let first = super::tree::position(page, level);
        for position in first..u64::from(FAN_OUT) {
            let slot = self.node_at(node) + 4 * position;
            if let Some(child) = self.mem.load_u32(slot).checked_sub(1)
                && self.node_stamp(child) > threshold
            {
                return Some((slot, child, position - first));
            }
        }
        None
    }

    fn put_own_frames(&mut self, node: u32, threshold: u64) {
        for position in 0..FAN_OUT {
            let link = self.mem.load_u32(self.node_at(node) + 4 * u64::from(position));
            if let Some(frame) = link.checked_sub(1)
                && self.frame_stamp(frame) > threshold
            {
                self.put_stamped(self.lay.frames, frame);
            }
        }
    }
}

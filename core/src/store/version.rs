//! Versions: the root of a tree, the number under which things in it are made, and one count.

use super::error::{Error, Resource, Result};
use super::records::{COUNT_BITS, LINK, region, stamp, superblock, version as field};
use super::{Memory, Store};

/// Holders and children of a version, as its count word has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) u64);

/// One holder in a count word.
const HOLDER: u64 = 1;
/// One child in a count word.
const CHILD: u64 = 1 << COUNT_BITS;
/// The holders in a count word.
const HOLDERS: u64 = CHILD - 1;
/// Holders and children.
const COUNTS: u64 = (1 << (2 * COUNT_BITS)) - 1;

impl Count {
    /// Regions, references and pins.
    #[inline(always)]
    pub(super) const fn holders(self) -> u32 {
        (self.0 & HOLDERS) as u32
    }

    /// Versions made from this one.
    #[inline(always)]
    pub(super) const fn children(self) -> u32 {
        ((self.0 & COUNTS) >> COUNT_BITS) as u32
    }

    /// Whether a region that holds the version is the only one that can see it.
    #[inline(always)]
    pub(super) const fn exclusive(self) -> bool {
        self.0 & COUNTS == HOLDER
    }

    /// Whether nobody holds it and nothing was made from it.
    #[inline(always)]
    pub(super) const fn dead(self) -> bool {
        self.0 & COUNTS == 0
    }
}

impl<M: Memory> Store<M> {
    #[inline(always)]
    pub(super) fn version_at(&self, version: u32) -> u64 {
        self.lay.versions.at(version)
    }

    #[inline(always)]
    pub(super) fn count(&self, version: u32) -> Count {
        Count(self.mem.load_u64(self.version_at(version) + field::COUNT))
    }

    /// Changes the count word in one compare-and-swap.
    fn change_count(&mut self, version: u32, change: impl Fn(u64) -> u64) -> Count {
        let at = self.version_at(version) + field::COUNT;
        let mut found = self.mem.load_u64(at);
        loop {
            let new = change(found);
            match self.mem.compare_exchange_u64(at, found, new) {
                Ok(_) => return Count(new),
                Err(other) => found = other,
            }
        }
    }

    /// Whether a version can have one more holder.
    ///
    /// # Errors
    /// [`Error::OutOf`] holds.
    pub(super) fn check_hold(&self, version: u32) -> Result<()> {
        let holders = self.count(version).holders();
        let limit = self.lay.config.holds_max;
        if holders < limit {
            return Ok(());
        }
        let (limit, in_use) = (u64::from(limit), u64::from(holders));
        Err(Error::OutOf { what: Resource::Holds, limit, in_use })
    }

    /// Adds a holder; [`Store::check_hold`] came first.
    pub(super) fn hold(&mut self, version: u32) {
        self.change_count(version, |count| count + HOLDER);
    }

    /// Takes a holder away and lets reclamation look at what is left.
    pub(super) fn release(&mut self, version: u32) {
        assert!(self.count(version).holders() > 0, "version {version} released too often");
        let count = self.change_count(version, |count| count - HOLDER);
        self.consider(version, count);
    }

    /// Queues a version that nobody holds if it can be freed or merged.
    pub(super) fn consider(&mut self, version: u32, count: Count) {
        if count.holders() == 0 && count.children() <= 1 {
            self.queue_version(version);
        }
    }

    /// Queues a version for reclamation, unless it is.
    pub(super) fn queue_version(&mut self, version: u32) {
        let at = self.version_at(version) + field::FLAGS;
        let flags = self.mem.load_u32(at);
        if flags & field::QUEUED == 0 {
            self.mem.store_u32(at, flags | field::QUEUED);
            self.enqueue(self.lay.versions, superblock::VERSION_QUEUE, version);
        }
    }

    /// Takes the version at the head of the queue out of it.
    pub(super) fn unqueue_version(&mut self, version: u32) {
        self.dequeue(self.lay.versions, superblock::VERSION_QUEUE, version);
        self.mem.store_u32(self.version_at(version) + field::FLAGS, field::IN_USE);
    }

    /// Whether one more version may be made.
    ///
    /// # Errors
    /// [`Error::Pending`] or [`Error::OutOf`] versions; numbers end long after the pool does.
    pub(super) fn require_version(&self) -> Result<()> {
        let number = self.mem.load_u64(superblock::NUMBER);
        if number == stamp::NUMBER_MAX {
            let limit = stamp::NUMBER_MAX;
            return Err(Error::OutOf { what: Resource::Versions, limit, in_use: number });
        }
        self.require(self.lay.versions, 1, Resource::Versions)
    }

    /// Makes a version with one holder and the next number; [`Store::require_version`] came first.
    pub(super) fn new_version(&mut self, depth: u32, threshold: u64, root: u32) -> u32 {
        let number = self.mem.load_u64(superblock::NUMBER) + 1;
        self.mem.store_u64(superblock::NUMBER, number);
        let (version, fresh) = self.take_version();
        let at = self.version_at(version);
        let generation = if fresh { 0 } else { self.mem.load_u64(at + field::COUNT) & !COUNTS };
        self.mem.store_u64(at + field::NUMBER, number);
        self.mem.store_u64(at + field::THRESHOLD, threshold);
        self.mem.store_u32(at + field::ROOT, root);
        self.mem.store_u32(at + field::DEPTH, depth);
        self.mem.fill_zero(at + field::PARENT, field::END - field::PARENT);
        self.mem.store_u32(at + field::FLAGS, field::IN_USE);
        self.mem.store_u64(at + field::COUNT, generation | HOLDER);
        version
    }

    /// Gives a version's slot back: nobody holds it and nothing is made from it any more.
    pub(super) fn put_version(&mut self, version: u32) {
        let at = self.version_at(version);
        let word = self.mem.load_u64(at + field::COUNT) & !COUNTS;
        // The generation makes a compare-and-swap fail that is late by a life; nothing else
        // reads it, so it may start again after 65,536. Versions are told apart by their number.
        self.mem.store_u64(at + field::COUNT, word.wrapping_add(COUNTS + 1));
        self.mem.store_u32(at + field::FLAGS, 0);
        self.put_slot(self.lay.versions, version);
    }

    /// Gives a region a version of its own, made from the shared one that it holds.
    pub(super) fn fork(&mut self, region: u64, parent: u32) -> u32 {
        let at = self.version_at(parent);
        let depth = self.mem.load_u32(at + field::DEPTH);
        let number = self.mem.load_u64(at + field::NUMBER);
        let root = self.mem.load_u32(at + field::ROOT);
        let child = self.new_version(depth, number, root);
        self.adopt(parent, child);
        self.mem.store_u32(region + region::VERSION, child);
        self.change_count(parent, |count| count + CHILD - HOLDER);
        child
    }

    /// Puts `child` first among the children of `parent`; the count is the caller's business.
    fn adopt(&mut self, parent: u32, child: u32) {
        let (parent_at, child_at) = (self.version_at(parent), self.version_at(child));
        let first = self.mem.load_u32(parent_at + field::CHILD);
        self.mem.store_u32(child_at + field::PARENT, parent + 1);
        self.mem.store_u32(child_at + field::NEXT, first);
        self.mem.store_u32(child_at + field::PREV, 0);
        if first != 0 {
            self.mem.store_u32(self.version_at(first - 1) + field::PREV, child + 1);
        }
        self.mem.store_u32(parent_at + field::CHILD, child + 1);
    }

    /// Takes `child` out of the list of its parent's children.
    fn disown(&mut self, parent: u32, child: u32) {
        let at = self.version_at(child);
        let prev = self.mem.load_u32(at + field::PREV);
        let next = self.mem.load_u32(at + field::NEXT);
        let slot = match prev {
            0 => self.version_at(parent) + field::CHILD,
            prev => self.version_at(prev - 1) + field::NEXT,
        };
        self.mem.store_u32(slot, next);
        if next != 0 {
            self.mem.store_u32(self.version_at(next - 1) + field::PREV, prev);
        }
    }

    /// Ends a version whose tree is gone: the parent loses a child and may be next.
    pub(super) fn end_version(&mut self, version: u32) {
        let parent = self.mem.load_u32(self.version_at(version) + field::PARENT);
        if let Some(parent) = parent.checked_sub(1) {
            self.disown(parent, version);
            let count = self.change_count(parent, |count| count - CHILD);
            self.consider(parent, count);
        }
        self.put_version(version);
    }

    /// Puts `child`, the only one of `parent`, in its place and ends `parent`, whose pending list
    /// is empty by now. See the module's text on why the lists end up right.
    pub(super) fn merge(&mut self, parent: u32, child: u32) {
        let (parent_at, child_at) = (self.version_at(parent), self.version_at(child));
        self.move_chunks(child_at + field::DEAD, child_at + field::PENDING);
        self.move_chunks(parent_at + field::DEAD, child_at + field::DEAD);
        let threshold = self.mem.load_u64(parent_at + field::THRESHOLD);
        self.mem.store_u64(child_at + field::THRESHOLD, threshold);
        self.mem.store_u32(child_at + field::PARENT, 0);
        if let Some(grandparent) = self.mem.load_u32(parent_at + field::PARENT).checked_sub(1) {
            self.disown(grandparent, parent);
            self.adopt(grandparent, child);
        }
        self.put_version(parent);
        if self.mem.load_u32(child_at + field::PENDING) != 0 {
            self.queue_version(child);
        }
    }

    /// What is left to say about a free slot of versions, for the audit.
    pub(super) fn version_link(&self, version: u32) -> u32 {
        self.mem.load_u32(self.version_at(version) + LINK)
    }
}

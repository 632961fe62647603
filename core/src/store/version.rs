//! Versions: the root of a tree, the number under which things in it are made, and one count.

use super::change::{Change, Shared};
use super::error::{Error, Resource, Result};
use super::records::{LINK, count, participant, region, stamp, superblock, version as field};
use super::redo::{kind, tag, value};
use super::{Memory, Store};

/// The value of a version's count word: its holds and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) u64);

impl Count {
    /// Regions, references, pins and children.
    #[inline(always)]
    pub(super) const fn holds(self) -> u32 {
        (self.0 & count::HOLDS) as u32
    }

    /// Whether a region that holds the version is the only one that can see it.
    #[inline(always)]
    pub(super) const fn exclusive(self) -> bool {
        self.0 & (count::HOLDS | count::FORKED) == 1
    }

    /// Whether nobody holds it and nothing was made from it.
    #[inline(always)]
    pub(super) const fn dead(self) -> bool {
        self.0 & count::HOLDS == 0
    }

    /// Whether its only hold may be a child.
    #[inline(always)]
    pub(super) const fn mergeable(self) -> bool {
        self.0 & (count::HOLDS | count::FORKED) == 1 | count::FORKED
    }

    #[inline(always)]
    pub(super) const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// With the flag that sends it to the reclaimer, if that should look at it.
    #[inline(always)]
    const fn considered(self) -> Self {
        let wanted = self.dead() || self.mergeable();
        if wanted { Self(self.0 | count::QUEUED) } else { self }
    }
}

/// Version numbers that a participant takes at once, if there are others.
const NUMBERS: u64 = 1024;

impl<M: Memory> Store<M> {
    #[inline(always)]
    pub(super) fn version_at(&self, version: u32) -> u64 {
        self.at(self.lay.versions, version)
    }

    #[inline(always)]
    pub(super) fn count(&self, version: u32) -> Count {
        Count(value(self.mem.load_u64(self.version_at(version) + field::COUNT)))
    }

    /// Whether a version can have one more hold; its count word.
    ///
    /// # Errors
    /// [`Error::OutOf`] holds.
    #[inline(always)]
    pub(super) fn check_hold(&self, version: u32) -> Result<Shared<'_, M>> {
        let count = self.shared_count(version);
        if Count(count.value()).holds() < self.lay.config.holds_max {
            return Ok(count);
        }
        Err(self.out_of_holds(version))
    }

    #[inline(always)]
    fn shared_count(&self, version: u32) -> Shared<'_, M> {
        Shared::new(self.line(self.version_at(version)), field::COUNT)
    }

    #[cold]
    pub(super) fn out_of_holds(&self, version: u32) -> Error {
        let (limit, in_use) = (self.lay.config.holds_max, self.count(version).holds());
        Error::OutOf { what: Resource::Holds, limit: limit.into(), in_use: in_use.into() }
    }

    /// Changes words of this participant's and adds a hold, which decides the operation, unless
    /// there is no room, or `valid` denies that the version is still the right one: then it is
    /// undone. The count is what [`Store::check_hold`] found.
    #[inline(always)]
    pub(super) fn hold<const N: usize>(
        &self,
        changes: [Change<'_, M>; N],
        count: Shared<'_, M>,
        valid: impl Fn(&Self) -> bool,
    ) -> bool {
        let decided = self.decide_all(changes, count, |store, word| {
            let room = Count(word).holds() < store.lay.config.holds_max;
            (room && valid(store)).then_some(word + 1)
        });
        if decided.is_none() {
            self.undo();
            return false;
        }
        self.close();
        true
    }

    /// Takes a hold away and so decides the operation; reclamation looks at what is left.
    pub(super) fn release(&mut self, version: u32) {
        self.release_all([], version);
    }

    /// The same, and before it changes words of this participant's.
    #[inline(always)]
    pub(super) fn release_all<const N: usize>(&self, changes: [Change<'_, M>; N], version: u32) {
        self.begin_posting(version);
        let count = self.shared_count(version);
        let decided = self.decide_all(changes, count, |_, word| {
            (!Count(word).dead()).then(|| Count(word - 1).considered().0)
        });
        match decided {
            Some(decided) => self.post_if_queued(version, decided.before, decided.after),
            None => {
                assert!(self.mem.shared(), "version {version} released too often");
                self.corrupt.set(true);
            }
        }
        self.close();
        self.end_posting();
    }

    /// Hands a version to the reclaimer if its count word just got the flag for that.
    #[inline(always)]
    pub(super) fn post_if_queued(&self, version: u32, before: u64, after: u64) {
        if after & !before & count::QUEUED != 0 {
            let link_at = self.version_at(version) + LINK;
            self.post(superblock::WORK, link_at, version.wrapping_add(1));
        }
    }

    /// Hands a version to the reclaimer, unless it waits there.
    pub(super) fn queue_version(&self, version: u32) {
        let at = self.version_at(version) + field::COUNT;
        self.begin_posting(version);
        let queued =
            self.adjust(at, |word| (word & count::QUEUED == 0).then_some(word | count::QUEUED));
        if let Some(queued) = queued {
            self.post_if_queued(version, queued.before, queued.after);
        }
        self.end_posting();
    }

    /// Whether one more version may be made.
    ///
    /// # Errors
    /// [`Error::Pending`] or [`Error::OutOf`] versions; numbers end long after the pool does.
    pub(super) fn require_version(&mut self) -> Result<()> {
        let number = self.mem.load_u64(superblock::NUMBER);
        if number >= stamp::NUMBER_MAX {
            let limit = stamp::NUMBER_MAX;
            return Err(Error::OutOf { what: Resource::Versions, limit, in_use: number });
        }
        self.require(self.lay.versions, Resource::Versions)
    }

    /// A version number that nobody else has, above the parent's.
    fn take_number(&mut self, above: u64) -> u64 {
        if self.lay.config.participants == 1 {
            let number = self.mem.load_u64(superblock::NUMBER).wrapping_add(1);
            self.mem.store_u64(superblock::NUMBER, number);
            return number;
        }
        let (last, end) = (self.area + participant::NUMBER, self.area + participant::NUMBER_END);
        let number = self.mem.load_u64(last).wrapping_add(1);
        if number > above && number <= self.mem.load_u64(end) {
            self.mem.store_u64(last, number);
            return number;
        }
        let mut taken = self.mem.load_u64(superblock::NUMBER);
        while let Err(other) =
            self.mem.compare_exchange_u64(superblock::NUMBER, taken, taken.wrapping_add(NUMBERS))
        {
            taken = other;
        }
        // Numbers that are forgotten by a death here are never used.
        self.mem.store_u64(end, 0);
        let number = taken.wrapping_add(1);
        self.mem.store_u64(last, number);
        self.mem.store_u64(end, taken.wrapping_add(NUMBERS));
        number
    }

    /// Makes a version with one hold; [`Store::require_version`] came first.
    pub(super) fn new_version(&mut self, depth: u32, threshold: u64, root: u32) -> u32 {
        let number = self.take_number(threshold);
        let version = self.take(self.lay.versions);
        let at = self.version_at(version);
        // It is in use from here on, and again free if this operation is undone.
        self.set_u64(at + field::NUMBER, number);
        self.mem.store_u64(at + field::THRESHOLD, threshold);
        self.mem.store_u32(at + field::ROOT, root);
        self.mem.store_u32(at + field::DEPTH, depth);
        self.mem.fill_zero(at + field::PARENT, field::END - field::PARENT);
        // The name makes late changes of an earlier life's count fail.
        let name = if self.mem.shared() { tag(self.me, self.sequence.get()) } else { 0 };
        self.mem.store_u64(at + field::COUNT, name | 1);
        version
    }

    /// Gives a version's slot back: nobody holds it and nothing is made from it any more.
    pub(super) fn put_version(&mut self, version: u32) {
        let at = self.version_at(version);
        self.set_u64(at + field::NUMBER, 0);
        self.put(self.lay.versions, version);
    }

    /// Gives a region a version of its own, made from the shared one that it holds: an operation
    /// of its own. The region's hold on the parent becomes the child's, so no count changes.
    pub(super) fn fork(&mut self, region: u64, parent: u32) -> u32 {
        let at = self.version_at(parent);
        let depth = self.mem.load_u32(at + field::DEPTH);
        let number = self.mem.load_u64(at + field::NUMBER);
        let root = self.mem.load_u32(at + field::ROOT);
        let child = self.new_version(depth, number, root);
        self.begin_writing(child);
        self.set_u32(region + region::VERSION, child);
        self.adopt(parent, child);
        self.mark_forked(parent);
        self.close();
        child
    }

    /// Puts `child` first among the children of `parent`, and so decides the operation.
    fn adopt(&mut self, parent: u32, child: u32) {
        let (list, at) = (self.version_at(parent) + field::CHILD, self.version_at(child));
        self.mem.store_u32(at + field::PARENT, parent.wrapping_add(1));
        self.mem.store_u32(at + field::LISTED, 1);
        self.announce_list(list, kind::PUSHED, child);
        let mut first = self.mem.load_u64(list);
        loop {
            self.mem.store_u32(at + field::NEXT, first as u32);
            if !self.mem.shared() && first != 0 {
                let first_at = self.version_at(first as u32 - 1);
                self.mem.store_u32(first_at + field::PREV, child.wrapping_add(1));
            }
            match self.mem.compare_exchange_u64(list, first, u64::from(child) + 1) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }

    /// Notes that a version has children, after it got one; if that is its only hold by now,
    /// whoever left before could not know that the reclaimer should look at it.
    pub(super) fn mark_forked(&self, version: u32) {
        // The child was listed before the flag is looked at, and whoever takes the flag away
        // looks at the list after that: one of both sees the other.
        self.mem.fence();
        let at = self.version_at(version) + field::COUNT;
        self.begin_posting(version);
        let marked = self.adjust(at, |word| {
            let new = Count(word | count::FORKED).considered().0;
            (new != word).then_some(new)
        });
        if let Some(marked) = marked {
            self.post_if_queued(version, marked.before, marked.after);
        }
        self.end_posting();
    }

    /// Takes the flag away from a version that has no children, as far as the list says.
    pub(super) fn unmark_forked(&self, version: u32) {
        let at = self.version_at(version);
        self.adjust(at + field::COUNT, |word| {
            (word & count::FORKED != 0).then_some(word & !count::FORKED)
        });
        self.mem.fence();
        if self.mem.load_u64(at + field::CHILD) != 0 {
            self.mark_forked(version);
        }
    }

    /// Says that this participant is about to change the tree and lists of a version, which only
    /// its region holds. The reclaimer keeps away from them until [`Store::end_writing`].
    #[inline(always)]
    pub(super) fn begin_writing(&self, version: u32) {
        if self.mem.shared() {
            self.mem.store_u32(self.area + participant::WRITING, version.wrapping_add(1));
            self.mem.fence();
        }
    }

    /// Says that the changes are done.
    #[inline(always)]
    pub(super) fn end_writing(&self) {
        if self.mem.shared() {
            self.mem.store_u32(self.area + participant::WRITING, 0);
        }
    }

    /// Begins to write to a version that only this participant's region holds; false if the
    /// reclaimer is at it for longer than is worth waiting: then a child will do as well.
    pub(super) fn try_writing(&self, version: u32) -> bool {
        if !self.mem.shared() {
            return true;
        }
        self.begin_writing(version);
        for _ in 0..WAIT_LOADS_MAX {
            if !self.count(version).has(count::SEIZED) {
                return true;
            }
            core::hint::spin_loop();
        }
        self.end_writing();
        false
    }
}

/// Loads for which a writer waits for the reclaimer to finish a step.
const WAIT_LOADS_MAX: u32 = 200;

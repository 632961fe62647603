//! The reclaimer's side of versions: taking them from writers for a moment, ending and merging
//! them, and the lists of children.
//!
//! Anyone adds to the front of a list of children; only the reclaimer takes from it. It learns
//! the way back, which pushing cannot keep, when it needs it.

use super::records::{count, participant, superblock, version as field};
use super::redo::kind;
use super::version::Count;
use super::{Memory, Store};

impl<M: Memory> Store<M> {
    /// Keeps writers away from a version's lists; false if one is at it just now.
    ///
    /// Both sides announce themselves and then look whether the other has: one sees the other.
    pub(super) fn seize(&mut self, version: u32) -> bool {
        if !self.mem.shared() {
            return true;
        }
        self.mem.store_u32(superblock::SEIZED, version.wrapping_add(1));
        let at = self.version_at(version) + field::COUNT;
        let seized = self.adjust(at, |word| Some(word | count::SEIZED));
        self.mem.fence();
        let writing = (0..self.lay.config.participants).any(|who| {
            let at = self.lay.participant(who) + participant::WRITING;
            self.mem.load_u32(at) == version.wrapping_add(1)
        });
        if writing || seized.is_none() {
            self.let_go();
            return false;
        }
        true
    }

    /// Lets writers to the version again that was seized, if one was.
    pub(super) fn let_go(&mut self) {
        if !self.mem.shared() {
            return;
        }
        let Some(version) = self.mem.load_u32(superblock::SEIZED).checked_sub(1) else { return };
        let at = self.version_at(version) + field::COUNT;
        self.adjust(at, |word| Some(word & !count::SEIZED));
        self.mem.store_u32(superblock::SEIZED, 0);
    }

    /// The only child of a version whose only hold it is.
    pub(super) fn only_child(&self, version: u32) -> Option<u32> {
        let first = self.mem.load_u64(self.version_at(version) + field::CHILD) as u32;
        first.checked_sub(1)
    }

    /// The link of `child`'s predecessor in a list, or none for the first. Where it is not known
    /// yet, the way back is learned for all that were added since.
    fn way_back(&mut self, list: u64, child: u32) -> u32 {
        let first = self.mem.load_u64(list) as u32;
        if first == child.wrapping_add(1) {
            return 0;
        }
        let known = self.mem.load_u32(self.version_at(child) + field::PREV);
        if let Some(prev) = known.checked_sub(1)
            && self.mem.load_u32(self.version_at(prev) + field::NEXT) == child.wrapping_add(1)
        {
            return known;
        }
        let mut link = first;
        for _ in 0..self.lay.versions.limit {
            let Some(version) = link.checked_sub(1) else { break };
            let next = self.mem.load_u32(self.version_at(version) + field::NEXT);
            let Some(next_version) = next.checked_sub(1) else { break };
            self.mem.store_u32(self.version_at(next_version) + field::PREV, link);
            if next_version == child {
                return link;
            }
            link = next;
        }
        self.corrupt.set(true);
        0
    }

    /// Puts `link` in the place of `child` in the list at `list`. If `child` is the first, that
    /// decides the operation; else the operation's end does.
    fn replace(&mut self, list: u64, child: u32, link: u32, decides: u64) {
        // Each try that fails means that a child was added, which can't go on for ever.
        for _ in 0..self.lay.versions.limit {
            let prev = self.way_back(list, child);
            if let Some(prev) = prev.checked_sub(1) {
                let at = self.version_at(prev) + field::NEXT;
                self.set_u32(at, link);
                return;
            }
            let named = if decides == kind::PUSHED { link.wrapping_sub(1) } else { child };
            self.announce_list(list, decides, named);
            let first = u64::from(child) + 1;
            if self.mem.compare_exchange_u64(list, first, link.into()).is_ok() {
                return;
            }
        }
        self.corrupt.set(true);
    }

    /// Takes `child` out of the list of its parent's children.
    fn disown(&mut self, parent: u32, child: u32) {
        let at = self.version_at(child);
        let next = self.mem.load_u32(at + field::NEXT);
        self.set_u32(at + field::LISTED, 0);
        let list = self.version_at(parent) + field::CHILD;
        let prev = self.way_back(list, child);
        if let Some(next) = next.checked_sub(1) {
            let at = self.version_at(next) + field::PREV;
            self.set_u32(at, prev);
        }
        self.replace(list, child, next, kind::REMOVED);
        self.close();
    }

    /// Ends a version whose tree is gone: the parent loses a child and may be next.
    pub(super) fn end_version(&mut self, version: u32) {
        let at = self.version_at(version);
        let parent = self.mem.load_u32(at + field::PARENT);
        let Some(parent) = parent.checked_sub(1) else {
            self.set_u32(superblock::CURRENT, 0);
            self.put_version(version);
            self.close();
            return;
        };
        if self.mem.load_u32(at + field::LISTED) != 0 {
            self.disown(parent, version);
        }
        if self.mem.load_u64(self.version_at(parent) + field::CHILD) == 0 {
            self.unmark_forked(parent);
        }
        self.set_u32(superblock::CURRENT, 0);
        self.put_version(version);
        self.release(parent);
    }

    /// Puts `child`, the only one of `parent`, in its place and ends `parent`, whose pending list
    /// is empty by now. See the module's text on why the lists end up right. The child is seized.
    pub(super) fn merge(&mut self, parent: u32, child: u32) {
        let (parent_at, child_at) = (self.version_at(parent), self.version_at(child));
        self.move_chunks(child_at + field::DEAD, child_at + field::PENDING);
        self.move_chunks(parent_at + field::DEAD, child_at + field::DEAD);
        let threshold = self.mem.load_u64(parent_at + field::THRESHOLD);
        self.set_u64(child_at + field::THRESHOLD, threshold);
        let grandparent = self.mem.load_u32(parent_at + field::PARENT);
        self.set_u32(child_at + field::PARENT, grandparent);
        self.set_u32(superblock::CURRENT, 0);
        self.put_version(parent);
        match grandparent.checked_sub(1) {
            None => self.set_u32(child_at + field::LISTED, 0),
            Some(grandparent) => self.take_place(grandparent, parent, child),
        }
        self.close();
        if self.mem.load_u32(child_at + field::PENDING) != 0 {
            self.queue_version(child);
        }
    }

    /// Puts `child` where `parent` was among the children of `grandparent`.
    fn take_place(&mut self, grandparent: u32, parent: u32, child: u32) {
        let (parent_at, child_at) = (self.version_at(parent), self.version_at(child));
        let list = self.version_at(grandparent) + field::CHILD;
        let next = self.mem.load_u32(parent_at + field::NEXT);
        self.set_u32(child_at + field::NEXT, next);
        let prev = self.way_back(list, parent);
        self.set_u32(child_at + field::PREV, prev);
        if let Some(next) = next.checked_sub(1) {
            let at = self.version_at(next) + field::PREV;
            self.set_u32(at, child.wrapping_add(1));
        }
        self.replace(list, parent, child.wrapping_add(1), kind::PUSHED);
        let prev = self.way_back(list, child);
        self.mem.store_u32(child_at + field::PREV, prev);
    }

    /// Whether a version is among the children in the list at `list`.
    pub(super) fn is_listed(&self, list: u64, child: u32) -> bool {
        let mut link = self.mem.load_u64(list) as u32;
        for _ in 0..self.lay.versions.limit {
            match link.checked_sub(1) {
                None => return false,
                Some(version) if version == child => return true,
                Some(version) => link = self.mem.load_u32(self.version_at(version) + field::NEXT),
            }
        }
        false
    }

    /// What the reclaimer finds to do with a version that has no pending list.
    pub(super) fn fate(&self, version: u32) -> Fate {
        let count: Count = self.count(version);
        if count.dead() {
            return Fate::Dead;
        }
        let child = self.only_child(version);
        if count.has(count::FORKED) && child.is_none() {
            return Fate::Childless;
        }
        match child {
            Some(child) if count.holds() == 1 => Fate::Merge(child),
            _ => Fate::Lives,
        }
    }
}

/// What is to be done with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Free what is its own.
    Dead,
    /// Merge it into this child.
    Merge(u32),
    /// It is marked as having children and has none.
    Childless,
    /// Nothing.
    Lives,
}

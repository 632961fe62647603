//! How many detached references each session has made that nobody has taken yet.
//!
//! The store counts detached references of all holders together, because nobody owns them. Here
//! is who made them: a place for each reference of the store and one for each holder, shared by all
//! cores of a memory node. Whoever takes or drops one through any of them gives the place back at
//! once. One that was taken by a process that maps the pool is noticed when its maker asks for more
//! than it may have: each time, some places are looked at again.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::store::{EntryId, HolderId};

/// Places looked at again when a session asks for more than it may have.
const LOOKS: usize = 64;
/// "Nobody" in a place.
const NOBODY: u64 = 0;

/// A reference that was detached, and by whom.
#[derive(Debug, Default)]
pub struct Detachment {
    /// The raw identifier of the holder, plus one. Whoever takes it away counts it, so each is
    /// counted once.
    maker: AtomicU64,
    /// Of the reference.
    generation: AtomicU64,
}

/// What a holder has detached: the low half of its generation, then the count.
#[derive(Debug, Default)]
pub struct DetachedAccount(AtomicU64);

impl DetachedAccount {
    fn name(holder: HolderId) -> u64 {
        holder.generation() << 32
    }

    fn count(&self, holder: HolderId) -> u32 {
        let word = self.0.load(Relaxed);
        if word ^ Self::name(holder) <= u32::MAX.into() { word as u32 } else { 0 }
    }

    /// A holder that had the place before is forgotten.
    fn add(&self, holder: HolderId) {
        let name = Self::name(holder);
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let own = word ^ name <= u32::MAX.into();
            Some(if own { word + 1 } else { name + 1 })
        });
    }

    fn take(&self, holder: HolderId) {
        let name = Self::name(holder);
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            (word ^ name <= u32::MAX.into() && word as u32 > 0).then(|| word - 1)
        });
    }
}

/// The accounts of detached references, as one core keeps them.
pub struct Detachments<'m> {
    limit: u32,
    references: &'m [Detachment],
    holders: &'m [DetachedAccount],
    /// The place looked at next.
    next: usize,
}

impl<'m> Detachments<'m> {
    /// Lets each session have as many as the store has room for, and keeps no accounts.
    pub(super) fn unbounded() -> Self {
        Self { limit: u32::MAX, references: &[], holders: &[], next: 0 }
    }

    /// Lets each session have `limit`. `references` has a place for each reference of the store,
    /// `holders` one for each holder: the same ones for all cores.
    pub fn new(limit: u32, references: &'m [Detachment], holders: &'m [DetachedAccount]) -> Self {
        Self { limit, references, holders, next: 0 }
    }

    /// How many a session may have.
    pub(super) fn limit(&self) -> u64 {
        self.limit.into()
    }

    /// Whether a holder may detach one more. `is_detached` tells whether a reference still is.
    pub(super) fn may_add(
        &mut self,
        holder: HolderId,
        is_detached: impl Fn(EntryId) -> bool,
    ) -> bool {
        if self.count(holder) < self.limit {
            return true;
        }
        for _ in 0..LOOKS.min(self.references.len()) {
            let place = self.next;
            self.next = if place + 1 < self.references.len() { place + 1 } else { 0 };
            let Detachment { maker, generation } = &self.references[place];
            if maker.load(Relaxed) == NOBODY {
                continue;
            }
            let entry = EntryId { index: place as u32, generation: generation.load(Relaxed) };
            if !is_detached(entry) {
                self.remove(entry);
            }
        }
        self.count(holder) < self.limit
    }

    fn count(&self, holder: HolderId) -> u32 {
        self.holders.get(holder.index() as usize).map_or(0, |account| account.count(holder))
    }

    /// A holder has detached a reference.
    pub(super) fn add(&mut self, holder: HolderId, entry: EntryId) {
        let Some(place) = self.references.get(entry.index as usize) else { return };
        // Of an earlier reference in that place, whose end was not told here.
        self.give_back(place);
        place.generation.store(entry.generation, Relaxed);
        if let Some(account) = self.holders.get(holder.index() as usize) {
            account.add(holder);
        }
        place.maker.store(holder.raw() + 1, Relaxed);
    }

    /// A reference is not detached any more, if it ever was.
    pub(super) fn remove(&mut self, entry: EntryId) {
        if let Some(place) = self.references.get(entry.index as usize)
            && place.maker.load(Relaxed) != NOBODY
            && place.generation.load(Relaxed) == entry.generation
        {
            self.give_back(place);
        }
    }

    fn give_back(&self, place: &Detachment) {
        let maker = place.maker.swap(NOBODY, Relaxed).checked_sub(1).map(HolderId::from_raw);
        if let Some(maker) = maker
            && let Some(account) = self.holders.get(maker.index() as usize)
        {
            account.take(maker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: fn(EntryId) -> bool = |_| true;

    fn holder(index: u64, generation: u64) -> HolderId {
        HolderId::from_raw(index | generation << 24)
    }

    fn entry(index: u32) -> EntryId {
        EntryId { index, generation: 1 }
    }

    fn tables() -> ([Detachment; 8], [DetachedAccount; 4]) {
        Default::default()
    }

    #[test]
    fn what_is_taken_through_another_core_counts_at_once() {
        let (references, holders) = tables();
        let mut made_at = Detachments::new(1, &references, &holders);
        let mut taken_at = Detachments::new(1, &references, &holders);
        let a = holder(2, 7);
        for _ in 0..3 {
            made_at.add(a, entry(5));
            assert!(!made_at.may_add(a, ALL));
            assert!(!taken_at.may_add(a, ALL), "one quota for all cores");
            taken_at.remove(entry(5));
            assert!(made_at.may_add(a, ALL));
        }
    }

    #[test]
    fn each_holder_has_its_own_account() {
        let (references, holders) = tables();
        let mut accounts = Detachments::new(2, &references, &holders);
        let [a, b] = [holder(1, 5), holder(2, 5)];
        for index in 0..2 {
            assert!(accounts.may_add(a, ALL));
            accounts.add(a, entry(index));
        }
        assert!(!accounts.may_add(a, ALL), "it has its two");
        assert!(accounts.may_add(b, ALL));
        // Another generation of that place is another reference.
        accounts.remove(EntryId { index: 0, generation: 2 });
        assert!(!accounts.may_add(a, ALL));
        accounts.remove(entry(0));
        accounts.remove(entry(0));
        assert!(accounts.may_add(a, ALL));
        accounts.add(a, entry(0));
        assert!(accounts.may_add(holder(1, 6), ALL), "a later holder starts anew");
    }

    #[test]
    fn what_was_taken_elsewhere_is_noticed() {
        let (references, holders) = tables();
        let mut accounts = Detachments::new(1, &references, &holders);
        let a = holder(3, 1);
        accounts.add(a, entry(7));
        assert!(!accounts.may_add(a, ALL));
        assert!(accounts.may_add(a, |_| false));
        accounts.add(a, entry(7));
        accounts.add(a, EntryId { index: 7, generation: 2 });
        assert_eq!(accounts.count(a), 1, "the place has one reference at a time");
    }
}

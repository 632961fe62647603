//! How many detached references each session has made that nobody has taken yet.
//!
//! The store counts detached references of all holders together, because nobody owns them. Here
//! is who made them: a place for each reference of the store and one for each holder. Whoever takes
//! or drops one through this memory node gives the place back at once. One that was taken through
//! another core or by a process that maps the pool is noticed when its maker asks for more than it
//! may have: each time, some places are looked at again.

use crate::store::{EntryId, HolderId};

/// Places looked at again when a session asks for more than it may have.
const LOOKS: usize = 64;

/// A reference that was detached, and by whom.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detachment {
    made: Option<(HolderId, EntryId)>,
}

/// What a holder has detached.
#[derive(Clone, Copy, Debug, Default)]
pub struct DetachedAccount {
    holder: Option<HolderId>,
    count: u32,
}

/// The accounts of detached references.
pub struct Detachments<'m> {
    limit: u32,
    references: &'m mut [Detachment],
    holders: &'m mut [DetachedAccount],
    /// The place looked at next.
    next: usize,
}

impl<'m> Detachments<'m> {
    /// Lets each session have as many as the store has room for, and keeps no accounts.
    pub(super) fn unbounded() -> Self {
        Self { limit: u32::MAX, references: &mut [], holders: &mut [], next: 0 }
    }

    /// Lets each session have `limit`. `references` has a place for each reference of the store,
    /// `holders` one for each holder.
    pub fn new(
        limit: u32,
        references: &'m mut [Detachment],
        holders: &'m mut [DetachedAccount],
    ) -> Self {
        references.fill(Detachment::default());
        holders.fill(DetachedAccount::default());
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
            if let Some((_, entry)) = self.references[place].made
                && !is_detached(entry)
            {
                self.remove(entry);
            }
        }
        self.count(holder) < self.limit
    }

    fn count(&self, holder: HolderId) -> u32 {
        let account = self.holders.get(holder.index() as usize);
        account.filter(|account| account.holder == Some(holder)).map_or(0, |account| account.count)
    }

    /// A holder has detached a reference.
    pub(super) fn add(&mut self, holder: HolderId, entry: EntryId) {
        let Some(place) = self.references.get_mut(entry.index as usize) else { return };
        let before = place.made.replace((holder, entry));
        if let Some((maker, _)) = before {
            // Of an earlier reference in that place, whose end was not told here.
            self.take_from(maker);
        }
        if let Some(account) = self.holders.get_mut(holder.index() as usize) {
            let count = if account.holder == Some(holder) { account.count } else { 0 };
            *account = DetachedAccount { holder: Some(holder), count: count + 1 };
        }
    }

    /// A reference is not detached any more, if it ever was.
    pub(super) fn remove(&mut self, entry: EntryId) {
        if let Some(place) = self.references.get_mut(entry.index as usize)
            && let Some((maker, _)) = place.made.take_if(|(_, of)| *of == entry)
        {
            self.take_from(maker);
        }
    }

    fn take_from(&mut self, maker: HolderId) {
        if let Some(account) = self.holders.get_mut(maker.index() as usize)
            && account.holder == Some(maker)
        {
            account.count -= 1;
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

    #[test]
    fn each_holder_has_its_own_account() {
        let (mut references, mut holders) = ([Detachment::default(); 8], Default::default());
        let holders: &mut [DetachedAccount; 4] = &mut holders;
        let mut accounts = Detachments::new(2, &mut references, holders);
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
        let (mut references, mut holders) = ([Detachment::default(); 8], Default::default());
        let holders: &mut [DetachedAccount; 4] = &mut holders;
        let mut accounts = Detachments::new(1, &mut references, holders);
        let a = holder(3, 1);
        accounts.add(a, entry(7));
        assert!(!accounts.may_add(a, ALL));
        assert!(accounts.may_add(a, |_| false));
        accounts.add(a, entry(7));
        accounts.add(a, EntryId { index: 7, generation: 2 });
        assert_eq!(accounts.count(a), 1, "the place has one reference at a time");
    }
}

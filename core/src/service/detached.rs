//! How many detached references each session has made that nobody has taken yet.
//!
//! The store counts detached references of all holders together, because nobody owns them. Here
//! is who made them: a place for each reference of the store and one for each holder, shared by all
//! cores of a memory node. Whoever takes or drops one through any of them gives the place back at
//! once. One that was taken by a process that maps the pool is noticed when its maker asks for more
//! than it may have: each time, some places are looked at again.
//!
//! A place is one word, {maker, life of the reference}, so that whoever empties it knows what it
//! was: a reference may be taken, and its place be another's, before its maker has told of it.

use crate::store::{EntryId, HolderId};
use crate::sync::{AtomicU64, Ordering};

/// Places looked at again when a session asks for more than it may have.
const LOOKS: usize = 64;

/// A place's word: whose reference it is, and which life of its place in the store's table. Of the
/// generations it has the low bits; a number that comes again after half a million lives is taken
/// for the same, and a count is off by one then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Made(u64);

impl Made {
    const NOTHING: Self = Self(0);
    const HOLDER_BITS: u32 = 20;
    const REFERENCE_BITS: u32 = 19;
    /// Where the holder's generation is: after its index.
    const HOLDER_SHIFT: u32 = 24;
    const REFERENCE_SHIFT: u32 = Self::HOLDER_SHIFT + Self::HOLDER_BITS;
    /// Set in a word that is not [`Made::NOTHING`].
    const IS: u64 = 1 << (Self::REFERENCE_SHIFT + Self::REFERENCE_BITS);

    fn low(generation: u64, bits: u32) -> u64 {
        generation & ((1 << bits) - 1)
    }

    fn by(holder: HolderId, entry: EntryId) -> Self {
        let index = Self::low(holder.index().into(), Self::HOLDER_SHIFT);
        let of_holder = Self::low(holder.generation(), Self::HOLDER_BITS) << Self::HOLDER_SHIFT;
        let life = Self::low(entry.generation, Self::REFERENCE_BITS) << Self::REFERENCE_SHIFT;
        Self(Self::IS | life | of_holder | index)
    }

    fn holder(self) -> usize {
        Self::low(self.0, Self::HOLDER_SHIFT) as usize
    }

    fn holder_generation(self) -> u64 {
        Self::low(self.0 >> Self::HOLDER_SHIFT, Self::HOLDER_BITS)
    }

    /// Lives from that of this reference to `generation`, the way round that is shorter.
    fn lives_until(self, generation: u64) -> i64 {
        let unused = u64::BITS - Self::REFERENCE_BITS;
        let difference = generation.wrapping_sub(self.0 >> Self::REFERENCE_SHIFT);
        (difference << unused).cast_signed() >> unused
    }

    /// Whether this is that life of the reference in its place.
    fn is_of(self, generation: u64) -> bool {
        self != Self::NOTHING && self.lives_until(generation) == 0
    }
}

/// Who detached the reference of a place. Whoever takes it away counts it, so each is counted once.
#[derive(Debug, Default)]
pub struct Detachment(AtomicU64);

impl Detachment {
    fn load(&self) -> Made {
        Made(self.0.load(Ordering::Relaxed))
    }

    /// Whoever empties a place changes the account after its maker did: acquire and release.
    fn replace(&self, current: Made, new: Made) -> Result<(), Made> {
        let swapped =
            self.0.compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Relaxed);
        swapped.map(drop).map_err(Made)
    }
}

/// What a holder has detached: the low half of its generation, then the count.
#[derive(Debug, Default)]
pub struct DetachedAccount(AtomicU64);

impl DetachedAccount {
    fn name(holder: HolderId) -> u64 {
        holder.generation() << 32
    }

    fn count(&self, holder: HolderId) -> u32 {
        let word = self.0.load(Ordering::Relaxed);
        if word ^ Self::name(holder) <= u32::MAX.into() { word as u32 } else { 0 }
    }

    /// Puts what `change` makes of the word, if anything.
    fn update(&self, change: impl Fn(u64) -> Option<u64>) {
        let mut word = self.0.load(Ordering::Relaxed);
        while let Some(new) = change(word) {
            let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.0.compare_exchange(word, new, order, failed) {
                Ok(_) => return,
                Err(found) => word = found,
            }
        }
    }

    /// A holder that had the place before is forgotten.
    fn add(&self, holder: HolderId) {
        let name = Self::name(holder);
        self.update(|word| {
            let own = word ^ name <= u32::MAX.into();
            Some(if own { word + 1 } else { name + 1 })
        });
    }

    fn take(&self, made: Made) {
        self.update(|word| {
            let own = Made::low(word >> 32, Made::HOLDER_BITS) == made.holder_generation();
            (own && word as u32 > 0).then(|| word - 1)
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

    /// Whether a holder may detach one more. `detached` tells which life of a reference, by its
    /// index, is detached now, if one is.
    pub(super) fn may_add(
        &mut self,
        holder: HolderId,
        detached: impl Fn(u32) -> Option<u64>,
    ) -> bool {
        if self.count(holder) < self.limit {
            return true;
        }
        for _ in 0..LOOKS.min(self.references.len()) {
            let index = self.next;
            self.next = if index + 1 < self.references.len() { index + 1 } else { 0 };
            let place = &self.references[index];
            let made = place.load();
            let is_there = || detached(index as u32).is_some_and(|life| made.is_of(life));
            if made != Made::NOTHING && !is_there() {
                self.empty(place, made);
            }
        }
        self.count(holder) < self.limit
    }

    pub(super) fn count(&self, holder: HolderId) -> u32 {
        self.holders.get(holder.index() as usize).map_or(0, |account| account.count(holder))
    }

    /// A holder has detached a reference.
    pub(super) fn add(&mut self, holder: HolderId, entry: EntryId) {
        let Some(place) = self.references.get(entry.index as usize) else { return };
        let new = Made::by(holder, entry);
        // Counted first: whoever takes it may be quick.
        if let Some(account) = self.holders.get(new.holder()) {
            account.add(holder);
        }
        let mut found = place.load();
        loop {
            // A later reference in that place is told of already, so this one is gone.
            if found != Made::NOTHING && found.lives_until(entry.generation) < 0 {
                return self.uncount(new);
            }
            match place.replace(found, new) {
                Ok(()) => break,
                Err(made) => found = made,
            }
        }
        // Of an earlier reference in that place, whose end was not told here.
        self.uncount(found);
    }

    /// A reference is not detached any more, if it ever was.
    pub(super) fn remove(&mut self, entry: EntryId) {
        if let Some(place) = self.references.get(entry.index as usize) {
            let made = place.load();
            if made.is_of(entry.generation) {
                self.empty(place, made);
            }
        }
    }

    /// Empties a place, if it is still that one's.
    fn empty(&self, place: &Detachment, made: Made) {
        if place.replace(made, Made::NOTHING).is_ok() {
            self.uncount(made);
        }
    }

    fn uncount(&self, made: Made) {
        if made != Made::NOTHING
            && let Some(account) = self.holders.get(made.holder())
        {
            account.take(made);
        }
    }
}

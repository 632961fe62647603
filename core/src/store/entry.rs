//! The reference table: `create_ref`, `map_ref`, `claim_ref`, `detach`, `drop_ref`.
//!
//! A reference is an entry with one owner at most and one hold on the version it was made of.
//! Making or mapping one touches its record, a region's, a holder's and one count, at any size.

use super::change::Change;
use super::error::{Error, Object, Resource, Result};
use super::ids::{EntryId, HolderId, RegionId};
use super::participant::RECLAIMER;
use super::records::{
    STATE_BITS, STATE_FREE, STATE_LEAVING, STATE_LIVE, WORD, entry as field, holder, participant,
    region,
};
use super::region::check_range;
use super::{Memory, Store};
use crate::memory::Record;

/// How a generation of an entry ended, as the word of the next one has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Consumed = 1,
    Dropped = 2,
    Expired = 3,
}

/// The word of an entry: generation, owner, how the generation before ended, state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    #[inline(always)]
    const fn new(generation: u64, owner: u64, end: u64, state: u64) -> Self {
        let generation = generation << field::GENERATION_SHIFT;
        Self(generation | owner << field::OWNER_SHIFT | end << field::END_SHIFT | state)
    }

    #[inline(always)]
    pub(super) const fn generation(self) -> u64 {
        self.0 >> field::GENERATION_SHIFT
    }

    #[inline(always)]
    pub(super) const fn state(self) -> u64 {
        self.0 & field::STATE
    }

    #[inline(always)]
    const fn end(self) -> u64 {
        (self.0 & field::END) >> field::END_SHIFT
    }

    /// The link of the owner, or who made it nobody's.
    #[inline(always)]
    pub(super) const fn owner(self) -> u64 {
        self.0 >> field::OWNER_SHIFT & field::OWNER
    }

    /// The index of the owner, if there is one.
    #[inline(always)]
    pub(super) const fn holder(self) -> Option<u32> {
        match self.owner() {
            0 | field::NOBODY.. => None,
            link => Some(link as u32 - 1),
        }
    }

    /// The same reference in another state, or of another owner.
    #[inline(always)]
    const fn with(self, owner: u64, state: u64) -> Self {
        Self::new(self.generation(), owner, self.end(), state)
    }

    #[inline(always)]
    const fn is_live(self, generation: u64) -> bool {
        self.generation() == generation && self.state() == STATE_LIVE
    }
}

impl<M: Memory> Store<M> {
    /// Makes a reference to `len` bytes at `offset` of a region, as they are now. Whatever
    /// anyone writes later, it reads these bytes. The caller owns it.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`], [`Error::ZeroLength`], [`Error::Overflow`],
    /// [`Error::Range`], [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    pub fn create_ref(
        &mut self,
        holder: HolderId,
        region: RegionId,
        offset: u64,
        len: u64,
    ) -> Result<EntryId> {
        let holder_line = self.live_holder_line(holder)?;
        let region = self.own_region_line(holder, region)?;
        check_range(offset, len, region.load_u64(region::LEN))?;
        let base = self.in_tree(region.load_u64(region::BASE), offset, len)?;
        let version = region.load_u32(region::VERSION);
        let counted = self.check_entry_quota(holder_line)?;
        let count = self.check_hold(version)?;
        let free = self.next_free(&self.lay.entries, Resource::Entries)?;
        let entry = free.line;
        let old = Word(entry.load_u64(WORD));
        let generation = old.generation().max(1);
        entry.store_u64(field::BASE, base);
        entry.store_u64(field::LEN, len);
        entry.store_u32(field::VERSION, version);
        let new = Word::new(generation, u64::from(holder.index()) + 1, old.end(), STATE_LIVE);
        let live = Change::u64(entry, WORD, old.0, new.0);
        if !self.hold([free.taking, live, counted], count, |_| true) {
            return Err(self.out_of_holds(version));
        }
        self.sound(Ok(EntryId { index: free.index, generation }))
    }

    /// Whether a holder may own one more reference, and how it is counted.
    ///
    /// # Errors
    /// [`Error::Quota`].
    #[inline(always)]
    fn check_entry_quota<'m>(&self, holder: Record<'m, M>) -> Result<Change<'m, M>> {
        let (limit, count) =
            (holder.load_u32(holder::ENTRIES_MAX), holder.load_u32(holder::ENTRY_COUNT));
        if count >= limit {
            self.check_entries_left(holder.offset(), limit.into())?;
        }
        Ok(Change::u32(holder, holder::ENTRY_COUNT, count, count.wrapping_add(1)))
    }

    #[cold]
    fn check_entries_left(&self, holder_at: u64, limit: u64) -> Result<()> {
        let count = self.entries_of(holder_at);
        if count < limit {
            return Ok(());
        }
        Err(Error::Quota { what: Resource::Entries, limit, wanted: count + 1 })
    }

    /// References that a holder owns.
    pub(super) fn entries_of(&self, holder_at: u64) -> u64 {
        let count = self.mem.load_u32(holder_at + holder::ENTRY_COUNT);
        let lost = super::redo::value(self.mem.load_u64(holder_at + holder::LOST)) as u32;
        count.wrapping_sub(lost).into()
    }

    fn add_entries(&mut self, holder_at: u64, change: i32) {
        let count = self.mem.load_u32(holder_at + holder::ENTRY_COUNT).wrapping_add_signed(change);
        self.set_u32(holder_at + holder::ENTRY_COUNT, count);
    }

    fn add_detached(&mut self, change: i64) {
        let at = self.area + participant::DETACHED;
        let detached = self.mem.load_u64(at).wrapping_add_signed(change);
        self.set_u64(at, detached);
    }

    /// Whether this participant is the one that writes a holder's counts.
    fn keeps(&self, holder_at: u64) -> bool {
        if !self.mem.shared() {
            return true;
        }
        let live = self.mem.load_u64(holder_at + WORD) & ((1 << STATE_BITS) - 1) == STATE_LIVE;
        let keeper =
            if live { self.mem.load_u32(holder_at + holder::PARTICIPANT) } else { RECLAIMER };
        keeper == self.me
    }

    /// The participant that may have put a word in an entry's place just now.
    fn author(&self, word: Word) -> Option<u32> {
        if !self.mem.shared() {
            return None;
        }
        match word.holder() {
            Some(index) => {
                Some(self.mem.load_u32(self.at(self.lay.holders, index) + holder::PARTICIPANT))
            }
            None => Some(word.owner().wrapping_sub(field::NOBODY) as u32),
        }
    }

    /// Takes a reference off the account of the owner that its word names. If others keep that
    /// account, it is left to [`Store::pay`].
    fn take_from_owner(&mut self, word: Word) {
        let Some(owner) = word.holder() else { return self.add_detached(-1) };
        let at = self.at(self.lay.holders, owner);
        if self.keeps(at) {
            self.add_entries(at, -1);
        } else {
            self.set_u32(self.area + participant::OWED, owner + 1);
        }
    }

    /// Tells a holder whose account others keep that it lost a reference: an operation of its
    /// own, which recovery finishes for whoever died before it.
    pub(super) fn pay(&mut self, area: u64) {
        if !self.mem.shared() {
            return;
        }
        let at = area + participant::OWED;
        if let Some(owner) = self.mem.load_u32(at).checked_sub(1) {
            let lost = self.at(self.lay.holders, owner) + holder::LOST;
            self.set_u32(at, 0);
            self.decide(lost, |_, count| Some(count + 1));
            self.close();
        }
    }

    /// Where the live record of a reference is, and its word.
    ///
    /// # Errors
    /// [`Error::Consumed`], [`Error::Dropped`], [`Error::Expired`] if that is how this
    /// generation ended and no other has since; else [`Error::Stale`].
    #[inline(always)]
    pub(super) fn entry_at(&self, id: EntryId) -> Result<(u64, Word)> {
        let (line, word) = self.entry_line(id)?;
        Ok((line.offset(), word))
    }

    /// The line of that record, and its word.
    ///
    /// # Errors
    /// As [`Store::entry_at`].
    #[inline(always)]
    fn entry_line(&self, id: EntryId) -> Result<(Record<'_, M>, Word)> {
        let table = self.lay.entries;
        if self.known(table, id.index) {
            let line = self.line(table.at(id.index));
            let word = Word(line.load_u64(WORD));
            if word.is_live(id.generation) {
                return Ok((line, word));
            }
            return Err(how_it_ended(word, id));
        }
        Err(stale(id))
    }

    /// Whether an entry still is what it was.
    #[inline(always)]
    pub(super) fn is_entry(&self, at: u64, word: Word) -> bool {
        !self.mem.shared() || self.line(at).load_u64(WORD) == word.0
    }

    /// The result of something that was done with a reference that others may have ended
    /// meanwhile: then that is what is wrong.
    #[inline(always)]
    pub(super) fn entry_result<T>(
        &self,
        id: EntryId,
        (at, word): (u64, Word),
        result: Result<T>,
    ) -> Result<T> {
        if result.is_err() && !self.is_entry(at, word) {
            self.corrupt.set(false);
            return Err(how_it_ended(Word(self.mem.load_u64(at + WORD)), id));
        }
        self.sound(result)
    }

    /// Bytes that a reference stands for.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for the reference.
    pub fn ref_len(&self, id: EntryId) -> Result<u64> {
        Ok(self.mem.load_u64(self.entry_at(id)?.0 + field::LEN))
    }

    /// Makes a region of `len` bytes at `offset` of what a reference stands for. The reference
    /// stays; the region lives on without it. Writes to the region are nobody else's business.
    ///
    /// Nothing is promised to it: a write may have to wait for, or be refused, its frame.
    ///
    /// # Errors
    /// [`Error::Stale`] for the holder or reference, [`Error::Consumed`], [`Error::Dropped`],
    /// [`Error::Expired`], [`Error::ZeroLength`], [`Error::Overflow`], [`Error::Range`],
    /// [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    pub fn map_ref(
        &mut self,
        holder: HolderId,
        id: EntryId,
        offset: u64,
        len: u64,
        writable: bool,
    ) -> Result<RegionId> {
        let holder_line = self.live_holder_line(holder)?;
        let (entry, word) = self.entry_line(id)?;
        check_range(offset, len, entry.load_u64(field::LEN))?;
        let base = self.in_tree(entry.load_u64(field::BASE), offset, len)?;
        let version = entry.load_u32(field::VERSION);
        let counted = self.check_region(holder_line)?;
        let count = self.check_hold(version)?;
        let free = self.next_free(&self.lay.regions, Resource::Regions)?;
        let (region, changes) =
            self.next_region(free, (holder, counted), version, (base, len), writable);
        // While the entry is what it was, it holds the version; and a version whose count did
        // not change since is the same one.
        let held = self
            .hold(changes, count, |store| !store.mem.shared() || entry.load_u64(WORD) == word.0);
        if held {
            return self.sound(Ok(region));
        }
        let refused = Err(self.out_of_holds(version));
        self.entry_result(id, (entry.offset(), word), refused)
    }

    /// Copies bytes of what a reference stands for, without mapping it.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for the reference and the range.
    pub fn read_ref(&self, id: EntryId, offset: u64, target: &mut [u8]) -> Result<()> {
        let (at, word) = self.entry_at(id)?;
        check_range(offset, target.len() as u64, self.mem.load_u64(at + field::LEN))?;
        let len = target.len() as u64;
        let start = self.in_tree(self.mem.load_u64(at + field::BASE), offset, len)?;
        self.read_tree(self.mem.load_u32(at + field::VERSION), start, target);
        if self.mem.shared() {
            // All of it was there while the entry was; else it may be somebody else's bytes.
            self.mem.fence();
            if !self.is_entry(at, word) {
                target.fill(0);
                return self.entry_result(id, (at, word), Err(Error::Pending));
            }
        }
        self.sound(Ok(()))
    }

    /// Takes a reference over, whoever owned it: the caller owns it under a new identifier, and
    /// the old one answers [`Error::Consumed`] from now on. Who may do so is decided above.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for holder and reference; [`Error::Quota`].
    pub fn claim_ref(&mut self, holder: HolderId, id: EntryId) -> Result<EntryId> {
        let holder_at = self.holder_at(holder)?;
        let (at, word) = self.entry_at(id)?;
        let mine = u64::from(holder.index()) + 1;
        let generation = id.generation + 1;
        if generation > field::GENERATION_MAX {
            let limit = field::GENERATION_MAX;
            return Err(Error::OutOf { what: Resource::Entries, limit, in_use: limit });
        }
        if word.owner() != mine {
            let counted = self.check_entry_quota(self.line(holder_at))?;
            self.set_all([counted]);
            self.take_from_owner(word);
        }
        let new = Word::new(generation, mine, End::Consumed as u64, STATE_LIVE);
        let helped = self.author(word);
        if !self.decide_word(at + WORD, (word.0, new.0), helped) {
            self.undo();
            return self.entry_result(id, (at, word), Err(Error::Consumed));
        }
        self.close();
        self.pay(self.area);
        self.sound(Ok(EntryId { index: id.index, generation }))
    }

    /// Gives up a reference without ending it: whoever has the identifier may claim it.
    ///
    /// # Errors
    /// As [`Store::drop_ref`]; [`Error::OutOf`] if the store has its limit of such references.
    pub fn detach(&mut self, holder: HolderId, id: EntryId) -> Result<()> {
        let (at, word) = self.owned_entry(holder, id)?;
        let detached = self.detached();
        let limit = u64::from(self.lay.config.detached_max);
        if detached >= limit {
            return Err(Error::OutOf { what: Resource::Detached, limit, in_use: detached });
        }
        self.add_entries(self.lay.holders.at(holder.index()), -1);
        self.add_detached(1);
        let nobody = field::NOBODY + u64::from(self.me);
        if !self.decide_word(at + WORD, (word.0, word.with(nobody, STATE_LIVE).0), None) {
            self.undo();
            return self.entry_result(id, (at, word), Err(Error::Consumed));
        }
        self.close();
        self.sound(Ok(()))
    }

    /// Which life of the reference in a place is there now, if nobody owns it.
    pub fn detached_generation(&self, index: u32) -> Option<u64> {
        let table = self.lay.entries;
        if !self.known(table, index) {
            return None;
        }
        let word = Word(self.mem.load_u64(table.at(index) + WORD));
        let is_there = word.is_live(word.generation()) && word.holder().is_none();
        is_there.then(|| word.generation())
    }

    /// Ends a reference. Regions that were mapped from it stay. Constant work.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for holder and reference; [`Error::NotOwner`].
    pub fn drop_ref(&mut self, holder: HolderId, id: EntryId) -> Result<()> {
        let holder_line = self.live_holder_line(holder)?;
        let (entry, word) = self.entry_line(id)?;
        if word.owner() != u64::from(holder.index()) + 1 {
            return Err(Error::NotOwner);
        }
        let mut ending = word;
        if self.mem.shared() {
            ending = word.with(word.owner(), STATE_LEAVING);
            if entry.compare_exchange_u64(WORD, word.0, ending.0).is_err() {
                return self.entry_result(id, (entry.offset(), word), Err(Error::Consumed));
            }
        }
        self.end_entry_of((id.index, entry, ending), Some(holder_line), End::Dropped);
        self.sound(Ok(()))
    }

    fn owned_entry(&self, holder: HolderId, id: EntryId) -> Result<(u64, Word)> {
        self.holder_at(holder)?;
        let (at, word) = self.entry_at(id)?;
        let mine = u64::from(holder.index()) + 1;
        if word.owner() == mine { Ok((at, word)) } else { Err(Error::NotOwner) }
    }

    /// Keeps everybody from a reference that is about to end; false if it is not what it was.
    /// If its owner dies here, the sweep of its holder finds it.
    pub(super) fn begin_end(&mut self, at: u64, word: Word) -> bool {
        if !self.mem.shared() {
            return true;
        }
        let ending = word.with(word.owner(), STATE_LEAVING).0;
        self.line(at).compare_exchange_u64(WORD, word.0, ending).is_ok()
    }

    /// Ends the reference in a slot, which nobody else may change any more.
    pub(super) fn end_entry(&mut self, index: u32, end: End) {
        let index = self.bounded(index, self.lay.entries.limit);
        let entry = self.line(self.lay.entries.at(index));
        let word = Word(entry.load_u64(WORD));
        let owner = word.holder().map(|owner| self.line(self.at(self.lay.holders, owner)));
        self.end_entry_of((index, entry, word), owner, end);
    }

    /// The same where its word and its owner are known.
    #[inline(always)]
    fn end_entry_of<'m>(
        &'m self,
        (index, entry, word): (u32, Record<'m, M>, Word),
        owner: Option<Record<'m, M>>,
        end: End,
    ) {
        let table = &self.lay.entries;
        let version = entry.load_u32(field::VERSION);
        let generation = word.generation() + 1;
        let free = Word::new(generation, 0, end as u64, STATE_FREE);
        let ended = Change::u64(entry, WORD, word.0, free.0);
        let last = if generation > field::GENERATION_MAX {
            self.retiring(table)
        } else {
            self.next_put(table, (index, entry))
        };
        match owner {
            Some(holder) => {
                let count = holder.load_u32(holder::ENTRY_COUNT);
                let less = count.wrapping_sub(1);
                let counted = Change::u32(holder, holder::ENTRY_COUNT, count, less);
                self.release_all([counted, ended, last], version);
            }
            None => self.release_all([ended, last], version),
        }
    }
}

/// Why a reference that a record with this word was is none any more.
#[cold]
fn how_it_ended(word: Word, id: EntryId) -> Error {
    if word.generation() != id.generation.wrapping_add(1) {
        return match word.generation() == id.generation && word.state() == STATE_LEAVING {
            true => Error::Dropped,
            false => stale(id),
        };
    }
    match word.end() {
        end if end == End::Consumed as u64 => Error::Consumed,
        end if end == End::Dropped as u64 => Error::Dropped,
        end if end == End::Expired as u64 => Error::Expired,
        _ => stale(id),
    }
}

fn stale(id: EntryId) -> Error {
    Error::Stale { what: Object::Reference, index: id.index, generation: id.generation }
}

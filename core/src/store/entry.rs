//! The reference table: `create_ref`, `map_ref`, `claim_ref`, `detach`, `drop_ref`.
//!
//! A reference is an entry with one owner at most and one hold on the version it was made of.
//! Making or mapping one touches its record, a region's, a holder's and one count, at any size.

use super::error::{Error, Object, Resource, Result};
use super::ids::{EntryId, HolderId, RegionId};
use super::list::Chain;
use super::records::{
    STATE_BITS, STATE_LIVE, Table, WORD, entry as field, holder, region, superblock,
};
use super::region::check_range;
use super::{Memory, Store};

/// How a generation of an entry ended, in the low bits of its `END` word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Consumed = 1,
    Dropped = 2,
    Expired = 3,
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
        let at = self.region_at(holder, region)?;
        let base = self.region_range(at, offset, len)?;
        let version = self.mem.load_u32(at + region::VERSION);
        let holder_at = self.lay.holders.at(holder.index());
        self.check_entry_quota(holder_at)?;
        self.require(self.lay.entries, 1, Resource::Entries)?;
        self.check_hold(version)?;
        self.hold(version);
        let (index, generation) = self.take_record(self.lay.entries);
        let at = self.lay.entries.at(index);
        if generation == 1 {
            // Never used before: its bytes are whatever the pool had.
            self.mem.store_u64(at + field::END, 0);
        }
        self.mem.store_u64(at + field::BASE, base);
        self.mem.store_u64(at + field::LEN, len);
        self.mem.store_u32(at + field::VERSION, version);
        self.own_entry(holder, index);
        Ok(EntryId { index, generation })
    }

    /// Whether a holder may own one more reference.
    ///
    /// # Errors
    /// [`Error::Quota`].
    fn check_entry_quota(&self, holder_at: u64) -> Result<()> {
        let count = u64::from(self.mem.load_u32(holder_at + holder::ENTRY_COUNT));
        let limit = u64::from(self.mem.load_u32(holder_at + holder::ENTRIES_MAX));
        if count < limit {
            return Ok(());
        }
        Err(Error::Quota { what: Resource::Entries, limit, wanted: count + 1 })
    }

    fn own_entry(&mut self, holder: HolderId, index: u32) {
        let at = self.lay.entries.at(index);
        let holder_at = self.lay.holders.at(holder.index());
        self.mem.store_u32(at + field::OWNER, holder.index() + 1);
        self.link(Chain::entries(self.lay.entries), holder_at + holder::ENTRIES, index);
        let count = self.mem.load_u32(holder_at + holder::ENTRY_COUNT);
        self.mem.store_u32(holder_at + holder::ENTRY_COUNT, count + 1);
    }

    /// Takes a reference from its owner, or from the references without one.
    fn disown_entry(&mut self, index: u32) {
        let at = self.lay.entries.at(index);
        let Some(owner) = self.mem.load_u32(at + field::OWNER).checked_sub(1) else {
            let detached = self.mem.load_u64(superblock::DETACHED);
            self.mem.store_u64(superblock::DETACHED, detached - 1);
            return;
        };
        let holder_at = self.lay.holders.at(owner);
        self.unlink(Chain::entries(self.lay.entries), holder_at + holder::ENTRIES, index);
        let count = self.mem.load_u32(holder_at + holder::ENTRY_COUNT);
        self.mem.store_u32(holder_at + holder::ENTRY_COUNT, count - 1);
        self.mem.store_u32(at + field::OWNER, 0);
    }

    /// Where the live record of a reference is.
    ///
    /// # Errors
    /// [`Error::Consumed`], [`Error::Dropped`], [`Error::Expired`] if that is how this
    /// generation ended and no other has since; else [`Error::Stale`].
    #[inline(always)]
    pub(super) fn entry_at(&self, id: EntryId) -> Result<u64> {
        let table = self.lay.entries;
        if id.index < self.control(table, Table::HIGH) {
            let at = table.at(id.index);
            let word = self.mem.load_u64(at + WORD);
            if word >> STATE_BITS == id.generation && word & STATE_LIVE != 0 {
                return Ok(at);
            }
            return Err(self.how_it_ended(at, id));
        }
        Err(stale(id))
    }

    #[cold]
    fn how_it_ended(&self, at: u64, id: EntryId) -> Error {
        let end = self.mem.load_u64(at + field::END);
        if end >> STATE_BITS != id.generation {
            return stale(id);
        }
        match end & ((1 << STATE_BITS) - 1) {
            reason if reason == End::Consumed as u64 => Error::Consumed,
            reason if reason == End::Dropped as u64 => Error::Dropped,
            reason if reason == End::Expired as u64 => Error::Expired,
            _ => stale(id),
        }
    }

    /// Bytes that a reference stands for.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for the reference.
    pub fn ref_len(&self, id: EntryId) -> Result<u64> {
        Ok(self.mem.load_u64(self.entry_at(id)? + field::LEN))
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
        let holder_at = self.holder_at(holder)?;
        let at = self.entry_at(id)?;
        check_range(offset, len, self.mem.load_u64(at + field::LEN))?;
        let base = self.mem.load_u64(at + field::BASE) + offset;
        let version = self.mem.load_u32(at + field::VERSION);
        self.check_region(holder_at)?;
        self.check_hold(version)?;
        self.hold(version);
        Ok(self.new_region(holder, version, (base, len), writable))
    }

    /// Copies bytes of what a reference stands for, without mapping it.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for the reference and the range.
    pub fn read_ref(&self, id: EntryId, offset: u64, target: &mut [u8]) -> Result<()> {
        let at = self.entry_at(id)?;
        check_range(offset, target.len() as u64, self.mem.load_u64(at + field::LEN))?;
        let start = self.mem.load_u64(at + field::BASE) + offset;
        self.read_tree(self.mem.load_u32(at + field::VERSION), start, target);
        Ok(())
    }

    /// Takes a reference over, whoever owned it: the caller owns it under a new identifier, and
    /// the old one answers [`Error::Consumed`] from now on. Who may do so is decided above.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for holder and reference; [`Error::Quota`].
    pub fn claim_ref(&mut self, holder: HolderId, id: EntryId) -> Result<EntryId> {
        let holder_at = self.holder_at(holder)?;
        let at = self.entry_at(id)?;
        if self.mem.load_u32(at + field::OWNER) != holder.index() + 1 {
            self.check_entry_quota(holder_at)?;
        }
        let generation = id.generation + 1;
        let (old, new) = (word(id.generation), word(generation));
        self.mem.compare_exchange_u64(at + WORD, old, new).map_err(|_| Error::Consumed)?;
        self.mem.store_u64(at + field::END, end_word(id.generation, End::Consumed));
        self.disown_entry(id.index);
        self.own_entry(holder, id.index);
        Ok(EntryId { index: id.index, generation })
    }

    /// Gives up a reference without ending it: whoever has the identifier may claim it.
    ///
    /// # Errors
    /// As [`Store::drop_ref`]; [`Error::OutOf`] if the store has its limit of such references.
    pub fn detach(&mut self, holder: HolderId, id: EntryId) -> Result<()> {
        self.owned_entry(holder, id)?;
        let detached = self.mem.load_u64(superblock::DETACHED);
        let limit = u64::from(self.lay.config.detached_max);
        if detached >= limit {
            return Err(Error::OutOf { what: Resource::Detached, limit, in_use: detached });
        }
        self.disown_entry(id.index);
        self.mem.store_u64(superblock::DETACHED, detached + 1);
        Ok(())
    }

    /// Ends a reference. Regions that were mapped from it stay. Constant work.
    ///
    /// # Errors
    /// As [`Store::map_ref`] for holder and reference; [`Error::NotOwner`].
    pub fn drop_ref(&mut self, holder: HolderId, id: EntryId) -> Result<()> {
        self.owned_entry(holder, id)?;
        self.end_entry(id.index, End::Dropped);
        Ok(())
    }

    fn owned_entry(&self, holder: HolderId, id: EntryId) -> Result<()> {
        self.holder_at(holder)?;
        let at = self.entry_at(id)?;
        if self.mem.load_u32(at + field::OWNER) == holder.index() + 1 {
            Ok(())
        } else {
            Err(Error::NotOwner)
        }
    }

    /// Ends the live reference in a slot.
    pub(super) fn end_entry(&mut self, index: u32, end: End) {
        let at = self.lay.entries.at(index);
        let generation = self.mem.load_u64(at + WORD) >> STATE_BITS;
        self.mem.store_u64(at + field::END, end_word(generation, end));
        self.disown_entry(index);
        let version = self.mem.load_u32(at + field::VERSION);
        self.put_record(self.lay.entries, index);
        self.release(version);
    }
}

fn word(generation: u64) -> u64 {
    generation << STATE_BITS | STATE_LIVE
}

fn end_word(generation: u64, end: End) -> u64 {
    generation << STATE_BITS | end as u64
}

fn stale(id: EntryId) -> Error {
    Error::Stale { what: Object::Reference, index: id.index, generation: id.generation }
}

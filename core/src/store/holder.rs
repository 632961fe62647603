//! Holders: who owns regions and references, with their quotas, and what happens when they go.

use super::error::{Error, Object, Resource, Result};
use super::ids::HolderId;
use super::records::{STATE_BITS, STATE_LEAVING, WORD, holder as field, region, superblock};
use super::{Memory, Store};
use crate::time::Instant;

/// What a holder may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pages: those of the regions that it allocated, written or not, and those that its writes
    /// copied or filled in other regions. A region's pages leave the account when it is freed,
    /// even if references keep them alive: those are limited by their number.
    pub pages: u64,
    /// Regions.
    pub regions: u32,
    /// References that it owns.
    pub entries: u32,
}

impl Limits {
    /// Whatever the store has.
    pub const NONE: Self = Self { pages: u64::MAX, regions: u32::MAX, entries: u32::MAX };
}

impl<M: Memory> Store<M> {
    /// Lets a holder in.
    ///
    /// # Errors
    /// [`Error::Pending`], [`Error::OutOf`] holders.
    pub fn holder_join(&mut self, limits: Limits) -> Result<HolderId> {
        self.require(self.lay.holders, 1, Resource::Holders)?;
        let (index, generation) = self.take_record(self.lay.holders);
        let at = self.lay.holders.at(index);
        for zero in
            [field::REGIONS, field::ENTRIES, field::STAGES, field::REGION_COUNT, field::ENTRY_COUNT]
        {
            self.mem.store_u32(at + zero, 0);
        }
        self.mem.store_u64(at + field::PAGES, 0);
        self.mem.store_u64(at + field::PAGES_MAX, limits.pages);
        self.mem.store_u32(at + field::REGIONS_MAX, limits.regions);
        self.mem.store_u32(at + field::ENTRIES_MAX, limits.entries);
        self.mem.store_u64(at + field::EXPIRY, 0);
        Ok(HolderId::new(index, generation))
    }

    /// Ends a holder, by its own wish or because it died. Constant work. From now on its regions
    /// are unusable; [`Store::reclaim`] frees them, and its staged writes. Its references can be
    /// used and claimed until `now` and the store's grace, then they expire.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn holder_leave(&mut self, holder: HolderId, now: Instant) -> Result<()> {
        let at = self.holder_at(holder)?;
        let now = self.advance(now);
        let expiry = now.as_nanos().saturating_add(self.lay.config.grace_ns);
        self.mem.store_u64(at + field::EXPIRY, expiry);
        self.mem.store_u64(at + WORD, holder.generation() << STATE_BITS | STATE_LEAVING);
        self.enqueue(self.lay.holders, superblock::LEAVING_QUEUE, holder.index());
        Ok(())
    }

    /// Remembers the latest time handed in; time never goes back within a store.
    pub(super) fn advance(&mut self, now: Instant) -> Instant {
        let latest = self.now().max(now);
        self.mem.store_u64(superblock::NOW, latest.as_nanos());
        latest
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_nanos(self.mem.load_u64(superblock::NOW))
    }

    /// Where the record of a live holder is.
    ///
    /// # Errors
    /// [`Error::Stale`].
    #[inline(always)]
    pub(super) fn holder_at(&self, holder: HolderId) -> Result<u64> {
        let (index, generation) = (holder.index(), holder.generation());
        self.record(self.lay.holders, index, generation, Object::Holder)
    }

    /// Whether a holder may have so many more pages on its account.
    ///
    /// # Errors
    /// [`Error::Quota`].
    pub(super) fn check_pages(&self, holder_at: u64, pages: u64) -> Result<()> {
        let limit = self.mem.load_u64(holder_at + field::PAGES_MAX);
        let wanted = self.mem.load_u64(holder_at + field::PAGES).saturating_add(pages);
        if wanted <= limit {
            return Ok(());
        }
        Err(Error::Quota { what: Resource::Frames, limit, wanted })
    }

    /// Puts pages on a holder's account.
    pub(super) fn charge(&mut self, holder_at: u64, pages: u64) {
        let had = self.mem.load_u64(holder_at + field::PAGES);
        self.mem.store_u64(holder_at + field::PAGES, had + pages);
    }

    /// Puts a page that a region got on its holder's account.
    pub(super) fn charge_page(&mut self, region: u64) {
        let holder = self.mem.load_u32(region + region::HOLDER);
        let charged = self.mem.load_u64(region + region::CHARGED);
        self.mem.store_u64(region + region::CHARGED, charged + 1);
        self.charge(self.lay.holders.at(holder), 1);
    }
}

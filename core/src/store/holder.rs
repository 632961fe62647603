//! Holders: who owns regions and references, with their quotas, and what happens when they go.

use super::error::{Error, Object, Resource, Result};
use super::ids::HolderId;
use super::participant::RECLAIMER;
use super::records::{LINK, STATE_LEAVING, STATE_LIVE, WORD, holder as field, region, superblock};
use super::{Memory, Store};
use crate::memory::Record;
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
        self.require(self.lay.holders, Resource::Holders)?;
        let index = self.take(self.lay.holders);
        let at = self.at(self.lay.holders, index);
        for zero in [field::STAGE_COUNT, field::REGION_COUNT, field::ENTRY_COUNT] {
            self.mem.store_u32(at + zero, 0);
        }
        self.mem.store_u32(at + field::PARTICIPANT, self.me);
        self.mem.store_u64(at + field::LOST, 0);
        self.mem.store_u64(at + field::PAGES, 0);
        self.mem.store_u64(at + field::PAGES_MAX, limits.pages);
        self.mem.store_u32(at + field::REGIONS_MAX, limits.regions);
        self.mem.store_u32(at + field::ENTRIES_MAX, limits.entries);
        self.mem.store_u64(at + field::EXPIRY, 0);
        let generation = self.go_live(self.lay.holders, index);
        self.close();
        self.sound(Ok(HolderId::new(index, generation)))
    }

    /// Ends a holder, by its own wish or because it died. Constant work. From now on its regions
    /// are unusable; [`Store::reclaim`] frees them, and its staged writes. Its references can be
    /// used and claimed until `now` and the store's grace, then they expire.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn holder_leave(&mut self, holder: HolderId, now: Instant) -> Result<()> {
        self.holder_at(holder)?;
        let now = if self.me == RECLAIMER { self.advance(now) } else { now };
        self.leave_at(holder.index(), now);
        Ok(())
    }

    /// Ends the live holder in a slot.
    pub(super) fn leave_at(&mut self, index: u32, now: Instant) {
        let at = self.at(self.lay.holders, index);
        let expiry = now.as_nanos().saturating_add(self.lay.config.grace_ns);
        self.mem.store_u64(at + field::EXPIRY, expiry);
        let word = self.mem.load_u64(at + WORD);
        self.mem.store_u64(at + WORD, word - STATE_LIVE + STATE_LEAVING);
        self.post(superblock::LEFT, at + LINK, index + 1);
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
        Ok(self.live_holder_line(holder)?.offset())
    }

    /// The first line of that record.
    ///
    /// # Errors
    /// [`Error::Stale`].
    #[inline(always)]
    pub(super) fn live_holder_line(&self, holder: HolderId) -> Result<Record<'_, M>> {
        let (index, generation) = (holder.index(), holder.generation());
        self.live(self.lay.holders, index, generation, Object::Holder)
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
        self.set_u64(holder_at + field::PAGES, had.wrapping_add(pages));
    }

    /// Puts a page that a region got on its holder's account.
    pub(super) fn charge_page(&mut self, region: u64) {
        let holder = self.mem.load_u32(region + region::HOLDER);
        let charged = self.mem.load_u64(region + region::CHARGED);
        self.set_u64(region + region::CHARGED, charged.wrapping_add(1));
        self.charge(self.at(self.lay.holders, holder), 1);
    }
}

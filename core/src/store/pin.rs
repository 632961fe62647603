//! Pins: snapshots of a range, for responses that are still on their way.
//!
//! A pin is one more hold on a version, so whoever writes meanwhile writes to a copy. It belongs
//! to the caller that made it, not to a holder: a response must stay whole until the device has
//! let go of it, even if the one who asked is gone.

use super::error::{Object, Resource, Result};
use super::ids::{EntryId, HolderId, PinId, RegionId};
use super::layout::{PAGE_BYTES, PAGE_SHIFT};
use super::records::{entry, pin as field, region};
use super::region::check_range;
use super::{Memory, Store};
use crate::memory::Loan;

impl<M: Memory> Store<M> {
    /// Keeps `len` bytes at `offset` of a region as they are now. Constant work.
    ///
    /// # Errors
    /// As [`Store::read`]; [`super::Error::Pending`], [`super::Error::OutOf`].
    pub fn pin(
        &mut self,
        holder: HolderId,
        region: RegionId,
        offset: u64,
        len: u64,
    ) -> Result<PinId> {
        let at = self.region_at(holder, region)?;
        let base = self.region_range(at, offset, len)?;
        self.new_pin(self.mem.load_u32(at + region::VERSION), (base, len), |_| true)
    }

    /// Keeps `len` bytes at `offset` of what a reference stands for. Constant work.
    ///
    /// # Errors
    /// As [`Store::read_ref`]; [`super::Error::Pending`], [`super::Error::OutOf`].
    pub fn pin_ref(&mut self, id: EntryId, offset: u64, len: u64) -> Result<PinId> {
        let (at, word) = self.entry_at(id)?;
        check_range(offset, len, self.mem.load_u64(at + entry::LEN))?;
        let base = self.in_tree(self.mem.load_u64(at + entry::BASE), offset, len)?;
        let version = self.mem.load_u32(at + entry::VERSION);
        let pin = self.new_pin(version, (base, len), |store| store.is_entry(at, word));
        self.entry_result(id, (at, word), pin)
    }

    fn new_pin(
        &mut self,
        version: u32,
        (base, len): (u64, u64),
        valid: impl Fn(&Self) -> bool,
    ) -> Result<PinId> {
        let count = self.check_hold(version)?;
        let free = self.next_free(&self.lay.pins, Resource::Pins)?;
        let pin = free.line;
        pin.store_u32(field::VERSION, version);
        pin.store_u64(field::BASE, base);
        pin.store_u64(field::LEN, len);
        pin.store_u32(field::PARTICIPANT, self.me);
        let (live, generation) = self.enlivening(&free);
        if !self.hold([free.taking, live], count, valid) {
            return Err(self.out_of_holds(version));
        }
        self.sound(Ok(PinId::new(free.index, generation)))
    }

    pub(super) fn pin_at(&self, pin: PinId) -> Result<u64> {
        self.record(self.lay.pins, pin.index(), pin.generation(), Object::Pin)
    }

    /// Notes beside a pin whom it is for, in words of the caller's own.
    ///
    /// # Errors
    /// [`super::Error::Stale`].
    pub fn mark_pin(&mut self, pin: PinId, mark: u64) -> Result<()> {
        let at = self.pin_at(pin)?;
        self.mem.store_u64(at + field::MARK, mark);
        Ok(())
    }

    /// What was noted last beside a pin: something older if nothing was.
    ///
    /// # Errors
    /// [`super::Error::Stale`].
    pub fn pin_mark(&self, pin: PinId) -> Result<u64> {
        let at = self.pin_at(pin)?;
        self.sound(Ok(self.mem.load_u64(at + field::MARK)))
    }

    /// Copies bytes out of a pinned range.
    ///
    /// # Errors
    /// [`super::Error::Stale`], [`super::Error::ZeroLength`], [`super::Error::Overflow`],
    /// [`super::Error::Range`].
    #[inline]
    pub fn read_pin(&self, pin: PinId, offset: u64, target: &mut [u8]) -> Result<()> {
        let at = self.pin_at(pin)?;
        check_range(offset, target.len() as u64, self.mem.load_u64(at + field::LEN))?;
        let len = target.len() as u64;
        let start = self.in_tree(self.mem.load_u64(at + field::BASE), offset, len)?;
        self.read_tree(self.mem.load_u32(at + field::VERSION), start, target);
        self.sound(Ok(()))
    }

    /// Where the bytes from `offset` of a pinned range are in the pool, and how many of them lie
    /// together: for sending them from where they are. The place is none for a page that was
    /// never written, which reads as zeros.
    ///
    /// # Errors
    /// [`super::Error::Stale`], [`super::Error::Range`].
    pub fn pin_place(&self, pin: PinId, offset: u64) -> Result<(Option<u64>, u64)> {
        let at = self.pin_at(pin)?;
        let len = self.mem.load_u64(at + field::LEN);
        check_range(offset, 1, len)?;
        let start = self.in_tree(self.mem.load_u64(at + field::BASE), offset, 1)?;
        let version = self.mem.load_u32(at + field::VERSION);
        let in_page = start & (PAGE_BYTES - 1);
        let place = self.locate(version, start >> PAGE_SHIFT).map(|frame| frame + in_page);
        self.sound(Ok((place, (len - offset).min(PAGE_BYTES - in_page))))
    }

    /// Lends bytes from `offset` of a pinned range to a device: as many as lie together, at least
    /// `least` and at most `most`, in memory that can be lent. They stay as they are while the
    /// range is pinned: to be unpinned when the device has given them back.
    #[inline]
    pub fn pin_loan(&self, pin: PinId, offset: u64, (least, most): (u32, u32)) -> Option<Loan> {
        let mut first = None;
        self.pin_runs(pin, offset, most.into(), |place, bytes| {
            first.get_or_insert((place, bytes));
        })
        .ok()?;
        let (place, together) = first?;
        let bytes = together as u32;
        if bytes < least { None } else { self.mem.loan(place?, bytes) }
    }

    /// Lets a pinned range go. Constant work.
    ///
    /// # Errors
    /// [`super::Error::Stale`].
    pub fn unpin(&mut self, pin: PinId) -> Result<()> {
        self.pin_at(pin)?;
        self.end_pin(pin.index());
        self.sound(Ok(()))
    }

    /// Ends the live pin in a slot.
    pub(super) fn end_pin(&mut self, index: u32) {
        let pin = self.line(self.at(self.lay.pins, index));
        let version = pin.load_u32(field::VERSION);
        let index = self.bounded(index, self.lay.pins.limit);
        let changes = self.ending(&self.lay.pins, (index, pin));
        self.release_all(changes, version);
    }
}

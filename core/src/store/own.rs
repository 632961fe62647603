//! Pages of a region that nobody else sees: where they are, and making them so.
//!
//! For callers that map the pool and write to it where it is, instead of having bytes copied in.

use super::error::{Error, Result};
use super::ids::{HolderId, RegionId};
use super::layout::{PAGE_BYTES, PAGE_SHIFT};
use super::records::{region as field, version};
use super::{Memory, Store};

/// Where a page of a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePlace {
    /// Where the page begins in the pool; none if it was never written.
    pub place: Option<u64>,
    /// Whether nobody else sees it, so that it may be written where it is.
    pub is_own: bool,
    /// Bytes of the region's first page that are before the region.
    pub base: u64,
    /// Bytes of the region.
    pub length: u64,
    /// Bytes from the offset to the end of the page.
    pub bytes: u64,
}

impl<M: Memory> Store<M> {
    /// Whether `length` bytes at `offset` are within a region.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`], [`Error::ZeroLength`], [`Error::Overflow`],
    /// [`Error::Range`].
    pub fn check_region_range(
        &self,
        holder: HolderId,
        region: RegionId,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let at = self.region_at(holder, region)?;
        self.region_range(at, offset, length).map(drop)
    }

    /// Where the page of byte `offset` of a region is, for reading.
    ///
    /// # Errors
    /// As [`Store::own_place`].
    pub fn page_place(&self, holder: HolderId, region: RegionId, offset: u64) -> Result<PagePlace> {
        let (own, _) = self.own_place(holder, region, offset)?;
        let at = self.region_at(holder, region)?;
        let start = self.region_range(at, offset, 1)?;
        let in_page = start & (PAGE_BYTES - 1);
        let held = self.mem.load_u32(at + field::VERSION);
        let place = self.locate(held, start >> PAGE_SHIFT);
        let base = self.mem.load_u64(at + field::BASE) & (PAGE_BYTES - 1);
        self.sound(Ok(PagePlace {
            place,
            is_own: own.is_some(),
            base,
            length: self.mem.load_u64(at + field::LEN),
            bytes: PAGE_BYTES - in_page,
        }))
    }

    /// Where byte `offset` of a region is in the pool, if its page is the region's own, and how
    /// many bytes of the region follow in that page. What is own stays own, and where it is, until
    /// the region is freed, or a reference or a pin is made of it: until then its bytes may be
    /// written where they are. The place is none for a page that others see too, or that was never
    /// written: [`Store::own_page`] makes it own.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`], [`Error::ReadOnly`], [`Error::Overflow`],
    /// [`Error::Range`].
    pub fn own_place(
        &self,
        holder: HolderId,
        region: RegionId,
        offset: u64,
    ) -> Result<(Option<u64>, u64)> {
        let at = self.region_at(holder, region)?;
        if self.mem.load_u32(at + field::WRITABLE) == 0 {
            return Err(Error::ReadOnly);
        }
        let start = self.region_range(at, offset, 1)?;
        let in_page = start & (PAGE_BYTES - 1);
        let bytes = (self.mem.load_u64(at + field::LEN) - offset).min(PAGE_BYTES - in_page);
        let held = self.mem.load_u32(at + field::VERSION);
        if !self.count(held).exclusive() {
            return self.sound(Ok((None, bytes)));
        }
        let version_at = self.version_at(held);
        let threshold = self.mem.load_u64(version_at + version::THRESHOLD);
        let spot = self.descend(version_at, threshold, start >> PAGE_SHIFT);
        let frame = self.own_frame(spot, threshold);
        self.sound(Ok((frame.map(|frame| self.frame_at(frame) + in_page), bytes)))
    }

    /// Makes the page of byte `offset` of a region its own: a copy if others see it too, zeros if
    /// it was never written. Its bytes do not change.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn own_page(&mut self, holder: HolderId, region: RegionId, offset: u64) -> Result<()> {
        let mut byte = [0; 1];
        self.read(holder, region, offset, &mut byte)?;
        self.write(holder, region, offset, &byte)
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::memory::{Atomic, Memory};
    use crate::store::{Config, Limits};

    const PAGES: u64 = 70;

    #[test]
    fn own_places_are_where_reads_look_and_end_with_a_reference() {
        let mut words = vec![0; (4 << 20) / 8];
        let config = Config { participants: 1, ..Config::for_pool_bytes(4 << 20) };
        let mut store = Store::format(Atomic::new(&mut words), &config).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, PAGES * PAGE_BYTES - 6).expect("room");
        let at = 65 * PAGE_BYTES + 100;
        assert_eq!(store.own_place(holder, region, at), Ok((None, PAGE_BYTES - 100)));
        store.own_page(holder, region, at).expect("room");
        let (place, bytes) = store.own_place(holder, region, at).expect("own");
        let place = place.expect("own now");
        assert_eq!(bytes, PAGE_BYTES - 100);
        store.memory().write(place, b"in place");
        let mut found = [0; 8];
        store.read(holder, region, at, &mut found).expect("in range");
        assert_eq!(&found, b"in place");
        // The last page ends before its frame does.
        let last = (PAGES - 1) * PAGE_BYTES;
        assert_eq!(store.own_place(holder, region, last), Ok((None, PAGE_BYTES - 6)));
        // Others see it: it is not to be written where it is any more.
        let entry = store.create_ref(holder, region, 0, PAGES * PAGE_BYTES - 6).expect("room");
        assert_eq!(store.own_place(holder, region, at), Ok((None, PAGE_BYTES - 100)));
        store.own_page(holder, region, at).expect("room");
        let (copy, _) = store.own_place(holder, region, at).expect("own");
        let copy = copy.expect("own again");
        assert_ne!(copy, place, "the reference keeps the old one");
        store.memory().write(copy, b"elsewhere"[..8].try_into().expect("8 bytes"));
        store.read_ref(entry, at, &mut found).expect("in range");
        assert_eq!(&found, b"in place");
        assert!(store.own_place(holder, region, PAGES * PAGE_BYTES - 6).is_err());
        let mapped = store.map_ref(holder, entry, 0, PAGE_BYTES, false).expect("room");
        assert_eq!(store.own_place(holder, mapped, 0), Err(Error::ReadOnly));
        store.check(&mut vec![0; store.check_scratch_bytes()]).expect("sound");
    }
}

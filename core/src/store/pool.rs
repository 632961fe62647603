//! Taking records, nodes and frames from their tables and giving them back.
//!
//! A table starts as a high-water mark of zero, so that a pool of any size is formatted without
//! touching it, and what was given back comes first. Nothing here trusts bytes above the mark.

use super::error::{Error, Object, Resource, Result};
use super::ids::GENERATION_MAX;
use super::layout::{NODE_SHIFT, PAGE_SHIFT};
use super::records::{LINK, STATE_BITS, STATE_FREE, STATE_LIVE, Table, WORD, stamp};
use super::{Memory, Store};

/// The last generation of a record with an identifier of one word, and the free word after it.
const WORD_RETIRED: u64 = (GENERATION_MAX + 1) << STATE_BITS | STATE_FREE;

impl<M: Memory> Store<M> {
    #[inline(always)]
    pub(super) fn control(&self, table: Table, field: u64) -> u32 {
        self.mem.load_u32(table.control + field)
    }

    #[inline]
    fn add(&mut self, table: Table, field: u64, change: i32) {
        let value = self.control(table, field).checked_add_signed(change);
        let value = value.expect("a table's counter left its range");
        self.mem.store_u32(table.control + field, value);
    }

    /// Records that may still be taken without a reservation.
    pub(super) fn available(&self, table: Table) -> u64 {
        let taken = u64::from(self.control(table, Table::USED))
            + u64::from(self.control(table, Table::RESERVED))
            + u64::from(self.control(table, Table::RETIRED));
        u64::from(table.limit) - taken
    }

    /// Whether `count` records may be taken.
    ///
    /// # Errors
    /// [`Error::Pending`] if there may soon be enough, else [`Error::OutOf`].
    #[inline]
    pub(super) fn require(&self, table: Table, count: u64, what: Resource) -> Result<()> {
        let available = self.available(table);
        if available >= count { Ok(()) } else { Err(self.shortage(table, count, what)) }
    }

    #[cold]
    fn shortage(&self, table: Table, count: u64, what: Resource) -> Error {
        let limit = u64::from(table.limit);
        if count <= limit && self.pending() {
            return Error::Pending;
        }
        Error::OutOf { what, limit, in_use: limit - self.available(table) }
    }

    /// Promises `count` records, which were checked to be available.
    pub(super) fn reserve(&mut self, table: Table, count: u32) {
        debug_assert!(self.available(table) >= u64::from(count));
        let value = self.control(table, Table::RESERVED) + count;
        self.mem.store_u32(table.control + Table::RESERVED, value);
    }

    /// Takes the promise of `count` records back.
    pub(super) fn unreserve(&mut self, table: Table, count: u32) {
        if count != 0 {
            let value = self.control(table, Table::RESERVED).checked_sub(count);
            let value = value.expect("more promises were taken back than made");
            self.mem.store_u32(table.control + Table::RESERVED, value);
        }
    }

    /// Takes a slot: its index, and whether it was never used before.
    ///
    /// # Panics
    /// If there is none: callers check with [`Store::require`] first.
    fn take(&mut self, table: Table, link_field: u64) -> (u32, bool) {
        self.add(table, Table::USED, 1);
        let link = self.control(table, Table::FREE);
        if link != 0 {
            let next = self.mem.load_u32(table.at(link - 1) + link_field);
            self.mem.store_u32(table.control + Table::FREE, next);
            return (link - 1, false);
        }
        let high = self.control(table, Table::HIGH);
        assert!(high < table.limit, "a table of {} was overdrawn", table.limit);
        self.mem.store_u32(table.control + Table::HIGH, high + 1);
        (high, true)
    }

    /// Takes a frame or node and stamps it. Its bytes are whatever they were.
    pub(super) fn take_stamped(&mut self, table: Table, stamp: u64) -> u32 {
        let (index, _) = self.take(table, 0);
        self.mem.store_u64(table.at(index), stamp);
        index
    }

    /// Gives a frame or node back.
    ///
    /// # Panics
    /// If it is free already: a frame given back twice would be owned twice.
    pub(super) fn put_stamped(&mut self, table: Table, index: u32) {
        let at = table.at(index);
        assert!(self.mem.load_u64(at) & stamp::FREE == 0, "slot {index} was given back twice");
        let link = self.control(table, Table::FREE);
        self.mem.store_u64(at, stamp::FREE | u64::from(link));
        self.mem.store_u32(table.control + Table::FREE, index + 1);
        self.add(table, Table::USED, -1);
    }

    /// Takes a version's slot; the flag says whether it was never used before.
    pub(super) fn take_version(&mut self) -> (u32, bool) {
        self.take(self.lay.versions, LINK)
    }

    /// Takes a record that is named by an identifier: its index and generation.
    pub(super) fn take_record(&mut self, table: Table) -> (u32, u64) {
        let (index, fresh) = self.take(table, LINK);
        let at = table.at(index);
        let generation = if fresh { 1 } else { self.mem.load_u64(at + WORD) >> STATE_BITS };
        self.mem.store_u64(at + WORD, generation << STATE_BITS | STATE_LIVE);
        (index, generation)
    }

    /// Gives a record back under its next generation, or retires it after its last.
    pub(super) fn put_record(&mut self, table: Table, index: u32) {
        let at = table.at(index);
        let generation = (self.mem.load_u64(at + WORD) >> STATE_BITS) + 1;
        let word = generation << STATE_BITS | STATE_FREE;
        self.mem.store_u64(at + WORD, word);
        if word >= WORD_RETIRED {
            self.add(table, Table::USED, -1);
            self.add(table, Table::RETIRED, 1);
            return;
        }
        self.put_slot(table, index);
    }

    /// Puts a slot of a table of records on its free list.
    pub(super) fn put_slot(&mut self, table: Table, index: u32) {
        let link = self.control(table, Table::FREE);
        self.mem.store_u32(table.at(index) + LINK, link);
        self.mem.store_u32(table.control + Table::FREE, index + 1);
        self.add(table, Table::USED, -1);
    }

    /// Where the live record that an identifier names is.
    ///
    /// # Errors
    /// [`Error::Stale`] if it names none.
    #[inline(always)]
    pub(super) fn record(
        &self,
        table: Table,
        index: u32,
        generation: u64,
        what: Object,
    ) -> Result<u64> {
        let at = table.at(index);
        if index < self.control(table, Table::HIGH)
            && self.mem.load_u64(at + WORD) == (generation << STATE_BITS | STATE_LIVE)
        {
            return Ok(at);
        }
        Err(Error::Stale { what, index, generation })
    }

    /// Where a frame's bytes are.
    #[inline(always)]
    pub(super) fn frame_at(&self, frame: u32) -> u64 {
        self.lay.frame_base + (u64::from(frame) << PAGE_SHIFT)
    }

    /// Where a node's bytes are.
    #[inline(always)]
    pub(super) fn node_at(&self, node: u32) -> u64 {
        self.lay.node_base + (u64::from(node) << NODE_SHIFT)
    }

    /// The number under which a frame was made.
    #[inline(always)]
    pub(super) fn frame_stamp(&self, frame: u32) -> u64 {
        self.mem.load_u64(self.lay.frames.at(frame))
    }

    /// The number under which a node was made.
    #[inline(always)]
    pub(super) fn node_stamp(&self, node: u32) -> u64 {
        self.mem.load_u64(self.lay.nodes.at(node))
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::memory::Plain;
    use crate::store::records::superblock;
    use crate::store::{Config, Layout, Limits, RegionId};

    fn config() -> Config {
        Config { regions: 2, entries: 2, ..Config::for_pool_bytes(1 << 20) }
    }

    #[test]
    fn a_slot_is_retired_after_its_last_generation() {
        let mut pool = vec![!0; Layout::new(&config()).unwrap().bytes() as usize / 8];
        let mut store = Store::format(Plain::new(&mut pool), &config()).unwrap();
        let holder = store.holder_join(Limits::NONE).unwrap();
        let region = store.alloc(holder, 1).unwrap();
        let at = store.lay.regions.at(region.index());
        store.mem.store_u64(at + WORD, GENERATION_MAX << STATE_BITS | STATE_LIVE);
        let last = RegionId::new(region.index(), GENERATION_MAX);
        store.free(holder, last).unwrap();
        let stats = store.stats().regions;
        assert_eq!((stats.in_use, stats.retired), (0, 1));
        let other = store.alloc(holder, 1).unwrap();
        assert_ne!(other.index(), region.index());
        while store.reclaim(crate::time::Instant::ZERO, 1) == 1 {}
        let refused = store.alloc(holder, 1);
        let out = Error::OutOf { what: Resource::Regions, limit: 2, in_use: 2 };
        assert_eq!(refused, Err(out));
        store.check(&mut vec![0; store.check_scratch_bytes()]).unwrap();
    }

    #[test]
    fn version_numbers_end_in_an_error() {
        let mut pool = vec![!0; Layout::new(&config()).unwrap().bytes() as usize / 8];
        let mut store = Store::format(Plain::new(&mut pool), &config()).unwrap();
        let holder = store.holder_join(Limits::NONE).unwrap();
        store.mem.store_u64(superblock::NUMBER, stamp::NUMBER_MAX - 1);
        let region = store.alloc(holder, 1).unwrap();
        store.write(holder, region, 0, &[1]).unwrap();
        store.create_ref(holder, region, 0, 1).unwrap();
        let refused = store.write(holder, region, 0, &[2]);
        assert!(matches!(refused, Err(Error::OutOf { what: Resource::Versions, .. })));
    }
}

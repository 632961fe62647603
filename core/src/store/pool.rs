//! Records, nodes and frames: taking them, giving them back, promises, and where they are.
//!
//! A table starts as a high-water mark of zero, so that a pool of any size is formatted without
//! touching it, and what was given back comes first. Nothing here trusts bytes above the mark.

use super::cache::Free;
use super::change::Change;
use super::error::{Error, Object, Resource, Result};
use super::ids::GENERATION_MAX;
use super::layout::{NODE_SHIFT, PAGE_SHIFT};
use super::records::{
    STATE_BITS, STATE_FREE, STATE_LIVE, Table, WORD, participant, stamp, version,
};
use super::redo::value;
use super::{Memory, Store};
use crate::memory::Record;

/// The last generation of a record with an identifier of one word, and the free word after it.
const WORD_RETIRED: u64 = (GENERATION_MAX + 1) << STATE_BITS | STATE_FREE;

impl<M: Memory> Store<M> {
    /// Where record `index` of a table is. Where others write too, an index that makes no sense
    /// leads to a record that is nobody's, and the operation ends in [`Error::Corrupt`].
    #[inline(always)]
    pub(super) fn at(&self, table: Table, index: u32) -> u64 {
        table.at(self.bounded(index, table.limit))
    }

    #[inline(always)]
    pub(super) fn bounded(&self, index: u32, limit: u32) -> u32 {
        if self.mem.shared() && index >= limit {
            self.corrupt.set(true);
            return limit;
        }
        index
    }

    /// Ends an operation that may have met contradictions on its way.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it has.
    #[inline(always)]
    pub(super) fn sound<T>(&self, result: Result<T>) -> Result<T> {
        if self.mem.shared() && self.corrupt.take() { Err(Error::Corrupt) } else { result }
    }

    /// Records of a table that were ever used.
    #[inline(always)]
    pub(super) fn high(&self, table: Table) -> u32 {
        (value(self.mem.load_u64(table.high())) as u32).min(table.limit)
    }

    /// Whether a record may be looked at: it was used, or its table was cleared at the start.
    #[inline(always)]
    pub(super) fn known(&self, table: Table, index: u32) -> bool {
        if self.mem.shared() {
            index < table.limit
        } else {
            u64::from(index) < self.mem.load_u64(table.high())
        }
    }

    /// Whether a record can be taken, and takes care that it will.
    ///
    /// # Errors
    /// [`Error::Pending`] if there may soon be one, else [`Error::OutOf`].
    #[inline]
    pub(super) fn require(&self, table: Table, what: Resource) -> Result<()> {
        if self.stock(table, 1) { Ok(()) } else { self.require_again(table, what) }
    }

    /// The same once it was not there. What was on its way may have come before it was looked for.
    #[cold]
    fn require_again(&self, table: Table, what: Resource) -> Result<()> {
        match self.shortage(table, 1, what) {
            Error::OutOf { .. } if self.stock(table, 1) => Ok(()),
            error => Err(error),
        }
    }

    /// Whether `promised` frames or nodes can be taken or promised that nobody was promised, and
    /// `count` taken in all, and takes care that they will.
    ///
    /// # Errors
    /// [`Error::Pending`] if there may soon be enough, else [`Error::OutOf`].
    pub(super) fn require_credit(
        &mut self,
        table: Table,
        (credit, count): (u64, u64),
        what: Resource,
    ) -> Result<()> {
        if !self.borrow_credit(table, credit) {
            self.require_credit_again(table, credit, what)?;
        }
        // With credit, or a promise, there is one; it may be on its way between two caches.
        if self.stock(table, count) { Ok(()) } else { Err(Error::Pending) }
    }

    /// As [`Store::require_again`], for credit.
    #[cold]
    fn require_credit_again(&mut self, table: Table, credit: u64, what: Resource) -> Result<()> {
        match self.shortage(table, credit, what) {
            Error::OutOf { .. } if self.borrow_credit(table, credit) => Ok(()),
            error => Err(error),
        }
    }

    #[cold]
    fn shortage(&self, table: Table, count: u64, what: Resource) -> Error {
        let usage = self.usage(table);
        if count <= usage.limit && self.pending() {
            return Error::Pending;
        }
        let in_use = usage.in_use.wrapping_add(usage.reserved).wrapping_add(usage.retired);
        Error::OutOf { what, limit: usage.limit, in_use }
    }

    fn add_promised(&self, table: Table, change: i64) {
        let at = self.cache(table) + participant::PROMISED;
        let promised = self.mem.load_u64(at).wrapping_add_signed(change);
        self.set_u64(at, promised);
    }

    /// Promises `count` frames or nodes, for which there is credit.
    pub(super) fn reserve(&mut self, table: Table, count: u32) {
        debug_assert!(self.credit(table) >= u64::from(count));
        self.add_credit(table, -i64::from(count));
        self.add_promised(table, count.into());
    }

    /// Takes the promise of `count` frames or nodes back.
    pub(super) fn unreserve(&self, table: Table, count: u32) {
        if count != 0 {
            self.add_credit(table, count.into());
            self.add_promised(table, -i64::from(count));
        }
    }

    /// Ends a promise because what was promised is being taken.
    pub(super) fn end_promise(&mut self, table: Table) {
        self.add_promised(table, -1);
    }

    /// Takes a frame or node and stamps it. Its bytes are whatever they were.
    #[inline(always)]
    pub(super) fn take_stamped(&mut self, table: Table, stamp: u64) -> u32 {
        self.add_credit(table, -1);
        self.take_promised(table, stamp)
    }

    /// The same for one that was promised: the promise is gone.
    #[inline(always)]
    pub(super) fn take_promised(&mut self, table: Table, stamp: u64) -> u32 {
        let index = self.take(table);
        let at = self.at(table, index);
        self.set_u64(at, stamp);
        index
    }

    /// Gives a frame or node back.
    ///
    /// # Panics
    /// If it is free already: a frame given back twice would be owned twice. Where others write
    /// too, that is [`Error::Corrupt`].
    pub(super) fn put_stamped(&mut self, table: Table, index: u32) {
        if stamp::is_free(self.mem.load_u64(self.at(table, index))) {
            assert!(self.mem.shared(), "slot {index} was given back twice");
            self.corrupt.set(true);
            return;
        }
        self.put(table, index);
        self.add_credit(table, 1);
    }

    /// How a record that is about to be taken becomes live, when it is filled; its generation.
    #[inline(always)]
    pub(super) fn enlivening<'m>(&self, free: &Free<'m, M>) -> (Change<'m, M>, u64) {
        let word = free.line.load_u64(WORD);
        let generation = (word >> STATE_BITS).max(1);
        let live = generation << STATE_BITS | STATE_LIVE;
        (Change::u64(free.line, WORD, word, live), generation)
    }

    /// Makes a record live, now that it is filled; its generation.
    pub(super) fn go_live(&mut self, table: Table, index: u32) -> u64 {
        let at = self.at(table, index);
        let generation = (self.mem.load_u64(at + WORD) >> STATE_BITS).max(1);
        self.set_u64(at + WORD, generation << STATE_BITS | STATE_LIVE);
        generation
    }

    /// How a record is given back under its next generation, or retired after its last.
    #[inline(always)]
    pub(super) fn ending<'m>(
        &'m self,
        table: &Table,
        (index, line): (u32, Record<'m, M>),
    ) -> [Change<'m, M>; 2] {
        let word = line.load_u64(WORD);
        let free = ((word >> STATE_BITS) + 1) << STATE_BITS | STATE_FREE;
        let last = if free >= WORD_RETIRED {
            self.retiring(table)
        } else {
            self.next_put(table, (index, line))
        };
        [Change::u64(line, WORD, word, free), last]
    }

    /// Gives a record back under its next generation, or retires it after its last.
    pub(super) fn put_record(&mut self, table: Table, index: u32) {
        let index = self.bounded(index, table.limit);
        let changes = self.ending(&table, (index, self.line(table.at(index))));
        self.set_all(changes);
    }

    /// How a record whose generations are used up is counted.
    #[cold]
    pub(super) fn retiring(&self, table: &Table) -> Change<'_, M> {
        let cache = self.line(self.cache(*table));
        let retired = cache.load_u64(participant::RETIRED);
        Change::u64(cache, participant::RETIRED, retired, retired.wrapping_add(1))
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
        Ok(self.live(table, index, generation, what)?.offset())
    }

    /// The first line of that record.
    ///
    /// # Errors
    /// As [`Store::record`].
    #[inline(always)]
    pub(super) fn live(
        &self,
        table: Table,
        index: u32,
        generation: u64,
        what: Object,
    ) -> Result<Record<'_, M>> {
        if self.known(table, index) {
            let line = self.line(table.at(index));
            if line.load_u64(WORD) == (generation << STATE_BITS | STATE_LIVE) {
                return Ok(line);
            }
        }
        Err(Error::Stale { what, index, generation })
    }

    /// Whether a version is in use.
    pub(super) fn is_version(&self, version: u32) -> bool {
        self.mem.load_u64(self.version_at(version) + version::NUMBER) != 0
    }

    /// Where a frame's bytes are.
    #[inline(always)]
    pub(super) fn frame_at(&self, frame: u32) -> u64 {
        let frame = self.bounded(frame, self.lay.config.frames);
        self.lay.frame_base + (u64::from(frame) << PAGE_SHIFT)
    }

    /// Where a node's bytes are.
    #[inline(always)]
    pub(super) fn node_at(&self, node: u32) -> u64 {
        let node = self.bounded(node, self.lay.config.nodes);
        self.lay.node_base + (u64::from(node) << NODE_SHIFT)
    }

    /// The number under which a frame was made.
    #[inline(always)]
    pub(super) fn frame_stamp(&self, frame: u32) -> u64 {
        self.mem.load_u64(self.at(self.lay.frames, frame))
    }

    /// The number under which a node was made.
    #[inline(always)]
    pub(super) fn node_stamp(&self, node: u32) -> u64 {
        self.mem.load_u64(self.at(self.lay.nodes, node))
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

//! Free records: a cache for each participant, and behind the caches the pool's own stacks.
//!
//! A cache has up to a batch of loose records, full batches, and a range of records that nobody
//! ever used. Taking and giving back touch nothing but the participant's lines; the pool is asked
//! for a whole batch at a time, with one compare-and-swap. A store with one participant never
//! gives anything back to the pool.

use super::Store;
use super::change::Change;
use super::error::{Resource, Result};
use super::records::{BATCH, LINK, STAMPED, Table, participant as field, stamp, version};
use super::redo::value;
use crate::memory::{Memory, Record};

/// A link and a number of things behind it, in one word.
#[derive(Clone, Copy)]
struct Chain {
    link: u32,
    count: u32,
}

impl Chain {
    #[inline(always)]
    const fn of(word: u64) -> Self {
        Self { link: word as u32, count: (word >> 32) as u32 }
    }

    #[inline(always)]
    const fn word(self) -> u64 {
        (self.count as u64) << 32 | self.link as u64
    }
}

/// A free record that an operation is about to take.
pub(super) struct Free<'m, M> {
    /// Which.
    pub(super) index: u32,
    /// Its first line.
    pub(super) line: Record<'m, M>,
    /// What takes it out of the cache.
    pub(super) taking: Change<'m, M>,
}

impl<M: Memory> Store<M> {
    /// The next free record of a table without stamps, and how to take it out of the cache, which
    /// is left to the caller. The last thing that may refuse an operation. Tables are handed over
    /// by reference here, since some of it is not inlined.
    ///
    /// # Errors
    /// As [`Store::require`].
    #[inline(always)]
    pub(super) fn next_free(&self, table: &Table, what: Resource) -> Result<Free<'_, M>> {
        let cache = self.line(self.cache(*table));
        let before = cache.load_u64(field::ACTIVE);
        let active = Chain::of(before);
        if active.count == 0 {
            return self.next_free_behind(table, what);
        }
        Ok(self.first_of(table, (cache, before), active))
    }

    /// How to take the first record of `chain`, where the loose ones were `before`.
    #[inline(always)]
    fn first_of<'m>(
        &'m self,
        table: &Table,
        (cache, before): (Record<'m, M>, u64),
        chain: Chain,
    ) -> Free<'m, M> {
        let index = self.bounded(chain.link.wrapping_sub(1), table.limit);
        let line = self.line(table.at(index));
        let rest = Chain { link: line.load_u32(LINK), count: chain.count - 1 };
        Free { index, line, taking: Change::u64(cache, field::ACTIVE, before, rest.word()) }
    }

    /// The same where no loose records are left.
    #[cold]
    #[inline(never)]
    fn next_free_behind(&self, table: &Table, what: Resource) -> Result<Free<'_, M>> {
        self.require(*table, what)?;
        let cache = self.line(self.cache(*table));
        let before = cache.load_u64(field::ACTIVE);
        let active = Chain::of(before);
        if active.count != 0 {
            return Ok(self.first_of(table, (cache, before), active));
        }
        if let Some(link) = self.take_full(*table) {
            return Ok(self.first_of(table, (cache, before), Chain { link, count: table.batch }));
        }
        let before = cache.load_u64(field::FRESH);
        let (index, rest) = self.first_fresh(*table);
        let taking = Change::u64(cache, field::FRESH, before, rest.word());
        Ok(Free { index, line: self.line(table.at(index)), taking })
    }

    /// Prepares a record without a stamp, which its owner gives back, for the cache; what puts it
    /// there is left to the caller.
    #[inline(always)]
    pub(super) fn next_put<'m>(
        &'m self,
        table: &Table,
        (index, line): (u32, Record<'m, M>),
    ) -> Change<'m, M> {
        let cache = self.line(self.cache(*table));
        let before = cache.load_u64(field::ACTIVE);
        let mut active = Chain::of(before);
        if active.count >= table.batch {
            self.put_full_of(table, active.link);
            active = Chain { link: 0, count: 0 };
        }
        line.store_u32(LINK, active.link);
        let after = Chain { link: index + 1, count: active.count + 1 };
        Change::u64(cache, field::ACTIVE, before, after.word())
    }

    #[cold]
    #[inline(never)]
    fn put_full_of(&self, table: &Table, link: u32) {
        self.put_full(*table, link);
    }

    #[inline(always)]
    pub(super) fn cache(&self, table: Table) -> u64 {
        self.caches + field::CACHES + table.id * field::CACHE_BYTES
    }

    /// The link in a free record to the next one.
    #[inline(always)]
    fn link_of(&self, table: Table, index: u32) -> u32 {
        let at = self.at(table, index);
        if table.id >= STAMPED {
            (self.mem.load_u64(at) & stamp::LINK) as u32
        } else {
            self.mem.load_u32(at + LINK)
        }
    }

    /// The link in the first record of a batch to the next batch.
    fn batch_of(&self, table: Table, index: u32) -> u32 {
        let at = self.at(table, index);
        if table.id >= STAMPED {
            (self.mem.load_u64(at) >> stamp::LINK_BITS & stamp::LINK) as u32
        } else {
            self.mem.load_u32(at + BATCH)
        }
    }

    /// Sets that link in a record that is this participant's.
    fn set_batch(&self, table: Table, index: u32, link: u32) {
        let at = self.at(table, index);
        if table.id >= STAMPED {
            let rest = self.mem.load_u64(at) & (stamp::FREE | stamp::LINK);
            self.set_u64(at, rest | u64::from(link) << stamp::LINK_BITS);
        } else {
            self.set_u32(at + BATCH, link);
        }
    }

    /// Takes a free record out of the cache; [`Store::stock`] came first.
    #[inline(always)]
    pub(super) fn take(&mut self, table: Table) -> u32 {
        let active = Chain::of(self.mem.load_u64(self.cache(table) + field::ACTIVE));
        if active.count == 0 { self.take_more(table) } else { self.take_active(table, active) }
    }

    #[inline(never)]
    fn take_more(&mut self, table: Table) -> u32 {
        match self.take_full(table) {
            Some(link) => self.take_active(table, Chain { link, count: table.batch }),
            None => self.take_fresh(table),
        }
    }

    #[inline(always)]
    fn take_active(&mut self, table: Table, active: Chain) -> u32 {
        let index = self.bounded(active.link.wrapping_sub(1), table.limit);
        let rest = Chain { link: self.link_of(table, index), count: active.count - 1 };
        self.set_u64(self.cache(table) + field::ACTIVE, rest.word());
        index
    }

    /// Takes a full batch out of the cache.
    fn take_full(&self, table: Table) -> Option<u32> {
        let at = self.cache(table) + field::FULL;
        let full = Chain::of(self.mem.load_u64(at));
        if full.count == 0 {
            return None;
        }
        let next =
            if full.count == 1 { 0 } else { self.batch_of(table, full.link.wrapping_sub(1)) };
        self.set_u64(at, Chain { link: next, count: full.count - 1 }.word());
        Some(full.link)
    }

    /// Takes a record that was never used.
    ///
    /// # Panics
    /// If there is none, where memory is not shared: callers check with [`Store::stock`] first.
    fn take_fresh(&self, table: Table) -> u32 {
        let (index, rest) = self.first_fresh(table);
        self.set_u64(self.cache(table) + field::FRESH, rest.word());
        index
    }

    /// A record that was never used, and those behind it.
    fn first_fresh(&self, table: Table) -> (u32, Chain) {
        let fresh = Chain::of(self.mem.load_u64(self.cache(table) + field::FRESH));
        if fresh.link >= fresh.count || fresh.link >= table.limit {
            assert!(self.mem.shared(), "a table of {} was overdrawn", table.limit);
            self.corrupt.set(true);
            return (table.limit, fresh);
        }
        (fresh.link, Chain { link: fresh.link + 1, ..fresh })
    }

    /// Puts a free record into the cache.
    #[inline]
    pub(super) fn put(&self, table: Table, index: u32) {
        let cache = self.cache(table);
        let mut active = Chain::of(self.mem.load_u64(cache + field::ACTIVE));
        if active.count >= table.batch {
            self.put_full(table, active.link);
            active = Chain { link: 0, count: 0 };
        }
        let at = self.at(table, index);
        if table.id >= STAMPED {
            self.set_u64(at, stamp::FREE | u64::from(active.link));
        } else {
            self.mem.store_u32(at + LINK, active.link);
        }
        let active = Chain { link: index + 1, count: active.count + 1 };
        self.set_u64(cache + field::ACTIVE, active.word());
    }

    #[cold]
    fn put_full(&self, table: Table, link: u32) {
        let at = self.cache(table) + field::FULL;
        let full = Chain::of(self.mem.load_u64(at));
        self.set_batch(table, link.wrapping_sub(1), full.link);
        self.set_u64(at, Chain { link, count: full.count.wrapping_add(1) }.word());
    }

    #[inline(always)]
    fn stocked(&self, table: Table) -> u64 {
        self.cached(self.area, table)
    }

    /// Free records in a participant's cache.
    #[inline(always)]
    pub(super) fn cached(&self, area: u64, table: Table) -> u64 {
        let cache = area + field::CACHES + table.id * field::CACHE_BYTES;
        let active = Chain::of(self.mem.load_u64(cache + field::ACTIVE));
        let full = Chain::of(self.mem.load_u64(cache + field::FULL));
        let fresh = Chain::of(self.mem.load_u64(cache + field::FRESH));
        u64::from(active.count)
            + u64::from(full.count) * u64::from(table.batch)
            + u64::from(fresh.count.saturating_sub(fresh.link))
    }

    /// Makes sure that the cache has `count` free records; false if the pool has not so many.
    /// Between operations only.
    #[inline(always)]
    pub(super) fn stock(&self, table: Table, count: u64) -> bool {
        let active = self.line(self.cache(table)).load_u64(field::ACTIVE) >> 32;
        active >= count || self.refill(table, count)
    }

    #[cold]
    fn refill(&self, table: Table, count: u64) -> bool {
        loop {
            let stocked = self.stocked(table);
            if stocked >= count {
                return true;
            }
            if !self.pop_batch(table) && !self.claim_fresh(table, count - stocked) {
                return false;
            }
        }
    }

    /// Takes a batch from the pool's stack.
    fn pop_batch(&self, table: Table) -> bool {
        if !self.mem.shared() {
            return false;
        }
        let cache = self.cache(table);
        if value(self.mem.load_u64(table.free())) == 0 {
            return false;
        }
        let batches = self.mem.load_u64(cache + field::BATCHES);
        self.set_u64(cache + field::BATCHES, batches.wrapping_sub(1));
        self.set_u64(cache + field::POPPED, 0);
        let popped = self.decide(table.free(), |store, first| {
            store.mem.store_u64(cache + field::POPPED, first);
            // What lies there may be another's by now: then the word has changed as well.
            (first != 0).then(|| u64::from(store.batch_of(table, first as u32 - 1)))
        });
        if popped.is_none() {
            self.undo();
            return false;
        }
        self.close();
        self.keep_popped(table);
        true
    }

    /// Puts the batch that was just taken from the pool with the full ones.
    pub(super) fn keep_popped(&self, table: Table) {
        let at = self.cache(table) + field::POPPED;
        let link = self.mem.load_u64(at) as u32;
        if link != 0 {
            self.put_full(table, link);
            self.set_u64(at, 0);
            self.close();
        }
    }

    /// Takes `count` records, a batch at least, that nobody ever used.
    fn claim_fresh(&self, table: Table, count: u64) -> bool {
        let at = self.cache(table) + field::FRESH;
        for _ in 0..table.limit {
            // What is left of the last range would be forgotten.
            let fresh = Chain::of(self.mem.load_u64(at));
            if fresh.link >= fresh.count {
                break;
            }
            let index = self.take_fresh(table);
            self.put(table, index);
            self.close();
        }
        let count = count.max(u64::from(table.batch));
        let end = |high: u64| (high + count).min(table.limit.into());
        self.set_u64(at, 0);
        let claimed = self.decide(table.high(), |store, high| {
            let range = Chain { link: high as u32, count: end(high) as u32 };
            store.mem.store_u64(at, range.word());
            (high < u64::from(table.limit)).then(|| end(high))
        });
        let Some(claimed) = claimed else {
            self.mem.store_u64(at, 0);
            self.undo();
            return false;
        };
        if !self.mem.shared() {
            // Nobody has touched them yet: they are whatever the pool was.
            for index in claimed.before as u32..claimed.after as u32 {
                self.mem.store_u64(table.at(index), 0);
                if table.id == self.lay.versions.id {
                    self.mem.store_u64(table.at(index) + version::NUMBER, 0);
                }
            }
        }
        self.close();
        true
    }

    /// Gives full batches that are too many back to the pool, and credit. Between operations only.
    pub(super) fn balance(&mut self) {
        if self.lay.config.participants == 1 || !self.mem.shared() {
            return;
        }
        for table in self.lay.tables() {
            for _ in 0..table.limit / table.batch {
                if self.mem.load_u64(self.cache(table) + field::FULL) >> 32 <= 1 {
                    break;
                }
                self.push_batch(table);
            }
            if table.id >= STAMPED {
                self.return_credit(table);
            }
        }
    }

    /// Puts one full batch on the pool's stack.
    pub(super) fn push_batch(&mut self, table: Table) {
        let Some(link) = self.take_full(table) else { return };
        let first = link.wrapping_sub(1);
        let at = self.cache(table) + field::BATCHES;
        let batches = self.mem.load_u64(at);
        self.set_u64(at, batches.wrapping_add(1));
        self.set_batch(table, first, 0);
        let place = self.at(table, first);
        self.decide(table.free(), |store, first| {
            if table.id >= STAMPED {
                let rest = store.mem.load_u64(place) & (stamp::FREE | stamp::LINK);
                store.mem.store_u64(place, rest | first << stamp::LINK_BITS);
            } else {
                store.mem.store_u32(place + BATCH, first as u32);
            }
            Some(u64::from(link))
        });
        self.close();
    }

    /// Frames or nodes that may be taken or promised without asking the pool.
    #[inline(always)]
    pub(super) fn credit(&self, table: Table) -> u64 {
        self.mem.load_u64(self.cache(table) + field::CREDIT)
    }

    /// Changes the credit and the promises by as much.
    #[inline(always)]
    pub(super) fn add_credit(&self, table: Table, change: i64) {
        let at = self.cache(table) + field::CREDIT;
        let credit = self.mem.load_u64(at).wrapping_add_signed(change);
        self.set_u64(at, credit);
    }

    /// Makes sure of `count` frames or nodes that nobody was promised; false if they are not
    /// there. Between operations only.
    #[inline(always)]
    pub(super) fn borrow_credit(&mut self, table: Table, count: u64) -> bool {
        self.credit(table) >= count || (self.mem.shared() && self.borrow_shared(table, count))
    }

    #[cold]
    fn borrow_shared(&mut self, table: Table, count: u64) -> bool {
        let missing = count.saturating_sub(self.credit(table));
        let at = self.cache(table) + field::CREDIT;
        let had = self.mem.load_u64(at);
        let more = |left: u64| missing.max(u64::from(table.batch)).min(left);
        self.set_u64(at, had);
        let borrowed = self.decide(table.credit(), |store, left| {
            store.mem.store_u64(at, had.wrapping_add(more(left)));
            (left >= missing).then(|| left - more(left))
        });
        if borrowed.is_none() {
            self.undo();
            return false;
        }
        self.close();
        true
    }

    /// Gives credit beyond a few batches back to the pool.
    fn return_credit(&mut self, table: Table) {
        let keep = 2 * u64::from(table.batch);
        let credit = self.credit(table);
        if credit > 2 * keep {
            self.give_credit(table, credit - keep);
        }
    }

    /// Gives some of the credit back to the pool.
    pub(super) fn give_credit(&mut self, table: Table, count: u64) {
        self.add_credit(table, (count as i64).wrapping_neg());
        self.decide(table.credit(), |_, left| Some(left.wrapping_add(count)));
        self.close();
    }

    /// Free records in a participant's cache: how many, and a visit of each but the fresh ones.
    pub(super) fn visit_cache(&self, area: u64, table: Table, mut f: impl FnMut(u32)) -> u64 {
        let cache = area + field::CACHES + table.id * field::CACHE_BYTES;
        let active = Chain::of(self.mem.load_u64(cache + field::ACTIVE));
        let full = Chain::of(self.mem.load_u64(cache + field::FULL));
        let mut visited = self.visit_chain(table, active, &mut f);
        let mut batch = full.link;
        for _ in 0..full.count.min(table.limit) {
            let chain = Chain { link: batch, count: table.batch };
            visited += self.visit_chain(table, chain, &mut f);
            batch = self.batch_of(table, batch.wrapping_sub(1));
        }
        visited
    }

    fn visit_chain(&self, table: Table, chain: Chain, f: &mut impl FnMut(u32)) -> u64 {
        let mut link = chain.link;
        let count = chain.count.min(table.limit);
        for _ in 0..count {
            let index = link.wrapping_sub(1);
            f(index);
            link = self.link_of(table, index);
        }
        count.into()
    }

    /// Records in a participant's cache that nobody ever used.
    pub(super) fn fresh(&self, area: u64, table: Table) -> core::ops::Range<u32> {
        let cache = area + field::CACHES + table.id * field::CACHE_BYTES;
        let fresh = Chain::of(self.mem.load_u64(cache + field::FRESH));
        fresh.link..fresh.count.min(table.limit).max(fresh.link)
    }

    /// Visits the free records on the pool's own stack; their number.
    pub(super) fn visit_stack(&self, table: Table, mut f: impl FnMut(u32)) -> u64 {
        let mut batch = value(self.mem.load_u64(table.free())) as u32;
        let mut visited = 0;
        while batch != 0 && visited <= u64::from(table.limit) {
            let chain = Chain { link: batch, count: table.batch };
            visited += self.visit_chain(table, chain, &mut f);
            batch = self.batch_of(table, batch - 1);
        }
        visited
    }
}

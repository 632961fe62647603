//! The two kinds of intrusive lists: what a holder owns, and what waits for reclamation.

use super::records::{LINK, Table, entry, region, stage};
use super::{Memory, Store};

/// Where the records of a kind keep their links, and their holder the head.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub(super) table: Table,
    prev: u64,
    next: u64,
}

impl Chain {
    pub(super) const fn regions(table: Table) -> Self {
        Self { table, prev: region::PREV, next: region::NEXT }
    }

    pub(super) const fn entries(table: Table) -> Self {
        Self { table, prev: entry::PREV, next: entry::NEXT }
    }

    pub(super) const fn stages(table: Table) -> Self {
        Self { table, prev: stage::PREV, next: stage::NEXT }
    }
}

impl<M: Memory> Store<M> {
    /// Puts a record at the front of the chain whose head is at `head`.
    pub(super) fn link(&mut self, chain: Chain, head: u64, index: u32) {
        let at = chain.table.at(index);
        let first = self.mem.load_u32(head);
        self.mem.store_u32(at + chain.prev, 0);
        self.mem.store_u32(at + chain.next, first);
        if first != 0 {
            self.mem.store_u32(chain.table.at(first - 1) + chain.prev, index + 1);
        }
        self.mem.store_u32(head, index + 1);
    }

    /// Takes a record out of the chain whose head is at `head`.
    pub(super) fn unlink(&mut self, chain: Chain, head: u64, index: u32) {
        let at = chain.table.at(index);
        let prev = self.mem.load_u32(at + chain.prev);
        let next = self.mem.load_u32(at + chain.next);
        if prev == 0 {
            self.mem.store_u32(head, next);
        } else {
            self.mem.store_u32(chain.table.at(prev - 1) + chain.next, next);
        }
        if next != 0 {
            self.mem.store_u32(chain.table.at(next - 1) + chain.prev, prev);
        }
    }

    /// Puts a record at the end of the queue whose two links are at `queue`.
    pub(super) fn enqueue(&mut self, table: Table, queue: u64, index: u32) {
        self.mem.store_u32(table.at(index) + LINK, 0);
        let last = self.mem.load_u32(queue + 4);
        let slot = if last == 0 { queue } else { table.at(last - 1) + LINK };
        self.mem.store_u32(slot, index + 1);
        self.mem.store_u32(queue + 4, index + 1);
    }

    /// The first record of a queue.
    pub(super) fn first(&self, queue: u64) -> Option<u32> {
        self.mem.load_u32(queue).checked_sub(1)
    }

    /// Takes the first record, `index`, out of a queue.
    pub(super) fn dequeue(&mut self, table: Table, queue: u64, index: u32) {
        debug_assert_eq!(self.first(queue), Some(index));
        let next = self.mem.load_u32(table.at(index) + LINK);
        self.mem.store_u32(queue, next);
        if next == 0 {
            self.mem.store_u32(queue + 4, 0);
        }
    }
}

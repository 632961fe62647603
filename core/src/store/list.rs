//! The reclaimer's queues of records that wait for it.

use super::records::{LINK, Table};
use super::{Memory, Store};

impl<M: Memory> Store<M> {
    /// Puts a record at the end of the queue whose two links are at `queue`.
    pub(super) fn enqueue(&mut self, table: Table, queue: u64, index: u32) {
        let at = self.at(table, index) + LINK;
        self.set_u32(at, 0);
        let last = self.mem.load_u32(queue + 4);
        let slot = if last == 0 { queue } else { self.at(table, last - 1) + LINK };
        self.set_u32(slot, index + 1);
        self.set_u32(queue + 4, index + 1);
    }

    /// The first record of a queue.
    pub(super) fn first(&self, queue: u64) -> Option<u32> {
        self.mem.load_u32(queue).checked_sub(1)
    }

    /// Takes the first record, `index`, out of a queue.
    pub(super) fn dequeue(&mut self, table: Table, queue: u64, index: u32) {
        debug_assert_eq!(self.first(queue), Some(index));
        let link = self.at(table, index) + LINK;
        let next = self.mem.load_u32(link);
        // Whoever frees the record links it without a log: if that is undone, the rest of the
        // queue would be lost.
        self.set_u32(link, 0);
        self.set_u32(queue, next);
        if next == 0 {
            self.set_u32(queue + 4, 0);
        }
    }
}

//! Lists of what a version superseded: chunks of 62 identifiers, made of nodes.
//!
//! Not intrusive, because one frame can be superseded in several children of a version.

use super::layout::NODE_BYTES;
use super::records::{chunk, stamp};
use super::{Memory, Store};

/// A frame or a node in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Frame(u32),
    Node(u32),
}

impl Item {
    fn encode(self) -> u32 {
        match self {
            Self::Frame(index) => index << 1,
            Self::Node(index) => index << 1 | 1,
        }
    }

    fn decode(word: u32) -> Self {
        if word & 1 == 0 { Self::Frame(word >> 1) } else { Self::Node(word >> 1) }
    }
}

impl<M: Memory> Store<M> {
    /// Chunks that must be taken so that `count` more items fit into the list at `list`.
    pub(super) fn chunks_needed(&self, list: u64, count: u64) -> u64 {
        let tail = self.mem.load_u32(list + 4);
        let room = match tail.checked_sub(1) {
            None => 0,
            Some(tail) => chunk::CAPACITY - self.chunk_count(tail),
        };
        count.saturating_sub(u64::from(room)).div_ceil(u64::from(chunk::CAPACITY))
    }

    /// Appends an item; a chunk for it, if it takes one, was checked to be available.
    pub(super) fn push(&mut self, list: u64, item: Item) {
        let mut tail = self.mem.load_u32(list + 4);
        let mut count = 0;
        if tail != 0 {
            count = self.chunk_count(tail - 1);
        }
        if tail == 0 || count == chunk::CAPACITY {
            let node = self.take_stamped(self.lay.nodes, stamp::CHUNK);
            let at = self.node_at(node);
            self.mem.store_u32(at + chunk::NEXT, 0);
            self.mem.store_u32(at + chunk::COUNT, 0);
            self.link_chunk(list, tail, node + 1);
            (tail, count) = (node + 1, 0);
        }
        let at = self.node_at(tail - 1);
        // Behind the count it is nobody's: no need to log it.
        self.mem.store_u32(at + chunk::IDS + 4 * u64::from(count), item.encode());
        self.set_u32(at + chunk::COUNT, count + 1);
    }

    /// Makes `link` the tail of the list at `list`, behind `tail`.
    fn link_chunk(&mut self, list: u64, tail: u32, link: u32) {
        let slot = if tail == 0 { list } else { self.node_at(tail - 1) + chunk::NEXT };
        self.set_u32(slot, link);
        self.set_u32(list + 4, link);
    }

    /// Appends the whole list at `from` to the one at `to` and leaves it empty. Constant work.
    pub(super) fn move_chunks(&mut self, from: u64, to: u64) {
        let (head, tail) = (self.mem.load_u32(from), self.mem.load_u32(from + 4));
        if head == 0 {
            return;
        }
        let to_tail = self.mem.load_u32(to + 4);
        let slot = if to_tail == 0 { to } else { self.node_at(to_tail - 1) + chunk::NEXT };
        self.set_u32(slot, head);
        self.set_u32(to + 4, tail);
        self.set_u32(from, 0);
        self.set_u32(from + 4, 0);
    }

    /// Items of a chunk, never more than fit.
    fn chunk_count(&self, node: u32) -> u32 {
        self.mem.load_u32(self.node_at(node) + chunk::COUNT).min(chunk::CAPACITY)
    }

    /// Takes the first chunk out of a list.
    fn detach_chunk(&mut self, list: u64) -> Option<u32> {
        let node = self.mem.load_u32(list).checked_sub(1)?;
        let next = self.mem.load_u32(self.node_at(node) + chunk::NEXT);
        self.set_u32(list, next);
        if next == 0 {
            self.set_u32(list + 4, 0);
        }
        Some(node)
    }

    /// Forgets the first chunk of a list; what it names belongs to others.
    pub(super) fn drop_chunk(&mut self, list: u64) {
        if let Some(node) = self.detach_chunk(list) {
            self.put_stamped(self.lay.nodes, node);
        }
    }

    /// Sorts the first chunk at `pending`: what is stamped later than `threshold` is free, the
    /// rest goes to `dead`. Takes nothing: what survives stays in its chunk, or fills another.
    pub(super) fn sort_chunk(&mut self, pending: u64, dead: u64, threshold: u64) {
        let Some(node) = self.mem.load_u32(pending).checked_sub(1) else { return };
        let at = self.node_at(node);
        let count = self.chunk_count(node);
        let mut kept = 0;
        for position in 0..count {
            let word = self.mem.load_u32(at + chunk::IDS + 4 * u64::from(position));
            let (table, index) = match Item::decode(word) {
                Item::Frame(index) => (self.lay.frames, index),
                Item::Node(index) => (self.lay.nodes, index),
            };
            if self.mem.load_u64(self.at(table, index)) > threshold {
                self.put_stamped(table, index);
            } else {
                if kept != position {
                    self.set_u32(at + chunk::IDS + 4 * u64::from(kept), word);
                }
                kept += 1;
            }
        }
        self.detach_chunk(pending);
        self.set_u32(at + chunk::COUNT, kept);
        self.keep_chunk(dead, node, kept);
    }

    /// Adds the `kept` items of a loose chunk to the list at `dead`.
    fn keep_chunk(&mut self, dead: u64, node: u32, kept: u32) {
        let tail = self.mem.load_u32(dead + 4);
        if kept == 0 {
            self.put_stamped(self.lay.nodes, node);
            return;
        }
        if let Some(tail) = tail.checked_sub(1) {
            let tail_at = self.node_at(tail);
            let count = self.chunk_count(tail);
            if count + kept <= chunk::CAPACITY {
                let from = self.node_at(node) + chunk::IDS;
                let to = tail_at + chunk::IDS + 4 * u64::from(count);
                if from.abs_diff(to) >= 4 * u64::from(kept) {
                    self.mem.copy(from, to, 4 * u64::from(kept));
                }
                self.set_u32(tail_at + chunk::COUNT, count + kept);
                self.put_stamped(self.lay.nodes, node);
                return;
            }
        }
        let at = self.node_at(node) + chunk::NEXT;
        self.set_u32(at, 0);
        self.link_chunk(dead, tail, node + 1);
    }

    /// Calls `f` with every item of a list, for the audit; `chunk` with every chunk.
    pub(super) fn for_each_item(
        &self,
        list: u64,
        mut on_chunk: impl FnMut(u32),
        mut on_item: impl FnMut(Item),
    ) {
        let mut link = self.mem.load_u32(list);
        for _ in 0..self.lay.config.nodes {
            let Some(node) = link.checked_sub(1) else { return };
            let at = self.node_at(node);
            on_chunk(node);
            for position in 0..self.chunk_count(node) {
                let word = self.mem.load_u32(at + chunk::IDS + 4 * u64::from(position));
                on_item(Item::decode(word));
            }
            link = self.mem.load_u32(at + chunk::NEXT);
        }
    }
}

const _: () = assert!(chunk::IDS + 4 * chunk::CAPACITY as u64 == NODE_BYTES);

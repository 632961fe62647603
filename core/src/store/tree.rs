//! Walking the tree of a version, and growing the part of it that is the version's own.
//!
//! A node has 64 links of 4 bytes: 0 for an absent page or subtree, else an index + 1. At depth 0
//! the root is the frame itself. Whatever is stamped later than the version's threshold is its
//! own and may be changed in place; below something older, everything is older.

use super::dead::Item;
use super::layout::{DEPTH_MAX, FAN_OUT, FAN_OUT_SHIFT, NODE_BYTES, PAGE_BYTES, PAGE_SHIFT};
use super::records::{Table, region, version as field};
use super::{Memory, Store};

/// Position of a page in a node at `level` (1 for the nodes above frames).
#[inline(always)]
pub(super) const fn position(page: u64, level: u32) -> u64 {
    (page >> (FAN_OUT_SHIFT * (level - 1))) & (FAN_OUT as u64 - 1)
}

/// The part of a byte range that lies in one page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) page: u64,
    /// Bytes from the page's start.
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Piece {
    /// The piece at the beginning of `len` bytes at byte `at` of a tree.
    #[inline(always)]
    pub(super) fn first(at: u64, len: u64) -> Self {
        let start = at & (PAGE_BYTES - 1);
        Self { page: at >> PAGE_SHIFT, start, len: len.min(PAGE_BYTES - start) }
    }
}

/// The lowest place on the way to a page that belongs to the version itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    /// Where the link is that may be changed in place.
    slot: u64,
    /// That link.
    link: u32,
    /// Levels of nodes that it leads to; 0 for a frame.
    level: u32,
}

/// A path that was prepared beside the tree: nothing is visible until `top` is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// Where the frame's link goes.
    slot: u64,
    /// The link there until now.
    pub(super) old: u32,
    /// The link to publish; 0 if the frame's own link is.
    top: u32,
    /// Nodes that this path supersedes.
    superseded: [u32; 5],
    count: usize,
}

/// What was in a page's place before a staged frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    /// A frame of the version's own, which is free now.
    Own,
    /// A frame that others see.
    Shared,
    /// Nothing: the page was never written.
    Absent,
}

/// What a write takes, beside the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Frames for pages that were never written.
    pub(super) absent_frames: u64,
    /// Frames for copies of shared pages.
    pub(super) copied_frames: u64,
    /// Nodes above the former.
    pub(super) absent_nodes: u64,
    /// Nodes for copies of shared nodes.
    pub(super) copied_nodes: u64,
}

impl<M: Memory> Store<M> {
    /// Where the link at `page`'s position of a node at `level` is.
    #[inline(always)]
    pub(super) fn slot(&self, node: u32, page: u64, level: u32) -> u64 {
        self.node_at(node) + 4 * position(page, level)
    }

    /// Levels of nodes of a version's tree.
    #[inline(always)]
    pub(super) fn depth(&self, version_at: u64) -> u32 {
        let depth = self.mem.load_u32(version_at + field::DEPTH);
        if self.mem.shared() { depth.min(DEPTH_MAX) } else { depth }
    }

    /// The frame of a page; none if it was never written.
    #[inline(always)]
    fn find(&self, version_at: u64, page: u64) -> Option<u32> {
        let mut link = self.mem.load_u32(version_at + field::ROOT);
        let mut level = self.depth(version_at);
        while level != 0 {
            let node = link.checked_sub(1)?;
            link = self.mem.load_u32(self.slot(node, page, level));
            level -= 1;
        }
        link.checked_sub(1)
    }

    /// Copies bytes out of a version's tree; absent pages are zeros.
    #[inline]
    pub(super) fn read_tree(&self, version: u32, mut at: u64, mut target: &mut [u8]) {
        let version_at = self.version_at(version);
        while !target.is_empty() {
            let piece = Piece::first(at, target.len() as u64);
            let (now, rest) = target.split_at_mut(piece.len as usize);
            match self.find(version_at, piece.page) {
                Some(frame) => self.mem.read(self.frame_at(frame) + piece.start, now),
                None => now.fill(0),
            }
            target = rest;
            at += piece.len;
        }
    }

    /// Where a page's bytes are in the pool; none if it was never written.
    pub(super) fn locate(&self, version: u32, page: u64) -> Option<u64> {
        self.find(self.version_at(version), page).map(|frame| self.frame_at(frame))
    }

    /// Goes down towards a page as far as the tree is the version's own.
    #[inline(always)]
    pub(super) fn descend(&self, version_at: u64, threshold: u64, page: u64) -> Spot {
        let mut slot = version_at + field::ROOT;
        let mut link = self.mem.load_u32(slot);
        let mut level = self.depth(version_at);
        while level != 0 && link != 0 && self.node_stamp(link - 1) > threshold {
            slot = self.slot(link - 1, page, level);
            link = self.mem.load_u32(slot);
            level -= 1;
        }
        Spot { slot, link, level }
    }

    /// The frame at a spot, if it is there and the version's own.
    #[inline(always)]
    pub(super) fn own_frame(&self, spot: Spot, threshold: u64) -> Option<u32> {
        if spot.level != 0 || spot.link == 0 {
            return None;
        }
        (self.frame_stamp(spot.link - 1) > threshold).then_some(spot.link - 1)
    }

    /// Takes a frame or node for something that a region never had: a promised one, if it has
    /// promises left; whether it had.
    fn take_absent(&mut self, region: u64, table: Table, promised: u64, stamp: u64) -> (u32, bool) {
        let left = self.mem.load_u32(region + promised);
        if left == 0 {
            return (self.take_stamped(table, stamp), false);
        }
        self.set_u32(region + promised, left - 1);
        self.end_promise(table);
        (self.take_promised(table, stamp), true)
    }

    /// Prepares the path from a spot to a page, copies of shared nodes or fresh ones.
    pub(super) fn grow(&mut self, region: u64, number: u64, spot: Spot, page: u64) -> Path {
        let Spot { slot, link, level } = spot;
        let mut path = Path { slot, old: link, top: 0, superseded: [0; 5], count: 0 };
        for level in (1..=level).rev() {
            let nodes = self.lay.nodes;
            let node = match path.old.checked_sub(1) {
                None => {
                    let (node, _) = self.take_absent(region, nodes, region::NODES, number);
                    self.mem.fill_zero(self.node_at(node), NODE_BYTES);
                    node
                }
                Some(old) => {
                    let node = self.take_stamped(nodes, number);
                    self.copy_apart(self.node_at(old), self.node_at(node), NODE_BYTES);
                    if let Some(place) = path.superseded.get_mut(path.count) {
                        *place = old;
                        path.count += 1;
                    }
                    node
                }
            };
            if path.top == 0 {
                path.top = node + 1;
            } else {
                self.mem.store_u32(path.slot, node + 1);
            }
            path.slot = self.slot(node, page, level);
            path.old = if path.old == 0 { 0 } else { self.mem.load_u32(path.slot) };
        }
        path
    }

    /// Makes a prepared path and its frame visible in one store, and notes what it supersedes.
    pub(super) fn publish(&mut self, version_at: u64, spot: Spot, path: &Path, frame: u32) {
        if path.top == 0 {
            self.set_u32(spot.slot, frame + 1);
        } else {
            self.mem.store_u32(path.slot, frame + 1);
            self.set_u32(spot.slot, path.top);
        }
        let dead = version_at + field::DEAD;
        for node in &path.superseded[..path.count] {
            self.push(dead, Item::Node(*node));
        }
    }

    /// Writes a piece of a page, in place if the page is the version's own, else into a frame of
    /// its own, as an operation of its own. All that this can take was checked to be there.
    pub(super) fn write_piece(&mut self, region: u64, version: u32, piece: Piece, source: &[u8]) {
        let at = self.version_at(version);
        let threshold = self.mem.load_u64(at + field::THRESHOLD);
        let spot = self.descend(at, threshold, piece.page);
        if let Some(frame) = self.own_frame(spot, threshold) {
            self.mem.write(self.frame_at(frame) + piece.start, source);
            return;
        }
        let number = self.mem.load_u64(at + field::NUMBER);
        let path = self.grow(region, number, spot, piece.page);
        let frames = self.lay.frames;
        let frame = match path.old.checked_sub(1) {
            None => {
                let (frame, promised) = self.take_absent(region, frames, region::FRAMES, number);
                if !promised {
                    self.charge_page(region);
                }
                self.fill_round(self.frame_at(frame), piece, None);
                frame
            }
            Some(old) => {
                let frame = self.take_stamped(frames, number);
                self.charge_page(region);
                self.fill_round(self.frame_at(frame), piece, Some(self.frame_at(old)));
                frame
            }
        };
        self.mem.write(self.frame_at(frame) + piece.start, source);
        self.publish(at, spot, &path, frame);
        if let Some(old) = path.old.checked_sub(1) {
            self.push(at + field::DEAD, Item::Frame(old));
        }
        self.close();
    }

    /// Copies between two frames or nodes; where others write too they may be one by mistake.
    fn copy_apart(&self, source: u64, target: u64, len: u64) {
        if self.mem.shared() && source.abs_diff(target) < len {
            self.corrupt.set(true);
            return;
        }
        self.mem.copy(source, target, len);
    }

    /// Fills what is round a piece of a frame: from another frame, or with zeros, because
    /// recycled frames have somebody else's bytes.
    pub(super) fn fill_round(&self, frame_at: u64, piece: Piece, from: Option<u64>) {
        let end = piece.start + piece.len;
        for (start, len) in [(0, piece.start), (end, PAGE_BYTES - end)] {
            match from {
                _ if len == 0 => {}
                Some(from) => self.copy_apart(from + start, frame_at + start, len),
                None => self.mem.fill_zero(frame_at + start, len),
            }
        }
    }

    /// Puts a staged frame in a page's place and says what was there.
    pub(super) fn swap_in(&mut self, region: u64, version: u32, page: u64, frame: u32) -> Was {
        let at = self.version_at(version);
        let threshold = self.mem.load_u64(at + field::THRESHOLD);
        let number = self.mem.load_u64(at + field::NUMBER);
        let spot = self.descend(at, threshold, page);
        let stamp_at = self.at(self.lay.frames, frame);
        if let Some(own) = self.own_frame(spot, threshold) {
            // No path grows, and nobody else sees what this supersedes.
            self.set_u64(stamp_at, number);
            self.set_u32(spot.slot, frame + 1);
            self.put_stamped(self.lay.frames, own);
            return Was::Own;
        }
        let path = self.grow(region, number, spot, page);
        self.set_u64(stamp_at, number);
        self.publish(at, spot, &path, frame);
        match path.old.checked_sub(1) {
            Some(old) => {
                self.push(at + field::DEAD, Item::Frame(old));
                Was::Shared
            }
            None => Was::Absent,
        }
    }

    /// What a write of pages `first..=last` takes at most: no walk.
    pub(super) fn need_at_most(depth: u32, first: u64, last: u64) -> (u64, u64) {
        let pages = last - first + 1;
        let nodes = (1..=depth)
            .map(|level| {
                let shift = FAN_OUT_SHIFT * level;
                (last >> shift) - (first >> shift) + 1
            })
            .sum();
        (pages, nodes)
    }

    /// What a write of pages `first..=last` takes exactly: a walk of the range.
    pub(super) fn need_exactly(&self, version_at: u64, threshold: u64, range: (u64, u64)) -> Need {
        let mut need = Need::default();
        let link = self.mem.load_u32(version_at + field::ROOT);
        let level = self.depth(version_at);
        self.add_need(&mut need, link, level, threshold, range);
        need
    }

    /// Adds what the subtree at `link` takes, for a range of pages counted from its first.
    fn add_need(
        &self,
        need: &mut Need,
        link: u32,
        level: u32,
        threshold: u64,
        (first, last): (u64, u64),
    ) {
        let index = link.wrapping_sub(1);
        if level == 0 {
            if link == 0 {
                need.absent_frames += 1;
            } else if self.frame_stamp(index) <= threshold {
                need.copied_frames += 1;
            }
            return;
        }
        if link == 0 {
            need.absent_nodes += 1;
        } else if self.node_stamp(index) <= threshold {
            need.copied_nodes += 1;
        }
        let shift = FAN_OUT_SHIFT * (level - 1);
        let span_mask = (1 << shift) - 1;
        for child in first >> shift..=last >> shift {
            let from = if child == first >> shift { first & span_mask } else { 0 };
            let to = if child == last >> shift { last & span_mask } else { span_mask };
            let link = match link {
                0 => 0,
                _ => self.mem.load_u32(self.slot(index, child << shift, level)),
            };
            self.add_need(need, link, level - 1, threshold, (from, to));
        }
    }
}

//! Staged writes: bytes arrive in any order and appear in the region all at once.
//!
//! Each page that is touched gets a frame of its own in a small tree beside the region's. At
//! commit those frames are swapped in; death or `stage_abort` before leaves nothing behind.

use super::error::{Error, Object, Resource, Result};
use super::ids::{HolderId, RegionId, StageId};
use super::layout::{FAN_OUT, NODE_BYTES, PAGE_BYTES, PAGE_SHIFT};
use super::records::{
    STATE_BITS, STATE_LEAVING, Table, WORD, holder, region, stage as field, stamp, superblock,
};
use super::region::check_range;
use super::tree::{Piece, Was};
use super::{Memory, Store};

/// Bytes of the largest staged write: 8 MiB.
pub const STAGE_BYTES_MAX: u64 = 8 << 20;

/// Levels of a staged write's own tree at most: 4,096 pages, of which the largest takes 2,049.
const DEPTH_MAX: u32 = 2;

/// Levels of the tree of a staged write of `pages` pages. None where there is one page: its frame
/// is the root, and takes no node.
fn depth_for(pages: u64) -> u32 {
    match pages {
        0..=1 => 0,
        2..=LEAF_PAGES => 1,
        _ => DEPTH_MAX,
    }
}

/// Pages below a leaf.
const LEAF_PAGES: u64 = FAN_OUT as u64;

/// Pages that a range of bytes touches.
fn pages_of(start: u64, len: u64) -> (u64, u64) {
    (start >> PAGE_SHIFT, (start + len - 1) >> PAGE_SHIFT)
}

impl<M: Memory> Store<M> {
    /// Begins a write of `len` bytes at `offset` of a region, and sets all aside that it can
    /// take: writing and committing cannot fail for want of frames or nodes.
    ///
    /// # Errors
    /// As [`Store::write`]; [`Error::TooLarge`] above [`STAGE_BYTES_MAX`].
    pub fn stage_begin(
        &mut self,
        holder: HolderId,
        region: RegionId,
        offset: u64,
        len: u64,
    ) -> Result<StageId> {
        let region_at = self.region_at(holder, region)?;
        if self.mem.load_u32(region_at + region::WRITABLE) == 0 {
            return Err(Error::ReadOnly);
        }
        let base = self.region_range(region_at, offset, len)?;
        if len > STAGE_BYTES_MAX {
            return Err(Error::TooLarge { len, max: STAGE_BYTES_MAX });
        }
        let held = self.mem.load_u32(region_at + region::VERSION);
        let depth = self.depth(self.version_at(held));
        let (first, last) = pages_of(base, len);
        let (frames, path) = Self::need_at_most(depth, first, last);
        // Its own tree, or the paths to its pages and the chunks for all that they supersede:
        // the one is gone before the other is needed, but both are set aside.
        let own = match depth_for(frames) {
            0 => 0,
            1 => 1,
            _ => 1 + frames.div_ceil(LEAF_PAGES),
        };
        let nodes = own + path + 1 + (frames + path) / 62;
        let borrowed = self.promised_there(region_at, held, (first, last));
        let holder_at = self.lay.holders.at(holder.index());
        self.check_pages(holder_at, frames - borrowed)?;
        self.require(self.lay.stages, Resource::Stages)?;
        self.require_credit(self.lay.frames, (frames - borrowed, 0), Resource::Frames)?;
        self.require_credit(self.lay.nodes, (nodes, 0), Resource::Nodes)?;
        // All fit into 32 bits: so many are available.
        let (frames, nodes, borrowed) = (frames as u32, nodes as u32, borrowed as u32);
        self.reserve(self.lay.frames, frames - borrowed);
        self.reserve(self.lay.nodes, nodes);
        let promised = self.mem.load_u32(region_at + region::FRAMES);
        self.set_u32(region_at + region::FRAMES, promised.wrapping_sub(borrowed));
        let stage = self.new_stage(holder, region, (base, len), (frames, nodes));
        let borrowed_at = self.at(self.lay.stages, stage.index()) + field::BORROWED;
        self.mem.store_u32(borrowed_at, borrowed);
        self.close();
        self.sound(Ok(stage))
    }

    /// Frames that are promised to absent pages of a range: the staged frames will be those, or
    /// a region that fills its pool could not be written to.
    fn promised_there(&self, region_at: u64, held: u32, range: (u64, u64)) -> u64 {
        let promised = u64::from(self.mem.load_u32(region_at + region::FRAMES));
        if promised == 0 {
            return 0;
        }
        // With a threshold of 0 nothing is shared: only what is absent counts.
        self.need_exactly(self.version_at(held), 0, range).absent_frames.min(promised)
    }

    fn new_stage(
        &mut self,
        holder: HolderId,
        region: RegionId,
        (base, len): (u64, u64),
        (frames, nodes): (u32, u32),
    ) -> StageId {
        let index = self.take(self.lay.stages);
        let at = self.at(self.lay.stages, index);
        self.mem.store_u32(at + field::HOLDER, holder.index());
        self.mem.store_u64(at + field::BASE, base);
        self.mem.store_u64(at + field::LEN, len);
        self.mem.store_u32(at + field::ROOT, 0);
        self.mem.store_u32(at + field::FRAMES, frames);
        self.mem.store_u32(at + field::NODES, nodes);
        self.mem.store_u32(at + field::CURSOR, 0);
        self.mem.store_u64(at + field::REGION, region.raw());
        self.mem.store_u64(at + field::FILLED, 0);
        let count_at = self.lay.holders.at(holder.index()) + holder::STAGE_COUNT;
        let count = self.mem.load_u32(count_at);
        self.set_u32(count_at, count.wrapping_add(1));
        StageId::new(index, self.go_live(self.lay.stages, index))
    }

    /// Where the record of a holder's staged write is.
    pub(super) fn stage_at(&self, holder: HolderId, stage: StageId) -> Result<u64> {
        self.holder_at(holder)?;
        let (index, generation) = (stage.index(), stage.generation());
        let at = self.record(self.lay.stages, index, generation, Object::Stage)?;
        if self.mem.load_u32(at + field::HOLDER) != holder.index() {
            return Err(Error::NotYours);
        }
        let len = self.mem.load_u64(at + field::LEN);
        self.in_tree(self.mem.load_u64(at + field::BASE), 0, len)?;
        if len == 0 || len > STAGE_BYTES_MAX {
            return Err(Error::Corrupt);
        }
        Ok(at)
    }

    /// Adds bytes at `offset` of the staged range. Each byte must come exactly once.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`], [`Error::ZeroLength`], [`Error::Overflow`],
    /// [`Error::Range`].
    pub fn stage_write(
        &mut self,
        holder: HolderId,
        stage: StageId,
        offset: u64,
        source: &[u8],
    ) -> Result<()> {
        let at = self.stage_at(holder, stage)?;
        check_range(offset, source.len() as u64, self.mem.load_u64(at + field::LEN))?;
        let base = self.mem.load_u64(at + field::BASE);
        let (mut byte, mut source) = (base + offset, source);
        while !source.is_empty() {
            let piece = Piece::first(byte, source.len() as u64);
            let (now, rest) = source.split_at(piece.len as usize);
            let page = piece.page - (base >> PAGE_SHIFT);
            let frame = self.staged_frame(at, page)?;
            self.mem.write(self.frame_at(frame) + piece.start, now);
            let filled = self.mem.load_u64(at + field::FILLED);
            self.mem.store_u64(at + field::FILLED, filled.wrapping_add(piece.len));
            source = rest;
            byte += piece.len;
        }
        self.sound(Ok(()))
    }

    /// The staged frame of a page, counted from the first; a new one if there is none yet, as an
    /// operation of its own.
    ///
    /// # Errors
    /// [`Error::Pending`] while the last free ones are on their way between two participants.
    pub(super) fn staged_frame(&mut self, at: u64, page: u64) -> Result<u32> {
        self.staged_link(at, page).map(|(_, frame)| frame)
    }

    /// As [`Store::staged_frame`], with the place of the link to it.
    ///
    /// # Errors
    /// The same.
    pub(super) fn staged_link(&mut self, at: u64, page: u64) -> Result<(u64, u32)> {
        if let Some(slot) = self.staged_slot(at, page) {
            return self.linked_frame(at, slot).map(|frame| (slot, frame));
        }
        let depth = self.stage_depth(at);
        if !self.stock(self.lay.frames, 1) || !self.stock(self.lay.nodes, depth.into()) {
            return Err(Error::Pending);
        }
        let mut slot = at + field::ROOT;
        for level in (1..=depth).rev() {
            let node = self.staged_node(at, slot);
            slot = self.slot(node, page, level);
        }
        let frame = self.take_set_aside(at, self.lay.frames, field::FRAMES);
        self.set_u32(slot, frame + 1);
        self.close();
        Ok((slot, frame))
    }

    /// The staged frame that the link in a slot of a leaf leads to; a new one if there is none yet,
    /// as an operation of its own.
    ///
    /// # Errors
    /// As [`Store::staged_frame`].
    pub(super) fn linked_frame(&mut self, at: u64, slot: u64) -> Result<u32> {
        if let Some(frame) = self.mem.load_u32(slot).checked_sub(1) {
            return Ok(frame);
        }
        if !self.stock(self.lay.frames, 1) {
            return Err(Error::Pending);
        }
        let frame = self.take_set_aside(at, self.lay.frames, field::FRAMES);
        self.set_u32(slot, frame + 1);
        self.close();
        Ok(frame)
    }

    /// Levels of the tree of the staged write at `at`.
    pub(super) fn stage_depth(&self, at: u64) -> u32 {
        depth_for(self.staged_pages(at))
    }

    /// Pages that the staged write at `at` touches.
    fn staged_pages(&self, at: u64) -> u64 {
        let (start, len) =
            (self.mem.load_u64(at + field::BASE), self.mem.load_u64(at + field::LEN));
        // Of a record that others wrote to, whatever it says: no more than the tree has room for.
        let in_page = start & (PAGE_BYTES - 1);
        in_page.saturating_add(len).div_ceil(PAGE_BYTES).min(STAGE_BYTES_MAX / PAGE_BYTES + 1)
    }

    /// Where the link to the staged frame of a page is, if its leaf is there.
    fn staged_slot(&self, at: u64, page: u64) -> Option<u64> {
        let mut slot = at + field::ROOT;
        for level in (1..=self.stage_depth(at)).rev() {
            let node = self.mem.load_u32(slot).checked_sub(1)?;
            slot = self.slot(node, page, level);
        }
        Some(slot)
    }

    /// Takes a frame or node that was set aside.
    fn take_set_aside(&mut self, at: u64, table: Table, left_at: u64) -> u32 {
        let left = self.mem.load_u32(at + left_at);
        self.set_u32(at + left_at, left.wrapping_sub(1));
        self.end_promise(table);
        self.take_promised(table, stamp::STAGED)
    }

    /// The node that the link in a slot leads to; a new one if there is none yet.
    fn staged_node(&mut self, at: u64, slot: u64) -> u32 {
        if let Some(node) = self.mem.load_u32(slot).checked_sub(1) {
            return node;
        }
        let node = self.take_set_aside(at, self.lay.nodes, field::NODES);
        self.mem.fill_zero(self.node_at(node), NODE_BYTES);
        self.set_u32(slot, node + 1);
        node
    }

    /// Makes all the bytes of a staged write appear, and ends it.
    ///
    /// # Errors
    /// [`Error::Stale`] for the staged write or its region (abort it then), [`Error::NotYours`],
    /// [`Error::Incomplete`], [`Error::Quota`]; [`Error::Pending`] or [`Error::OutOf`] versions,
    /// after which it may be tried again.
    pub fn stage_commit(&mut self, holder: HolderId, stage: StageId) -> Result<()> {
        let at = self.stage_at(holder, stage)?;
        let region = RegionId::from_raw(self.mem.load_u64(at + field::REGION));
        let region_at = self.region_at(holder, region)?;
        let len = self.mem.load_u64(at + field::LEN);
        let filled = self.mem.load_u64(at + field::FILLED);
        if filled != len {
            return Err(Error::Incomplete { filled, len });
        }
        if self.mem.load_u32(at + field::FRAMES) != 0 {
            // Some bytes came twice and a whole page never did.
            return Err(Error::Incomplete { filled: 0, len });
        }
        let (first, last) = pages_of(self.mem.load_u64(at + field::BASE), len);
        let borrowed = u64::from(self.mem.load_u32(at + field::BORROWED));
        let pages = (last - first + 1).saturating_sub(borrowed);
        self.check_pages(self.lay.holders.at(holder.index()), pages)?;
        let held = self.mem.load_u32(region_at + region::VERSION);
        let own = self.count(held).exclusive() && self.try_writing(held);
        let mut result = self.prepare_commit(at, held, own, (first, last));
        if result.is_ok() {
            let version = if own { held } else { self.fork(region_at, held) };
            result = self.finish_commit(stage.index(), region_at, version, len);
        }
        self.end_writing();
        self.sound(result)
    }

    /// Makes sure of what a commit takes, and gives back what was set aside for it.
    fn prepare_commit(
        &mut self,
        at: u64,
        held: u32,
        own: bool,
        (first, last): (u64, u64),
    ) -> Result<()> {
        if !own {
            self.require_version()?;
        }
        let (frames, path) = Self::need_at_most(self.depth(self.version_at(held)), first, last);
        if !self.stock(self.lay.nodes, path + 1 + (frames + path) / 62) {
            return Err(Error::Pending);
        }
        self.unreserve_stage(at);
        self.close();
        Ok(())
    }

    /// Swaps all in and ends the staged write.
    fn finish_commit(&mut self, index: u32, region_at: u64, version: u32, len: u64) -> Result<()> {
        let at = self.at(self.lay.stages, index);
        let borrowed = u64::from(self.mem.load_u32(at + field::BORROWED));
        let absent = self.swap_all(at, region_at, version, len)?;
        self.return_promise(region_at, borrowed.saturating_sub(absent));
        self.put_staged_nodes(at);
        self.end_stage(index);
        self.put_record(self.lay.stages, index);
        self.close();
        Ok(())
    }

    /// Completes the staged frames of the first and last page and swaps all in, each page an
    /// operation of its own: a region whose owner dies in between dies too. Returns how many
    /// pages were absent before.
    fn swap_all(&mut self, at: u64, region_at: u64, version: u32, len: u64) -> Result<u64> {
        let start = self.mem.load_u64(at + field::BASE);
        let borrowed = u64::from(self.mem.load_u32(at + field::BORROWED));
        let (first, last) = pages_of(start, len);
        let (end, mut absent) = (start + len, 0);
        // From the last to the first: free frames are a stack, which then hands out in order what
        // this supersedes.
        for number in (first..=last).rev() {
            let byte = start.max(number << PAGE_SHIFT);
            let piece = Piece::first(byte, end - byte);
            let page = number - first;
            let slot = self.staged_slot(at, page).ok_or(Error::Corrupt)?;
            let frame = self.mem.load_u32(slot).checked_sub(1).ok_or(Error::Corrupt)?;
            if piece.len < PAGE_BYTES {
                let old = self.locate(version, number);
                self.fill_round(self.frame_at(frame), piece, old);
            }
            self.set_u32(slot, 0);
            match self.swap_in(region_at, version, piece.page, frame) {
                Was::Own => {}
                Was::Shared => self.charge_page(region_at),
                Was::Absent => {
                    absent += 1;
                    if absent > borrowed {
                        self.charge_page(region_at);
                    }
                }
            }
            self.close();
        }
        Ok(absent)
    }

    /// Promises frames to a region again that a staged write borrowed and did not use.
    fn return_promise(&mut self, region_at: u64, count: u64) {
        let count = count.min(self.credit(self.lay.frames)) as u32;
        if count != 0 {
            self.reserve(self.lay.frames, count);
            let promised = self.mem.load_u32(region_at + region::FRAMES);
            self.set_u32(region_at + region::FRAMES, promised.wrapping_add(count));
        }
    }

    /// Ends a staged write without a trace in its region: frees what it has, at most 2,049 frames.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    pub fn stage_abort(&mut self, holder: HolderId, stage: StageId) -> Result<()> {
        let at = self.stage_at(holder, stage)?;
        self.unreserve_stage(at);
        self.close();
        while !self.abort_step(stage.index()) {}
        let region = RegionId::from_raw(self.mem.load_u64(at + field::REGION));
        if let Ok(region_at) = self.region_at(holder, region) {
            self.return_promise(region_at, self.mem.load_u32(at + field::BORROWED).into());
        }
        self.end_stage(stage.index());
        self.put_record(self.lay.stages, stage.index());
        self.close();
        self.sound(Ok(()))
    }

    /// Hands the staged write in a slot to reclamation, its holder and region being gone.
    pub(super) fn abort_stage(&mut self, index: u32) {
        let at = self.at(self.lay.stages, index);
        self.unreserve_stage(at);
        self.end_stage(index);
        let generation = self.mem.load_u64(at + WORD) >> STATE_BITS;
        self.set_u64(at + WORD, generation << STATE_BITS | STATE_LEAVING);
        self.enqueue(self.lay.stages, superblock::ABORT_QUEUE, index);
        self.close();
    }

    /// Gives back what was set aside and not used.
    fn unreserve_stage(&mut self, at: u64) {
        for (table, left) in [(self.lay.frames, field::FRAMES), (self.lay.nodes, field::NODES)] {
            self.unreserve(table, self.mem.load_u32(at + left));
            self.set_u32(at + left, 0);
        }
    }

    /// Takes a staged write from its holder.
    fn end_stage(&mut self, index: u32) {
        let at = self.at(self.lay.stages, index);
        let holder_at = self.at(self.lay.holders, self.mem.load_u32(at + field::HOLDER));
        let count = self.mem.load_u32(holder_at + holder::STAGE_COUNT);
        self.set_u32(holder_at + holder::STAGE_COUNT, count.wrapping_sub(1));
    }

    /// Gives back the nodes of a staged write whose frames have all been swapped in.
    fn put_staged_nodes(&mut self, at: u64) {
        let Some(root) = self.mem.load_u32(at + field::ROOT).checked_sub(1) else { return };
        if self.stage_depth(at) == DEPTH_MAX {
            for position in 0..self.staged_pages(at).div_ceil(LEAF_PAGES) {
                let link = self.mem.load_u32(self.node_at(root) + 4 * position);
                if let Some(leaf) = link.checked_sub(1) {
                    self.put_stamped(self.lay.nodes, leaf);
                }
            }
        }
        self.put_stamped(self.lay.nodes, root);
    }

    /// One step of freeing an aborted staged write: a node and its frames. Whether it is done.
    pub(super) fn abort_step(&mut self, index: u32) -> bool {
        let at = self.at(self.lay.stages, index);
        let Some(root) = self.mem.load_u32(at + field::ROOT).checked_sub(1) else {
            return true;
        };
        match self.stage_depth(at) {
            0 => self.put_stamped(self.lay.frames, root),
            1 => self.put_staged_leaf(root),
            _ if self.abort_leaf(at, root) => return false,
            _ => self.put_stamped(self.lay.nodes, root),
        }
        self.set_u32(at + field::ROOT, 0);
        self.close();
        true
    }

    /// Frees the next leaf of an aborted staged write of two levels. False if there is none.
    fn abort_leaf(&mut self, at: u64, root: u32) -> bool {
        let mut cursor = self.mem.load_u32(at + field::CURSOR);
        while cursor < FAN_OUT {
            let slot = self.node_at(root) + 4 * u64::from(cursor);
            cursor += 1;
            let Some(leaf) = self.mem.load_u32(slot).checked_sub(1) else { continue };
            self.spend(0, cursor);
            self.put_staged_leaf(leaf);
            self.set_u32(slot, 0);
            self.set_u32(at + field::CURSOR, cursor);
            self.close();
            return true;
        }
        false
    }

    /// Gives back a leaf of an aborted staged write, and its frames.
    fn put_staged_leaf(&mut self, leaf: u32) {
        self.spend(FAN_OUT, 0);
        for position in 0..FAN_OUT {
            let link = self.mem.load_u32(self.node_at(leaf) + 4 * u64::from(position));
            if let Some(frame) = link.checked_sub(1) {
                self.put_stamped(self.lay.frames, frame);
            }
        }
        self.put_stamped(self.lay.nodes, leaf);
    }
}

const _: () = assert!(STAGE_BYTES_MAX / PAGE_BYTES < LEAF_PAGES.pow(DEPTH_MAX));

//! Regions: `alloc`, `free`, `read`, `write`.

use super::cache::Free;
use super::change::Change;
use super::error::{Error, Object, Resource, Result};
use super::ids::{HolderId, RegionId};
use super::layout::{FAN_OUT_SHIFT, PAGE_SHIFT, REGION_BYTES_MAX};
use super::records::{holder, region as field, version};
use super::tree::{Need, Piece};
use super::{Memory, Store};
use crate::memory::Record;

/// Levels of nodes that a region of so many pages needs.
fn depth_for(pages: u64) -> u32 {
    let mut depth = 0;
    while pages > 1 << (FAN_OUT_SHIFT * depth) {
        depth += 1;
    }
    depth
}

/// Checks that `len` bytes at `offset` lie within `size` bytes.
///
/// # Errors
/// [`Error::ZeroLength`], [`Error::Overflow`], [`Error::Range`].
#[inline(always)]
pub(super) fn check_range(offset: u64, len: u64, size: u64) -> Result<()> {
    if len == 0 {
        return Err(Error::ZeroLength);
    }
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        Some(_) => Err(Error::Range { offset, len, size }),
        None => Err(Error::Overflow { offset, len }),
    }
}

impl<M: Memory> Store<M> {
    /// Makes a region of `len` bytes, all zeros. Its frames are promised, none is taken yet:
    /// writing to it for the first time cannot fail for want of memory.
    ///
    /// # Errors
    /// [`Error::ZeroLength`], [`Error::TooLarge`], [`Error::Stale`] for the holder,
    /// [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    pub fn alloc(&mut self, holder: HolderId, len: u64) -> Result<RegionId> {
        if len == 0 {
            return Err(Error::ZeroLength);
        }
        if len > REGION_BYTES_MAX {
            return Err(Error::TooLarge { len, max: REGION_BYTES_MAX });
        }
        let holder_at = self.holder_at(holder)?;
        let pages = ((len - 1) >> PAGE_SHIFT) + 1;
        let depth = depth_for(pages);
        let (_, nodes) = Self::need_at_most(depth, 0, pages - 1);
        self.check_pages(holder_at, pages)?;
        self.check_region(self.line(holder_at))?;
        self.require(self.lay.regions, Resource::Regions)?;
        self.require_version()?;
        self.require_credit(self.lay.frames, (pages, 0), Resource::Frames)?;
        self.require_credit(self.lay.nodes, (nodes, 0), Resource::Nodes)?;
        // Both fit into 32 bits: so many are available.
        let (frames, nodes) = (pages as u32, nodes as u32);
        self.reserve(self.lay.frames, frames);
        self.reserve(self.lay.nodes, nodes);
        let version = self.new_version(depth, 0, 0);
        let counted = self.check_region(self.line(holder_at))?;
        let free = self.next_free(&self.lay.regions, Resource::Regions)?;
        let (region, changes) = self.next_region(free, (holder, counted), version, (0, len), true);
        self.set_all(changes);
        let at = self.lay.regions.at(region.index());
        self.mem.store_u32(at + field::FRAMES, frames);
        self.mem.store_u32(at + field::NODES, nodes);
        self.mem.store_u64(at + field::CHARGED, pages);
        self.charge(holder_at, pages);
        self.close();
        self.sound(Ok(region))
    }

    /// Whether a holder may have one more region, and how it is counted.
    ///
    /// # Errors
    /// [`Error::Quota`].
    #[inline(always)]
    pub(super) fn check_region<'m>(&self, holder: Record<'m, M>) -> Result<Change<'m, M>> {
        let count = holder.load_u32(holder::REGION_COUNT);
        let limit = holder.load_u32(holder::REGIONS_MAX);
        if count >= limit {
            let (limit, wanted) = (limit.into(), u64::from(count) + 1);
            return Err(Error::Quota { what: Resource::Regions, limit, wanted });
        }
        Ok(Change::u32(holder, holder::REGION_COUNT, count, count.wrapping_add(1)))
    }

    /// Fills the record of a new region in `free`, and how it becomes one; the version's count is
    /// the caller's business.
    #[inline(always)]
    pub(super) fn next_region<'m>(
        &self,
        free: Free<'m, M>,
        (holder, counted): (HolderId, Change<'m, M>),
        version: u32,
        (base, len): (u64, u64),
        writable: bool,
    ) -> (RegionId, [Change<'m, M>; 3]) {
        let region = free.line;
        region.store_u32(field::HOLDER, holder.index());
        region.store_u64(field::BASE, base);
        region.store_u64(field::LEN, len);
        region.store_u32(field::VERSION, version);
        region.store_u32(field::WRITABLE, writable.into());
        region.store_u32(field::FRAMES, 0);
        region.store_u32(field::NODES, 0);
        region.store_u64(field::CHARGED, 0);
        let (live, generation) = self.enlivening(&free);
        (RegionId::new(free.index, generation), [free.taking, counted, live])
    }

    /// Ends a region. Constant work: what only it could see is freed by [`Store::reclaim`].
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    pub fn free(&mut self, holder: HolderId, region: RegionId) -> Result<()> {
        let line = self.region_line(holder, region)?;
        self.end_region_in(region.index(), line);
        self.sound(Ok(()))
    }

    /// Ends the live region in a slot.
    pub(super) fn end_region(&mut self, index: u32) {
        let index = self.bounded(index, self.lay.regions.limit);
        self.end_region_in(index, self.line(self.lay.regions.at(index)));
    }

    #[inline(always)]
    fn end_region_in(&self, index: u32, region: Record<'_, M>) {
        let holder_at = self.at(self.lay.holders, region.load_u32(field::HOLDER));
        let version = region.load_u32(field::VERSION);
        let charged = region.load_u64(field::CHARGED);
        let (frames, nodes) = (region.load_u32(field::FRAMES), region.load_u32(field::NODES));
        if charged != 0 || frames | nodes != 0 {
            self.give_back(holder_at, charged, (frames, nodes));
        }
        let holder = self.line(holder_at);
        let count = holder.load_u32(holder::REGION_COUNT);
        let counted = Change::u32(holder, holder::REGION_COUNT, count, count.wrapping_sub(1));
        let [ended, put] = self.ending(&self.lay.regions, (index, region));
        self.release_all([counted, ended, put], version);
    }

    /// Takes the pages of a region off its holder's account, and back what it was promised.
    #[cold]
    fn give_back(&self, holder_at: u64, charged: u64, (frames, nodes): (u32, u32)) {
        if charged != 0 {
            let pages = self.mem.load_u64(holder_at + holder::PAGES);
            self.set_u64(holder_at + holder::PAGES, pages.wrapping_sub(charged));
        }
        self.unreserve(self.lay.frames, frames);
        self.unreserve(self.lay.nodes, nodes);
    }

    /// Where the record of a holder's region is.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    #[inline(always)]
    pub(super) fn region_at(&self, holder: HolderId, region: RegionId) -> Result<u64> {
        Ok(self.region_line(holder, region)?.offset())
    }

    /// The line of that record.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    #[inline(always)]
    pub(super) fn region_line(&self, holder: HolderId, region: RegionId) -> Result<Record<'_, M>> {
        self.holder_at(holder)?;
        self.own_region_line(holder, region)
    }

    /// The same of a holder that is known to be live.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    #[inline(always)]
    pub(super) fn own_region_line(
        &self,
        holder: HolderId,
        region: RegionId,
    ) -> Result<Record<'_, M>> {
        let (index, generation) = (region.index(), region.generation());
        let line = self.live(self.lay.regions, index, generation, Object::Region)?;
        if line.load_u32(field::HOLDER) != holder.index() {
            return Err(Error::NotYours);
        }
        Ok(line)
    }

    /// Bytes of a region.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    pub fn region_len(&self, holder: HolderId, region: RegionId) -> Result<u64> {
        let at = self.region_at(holder, region)?;
        Ok(self.mem.load_u64(at + field::LEN))
    }

    /// Where bytes of a region are in its version's tree.
    ///
    /// # Errors
    /// [`Error::ZeroLength`], [`Error::Overflow`], [`Error::Range`].
    #[inline(always)]
    pub(super) fn region_range(&self, region: u64, offset: u64, len: u64) -> Result<u64> {
        let region = self.line(region);
        check_range(offset, len, region.load_u64(field::LEN))?;
        self.in_tree(region.load_u64(field::BASE), offset, len)
    }

    /// Where `len` bytes at `offset` behind `base` are in a tree.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if no tree is so large, where others write too.
    #[inline(always)]
    pub(super) fn in_tree(&self, base: u64, offset: u64, len: u64) -> Result<u64> {
        let max = REGION_BYTES_MAX;
        if self.mem.shared() && (base > max || offset > max - base || len > max - base - offset) {
            return Err(Error::Corrupt);
        }
        Ok(base + offset)
    }

    /// Copies bytes out of a region.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`], [`Error::ZeroLength`], [`Error::Overflow`],
    /// [`Error::Range`].
    #[inline]
    pub fn read(
        &self,
        holder: HolderId,
        region: RegionId,
        offset: u64,
        target: &mut [u8],
    ) -> Result<()> {
        let at = self.region_at(holder, region)?;
        let start = self.region_range(at, offset, target.len() as u64)?;
        self.read_tree(self.mem.load_u32(at + field::VERSION), start, target);
        self.sound(Ok(()))
    }

    /// Copies bytes into a region. Pages that somebody else can see are copied first.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`], [`Error::ReadOnly`], [`Error::ZeroLength`],
    /// [`Error::Overflow`], [`Error::Range`]; for the copies [`Error::Quota`],
    /// [`Error::Pending`], [`Error::OutOf`]. All of the bytes are written or none.
    #[inline]
    pub fn write(
        &mut self,
        holder: HolderId,
        region: RegionId,
        offset: u64,
        source: &[u8],
    ) -> Result<()> {
        let at = self.region_at(holder, region)?;
        if self.mem.load_u32(at + field::WRITABLE) == 0 {
            return Err(Error::ReadOnly);
        }
        let len = source.len() as u64;
        let start = self.region_range(at, offset, len)?;
        let version = self.mem.load_u32(at + field::VERSION);
        let piece = Piece::first(start, len);
        if piece.len == len && self.count(version).exclusive() {
            let version_at = self.version_at(version);
            let threshold = self.mem.load_u64(version_at + version::THRESHOLD);
            let spot = self.descend(version_at, threshold, piece.page);
            if let Some(frame) = self.own_frame(spot, threshold) {
                self.mem.write(self.frame_at(frame) + piece.start, source);
                return self.sound(Ok(()));
            }
        }
        self.write_pages(at, version, start, source)
    }

    /// The general write: makes sure of all it takes, then forks if it must, then goes by page.
    #[inline(never)]
    fn write_pages(&mut self, region: u64, held: u32, start: u64, source: &[u8]) -> Result<()> {
        let own = self.count(held).exclusive() && self.try_writing(held);
        let result = self.check_write(region, held, own, (start, source.len() as u64));
        if result.is_ok() {
            let version = if own { held } else { self.fork(region, held) };
            let (mut at, mut source) = (start, source);
            while !source.is_empty() {
                let piece = Piece::first(at, source.len() as u64);
                let (now, rest) = source.split_at(piece.len as usize);
                self.write_piece(region, version, piece, now);
                source = rest;
                at += piece.len;
            }
        }
        self.end_writing();
        self.sound(result)
    }

    /// Whether everything is there that a write of `len` bytes at `start` takes.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    fn check_write(
        &mut self,
        region: u64,
        held: u32,
        own: bool,
        (start, len): (u64, u64),
    ) -> Result<()> {
        let at = self.version_at(held);
        if !own {
            self.require_version()?;
        }
        let (first, last) = (start >> PAGE_SHIFT, (start + len - 1) >> PAGE_SHIFT);
        let (frames, nodes) = Self::need_at_most(self.depth(at), first, last);
        // One chunk for the list's tail, and what so many items fill.
        let nodes = nodes + 1 + (frames + nodes) / 62;
        let holder_at = self.at(self.lay.holders, self.mem.load_u32(region + field::HOLDER));
        if self.borrow_credit(self.lay.frames, frames)
            && self.borrow_credit(self.lay.nodes, nodes)
            && self.check_pages(holder_at, frames).is_ok()
            && self.stock(self.lay.frames, frames)
            && self.stock(self.lay.nodes, nodes)
        {
            return Ok(());
        }
        let shared_at = if own { version::THRESHOLD } else { version::NUMBER };
        let threshold = self.mem.load_u64(at + shared_at);
        let need = self.need_exactly(at, threshold, (first, last));
        self.check_need(region, holder_at, &need, own.then_some(at + version::DEAD))
    }

    /// Whether exactly what a write needs is there; `dead` is the list it will add to.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    fn check_need(
        &mut self,
        region: u64,
        holder_at: u64,
        need: &Need,
        dead: Option<u64>,
    ) -> Result<()> {
        let promised_frames = u64::from(self.mem.load_u32(region + field::FRAMES));
        let promised_nodes = u64::from(self.mem.load_u32(region + field::NODES));
        let items = need.copied_frames + need.copied_nodes;
        let chunks = match dead {
            Some(list) => self.chunks_needed(list, items),
            None => items.div_ceil(62),
        };
        let frames = need.copied_frames + need.absent_frames.saturating_sub(promised_frames);
        let nodes = need.copied_nodes + need.absent_nodes.saturating_sub(promised_nodes) + chunks;
        self.check_pages(holder_at, frames)?;
        let all_frames = need.copied_frames + need.absent_frames;
        let all_nodes = need.copied_nodes + need.absent_nodes + chunks;
        self.require_credit(self.lay.frames, (frames, all_frames), Resource::Frames)?;
        self.require_credit(self.lay.nodes, (nodes, all_nodes), Resource::Nodes)
    }
}

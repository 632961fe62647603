//! Regions: `alloc`, `free`, `read`, `write`.

use super::error::{Error, Object, Resource, Result};
use super::ids::{HolderId, RegionId};
use super::layout::{FAN_OUT_SHIFT, PAGE_SHIFT, REGION_BYTES_MAX};
use super::list::Chain;
use super::records::{holder, region as field, version};
use super::tree::{Need, Piece};
use super::{Memory, Store};

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
        self.check_region(holder_at)?;
        self.require_version()?;
        self.require(self.lay.frames, pages, Resource::Frames)?;
        self.require(self.lay.nodes, nodes, Resource::Nodes)?;
        // Both fit into 32 bits: so many are available.
        let (frames, nodes) = (pages as u32, nodes as u32);
        self.reserve(self.lay.frames, frames);
        self.reserve(self.lay.nodes, nodes);
        let version = self.new_version(depth, 0, 0);
        let region = self.new_region(holder, version, (0, len), true);
        let at = self.lay.regions.at(region.index());
        self.mem.store_u32(at + field::FRAMES, frames);
        self.mem.store_u32(at + field::NODES, nodes);
        self.mem.store_u64(at + field::CHARGED, pages);
        self.charge(holder_at, pages);
        Ok(region)
    }

    /// Whether a holder may have one more region, and the table has one.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    pub(super) fn check_region(&self, holder_at: u64) -> Result<()> {
        let count = u64::from(self.mem.load_u32(holder_at + holder::REGION_COUNT));
        let limit = u64::from(self.mem.load_u32(holder_at + holder::REGIONS_MAX));
        if count >= limit {
            return Err(Error::Quota { what: Resource::Regions, limit, wanted: count + 1 });
        }
        self.require(self.lay.regions, 1, Resource::Regions)
    }

    /// Makes the record of a region; [`Store::check_region`] came first, and the version's count
    /// is the caller's business.
    pub(super) fn new_region(
        &mut self,
        holder: HolderId,
        version: u32,
        (base, len): (u64, u64),
        writable: bool,
    ) -> RegionId {
        let (index, generation) = self.take_record(self.lay.regions);
        let at = self.lay.regions.at(index);
        self.mem.store_u32(at + field::HOLDER, holder.index());
        self.mem.store_u64(at + field::BASE, base);
        self.mem.store_u64(at + field::LEN, len);
        self.mem.store_u32(at + field::VERSION, version);
        self.mem.store_u32(at + field::WRITABLE, writable.into());
        self.mem.store_u32(at + field::FRAMES, 0);
        self.mem.store_u32(at + field::NODES, 0);
        self.mem.store_u64(at + field::CHARGED, 0);
        let holder_at = self.lay.holders.at(holder.index());
        self.link(Chain::regions(self.lay.regions), holder_at + holder::REGIONS, index);
        let count = self.mem.load_u32(holder_at + holder::REGION_COUNT);
        self.mem.store_u32(holder_at + holder::REGION_COUNT, count + 1);
        RegionId::new(index, generation)
    }

    /// Ends a region. Constant work: what only it could see is freed by [`Store::reclaim`].
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    pub fn free(&mut self, holder: HolderId, region: RegionId) -> Result<()> {
        self.region_at(holder, region)?;
        self.end_region(region.index());
        Ok(())
    }

    /// Ends the live region in a slot.
    pub(super) fn end_region(&mut self, index: u32) {
        let at = self.lay.regions.at(index);
        let holder_at = self.lay.holders.at(self.mem.load_u32(at + field::HOLDER));
        self.unlink(Chain::regions(self.lay.regions), holder_at + holder::REGIONS, index);
        let count = self.mem.load_u32(holder_at + holder::REGION_COUNT);
        self.mem.store_u32(holder_at + holder::REGION_COUNT, count - 1);
        let charged = self.mem.load_u64(at + field::CHARGED);
        let pages = self.mem.load_u64(holder_at + holder::PAGES);
        self.mem.store_u64(holder_at + holder::PAGES, pages - charged);
        self.unreserve(self.lay.frames, self.mem.load_u32(at + field::FRAMES));
        self.unreserve(self.lay.nodes, self.mem.load_u32(at + field::NODES));
        let version = self.mem.load_u32(at + field::VERSION);
        self.put_record(self.lay.regions, index);
        self.release(version);
    }

    /// Where the record of a holder's region is.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotYours`].
    #[inline(always)]
    pub(super) fn region_at(&self, holder: HolderId, region: RegionId) -> Result<u64> {
        self.holder_at(holder)?;
        let (index, generation) = (region.index(), region.generation());
        let at = self.record(self.lay.regions, index, generation, Object::Region)?;
        if self.mem.load_u32(at + field::HOLDER) != holder.index() {
            return Err(Error::NotYours);
        }
        Ok(at)
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
        check_range(offset, len, self.mem.load_u64(region + field::LEN))?;
        Ok(self.mem.load_u64(region + field::BASE) + offset)
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
        Ok(())
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
                return Ok(());
            }
        }
        self.write_pages(at, version, start, source)
    }

    /// The general write: makes sure of all it takes, then forks if it must, then goes by page.
    #[inline(never)]
    fn write_pages(&mut self, region: u64, held: u32, start: u64, source: &[u8]) -> Result<()> {
        let len = source.len() as u64;
        self.check_write(region, held, start, len)?;
        let version = self.writable_version(region, held);
        let (mut at, mut source) = (start, source);
        while !source.is_empty() {
            let piece = Piece::first(at, source.len() as u64);
            let (now, rest) = source.split_at(piece.len as usize);
            self.write_piece(region, version, piece, now);
            source = rest;
            at += piece.len;
        }
        Ok(())
    }

    /// The version that a region may write to: its own, or a new one if others see it.
    pub(super) fn writable_version(&mut self, region: u64, held: u32) -> u32 {
        if self.count(held).exclusive() { held } else { self.fork(region, held) }
    }

    /// Whether everything is there that a write of `len` bytes at `start` takes.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    fn check_write(&self, region: u64, held: u32, start: u64, len: u64) -> Result<()> {
        let at = self.version_at(held);
        let exclusive = self.count(held).exclusive();
        if !exclusive {
            self.require_version()?;
        }
        let (first, last) = (start >> PAGE_SHIFT, (start + len - 1) >> PAGE_SHIFT);
        let depth = self.mem.load_u32(at + version::DEPTH);
        let (frames, nodes) = Self::need_at_most(depth, first, last);
        // One chunk for the list's tail, and what so many items fill.
        let chunks = 1 + (frames + nodes) / 62;
        let holder_at = self.lay.holders.at(self.mem.load_u32(region + field::HOLDER));
        if self.available(self.lay.frames) >= frames
            && self.available(self.lay.nodes) >= nodes + chunks
            && self.check_pages(holder_at, frames).is_ok()
        {
            return Ok(());
        }
        let shared_at = if exclusive { version::THRESHOLD } else { version::NUMBER };
        let threshold = self.mem.load_u64(at + shared_at);
        let need = self.need_exactly(at, threshold, (first, last));
        self.check_need(region, holder_at, &need, exclusive.then_some(at + version::DEAD))
    }

    /// Whether exactly what a write needs is there; `dead` is the list it will add to.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Pending`], [`Error::OutOf`].
    fn check_need(
        &self,
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
        self.require(self.lay.frames, frames, Resource::Frames)?;
        self.require(self.lay.nodes, nodes, Resource::Nodes)
    }
}

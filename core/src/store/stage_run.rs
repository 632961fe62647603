//! Staged bytes that are written where they belong: a stretch of them is looked up once, not for
//! each part that comes in.

use super::error::Result;
use super::ids::{HolderId, StageId};
use super::layout::{PAGE_BYTES, PAGE_SHIFT};
use super::records::stage as field;
use super::region::check_range;
use super::tree::position;
use super::{Memory, Store};

/// Pages that frames are taken for at a time: writes that come in side by side get frames that lie
/// together all the same.
const RUN_PAGES: u64 = 16;

/// Bytes of a staged write that lie together. Good until the staged write ends, however that comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct StagedRun {
    /// Where it begins in the staged bytes.
    offset: u64,
    /// Where that is in the pool.
    place: u64,
    bytes: u64,
}

impl StagedRun {
    /// A run without bytes.
    pub const EMPTY: Self = Self { offset: 0, place: 0, bytes: 0 };

    /// Whether it has the `bytes` bytes from `offset` of the staged write on.
    #[inline(always)]
    pub fn has(&self, offset: u64, bytes: u64) -> bool {
        self.find(offset, bytes).is_some()
    }

    /// Where `bytes` bytes from `offset` of the staged write on are, if all of them are here.
    #[inline(always)]
    fn find(&self, offset: u64, bytes: u64) -> Option<u64> {
        let skipped = offset.checked_sub(self.offset)?;
        let end = skipped.checked_add(bytes)?;
        (end <= self.bytes).then_some(self.place.wrapping_add(skipped))
    }
}

impl<M: Memory> Store<M> {
    /// Finds the bytes of a staged write from `offset` on that lie together, up to 16 pages of
    /// them, and takes frames for those that have none yet.
    ///
    /// # Errors
    /// [`super::Error::Stale`], [`super::Error::NotYours`], [`super::Error::Range`],
    /// [`super::Error::Pending`].
    pub fn stage_run(
        &mut self,
        holder: HolderId,
        stage: StageId,
        offset: u64,
    ) -> Result<StagedRun> {
        let at = self.stage_at(holder, stage)?;
        let (base, len) = (self.mem.load_u64(at + field::BASE), self.mem.load_u64(at + field::LEN));
        check_range(offset, 1, len)?;
        let start = base + offset;
        let first = (start >> PAGE_SHIFT) - (base >> PAGE_SHIFT);
        let pages = ((base + len - 1) >> PAGE_SHIFT) - (start >> PAGE_SHIFT) + 1;
        let (mut slot, frame) = self.staged_link(at, first)?;
        let mut count = 1;
        while count < pages.min(RUN_PAGES) {
            let page = first + count;
            // Links of a leaf lie side by side.
            let next = if position(page, 1) == 0 {
                self.staged_link(at, page)
            } else {
                self.linked_frame(at, slot + 4).map(|next| (slot + 4, next))
            };
            match next {
                Ok((there, next)) if next == frame + count as u32 => slot = there,
                _ => break,
            }
            count += 1;
        }
        let in_page = start & (PAGE_BYTES - 1);
        let bytes = ((count << PAGE_SHIFT) - in_page).min(len - offset);
        self.sound(Ok(StagedRun { offset, place: self.frame_at(frame) + in_page, bytes }))
    }

    /// `bytes` bytes from `offset` of a staged write on, to be written, if all of them are of `run`
    /// and nobody else uses the pool. [`Store::stage_placed`] says later how many were.
    #[inline(always)]
    pub fn staged_bytes(&mut self, run: &StagedRun, offset: u64, bytes: u64) -> Option<&mut [u8]> {
        self.mem.alone(run.find(offset, bytes)?, bytes)
    }

    /// Counts `bytes` bytes of a staged write that were written through [`Store::staged_bytes`].
    ///
    /// # Errors
    /// [`super::Error::Stale`], [`super::Error::NotYours`].
    pub fn stage_placed(&mut self, holder: HolderId, stage: StageId, bytes: u64) -> Result<()> {
        let at = self.stage_at(holder, stage)?;
        let filled = self.mem.load_u64(at + field::FILLED);
        self.mem.store_u64(at + field::FILLED, filled.wrapping_add(bytes));
        self.sound(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::memory::{Atomic, Plain};
    use crate::store::{Config, Error, Limits};

    const BYTES: u64 = 40 * PAGE_BYTES + 1_234;

    /// What comes in pieces of 1,410 bytes, every third the long way, is what is read.
    #[test]
    fn runs_and_pieces_make_one_write() {
        let mut words = vec![0; (8 << 20) / 8];
        let config = Config::for_pool_bytes(8 << 20);
        let mut store = Store::format(Plain::new(&mut words), &config).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, 64 * PAGE_BYTES).expect("room");
        for (round, offset) in [(0u8, 0), (1, 700), (2, 9_000), (3, 9_000)] {
            let stage = store.stage_begin(holder, region, offset, BYTES).expect("room");
            let source: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8 ^ round).collect();
            let (mut run, mut placed, mut runs) = (StagedRun::EMPTY, 0, 0);
            for (number, piece) in source.chunks(1_410).enumerate() {
                let at = number as u64 * 1_410;
                if number % 3 == 2 {
                    store.stage_write(holder, stage, at, piece).expect("set aside");
                    continue;
                }
                if store.staged_bytes(&run, at, piece.len() as u64).is_none() {
                    run = store.stage_run(holder, stage, at).expect("set aside");
                    runs += 1;
                }
                match store.staged_bytes(&run, at, piece.len() as u64) {
                    Some(place) => {
                        place.copy_from_slice(piece);
                        placed += piece.len() as u64;
                    }
                    None => store.stage_write(holder, stage, at, piece).expect("set aside"),
                }
            }
            assert!(runs <= 6, "{runs} runs in round {round}");
            let missing = store.stage_commit(holder, stage);
            assert!(matches!(missing, Err(Error::Incomplete { .. })), "{missing:?}");
            store.stage_placed(holder, stage, placed).expect("there");
            store.stage_commit(holder, stage).expect("all is there");
            let mut found = vec![0; BYTES as usize];
            store.read(holder, region, offset, &mut found).expect("in range");
            assert!(found == source, "round {round}");
            store.check(&mut vec![0; store.check_scratch_bytes()]).expect("sound");
        }
    }

    /// One page needs no node, 64 need one, more need one a leaf and the root; aborted or committed
    /// at any point, all of them come back.
    #[test]
    fn a_staged_tree_is_as_deep_as_its_pages_need() {
        let mut words = vec![0; (8 << 20) / 8];
        let config = Config::for_pool_bytes(8 << 20);
        let mut store = Store::format(Plain::new(&mut words), &config).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, 200 * PAGE_BYTES).expect("room");
        let full = vec![7; 200 * PAGE_BYTES as usize];
        store.write(holder, region, 0, &full).expect("room");
        let at_rest = store.stats();
        for (pages, nodes) in [(1, 0), (2, 1), (64, 1), (65, 3), (128, 3), (129, 4)] {
            // The last time not aligned, and so of as many pages with less than their bytes.
            for (aborted, cut) in [(true, 0), (false, 0), (false, u64::from(pages > 1))] {
                let bytes = pages * PAGE_BYTES - 2 * cut;
                let stage =
                    store.stage_begin(holder, region, PAGE_BYTES + cut, bytes).expect("room");
                for offset in (0..bytes).step_by(PAGE_BYTES as usize) {
                    let piece = PAGE_BYTES.min(bytes - offset) as usize;
                    store.stage_write(holder, stage, offset, &full[..piece]).expect("set aside");
                    if offset == 0 {
                        store.check(&mut vec![0; store.check_scratch_bytes()]).expect("sound");
                    }
                }
                let taken = store.stats().nodes.in_use - at_rest.nodes.in_use;
                assert_eq!(taken, nodes, "{pages} pages");
                if aborted {
                    store.stage_abort(holder, stage).expect("there");
                } else {
                    store.stage_commit(holder, stage).expect("all is there");
                }
                let stats = store.stats();
                assert_eq!(stats.nodes.in_use, at_rest.nodes.in_use, "{pages} pages");
                assert_eq!(stats.nodes.reserved, at_rest.nodes.reserved, "{pages} pages");
                assert_eq!(stats.frames.in_use, at_rest.frames.in_use, "{pages} pages");
                store.check(&mut vec![0; store.check_scratch_bytes()]).expect("sound");
            }
        }
    }

    #[test]
    fn a_run_is_of_a_stage_and_only_who_is_alone_writes_to_it() {
        let mut words = vec![0; (8 << 20) / 8];
        let config = Config::for_pool_bytes(8 << 20);
        let mut store = Store::format(Atomic::new(&mut words), &config).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, 4 * PAGE_BYTES).expect("room");
        let stage = store.stage_begin(holder, region, 0, 2 * PAGE_BYTES).expect("room");
        let run = store.stage_run(holder, stage, 100).expect("room");
        assert!(store.staged_bytes(&run, 100, 8).is_none(), "others may use the pool");
        assert!(run.find(99, 1).is_none() && run.find(100, 2 * PAGE_BYTES - 100).is_some());
        assert!(run.find(100, 2 * PAGE_BYTES - 99).is_none() && run.find(u64::MAX, 2).is_none());
        let outside = store.stage_run(holder, stage, 2 * PAGE_BYTES);
        assert!(matches!(outside, Err(Error::Range { .. })), "{outside:?}");
        store.stage_abort(holder, stage).expect("there");
        assert!(matches!(store.stage_run(holder, stage, 0), Err(Error::Stale { .. })));
        store.check(&mut vec![0; store.check_scratch_bytes()]).expect("sound");
    }
}

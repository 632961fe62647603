//! What waits to be reclaimed.

use super::records::{LINK, Table, holder, superblock};
use super::{Memory, Store};

/// How far each queue is looked through: longer ones are told as that long.
pub const BACKLOG_MAX: u32 = 256;

/// What waits to be reclaimed, or for the grace after its owner left. Each kind is counted up to
/// [`BACKLOG_MAX`] records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Versions to be freed, merged or looked at.
    pub versions: u32,
    /// Staged writes that were given up.
    pub stages: u32,
    /// Holders that left and whose regions are being freed.
    pub leaving: u32,
    /// Holders whose references wait for the end of the grace.
    pub in_grace: u32,
    /// Holders whose references are being freed.
    pub expiring: u32,
    /// Pages on the account of those holders.
    pub pages: u64,
    /// Regions of theirs.
    pub regions: u64,
    /// References of theirs.
    pub references: u64,
    /// Records that the sweep for them has looked at, of the table that it is at.
    pub swept: u32,
}

impl<M: Memory> Store<M> {
    /// What waits to be reclaimed. Bounded work, for accounts; what others change meanwhile may be
    /// counted twice or not at all.
    pub fn backlog(&self) -> Backlog {
        let mut backlog = Backlog::default();
        let holders = [
            (self.mem.load_u64(superblock::LEFT) as u32, 0),
            (self.mem.load_u32(superblock::LEFT_DRAINED), 0),
            (self.mem.load_u32(superblock::LEFT_TURNED), 0),
            (self.mem.load_u32(superblock::SWEEP_QUEUE), 0),
            (self.mem.load_u32(superblock::GRACE_QUEUE), 1),
            (self.mem.load_u32(superblock::EXPIRE_QUEUE), 2),
        ];
        for (link, kind) in holders {
            let count = self.count_links(self.lay.holders, link, |at| {
                backlog.pages += self.mem.load_u64(at + holder::PAGES);
                backlog.regions += u64::from(self.mem.load_u32(at + holder::REGION_COUNT));
                backlog.references += u64::from(self.mem.load_u32(at + holder::ENTRY_COUNT));
            });
            match kind {
                0 => backlog.leaving += count,
                1 => backlog.in_grace += count,
                _ => backlog.expiring += count,
            }
        }
        let (versions, stages) = (self.lay.versions, self.lay.stages);
        backlog.versions = u32::from(self.mem.load_u32(superblock::CURRENT) != 0)
            + self.count_links(versions, self.mem.load_u64(superblock::WORK) as u32, |_| {})
            + self.count_links(versions, self.mem.load_u32(superblock::DRAINED), |_| {});
        backlog.stages =
            self.count_links(stages, self.mem.load_u32(superblock::ABORT_QUEUE), |_| {});
        backlog.swept = self.mem.load_u32(superblock::SWEEP_CURSOR);
        backlog
    }

    /// Follows links from `link` on, calls `f` with the place of each record, and counts them.
    fn count_links(&self, table: Table, mut link: u32, mut f: impl FnMut(u64)) -> u32 {
        for count in 0..BACKLOG_MAX {
            let Some(index) = link.checked_sub(1).filter(|index| *index < table.limit) else {
                return count;
            };
            let at = self.at(table, index);
            f(at);
            link = self.mem.load_u32(at + LINK);
        }
        BACKLOG_MAX
    }
}

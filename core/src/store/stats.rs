//! How full a store is.

use super::error::Result;
use super::ids::HolderId;
use super::records::{STAMPED, Table, holder as field, participant, superblock};
use super::redo::value;
use super::{Memory, Store};

/// Use of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many there are.
    pub limit: u64,
    /// How many are in use, those being reclaimed among them.
    pub in_use: u64,
    /// How many are promised and not yet in use.
    pub reserved: u64,
    /// How many are used up for good, their generations at an end.
    pub retired: u64,
}

/// Use of everything in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Page frames.
    pub frames: Usage,
    /// Tree nodes and chunks.
    pub nodes: Usage,
    /// Versions.
    pub versions: Usage,
    /// Regions.
    pub regions: Usage,
    /// References.
    pub entries: Usage,
    /// Holders, those in their grace among them.
    pub holders: Usage,
    /// Pins.
    pub pins: Usage,
    /// Staged writes.
    pub stages: Usage,
    /// References without an owner.
    pub detached: u64,
    /// The number of the newest version.
    pub version_number: u64,
}

/// What one holder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HolderUsage {
    /// Pages on its account, see [`Limits::pages`](super::Limits::pages).
    pub pages: u64,
    /// Regions.
    pub regions: u32,
    /// References that it owns.
    pub entries: u32,
}

impl<M: Memory> Store<M> {
    /// What a holder has.
    ///
    /// # Errors
    /// [`Error::Stale`](super::Error::Stale).
    pub fn holder_usage(&self, holder: HolderId) -> Result<HolderUsage> {
        let at = self.holder_at(holder)?;
        Ok(HolderUsage {
            pages: self.mem.load_u64(at + field::PAGES),
            regions: self.mem.load_u32(at + field::REGION_COUNT),
            entries: self.mem.load_u32(at + field::ENTRY_COUNT),
        })
    }

    /// Reads all the counters. What others change meanwhile may be counted twice or not at all.
    pub fn stats(&self) -> Stats {
        Stats {
            frames: self.usage(self.lay.frames),
            nodes: self.usage(self.lay.nodes),
            versions: self.usage(self.lay.versions),
            regions: self.usage(self.lay.regions),
            entries: self.usage(self.lay.entries),
            holders: self.usage(self.lay.holders),
            pins: self.usage(self.lay.pins),
            stages: self.usage(self.lay.stages),
            detached: self.detached(),
            version_number: self.mem.load_u64(superblock::NUMBER),
        }
    }

    /// The sum of a counter of all participants.
    fn sum(&self, field: u64) -> u64 {
        (0..self.lay.config.participants)
            .map(|who| self.mem.load_u64(self.lay.participant(who) + field))
            .fold(0, u64::wrapping_add)
    }

    /// References without an owner.
    pub(super) fn detached(&self) -> u64 {
        self.sum(participant::DETACHED)
    }

    /// Use of one table.
    pub(super) fn usage(&self, table: Table) -> Usage {
        let cache = participant::CACHES + table.id * participant::CACHE_BYTES;
        let limit = u64::from(table.limit);
        let retired = self.sum(cache + participant::RETIRED);
        let (mut free, mut reserved) = (0, 0);
        if table.id >= STAMPED {
            reserved = self.sum(cache + participant::PROMISED);
            free = value(self.mem.load_u64(table.credit()))
                .wrapping_add(self.sum(cache + participant::CREDIT))
                .wrapping_add(reserved)
                .wrapping_add(self.lay.slack(table));
        } else {
            for who in 0..self.lay.config.participants {
                free = self.cached(self.lay.participant(who), table).wrapping_add(free);
            }
            let batches = self.sum(cache + participant::BATCHES);
            free = free.wrapping_add(batches.wrapping_mul(table.batch.into()));
            free = free.wrapping_add(limit - u64::from(self.high(table)));
        }
        let in_use = limit.saturating_sub(free).saturating_sub(retired);
        Usage { limit, in_use, reserved, retired }
    }
}

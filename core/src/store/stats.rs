//! How full a store is.

use super::error::Result;
use super::ids::HolderId;
use super::records::{Table, holder as field, superblock};
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

    /// Reads all the counters.
    pub fn stats(&self) -> Stats {
        let usage = |table: Table| Usage {
            limit: table.limit.into(),
            in_use: self.control(table, Table::USED).into(),
            reserved: self.control(table, Table::RESERVED).into(),
            retired: self.control(table, Table::RETIRED).into(),
        };
        Stats {
            frames: usage(self.lay.frames),
            nodes: usage(self.lay.nodes),
            versions: usage(self.lay.versions),
            regions: usage(self.lay.regions),
            entries: usage(self.lay.entries),
            holders: usage(self.lay.holders),
            pins: usage(self.lay.pins),
            stages: usage(self.lay.stages),
            detached: self.mem.load_u64(superblock::DETACHED),
            version_number: self.mem.load_u64(superblock::NUMBER),
        }
    }
}

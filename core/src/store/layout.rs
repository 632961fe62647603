//! Where everything is: the pool as a written sum.

use super::error::{FormatError, Resource};
use super::ids::INDEX_LIMIT;
use super::records::{self, Table, count, entry, participant, tagged};
use crate::memory::Memory;

/// Bytes of a page and of the frame that holds it.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
pub(super) const PAGE_SHIFT: u32 = 12;
/// Bytes of a tree node or chunk.
pub(super) const NODE_BYTES: u64 = 1 << NODE_SHIFT;
pub(super) const NODE_SHIFT: u32 = 8;
/// Entries of a tree node, as a power of two.
pub(super) const FAN_OUT_SHIFT: u32 = 6;
/// Entries of a tree node.
pub(super) const FAN_OUT: u32 = 1 << FAN_OUT_SHIFT;
/// Levels of nodes above the frames of the largest region.
pub(super) const DEPTH_MAX: u32 = 5;
/// Bytes of the largest region: 4 TiB.
pub const REGION_BYTES_MAX: u64 = PAGE_BYTES << (FAN_OUT_SHIFT * DEPTH_MAX);

/// How many of each thing a store has. Everything is taken at the start and nothing grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Page frames, 4 KiB each (and 8 bytes beside).
    pub frames: u32,
    /// Tree nodes and chunks, 256 bytes each (and 8 beside).
    pub nodes: u32,
    /// Versions, 128 bytes each: one an `alloc`, one a first write after a `create_ref`.
    pub versions: u32,
    /// Regions, 64 bytes each.
    pub regions: u32,
    /// References, 64 bytes each.
    pub entries: u32,
    /// Holders, 128 bytes each; one that left keeps its slot until its grace is over.
    pub holders: u32,
    /// Pins, 64 bytes each: one a read response in flight.
    pub pins: u32,
    /// Staged writes, 128 bytes each: one a write in flight of more than one packet.
    pub stages: u32,
    /// References that may be without an owner.
    pub detached_max: u32,
    /// Holds (regions, references and pins) that one version may have.
    pub holds_max: u32,
    /// Nanoseconds that a reference stays usable after its owner left.
    pub grace_ns: u64,
    /// Handles on the store at once: cores of one process, or processes. The first one reclaims.
    pub participants: u32,
}

/// Most holds that one version's count has room for.
pub(super) const HOLDS_LIMIT: u32 = (1 << count::BITS) - 1;
/// Shared words keep links, which are index + 1, beside who changed them last.
const LINKED_LIMIT: u32 = (1 << tagged::VALUE_BITS) - 2;
/// Most records of a table that change hands at once.
const BATCH_MAX: u32 = 64;

impl Config {
    /// A configuration that fills a pool of `bytes` bytes, most of them with frames.
    ///
    /// Sized for regions of 64 KiB and two references to each on average; nodes for trees that
    /// are half empty. Tiny pools get few of everything, and below 256 KiB may not fit at all.
    pub fn for_pool_bytes(bytes: u64) -> Self {
        let scaled = |unit: u64, min: u64, max: u64| (bytes / unit).clamp(min, max) as u32;
        let regions = scaled(64 << 10, 64, 1 << 20);
        let mut config = Self {
            frames: 0,
            nodes: 0,
            versions: regions * 2,
            regions,
            entries: regions * 2,
            holders: scaled(1 << 20, 16, 1 << 16),
            pins: scaled(256 << 10, 64, 1 << 14),
            stages: scaled(8 << 20, 8, 1 << 10),
            detached_max: regions,
            holds_max: HOLDS_LIMIT,
            grace_ns: 10_000_000_000,
            participants: 1,
        };
        // A frame, its stamp, and its share of the nodes: one for 24 frames, 64 at least.
        const FRAMES_PER_NODE: u64 = 24;
        let share = PAGE_BYTES + 8 + (NODE_BYTES + 8).div_ceil(FRAMES_PER_NODE);
        let spare = 65 * (NODE_BYTES + 8) + 3 * PAGE_BYTES;
        let fixed = Layout::sum(&config).bytes + spare;
        let frames = (bytes.saturating_sub(fixed) / share).clamp(1, u64::from(LINKED_LIMIT));
        config.frames = frames as u32;
        config.nodes = (frames / FRAMES_PER_NODE) as u32 + 64;
        config
    }

    /// Whether each part is between 1 and what its index can count.
    fn validate(&self) -> Result<(), FormatError> {
        let parts = [
            (Resource::Frames, self.frames, LINKED_LIMIT),
            (Resource::Nodes, self.nodes, LINKED_LIMIT),
            (Resource::Versions, self.versions, HOLDS_LIMIT),
            (Resource::Regions, self.regions, INDEX_LIMIT),
            (Resource::Entries, self.entries, LINKED_LIMIT),
            (Resource::Holders, self.holders, entry::NOBODY as u32 - 1),
            (Resource::Pins, self.pins, INDEX_LIMIT),
            (Resource::Stages, self.stages, INDEX_LIMIT),
            (Resource::Holds, self.holds_max, HOLDS_LIMIT),
            (Resource::Participants, self.participants, tagged::WHO_LIMIT),
        ];
        for (what, wanted, max) in parts {
            if wanted == 0 || wanted > max {
                return Err(FormatError::Limit { what, wanted: wanted.into(), max: max.into() });
            }
        }
        Ok(())
    }
}

/// The offsets of everything in a pool, computed from a [`Config`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(super) config: Config,
    /// One stamp a frame: the number of the version under which it was made, or a free link.
    pub(super) frames: Table,
    /// One stamp a node, likewise.
    pub(super) nodes: Table,
    pub(super) versions: Table,
    pub(super) regions: Table,
    pub(super) entries: Table,
    pub(super) holders: Table,
    pub(super) pins: Table,
    pub(super) stages: Table,
    /// Where the nodes' bytes are.
    pub(super) node_base: u64,
    /// Where the frames' bytes are; a multiple of the page size.
    pub(super) frame_base: u64,
    /// Bytes of it all.
    bytes: u64,
}

impl Layout {
    /// Lays out a pool.
    ///
    /// # Errors
    /// [`FormatError::Limit`] for a part that can't be had.
    pub fn new(config: &Config) -> Result<Self, FormatError> {
        config.validate()?;
        Ok(Self::sum(config))
    }

    /// The layout of the store that is in `memory`.
    ///
    /// # Errors
    /// [`FormatError::Foreign`] if there is none, [`FormatError::TooSmall`],
    /// [`FormatError::Limit`].
    pub fn of(memory: &impl Memory) -> Result<Self, FormatError> {
        super::participant::read_layout(memory)
    }

    /// Bytes that a pool of this layout needs.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the data area begins, in bytes from the pool's start: a multiple of the page size.
    pub fn frame_base(&self) -> u64 {
        self.frame_base
    }

    /// Where what belongs to a participant is.
    pub(super) fn participant(&self, index: u32) -> u64 {
        records::SUPERBLOCK_BYTES + u64::from(index) * participant::BYTES
    }

    /// All tables, by their number.
    pub(super) fn tables(&self) -> [Table; records::TABLES as usize] {
        [
            self.holders,
            self.pins,
            self.stages,
            self.versions,
            self.regions,
            self.entries,
            self.nodes,
            self.frames,
        ]
    }

    /// Records of a stamped table that are not promised, so that free ones in the caches of
    /// other participants are never the last.
    pub(super) fn slack(&self, table: Table) -> u64 {
        let others = u64::from(self.config.participants) - 1;
        (others * (4 * u64::from(table.batch) + 8)).min(u64::from(table.limit) / 2)
    }

    /// The sum: one line for each part, in the order in which they lie.
    fn sum(config: &Config) -> Self {
        let mut end = records::SUPERBLOCK_BYTES; // who this is, the counters, the queues
        end += u64::from(config.participants) * participant::BYTES; // caches and redo lines
        let mut table = |shift: u32, limit: u32, id: u64| {
            let base = end.next_multiple_of(64);
            // One record more than there are, to be hit by indices that make no sense.
            end = base + ((u64::from(limit) + 1) << shift);
            let batch = (limit / (16 * config.participants)).clamp(1, BATCH_MAX);
            Table { base, shift, limit, id, batch }
        };
        let holders = table(7, config.holders, 0); // 128 B: quotas and what it has
        let pins = table(6, config.pins, 1); //       64 B: a version and a range
        let stages = table(7, config.stages, 2); //  128 B: a region's range and a small tree
        let versions = table(7, config.versions, 3); // 128 B: root, count, number, lists
        let regions = table(6, config.regions, 4); // 64 B: a version, a range, a holder
        let entries = table(6, config.entries, 5); // 64 B: a version, a range, an owner
        let nodes = table(3, config.nodes, 6); //      8 B: the stamp of each node
        let frames = table(3, config.frames, 7); //    8 B: the stamp of each frame
        let node_base = end.next_multiple_of(NODE_BYTES); // 256 B: each node's 64 entries
        let nodes_end = node_base + ((u64::from(config.nodes) + 1) << NODE_SHIFT);
        let frame_base = nodes_end.next_multiple_of(PAGE_BYTES); // 4 KiB: each frame's bytes
        let bytes = frame_base + ((u64::from(config.frames) + 1) << PAGE_SHIFT);
        let config = *config;
        Self {
            config,
            frames,
            nodes,
            versions,
            regions,
            entries,
            holders,
            pins,
            stages,
            node_base,
            frame_base,
            bytes,
        }
    }
}

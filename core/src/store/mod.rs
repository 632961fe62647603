//! The page store: regions of pages, references to them, and copy-on-write between them.
//!
//! # How it works
//! A *region* is a byte range of a *version*: a tree of nodes with 64 links each, frames of 4 KiB
//! at the bottom. Every node and frame carries a *stamp*: the number of the version under which
//! it was made. `create_ref` and `map_ref` take one more hold on the version and touch nothing of
//! the tree. Whoever then writes to a version that others hold too gets a *child*: the same root,
//! a new number, and as *threshold* the parent's number. What is stamped later than the threshold
//! is the version's own and written in place; anything else is copied on the way down, and what
//! the copy supersedes goes on the child's *dead list*.
//!
//! A version's one count word has its holds and its children. Without either, it is walked and
//! what is its own is freed. Without a hold and with one child, the child takes its place.
//!
//! # Why merging is right
//! Write T(v) for what can be reached from v's root. These hold for every child c of a version p:
//!
//! 1. *Stamps tell sharing.* Of what is in T(c), exactly that stamped up to c's threshold is in
//!    T(p) too: c began with p's root; p is frozen while it has a child; whatever was made for c
//!    since has c's number, which is greater than all in T(p).
//! 2. *Lists tell the difference.* c's dead list is T(p) without T(c), each thing once: a thing is
//!    put there when c stops reaching it, and c never reaches it again.
//!
//! When p has no hold and c is its only child, c takes p's place below q, p's parent, and p's
//! threshold. (1) holds again: what is in T(c) and stamped up to q's number was in T(p) by (1)
//! for c, so in T(q) by (1) for p. For (2), T(q) without T(c) is p's dead list, and of c's own
//! list what is in T(q): what is stamped up to the new threshold. The rest was reachable from p
//! alone and is free. So p's list becomes c's, and c's old list becomes *pending*: each thing in
//! it is sorted later, by comparing its stamp with the threshold *of that moment*. Waiting does
//! no harm: if c's threshold falls again meanwhile, what was garbage stays garbage (thresholds
//! only fall, stamps never change), and what was not is sorted by the same rule as the list that
//! joins it. p's own pending list was sorted to its end before p was merged.
//!
//! A version that is being freed keeps its place until its walk is over: its threshold must not
//! fall under the walk, and nothing that the walk passes by may be freed before.
//!
//! # Limits worth knowing
//! Everything has a fixed number, see [`Config`]. Nothing but [`Store::reclaim`] does unbounded
//! work. While it has work, whoever finds a table empty is told [`Error::Pending`].
#![deny(unsafe_code)]

mod check;
mod dead;
mod entry;
mod error;
mod holder;
mod ids;
mod layout;
mod list;
mod pin;
mod pool;
mod reclaim;
mod records;
mod region;
mod stage;
mod stats;
mod tree;
mod version;

pub use check::Fault;
pub use error::{Error, FormatError, Object, Resource, Result};
pub use holder::Limits;
pub use ids::{EntryId, HolderId, PinId, RegionId, StageId};
pub use layout::{Config, Layout, PAGE_BYTES, REGION_BYTES_MAX};
pub use stage::STAGE_BYTES_MAX;
pub use stats::{HolderUsage, Stats, Usage};

use crate::memory::Memory;
use records::{SUPERBLOCK_BYTES, superblock};

/// Says that a pool begins with a store of this format: "dmrpc" and the format's version.
const MAGIC: u64 = u64::from_be_bytes(*b"dmrpc\0\0\x01");

/// A page store in a pool of memory.
///
/// All state that matters is in the memory; this is only where to find it. One thread at a time
/// changes it.
#[derive(Debug)]
pub struct Store<M> {
    mem: M,
    lay: Layout,
    /// The queue that reclamation served last.
    turn: u32,
}

impl<M: Memory> Store<M> {
    /// Makes an empty store in a pool, whatever was there before. Touches the first 512 bytes.
    ///
    /// # Errors
    /// [`FormatError::TooSmall`], [`FormatError::Limit`].
    pub fn format(mem: M, config: &Config) -> core::result::Result<Self, FormatError> {
        let lay = Layout::new(config)?;
        check_size(&mem, lay.bytes())?;
        mem.fill_zero(0, SUPERBLOCK_BYTES);
        for (position, value) in config_words(config).into_iter().enumerate() {
            mem.store_u64(superblock::CONFIG + 8 * position as u64, value);
        }
        mem.fence();
        mem.store_u64(superblock::MAGIC, MAGIC);
        Ok(Self { mem, lay, turn: 0 })
    }

    /// Opens the store that is in a pool already, between two operations: nothing is repaired
    /// that a death within one left half done.
    ///
    /// # Errors
    /// [`FormatError::Foreign`], [`FormatError::TooSmall`], [`FormatError::Limit`].
    pub fn open(mem: M) -> core::result::Result<Self, FormatError> {
        check_size(&mem, SUPERBLOCK_BYTES)?;
        let found = mem.load_u64(superblock::MAGIC);
        if found != MAGIC {
            return Err(FormatError::Foreign { found, expected: MAGIC });
        }
        let word = |position: u64| mem.load_u64(superblock::CONFIG + 8 * position);
        let part = |position: u64| u32::try_from(word(position)).unwrap_or(u32::MAX);
        let config = Config {
            frames: part(0),
            nodes: part(1),
            versions: part(2),
            regions: part(3),
            entries: part(4),
            holders: part(5),
            pins: part(6),
            stages: part(7),
            detached_max: part(8),
            holds_max: part(9),
            grace_ns: word(10),
        };
        let lay = Layout::new(&config)?;
        check_size(&mem, lay.bytes())?;
        Ok(Self { mem, lay, turn: 0 })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.lay
    }

    /// How many of everything there are.
    pub fn config(&self) -> &Config {
        &self.lay.config
    }

    /// The memory under the store: for sending what [`Store::pin_place`] found from where it is.
    pub fn memory(&self) -> &M {
        &self.mem
    }
}

fn check_size(mem: &impl Memory, needed: u64) -> core::result::Result<(), FormatError> {
    let bytes = mem.len();
    if bytes >= needed { Ok(()) } else { Err(FormatError::TooSmall { bytes, needed }) }
}

fn config_words(config: &Config) -> [u64; 11] {
    [
        config.frames.into(),
        config.nodes.into(),
        config.versions.into(),
        config.regions.into(),
        config.entries.into(),
        config.holders.into(),
        config.pins.into(),
        config.stages.into(),
        config.detached_max.into(),
        config.holds_max.into(),
        config.grace_ns,
    ]
}

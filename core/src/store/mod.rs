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
//! A version's one count word has its holds: regions, references, pins, and the versions made
//! from it, its children. Without any, it is walked and what is its own is freed. With one that
//! is a child, the child takes its place.
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
//! When p's only hold is its child c, c takes p's place below q, p's parent, and p's
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

mod backlog;
mod cache;
mod change;
mod check;
mod dead;
mod entry;
mod error;
mod family;
mod frames;
mod holder;
mod ids;
mod layout;
mod list;
mod own;
mod participant;
mod pin;
mod pool;
mod reclaim;
mod records;
mod recover;
mod redo;
mod region;
mod runs;
mod stage;
mod stage_run;
mod stats;
mod sweep;
mod tree;
mod version;

pub use backlog::{BACKLOG_MAX, Backlog};
pub use check::Fault;
pub use error::{Error, FormatError, Object, Resource, Result};
pub use frames::{FRAME_ABSENT, Pinned};
pub use holder::Limits;
pub use ids::{EntryId, HolderId, PinId, RegionId, StageId};
pub use layout::{Config, Layout, PAGE_BYTES, REGION_BYTES_MAX};
pub use own::PagePlace;
pub use reclaim::{RECLAIM_UNITS_A_POLL, STEP_UNITS_MAX};
pub use stage::STAGE_BYTES_MAX;
pub use stage_run::StagedRun;
pub use stats::{HolderUsage, Stats, Usage};

use crate::memory::{Memory, Record};
use core::cell::Cell;

/// A handle on a page store in a pool of memory: one participant's.
///
/// All state that matters is in the memory; this is only where to find it. A handle is used by
/// one thread at a time. Memory that is [shared](Memory::shared) may have several: each thread
/// or process [attaches](Store::attach) one of its own.
#[derive(Debug)]
pub struct Store<M> {
    mem: M,
    lay: Layout,
    /// Which participant this is; 0 reclaims.
    me: u32,
    /// Where what belongs to this participant is.
    area: u64,
    /// Where the caches are that it takes from: its own, but for recovery.
    caches: u64,
    /// The number of the operation that runs, or ran last.
    sequence: Cell<u64>,
    /// Whether an operation runs that has logged something.
    open: Cell<bool>,
    /// Words that it has logged.
    logged: Cell<u64>,
    /// Whether something made no sense.
    corrupt: Cell<bool>,
    /// The queue that reclamation served last.
    turn: u32,
    /// Units of work of the step of reclamation that runs.
    spent: u32,
}

impl<M: Memory> Store<M> {
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

    /// The line at `at` of the pool.
    #[inline(always)]
    fn line(&self, at: u64) -> Record<'_, M> {
        Record::new(&self.mem, at)
    }

    /// Which participant this handle is.
    pub fn participant(&self) -> u32 {
        self.me
    }
}

//! The fields of every record, as byte offsets within it.
//!
//! Links are an index + 1, so that 0 means none.

/// A table of records, or of stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Where the first record is.
    pub(super) base: u64,
    /// Bytes of a record, as a power of two.
    pub(super) shift: u32,
    /// How many records there are.
    pub(super) limit: u32,
    /// Where the table's counters are.
    pub(super) control: u64,
}

impl Table {
    /// Bytes of a table's counters.
    pub(super) const CONTROL: u64 = 32;
    /// u32: records that were ever used; those behind it have never been touched.
    pub(super) const HIGH: u64 = 0;
    /// u32: link of the first free record below the high-water mark.
    pub(super) const FREE: u64 = 4;
    /// u32: records in use.
    pub(super) const USED: u64 = 8;
    /// u32: records promised but not yet in use.
    pub(super) const RESERVED: u64 = 12;
    /// u32: records whose generations are used up.
    pub(super) const RETIRED: u64 = 16;

    /// Where record `index` is.
    #[inline(always)]
    pub(super) const fn at(&self, index: u32) -> u64 {
        self.base + ((index as u64) << self.shift)
    }
}

/// u64 of every record but versions: generation and state.
pub(super) const WORD: u64 = 0;
/// u32 of every record: link in the free list, or in a queue.
pub(super) const LINK: u64 = 8;

/// Bits of the state in a [`WORD`]; the generation is above them.
pub(super) const STATE_BITS: u32 = 8;
/// States of a [`WORD`].
pub(super) const STATE_FREE: u64 = 0;
pub(super) const STATE_LIVE: u64 = 1;
/// A holder that left, or a staged write that was aborted.
pub(super) const STATE_LEAVING: u64 = 2;

/// Bytes of the superblock, control words included.
pub(super) const SUPERBLOCK_BYTES: u64 = 512;
/// Where the tables' counters begin.
pub(super) const CONTROLS: u64 = 256;

/// Fields of the superblock.
pub(super) mod superblock {
    /// u64: says that this is a store, and of which format.
    pub(crate) const MAGIC: u64 = 0;
    /// u64 each: the configuration.
    pub(crate) const CONFIG: u64 = 8;
    /// u64: the number of the newest version.
    pub(crate) const NUMBER: u64 = 128;
    /// u64: the latest time that was handed in, in nanoseconds.
    pub(crate) const NOW: u64 = 136;
    /// Two links: versions with work to do.
    pub(crate) const VERSION_QUEUE: u64 = 144;
    /// Two links: holders that left and still have regions or staged writes.
    pub(crate) const LEAVING_QUEUE: u64 = 152;
    /// Two links: holders that left, by the end of their grace.
    pub(crate) const GRACE_QUEUE: u64 = 160;
    /// Two links: staged writes that were aborted.
    pub(crate) const ABORT_QUEUE: u64 = 168;
    /// u64: references without an owner.
    pub(crate) const DETACHED: u64 = 176;
}

/// Bits of each half of a version's count.
pub(super) const COUNT_BITS: u32 = 24;

/// Fields of a version.
pub(super) mod version {
    /// u64: generation, children and holders: the only count.
    pub(crate) const COUNT: u64 = 0;
    /// u32: whether it is in use, and queued.
    pub(crate) const FLAGS: u64 = 12;
    /// u64: pool-wide and ever growing.
    pub(crate) const NUMBER: u64 = 16;
    /// u64: the parent's number: whatever is stamped later is this version's own.
    pub(crate) const THRESHOLD: u64 = 24;
    /// u32: link of the root node, or frame at depth 0.
    pub(crate) const ROOT: u64 = 32;
    /// u32: levels of nodes above the frames.
    pub(crate) const DEPTH: u64 = 36;
    /// u32: link.
    pub(crate) const PARENT: u64 = 40;
    /// Two links: chunks of what the parent has and this version superseded.
    pub(crate) const DEAD: u64 = 44;
    /// Two links: chunks still to be sorted after a merge.
    pub(crate) const PENDING: u64 = 52;
    /// u32: link of the first child.
    pub(crate) const CHILD: u64 = 60;
    /// u32: link of the next child of the same parent.
    pub(crate) const NEXT: u64 = 64;
    /// u32: link of the previous one.
    pub(crate) const PREV: u64 = 68;
    /// u64: the page that freeing has got to.
    pub(crate) const CURSOR: u64 = 72;
    /// Everything from [`PARENT`] to here is zero in a new version.
    pub(crate) const END: u64 = 80;

    /// Flag: in use.
    pub(crate) const IN_USE: u32 = 1;
    /// Flag: in the queue of versions with work to do.
    pub(crate) const QUEUED: u32 = 2;
}

/// Fields of a region.
pub(super) mod region {
    /// u32: index of its holder.
    pub(crate) const HOLDER: u64 = 12;
    /// u64: where in the version's tree it begins, in bytes.
    pub(crate) const BASE: u64 = 16;
    /// u64: bytes.
    pub(crate) const LEN: u64 = 24;
    /// u32: index of its version.
    pub(crate) const VERSION: u64 = 32;
    /// u32: 1 if it may be written.
    pub(crate) const WRITABLE: u64 = 36;
    /// u32: frames promised to its absent pages.
    pub(crate) const FRAMES: u64 = 40;
    /// u32: nodes promised to the paths there.
    pub(crate) const NODES: u64 = 44;
    /// u32 links among the regions of its holder.
    pub(crate) const PREV: u64 = 48;
    pub(crate) const NEXT: u64 = 52;
    /// u64: pages on its holder's account.
    pub(crate) const CHARGED: u64 = 56;
}

/// Fields of a reference.
pub(super) mod entry {
    /// u32: link of its owner; none if detached.
    pub(crate) const OWNER: u64 = 12;
    /// u64: where in the version's tree it begins, in bytes.
    pub(crate) const BASE: u64 = 16;
    /// u64: bytes.
    pub(crate) const LEN: u64 = 24;
    /// u32: index of its version.
    pub(crate) const VERSION: u64 = 32;
    /// u64: how the previous generation ended, and which it was.
    pub(crate) const END: u64 = 40;
    /// u32 links among the references of its owner.
    pub(crate) const PREV: u64 = 48;
    pub(crate) const NEXT: u64 = 52;
}

/// Fields of a pin.
pub(super) mod pin {
    /// u32: index of its version.
    pub(crate) const VERSION: u64 = 12;
    /// u64: where in the version's tree it begins, in bytes.
    pub(crate) const BASE: u64 = 16;
    /// u64: bytes.
    pub(crate) const LEN: u64 = 24;
}

/// Fields of a staged write.
pub(super) mod stage {
    /// u32: index of its holder.
    pub(crate) const HOLDER: u64 = 12;
    /// u64: where in the region's tree it begins, in bytes.
    pub(crate) const BASE: u64 = 16;
    /// u64: bytes.
    pub(crate) const LEN: u64 = 24;
    /// u32: link of the root of its own tree of two levels.
    pub(crate) const ROOT: u64 = 32;
    /// u32: frames still promised to it.
    pub(crate) const FRAMES: u64 = 36;
    /// u32: nodes still promised to it.
    pub(crate) const NODES: u64 = 40;
    /// u32: the entry of the root that freeing has got to.
    pub(crate) const CURSOR: u64 = 44;
    /// u32 links among the staged writes of its holder.
    pub(crate) const PREV: u64 = 48;
    pub(crate) const NEXT: u64 = 52;
    /// u64: the region's identifier.
    pub(crate) const REGION: u64 = 56;
    /// u64: bytes written so far.
    pub(crate) const FILLED: u64 = 64;
    /// u32: frames of it that were promised to the region's absent pages before.
    pub(crate) const BORROWED: u64 = 72;
}

/// Fields of a holder.
pub(super) mod holder {
    /// u32: link of the first region.
    pub(crate) const REGIONS: u64 = 12;
    /// u32: link of the first reference.
    pub(crate) const ENTRIES: u64 = 16;
    /// u32: link of the first staged write.
    pub(crate) const STAGES: u64 = 20;
    /// u32: regions it has.
    pub(crate) const REGION_COUNT: u64 = 24;
    /// u32: references it has.
    pub(crate) const ENTRY_COUNT: u64 = 28;
    /// u64: pages on its account.
    pub(crate) const PAGES: u64 = 32;
    /// u64: pages it may have.
    pub(crate) const PAGES_MAX: u64 = 40;
    /// u32: regions it may have.
    pub(crate) const REGIONS_MAX: u64 = 48;
    /// u32: references it may have.
    pub(crate) const ENTRIES_MAX: u64 = 52;
    /// u64: when its references expire, in nanoseconds, once it left.
    pub(crate) const EXPIRY: u64 = 56;
}

/// Fields of a chunk: a node that holds a piece of a list of superseded things.
pub(super) mod chunk {
    /// u32: link of the next chunk.
    pub(crate) const NEXT: u64 = 0;
    /// u32: identifiers in it.
    pub(crate) const COUNT: u64 = 4;
    /// u32 each: index * 2, + 1 for a node.
    pub(crate) const IDS: u64 = 8;
    /// Identifiers that fit.
    pub(crate) const CAPACITY: u32 = 62;
}

/// Stamps that are not the number of a version.
pub(super) mod stamp {
    /// Free; the low half is the link of the next free one.
    pub(crate) const FREE: u64 = 1 << 63;
    /// A chunk of a list.
    pub(crate) const CHUNK: u64 = 1 << 62;
    /// Part of a staged write.
    pub(crate) const STAGED: u64 = 1 << 61;
    /// The last number that a version may have.
    pub(crate) const NUMBER_MAX: u64 = STAGED - 1;
}

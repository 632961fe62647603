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
    /// How many records there are; one more lies behind them, for indices that make no sense.
    pub(super) limit: u32,
    /// Which table it is: 0 to [`TABLES`].
    pub(super) id: u64,
    /// Records that change hands at once between a participant's cache and the pool.
    pub(super) batch: u32,
}

/// Tables of a store.
pub(super) const TABLES: u64 = 8;
/// The first table whose records are stamps: nodes, then frames.
pub(super) const STAMPED: u64 = 6;

impl Table {
    /// Where record `index` is.
    #[inline(always)]
    pub(super) const fn at(&self, index: u32) -> u64 {
        self.base + ((index as u64) << self.shift)
    }

    /// u64, shared: records that were ever used; those behind it have never been touched.
    #[inline(always)]
    pub(super) const fn high(&self) -> u64 {
        CONTROLS + self.id * CONTROL_BYTES
    }

    /// u64, shared: link of the first of a stack of batches of free records.
    #[inline(always)]
    pub(super) const fn free(&self) -> u64 {
        self.high() + 64
    }

    /// u64, shared, of stamped tables: records that nobody has been promised.
    #[inline(always)]
    pub(super) const fn credit(&self) -> u64 {
        superblock::CREDITS + (self.id - STAMPED) * 64
    }
}

/// u64 of every record but versions: generation and state.
pub(super) const WORD: u64 = 0;
/// u32 of every record: link in the free list, or in a queue.
pub(super) const LINK: u64 = 8;
/// u32 of every free record that leads a batch: link of the next batch.
pub(super) const BATCH: u64 = 12;

/// Bits of the state in a [`WORD`]; the generation is above them.
pub(super) const STATE_BITS: u32 = 8;
/// States of a [`WORD`].
pub(super) const STATE_FREE: u64 = 0;
pub(super) const STATE_LIVE: u64 = 1;
/// A holder that left, a staged write that was aborted, a reference about to be freed.
pub(super) const STATE_LEAVING: u64 = 2;
/// A holder that left and whose regions are being freed.
pub(super) const STATE_SWEEPING: u64 = 3;
/// A holder that left and whose references may still be claimed.
pub(super) const STATE_GRACE: u64 = 4;
/// A holder whose references are being ended.
pub(super) const STATE_EXPIRING: u64 = 5;

/// Bytes of the superblock, the tables' control words included. The participants come next.
pub(super) const SUPERBLOCK_BYTES: u64 = 2048;
/// Where the tables' control words begin: two lines each.
const CONTROLS: u64 = 512;
const CONTROL_BYTES: u64 = 128;

/// Fields of the superblock. What several participants write has a line of its own.
pub(super) mod superblock {
    /// u64: says that this is a store, and of which format.
    pub(crate) const MAGIC: u64 = 0;
    /// u64 each: the configuration.
    pub(crate) const CONFIG: u64 = 8;
    /// u64, shared: version numbers up to here were handed out.
    pub(crate) const NUMBER: u64 = 128;
    /// u64: the latest time that was handed to the reclaimer, in nanoseconds.
    pub(crate) const NOW: u64 = 192;
    /// u64: how often the reclaimer began or ended a turn of work; odd while it is at work.
    pub(crate) const TURNS: u64 = 200;
    /// u64, shared: link of the first of a stack of versions with work to do.
    pub(crate) const WORK: u64 = 256;
    /// u64, shared: link of the first of a stack of holders that left.
    pub(crate) const LEFT: u64 = 320;
    /// u64 each, shared, a line each: see [`super::Table::credit`].
    pub(crate) const CREDITS: u64 = 384;
    /// u32: link of the version that is being worked on.
    pub(crate) const CURRENT: u64 = 1536;
    /// u32: link of the first of the versions taken from [`WORK`].
    pub(crate) const DRAINED: u64 = 1540;
    /// u32: link of the version that the reclaimer keeps others from writing to.
    pub(crate) const SEIZED: u64 = 1544;
    /// u32: which table is swept for holders that left: 0 for none.
    pub(crate) const SWEEP: u64 = 1548;
    /// u32: the record that the sweep has got to.
    pub(crate) const SWEEP_CURSOR: u64 = 1552;
    /// u32: link of the first of the holders taken from [`LEFT`].
    pub(crate) const LEFT_DRAINED: u64 = 1556;
    /// Two links: holders whose regions are being freed.
    pub(crate) const SWEEP_QUEUE: u64 = 1560;
    /// Two links: holders that left, by the end of their grace.
    pub(crate) const GRACE_QUEUE: u64 = 1568;
    /// Two links: holders whose references are being ended.
    pub(crate) const EXPIRE_QUEUE: u64 = 1576;
    /// Two links: staged writes that were aborted.
    pub(crate) const ABORT_QUEUE: u64 = 1584;
    /// u32: link of the first of the holders from [`LEFT_DRAINED`] that are in the order in which
    /// they left.
    pub(crate) const LEFT_TURNED: u64 = 1592;
}

/// What one participant writes, and recovery reads: its redo line, its caches, its counters.
pub(super) mod participant {
    /// u64: incarnation and state.
    pub(crate) const STATE: u64 = 0;
    /// u64: which operation runs, how many words it has logged, and how far it is.
    pub(crate) const PROGRESS: u64 = 64;
    /// u64: where the shared word is whose change decides the operation, and in the low bits how
    /// to tell whether it was changed.
    pub(crate) const TARGET: u64 = 72;
    /// u64: for some kinds, what it is changed to.
    pub(crate) const NEW: u64 = 88;
    /// u32: link of the version that is being written to.
    pub(crate) const WRITING: u64 = 96;
    /// u32: link of a holder that is to be told of a reference that it lost.
    pub(crate) const OWED: u64 = 100;
    /// u32: link of a version that it may be about to hand to the reclaimer.
    pub(crate) const POSTING: u64 = 104;
    /// Where the caches begin, one for each table.
    pub(crate) const CACHES: u64 = 128;
    pub(crate) const CACHE_BYTES: u64 = 64;
    /// u64 of a cache: link of the first of up to a batch of free records, and their number.
    pub(crate) const ACTIVE: u64 = 0;
    /// u64: link of the first full batch, and the number of those.
    pub(crate) const FULL: u64 = 8;
    /// u64: the next record that was never used, and the end of those.
    pub(crate) const FRESH: u64 = 16;
    /// u64: batches given to the pool less those taken from it, wrapping.
    pub(crate) const BATCHES: u64 = 24;
    /// u64: link of a batch that was just taken from the pool.
    pub(crate) const POPPED: u64 = 32;
    /// u64, of stamped tables: records that it may take without a promise.
    pub(crate) const CREDIT: u64 = 40;
    /// u64, of stamped tables: records that it promised less promises that it ended, wrapping.
    pub(crate) const PROMISED: u64 = 48;
    /// u64: records whose generations are used up.
    pub(crate) const RETIRED: u64 = 56;
    /// u64: references that it detached less detached ones that it took, wrapping.
    pub(crate) const DETACHED: u64 = 640;
    /// u64: the version number that it used last, and the last of its own.
    pub(crate) const NUMBER: u64 = 648;
    pub(crate) const NUMBER_END: u64 = 656;
    /// The log: where a word is, and what it was, 16 bytes together.
    pub(crate) const LOG: u64 = 704;
    /// Words that fit into the log.
    pub(crate) const LOG_MAX: u64 = 320;
    /// Bytes of it all.
    pub(crate) const BYTES: u64 = LOG + 16 * LOG_MAX;

    /// States in the low bits of [`STATE`].
    pub(crate) const STATE_BITS: u32 = 8;
    pub(crate) const FREE: u64 = 0;
    pub(crate) const ATTACHED: u64 = 1;
    pub(crate) const RECOVERING: u64 = 2;
}

/// Words that several participants change: a value below, who changed it last above.
pub(super) mod tagged {
    /// Bits of the value.
    pub(crate) const VALUE_BITS: u32 = 28;
    /// The value.
    pub(crate) const VALUE: u64 = (1 << VALUE_BITS) - 1;
    /// Bits of the operation's number.
    pub(crate) const SEQUENCE_BITS: u32 = 29;
    pub(crate) const SEQUENCE: u64 = (1 << SEQUENCE_BITS) - 1;
    /// Where the participant is.
    pub(crate) const WHO_SHIFT: u32 = VALUE_BITS + SEQUENCE_BITS;
    /// Most participants that fit.
    pub(crate) const WHO_LIMIT: u32 = 1 << (u64::BITS - WHO_SHIFT);
}

/// The count word of a version.
pub(super) mod count {
    /// Bits of the number of holds.
    pub(crate) const BITS: u32 = 24;
    /// Regions, references, pins and children together.
    pub(crate) const HOLDS: u64 = (1 << BITS) - 1;
    /// Flag: it may have children.
    pub(crate) const FORKED: u64 = 1 << 24;
    /// Flag: the reclaimer changes its lists, nobody else may.
    pub(crate) const SEIZED: u64 = 1 << 25;
    /// Flag: it waits for the reclaimer.
    pub(crate) const QUEUED: u64 = 1 << 26;
}

/// Fields of a version.
pub(super) mod version {
    /// u64, shared: the only count.
    pub(crate) const COUNT: u64 = 0;
    /// u64: pool-wide and ever growing; 0 in a free record.
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
    /// u32: 1 while it is in the list of its parent's children.
    pub(crate) const LISTED: u64 = 60;
    /// u64, shared: link of the first child.
    pub(crate) const CHILD: u64 = 64;
    /// u32: link of the next child of the same parent.
    pub(crate) const NEXT: u64 = 72;
    /// u32: link of the previous one; none if it is not known yet.
    pub(crate) const PREV: u64 = 76;
    /// u64: the page that freeing has got to.
    pub(crate) const CURSOR: u64 = 80;
    /// Everything from [`PARENT`] to here is zero in a new version.
    pub(crate) const END: u64 = 88;
}

/// Fields of a region.
pub(super) mod region {
    /// u32: index of its holder.
    pub(crate) const HOLDER: u64 = 48;
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
    /// u64: pages on its holder's account.
    pub(crate) const CHARGED: u64 = 56;
}

/// Fields of a reference.
pub(super) mod entry {
    /// u64: where in the version's tree it begins, in bytes.
    pub(crate) const BASE: u64 = 16;
    /// u64: bytes.
    pub(crate) const LEN: u64 = 24;
    /// u32: index of its version.
    pub(crate) const VERSION: u64 = 32;

    /// Bits of a state in the record's word: free, live or ending.
    pub(crate) const STATE: u64 = 3;
    /// Where the word has how the generation before ended.
    pub(crate) const END_SHIFT: u32 = 2;
    pub(crate) const END: u64 = 3 << END_SHIFT;
    /// Where it has the link of the owner.
    pub(crate) const OWNER_SHIFT: u32 = 4;
    pub(crate) const OWNER: u64 = (1 << 24) - 1;
    /// Where it has the generation.
    pub(crate) const GENERATION_SHIFT: u32 = 28;
    /// The last generation.
    pub(crate) const GENERATION_MAX: u64 = (1 << (64 - GENERATION_SHIFT)) - 1;
    /// Owners from here on are nobody; the difference says which participant made it so.
    pub(crate) const NOBODY: u64 = OWNER - 255;
}

/// Fields of a pin.
pub(super) mod pin {
    /// u32: index of its version.
    pub(crate) const VERSION: u64 = 36;
    /// u64: where in the version's tree it begins, in bytes.
    pub(crate) const BASE: u64 = 16;
    /// u64: bytes.
    pub(crate) const LEN: u64 = 24;
    /// u32: the participant that made it.
    pub(crate) const PARTICIPANT: u64 = 32;
    /// u64: whom it is for, in the words of whoever made it. Nobody else looks at it.
    pub(crate) const MARK: u64 = 40;
}

/// Fields of a staged write.
pub(super) mod stage {
    /// u32: index of its holder.
    pub(crate) const HOLDER: u64 = 48;
    /// u64: where in the region's tree it begins, in bytes.
    pub(crate) const BASE: u64 = 16;
    /// u64: bytes.
    pub(crate) const LEN: u64 = 24;
    /// u32: link of the root of its own tree, which has as many levels as its pages need: the link
    /// of its frame if it is one page.
    pub(crate) const ROOT: u64 = 32;
    /// u32: frames still promised to it.
    pub(crate) const FRAMES: u64 = 36;
    /// u32: nodes still promised to it.
    pub(crate) const NODES: u64 = 40;
    /// u32: the entry of the root that freeing has got to, where the tree has two levels.
    pub(crate) const CURSOR: u64 = 44;
    /// u64: the region's identifier.
    pub(crate) const REGION: u64 = 56;
    /// u64: bytes written so far.
    pub(crate) const FILLED: u64 = 64;
    /// u32: frames of it that were promised to the region's absent pages before.
    pub(crate) const BORROWED: u64 = 72;
}

/// Fields of a holder.
pub(super) mod holder {
    /// u32: the participant whose it is.
    pub(crate) const PARTICIPANT: u64 = 16;
    /// u32: staged writes it has.
    pub(crate) const STAGE_COUNT: u64 = 20;
    /// u32: regions it has.
    pub(crate) const REGION_COUNT: u64 = 24;
    /// u32: references it has, those among them that it lost to others.
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
    /// u64, shared, on a line of its own: references that others claimed from it.
    pub(crate) const LOST: u64 = 64;
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

/// Stamps that are not the number of a version. 0 is a frame or node that was never used.
pub(super) mod stamp {
    /// Free; below are the links of the next free one and of the next batch.
    pub(crate) const FREE: u64 = 1 << 63;
    /// Bits of a link in a free stamp.
    pub(crate) const LINK_BITS: u32 = 28;
    pub(crate) const LINK: u64 = (1 << LINK_BITS) - 1;
    /// A chunk of a list.
    pub(crate) const CHUNK: u64 = 1 << 62;
    /// Part of a staged write.
    pub(crate) const STAGED: u64 = 1 << 61;
    /// The last number that a version may have.
    pub(crate) const NUMBER_MAX: u64 = STAGED - 1;

    /// Whether a frame or node with this stamp is nobody's.
    pub(crate) const fn is_free(stamp: u64) -> bool {
        stamp & FREE != 0 || stamp == 0
    }
}

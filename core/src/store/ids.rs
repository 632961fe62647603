//! The names by which callers speak of things in a store: each an index and a generation.

/// Bits of an identifier that hold the index; the rest is the generation.
const INDEX_BITS: u32 = 24;

/// Most slots of a table whose identifiers are one word.
pub(super) const INDEX_LIMIT: u32 = 1 << INDEX_BITS;

/// The last generation of a slot: one that is freed in it is retired instead of used again.
pub(super) const GENERATION_MAX: u64 = (1 << (u64::BITS - INDEX_BITS)) - 1;

macro_rules! word_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// One word: 24 bits of index, 40 of generation. A freed one is never given out again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u64);

        impl $name {
            #[inline(always)]
            pub(super) const fn new(index: u32, generation: u64) -> Self {
                Self(generation << INDEX_BITS | index as u64)
            }

            /// The identifier as it travels.
            #[inline(always)]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// Any word, from anywhere: one that names nothing is answered `Stale` on use.
            #[inline(always)]
            pub const fn from_raw(raw: u64) -> Self {
                Self(raw)
            }

            /// The slot it names.
            #[inline(always)]
            pub const fn index(self) -> u32 {
                (self.0 as u32) & (INDEX_LIMIT - 1)
            }

            /// Which life of that slot it names.
            #[inline(always)]
            pub const fn generation(self) -> u64 {
                self.0 >> INDEX_BITS
            }
        }
    };
}

word_id! {
    /// A region: a contiguous range that a holder reads and writes.
    RegionId
}
word_id! {
    /// A holder: whoever owns regions and references, and dies with them.
    HolderId
}
word_id! {
    /// A pin: a snapshot of a range that stays as it is while others write.
    PinId
}
word_id! {
    /// A staged write: bytes that arrive in any order and appear all at once.
    StageId
}

/// An entry of the reference table: what stands behind a reference on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// The slot it names.
    pub index: u32,
    /// Which life of that slot it names; `claim_ref` begins a new one.
    pub generation: u64,
}

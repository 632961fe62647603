//! The first page of a pool: what it is, and where everything is in it.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `dmrpcxl` and the format's version |
//! | 8..16 | coherence mode |
//! | 16..24 | bytes of the pool |
//! | 24..32 | incarnation of whoever formatted it: the pool's identity |
//! | 32..48 | participants' table: offset, slots |
//! | 48..88 | rings: offset, participants with some, slots of a ring, largest datagram, stride |
//! | 88..104 | store: offset, bytes |
//! | 104..120 | what references to the store are sealed with |
//! | 120..128 | number of the memory node that references to the store name |
//! | 128..136 | CRC32C of the bytes before, in the low half |
//! | 1024..1032 | the host that an operator says is gone; not under the checksum |
//!
//! The rest of the page is zeros. All parts of a pool are in a table in docs/pools.md.

use std::fmt;

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::memory::Memory;

use crate::participants::SLOT_BYTES;
use crate::ring;

/// Where an operator names a host that is gone: a line of its own, not under the checksum.
pub(crate) const LOST_HOST: u64 = 1024;
/// Bytes of the superblock: a page of its own.
pub(crate) const SUPERBLOCK_BYTES: u64 = 4096;
/// What a pool begins with, but for the version in the last byte.
const MAGIC: u64 = u64::from_be_bytes(*b"dmrpcxl\0");
/// Version of the format.
pub(crate) const VERSION: u64 = 2;
/// Words that the checksum covers.
const WORDS: usize = 16;
/// Where the checksum is.
const CHECKSUM: u64 = 8 * WORDS as u64;
/// The parts of a pool begin at multiples of this, so that they can be on huge pages of their own.
const PART_BYTES: u64 = 4096;

/// What may be relied on between those who map a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Caches are coherent and compare-and-swap is atomic across all who map it: one host, or
    /// hosts with CXL 3 back-invalidation.
    Coherent,
    /// Neither is so across hosts: lines are written back and invalidated explicitly.
    Flush,
}

impl Mode {
    fn of(word: u64) -> Option<Self> {
        match word {
            1 => Some(Self::Coherent),
            2 => Some(Self::Flush),
            _ => None,
        }
    }

    fn word(self) -> u64 {
        match self {
            Self::Coherent => 1,
            Self::Flush => 2,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coherent => "coherent",
            Self::Flush => "flush",
        })
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "coherent" => Ok(Self::Coherent),
            "flush" => Ok(Self::Flush),
            _ => Err(format!("'{text}' is not a coherence mode: give coherent or flush")),
        }
    }
}

/// Where everything is in a pool. All offsets and sizes are bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// What may be relied on.
    pub mode: Mode,
    /// Bytes of it all.
    pub pool_bytes: u64,
    /// Incarnation of whoever formatted it.
    pub incarnation: u64,
    /// Where the participants' slots are.
    pub participants_offset: u64,
    /// How many there are.
    pub participants: u64,
    /// Where the rings are.
    pub rings_offset: u64,
    /// How many of the participants, from the first, have rings to each other.
    pub ring_participants: u64,
    /// Datagrams that a ring holds.
    pub ring_slots: u64,
    /// Bytes of the largest datagram.
    pub datagram_bytes: u64,
    /// Bytes from one ring to the next.
    pub ring_stride: u64,
    /// Where the page store is.
    pub store_offset: u64,
    /// Bytes that it has.
    pub store_bytes: u64,
    /// What references to it are sealed with: random, and the same for all participants.
    pub key: [u64; 2],
    /// Number of the memory node that references to it name.
    pub memory_node: u64,
}

/// What the first page of a memory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing: zeros.
    Blank,
    /// Something else's bytes.
    Foreign,
    /// A pool of another version of the format.
    OtherVersion(u64),
    /// A pool, but the page's checksum is wrong or its numbers cannot be.
    Damaged,
    /// A pool.
    Pool(Geometry),
}

impl Geometry {
    /// Lays out a pool; `None` if the bytes do not suffice for at least a page of store.
    pub(crate) fn lay_out(
        mode: Mode,
        pool_bytes: u64,
        (incarnation, key): (u64, [u64; 2]),
        config: &crate::PoolConfig,
    ) -> Option<Self> {
        let participants = u64::from(config.participants);
        let ring_participants = u64::from(config.ring_participants);
        let (ring_slots, datagram_bytes) =
            (u64::from(config.ring_slots), u64::from(config.datagram_bytes));
        let ring_stride = ring::stride(ring_slots, datagram_bytes);
        let participants_offset = SUPERBLOCK_BYTES;
        let participants_end = participants_offset + participants * SLOT_BYTES;
        let rings_offset = participants_end.next_multiple_of(PART_BYTES);
        let bells = ring_participants * ring::bells_bytes(ring_participants);
        let rings_end = rings_offset + bells + ring_participants.pow(2) * ring_stride;
        let store_offset = rings_end.next_multiple_of(PART_BYTES);
        let store_bytes = pool_bytes.checked_sub(store_offset)?;
        (store_bytes >= PART_BYTES).then_some(Self {
            mode,
            pool_bytes,
            incarnation,
            participants_offset,
            participants,
            rings_offset,
            ring_participants,
            ring_slots,
            datagram_bytes,
            ring_stride,
            store_offset,
            store_bytes,
            key,
            memory_node: config.memory_node.into(),
        })
    }

    /// Reads and checks the first page of a memory. Writes nothing.
    pub(crate) fn find(memory: &impl Memory) -> Found {
        let first = memory.load_u64(0);
        if first == 0 {
            let mut page = [0; SUPERBLOCK_BYTES as usize];
            memory.read(0, &mut page);
            let is_blank = page.iter().all(|byte| *byte == 0);
            return if is_blank { Found::Blank } else { Found::Foreign };
        }
        if first & !0xFF != MAGIC {
            return Found::Foreign;
        }
        if first & 0xFF != VERSION {
            return Found::OtherVersion(first & 0xFF);
        }
        let words: [u64; WORDS] = std::array::from_fn(|word| memory.load_u64(8 * word as u64));
        if memory.load_u64(CHECKSUM) != u64::from(checksum(&words)) {
            return Found::Damaged;
        }
        Self::of_words(&words).map_or(Found::Damaged, Found::Pool)
    }

    /// The geometry that words say, if it can be: the one that its own numbers lead to. Whether the
    /// memory has as many bytes is for the caller to ask.
    fn of_words(words: &[u64; WORDS]) -> Option<Self> {
        let found = Self {
            mode: Mode::of(words[1])?,
            pool_bytes: words[2],
            incarnation: words[3],
            participants_offset: words[4],
            participants: words[5],
            rings_offset: words[6],
            ring_participants: words[7],
            ring_slots: words[8],
            datagram_bytes: words[9],
            ring_stride: words[10],
            store_offset: words[11],
            store_bytes: words[12],
            key: [words[13], words[14]],
            memory_node: words[15],
        };
        let part = |number: u64| u32::try_from(number).ok();
        let config = crate::PoolConfig {
            participants: part(found.participants)?,
            ring_participants: part(found.ring_participants)?,
            ring_slots: part(found.ring_slots)?,
            datagram_bytes: part(found.datagram_bytes)?,
            memory_node: part(found.memory_node)?,
        };
        config.check().ok()?;
        let identity = (found.incarnation, found.key);
        let expected = Self::lay_out(found.mode, found.pool_bytes, identity, &config)?;
        (found == expected).then_some(found)
    }

    /// Makes the memory a pool of this geometry: the word that says so is written last.
    pub(crate) fn write(&self, memory: &impl Memory) {
        let words = [
            MAGIC | VERSION,
            self.mode.word(),
            self.pool_bytes,
            self.incarnation,
            self.participants_offset,
            self.participants,
            self.rings_offset,
            self.ring_participants,
            self.ring_slots,
            self.datagram_bytes,
            self.ring_stride,
            self.store_offset,
            self.store_bytes,
            self.key[0],
            self.key[1],
            self.memory_node,
        ];
        memory.store_u64(0, 0);
        memory.fence();
        for (number, word) in words.iter().enumerate().skip(1) {
            memory.store_u64(8 * number as u64, *word);
        }
        memory.store_u64(CHECKSUM, checksum(&words).into());
        memory.flush(0, SUPERBLOCK_BYTES);
        memory.store_u64(0, words[0]);
        memory.flush(0, 8);
        memory.fence();
    }
}

fn checksum(words: &[u64; WORDS]) -> u32 {
    let mut bytes = [0; 8 * WORDS];
    for (target, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *target = word.to_le_bytes();
    }
    Crc32c::detect().of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PoolConfig;
    use dmrpc_core::memory::Atomic;

    const BYTES: u64 = 64 << 20;

    fn geometry() -> Geometry {
        let config = PoolConfig::default();
        Geometry::lay_out(Mode::Coherent, BYTES, (77, [5, 6]), &config).expect("room")
    }

    #[test]
    fn what_was_written_is_found() {
        let mut words = vec![0; 1024];
        let memory = Atomic::new(&mut words);
        assert_eq!(Geometry::find(&memory), Found::Blank);
        geometry().write(&memory);
        assert_eq!(Geometry::find(&memory), Found::Pool(geometry()));
        memory.store_u64(0, MAGIC | 3);
        assert_eq!(Geometry::find(&memory), Found::OtherVersion(3));
        memory.store_u64(0, u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\0"));
        assert_eq!(Geometry::find(&memory), Found::Foreign);
        memory.store_u64(0, 0);
        assert_eq!(Geometry::find(&memory), Found::Foreign, "not blank all the same");
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let mut words = vec![0; 1024];
        let memory = Atomic::new(&mut words);
        geometry().write(&memory);
        for bit in 0..(CHECKSUM + 8) * 8 {
            let (offset, mask) = (bit / 64 * 8, 1 << (bit % 64));
            memory.store_u64(offset, memory.load_u64(offset) ^ mask);
            let found = Geometry::find(&memory);
            assert!(!matches!(found, Found::Pool(_) | Found::Blank), "bit {bit}: {found:?}");
            memory.store_u64(offset, memory.load_u64(offset) ^ mask);
        }
        assert_eq!(Geometry::find(&memory), Found::Pool(geometry()));
    }

    #[test]
    fn the_parts_do_not_overlap() {
        let it = geometry();
        assert!(it.participants_offset >= SUPERBLOCK_BYTES);
        assert!(it.rings_offset >= it.participants_offset + it.participants * SLOT_BYTES);
        let rings_bytes = it.ring_participants.pow(2) * it.ring_stride;
        assert!(it.store_offset >= it.rings_offset + rings_bytes);
        assert_eq!(it.store_offset + it.store_bytes, it.pool_bytes);
        let tiny = Geometry::lay_out(Mode::Flush, 1 << 20, (1, [0; 2]), &PoolConfig::default());
        assert_eq!(tiny, None, "rings alone are larger");
    }
}

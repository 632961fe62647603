//! A region of several places of one size, with known bytes in each: what reads and writes move
//! about in.

use dmrpc_cn::{Peer, Region};

use crate::client::{Client, patiently};
use crate::error::AppError;
use crate::pattern::{self, Random};

/// Bytes of the region, if a few places fit.
const REGION_BYTES: usize = 4 << 20;
/// Places in it at least and at most.
const PLACES: (usize, usize) = (2, 256);
/// Distance of two places at least: a page.
pub const PLACE_BYTES_MIN: usize = 4096;

/// A region of several places of one size.
#[derive(Debug)]
pub struct Places {
    region: Region,
    bytes: usize,
    /// What was last written to each place.
    sequences: Vec<u64>,
    seed: u64,
    random: Random,
}

impl Places {
    /// Allocates a region of places of `bytes` bytes and writes to each.
    ///
    /// # Errors
    /// The memory node does not have that much.
    pub fn new(client: &Client, peer: Peer, seed: u64, bytes: usize) -> Result<Self, AppError> {
        let distance = bytes.max(PLACE_BYTES_MIN);
        let count = (REGION_BYTES / distance).clamp(PLACES.0, PLACES.1);
        let memory = client.memory(peer);
        let region = patiently(client, peer, || memory.alloc((count * distance) as u64))?;
        let mut content = vec![0; bytes];
        pattern::fill(seed, &mut content);
        for place in 0..count {
            pattern::stamp(place as u64, &mut content);
            let offset = (place * distance) as u64;
            patiently(client, peer, || memory.write(region, offset, &content))?;
        }
        let sequences = (0..count as u64).collect();
        Ok(Self { region, bytes, sequences, seed, random: Random::new(seed) })
    }

    /// The region.
    pub fn region(&self) -> Region {
        self.region
    }

    /// Bytes of a place.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many places there are. The first numbers are taken by what they were filled with.
    pub fn count(&self) -> usize {
        self.sequences.len()
    }

    /// Chooses a place.
    pub fn choose(&mut self) -> usize {
        self.random.below(self.sequences.len())
    }

    /// Where a place begins, in bytes from the beginning of the region.
    pub fn offset(&self, place: usize) -> u64 {
        (place * self.bytes.max(PLACE_BYTES_MIN)) as u64
    }

    /// The number of the last write to a place.
    pub fn sequence(&self, place: usize) -> u64 {
        self.sequences[place]
    }

    /// Remembers a write.
    pub fn written(&mut self, place: usize, sequence: u64) {
        self.sequences[place] = sequence;
    }

    /// Compares bytes read, which begin with byte `offset` of a place, with those of write number
    /// `sequence`.
    ///
    /// # Errors
    /// [`AppError::WrongBytes`].
    pub fn check_part(
        &self,
        op: &'static str,
        sequence: u64,
        offset: usize,
        found: &[u8],
    ) -> Result<(), AppError> {
        match pattern::first_unstamped_from(self.seed, sequence, offset, found) {
            None => Ok(()),
            Some(at) => Err(AppError::WrongBytes { op, bytes: self.bytes, at: offset + at }),
        }
    }

    /// Compares bytes read with those of write number `sequence`.
    ///
    /// # Errors
    /// [`AppError::WrongBytes`].
    pub fn check(&self, op: &'static str, sequence: u64, found: &[u8]) -> Result<(), AppError> {
        if found.len() != self.bytes {
            return Err(AppError::WrongBytes { op, bytes: self.bytes, at: found.len() });
        }
        match pattern::first_unstamped(self.seed, sequence, found) {
            None => Ok(()),
            Some(at) => Err(AppError::WrongBytes { op, bytes: found.len(), at }),
        }
    }
}

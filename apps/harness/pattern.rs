//! Bytes that say where they belong: verification without keeping a copy of everything.
//!
//! A *pattern* is an endless row of bytes named by a number. Byte `i` of it depends on the name and
//! on `i`, so bytes of another write, another place or another page are noticed.

/// Spreads the bits of a number over all bits of another: the finaliser of MurmurHash3.
fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

/// A row of numbers that look random, the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The row of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x5bf0_3635))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// The next number below `limit`.
    ///
    /// # Panics
    /// If `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next_u64()) * limit as u128) >> 64) as usize
    }

    /// Whether this operation is to be verified: true once in 64 times.
    pub fn samples(&mut self) -> bool {
        self.next_u64().is_multiple_of(VERIFY_ONE_IN)
    }
}

/// One operation in so many is verified while it is being timed.
pub const VERIFY_ONE_IN: u64 = 64;

/// What lies between two words of a pattern: odd, so that the words of one row are all different.
/// (2^64 divided by the golden ratio.)
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Word `index` of the pattern whose name was mixed to `base`. A row of them is a row of sums, of
/// which compilers make several at a time: some operations are verified while others are timed.
fn word(base: u64, index: usize) -> [u8; WORD] {
    base.wrapping_add((index as u64).wrapping_mul(STEP)).to_le_bytes()
}

/// Fills `bytes` with the first bytes of the pattern called `name`.
pub fn fill(name: u64, bytes: &mut [u8]) {
    let base = mix(name);
    let (whole, rest) = bytes.as_chunks_mut::<WORD>();
    let count = whole.len();
    for (index, chunk) in whole.iter_mut().enumerate() {
        *chunk = word(base, index);
    }
    let length = rest.len();
    rest.copy_from_slice(&word(base, count)[..length]);
}

/// Index of the first byte that is not as in the pattern called `name`.
pub fn first_difference(name: u64, bytes: &[u8]) -> Option<usize> {
    first_unlike(mix(name), 0, bytes)
}

/// Index of the first of `bytes` that is not as the pattern has it from its byte `offset` on.
fn first_unlike(base: u64, offset: usize, bytes: &[u8]) -> Option<usize> {
    let search = |from: usize, until: usize| {
        let right = |at: usize| word(base, (offset + at) / WORD)[(offset + at) % WORD];
        (from..until).find(|at| bytes[*at] != right(*at))
    };
    let lead = (offset.next_multiple_of(WORD) - offset).min(bytes.len());
    let (whole, tail) = bytes[lead..].as_chunks::<WORD>();
    let first = (offset + lead) / WORD;
    let mut unlike = 0;
    for (index, found) in whole.iter().enumerate() {
        unlike |= u64::from_ne_bytes(*found) ^ u64::from_ne_bytes(word(base, first + index));
    }
    if unlike != 0 {
        return search(0, bytes.len());
    }
    search(0, lead).or_else(|| search(bytes.len() - tail.len(), bytes.len()))
}

/// Bytes between two stamps: a page, so that pages of different writes are told apart.
const STAMP_EVERY: usize = 4096;

/// Writes `sequence` over the first bytes of each page of `bytes`: cheaper than another pattern for
/// every operation.
pub fn stamp(sequence: u64, bytes: &mut [u8]) {
    for page in bytes.chunks_mut(STAMP_EVERY) {
        let length = page.len().min(WORD);
        page[..length].copy_from_slice(&sequence.to_le_bytes()[..length]);
    }
}

/// Index of the first byte that is not as [`fill`] with `name` and [`stamp`] with `sequence` make
/// it.
pub fn first_unstamped(name: u64, sequence: u64, bytes: &[u8]) -> Option<usize> {
    first_unstamped_from(name, sequence, 0, bytes)
}

/// The same for `bytes` that begin with byte `offset` of it.
pub fn first_unstamped_from(
    name: u64,
    sequence: u64,
    offset: usize,
    bytes: &[u8],
) -> Option<usize> {
    let (base, stamp) = (mix(name), sequence.to_le_bytes());
    let mut at = 0;
    while at < bytes.len() {
        // The rest of a stamp, or of what lies between two.
        let inside = (offset + at) % STAMP_EVERY;
        let end = if inside < WORD { WORD } else { STAMP_EVERY };
        let part = &bytes[at..bytes.len().min(at + end - inside)];
        let unlike = if inside < WORD {
            part.iter().zip(&stamp[inside..]).position(|(found, right)| found != right)
        } else {
            first_unlike(base, offset + at, part)
        };
        if let Some(unlike) = unlike {
            return Some(at + unlike);
        }
        at += part.len();
    }
    None
}

/// Whether `bytes` look as if they were filled with the pattern called `name`: a look at a few, to
/// spare the filling of a buffer that comes back.
pub fn looks_filled(name: u64, bytes: &[u8]) -> bool {
    let (base, count) = (mix(name), bytes.len() / WORD);
    let is_there = |index: usize| bytes[index * WORD..][..WORD] == word(base, index);
    count > 2 && bytes.len().is_multiple_of(WORD) && is_there(1) && is_there(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_byte_is_found() {
        for length in [0, 1, 7, 8, 9, 4096, 5000] {
            let mut bytes = vec![0; length];
            fill(7, &mut bytes);
            assert_eq!(first_difference(7, &bytes), None);
            for at in (0..length).step_by(61).chain(length.checked_sub(1)) {
                bytes[at] ^= 1;
                assert_eq!(first_difference(7, &bytes), Some(at));
                bytes[at] ^= 1;
            }
        }
    }

    #[test]
    fn names_and_places_differ() {
        let (mut a, mut b) = ([0; 4096], [0; 4096]);
        fill(1, &mut a);
        fill(2, &mut b);
        assert!(a.chunks(8).zip(b.chunks(8)).all(|(a, b)| a != b));
        assert!(first_difference(1, &a[2048..]).is_some());
    }

    #[test]
    fn stamps_tell_writes_apart() {
        for length in [1, 8, 4096, 10_000] {
            let mut bytes = vec![0; length];
            fill(3, &mut bytes);
            stamp(0x0102, &mut bytes);
            assert_eq!(first_unstamped(3, 0x0102, &bytes), None);
            assert_eq!(first_unstamped(3, 0x0103, &bytes), Some(0));
            for from in (0..length).step_by(37) {
                assert_eq!(first_unstamped_from(3, 0x0102, from, &bytes[from..]), None);
                bytes[length - 1] ^= 1;
                let found = first_unstamped_from(3, 0x0102, from, &bytes[from..]);
                assert_eq!(found, Some(length - 1 - from));
                bytes[length - 1] ^= 1;
            }
            if length > 4096 {
                bytes[4096] = 9;
                assert_eq!(first_unstamped(3, 0x0102, &bytes), Some(4096));
            }
        }
        let mut bytes = vec![0; 4096];
        assert!(!looks_filled(3, &bytes));
        fill(3, &mut bytes);
        stamp(7, &mut bytes);
        assert!(looks_filled(3, &bytes) && !looks_filled(4, &bytes));
    }

    #[test]
    fn one_in_64() {
        let mut random = Random::new(3);
        let hits = (0..64_000).filter(|_| random.samples()).count();
        assert!((800..1200).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| random.below(7) < 7));
    }
}

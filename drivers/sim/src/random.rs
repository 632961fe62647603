//! A small seeded generator: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
//! number generators", 2014). The same seed gives the same numbers on every machine.

use std::ops::RangeInclusive;

/// A stream of numbers that follows from its seed.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A stream of its own, so that what one part draws does not shift another's numbers.
    pub fn split(&mut self) -> Self {
        Self::new(self.draw())
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        // The high half of a 128-bit product: close enough to even for a simulation.
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of `range`.
    ///
    /// # Panics
    /// If `range` is empty.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let span = range.end().checked_sub(*range.start()).expect("a range with something in it");
        range.start() + if span == u64::MAX { self.draw() } else { self.below(span + 1) }
    }

    /// Whether an event of probability `parts` in a million happens.
    pub fn happens(&mut self, parts: u32) -> bool {
        parts != 0 && self.below(1_000_000) < u64::from(parts)
    }
}

/// Scatters the bits of `value`: the output step of SplitMix64. Also serves as a hash.
pub const fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_first_numbers() {
        // From the reference implementation with seed 1234567.
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.draw()).collect();
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn stays_in_its_range() {
        let mut random = Random::new(7);
        for _ in 0..1000 {
            assert!((3..=5).contains(&random.within(3..=5)));
        }
        assert!(!random.happens(0));
        assert!(random.happens(1_000_000));
    }
}

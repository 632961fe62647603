//! The bitmap of a window of 256 packets.

/// Bits of a window: bit `i` stands for packet `base + i`, where the base is kept elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits(pub(super) [u64; 4]);

impl Bits {
    pub(super) const EMPTY: Self = Self([0; 4]);

    pub(super) fn get(&self, at: u32) -> bool {
        self.0[at as usize / 64] & (1 << (at % 64)) != 0
    }

    pub(super) fn set(&mut self, at: u32) {
        self.0[at as usize / 64] |= 1 << (at % 64);
    }

    pub(super) fn clear(&mut self, at: u32) {
        self.0[at as usize / 64] &= !(1 << (at % 64));
    }

    /// Moves the base up by `by` packets.
    pub(super) fn advance(&mut self, by: u32) {
        if by >= 256 {
            *self = Self::EMPTY;
            return;
        }
        let (words, bits) = (by as usize / 64, by % 64);
        for i in 0..4 {
            let low = self.0.get(i + words).copied().unwrap_or(0);
            let high = self.0.get(i + words + 1).copied().unwrap_or(0);
            self.0[i] = if bits == 0 { low } else { low >> bits | high << (64 - bits) };
        }
    }

    /// The first `count` bits.
    pub(super) fn first(count: u32) -> Self {
        Self(core::array::from_fn(|i| {
            let before = i as u32 * 64;
            match count.saturating_sub(before) {
                0 => 0,
                some @ 1..64 => (1 << some) - 1,
                _ => u64::MAX,
            }
        }))
    }

    pub(super) fn or(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub(super) fn and_not(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    pub(super) fn lowest(&self) -> Option<u32> {
        (0..4).find(|&i| self.0[i] != 0).map(|i| i as u32 * 64 + self.0[i].trailing_zeros())
    }

    pub(super) fn highest(&self) -> Option<u32> {
        (0..4)
            .rev()
            .find(|&i| self.0[i] != 0)
            .map(|i| i as u32 * 64 + 63 - self.0[i].leading_zeros())
    }

    /// Length of the run of set bits at the base.
    pub(super) fn run(&self) -> u32 {
        Self(self.0.map(|word| !word)).lowest().unwrap_or(256)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn advance_is_a_shift(bits in any::<[u64; 4]>(), by in 0u32..300) {
            let before = Bits(bits);
            let mut after = before;
            after.advance(by);
            for at in 0..256 {
                prop_assert_eq!(after.get(at), at + by < 256 && before.get(at + by));
            }
        }
    }
}

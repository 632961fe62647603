//! SipHash-2-4 by words, for messages of a known shape: what several have in common is summed up
//! once, and nothing is kept of words that are not whole.

/// The sum of the words so far.
#[derive(Clone, Copy)]
pub(super) struct Sip([u64; 4]);

impl Sip {
    /// Of no word, under `key`.
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let key = u128::from_le_bytes(*key);
        let (low, high) = (key as u64, (key >> 64) as u64);
        // "somepseudorandomlygeneratedbytes", as the algorithm has it.
        Self([
            low ^ 0x736f_6d65_7073_6575,
            high ^ 0x646f_7261_6e64_6f6d,
            low ^ 0x6c79_6765_6e65_7261,
            high ^ 0x7465_6462_7974_6573,
        ])
    }

    /// With another word behind.
    #[inline(always)]
    pub(super) fn word(mut self, word: u64) -> Self {
        self.0[3] ^= word;
        let mut sip = self.round().round();
        sip.0[0] ^= word;
        sip
    }

    /// The sum of a message of `bytes` bytes, of which `last` are those that are no whole word.
    #[inline(always)]
    pub(super) fn finish(self, bytes: u8, last: u64) -> u64 {
        let mut sip = self.word(last | u64::from(bytes) << 56);
        sip.0[2] ^= 0xFF;
        let [a, b, c, d] = sip.round().round().round().round().0;
        a ^ b ^ c ^ d
    }

    #[inline(always)]
    fn round(self) -> Self {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        Self([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The authors' example: key 00 01 .. 0f, message 00 01 .. 0e.
    #[test]
    fn the_example_of_the_paper() {
        let key = core::array::from_fn(|i| i as u8);
        let sip = Sip::new(&key).word(0x0706_0504_0302_0100);
        assert_eq!(sip.finish(15, 0x000e_0d0c_0b0a_0908), 0xa129_ca61_49be_45e5);
    }
}

//! AES-128 on one block, and multiplication in GF(2^64), for the tags of packets: by the
//! processor's instructions on x86-64, where servers have them since 2010; elsewhere by the crate
//! `aes` and bit by bit.
//!
//! The crate could do both, but finds out at run time what the processor can, so its code cannot be
//! part of ours: around each block of ten instructions were seventy of calls and of words on their
//! way through memory.

use aes::Aes128Enc;
use aes::cipher::{BlockEncrypt, KeyInit};

/// A key, ready for use.
#[repr(C, align(64))]
pub(crate) struct Aes128 {
    /// The round keys.
    #[cfg(target_arch = "x86_64")]
    rounds: [u128; 11],
    /// The key itself.
    first: u128,
    /// Whether the processor has the instructions.
    has_instructions: bool,
    portable: Aes128Enc,
}

/// What masks a session's usual tags are made of: a block that the next one is mixed with, and the
/// key's first round with it; and what the tagged words are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Pad {
    begun: u128,
    factor: u64,
    /// What x^64 is in the field, beside the factor for one load of both.
    modulus: u64,
}

/// x^64 = x^4 + x^3 + x + 1: that with x^64 is irreducible.
const MODULUS: u64 = 0b11011;
/// Bits of a word that may be multiplied: then the product is reduced in one step.
pub(crate) const WORD_BITS: u32 = 60;

impl Pad {
    /// Of no session.
    pub(crate) const NONE: Self = Self { begun: 0, factor: 0, modulus: MODULUS };
}

impl Aes128 {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        let portable = Aes128Enc::new(key.into());
        let first = u128::from_ne_bytes(*key);
        #[cfg(target_arch = "x86_64")]
        if let Some(rounds) = hardware::expand(first) {
            return Self { rounds, first, has_instructions: true, portable };
        }
        Self {
            #[cfg(target_arch = "x86_64")]
            rounds: [0; 11],
            first,
            has_instructions: false,
            portable,
        }
    }

    /// The same without the processor's instructions.
    #[cfg(test)]
    pub(crate) fn portable(key: &[u8; 16]) -> Self {
        Self { has_instructions: false, ..Self::new(key) }
    }

    /// One block.
    #[inline(always)]
    pub(crate) fn encrypt(&self, block: u128) -> u128 {
        #[cfg(target_arch = "x86_64")]
        if self.has_instructions {
            return hardware::encrypt(&self.rounds, block);
        }
        self.encrypt_portably(block)
    }

    #[inline(never)]
    fn encrypt_portably(&self, block: u128) -> u128 {
        let mut bytes = block.to_ne_bytes().into();
        self.portable.encrypt_block(&mut bytes);
        u128::from_ne_bytes(bytes.into())
    }

    /// A pad whose masks are `state` mixed with what follows, encrypted.
    pub(crate) fn pad(&self, state: u128, factor: u64) -> Pad {
        Pad { begun: state ^ self.first, factor, modulus: MODULUS }
    }

    /// The two masks of `low` and `high`, the halves of a block; the first is mixed with `word`,
    /// which has at most [`WORD_BITS`] bits, times the pad's factor in GF(2^64).
    #[inline(always)]
    pub(crate) fn code_first(&self, pad: &Pad, low: u64, high: u64, word: u64) -> (u64, u64) {
        #[cfg(target_arch = "x86_64")]
        if self.has_instructions {
            return hardware::code_first(&self.rounds, pad, low, high, word);
        }
        let (first, second) = self.masks_portably(pad, low, high);
        (first ^ product_portably(pad.factor, word), second)
    }

    /// The second of these masks, mixed so.
    #[inline(always)]
    pub(crate) fn code_second(&self, pad: &Pad, low: u64, high: u64, word: u64) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.has_instructions {
            return hardware::code_second(&self.rounds, pad, low, high, word);
        }
        self.masks_portably(pad, low, high).1 ^ product_portably(pad.factor, word)
    }

    /// `mask` mixed so.
    #[inline(always)]
    pub(crate) fn code_under(&self, pad: &Pad, mask: u64, word: u64) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.has_instructions {
            return hardware::code_under(pad, mask, word);
        }
        mask ^ product_portably(pad.factor, word)
    }

    #[inline(never)]
    fn masks_portably(&self, pad: &Pad, low: u64, high: u64) -> (u64, u64) {
        let mixed = pad.begun ^ self.first ^ (u128::from(low) | u128::from(high) << 64).to_le();
        let block = self.encrypt_portably(mixed).to_le();
        (block as u64, (block >> 64) as u64)
    }
}

/// Bit by bit; as many steps whatever they are.
#[inline(never)]
fn product_portably(mut factor: u64, word: u64) -> u64 {
    let mut product = 0;
    for bit in 0..u64::BITS {
        product ^= factor & (word >> bit & 1).wrapping_neg();
        factor = factor << 1 ^ MODULUS & (factor >> 63).wrapping_neg();
    }
    product
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod hardware {
    use super::Pad;
    use core::arch::asm;
    use core::arch::x86_64::{
        __cpuid, __m128i, _mm_aeskeygenassist_si128, _mm_shuffle_epi32, _mm_slli_si128,
        _mm_xor_si128,
    };

    /// The round keys of a key; `None` if the processor does not have the instructions.
    pub(super) fn expand(key: u128) -> Option<[u128; 11]> {
        // Leaf 1 exists on every x86-64 processor. ECX bit 25 is AES, bit 19 SSE4.1, bit 1
        // PCLMULQDQ.
        const NEEDED: u32 = 1 << 25 | 1 << 19 | 1 << 1;
        if __cpuid(1).ecx & NEEDED != NEEDED {
            return None;
        }
        // SAFETY: the processor has just said that it can.
        Some(unsafe { rounds(key) })
    }

    /// FIPS 197, 5.2, as Intel's manual of the instructions has it.
    #[target_feature(enable = "aes")]
    fn rounds(key: u128) -> [u128; 11] {
        let mut rounds = [key; 11];
        macro_rules! next {
            ($($round:literal $constant:literal)+) => {
                $({
                    let before = vector(rounds[$round - 1]);
                    let assisted = _mm_aeskeygenassist_si128::<$constant>(before);
                    let mixed = _mm_xor_si128(before, _mm_slli_si128::<4>(before));
                    let mixed = _mm_xor_si128(mixed, _mm_slli_si128::<8>(mixed));
                    let next = _mm_xor_si128(mixed, _mm_shuffle_epi32::<0xFF>(assisted));
                    rounds[$round] = word(next);
                })+
            };
        }
        next!(1 1 2 2 3 4 4 8 5 16 6 32 7 64 8 128 9 27 10 54);
        rounds
    }

    fn vector(word: u128) -> __m128i {
        // SAFETY: any bits are a value of both.
        unsafe { core::mem::transmute(word) }
    }

    fn word(vector: __m128i) -> u128 {
        // SAFETY: any bits are a value of both.
        unsafe { core::mem::transmute(vector) }
    }

    /// One block.
    #[inline(always)]
    pub(super) fn encrypt(rounds: &[u128; 11], block: u128) -> u128 {
        let mut state = vector(block);
        // SAFETY: whoever has round keys has the instructions; only the keys are read, and they
        // are aligned as `u128` is, which is what these instructions want.
        unsafe {
            asm!(
                "pxor {state}, [{keys}]",
                "aesenc {state}, [{keys} + 16]",
                "aesenc {state}, [{keys} + 32]",
                "aesenc {state}, [{keys} + 48]",
                "aesenc {state}, [{keys} + 64]",
                "aesenc {state}, [{keys} + 80]",
                "aesenc {state}, [{keys} + 96]",
                "aesenc {state}, [{keys} + 112]",
                "aesenc {state}, [{keys} + 128]",
                "aesenc {state}, [{keys} + 144]",
                "aesenclast {state}, [{keys} + 160]",
                state = inout(xmm_reg) state,
                keys = in(reg) rounds.as_ptr(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        word(state)
    }

    /// Encrypts what is in `state`, mixed with a pad's beginning, into `state`.
    macro_rules! masks {
        () => {
            concat!(
                "pxor {state}, [{pad}]\n",
                "aesenc {state}, [{keys} + 16]\n",
                "aesenc {state}, [{keys} + 32]\n",
                "aesenc {state}, [{keys} + 48]\n",
                "aesenc {state}, [{keys} + 64]\n",
                "aesenc {state}, [{keys} + 80]\n",
                "aesenc {state}, [{keys} + 96]\n",
                "aesenc {state}, [{keys} + 112]\n",
                "aesenc {state}, [{keys} + 128]\n",
                "aesenc {state}, [{keys} + 144]\n",
                "aesenclast {state}, [{keys} + 160]",
            )
        };
    }

    /// Multiplies what is in `wide` by a pad's factor without carries, and leaves in `wide` and
    /// `above` what mixed is the product in the field: what lies above 64 bits is taken times what
    /// x^64 is.
    macro_rules! product {
        () => {
            concat!(
                "pclmulqdq {wide}, [{pad} + 16], 0\n",
                "movdqa {above}, {wide}\n",
                "pclmulqdq {above}, [{pad} + 16], 0x11",
            )
        };
    }

    /// See [`super::Aes128::code_first`].
    #[inline(always)]
    pub(super) fn code_first(
        rounds: &[u128; 11],
        pad: &Pad,
        low: u64,
        high: u64,
        word: u64,
    ) -> (u64, u64) {
        let (first, second);
        // SAFETY: whoever has round keys, which callers have looked at, has the instructions; only
        // keys and pad are read, and both are aligned as these instructions want.
        unsafe {
            asm!(
                "movq {state}, {low}",
                "pinsrq {state}, {high}, 1",
                "movq {wide}, {word}",
                masks!(),
                product!(),
                "pextrq {high}, {state}, 1",
                "pxor {wide}, {state}",
                "pxor {wide}, {above}",
                "movq {low}, {wide}",
                state = out(xmm_reg) _,
                wide = out(xmm_reg) _,
                above = out(xmm_reg) _,
                low = inout(reg) low => first,
                high = inout(reg) high => second,
                word = in(reg) word,
                pad = in(reg) pad,
                keys = in(reg) rounds.as_ptr(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        (first, second)
    }

    /// See [`super::Aes128::code_second`].
    #[inline(always)]
    pub(super) fn code_second(
        rounds: &[u128; 11],
        pad: &Pad,
        low: u64,
        high: u64,
        word: u64,
    ) -> u64 {
        let code;
        // SAFETY: as above.
        unsafe {
            asm!(
                "movq {state}, {low}",
                "pinsrq {state}, {high}, 1",
                "movq {wide}, {word}",
                masks!(),
                product!(),
                "punpckhqdq {state}, {state}",
                "pxor {wide}, {above}",
                "pxor {wide}, {state}",
                "movq {low}, {wide}",
                state = out(xmm_reg) _,
                wide = out(xmm_reg) _,
                above = out(xmm_reg) _,
                low = inout(reg) low => code,
                high = in(reg) high,
                word = in(reg) word,
                pad = in(reg) pad,
                keys = in(reg) rounds.as_ptr(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        code
    }

    /// See [`super::Aes128::code_under`].
    #[inline(always)]
    pub(super) fn code_under(pad: &Pad, mask: u64, word: u64) -> u64 {
        let product: u64;
        // SAFETY: as above.
        unsafe {
            asm!(
                "movq {wide}, {word}",
                product!(),
                "pxor {wide}, {above}",
                "movq {word}, {wide}",
                wide = out(xmm_reg) _,
                above = out(xmm_reg) _,
                word = inout(reg) word => product,
                pad = in(reg) pad,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        mask ^ product
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// FIPS 197, appendix C.1.
    #[test]
    fn fips_197_vector() {
        let key: [u8; 16] = core::array::from_fn(|i| i as u8);
        let plain: [u8; 16] = core::array::from_fn(|i| i as u8 * 0x11);
        let wanted = 0x69C4_E0D8_6A7B_0430_D8CD_B780_70B4_C55A_u128.to_be_bytes();
        for cipher in [Aes128::new(&key), Aes128::portable(&key)] {
            assert_eq!(cipher.encrypt(u128::from_ne_bytes(plain)).to_ne_bytes(), wanted);
        }
    }

    proptest! {
        #[test]
        fn instructions_and_crate_agree(
            key in any::<[u8; 16]>(), block in any::<u128>(), state in any::<u128>(),
            halves in any::<(u64, u64)>(),
        ) {
            let (fast, slow) = (Aes128::new(&key), Aes128::portable(&key));
            prop_assert_eq!(fast.encrypt(block), slow.encrypt(block));
            let mixed = state ^ (u128::from(halves.0) | u128::from(halves.1) << 64).to_le();
            let block = slow.encrypt(mixed).to_le();
            let word = halves.0 >> (u64::BITS - WORD_BITS);
            for cipher in [&fast, &slow] {
                let pad = cipher.pad(state, halves.1);
                let (first, second) = (block as u64, (block >> 64) as u64);
                let product = product_portably(halves.1, word);
                let (low, high) = halves;
                let codes = cipher.code_first(&pad, low, high, word);
                prop_assert_eq!(codes, (first ^ product, second));
                prop_assert_eq!(cipher.code_second(&pad, low, high, word), second ^ product);
                prop_assert_eq!(cipher.code_under(&pad, low, word), low ^ product);
            }
        }

        /// What makes it a field: no product of two that are not zero is, and sums stay sums.
        #[test]
        fn products_are_those_of_a_field(a in 1u64.., b in 1u64.., c in any::<u64>()) {
            prop_assert_ne!(product_portably(a, b), 0);
            prop_assert_eq!(product_portably(a, b), product_portably(b, a));
            let sum = product_portably(a, b) ^ product_portably(a, c);
            prop_assert_eq!(product_portably(a, b ^ c), sum);
            prop_assert_eq!(product_portably(a, 1), a);
            let cubed = product_portably(product_portably(a, b), c);
            prop_assert_eq!(product_portably(a, product_portably(b, c)), cubed);
        }
    }

    /// The polynomial is irreducible: x^(2^64) is x, and x^(2^32) is not (64 has no other prime
    /// factor than two).
    #[test]
    fn the_modulus_makes_a_field() {
        let squared = |times: u32| (0..times).fold(2, |x, _| product_portably(x, x));
        assert_eq!(squared(64), 2);
        let half = squared(32);
        assert_ne!(half, 2);
        // Rabin's test: x^(2^32) - x has an inverse, so nothing in common with the polynomial.
        let inverse = (1..64).fold((half ^ 2, 1), |(power, product), _| {
            let power = product_portably(power, power);
            (power, product_portably(product, power))
        });
        assert_eq!(product_portably(half ^ 2, inverse.1), 1);
    }
}

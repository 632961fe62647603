//! AES-128 on one block, for the tags of packets: by the processor's instructions on x86-64, where
//! servers have them since 2010; elsewhere by the crate `aes`.
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

/// What the masks of a session's usual tags are made of: a block that the next one is mixed with,
/// and the key's first round with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Begun(u128);

impl Begun {
    /// Of no session.
    pub(crate) const NONE: Self = Self(0);
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

    /// What the blocks begin with that are `state` mixed with what follows, encrypted.
    pub(crate) fn begin(&self, state: u128) -> Begun {
        Begun(state ^ self.first)
    }

    /// The two halves of a block that begins so, and goes on with `low` and `high`.
    #[inline(always)]
    pub(crate) fn halves(&self, begun: &Begun, low: u64, high: u64) -> (u64, u64) {
        #[cfg(target_arch = "x86_64")]
        if self.has_instructions {
            return hardware::halves(&self.rounds, begun, low, high);
        }
        self.halves_portably(begun, low, high)
    }

    #[inline(never)]
    fn halves_portably(&self, begun: &Begun, low: u64, high: u64) -> (u64, u64) {
        let mixed = begun.0 ^ self.first ^ (u128::from(low) | u128::from(high) << 64).to_le();
        let block = self.encrypt_portably(mixed).to_le();
        (block as u64, (block >> 64) as u64)
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod hardware {
    use super::Begun;
    use core::arch::asm;
    use core::arch::x86_64::{
        __cpuid, __m128i, _mm_aeskeygenassist_si128, _mm_shuffle_epi32, _mm_slli_si128,
        _mm_xor_si128,
    };

    /// The round keys of a key; `None` if the processor does not have the instructions.
    pub(super) fn expand(key: u128) -> Option<[u128; 11]> {
        // Leaf 1 exists on every x86-64 processor. ECX bit 25 is AES, bit 19 SSE4.1.
        const NEEDED: u32 = 1 << 25 | 1 << 19;
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

    /// See [`super::Aes128::halves`].
    #[inline(always)]
    pub(super) fn halves(
        rounds: &[u128; 11],
        begun: &Begun,
        mut low: u64,
        mut high: u64,
    ) -> (u64, u64) {
        // SAFETY: whoever has round keys, which callers have looked at, has the instructions; only
        // keys and beginning are read, and both are aligned as these instructions want.
        unsafe {
            asm!(
                "movq {state}, {low}",
                "pinsrq {state}, {high}, 1",
                "pxor {state}, [{begun}]",
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
                "movq {low}, {state}",
                "pextrq {high}, {state}, 1",
                state = out(xmm_reg) _,
                low = inout(reg) low,
                high = inout(reg) high,
                begun = in(reg) begun,
                keys = in(reg) rounds.as_ptr(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        (low, high)
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
            for cipher in [&fast, &slow] {
                let found = cipher.halves(&cipher.begin(state), halves.0, halves.1);
                prop_assert_eq!(found, (block as u64, (block >> 64) as u64));
            }
        }
    }
}

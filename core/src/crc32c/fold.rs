//! CRC32C of long inputs by carry-less multiplication, 256 bytes a step (Gopal et al., "Fast CRC
//! Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009): a register of
//! four times 128 bits is moved over the bytes behind it by multiplying with powers of x, and what
//! is left in the end is handed to the processor's CRC instruction.
//!
//! Bits are reflected: the first bit of memory has the highest power. The product of two reflected
//! 64-bit halves then stands one power too high, so all constants are one lower.
#![allow(unsafe_code)]

use core::arch::x86_64::{
    __cpuid, __cpuid_count, __m128i, __m512i, _mm_crc32_u64, _mm_cvtsi32_si128, _mm_cvtsi128_si64,
    _mm_extract_epi64, _mm_xor_si128, _mm512_castsi512_si128, _mm512_clmulepi64_epi128,
    _mm512_extracti32x4_epi32, _mm512_loadu_si512, _mm512_set_epi64, _mm512_storeu_si512,
    _mm512_ternarylogic_epi64, _mm512_xor_si512, _mm512_zextsi128_si512, _xgetbv,
};

use super::POLYNOMIAL;

/// Bytes of a register.
const LANE_BYTES: usize = 64;
/// Bytes of a step: four registers, which do not wait for each other.
const STEP_BYTES: usize = 4 * LANE_BYTES;
/// Inputs that are shorter are not worth it.
pub(super) const LEAST_BYTES: usize = STEP_BYTES;

/// Whether the processor can, and the operating system keeps the registers.
pub(super) fn is_available() -> bool {
    const PCLMULQDQ_AND_OSXSAVE: u32 = 1 << 1 | 1 << 27;
    const AVX512F: u32 = 1 << 16;
    const VPCLMULQDQ: u32 = 1 << 10;
    // SSE, AVX, and the three parts of AVX-512.
    const STATES: u64 = 0b1110_0110;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & PCLMULQDQ_AND_OSXSAVE != PCLMULQDQ_AND_OSXSAVE {
        return false;
    }
    let extended = __cpuid_count(7, 0);
    if extended.ebx & AVX512F == 0 || extended.ecx & VPCLMULQDQ == 0 {
        return false;
    }
    // SAFETY: OSXSAVE says that the instruction may be used.
    unsafe { _xgetbv(0) & STATES == STATES }
}

/// The running sum `sum` after the longest part of `bytes` that is a multiple of 64 bytes, and the
/// rest of them.
///
/// # Panics
/// If there are fewer than [`LEAST_BYTES`].
#[inline]
#[target_feature(enable = "sse4.2,avx512f,vpclmulqdq")]
pub(super) fn update(sum: u32, bytes: &[u8]) -> (u32, &[u8]) {
    fold::<false>(sum, bytes, &mut [])
}

/// The same, of bytes that are all copied to `to` at once.
///
/// # Panics
/// The same; if `to` is not as long.
#[inline]
#[target_feature(enable = "sse4.2,avx512f,vpclmulqdq")]
pub(super) fn update_copying<'a>(sum: u32, bytes: &'a [u8], to: &mut [u8]) -> (u32, &'a [u8]) {
    let summed = fold::<true>(sum, bytes, to);
    copy_last(bytes, to);
    summed
}

/// Copies `bytes` to `to`.
///
/// # Panics
/// If there are fewer than [`LEAST_BYTES`]; if `to` is not as long.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn copy(bytes: &[u8], to: &mut [u8]) {
    let (mut rest, mut room) = (bytes, &mut *to);
    while let Some((step, behind)) = rest.split_first_chunk::<STEP_BYTES>() {
        room = store(room, &load(step));
        rest = behind;
    }
    while let Some((lane, behind)) = rest.split_first_chunk::<LANE_BYTES>() {
        room = store(room, &[load_lane(lane)]);
        rest = behind;
    }
    copy_last(bytes, to);
}

/// Copies the last 64 bytes, some of them once more: so all are whole registers. Not before the
/// others, for what fetches bytes ahead of us takes their order from ours.
#[inline]
#[target_feature(enable = "avx512f")]
fn copy_last(bytes: &[u8], to: &mut [u8]) {
    assert_eq!(bytes.len(), to.len(), "as many bytes as there is room for");
    let from = bytes.last_chunk().expect("enough bytes");
    let (_, to) = to.split_last_chunk_mut::<LANE_BYTES>().expect("as many");
    store(to, &[load_lane(from)]);
}

#[inline]
#[target_feature(enable = "sse4.2,avx512f,vpclmulqdq")]
fn fold<'a, const COPIES: bool>(sum: u32, bytes: &'a [u8], mut to: &mut [u8]) -> (u32, &'a [u8]) {
    let (first, mut rest) = bytes.split_first_chunk::<STEP_BYTES>().expect("enough bytes");
    let [mut a, mut b, mut c, mut d] = load(first);
    if COPIES {
        to = store(to, &[a, b, c, d]);
    }
    a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128(sum as i32)));
    while let Some((step, behind)) = rest.split_first_chunk::<STEP_BYTES>() {
        let next = load(step);
        if COPIES {
            to = store(to, &next);
        }
        a = moved(a, OVER_A_STEP, next[0]);
        b = moved(b, OVER_A_STEP, next[1]);
        c = moved(c, OVER_A_STEP, next[2]);
        d = moved(d, OVER_A_STEP, next[3]);
        rest = behind;
    }
    let mut last = moved(a, over(3), moved(b, over(2), moved(c, over(1), d)));
    while let Some((lane, behind)) = rest.split_first_chunk::<LANE_BYTES>() {
        let next = load_lane(lane);
        if COPIES {
            to = store(to, &[next]);
        }
        last = moved(last, over(1), next);
        rest = behind;
    }
    (reduced(last), rest)
}

/// Stores registers to the front of `to`, and returns the rest of it.
#[inline]
#[target_feature(enable = "avx512f")]
fn store<'a, const LANES: usize>(to: &'a mut [u8], lanes: &[__m512i; LANES]) -> &'a mut [u8] {
    let (here, behind) = to.split_at_mut(LANES * LANE_BYTES);
    for (place, lane) in here.as_chunks_mut::<LANE_BYTES>().0.iter_mut().zip(lanes) {
        // SAFETY: room for 64 bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), *lane) };
    }
    behind
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; STEP_BYTES]) -> [__m512i; 4] {
    let (lanes, _) = bytes.as_chunks::<LANE_BYTES>();
    [load_lane(&lanes[0]), load_lane(&lanes[1]), load_lane(&lanes[2]), load_lane(&lanes[3])]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_lane(bytes: &[u8; LANE_BYTES]) -> __m512i {
    // SAFETY: 64 bytes are there; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// What the halves of 128 bits are multiplied with: the earlier one's, then the later one's.
type Factors = [u64; 2];

/// The factors that move 128 bits over `bits` bits.
const fn factors(bits: u32) -> Factors {
    [power(bits + 63), power(bits - 1)]
}

const OVER_A_STEP: Factors = factors(8 * STEP_BYTES as u32);

/// The factors that move over `registers` registers.
const fn over(registers: u32) -> Factors {
    const OVER: [Factors; 4] = [[0; 2], factors(512), factors(1024), factors(1536)];
    OVER[registers as usize]
}

/// `lane` moved over what `factors` say, with `behind` there.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn moved(lane: __m512i, factors: Factors, behind: __m512i) -> __m512i {
    let [early, late] = [factors[0] as i64, factors[1] as i64];
    times(lane, _mm512_set_epi64(late, early, late, early, late, early, late, early), behind)
}

/// The sum of the halves' products and `behind`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn times(lane: __m512i, factors: __m512i, behind: __m512i) -> __m512i {
    const XOR_OF_THREE: i32 = 0x96;
    let early = _mm512_clmulepi64_epi128::<0x00>(lane, factors);
    let late = _mm512_clmulepi64_epi128::<0x11>(lane, factors);
    _mm512_ternarylogic_epi64::<XOR_OF_THREE>(early, late, behind)
}

/// The running sum that one register stands for.
#[inline]
#[target_feature(enable = "sse4.2,avx512f,vpclmulqdq")]
fn reduced(lane: __m512i) -> u32 {
    const QUARTERS: [Factors; 3] = [factors(384), factors(256), factors(128)];
    let [[a0, a1], [b0, b1], [c0, c1]] = QUARTERS;
    let each =
        _mm512_set_epi64(0, 0, c1 as i64, c0 as i64, b1 as i64, b0 as i64, a1 as i64, a0 as i64);
    // The last quarter stays where it is.
    let moved = times(lane, each, _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, 0));
    let early = _mm_xor_si128(_mm512_castsi512_si128(moved), _mm512_extracti32x4_epi32::<1>(moved));
    let late =
        _mm_xor_si128(_mm512_extracti32x4_epi32::<2>(moved), _mm512_extracti32x4_epi32::<3>(lane));
    let all: __m128i = _mm_xor_si128(early, late);
    let first = _mm_crc32_u64(0, _mm_cvtsi128_si64(all) as u64);
    _mm_crc32_u64(first, _mm_extract_epi64::<1>(all) as u64) as u32
}

/// `x` to the power of `exponent` modulo the polynomial, in the upper half as a reflected factor.
const fn power(exponent: u32) -> u64 {
    let mut value = 1u32 << 31;
    let mut step = 0;
    while step < exponent {
        value = if value & 1 != 0 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
        step += 1;
    }
    (value as u64) << 32
}

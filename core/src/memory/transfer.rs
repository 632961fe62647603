//! Copies to and from memory that others may write at the same time.
//!
//! No reference and no ordinary copy may be used on such memory, and volatile copies of arrays go
//! through the stack a word at a time. So on x86-64 bytes are moved by assembly, which promises as
//! little as volatile words do (bytes may change between one instruction and the next) and takes
//! 16 bytes an instruction where there are many. Short copies go by words of 8, because what was
//! just stored by words can be loaded by words without waiting for the store to reach the cache.
//! That matters for what was just written here and is copied to others; what comes from others has
//! been in a cache for long, so short copies of it take 16 bytes an instruction too ([`copy_in`]).
//!
//! This file has `unsafe` because it is made of raw copies; its callers check ranges.
#![allow(unsafe_code)]

/// Bytes of a word.
const WORD: usize = 8;
/// From so many bytes on, copies are made a cache line at a time.
#[cfg(target_arch = "x86_64")]
const LONG: usize = 512;
/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Copies `len` bytes from `source` to `target`.
///
/// # Safety
/// `source` must be valid for reads of `len` bytes and `target` for writes, and they must not
/// overlap. Others may write to either at the same time, by atomics or through this function.
#[inline(always)]
pub(super) unsafe fn copy(mut source: *const u8, mut target: *mut u8, len: usize) {
    let mut left = len;
    #[cfg(target_arch = "x86_64")]
    if left >= LONG {
        let lines = left / LINE;
        // SAFETY: whole lines, fewer than `len` bytes.
        unsafe {
            copy_lines(source, target, lines);
            source = source.add(lines * LINE);
            target = target.add(lines * LINE);
        }
        left -= lines * LINE;
    }
    #[cfg(target_arch = "x86_64")]
    while left >= 4 * WORD {
        // SAFETY: four words of what is left; at most one past the end afterwards.
        unsafe {
            copy_words(source, target);
            source = source.add(4 * WORD);
            target = target.add(4 * WORD);
        }
        left -= 4 * WORD;
    }
    while left >= WORD {
        // SAFETY: a word of what is left; at most one past the end afterwards.
        unsafe {
            copy_word(source, target);
            source = source.add(WORD);
            target = target.add(WORD);
        }
        left -= WORD;
    }
    while left > 0 {
        // SAFETY: a byte of what is left; at most one past the end afterwards.
        unsafe {
            target.write_volatile(source.read_volatile());
            source = source.add(1);
            target = target.add(1);
        }
        left -= 1;
    }
}

/// Copies `len` bytes that others wrote: as [`copy`], in fewer instructions. Bytes may be loaded
/// twice.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
pub(super) unsafe fn copy_in(source: *const u8, target: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if (2 * WORD..LONG).contains(&len) {
        let mut at = 0;
        while at + 4 * WORD <= len {
            // SAFETY: 32 bytes of `len`.
            unsafe { copy_vectors(source.add(at), target.add(at)) };
            at += 4 * WORD;
        }
        if at + 2 * WORD <= len {
            // SAFETY: 16 bytes of `len`.
            unsafe { copy_vector(source.add(at), target.add(at)) };
            at += 2 * WORD;
        }
        if at != len {
            let last = len - 2 * WORD;
            // SAFETY: the last 16 bytes of at least 16.
            unsafe { copy_vector(source.add(last), target.add(last)) };
        }
        return;
    }
    // SAFETY: as the caller says.
    unsafe { copy(source, target, len) };
}

/// # Safety
/// As [`copy`], of 16 bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_vector(source: *const u8, target: *mut u8) {
    // SAFETY: loads and stores 16 bytes that the caller vouches for; needs no alignment.
    unsafe {
        core::arch::asm!(
            "movups {vector}, xmmword ptr [{source}]",
            "movups xmmword ptr [{target}], {vector}",
            vector = out(xmm_reg) _,
            source = in(reg) source,
            target = in(reg) target,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
/// As [`copy`], of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_vectors(source: *const u8, target: *mut u8) {
    // SAFETY: loads and stores 32 bytes that the caller vouches for; needs no alignment.
    unsafe {
        core::arch::asm!(
            "movups {a}, xmmword ptr [{source}]",
            "movups {b}, xmmword ptr [{source} + 16]",
            "movups xmmword ptr [{target}], {a}",
            "movups xmmword ptr [{target} + 16], {b}",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            source = in(reg) source,
            target = in(reg) target,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
/// As [`copy`], of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_words(source: *const u8, target: *mut u8) {
    // SAFETY: loads and stores 32 bytes that the caller vouches for; needs no alignment.
    unsafe {
        core::arch::asm!(
            "movq {a}, qword ptr [{source}]",
            "movhps {a}, qword ptr [{source} + 8]",
            "movq {b}, qword ptr [{source} + 16]",
            "movhps {b}, qword ptr [{source} + 24]",
            "movups xmmword ptr [{target}], {a}",
            "movups xmmword ptr [{target} + 16], {b}",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            source = in(reg) source,
            target = in(reg) target,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
/// As [`copy`], of 8 bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_word(source: *const u8, target: *mut u8) {
    // SAFETY: loads and stores 8 bytes that the caller vouches for; needs no alignment.
    unsafe {
        core::arch::asm!(
            "mov {word}, qword ptr [{source}]",
            "mov qword ptr [{target}], {word}",
            word = out(reg) _,
            source = in(reg) source,
            target = in(reg) target,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
/// As [`copy`], of 8 bytes.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn copy_word(source: *const u8, target: *mut u8) {
    // SAFETY: loads and stores 8 bytes that the caller vouches for; arrays need no alignment.
    unsafe {
        target.cast::<[u8; WORD]>().write_volatile(source.cast::<[u8; WORD]>().read_volatile())
    }
}

/// # Safety
/// As [`copy`], of `lines` times 64 bytes, at least one.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_lines(source: *const u8, target: *mut u8, lines: usize) {
    // SAFETY: loads and stores what the caller vouches for, from the first line to the last; the
    // instructions need no alignment and every x86-64 has them.
    unsafe {
        core::arch::asm!(
            "2:",
            "movups {a}, xmmword ptr [{source}]",
            "movups {b}, xmmword ptr [{source} + 16]",
            "movups {c}, xmmword ptr [{source} + 32]",
            "movups {d}, xmmword ptr [{source} + 48]",
            "movups xmmword ptr [{target}], {a}",
            "movups xmmword ptr [{target} + 16], {b}",
            "movups xmmword ptr [{target} + 32], {c}",
            "movups xmmword ptr [{target} + 48], {d}",
            "add {source}, 64",
            "add {target}, 64",
            "dec {lines}",
            "jnz 2b",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            source = inout(reg) source => _,
            target = inout(reg) target => _,
            lines = inout(reg) lines => _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn copies_are_copies_at_every_length_and_alignment() {
        let source: Vec<u8> = (0..5000_u32).map(|i| (i * 7 + 1) as u8).collect();
        for len in (0..1100).chain([4095, 4096, 4097]) {
            for (from, to) in [(0, 0), (1, 0), (0, 3), (8, 16), (13, 5)] {
                for way in [copy, copy_in] {
                    let mut target = std::vec![0xAA; 5000];
                    // SAFETY: both are longer than 13 + 4097 bytes, and two allocations.
                    unsafe { way(source.as_ptr().add(from), target.as_mut_ptr().add(to), len) };
                    assert_eq!(target[to..to + len], source[from..from + len]);
                    let beside = target[..to].iter().chain(&target[to + len..]);
                    assert!({ beside }.all(|byte| *byte == 0xAA));
                }
            }
        }
    }
}

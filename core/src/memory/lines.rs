//! The processor's instructions that write cache lines back, and the fences that go with them: all
//! there are in this project.
//!
//! `clflushopt` writes a line back, if it was changed, and forgets it, so one instruction serves
//! writers and readers. Flushes of different lines are in no order among themselves or with later
//! accesses; the fence puts them in order. Processors without it have `clflush`, which does the
//! same one line after the other.
#![allow(unsafe_code)]

use core::sync::atomic::{Ordering, fence};

use super::LINE_BYTES;

/// Writes back and forgets the lines of `bytes` bytes at `start`, which are mapped memory; returns
/// once that is done.
///
/// # Safety
/// The range must be mapped.
#[inline]
pub(super) unsafe fn flush(start: *const u8, bytes: u64) {
    // What was stored before is stored, and what is loaded later is loaded, on the other side.
    fence(Ordering::SeqCst);
    if bytes != 0 {
        let into_line = start.addr() as u64 % LINE_BYTES;
        let lines = (into_line + bytes).div_ceil(LINE_BYTES);
        // SAFETY: lines of a mapped range are mapped.
        unsafe { each_line(start.wrapping_sub(into_line as usize), lines) };
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn each_line(first: *const u8, lines: u64) {
    use core::arch::asm;
    use core::arch::x86_64::_mm_clflush;

    let has_clflushopt = has_clflushopt();
    for line in 0..lines {
        let at = first.wrapping_add((line * LINE_BYTES) as usize);
        // SAFETY: the line is mapped; the instructions change no byte of it.
        unsafe {
            if has_clflushopt {
                asm!("clflushopt [{}]", in(reg) at, options(nostack, preserves_flags));
            } else {
                _mm_clflush(at);
            }
        }
    }
    // SAFETY: a fence has no conditions. A store fence orders flushes before later stores, a full
    // one before later loads as well.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// Whether the processor has `clflushopt`: asked once.
#[cfg(target_arch = "x86_64")]
fn has_clflushopt() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    use core::sync::atomic::AtomicU8;

    /// Nobody asked yet, it has not, it has.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    const LEAF: u32 = 7;
    const CLFLUSHOPT: u32 = 1 << 23;
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let has = __cpuid(0).eax >= LEAF && __cpuid_count(LEAF, 0).ebx & CLFLUSHOPT != 0;
            KNOWN.store(1 + u8::from(has), Ordering::Relaxed);
            has
        }
        known => known == 2,
    }
}

/// Other processors: ordering is all there is, so that pools in flush mode are of one host there.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn each_line(_first: *const u8, _lines: u64) {
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use std::vec;

    #[test]
    fn flushed_bytes_are_as_they_were() {
        let mut bytes = vec![7_u8; 1000];
        for (start, len) in [(0, 1000), (63, 2), (999, 1), (500, 0)] {
            bytes[start] = start as u8;
            // SAFETY: within the vector.
            unsafe { super::flush(bytes[start..].as_ptr(), len) };
            assert_eq!(bytes[start], start as u8);
        }
    }
}

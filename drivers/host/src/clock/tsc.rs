//! The processor's time-stamp counter.

use std::time::Instant;

/// Whether this processor's counter runs at a constant rate in all power states.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    const ADVANCED_POWER: u32 = 0x8000_0007;
    const INVARIANT_TSC: u32 = 1 << 8;
    __cpuid(0x8000_0000).eax >= ADVANCED_POWER && __cpuid(ADVANCED_POWER).edx & INVARIANT_TSC != 0
}

/// Whether this processor's counter runs at a constant rate in all power states.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn is_invariant() -> bool {
    false
}

/// The counter.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn read() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn read() -> u64 {
    0
}

/// The system's time and the counter at nearly the same moment: of a few tries the one in which
/// the two readings of the counter around the system's were closest.
pub(super) fn read_pair() -> (Instant, u64) {
    let one = || {
        let before = read();
        let now = Instant::now();
        let after = read();
        (after.wrapping_sub(before), now, before + after.wrapping_sub(before) / 2)
    };
    let (_, now, ticks) =
        (0..16).map(|_| one()).min_by_key(|(width, ..)| *width).expect("sixteen tries");
    (now, ticks)
}

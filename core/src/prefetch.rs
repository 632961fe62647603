//! Memory that will be needed soon, fetched ahead: a processor waits for one line from memory about
//! as long as it takes for a whole small call, but it can wait for many at a time.
//!
//! The only function is the processor's hint. It reads nothing that a program could see, so it is
//! safe for any reference; where there is no such hint it does nothing.
#![allow(unsafe_code)]

/// Bytes that a processor fetches at a time.
pub(crate) const LINE_BYTES: usize = 64;

/// Asks for the first `lines` cache lines of `place`, or for all of it if it has fewer.
#[inline(always)]
pub(crate) fn fetch<T>(place: &T, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let lines = lines.min(size_of::<T>().div_ceil(LINE_BYTES));
        for line in 0..lines {
            // SAFETY: the line begins within `place`, and a prefetch has no effect but on caches,
            // whatever the address; every x86-64 processor has the instruction.
            unsafe {
                let at = core::ptr::from_ref(place).cast::<i8>().add(line * LINE_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(at);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (place, lines);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetching_changes_nothing_and_ends_where_the_place_does() {
        let place = [0x5Au8; 3 * LINE_BYTES];
        fetch(&place, 1);
        fetch(&place, 1_000);
        fetch(&0u8, 2);
        fetch(&(), 2);
        assert_eq!(place, [0x5A; 3 * LINE_BYTES]);
    }
}

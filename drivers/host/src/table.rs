//! Tables that are too large for a processor's caches, on huge pages where the system has them:
//! otherwise most of the wait for a record is the look for its page.

use crate::sys;

/// Below this nothing can lie on a huge page, in bytes.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A table of `count` times `value`. Only its inside can lie on huge pages of 2 MiB, so smaller
/// tables are as those of `vec!`.
pub fn table<T: Clone>(value: T, count: usize) -> Vec<T> {
    let mut table = Vec::with_capacity(count);
    // Before the first touch, which is when pages are given.
    sys::ask_for_huge_pages(table.spare_capacity_mut());
    table.resize(count, value);
    table
}

/// `count` zero bytes, which take up memory as they are touched.
pub fn zeros(count: usize) -> Box<[u8]> {
    // Large ones come from the system as they are needed, so nothing has been touched yet.
    let mut zeros = vec![0; count].into_boxed_slice();
    if count >= HUGE_PAGE_BYTES {
        sys::ask_for_huge_pages(&mut zeros);
    }
    zeros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_any_size_hold_their_values() {
        assert!(table(1u8, 0).is_empty());
        assert_eq!(table(7u32, 3), [7; 3]);
        assert!(zeros(0).is_empty());
        assert_eq!(*zeros(5_000_000), [0; 5_000_000]);
        let large = table([3u64; 9], 200_000);
        assert_eq!(large.len(), 200_000);
        assert!(large.iter().all(|value| *value == [3; 9]));
    }
}

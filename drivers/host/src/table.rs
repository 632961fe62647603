//! Tables that are too large for a processor's caches, on huge pages where the system has them:
//! otherwise most of the wait for a record is the look for its page.

use crate::sys;

/// A table of `count` times `value`. Only its inside can lie on huge pages of 2 MiB, so smaller
/// tables are as those of `vec!`.
pub fn table<T: Clone>(value: T, count: usize) -> Vec<T> {
    let mut table = Vec::with_capacity(count);
    // Before the first touch, which is when pages are given.
    sys::ask_for_huge_pages(table.spare_capacity_mut());
    table.resize(count, value);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_any_size_hold_their_values() {
        assert!(table(1u8, 0).is_empty());
        assert_eq!(table(7u32, 3), [7; 3]);
        let large = table([3u64; 9], 200_000);
        assert_eq!(large.len(), 200_000);
        assert!(large.iter().all(|value| *value == [3; 9]));
    }
}

//! Little-endian fields at fixed offsets. Offsets are constants, so with a fixed-size array the
//! bounds checks fold away.

/// The two bytes at `at`.
#[inline(always)]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

/// The four bytes at `at`.
#[inline(always)]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// The eight bytes at `at`.
#[inline(always)]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// `N` bytes at `at`.
///
/// # Panics
/// If `bytes` ends before `at + N`.
#[inline(always)]
pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Puts `field` at `at`.
///
/// # Panics
/// If `bytes` ends before `at + N`.
#[inline(always)]
pub fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

/// Copies bytes of which there are usually between 16 and 64, without a call then.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn copy_short(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "as many bytes as there is room for");
    if from.len() <= 64 && copy_ends::<32>(to, from)
        || from.len() <= 32 && copy_ends::<16>(to, from)
    {
        return;
    }
    to.copy_from_slice(from);
}

/// Copies the first and the last `N` bytes, if there are so many.
#[inline(always)]
fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) -> bool {
    let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) else {
        return false;
    };
    if let Some(to) = to.first_chunk_mut::<N>() {
        *to = *first;
    }
    if let Some(to) = to.last_chunk_mut::<N>() {
        *to = *last;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_copies_are_copies() {
        let from: [u8; 100] = core::array::from_fn(|i| i as u8);
        for bytes in 0..from.len() {
            let mut to = [0xFF; 101];
            copy_short(&mut to[..bytes], &from[..bytes]);
            assert_eq!(to[..bytes], from[..bytes]);
            assert!(to[bytes..].iter().all(|byte| *byte == 0xFF));
        }
    }
}

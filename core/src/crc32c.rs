//! CRC32C (Castagnoli; RFC 3720, appendix B.4), by the processor's instruction on x86-64, where
//! every server's has it since 2009; elsewhere from a table.
//!
//! Long inputs run three independent streams at once, since the instruction takes three cycles
//! but one can start every cycle; a table then shifts the partial sums together.

/// Reflected polynomial of CRC32C.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// That this processor can compute checksums. Found out once, copied freely: nothing is left to ask
/// on the way of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(());

impl Crc32c {
    /// Asks the processor.
    ///
    /// # Panics
    /// On an x86-64 processor without SSE4.2.
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Self {
        // Leaf 1 exists on every x86-64 processor; ECX bit 20 is SSE4.2.
        let features = core::arch::x86_64::__cpuid(1).ecx;
        assert!(
            features & (1 << 20) != 0,
            "a processor without SSE4.2; one of 2009 or later has it"
        );
        Self(())
    }

    /// Asks the processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Self {
        Self(())
    }

    /// The checksum of a packet: the first 44 bytes of its header without the tag, which are the
    /// bytes from 16 to 24, then `payload`.
    #[inline(always)]
    pub fn packet(self, header: &[u8; 48], payload: &[u8]) -> u32 {
        #[cfg(target_arch = "x86_64")]
        return hardware::packet(header, payload);
        #[cfg(not(target_arch = "x86_64"))]
        return !table(table(table(!0, &header[..16]), &header[24..44]), payload);
    }

    /// The checksum of a packet whose payload is not covered.
    #[inline(always)]
    pub fn header(self, header: &[u8; 48]) -> u32 {
        #[cfg(target_arch = "x86_64")]
        return !(hardware::header(header) as u32);
        #[cfg(not(target_arch = "x86_64"))]
        return self.packet(header, &[]);
    }

    /// The checksum of `bytes`.
    pub fn of(self, bytes: &[u8]) -> u32 {
        #[cfg(target_arch = "x86_64")]
        return hardware::of(bytes);
        #[cfg(not(target_arch = "x86_64"))]
        return !table(!0, bytes);
    }
}

/// One byte a step, from a table: for processors without the instruction, and to compare with.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn table(mut sum: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut sum = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = if sum & 1 != 0 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
                bit += 1;
            }
            table[byte] = sum;
            byte += 1;
        }
        table
    };
    for &byte in bytes {
        sum = TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod hardware {
    use core::arch::asm;
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

    use super::POLYNOMIAL;

    /// Bytes of one stream of three. A shift table belongs to each length.
    const STREAM_BYTES: usize = 256;

    /// Bytes that [`short`] takes at most.
    const SHORT_BYTES: usize = 64;

    /// The instruction for the words at `$at`, one after the other.
    macro_rules! words {
        ($sum:ident, $at:expr, $($offset:literal)+) => {
            // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2, and have
            // looked that there are so many bytes.
            unsafe {
                asm!(
                    $(concat!("crc32 {sum}, qword ptr [{at} + ", $offset, "]"),)+
                    sum = inout(reg) $sum,
                    at = in(reg) $at,
                    options(pure, readonly, nostack),
                )
            }
        };
    }

    /// See [`super::Crc32c::packet`]. Written as assembly, because a function for processors with
    /// the instruction can't be inlined into one for all, and small packets cost less than calls.
    #[inline(always)]
    pub(super) fn packet(header: &[u8; 48], payload: &[u8]) -> u32 {
        let mut sum = self::header(header);
        let at = payload.as_ptr();
        // One computed jump for the usual lengths.
        match payload.len() {
            0 => {}
            8 => words!(sum, at, 0),
            16 => words!(sum, at, 0 8),
            24 => words!(sum, at, 0 8 16),
            32 => words!(sum, at, 0 8 16 24),
            40 => words!(sum, at, 0 8 16 24 32),
            48 => words!(sum, at, 0 8 16 24 32 40),
            56 => words!(sum, at, 0 8 16 24 32 40 48),
            64 => words!(sum, at, 0 8 16 24 32 40 48 56),
            // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2.
            _ => return !unsafe { update(sum as u32, payload) },
        }
        !(sum as u32)
    }

    /// The running sum of a header's covered bytes.
    #[inline(always)]
    pub(super) fn header(header: &[u8; 48]) -> u64 {
        let mut sum = u64::from(!0u32);
        // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2; only the header's
        // bytes are read.
        unsafe {
            asm!(
                "crc32 {sum}, qword ptr [{header}]",
                "crc32 {sum}, qword ptr [{header} + 8]",
                "crc32 {sum}, qword ptr [{header} + 24]",
                "crc32 {sum}, qword ptr [{header} + 32]",
                "crc32 {sum:e}, dword ptr [{header} + 40]",
                sum = inout(reg) sum,
                header = in(reg) header.as_ptr(),
                options(pure, readonly, nostack),
            );
        }
        sum
    }

    /// One stream of up to [`SHORT_BYTES`] bytes: the whole words take one jump and no loop.
    #[inline(always)]
    fn short(mut sum: u64, bytes: &[u8]) -> u32 {
        let at = bytes.as_ptr();
        match bytes.len() / 8 {
            0 => {}
            1 => words!(sum, at, 0),
            2 => words!(sum, at, 0 8),
            3 => words!(sum, at, 0 8 16),
            4 => words!(sum, at, 0 8 16 24),
            5 => words!(sum, at, 0 8 16 24 32),
            6 => words!(sum, at, 0 8 16 24 32 40),
            7 => words!(sum, at, 0 8 16 24 32 40 48),
            8 => words!(sum, at, 0 8 16 24 32 40 48 56),
            _ => unreachable!("callers have looked"),
        }
        if bytes.len().is_multiple_of(8) {
            return sum as u32;
        }
        // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2.
        unsafe { last_bytes(sum as u32, &bytes[bytes.len() / 8 * 8..]) }
    }

    /// See [`super::Crc32c::of`].
    pub(super) fn of(bytes: &[u8]) -> u32 {
        // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2.
        !unsafe { update(!0, bytes) }
    }

    #[inline(never)]
    #[target_feature(enable = "sse4.2")]
    fn update(mut sum: u32, mut bytes: &[u8]) -> u32 {
        while let Some((block, rest)) = bytes.split_first_chunk::<{ 3 * STREAM_BYTES }>() {
            sum = three_streams(sum, block);
            bytes = rest;
        }
        let mut wide = u64::from(sum);
        while bytes.len() > SHORT_BYTES {
            let (block, rest) = bytes.split_at(SHORT_BYTES);
            words!(wide, block.as_ptr(), 0 8 16 24 32 40 48 56);
            bytes = rest;
        }
        short(wide, bytes)
    }

    #[inline(never)]
    #[target_feature(enable = "sse4.2")]
    fn last_bytes(mut sum: u32, mut tail: &[u8]) -> u32 {
        if let Some((word, rest)) = tail.split_first_chunk::<4>() {
            sum = _mm_crc32_u32(sum, u32::from_le_bytes(*word));
            tail = rest;
        }
        for &byte in tail {
            sum = _mm_crc32_u8(sum, byte);
        }
        sum
    }

    #[target_feature(enable = "sse4.2")]
    fn three_streams(sum: u32, block: &[u8; 3 * STREAM_BYTES]) -> u32 {
        let (words, _) = block.as_chunks::<8>();
        const WORDS: usize = STREAM_BYTES / 8;
        let (mut a, mut b, mut c) = (u64::from(sum), 0, 0);
        for i in 0..WORDS {
            a = _mm_crc32_u64(a, u64::from_le_bytes(words[i]));
            b = _mm_crc32_u64(b, u64::from_le_bytes(words[WORDS + i]));
            c = _mm_crc32_u64(c, u64::from_le_bytes(words[2 * WORDS + i]));
        }
        shift(shift(a as u32) ^ b as u32) ^ c as u32
    }

    /// `sum` as it would be after [`STREAM_BYTES`] more bytes of zero.
    fn shift(sum: u32) -> u32 {
        let bytes = sum.to_le_bytes();
        SHIFT[0][usize::from(bytes[0])]
            ^ SHIFT[1][usize::from(bytes[1])]
            ^ SHIFT[2][usize::from(bytes[2])]
            ^ SHIFT[3][usize::from(bytes[3])]
    }

    /// The linear map of [`shift`], by byte of its argument.
    static SHIFT: [[u32; 256]; 4] = {
        let mut columns = [0u32; 32];
        let mut column = 0;
        while column < 32 {
            let mut sum = 1u32 << column;
            let mut bit = 0;
            while bit < 8 * STREAM_BYTES {
                sum = if sum & 1 != 0 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
                bit += 1;
            }
            columns[column] = sum;
            column += 1;
        }
        let mut tables = [[0u32; 256]; 4];
        let mut byte = 0;
        while byte < 4 * 256 {
            let mut bit = 0;
            while bit < 8 {
                if (byte % 256) & (1 << bit) != 0 {
                    tables[byte / 256][byte % 256] ^= columns[byte / 256 * 8 + bit];
                }
                bit += 1;
            }
            byte += 1;
        }
        tables
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_3720_vectors() {
        let crc = Crc32c::detect();
        let ascending: [u8; 32] = core::array::from_fn(|i| i as u8);
        assert_eq!(crc.of(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc.of(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc.of(&ascending), 0x46DD_794E);
        assert_eq!(crc.of(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn every_short_length_agrees() {
        let bytes: [u8; 200] = core::array::from_fn(|i| i as u8 ^ 0x5A);
        let header = [0xC3; 48];
        let of_header = table(table(!0, &header[..16]), &header[24..44]);
        for length in 0..=bytes.len() {
            let payload = &bytes[..length];
            let wanted = !table(of_header, payload);
            assert_eq!(Crc32c::detect().packet(&header, payload), wanted, "{length} bytes");
        }
        assert_eq!(Crc32c::detect().header(&header), !of_header);
    }

    proptest! {
        #[test]
        fn instruction_and_table_agree(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000),
            header in any::<[[u8; 16]; 3]>(),
        ) {
            let header: [u8; 48] = header.concat().try_into().unwrap();
            prop_assert_eq!(Crc32c::detect().of(&bytes), !table(!0, &bytes));
            prop_assert_eq!(
                Crc32c::detect().packet(&header, &bytes),
                !table(table(table(!0, &header[..16]), &header[24..44]), &bytes)
            );
        }
    }
}

//! CRC32C (Castagnoli; RFC 3720, appendix B.4), by the processor's instruction on x86-64, where
//! every server's has it since 2009; elsewhere from a table.
//!
//! Long inputs are folded by carry-less multiplication where the processor does that 512 bits at a
//! time; else they run three independent streams at once, since the instruction takes three cycles
//! but one can start every cycle, and a table then shifts the partial sums together.

#[cfg(target_arch = "x86_64")]
mod fold;

/// Reflected polynomial of CRC32C.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// That this processor can compute checksums, and how it does long ones best. Found out once,
/// copied freely: no instruction of the processor is asked for on the way of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c {
    /// Whether long inputs are folded.
    folds: bool,
}

/// The running sum of a header's first 16 bytes, which many packets share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(u32);

impl Begun {
    /// The sum of nothing.
    pub const NOTHING: Self = Self(!0);
}

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
        Self { folds: fold::is_available() }
    }

    /// Asks the processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Self {
        Self { folds: false }
    }

    /// The checksum of a packet: the first 44 bytes of its header without the tag, which are the
    /// bytes from 16 to 24, then `payload`.
    #[inline(always)]
    pub fn packet(self, header: &[u8; 48], payload: &[u8]) -> u32 {
        #[cfg(target_arch = "x86_64")]
        return hardware::packet(header, payload, self.folds);
        #[cfg(not(target_arch = "x86_64"))]
        return !table(table(table(!0, &header[..16]), &header[24..44]), payload);
    }

    /// Begins the sum of packets whose headers begin so.
    pub fn begin(self, first: &[u8; 16]) -> Begun {
        Begun(!self.of(first))
    }

    /// The same as [`Crc32c::packet`] of a header that begins as `begun`: what is the same for
    /// many packets is not summed up again.
    #[inline(always)]
    pub fn packet_begun(self, begun: Begun, header: &[u8; 48], payload: &[u8]) -> u32 {
        #[cfg(target_arch = "x86_64")]
        return hardware::packet_begun(begun.0, header, payload, self.folds);
        #[cfg(not(target_arch = "x86_64"))]
        return !table(table(begun.0, &header[24..44]), payload);
    }

    /// The same as [`Crc32c::packet`] of a payload that is copied from `from` to `to` on the way:
    /// one pass over the bytes where the processor folds.
    ///
    /// # Panics
    /// If they are not as long as each other.
    #[inline]
    pub fn packet_copying(self, header: &[u8; 48], from: &[u8], to: &mut [u8]) -> u32 {
        assert_eq!(from.len(), to.len(), "as many bytes as there is room for");
        #[cfg(target_arch = "x86_64")]
        if self.folds && from.len() >= fold::LEAST_BYTES {
            return hardware::packet_copying(header, from, to);
        }
        to.copy_from_slice(from);
        self.packet(header, to)
    }

    /// Whether long inputs are folded: then [`Crc32c::copy`] is faster than other copies.
    #[inline(always)]
    pub(crate) fn folds(self) -> bool {
        self.folds
    }

    /// Copies a packet's payload as [`Crc32c::packet_copying`] does, without summing it up.
    ///
    /// # Panics
    /// If they are not as long as each other.
    #[inline]
    pub fn copy(self, from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len(), "as many bytes as there is room for");
        #[cfg(target_arch = "x86_64")]
        if self.folds && from.len() >= fold::LEAST_BYTES {
            return hardware::copy(from, to);
        }
        to.copy_from_slice(from);
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
        return hardware::of(bytes, self.folds);
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
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32};

    use super::{POLYNOMIAL, fold};

    /// Bytes of one stream of three in a long block, and in a short one. A shift table belongs to
    /// each length. One long block is most of what an Ethernet frame carries.
    const LONG_BYTES: usize = 448;
    const BRIEF_BYTES: usize = 64;

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
    pub(super) fn packet(header: &[u8; 48], payload: &[u8], folds: bool) -> u32 {
        with_payload(self::header(header), payload, folds)
    }

    /// See [`super::Crc32c::packet_begun`].
    #[inline(always)]
    pub(super) fn packet_begun(begun: u32, header: &[u8; 48], payload: &[u8], folds: bool) -> u32 {
        let mut sum = u64::from(begun);
        // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2; only the header's
        // bytes are read.
        unsafe {
            asm!(
                "crc32 {sum}, qword ptr [{header} + 24]",
                "crc32 {sum}, qword ptr [{header} + 32]",
                "crc32 {sum:e}, dword ptr [{header} + 40]",
                sum = inout(reg) sum,
                header = in(reg) header.as_ptr(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        with_payload(sum, payload, folds)
    }

    /// The running sum `sum` of a header, and its payload.
    #[inline(always)]
    fn with_payload(mut sum: u64, payload: &[u8], folds: bool) -> u32 {
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
            _ => return !unsafe { update(sum as u32, payload, folds) },
        }
        !(sum as u32)
    }

    /// See [`super::Crc32c::packet_copying`]: for processors that fold, and as many bytes as that
    /// takes.
    #[inline]
    pub(super) fn packet_copying(header: &[u8; 48], from: &[u8], to: &mut [u8]) -> u32 {
        let sum = self::header(header) as u32;
        // SAFETY: the processor was asked.
        let (sum, rest) = unsafe { fold::update_copying(sum, from, to) };
        // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2.
        !unsafe { update(sum, rest, false) }
    }

    /// See [`super::Crc32c::copy`]: for processors that fold.
    #[inline]
    pub(super) fn copy(from: &[u8], to: &mut [u8]) {
        // SAFETY: the processor was asked.
        unsafe { fold::copy(from, to) };
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
    pub(super) fn of(bytes: &[u8], folds: bool) -> u32 {
        // SAFETY: callers come here with a `Crc32c`, so the processor has SSE4.2.
        !unsafe { update(!0, bytes, folds) }
    }

    #[inline(never)]
    #[target_feature(enable = "sse4.2")]
    fn update(mut sum: u32, mut bytes: &[u8], folds: bool) -> u32 {
        if folds && bytes.len() >= fold::LEAST_BYTES {
            // SAFETY: the processor was asked.
            (sum, bytes) = unsafe { fold::update(sum, bytes) };
        }
        while let Some((block, rest)) = bytes.split_first_chunk::<{ 3 * LONG_BYTES }>() {
            sum = three_streams::<LONG_BYTES>(sum, block, &LONG_SHIFT);
            bytes = rest;
        }
        while let Some((block, rest)) = bytes.split_first_chunk::<{ 3 * BRIEF_BYTES }>() {
            sum = three_streams::<BRIEF_BYTES>(sum, block, &BRIEF_SHIFT);
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

    /// `block` is three streams of `STREAM` bytes, and `shift` the table of that length.
    #[inline]
    #[target_feature(enable = "sse4.2")]
    fn three_streams<const STREAM: usize>(sum: u32, block: &[u8], shift: &Shift) -> u32 {
        assert_eq!(block.len(), 3 * STREAM, "three streams");
        let (mut a, mut b, mut c) = (u64::from(sum), 0u64, 0u64);
        let mut at = block.as_ptr();
        // SAFETY: each turn reads 32 bytes of each stream and moves on by as many, `STREAM` in all.
        unsafe {
            asm!(
                "2:",
                "crc32 {a}, qword ptr [{at}]",
                "crc32 {b}, qword ptr [{at} + {stream}]",
                "crc32 {c}, qword ptr [{at} + 2 * {stream}]",
                "crc32 {a}, qword ptr [{at} + 8]",
                "crc32 {b}, qword ptr [{at} + {stream} + 8]",
                "crc32 {c}, qword ptr [{at} + 2 * {stream} + 8]",
                "crc32 {a}, qword ptr [{at} + 16]",
                "crc32 {b}, qword ptr [{at} + {stream} + 16]",
                "crc32 {c}, qword ptr [{at} + 2 * {stream} + 16]",
                "crc32 {a}, qword ptr [{at} + 24]",
                "crc32 {b}, qword ptr [{at} + {stream} + 24]",
                "crc32 {c}, qword ptr [{at} + 2 * {stream} + 24]",
                "add {at}, 32",
                "cmp {at}, {end}",
                "jne 2b",
                a = inout(reg) a,
                b = inout(reg) b,
                c = inout(reg) c,
                at = inout(reg) at,
                end = in(reg) at.add(STREAM),
                stream = const STREAM,
                options(pure, readonly, nostack),
            );
        }
        let _ = at;
        shifted(shifted(a as u32, shift) ^ b as u32, shift) ^ c as u32
    }

    /// The linear map of [`shifted`], by byte of its argument.
    type Shift = [[u32; 256]; 4];

    /// `sum` as it would be after as many more bytes of zero as the table is for.
    #[inline]
    fn shifted(sum: u32, shift: &Shift) -> u32 {
        let bytes = sum.to_le_bytes();
        shift[0][usize::from(bytes[0])]
            ^ shift[1][usize::from(bytes[1])]
            ^ shift[2][usize::from(bytes[2])]
            ^ shift[3][usize::from(bytes[3])]
    }

    static LONG_SHIFT: Shift = shift_table(LONG_BYTES);
    static BRIEF_SHIFT: Shift = shift_table(BRIEF_BYTES);

    /// The map that shifts by `bytes` bytes.
    const fn shift_table(bytes: usize) -> Shift {
        let mut columns = [0u32; 32];
        let mut column = 0;
        while column < 32 {
            let mut sum = 1u32 << column;
            let mut bit = 0;
            while bit < 8 * bytes {
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
    }
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
            // Folded where the processor can, and by the streams of all others.
            for crc in [Crc32c::detect(), Crc32c { folds: false }] {
                prop_assert_eq!(crc.of(&bytes), !table(!0, &bytes));
                let wanted = !table(table(table(!0, &header[..16]), &header[24..44]), &bytes);
                prop_assert_eq!(crc.packet(&header, &bytes), wanted);
                let begun = crc.begin(header.first_chunk().unwrap());
                prop_assert_eq!(crc.packet_begun(begun, &header, &bytes), wanted);
                let mut copy = std::vec![0xAA; bytes.len()];
                prop_assert_eq!(crc.packet_copying(&header, &bytes, &mut copy), wanted);
                prop_assert!(copy == bytes);
                copy.fill(0xAA);
                crc.copy(&bytes, &mut copy);
                prop_assert!(copy == bytes);
            }
        }
    }
}

//! Bad packets, made of good ones: changed, and sealed again so that they pass for whole.

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES};

/// Where a header has its version, and the one that it has.
const VERSION_AT: usize = 0;
const VERSION: u8 = 1;
/// Where a header has the kind of its packet.
const KIND_AT: usize = 1;
/// Where a header has its flags, low byte first.
const FLAGS_AT: usize = 2;
/// Where a header has the name of the session: index and generation at the receiver.
const SESSION_AT: usize = 4;
/// Where a header has the length of the payload.
const PAYLOAD_AT: usize = 34;
/// Where a header has the checksum.
const CHECK_AT: usize = HEADER_BYTES - 4;
/// Changes are mostly within so many bytes: of the header, and of the head of a message.
const REACH: usize = 200;

/// Bytes of a session's name.
pub const SESSION_BYTES: usize = 8;

/// The kind of a packet, as its header says, in clear or encrypted; `None` if it is too short.
pub fn kind(packet: &[u8]) -> Option<u8> {
    packet.get(KIND_AT).copied()
}

/// Writes the name of another session into a packet.
///
/// # Panics
/// If it is shorter than a header.
pub fn set_session(packet: &mut [u8], name: [u8; SESSION_BYTES]) {
    packet[SESSION_AT..SESSION_AT + SESSION_BYTES].copy_from_slice(&name);
}

/// Changes a few bytes, most of them in the header or the steps, and sometimes the length, up to
/// `longest` bytes. `below` draws a number below what it is given.
pub fn change(bytes: &mut Vec<u8>, longest: usize, mut below: impl FnMut(u64) -> u64) {
    match below(8) {
        0 => bytes.truncate(below(bytes.len() as u64 + 1) as usize),
        1 => {
            let more = below(longest.saturating_sub(bytes.len()) as u64 + 1);
            bytes.extend((0..more).map(|_| below(256) as u8));
        }
        _ => {}
    }
    if bytes.is_empty() {
        return;
    }
    for _ in 0..1 + below(4) {
        let reach = if below(4) == 0 { bytes.len() } else { REACH };
        let at = below(reach.min(bytes.len()) as u64) as usize;
        bytes[at] = match below(5) {
            0 => bytes[at].wrapping_add(1),
            1 => 0,
            2 => 0xFF,
            3 => bytes[at] ^ 1 << below(8),
            _ => below(256) as u8,
        };
    }
    if below(8) == 0 && bytes.len() > KIND_AT {
        // The kind of another packet.
        bytes[KIND_AT] = below(16) as u8;
    }
}

/// Makes version, length and checksum right, so that a packet gets past the first gate. Leaves what
/// is shorter than a header as it is.
pub fn seal(packet: &mut [u8]) {
    let Some((header, payload)) = packet.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    header[VERSION_AT] = VERSION;
    header[PAYLOAD_AT..PAYLOAD_AT + 2].copy_from_slice(&(payload.len() as u16).to_le_bytes());
    let flags = u16::from_le_bytes([header[FLAGS_AT], header[FLAGS_AT + 1]]);
    let covered = Flags::from_bits_truncate(flags).contains(Flags::PAYLOAD_CHECK);
    let check = Crc32c::detect().packet(header, if covered { payload } else { &[] });
    header[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use dmrpc_core::wire::packet::{Header, Kind};

    use super::*;
    use crate::random::Random;

    fn packet(flags: Flags, payload: &[u8]) -> Vec<u8> {
        let payload_bytes = payload.len() as u16;
        let header = Header { flags, payload: payload_bytes, ..Header::new(Kind::Request, 7, 9) };
        let mut bytes = vec![0; HEADER_BYTES + payload.len()];
        bytes[HEADER_BYTES..].copy_from_slice(payload);
        header.emit(&mut bytes, Crc32c::detect());
        bytes
    }

    #[test]
    fn a_packet_sealed_again_is_as_it_was() {
        for flags in [Flags::empty(), Flags::PAYLOAD_CHECK] {
            let good = packet(flags, b"some payload");
            let mut spoilt = good.clone();
            spoilt[VERSION_AT] ^= 3;
            spoilt[PAYLOAD_AT] ^= 1;
            spoilt[CHECK_AT + 2] ^= 0x40;
            seal(&mut spoilt);
            assert_eq!(spoilt, good);
            assert_eq!(kind(&good), Some(Kind::Request as u8));
        }
        seal(&mut [1; HEADER_BYTES - 1]);
    }

    #[test]
    fn the_session_is_where_headers_have_it() {
        let mut bytes = packet(Flags::PAYLOAD_CHECK, b"x");
        let mut other = Header::new(Kind::Request, 0x0102_0304, 0x0506_0708);
        (other.flags, other.payload) = (Flags::PAYLOAD_CHECK, 1);
        let mut expected = vec![0; HEADER_BYTES];
        expected.push(b'x');
        other.emit(&mut expected, Crc32c::detect());
        set_session(&mut bytes, expected[SESSION_AT..][..SESSION_BYTES].try_into().expect("8"));
        seal(&mut bytes);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn changes_change_and_keep_to_the_longest() {
        let (mut random, good) = (Random::new(3), packet(Flags::empty(), &[7; 300]));
        let mut same = 0;
        for _ in 0..1_000 {
            let mut bytes = good.clone();
            change(&mut bytes, 400, |bound| random.below(bound));
            assert!(bytes.len() <= 400);
            same += u32::from(bytes == good);
        }
        assert!(same < 100, "{same} of 1000 were as before");
    }
}

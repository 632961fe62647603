//! Capture files: datagrams as Wireshark reads them, with the headers below them made up.
//!
//! The format is pcap with times in nanoseconds and Ethernet frames
//! (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>). Drivers see datagrams only,
//! so each gets an Ethernet, an IPv4 and a UDP header from its addresses.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Marks a little-endian file with times in nanoseconds.
const MAGIC: u32 = 0xA1B2_3C4D;
/// Bytes of a frame that a file may have at most.
const SNAP_BYTES: u32 = 0x1_0000;
/// The link type of Ethernet.
const ETHERNET: u32 = 1;
/// Ethernet, IPv4 without options, and UDP.
const HEADERS_BYTES: usize = 14 + 20 + 8;

/// Writes datagrams to a capture file.
#[derive(Debug)]
pub struct Pcap<W: Write = BufWriter<File>> {
    out: W,
    identification: u16,
}

impl Pcap {
    /// Creates the file, or replaces it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::new(BufWriter::new(File::create(path)?))
    }
}

impl<W: Write> Pcap<W> {
    /// Begins a capture.
    ///
    /// # Errors
    /// `out` takes no bytes.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC.to_le_bytes());
        // Version 2.4.
        header.extend([2, 0, 4, 0]);
        header.extend([0; 8]);
        header.extend(SNAP_BYTES.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out, identification: 0 })
    }

    /// Appends a datagram that was seen at `time`.
    ///
    /// # Errors
    /// The file cannot be written any more.
    pub fn datagram(
        &mut self,
        time: SystemTime,
        from: SocketAddrV4,
        to: SocketAddrV4,
        bytes: &[u8],
    ) -> io::Result<()> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let length = (HEADERS_BYTES + bytes.len()) as u32;
        self.identification = self.identification.wrapping_add(1);
        self.out.write_all(&(since.as_secs() as u32).to_le_bytes())?;
        self.out.write_all(&since.subsec_nanos().to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&headers(from, to, bytes.len(), self.identification))?;
        self.out.write_all(bytes)
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// The file cannot be written any more.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A hardware address for `address`: locally administered, the address in its last bytes.
fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [2, 0, a, b, c, d]
}

/// The headers of a datagram of `length` bytes.
fn headers(
    from: SocketAddrV4,
    to: SocketAddrV4,
    length: usize,
    identification: u16,
) -> [u8; HEADERS_BYTES] {
    let mut bytes = [0; HEADERS_BYTES];
    let (ethernet, rest) = bytes.split_at_mut(14);
    let (ip, udp) = rest.split_at_mut(20);
    ethernet[..6].copy_from_slice(&hardware(*to.ip()));
    ethernet[6..12].copy_from_slice(&hardware(*from.ip()));
    ethernet[12..].copy_from_slice(&[8, 0]);
    // Version 4, five words; time to live 64; UDP.
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((28 + length) as u16).to_be_bytes());
    ip[4..6].copy_from_slice(&identification.to_be_bytes());
    (ip[8], ip[9]) = (64, 17);
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..].copy_from_slice(&to.ip().octets());
    let checksum = internet_checksum(ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // UDP's checksum stays zero: none.
    udp[..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&((8 + length) as u16).to_be_bytes());
    bytes
}

/// The ones' complement sum of RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_as_bytes() {
        let mut out = Vec::new();
        let mut pcap = Pcap::new(&mut out).unwrap();
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 0x1234);
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7400);
        let time = UNIX_EPOCH + Duration::new(5, 6);
        pcap.datagram(time, from, to, &[0xAA, 0xBB, 0xCC]).unwrap();
        let header =
            [0x4D, 0x3C, 0xB2, 0xA1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0];
        assert_eq!(out[..24], header);
        assert_eq!(out[24..40], [5, 0, 0, 0, 6, 0, 0, 0, 45, 0, 0, 0, 45, 0, 0, 0]);
        let frame = &out[40..];
        assert_eq!(frame[..14], [2, 0, 10, 0, 0, 2, 2, 0, 10, 0, 0, 1, 8, 0]);
        assert_eq!(frame[14..24], [0x45, 0, 0, 31, 0, 1, 0, 0, 64, 17]);
        // A header with its checksum sums to zero.
        assert_eq!(internet_checksum(&frame[14..34]), 0);
        assert_eq!(frame[34..42], [0x12, 0x34, 0x1C, 0xE8, 0, 11, 0, 0]);
        assert_eq!(frame[42..], [0xAA, 0xBB, 0xCC]);
    }
}

//! Ethernet II, IPv4 (RFC 791) and UDP (RFC 768) around our datagrams, through smoltcp's wire
//! types.
//!
//! On the way in a frame is checked and taken apart. On the way out the 42 bytes of headers come
//! from a [`HeaderTemplate`] made once for each neighbour: a packet costs a copy, two lengths and
//! one checksum that is adjusted, not computed (RFC 1624).
//!
//! The UDP checksum is left out (zero, as RFC 768 allows over IPv4) and not verified: our own
//! CRC32C covers header and payload, and is stronger.

use core::net::{Ipv4Addr, SocketAddrV4};
use core::ops::Range;

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, UDP_HEADER_LEN, UdpPacket,
};

use super::bytes::put;

/// Bytes of Ethernet, IPv4 and UDP header in front of a datagram.
pub const HEADERS_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + UDP_HEADER_LEN;
const ETHERNET_BYTES: usize = 14;
/// Without options, which we neither send nor accept.
const IPV4_BYTES: usize = 20;
/// Time to live of what we send: the value recommended by IANA.
const HOP_LIMIT: u8 = 64;

/// A UDP datagram in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpFrame {
    /// The sender's hardware address, or that of the router it came through.
    pub hardware: EthernetAddress,
    /// The sender.
    pub from: SocketAddrV4,
    /// Whom it is for.
    pub to: SocketAddrV4,
    /// Where in the frame the datagram lies.
    pub payload: Range<usize>,
}

/// Takes a frame apart. `None` if it is anything but a whole, undamaged UDP datagram over IPv4:
/// then it is for the slow path to look at.
///
/// Every packet comes through here, so the headers, whose places are fixed, are looked at by hand;
/// a test compares it with smoltcp's views.
#[inline]
pub fn parse_udp(frame: &[u8]) -> Option<UdpFrame> {
    let headers = frame.first_chunk::<HEADERS_BYTES>()?;
    let ip_bytes = usize::from(word(headers, ETHERNET_BYTES + LENGTH_AT));
    let plain = word(headers, 12) == 0x0800
        // Version 4 and a header without options.
        && headers[ETHERNET_BYTES] == 0x45
        // Neither a fragment nor the first of some.
        && word(headers, ETHERNET_BYTES + 6) & 0x3FFF == 0
        && headers[ETHERNET_BYTES + 9] == 17
        && ip_bytes <= frame.len() - ETHERNET_BYTES
        && sum_is_right(headers);
    if !plain {
        return None;
    }
    let udp_bytes = usize::from(word(headers, ETHERNET_BYTES + IPV4_BYTES + UDP_LENGTH_AT));
    let bytes = udp_bytes.checked_sub(UDP_HEADER_LEN)?;
    if IPV4_BYTES + udp_bytes > ip_bytes {
        return None;
    }
    let address = |at: usize, port: usize| {
        let [a, b, c, d] = array(headers, at);
        SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), word(headers, port))
    };
    Some(UdpFrame {
        hardware: EthernetAddress(array(headers, 6)),
        from: address(26, 34),
        to: address(30, 36),
        payload: HEADERS_BYTES..HEADERS_BYTES + bytes,
    })
}

#[inline(always)]
fn array<const N: usize>(headers: &[u8; HEADERS_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&headers[at..at + N]);
    bytes
}

#[inline(always)]
fn word(headers: &[u8; HEADERS_BYTES], at: usize) -> u16 {
    u16::from_be_bytes(array(headers, at))
}

/// Whether the IPv4 header's checksum is right: the ones' complement sum is, in any byte order and
/// word size, all ones.
#[inline(always)]
fn sum_is_right(headers: &[u8; HEADERS_BYTES]) -> bool {
    let part = |index: usize| u32::from_ne_bytes(array(headers, ETHERNET_BYTES + 4 * index));
    let sum: u64 = (0..IPV4_BYTES / 4).map(|index| u64::from(part(index))).sum();
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    sum == 0xFFFF
}

/// The headers of all packets to one neighbour and port.
#[derive(Clone, Copy, Debug)]
pub struct HeaderTemplate {
    bytes: [u8; HEADERS_BYTES],
    /// Ones' complement sum of the IPv4 header without its length and checksum.
    sum: u32,
}

/// The headers of a frame as words, to be compared with those of the next one. A call that compares
/// bytes would wait for what was stored there in smaller pieces just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderWords([u64; HEADERS_BYTES.div_ceil(8)]);

impl HeaderWords {
    /// Those at the front of `frame`; `None` if it is too short for all of them.
    #[inline(always)]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let headers = frame.first_chunk::<HEADERS_BYTES>()?;
        let mut words = [0; HEADERS_BYTES.div_ceil(8)];
        let (whole, last) = (HEADERS_BYTES / 8, HEADERS_BYTES - 8);
        for (at, word) in words[..whole].iter_mut().enumerate() {
            *word = u64::from_ne_bytes(array(headers, 8 * at));
        }
        // The last one overlaps the one before.
        words[whole] = u64::from_ne_bytes(array(headers, last));
        Some(Self(words))
    }

    /// Whether `other` is the same.
    #[inline(always)]
    pub fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl HeaderTemplate {
    /// Headers from `source` at `from` to `destination` at `to`.
    pub fn new(
        source: EthernetAddress,
        from: SocketAddrV4,
        destination: EthernetAddress,
        to: SocketAddrV4,
    ) -> Self {
        let mut bytes = [0; HEADERS_BYTES];
        EthernetRepr { src_addr: source, dst_addr: destination, ethertype: EthernetProtocol::Ipv4 }
            .emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
        let ip = Ipv4Repr {
            src_addr: *from.ip(),
            dst_addr: *to.ip(),
            next_header: IpProtocol::Udp,
            payload_len: UDP_HEADER_LEN,
            hop_limit: HOP_LIMIT,
        };
        let ignored = smoltcp::phy::ChecksumCapabilities::ignored();
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[ETHERNET_BYTES..]), &ignored);
        let mut udp = UdpPacket::new_unchecked(&mut bytes[ETHERNET_BYTES + IPV4_BYTES..]);
        udp.set_src_port(from.port());
        udp.set_dst_port(to.port());
        let (pairs, _) = bytes[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES].as_chunks::<2>();
        let sum = pairs
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != LENGTH_AT / 2 && *at != CHECKSUM_AT / 2)
            .map(|(_, pair)| u32::from(u16::from_be_bytes(*pair)))
            .sum();
        Self { bytes, sum }
    }

    /// Writes the headers of a datagram of `payload_bytes` bytes to the front of `frame`.
    ///
    /// # Panics
    /// If `frame` is shorter than [`HEADERS_BYTES`].
    #[inline]
    pub fn emit(&self, frame: &mut [u8], payload_bytes: usize) {
        let headers = frame.first_chunk_mut::<HEADERS_BYTES>().expect("room for the headers");
        *headers = self.bytes;
        let ip_bytes = (IPV4_BYTES + UDP_HEADER_LEN + payload_bytes) as u16;
        let sum = self.sum + u32::from(ip_bytes);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        put(headers, ETHERNET_BYTES + LENGTH_AT, ip_bytes.to_be_bytes());
        put(headers, ETHERNET_BYTES + CHECKSUM_AT, (!(sum as u16)).to_be_bytes());
        let udp_bytes = (UDP_HEADER_LEN + payload_bytes) as u16;
        put(headers, ETHERNET_BYTES + IPV4_BYTES + UDP_LENGTH_AT, udp_bytes.to_be_bytes());
    }
}

/// Of the total length, in the IPv4 header.
const LENGTH_AT: usize = 2;
/// Of the checksum, in the IPv4 header.
const CHECKSUM_AT: usize = 10;
/// Of the length, in the UDP header.
const UDP_LENGTH_AT: usize = 4;

/// The IPv4 addresses of an ARP packet's sender, and its hardware address: what a neighbour says
/// of itself. `None` if the frame is not ARP for Ethernet and IPv4.
pub fn parse_arp(frame: &[u8]) -> Option<(Ipv4Addr, EthernetAddress)> {
    use smoltcp::wire::{ArpPacket, ArpRepr};
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let packet = ArpPacket::new_checked(ethernet.payload()).ok()?;
    match ArpRepr::parse(&packet).ok()? {
        ArpRepr::EthernetIpv4 { source_protocol_addr, source_hardware_addr, .. } => {
            Some((source_protocol_addr, source_hardware_addr))
        }
        _ => None,
    }
}

/// Length of the frame that [`emit_arp_request`] writes, in bytes.
pub const ARP_REQUEST_BYTES: usize = ETHERNET_BYTES + 28;

/// Writes a broadcast that asks for the hardware address of `wanted`.
///
/// # Panics
/// If `frame` is shorter than [`ARP_REQUEST_BYTES`].
pub fn emit_arp_request(
    frame: &mut [u8],
    hardware: EthernetAddress,
    address: Ipv4Addr,
    wanted: Ipv4Addr,
) {
    use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr};
    EthernetRepr {
        src_addr: hardware,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    }
    .emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: hardware,
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: wanted,
    }
    .emit(&mut ArpPacket::new_unchecked(&mut frame[ETHERNET_BYTES..ARP_REQUEST_BYTES]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;

    use super::*;

    const OURS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const THEIRS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

    #[test]
    fn literal_bytes() {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7400);
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7401);
        let mut frame = [0xEE; HEADERS_BYTES + 4];
        HeaderTemplate::new(OURS, from, THEIRS, to).emit(&mut frame, 4);
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(frame[14..18], [0x45, 0, 0, 32]);
        assert_eq!(frame[22..24], [64, 17]);
        assert_eq!(frame[26..34], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(frame[34..42], [0x1C, 0xE8, 0x1C, 0xE9, 0, 12, 0, 0]);
    }

    #[test]
    fn words_differ_wherever_headers_do() {
        let frame: [u8; HEADERS_BYTES + 6] = core::array::from_fn(|at| at as u8);
        let words = HeaderWords::of(&frame).expect("long enough");
        for at in 0..frame.len() {
            let mut other = frame;
            other[at] ^= 0x10;
            let same = HeaderWords::of(&other).expect("long enough").is(&words);
            assert_eq!(same, at >= HEADERS_BYTES, "byte {at}");
        }
        assert!(HeaderWords::of(&frame[..HEADERS_BYTES - 1]).is_none());
    }

    /// What [`parse_udp`] has to agree with: the same through smoltcp's views.
    fn parse_by_smoltcp(frame: &[u8]) -> Option<UdpFrame> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        let plain = ip.version() == 4
            && usize::from(ip.header_len()) == IPV4_BYTES
            && !ip.more_frags()
            && ip.frag_offset() == 0
            && ip.next_header() == IpProtocol::Udp
            && ip.verify_checksum();
        if !plain {
            return None;
        }
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        let bytes = usize::from(udp.len()).checked_sub(UDP_HEADER_LEN)?;
        Some(UdpFrame {
            hardware: ethernet.src_addr(),
            from: SocketAddrV4::new(ip.src_addr(), udp.src_port()),
            to: SocketAddrV4::new(ip.dst_addr(), udp.dst_port()),
            payload: HEADERS_BYTES..HEADERS_BYTES + bytes,
        })
    }

    proptest! {
        #[test]
        fn smoltcp_sees_the_same(
            payload_bytes in 0usize..64, cut in 0usize..8,
            changes in proptest::collection::vec((0..HEADERS_BYTES, any::<u8>()), 0..3),
            mends in any::<bool>(),
        ) {
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7400);
            let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7401);
            let mut frame = vec![7; HEADERS_BYTES + payload_bytes];
            HeaderTemplate::new(OURS, from, THEIRS, to).emit(&mut frame, payload_bytes);
            for (at, byte) in changes {
                frame[at] = byte;
            }
            if mends {
                let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_BYTES..]);
                if ip.header_len() == 20 {
                    ip.fill_checksum();
                }
            }
            frame.truncate(frame.len() - cut);
            prop_assert_eq!(parse_udp(&frame), parse_by_smoltcp(&frame));
        }

        #[test]
        fn what_is_emitted_parses(
            addresses in any::<([u8; 4], [u8; 4])>(), ports in (1..u16::MAX, 1..u16::MAX),
            payload_bytes in 0usize..1600,
        ) {
            // smoltcp rejects frames whose addresses are not unicast.
            let unicast = |[a, b, c, d]: [u8; 4]| Ipv4Addr::new(a % 223 + 1, b, c, d);
            let from = SocketAddrV4::new(unicast(addresses.0), ports.0);
            let to = SocketAddrV4::new(unicast(addresses.1), ports.1);
            let mut frame = vec![0; HEADERS_BYTES + payload_bytes];
            HeaderTemplate::new(OURS, from, THEIRS, to).emit(&mut frame, payload_bytes);
            let parsed = parse_udp(&frame);
            let payload = HEADERS_BYTES..frame.len();
            prop_assert_eq!(parsed, Some(UdpFrame { hardware: OURS, from, to, payload }));
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_udp(&noise);
            let _ = parse_arp(&noise);
            // Deeper: a frame that claims to be IPv4, and one that claims to be ARP.
            for (high, low) in [(8, 0), (8, 6)] {
                let mut frame = vec![0; 12];
                frame.extend([high, low]);
                frame.extend(&noise);
                let _ = parse_udp(&frame);
                let _ = parse_arp(&frame);
            }
        }
    }
}

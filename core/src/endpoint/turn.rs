//! A long message's turn: several of its packets, one after the other.

use core::net::SocketAddrV4;

use super::host::Host;
use super::loans::{Loans, Stretch};
use super::outgoing::Outgoing;
use super::seal::{PartTags, Seal};
use super::transmit::Io;
use crate::device::Tx;
use crate::memory::Loan;
use crate::wire::packet::{HEADER_BYTES, Header};
use crate::wire::template::{Part, seal_by_flags, seal_copying};

/// Packets that one message may send before the next of its session has its turn.
const PACKETS_A_TURN: u32 = 8;

/// What came of a slot's turn.
pub(super) struct Turn {
    pub(super) packets: u32,
    /// How many of them were sent before.
    pub(super) again: u32,
    /// The device has no room: the turn is not over.
    pub(super) full: bool,
    /// There is more to send.
    pub(super) more: bool,
}

/// What the packets of a turn have in common.
struct Common<'a> {
    seal: Seal<'a>,
    tags: Option<PartTags<'a>>,
    peer: SocketAddrV4,
    part: Part,
}

/// Packets of a longer message, or of one whose bytes the host supplies, up to a turn's share.
/// `header` says whose they are.
pub(super) fn several<T: Tx, H: Host>(
    (io, loans): (&mut Io<'_, T, H>, &mut Loans),
    seal: Seal<'_>,
    peer: SocketAddrV4,
    header: Header,
    outgoing: &mut Outgoing,
    payload_bytes: u32,
) -> Turn {
    let message = outgoing.message();
    let part = Part::new(&Header { message, head: outgoing.head, ..header }, seal.crc);
    let mut common = Common { seal, tags: None, peer, part };
    if message > payload_bytes {
        common.tags = seal.part_tags(|| common.part.header());
    }
    let inline = u32::from(outgoing.inline_bytes);
    // What is encrypted is not what lies there.
    let lends = seal.trailer() == 0 && outgoing.source().is_some();
    let borrows = lends && io.tx.borrows(peer);
    let mut stretch = None;
    let (mut packets, mut again) = (0, 0);
    while packets < PACKETS_A_TURN {
        let Some(number) = outgoing.due() else { break };
        let start = number * payload_bytes;
        let bytes = payload_bytes.min(message - start);
        let packet = common.of(number);
        let lent = match outgoing.source() {
            Some(source) if lends && start >= inline => {
                let packets = outgoing.in_a_row(number).min(PACKETS_A_TURN - packets);
                let most = (packets * payload_bytes).clamp(bytes, message - start);
                let range = (start - inline, bytes, most);
                Stretch::part(&mut stretch, io.host, source, range).map(|loan| (source, loan))
            }
            _ => None,
        };
        let sent = match lent {
            Some((source, loan)) if borrows && let Some(ticket) = loans.ticket(source) => {
                loans.send(io.tx, &packet, (ticket, loan))
            }
            Some((_, loan)) => copied_from(io.tx, &packet, &loan),
            None => copied(io, &packet, outgoing, start, bytes),
        };
        if !sent {
            return Turn { packets, again, full: true, more: true };
        }
        again += u32::from(outgoing.sent(number));
        packets += 1;
    }
    Turn { packets, again, full: false, more: outgoing.due().is_some() }
}

/// A packet of a message, without its bytes.
pub(super) struct PacketOf<'a> {
    pub(super) peer: SocketAddrV4,
    common: &'a Common<'a>,
    number: u32,
}

impl<'a> Common<'a> {
    /// Packet `number` of the message.
    #[inline(always)]
    fn of(&'a self, number: u32) -> PacketOf<'a> {
        PacketOf { peer: self.peer, common: self, number }
    }
}

impl PacketOf<'_> {
    /// Writes and seals the header in front of `payload`, all but what is put on a whole datagram.
    #[inline(always)]
    pub(super) fn put(&self, header: &mut [u8; HEADER_BYTES], payload: &[u8]) {
        self.begin(header, payload.len());
        seal_by_flags(header, payload, self.common.seal.crc);
    }

    /// Writes the header in front of a payload of `bytes` bytes, without checksum.
    #[inline(always)]
    fn begin(&self, header: &mut [u8; HEADER_BYTES], bytes: usize) {
        self.common.part.put(header, self.number as u16, bytes as u16);
    }

    /// The last thing that happens to the packet, as [`Seal::finish`].
    #[inline(always)]
    pub(super) fn finish(&self, datagram: &mut [u8]) {
        match &self.common.tags {
            Some(tags) => tags.put(datagram.first_chunk_mut().expect("room for a header")),
            None => self.common.seal.finish(datagram),
        }
    }
}

/// Queues a packet whose payload is copied from `loan`. Returns whether there was room.
#[inline]
fn copied_from<T: Tx>(tx: &mut T, packet: &PacketOf<'_>, loan: &Loan) -> bool {
    let Some(datagram) = tx.push(packet.peer, HEADER_BYTES + loan.bytes()) else {
        return false;
    };
    let (header, payload) = datagram.split_first_chunk_mut().expect("room for a header");
    packet.begin(header, payload.len());
    loan.look(|bytes| seal_copying(header, bytes, payload, packet.common.seal.crc));
    packet.finish(datagram);
    true
}

/// Queues a packet of `bytes` bytes from `start` of its message, which are copied into it. Returns
/// whether there was room.
#[inline]
fn copied<T: Tx, H: Host>(
    io: &mut Io<'_, T, H>,
    packet: &PacketOf<'_>,
    outgoing: &Outgoing,
    start: u32,
    bytes: u32,
) -> bool {
    let length = HEADER_BYTES + bytes as usize;
    let Some(datagram) = io.tx.push(packet.peer, length + packet.common.seal.trailer()) else {
        return false;
    };
    let (header, payload) = datagram[..length].split_first_chunk_mut().expect("room for a header");
    let inline = u32::from(outgoing.inline_bytes);
    if start >= inline
        && let Some(source) = outgoing.source()
        && let Some(from) = io.host.look(source, start - inline, bytes)
    {
        packet.begin(header, bytes as usize);
        seal_copying(header, from, payload, packet.common.seal.crc);
        packet.finish(datagram);
        return true;
    }
    let here = inline.saturating_sub(start).min(bytes) as usize;
    let (inline_part, rest) = payload.split_at_mut(here);
    // Most packets of a long message have none of it.
    if here > 0 {
        inline_part.copy_from_slice(&outgoing.inline[start as usize..][..here]);
    }
    if let Some(source) = outgoing.source()
        && !rest.is_empty()
    {
        io.host.supply(source, start + here as u32 - inline, rest);
    }
    packet.put(header, payload);
    packet.finish(datagram);
    true
}

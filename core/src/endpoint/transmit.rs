//! Packets on their way out, and the queue of slots that have some.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::host::Host;
use super::table::Outgoing;
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::wire::control::Features;
use crate::wire::packet::{Flags, HEADER_BYTES, Header, Kind};

/// What a poll works with: the device's sending half and the host.
pub(super) struct Io<'a, T, H> {
    pub(super) tx: &'a mut T,
    pub(super) host: &'a mut H,
}

/// Packets that one poll sends from the ready queue.
const PACKETS_A_POLL: u32 = 64;
/// Packets that one message may send before the next has its turn.
const PACKETS_A_TURN: u32 = 8;
/// Marks a server slot among the ids in the ready queue.
const SERVER: u32 = 1 << 31;
const NONE: u32 = u32::MAX;

/// Slots with packets to send, first come first served, linked through the slots.
pub(super) struct Ready {
    head: u32,
    tail: u32,
}

impl Ready {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

/// Seals `header` over a payload of `bytes` bytes that `fill` writes, and queues the packet.
/// Returns false if the device has no room.
#[inline]
pub(super) fn send<T: Tx>(
    tx: &mut T,
    crc: Crc32c,
    peer: SocketAddrV4,
    mut header: Header,
    bytes: usize,
    fill: impl FnOnce(&mut [u8]),
) -> bool {
    let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes) else {
        return false;
    };
    fill(&mut datagram[HEADER_BYTES..]);
    header.payload = bytes as u16;
    header.emit(datagram, crc);
    true
}

/// Sends packet `number` of a message.
#[inline]
pub(super) fn send_packet<T: Tx, H: Host>(
    io: &mut Io<'_, T, H>,
    crc: Crc32c,
    peer: SocketAddrV4,
    mut header: Header,
    outgoing: &Outgoing,
    number: u32,
    payload_bytes: u32,
) -> bool {
    header.message = outgoing.message;
    header.head = outgoing.head;
    header.packet = number as u16;
    let start = number * payload_bytes;
    let bytes = payload_bytes.min(outgoing.message - start);
    let inline = u32::from(outgoing.inline_bytes);
    let host = &mut *io.host;
    send(io.tx, crc, peer, header, bytes as usize, |payload| {
        let here = inline.saturating_sub(start).min(bytes) as usize;
        let (inline_part, rest) = payload.split_at_mut(here);
        inline_part.copy_from_slice(&outgoing.inline[start.min(inline) as usize..][..here]);
        if let Some(source) = outgoing.source
            && !rest.is_empty()
        {
            host.supply(source, start + here as u32 - inline, rest);
        }
    })
}

/// Flags that every packet of a session carries.
#[inline]
pub(super) fn session_flags(features: Features) -> Flags {
    if features.contains(Features::PAYLOAD_CHECK) { Flags::PAYLOAD_CHECK } else { Flags::empty() }
}

impl Endpoint<'_> {
    #[inline]
    pub(super) fn enqueue_client(&mut self, slot: usize) {
        self.enqueue(slot as u32);
    }

    #[inline]
    pub(super) fn enqueue_server(&mut self, slot: usize) {
        self.enqueue(slot as u32 | SERVER);
    }

    #[inline]
    fn enqueue(&mut self, id: u32) {
        let outgoing = self.outgoing(id);
        if outgoing.queued {
            return;
        }
        outgoing.queued = true;
        outgoing.next_ready = NONE;
        if self.ready.tail == NONE {
            self.ready.head = id;
        } else {
            self.outgoing(self.ready.tail).next_ready = id;
        }
        self.ready.tail = id;
    }

    #[inline]
    fn outgoing(&mut self, id: u32) -> &mut Outgoing {
        let index = (id & !SERVER) as usize;
        if id & SERVER == 0 {
            &mut self.client_slots[index].outgoing
        } else {
            &mut self.server_slots[index].outgoing
        }
    }

    /// Sends what is ready, in turns, until the poll's share is used up or the device is full.
    /// Returns how many packets were sent.
    #[inline]
    pub(super) fn transmit_ready<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>) -> u32 {
        let mut sent = 0;
        while self.ready.head != NONE && sent < PACKETS_A_POLL {
            let id = self.ready.head;
            let (count, full) = if id & SERVER == 0 {
                self.transmit_client(io, id as usize)
            } else {
                self.transmit_server(io, (id & !SERVER) as usize)
            };
            sent += count;
            if full {
                self.counters.device_full += 1;
                break;
            }
            let outgoing = self.outgoing(id);
            outgoing.queued = false;
            let (next, more) = (outgoing.next_ready, outgoing.sending.due().is_some());
            self.ready.head = next;
            if next == NONE {
                self.ready.tail = NONE;
            }
            if more {
                self.enqueue(id);
            }
        }
        self.counters.packets_sent += u64::from(sent);
        sent
    }

    /// One turn of a client slot. Returns packets sent, and whether the device is full.
    #[inline]
    fn transmit_client<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> (u32, bool) {
        let session = &self.client_sessions[index >> self.slot_shift];
        let slot = &mut self.client_slots[index];
        let mut header =
            Header::new(Kind::Request, session.remote.index, session.remote.generation);
        header.flags = session_flags(session.features);
        header.request = slot.request;
        header.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        let (peer, payload_bytes) = (session.peer, session.payload_bytes);
        let turn = turn(io, self.crc, peer, header, &mut slot.outgoing, payload_bytes);
        if turn.0 > 0 {
            slot.state = super::table::CallState::Sent;
        }
        turn
    }

    /// One turn of a server slot. Returns packets sent, and whether the device is full.
    #[inline]
    pub(super) fn transmit_server<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> (u32, bool) {
        let session = &self.server_sessions[index >> self.slot_shift];
        let slot = &mut self.server_slots[index];
        let mut header =
            Header::new(Kind::Response, session.remote.index, session.remote.generation);
        header.flags = session_flags(session.features);
        if slot.outgoing.source.is_some() {
            header.flags |= Flags::HOLDS;
        }
        if slot.declined {
            header.flags |= Flags::DECLINED;
        }
        header.request = slot.request;
        header.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        turn(io, self.crc, session.peer, header, &mut slot.outgoing, session.payload_bytes)
    }
}

/// Sends the packets of one message that are due, up to a turn's share.
#[inline]
fn turn<T: Tx, H: Host>(
    io: &mut Io<'_, T, H>,
    crc: Crc32c,
    peer: SocketAddrV4,
    header: Header,
    outgoing: &mut Outgoing,
    payload_bytes: u32,
) -> (u32, bool) {
    if outgoing.sending.packets == 1 && outgoing.source.is_none() {
        return single(io.tx, crc, peer, header, outgoing);
    }
    several(io, crc, peer, header, outgoing, payload_bytes)
}

/// The straight line: a message of one packet whose bytes are all at hand.
#[inline]
fn single<T: Tx>(
    tx: &mut T,
    crc: Crc32c,
    peer: SocketAddrV4,
    mut header: Header,
    outgoing: &mut Outgoing,
) -> (u32, bool) {
    if outgoing.sending.due().is_none() {
        return (0, false);
    }
    let bytes = usize::from(outgoing.inline_bytes);
    let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes) else {
        return (0, true);
    };
    header.message = bytes as u32;
    header.head = outgoing.head;
    header.payload = outgoing.inline_bytes;
    datagram[HEADER_BYTES..].copy_from_slice(&outgoing.inline[..bytes]);
    header.emit(datagram, crc);
    outgoing.sending.sent(0);
    (1, false)
}

/// Packets of a longer message, or of one whose bytes the host supplies.
fn several<T: Tx, H: Host>(
    io: &mut Io<'_, T, H>,
    crc: Crc32c,
    peer: SocketAddrV4,
    header: Header,
    outgoing: &mut Outgoing,
    payload_bytes: u32,
) -> (u32, bool) {
    let mut count = 0;
    while count < PACKETS_A_TURN {
        let Some(number) = outgoing.sending.due() else { break };
        if !send_packet(io, crc, peer, header, outgoing, number, payload_bytes) {
            return (count, true);
        }
        outgoing.sending.sent(number);
        count += 1;
    }
    (count, false)
}

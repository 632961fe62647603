//! Packets on their way out, and the queue of slots that have some.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::{Binding, Keys, put_tag};
use super::host::{Host, SessionEvent, SessionId, Side};
use super::table::{CallState, Outgoing};
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::control::Features;
use crate::wire::packet::{Flags, HEADER_BYTES, Header, Kind, Template};

/// What a poll works with: the device's sending half and the host.
pub(super) struct Io<'a, T, H> {
    pub(super) tx: &'a mut T,
    pub(super) host: &'a mut H,
}

impl<T, H: Host> Io<'_, T, H> {
    /// Tells the host, and whoever reads the log, what happened to a session.
    #[cold]
    pub(super) fn tell(
        &mut self,
        now: Instant,
        side: Side,
        session: SessionId,
        event: SessionEvent,
    ) {
        crate::log::session(side, session, event);
        self.host.session(now, side, session, event);
    }
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

/// What seals the packets of a session.
#[derive(Clone, Copy)]
pub(super) struct Seal<'a> {
    crc: Crc32c,
    tag: Option<(&'a Keys, Binding)>,
}

impl<'a> Seal<'a> {
    #[inline(always)]
    pub(super) fn new(crc: Crc32c, keys: &'a Option<Keys>, binding: Option<Binding>) -> Self {
        Self { crc, tag: binding.and_then(|binding| Some((keys.as_ref()?, binding))) }
    }

    /// For packets that bring proofs of their own, or need none.
    pub(super) fn plain(crc: Crc32c) -> Self {
        Self { crc, tag: None }
    }

    /// Puts the tag in, if the session has tags: the last thing that happens to a header.
    #[inline(always)]
    fn tag(self, header: &mut [u8; HEADER_BYTES]) {
        if let Some((keys, binding)) = self.tag {
            put_tag(keys, binding, header);
        }
    }
}

/// Seals `header` over a payload of `bytes` bytes that `fill` writes, and queues the packet.
/// Returns false if the device has no room.
#[inline]
pub(super) fn send<T: Tx>(
    tx: &mut T,
    seal: Seal<'_>,
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
    header.emit(datagram, seal.crc);
    seal.tag(datagram.first_chunk_mut().expect("room for a header"));
    true
}

/// Sends packet `number` of a message.
#[inline]
pub(super) fn send_packet<T: Tx, H: Host>(
    io: &mut Io<'_, T, H>,
    seal: Seal<'_>,
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
    send(io.tx, seal, peer, header, bytes as usize, |payload| {
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
    let mut flags = Flags::empty();
    flags.set(Flags::PAYLOAD_CHECK, features.contains(Features::PAYLOAD_CHECK));
    flags.set(Flags::AUTHENTICATED, features.contains(Features::AUTHENTICATED));
    flags
}

impl Endpoint<'_> {
    #[inline(always)]
    pub(super) fn enqueue_client(&mut self, slot: usize) {
        let outgoing = &mut self.client_slots[slot].outgoing;
        if !core::mem::replace(&mut outgoing.queued, true) {
            outgoing.next_ready = NONE;
            self.append(slot as u32);
        }
    }

    #[inline]
    pub(super) fn enqueue_server(&mut self, slot: usize) {
        self.enqueue(slot as u32 | SERVER);
    }

    fn enqueue(&mut self, id: u32) {
        let outgoing = self.outgoing(id);
        if !core::mem::replace(&mut outgoing.queued, true) {
            outgoing.next_ready = NONE;
            self.append(id);
        }
    }

    /// Links a slot, which is marked as queued, behind the others.
    #[inline(always)]
    fn append(&mut self, id: u32) {
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
            let turn = if id & SERVER == 0 {
                self.transmit_client(io, id as usize)
            } else {
                let index = (id & !SERVER) as usize;
                let turn = self.transmit_server(io, index);
                self.server_slots[index].outgoing.queued = turn.full;
                turn
            };
            sent += turn.packets;
            if turn.full {
                self.counters.device_full += 1;
                break;
            }
            self.ready.head = turn.next_ready;
            if turn.next_ready == NONE {
                self.ready.tail = NONE;
            }
            if turn.more {
                self.enqueue(id);
            }
        }
        self.counters.packets_sent += u64::from(sent);
        sent
    }

    /// One turn of a client slot.
    #[inline]
    fn transmit_client<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) -> Turn {
        let session = &self.client_sessions[index >> self.slot_shift];
        let slot = &mut self.client_slots[index];
        let number = (index & ((1 << self.slot_shift) - 1)) as u16;
        let outgoing = &mut slot.outgoing;
        let (peer, template) = (session.peer, &session.template);
        let seal = Seal::new(self.crc, &self.keys, session.binding);
        let turn = if outgoing.is_whole() && slot.unasked == 0 {
            whole(io.tx, seal, peer, template, slot.request, number, outgoing)
        } else {
            let remote = session.remote;
            let mut header = Header::new(Kind::Request, remote.index, remote.generation);
            header.flags = session_flags(session.features);
            header.request = slot.request;
            header.slot = number;
            header.grant = slot.unasked.into();
            several(io, seal, peer, header, outgoing, session.payload_bytes)
        };
        if turn.packets > 0 {
            slot.state = CallState::Sent;
        }
        slot.outgoing.queued = turn.full;
        turn
    }

    /// Sends packets of an answer that are due. Says nothing of the queue.
    pub(super) fn transmit_server<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> Turn {
        let session = &self.server_sessions[index >> self.slot_shift];
        let slot = &mut self.server_slots[index];
        let remote = session.remote;
        let mut header = Header::new(Kind::Response, remote.index, remote.generation);
        header.flags = session_flags(session.features);
        header.flags.set(Flags::HOLDS, slot.outgoing.source.is_some());
        header.flags.set(Flags::DECLINED, slot.declined);
        header.request = slot.request;
        header.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        let seal = Seal::new(self.crc, &self.keys, session.binding);
        several(io, seal, session.peer, header, &mut slot.outgoing, session.payload_bytes)
    }
}

/// What came of a slot's turn.
pub(super) struct Turn {
    pub(super) packets: u32,
    /// The device has no room: the turn is not over.
    pub(super) full: bool,
    /// There is more to send.
    pub(super) more: bool,
    /// The slot behind it in the queue.
    next_ready: u32,
}

/// The straight line: a message of one packet whose bytes are all at hand.
#[inline(always)]
pub(super) fn whole<T: Tx>(
    tx: &mut T,
    seal: Seal<'_>,
    peer: SocketAddrV4,
    template: &Template,
    request: u64,
    slot: u16,
    outgoing: &mut Outgoing,
) -> Turn {
    let next_ready = outgoing.next_ready;
    let mut packets = 0;
    if outgoing.sending.is_unsent() {
        let bytes = usize::from(outgoing.inline_bytes);
        let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes) else {
            return Turn { packets: 0, full: true, more: true, next_ready };
        };
        let (header, payload) = datagram.split_first_chunk_mut().expect("room for a header");
        payload.copy_from_slice(&outgoing.inline[..bytes]);
        template.seal_whole(header, payload, request, slot, outgoing.head, seal.crc);
        seal.tag(header);
        outgoing.sending.sent(0);
        packets = 1;
    }
    Turn { packets, full: false, more: false, next_ready }
}

/// Packets of a longer message, or of one whose bytes the host supplies, up to a turn's share.
fn several<T: Tx, H: Host>(
    io: &mut Io<'_, T, H>,
    seal: Seal<'_>,
    peer: SocketAddrV4,
    header: Header,
    outgoing: &mut Outgoing,
    payload_bytes: u32,
) -> Turn {
    let next_ready = outgoing.next_ready;
    let mut packets = 0;
    while packets < PACKETS_A_TURN {
        let Some(number) = outgoing.sending.due() else { break };
        if !send_packet(io, seal, peer, header, outgoing, number, payload_bytes) {
            return Turn { packets, full: true, more: true, next_ready };
        }
        outgoing.sending.sent(number);
        packets += 1;
    }
    Turn { packets, full: false, more: outgoing.sending.due().is_some(), next_ready }
}

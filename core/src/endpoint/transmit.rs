//! Packets on their way out, and the queue of slots that have some.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::{Guard, Keys};
use super::direct::send_direct;
use super::host::{Host, SessionEvent, SessionId, Side};
use super::loans::Loans;
use super::outgoing::{Outgoing, Short};
use super::queue::{NONE, Queue, SERVER};
pub(super) use super::seal::{Seal, send, session_flags};
use super::straight::address_of;
use super::table::{CallState, ClientSession, ClientSlot};
use super::tag::{self, Pad, UsualKey};
use super::turn::{Turn, several};
use super::unusual::send_whole_unusual;
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::bytes::copy_short;
use crate::wire::packet::{CHECKED, Flags, HEADER_BYTES, Header, Kind};
use crate::wire::template::Template;

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
/// Bytes after which the next session has its turn: less than a turn of a long message, so a
/// session with many of those has no longer turns than one with a few short ones.
const BYTES_A_SESSION: i32 = 8 * 1024;
/// What a message in one packet counts for, then: 32 are a turn.
const BYTES_A_WHOLE: i32 = 256;

impl Endpoint<'_> {
    /// Puts a client slot into its session's queue.
    pub(super) fn enqueue_client(&mut self, index: usize) {
        let session_index = self.client_slots.session(index);
        let number = self.client_slots.number(index);
        let slot = &mut self.client_slots[index];
        if core::mem::replace(&mut slot.outgoing.queued, true) {
            return;
        }
        let queue = &mut self.client_sessions[session_index].queue;
        queue.push(number, self.places);
        if !queue.linked {
            self.link(session_index as u32);
        }
    }

    /// Puts a server slot into its session's queue.
    #[inline(never)]
    pub(super) fn enqueue_server(&mut self, index: usize) {
        let session_index = self.server_slots.session(index);
        let number = self.server_slots.number(index);
        let slot = &mut self.server_slots[index];
        if core::mem::replace(&mut slot.outgoing.queued, true) {
            return;
        }
        let queue = &mut self.server_sessions[session_index].queue;
        queue.push(number, self.places);
        if !queue.linked {
            self.link(session_index as u32 | SERVER);
        }
    }

    fn queue(&mut self, id: u32) -> &mut Queue {
        let index = (id & !SERVER) as usize;
        if id & SERVER == 0 {
            &mut self.client_sessions[index].queue
        } else {
            &mut self.server_sessions[index].queue
        }
    }

    /// Puts a session behind the others that have something to send.
    #[inline(never)]
    pub(super) fn link(&mut self, id: u32) {
        let queue = self.queue(id);
        queue.linked = true;
        queue.next = NONE;
        let tail = core::mem::replace(&mut self.ready.tail, id);
        if tail == NONE {
            self.ready.head = id;
        } else {
            self.queue(tail).next = id;
        }
    }

    /// Takes the first session out of the queue, and puts it behind the others if it has more.
    fn rotate(&mut self) {
        let id = self.ready.head;
        let queue = self.queue(id);
        queue.linked = false;
        let (next, more) = (queue.next, !queue.is_empty());
        if !more {
            queue.rewind();
        }
        self.ready.head = next;
        if next == NONE {
            self.ready.tail = NONE;
        }
        if more {
            self.link(id);
        }
    }

    /// Sends what is ready, in turns, until the poll's share is used up or the device is full.
    /// Returns how many packets were sent.
    #[inline(never)]
    pub(super) fn transmit_ready<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>) -> u32 {
        let mut sent = 0;
        while !self.ready.is_empty() && sent < PACKETS_A_POLL {
            let id = self.ready.head;
            let index = (id & !SERVER) as usize;
            let full = if id & SERVER == 0 {
                self.transmit_client_session(io, index, &mut sent)
            } else {
                self.transmit_server_session(io, index, &mut sent)
            };
            if full {
                self.counters.device_full += 1;
                break;
            }
            self.rotate();
        }
        self.counters.packets_sent += u64::from(sent);
        sent
    }

    /// One turn of a client session. Returns whether the device is full: then it is not over.
    #[inline(always)]
    fn transmit_client_session<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        session_index: usize,
        sent: &mut u32,
    ) -> bool {
        let session = &mut self.client_sessions[session_index];
        let places = self.places;
        let mut bytes_left = BYTES_A_SESSION;
        while let Some(number) = session.queue.front(places)
            && bytes_left > 0
        {
            let index = self.client_slots.at(session_index, number);
            let slot = &mut self.client_slots[index];
            let outgoing = &mut slot.outgoing;
            if outgoing.short != Short::No {
                if outgoing.short == Short::Unsent {
                    let what = Whole { head: outgoing.head, bytes: outgoing.inline_bytes };
                    let line = Line {
                        crc: &self.crc,
                        keys: &self.keys,
                        by: (&self.usual_key, &session.pad, &session.guard),
                        peer: address_of(session.straight.peer),
                        template: &session.template,
                    };
                    let id = (slot.request, number);
                    let mask = Mask::OfAnswer(&mut slot.mask);
                    if !send_whole(io.tx, &line, id, what, outgoing, mask) {
                        return true;
                    }
                    slot.state = CallState::Sent;
                    bytes_left -= BYTES_A_WHOLE;
                    *sent += 1;
                }
                slot.outgoing.queued = false;
                session.queue.pop();
                continue;
            }
            let seal = Seal::new(self.crc, &self.keys, &session.guard);
            let turn = long_request((&mut *io, &mut self.loans), seal, session, slot, number);
            *sent += turn.packets;
            bytes_left -= (turn.packets * session.payload_bytes) as i32;
            self.counters.packets_resent += u64::from(turn.again);
            if turn.full {
                return true;
            }
            session.queue.pop();
            slot.outgoing.queued = turn.more;
            if turn.more {
                session.queue.push(number, places);
            }
        }
        false
    }

    /// One turn of a server session. Returns whether the device is full: then it is not over.
    #[inline(never)]
    fn transmit_server_session<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        session_index: usize,
        sent: &mut u32,
    ) -> bool {
        let places = self.places;
        let mut bytes_left = BYTES_A_SESSION;
        while let Some(number) = self.server_sessions[session_index].queue.front(places)
            && bytes_left > 0
        {
            let index = self.server_slots.at(session_index, number);
            let turn = match self.transmit_whole_reply(io, index) {
                Some(turn) => turn,
                None => self.transmit_server(io, index),
            };
            *sent += turn.packets;
            let payload_bytes = self.server_sessions[session_index].payload_bytes;
            bytes_left -= (turn.packets * payload_bytes) as i32;
            self.counters.packets_resent += u64::from(turn.again);
            if turn.full {
                return true;
            }
            let queue = &mut self.server_sessions[session_index].queue;
            queue.pop();
            if turn.more {
                queue.push(number, places);
            }
            self.server_slots[index].outgoing.queued = turn.more;
        }
        false
    }

    /// Sends an answer that is one packet and has not been sent yet, with nothing special about it.
    /// Returns `None`, and has done nothing, if it is not that.
    #[inline(always)]
    pub(super) fn transmit_whole_reply<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> Option<Turn> {
        let session = &self.server_sessions[self.server_slots.session(index)];
        let number = self.server_slots.number(index);
        let slot = &mut self.server_slots[index];
        let outgoing = &mut slot.outgoing;
        let usual = outgoing.short == Short::Unsent && !slot.declined;
        if !usual {
            return None;
        }
        let what = Whole { head: outgoing.head, bytes: outgoing.inline_bytes };
        let line = Line {
            crc: &self.crc,
            keys: &self.keys,
            by: (&self.usual_key, &session.pad, &session.guard),
            peer: session.peer,
            template: &session.template,
        };
        let id = (slot.request, number);
        let sent = send_whole(io.tx, &line, id, what, outgoing, Mask::Unknown);
        Some(Turn { packets: sent.into(), full: !sent, more: !sent, again: 0 })
    }

    /// Sends packets of an answer that are due. Says nothing of the queue.
    pub(super) fn transmit_server<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> Turn {
        let session = &self.server_sessions[self.server_slots.session(index)];
        let number = self.server_slots.number(index);
        let slot = &mut self.server_slots[index];
        let remote = session.remote;
        let mut header = Header::new(Kind::Response, remote.index, remote.generation);
        header.flags = session_flags(session.features);
        header.flags.set(Flags::HOLDS, slot.outgoing.source().is_some());
        header.flags.set(Flags::DECLINED, slot.declined);
        header.request = slot.request;
        header.slot = number as u16;
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        let io = (io, &mut self.loans);
        several(io, seal, session.peer, header, &mut slot.outgoing, session.payload_bytes)
    }
}

/// One turn of a request of several packets, or of one that the host supplies.
#[inline(never)]
fn long_request<T: Tx, H: Host>(
    io: (&mut Io<'_, T, H>, &mut Loans),
    seal: Seal<'_>,
    session: &ClientSession,
    slot: &mut ClientSlot,
    number: usize,
) -> Turn {
    let remote = session.remote;
    let mut header = Header::new(Kind::Request, remote.index, remote.generation);
    header.flags = session_flags(session.features);
    // It may be sent again with other bytes, or was: its tag must not be a usual one.
    header.flags.set(Flags::HOLDS, header.flags.contains(Flags::AUTHENTICATED));
    header.request = slot.request;
    header.slot = number as u16;
    header.grant = slot.unasked.into();
    let turn =
        { several(io, seal, session.peer, header, &mut slot.outgoing, session.payload_bytes) };
    if turn.packets > 0 {
        slot.state = CallState::Sent;
    }
    turn
}

/// The shape of a message that is one packet whose bytes are all at hand.
#[derive(Clone, Copy)]
pub(super) struct Whole {
    /// Bytes of its head.
    pub(super) head: u16,
    /// Bytes in all.
    pub(super) bytes: u16,
}

/// What a session's packets of one kind are made with.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) crc: &'a Crc32c,
    pub(super) keys: &'a Option<Keys<'a>>,
    /// What its tags are made with, of usual packets and of others.
    pub(super) by: (&'a UsualKey, &'a Pad, &'a Option<Guard>),
    pub(super) peer: SocketAddrV4,
    pub(super) template: &'a Template,
}

/// What is known of the mask of an answer's tag.
pub(super) enum Mask<'a> {
    /// This is the request, and the answer's is put there, if there are tags.
    OfAnswer(&'a mut u64),
    /// This is the answer.
    Known(u64),
    /// This is the answer, whose request has gone by.
    Unknown,
}

/// The straight line: the message `whole` of a slot's buffer, a call's answer or its request, which
/// is sent so no more than once. Returns false if the device has no room.
#[inline(always)]
pub(super) fn send_whole<T: Tx>(
    tx: &mut T,
    line: &Line<'_>,
    (request, slot): (u64, usize),
    whole: Whole,
    outgoing: &mut Outgoing,
    mask: Mask<'_>,
) -> bool {
    if line.template.flags() & CHECKED == 0 {
        if T::CAN_BE_LOSSLESS && line.template.is_direct() {
            return send_direct(tx, line.template, line.peer, (request, slot), whole, outgoing);
        }
        // One by one, so that nothing is put together for it where it is not called.
        let Line { crc, keys, by: (.., guard), peer, template, .. } = *line;
        return send_whole_unusual(
            tx,
            *crc,
            keys,
            guard,
            peer,
            template,
            request,
            slot as u16,
            whole,
            outgoing,
        );
    }
    let bytes = usize::from(whole.bytes);
    // Before the device is asked, so that it is known to both how long the packet can be.
    let from = &outgoing.inline[..bytes];
    let Some(datagram) = tx.push(line.peer, HEADER_BYTES + bytes) else { return false };
    let (header, payload) = datagram.split_first_chunk_mut().expect("room for a header");
    copy_short(payload, from);
    line.template.put_whole(header, bytes, request, slot as u16, whole.head);
    let check = line.template.seal_whole(header, payload, line.crc);
    // The flags say it, so that nothing else is looked at: the guard may be far from any cache.
    if header[2] != CHECKED {
        let sealed = u64::from(check) << 32 | u64::from(whole.head) << 16;
        let whole = tag::Whole { slot: slot as u64, bytes };
        let (key, pad, _) = line.by;
        match mask {
            Mask::OfAnswer(mask) => *mask = key.put_request(pad, header, request, whole, sealed),
            Mask::Known(mask) => key.put_answer(pad, header, request, whole, sealed, Some(mask)),
            Mask::Unknown => key.put_answer(pad, header, request, whole, sealed, None),
        }
    }
    outgoing.short = Short::Sent;
    true
}

//! What the packets, calls and timers to come will need, fetched ahead.
//!
//! An endpoint with more sessions in use than a processor's caches hold finds nearly nothing of one
//! there when the session's next packet comes. One after the other these waits are longer than
//! all the work, so they are made to overlap: before a burst is looked at, all that its packets'
//! headers name is asked for. Endpoints that never had many sessions at a time do none of it.

use super::Endpoint;
use super::host::{SessionId, Side};
use super::liveness::Timer;
use super::table::{ClientSession, ClientSlot, ServerSession, ServerSlot};
use crate::device::Rx;
use crate::prefetch::{LINE_BYTES, fetch};
use crate::time::Instant;
use crate::wire::bytes::{u16_at, u32_at};
use crate::wire::control::Features;
use crate::wire::direct::{DIRECT, DIRECT_HEADER_BYTES, DIRECT_REQUEST, DIRECT_RESPONSE};
use crate::wire::packet::{HEADER_BYTES, PING, PONG, REQUEST, RESPONSE, SEALED};

/// Lines of a client session that a usual call touches.
const CLIENT_SESSION_LINES: usize = 2;
/// Lines of a client slot that a short call touches.
const CLIENT_SLOT_LINES: usize = 2;
/// Lines of a server session that a usual call touches; with a tag it is one more.
const SERVER_SESSION_LINES: usize = 1;
/// Lines of a server slot that a short answer touches.
const SERVER_SLOT_LINES: usize = 1;

/// How many sessions an endpoint has had in use at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peak {
    clients: u32,
    servers: u32,
}

impl Endpoint<'_> {
    /// The session at `index` of a table comes into use, of which those of lower indices are used
    /// first. From the one on that makes it worth while, the endpoint fetches ahead. Calls under
    /// way keep their timers, and those that begin later set their bits.
    pub(super) fn count_session(&mut self, now: Instant, side: Side, index: usize) {
        let count = match side {
            Side::Client => &mut self.peak.clients,
            Side::Server => &mut self.peak.servers,
        };
        *count = (*count).max(index as u32 + 1);
        let many = self.peak.clients + self.peak.servers >= self.config.many_sessions;
        if many && !self.ahead {
            (self.ahead, self.odd_timers) = (true, true);
            self.waits.start(now);
        }
    }

    /// A call will be made in this session soon, a dozen others first: what it needs is fetched
    /// meanwhile. Only a hint; of use with thousands of sessions.
    #[inline]
    pub fn expect_call(&self, session: SessionId) {
        if !self.ahead {
            return;
        }
        let index = session.index as usize;
        if let Some(session) = self.client_sessions.get(index) {
            fetch(session, CLIENT_SESSION_LINES);
        }
        // The slot of a session without other calls.
        let slot = self.client_slots.at(index, 0);
        self.fetch_client_slot(slot);
        if self.config.features.contains(Features::DIRECT) {
            // For the deadline, if there is one.
            self.wheel.expect(slot as u32);
        }
    }

    /// The packets of a burst will be looked at soon.
    #[cold]
    #[inline(never)]
    pub(super) fn expect_packets<R: Rx>(&self, rx: &R, received: usize) {
        for index in 0..received {
            self.expect_packet(rx.packet(index).1);
        }
    }

    #[inline(always)]
    fn expect_packet(&self, datagram: &[u8]) {
        let Some(header) = datagram.first_chunk::<DIRECT_HEADER_BYTES>() else { return };
        let session = u32_at(header, 4) as usize;
        let kind = header[1];
        let number = match (kind, datagram.first_chunk::<HEADER_BYTES>()) {
            (DIRECT_REQUEST | DIRECT_RESPONSE, _) => u16_at(header, 12),
            (REQUEST | RESPONSE, Some(header)) => u16_at(header, 32),
            // Only its session can be told before it is opened.
            (sealed, _) if sealed & SEALED != 0 => return self.expect_sealed(session),
            (PING, _) => return self.fetch_server_signs(session),
            (PONG, _) => return self.fetch_client_signs(session),
            _ => return,
        };
        let number = usize::from(number) & self.places;
        if kind & !DIRECT == REQUEST {
            let Some(place) = self.server_sessions.get(session) else { return };
            fetch(place, SERVER_SESSION_LINES + usize::from(self.keys.is_some()));
            if let Some(slot) = self.server_slots.get(self.server_slots.at(session, number)) {
                fetch(slot, SERVER_SLOT_LINES);
            }
        } else {
            let Some(place) = self.client_sessions.get(session) else { return };
            fetch(place, CLIENT_SESSION_LINES);
            self.fetch_client_slot(self.client_slots.at(session, number));
        }
    }

    /// The session is one of both kinds; the packet's kind would tell, but each is a line or two.
    #[cold]
    fn expect_sealed(&self, session: usize) {
        if let Some(session) = self.server_sessions.get(session) {
            fetch(session, SERVER_SESSION_LINES);
        }
        if let Some(session) = self.client_sessions.get(session) {
            fetch(session, CLIENT_SESSION_LINES);
        }
    }

    /// The timer will be the next to be served.
    pub(super) fn expect_timer(&self, timer: Timer) {
        match timer {
            Timer::ClientSlot(index) => self.fetch_client_slot(index),
            Timer::ClientSession(index) => self.fetch_client_signs(index),
            Timer::ServerSession(index) => self.fetch_server_signs(index),
        }
    }

    #[inline]
    fn fetch_client_slot(&self, index: usize) {
        if let Some(slot) = self.client_slots.get(index) {
            fetch(slot, CLIENT_SLOT_LINES);
        }
    }

    /// What tells of a client session's signs of life.
    fn fetch_client_signs(&self, index: usize) {
        if let Some(session) = self.client_sessions.get(index) {
            fetch(session, CLIENT_SESSION_LINES);
            fetch(&session.last_asked, 1);
        }
    }

    /// What tells of a server session's signs of life.
    fn fetch_server_signs(&self, index: usize) {
        if let Some(session) = self.server_sessions.get(index) {
            fetch(session, SERVER_SESSION_LINES);
            fetch(&session.generation, 1);
        }
    }
}

// What a usual call touches stays where it is fetched: a field too many at a front is noticed here.
const _: () = {
    use crate::wire::message::RESPONSE_HEADER_BYTES;
    use core::mem::offset_of;
    // With the front places of the queue.
    let short_queue = offset_of!(ClientSession, queue) + 7 + 4;
    assert!(short_queue <= CLIENT_SESSION_LINES * LINE_BYTES);
    assert!(offset_of!(ServerSession, pad) <= SERVER_SESSION_LINES * LINE_BYTES);
    // What tells of signs of life.
    let client_signs = offset_of!(ClientSession, last_asked);
    assert!(client_signs.is_multiple_of(LINE_BYTES));
    assert!(offset_of!(ClientSession, pad) <= client_signs + LINE_BYTES);
    let server_signs = offset_of!(ServerSession, generation) / LINE_BYTES * LINE_BYTES;
    assert!(offset_of!(ServerSession, queue) <= server_signs + LINE_BYTES);
    assert!(offset_of!(ClientSlot, outgoing.inline) <= LINE_BYTES);
    let short_answer = offset_of!(ServerSlot, outgoing.inline) + RESPONSE_HEADER_BYTES + 32;
    assert!(short_answer <= SERVER_SLOT_LINES * LINE_BYTES);
    // Records a multiple of four lines apart share a quarter of a cache's sets, or fewer.
    assert!(size_of::<ClientSession>() / LINE_BYTES % 2 == 1);
    assert!(!(size_of::<ServerSession>() / LINE_BYTES).is_multiple_of(4));
    assert!(size_of::<ClientSlot>() / LINE_BYTES % 2 == 1);
    assert!(size_of::<ServerSlot>() / LINE_BYTES % 2 == 1);
};

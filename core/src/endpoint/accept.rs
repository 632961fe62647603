//! Sessions: how they are granted.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::Parties;
use super::book::Entry;
use super::congestion::{Arriving, Control};
use super::host::{Closed, Host, SessionEvent, SessionId, Side};
use super::straight::{straight, template};
use super::table::{ServerSession, ServerSlot};
use super::tag::{Pad, Usual};
use super::transmit::Io;
use super::window::Reordering;
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::control::{
    Challenge, Features, Hello, HelloAck, PROVED_BYTES, REFUSAL_PROVED_BYTES, Refusal,
};
use crate::wire::packet::{Header, Kind};

/// A hello is two to eleven times the work of a good packet, so they are heeded no more often than
/// this, in the long run.
const HELLO_HEEDED_EVERY: Duration = Duration::from_micros(4);
/// How far ahead of that they may come: 256 at once, for many clients that start together. Others
/// are put off: they come again after [`HELLO_AGAIN_AFTER`](super::handshake::HELLO_AGAIN_AFTER).
const HELLOS_AHEAD: Duration = Duration::from_micros(4 * 256);

impl Endpoint<'_> {
    /// Whether there is time for another hello.
    fn has_time_for_hello(&mut self, now: Instant) -> bool {
        let next = self.hello_heeded_at.max(now);
        let heeded = next.since(now) < HELLOS_AHEAD;
        if heeded {
            self.hello_heeded_at = next + HELLO_HEEDED_EVERY;
        } else {
            self.counters.hellos_put_off += 1;
        }
        heeded
    }

    /// Whether a hello may leave anything behind. If not, its sender is told what it lacks.
    fn is_welcome<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        hello: &Hello,
        payload: &[u8],
    ) -> bool {
        if !self.secret.knows(now, peer, hello) {
            self.counters.challenges += 1;
            let cookie = self.secret.fresh_cookie(now, peer, hello);
            let challenge = Challenge { nonce: hello.nonce, cookie };
            let header = Header::new(Kind::Challenge, hello.session, hello.generation);
            self.send_greeting(io, peer, header, &challenge.to_bytes());
            return false;
        }
        let shown = match &self.keys {
            Some(keys) => keys.hello_proof(&payload[..PROVED_BYTES]) == hello.proof,
            None => !hello.features.contains(Features::AUTHENTICATED),
        };
        if !shown {
            self.counters.bad_tag += 1;
            self.send_refusal(io, peer, hello, Refusal::NotAuthenticated);
            return false;
        }
        let alike = hello.features.encrypts() == self.config.features.encrypts();
        if !alike {
            self.send_refusal(io, peer, hello, Refusal::Encryption);
        }
        alike
    }

    pub(super) fn on_hello<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        payload: &[u8],
    ) {
        if !self.has_time_for_hello(now) {
            return;
        }
        let Ok(hello) = Hello::parse(payload) else {
            self.counters.malformed += 1;
            return;
        };
        if !self.is_welcome(now, io, peer, &hello, payload) {
            return;
        }
        if let Some(index) = self.book.any_of(self.server_sessions, peer) {
            let session = &self.server_sessions[index];
            if session.remote_incarnation > hello.incarnation {
                return self.send_refusal(io, peer, &hello, Refusal::StaleIncarnation);
            }
            // Incarnations are told by whoever sets a node up, and may be told twice.
            let same_life = session.remote_incarnation == hello.incarnation
                && hello.is_same_life(session.remote_nonce);
            if !same_life {
                self.supersede(now, io, peer);
            }
        }
        if let Some(index) = self.book.find(self.server_sessions, peer, hello.session) {
            let known = self.server_sessions[index].remote.generation;
            if known == hello.generation {
                return self.send_hello_ack(io, index);
            }
            if known > hello.generation {
                // A late copy of the hello of an earlier use.
                self.counters.stale += 1;
                return;
            }
            self.close_server(now, io, index, Closed::Superseded);
        }
        let bound = self.config.sessions_per_address;
        if self.book.count_of(self.server_sessions, peer) >= bound {
            return self.send_refusal(io, peer, &hello, Refusal::AddressFull { bound });
        }
        match self.book.take(self.server_sessions) {
            Some(index) => self.accept(now, io, index, peer, &hello),
            None => self.send_refusal(io, peer, &hello, Refusal::NoSessions),
        }
    }

    /// Ends all sessions of the client at `peer`: another life of it is there, later as far as
    /// anybody can tell. All that are open are of one life, so each is ended once.
    fn supersede<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
    ) {
        while let Some(index) = self.book.any_of(self.server_sessions, peer) {
            self.close_server(now, io, index, Closed::Superseded);
        }
    }

    fn accept<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        peer: SocketAddrV4,
        hello: &Hello,
    ) {
        let generation = self.server_sessions[index].generation + 1;
        let remote = SessionId { index: hello.session, generation: hello.generation };
        // Checks are left out only where neither end asks for them.
        let features = hello.features.agreed(self.config.features);
        let server = SessionId { index: index as u32, generation };
        let parties = Parties {
            client_incarnation: hello.incarnation,
            client: remote,
            client_nonce: hello.nonce,
            server_incarnation: self.config.incarnation,
            server,
            server_nonce: self.secret.server_nonce(server),
        };
        let template = template(Kind::Response, remote, features, self.crc);
        let straight = straight(Kind::Request, server, features, peer, self.crc);
        let place = self.client_sessions.len() + index;
        let usual = Usual { requests: straight.first_part(), answers: template.first_part() };
        let keyed = self.keys.as_mut().map(|keys| {
            let secret = keys.secret(&parties);
            (keys.guard(secret, Side::Server, place, usual), secret)
        });
        self.server_sessions[index] = ServerSession {
            open: true,
            suspected: false,
            generation,
            peer,
            remote,
            remote_incarnation: hello.incarnation,
            remote_nonce: hello.nonce,
            payload_bytes: hello.payload_bytes_max.min(self.payload_bytes_to(io.tx, peer)),
            remote_window: hello.window,
            slots: hello.slots.min(self.config.slots_per_session),
            features,
            template,
            straight,
            // What is left in it of the last session finds nothing to send.
            queue: self.server_sessions[index].queue,
            pad: keyed.map_or(Pad::NONE, |(guard, _)| guard.pad()),
            guard: keyed.map(|(guard, _)| guard),
            secret: keyed.map_or([0; 16], |(_, secret)| secret),
            control: Control::new(self.config.congestion),
            arriving: Arriving::NONE,
            reordering: Reordering::NONE,
            waiting: 0,
            last_heard: now,
            proved: now,
            entry: Entry::NONE,
        };
        self.book.enter(self.server_sessions, index);
        self.count_session(now, Side::Server, index);
        for number in 0..usize::from(self.config.slots_per_session) {
            let at = self.server_slots.at(index, number);
            let slot = &mut self.server_slots[at];
            let queued = slot.outgoing.queued;
            *slot = ServerSlot::EMPTY;
            slot.outgoing.queued = queued;
        }
        let event = SessionEvent::Accepted { incarnation: hello.incarnation, peer };
        io.tell(now, Side::Server, server, event);
        self.wheel.arm(self.server_session_timer_id(index), now + self.config.suspect_after);
        self.send_hello_ack(io, index);
    }

    fn send_hello_ack<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.server_sessions[index];
        let id = SessionId { index: index as u32, generation: session.generation };
        let ack = HelloAck {
            incarnation: self.config.incarnation,
            client_incarnation: session.remote_incarnation,
            session: id.index,
            generation: id.generation,
            payload_bytes_max: session.payload_bytes,
            slots: session.slots,
            window: self.config.window_packets,
            features: session.features,
            lease_ms: (self.config.lease.as_nanos() / 1_000_000) as u32,
            nonce: self.secret.server_nonce(id),
            proof: HelloAck::echo(session.remote_nonce),
        };
        let mut bytes = ack.to_bytes();
        if let Some(keys) = &self.keys {
            let proof = keys.ack_proof(&session.secret, &bytes[..PROVED_BYTES]);
            bytes[PROVED_BYTES..].copy_from_slice(&proof);
        }
        let SessionId { index, generation } = session.remote;
        self.send_greeting(
            io,
            session.peer,
            Header::new(Kind::HelloAck, index, generation),
            &bytes,
        );
    }

    fn send_refusal<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        hello: &Hello,
        refusal: Refusal,
    ) {
        let client = SessionId { index: hello.session, generation: hello.generation };
        let mut bytes = refusal.to_bytes();
        if let Some(keys) = &self.keys {
            let (why, place) = bytes.split_at_mut(REFUSAL_PROVED_BYTES);
            place.copy_from_slice(&keys.refusal_proof(client, hello.nonce, why));
        }
        let header = Header::new(Kind::Refuse, hello.session, hello.generation);
        self.send_greeting(io, peer, header, &bytes);
    }
}

//! Sessions: how they are opened.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::host::{Closed, Host, SessionEvent, SessionId, Side};
use super::table::{ClientSession, ClientState, ServerSession, ServerSlot};
use super::transmit::{Io, send, session_flags};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::control::{Features, Hello, HelloAck, Refusal, SLOTS_MAX};
use crate::wire::packet::{Flags, Header, Kind, Straight, Template};

/// How long a hello waits for its answer before it is sent again.
pub(super) const HELLO_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The first `count` bits.
fn first_bits(count: u16) -> u64 {
    if count >= SLOTS_MAX { u64::MAX } else { (1 << count) - 1 }
}

/// What all packets of `kind` in a session with `remote` have in common.
fn template(kind: Kind, remote: SessionId, features: Features) -> Template {
    let header = Header::new(kind, remote.index, remote.generation);
    Template::new(&Header { flags: session_flags(features), ..header })
}

/// How the usual packets of `kind` begin that come in for session `local`.
fn straight(kind: Kind, local: SessionId, features: Features) -> Straight {
    let header = Header::new(kind, local.index, local.generation);
    Straight::new(&Header { flags: session_flags(features), ..header })
}

/// Whether generation `a` comes after `b`. They grow by one with each use and wrap.
fn is_later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl Endpoint<'_> {
    /// Begins to open a session with the endpoint at `peer`. [`SessionEvent::Connected`] or
    /// [`SessionEvent::Closed`] follows. `None` if all client sessions are in use.
    pub fn connect(&mut self, now: Instant, peer: SocketAddrV4) -> Option<SessionId> {
        let index =
            self.client_sessions.iter().position(|session| session.state == ClientState::Free)?;
        let generation = self.client_sessions[index].generation.wrapping_add(1);
        self.client_sessions[index] = ClientSession {
            state: ClientState::Connecting,
            generation,
            peer,
            opened: now,
            due: now,
            // What is left in it of the last session finds nothing to send.
            queue: self.client_sessions[index].queue,
            ..ClientSession::EMPTY
        };
        self.wheel.arm(self.client_session_timer_id(index), now);
        Some(SessionId { index: index as u32, generation })
    }

    /// Ends a client session. Its outstanding calls end at once; the server frees what the session
    /// holds as soon as it hears of it, or when the lease expires.
    pub fn disconnect<D: crate::device::Device, H: Host>(
        &mut self,
        now: Instant,
        device: &mut D,
        host: &mut H,
        session: SessionId,
    ) {
        let Some(state) = self.client_session(session).map(|session| session.state) else {
            return;
        };
        let (_, mut tx) = device.split();
        let mut io = Io { tx: &mut tx, host };
        let index = session.index as usize;
        if state != ClientState::Connecting {
            self.ask(now, &mut io, index, Kind::Bye);
        }
        self.close_client(now, &mut io, index, Closed::Bye);
        io.tx.flush();
    }

    /// Whether a client session is open and its peer is not suspected.
    pub fn is_up(&self, session: SessionId) -> bool {
        self.client_session(session).is_some_and(|session| session.state == ClientState::Up)
    }

    /// Slots of a client session; zero before the handshake is over.
    pub fn slots(&self, session: SessionId) -> u16 {
        self.client_session(session).map_or(0, |session| session.slots)
    }

    /// Slots of a client session that carry no call now. Calls of depth `d` leave the last
    /// `DEPTH_MAX - 1 - d` to deeper ones.
    pub fn slots_free(&self, session: SessionId) -> u16 {
        self.client_session(session).map_or(0, |session| session.free_count.into())
    }

    /// Sessions in which this endpoint answers calls now.
    pub fn server_sessions_open(&self) -> usize {
        self.server_sessions.iter().filter(|session| session.open).count()
    }

    /// Which life of the server a session is with; `None` before the handshake is over.
    pub fn server_incarnation(&self, session: SessionId) -> Option<u64> {
        self.client_session(session)
            .filter(|session| session.state != ClientState::Connecting)
            .map(|session| session.remote_incarnation)
    }

    /// Longest body that travels in one packet of a session beside a head of `head` bytes.
    pub fn packet_room(&self, session: SessionId, head: usize) -> usize {
        self.client_session(session)
            .map_or(0, |session| (session.payload_bytes as usize).saturating_sub(head))
    }

    pub(super) fn send_hello<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.client_sessions[index];
        let hello = Hello {
            incarnation: self.config.incarnation,
            session: index as u32,
            generation: session.generation,
            payload_bytes_max: self.config.payload_bytes_max,
            slots: self.config.slots_per_session,
            window: self.config.window_packets,
            features: self.config.features,
        };
        let mut header = Header::new(Kind::Hello, 0, 0);
        header.flags = Flags::PAYLOAD_CHECK;
        let bytes = hello.to_bytes();
        send(io.tx, self.crc, session.peer, header, bytes.len(), |payload| {
            payload.copy_from_slice(&bytes);
        });
    }

    pub(super) fn on_hello<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        payload: &[u8],
    ) {
        let Ok(hello) = Hello::parse(payload) else {
            self.counters.malformed += 1;
            return;
        };
        let mut free = None;
        for index in 0..self.server_sessions.len() {
            let session = &self.server_sessions[index];
            if !session.open {
                free = free.or(Some(index));
                continue;
            }
            if session.peer != peer {
                continue;
            }
            if session.remote_incarnation > hello.incarnation {
                return self.send_refusal(io, peer, &hello, Refusal::StaleIncarnation);
            }
            let same_life = session.remote_incarnation == hello.incarnation;
            if same_life && session.remote.index != hello.session {
                continue;
            }
            if same_life && session.remote.generation == hello.generation {
                return self.send_hello_ack(io, index);
            }
            if same_life && is_later(session.remote.generation, hello.generation) {
                // A late copy of the hello of an earlier use.
                self.counters.stale += 1;
                return;
            }
            // A later life of the client, or a later use of its session.
            self.close_server(now, io, index, Closed::Superseded);
            free = free.or(Some(index));
        }
        match free {
            Some(index) => self.accept(now, io, index, peer, &hello),
            None => self.send_refusal(io, peer, &hello, Refusal::NoSessions),
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
        let generation = self.server_sessions[index].generation.wrapping_add(1);
        let remote = SessionId { index: hello.session, generation: hello.generation };
        let id = SessionId { index: index as u32, generation };
        // Checks are left out only where neither end asks for them.
        let features = hello.features | self.config.features;
        self.server_sessions[index] = ServerSession {
            open: true,
            suspected: false,
            generation,
            peer,
            remote,
            remote_incarnation: hello.incarnation,
            payload_bytes: hello.payload_bytes_max.min(self.config.payload_bytes_max),
            remote_window: hello.window,
            slots: hello.slots.min(self.config.slots_per_session),
            features,
            template: template(Kind::Response, remote, features),
            straight: straight(Kind::Request, id, features),
            // What is left in it of the last session finds nothing to send.
            queue: self.server_sessions[index].queue,
            waiting: 0,
            last_heard: now,
        };
        let first = index << self.slot_shift;
        for slot in &mut self.server_slots[first..first + (1 << self.slot_shift)] {
            let queued = slot.outgoing.queued;
            *slot = ServerSlot::EMPTY;
            slot.outgoing.queued = queued;
        }
        let event = SessionEvent::Accepted { incarnation: hello.incarnation };
        io.tell(now, Side::Server, id, event);
        self.wheel.arm(self.server_session_timer_id(index), now + self.config.suspect_after);
        self.send_hello_ack(io, index);
    }

    fn send_hello_ack<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.server_sessions[index];
        let ack = HelloAck {
            incarnation: self.config.incarnation,
            client_incarnation: session.remote_incarnation,
            session: index as u32,
            generation: session.generation,
            payload_bytes_max: session.payload_bytes,
            slots: session.slots,
            window: self.config.window_packets,
            features: session.features,
            lease_ms: (self.config.lease.as_nanos() / 1_000_000) as u32,
        };
        let mut header =
            Header::new(Kind::HelloAck, session.remote.index, session.remote.generation);
        header.flags = Flags::PAYLOAD_CHECK;
        let bytes = ack.to_bytes();
        send(io.tx, self.crc, session.peer, header, bytes.len(), |payload| {
            payload.copy_from_slice(&bytes);
        });
    }

    fn send_refusal<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        hello: &Hello,
        refusal: Refusal,
    ) {
        let mut header = Header::new(Kind::Refuse, hello.session, hello.generation);
        header.flags = Flags::PAYLOAD_CHECK;
        send(io.tx, self.crc, peer, header, 1, |payload| payload[0] = refusal as u8);
    }

    pub(super) fn on_hello_ack<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Ok(ack) = HelloAck::parse(payload) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return self.decline(io, peer, &ack);
        };
        let slots_max = self.config.slots_per_session;
        let session = &mut self.client_sessions[index];
        let ours = ack.client_incarnation == self.config.incarnation
            && ack.slots <= slots_max
            && ack.payload_bytes_max <= self.config.payload_bytes_max;
        let remote = SessionId { index: ack.session, generation: ack.generation };
        if session.state != ClientState::Connecting || !ours {
            self.counters.stale += 1;
            if session.remote != remote {
                self.decline(io, peer, &ack);
            }
            return;
        }
        session.state = ClientState::Up;
        session.remote = remote;
        session.remote_incarnation = ack.incarnation;
        session.payload_bytes = ack.payload_bytes_max;
        session.remote_window = ack.window;
        session.slots = ack.slots;
        session.features = ack.features;
        let id = SessionId { index: index as u32, generation: session.generation };
        session.template = template(Kind::Request, remote, ack.features);
        session.straight = straight(Kind::Response, id, ack.features);
        session.free = first_bits(ack.slots);
        session.free_count = ack.slots as u8;
        session.last_heard = now;
        session.last_asked = now;
        session.due = now + self.config.keep_alive;
        let event = SessionEvent::Connected { incarnation: ack.incarnation };
        io.tell(now, Side::Client, id, event);
    }

    /// Ends a session that the server has opened for a late copy of a hello.
    fn decline<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        ack: &HelloAck,
    ) {
        let mut bye = Header::new(Kind::Bye, ack.session, ack.generation);
        bye.flags = session_flags(ack.features);
        send(io.tx, self.crc, peer, bye, 0, |_| {});
    }

    pub(super) fn on_refuse<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return;
        };
        if self.client_sessions[index].state != ClientState::Connecting {
            self.counters.stale += 1;
            return;
        }
        match Refusal::parse(payload) {
            Ok(Refusal::NoSessions) => self.close_client(now, io, index, Closed::NoSessions),
            Ok(Refusal::StaleIncarnation) => {
                self.close_client(now, io, index, Closed::StaleIncarnation);
            }
            Err(error) => self.counters.wire_error(error),
        }
    }
}

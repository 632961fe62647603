//! Sessions: how they are opened, kept alive, suspected and ended.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::host::{CallError, Closed, Host, SessionEvent, SessionId, Side};
use super::table::{CallState, ClientSession, ClientState, ServeState, ServerSession, ServerSlot};
use super::transmit::{Io, send, session_flags};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::control::{Hello, HelloAck, Refusal, SLOTS_MAX};
use crate::wire::packet::{Flags, Header, Kind};

/// How long a hello waits for its answer before it is sent again.
const HELLO_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The first `count` bits.
fn first_bits(count: u16) -> u64 {
    if count >= SLOTS_MAX { u64::MAX } else { (1 << count) - 1 }
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

    pub(super) fn client_session_timer<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) {
        let session = &mut self.client_sessions[index];
        if session.state == ClientState::Free {
            return;
        }
        if now < session.due {
            let due = session.due;
            return self.wheel.arm(self.client_session_timer_id(index), due);
        }
        let due = if session.state == ClientState::Connecting {
            if now.since(session.opened) >= self.config.connect_timeout {
                return self.close_client(now, io, index, Closed::Unreachable);
            }
            self.send_hello(io, index);
            now + HELLO_AGAIN_AFTER
        } else {
            let silence = now.since(session.last_heard);
            if silence >= self.config.lease {
                self.counters.leases_expired += 1;
                return self.close_client(now, io, index, Closed::LeaseExpired);
            }
            if silence >= self.config.suspect_after && session.state == ClientState::Up {
                session.state = ClientState::Suspected;
                let id = SessionId { index: index as u32, generation: session.generation };
                io.host.session(now, Side::Client, id, SessionEvent::Suspected);
            }
            self.keep_alive(now, io, index)
        };
        self.client_sessions[index].due = due;
        self.wheel.arm(self.client_session_timer_id(index), due);
    }

    /// Sends what an open session owes its server. Returns when to look again.
    fn keep_alive<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> Instant {
        let session = &self.client_sessions[index];
        let mut unreleased = session.unreleased;
        let mut due = session.last_heard.max(session.last_asked) + self.config.keep_alive;
        if due <= now {
            self.ask(now, io, index, Kind::Ping);
            due = now + self.config.keep_alive;
        }
        if unreleased != 0 {
            while unreleased != 0 {
                let slot = unreleased.trailing_zeros() as u16;
                unreleased &= unreleased - 1;
                self.send_done(io, index, slot);
            }
            due = due.min(now + self.config.retransmit_after);
        }
        due
    }

    fn send_hello<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
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

    /// Sends a packet of `kind` that names nothing but the session.
    fn ask<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        kind: Kind,
    ) {
        let session = &mut self.client_sessions[index];
        session.last_asked = now;
        let mut header = Header::new(kind, session.remote.index, session.remote.generation);
        header.flags = session_flags(session.features);
        send(io.tx, self.crc, session.peer, header, 0, |_| {});
    }

    fn send_done<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize, slot: u16) {
        let session = &self.client_sessions[index];
        let mut done = Header::new(Kind::Done, session.remote.index, session.remote.generation);
        done.flags = session_flags(session.features);
        done.slot = slot;
        done.request = self.client_slots[(index << self.slot_shift) + usize::from(slot)].request;
        send(io.tx, self.crc, session.peer, done, 0, |_| {});
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
        self.server_sessions[index] = ServerSession {
            open: true,
            suspected: false,
            generation,
            peer,
            remote: SessionId { index: hello.session, generation: hello.generation },
            remote_incarnation: hello.incarnation,
            payload_bytes: hello.payload_bytes_max.min(self.config.payload_bytes_max),
            remote_window: hello.window,
            slots: hello.slots.min(self.config.slots_per_session),
            // Checks are left out only where neither end asks for them.
            features: hello.features | self.config.features,
            waiting: 0,
            last_heard: now,
        };
        let first = index << self.slot_shift;
        for slot in &mut self.server_slots[first..first + (1 << self.slot_shift)] {
            let queued = (slot.outgoing.queued, slot.outgoing.next_ready);
            *slot = ServerSlot::EMPTY;
            (slot.outgoing.queued, slot.outgoing.next_ready) = queued;
        }
        let id = SessionId { index: index as u32, generation };
        let event = SessionEvent::Accepted { incarnation: hello.incarnation };
        io.host.session(now, Side::Server, id, event);
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
            return;
        };
        let slots_max = self.config.slots_per_session;
        let session = &mut self.client_sessions[index];
        let ours = ack.client_incarnation == self.config.incarnation
            && ack.slots <= slots_max
            && ack.payload_bytes_max <= self.config.payload_bytes_max;
        if session.state != ClientState::Connecting || !ours {
            self.counters.stale += 1;
            return;
        }
        session.state = ClientState::Up;
        session.remote = SessionId { index: ack.session, generation: ack.generation };
        session.remote_incarnation = ack.incarnation;
        session.payload_bytes = ack.payload_bytes_max;
        session.remote_window = ack.window;
        session.slots = ack.slots;
        session.features = ack.features;
        session.free = first_bits(ack.slots);
        session.free_count = ack.slots as u8;
        session.last_heard = now;
        session.last_asked = now;
        session.due = now + self.config.keep_alive;
        let id = SessionId { index: index as u32, generation: session.generation };
        let event = SessionEvent::Connected { incarnation: ack.incarnation };
        io.host.session(now, Side::Client, id, event);
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

    pub(super) fn on_ping<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        match self.server_session_of(peer, header) {
            Some(index) => {
                self.server_sessions[index].last_heard = now;
                self.pong(io, index, header);
            }
            None => self.reset(io, peer, header),
        }
    }

    /// Answers a ping, or confirms that a slot's answer was released.
    pub(super) fn pong<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        asked: &Header,
    ) {
        let session = &self.server_sessions[index];
        let mut pong = Header::new(Kind::Pong, session.remote.index, session.remote.generation);
        pong.flags = session_flags(session.features);
        pong.slot = asked.slot;
        pong.request = asked.request;
        send(io.tx, self.crc, session.peer, pong, 0, |_| {});
    }

    pub(super) fn on_pong<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        let Some(index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return;
        };
        let session = &mut self.client_sessions[index];
        session.last_heard = now;
        if session.state == ClientState::Suspected {
            session.state = ClientState::Up;
            let id = SessionId { index: index as u32, generation: session.generation };
            io.host.session(now, Side::Client, id, SessionEvent::Recovered);
        }
        let slots = session.slots;
        // A pong that names a request confirms that the request's answer was released.
        if header.request != 0
            && let Some(slot) = self.slot_index(index, header.slot, slots)
            && self.client_slots[slot].request == header.request
        {
            self.client_sessions[index].unreleased &= !(1 << header.slot);
        }
    }

    pub(super) fn on_bye<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        match self.server_session_of(peer, header) {
            Some(index) => self.close_server(now, io, index, Closed::Bye),
            None => self.counters.unknown_session += 1,
        }
    }

    /// The server does not know the session that it names: it has restarted, or given us up.
    pub(super) fn on_reset<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        let remote = SessionId { index: header.session, generation: header.generation };
        let open = |state| matches!(state, ClientState::Up | ClientState::Suspected);
        let index = self.client_sessions.iter().position(|session| {
            open(session.state) && session.peer == peer && session.remote == remote
        });
        match index {
            Some(index) => self.close_client(now, io, index, Closed::PeerRestarted),
            None => self.counters.stale += 1,
        }
    }

    pub(super) fn server_session_timer<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) {
        let session = &mut self.server_sessions[index];
        if !session.open {
            return;
        }
        let silence = now.since(session.last_heard);
        if silence >= self.config.lease {
            self.counters.leases_expired += 1;
            return self.close_server(now, io, index, Closed::LeaseExpired);
        }
        let suspected = silence >= self.config.suspect_after;
        let due = if suspected {
            session.last_heard + (silence + self.config.suspect_after).min(self.config.lease)
        } else {
            session.last_heard + self.config.suspect_after
        };
        if suspected != session.suspected {
            session.suspected = suspected;
            let id = SessionId { index: index as u32, generation: session.generation };
            let event = if suspected { SessionEvent::Suspected } else { SessionEvent::Recovered };
            io.host.session(now, Side::Server, id, event);
        }
        self.wheel.arm(self.server_session_timer_id(index), due);
    }

    pub(super) fn close_client<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        why: Closed,
    ) {
        let session = &self.client_sessions[index];
        let id = SessionId { index: index as u32, generation: session.generation };
        let first = index << self.slot_shift;
        for slot in first..first + usize::from(session.slots) {
            let error = match self.client_slots[slot].state {
                CallState::Free => continue,
                CallState::Unsent if self.client_slots[slot].backoff == 0 => CallError::SessionLost,
                CallState::Unsent => CallError::Busy,
                CallState::Sent | CallState::Answering => CallError::OutcomeUnknown,
            };
            self.fail_call(now, io, slot, error, false);
        }
        self.client_sessions[index].state = ClientState::Free;
        io.host.session(now, Side::Client, id, SessionEvent::Closed(why));
    }

    pub(super) fn close_server<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        why: Closed,
    ) {
        let first = index << self.slot_shift;
        for slot in first..first + usize::from(self.server_sessions[index].slots) {
            if self.server_slots[slot].state == ServeState::Executing {
                let call = super::host::PendingCall {
                    session: SessionId {
                        index: index as u32,
                        generation: self.server_sessions[index].generation,
                    },
                    slot: (slot - first) as u16,
                    request: self.server_slots[slot].request,
                };
                io.host.cancelled(call);
            }
            self.let_go(io, slot);
            self.server_slots[slot].state = ServeState::Idle;
        }
        let session = &mut self.server_sessions[index];
        session.open = false;
        let id = SessionId { index: index as u32, generation: session.generation };
        io.host.session(now, Side::Server, id, SessionEvent::Closed(why));
    }
}

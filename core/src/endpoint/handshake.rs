//! Sessions: how they are asked for. How they are granted is in `accept`.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::alive::prove_every;
use super::auth::{Guard, Parties};
use super::cipher::farewell;
use super::congestion::Control;
use super::host::{Closed, Host, SessionEvent, SessionId, Side};
use super::rtt::Rtt;
use super::straight::{straight, template};
use super::table::{ClientSession, ClientState};
use super::tag::Usual;
use super::transmit::{Io, Seal, send, session_flags};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::control::{
    Challenge, Features, Hello, HelloAck, PAYLOAD_BYTES_MIN, PROOF_BYTES, PROVED_BYTES,
    REFUSAL_PROVED_BYTES, Refusal, SLOTS_MAX,
};
use crate::wire::packet::{Flags, HEADER_BYTES, Header, Kind, SEAL_BYTES};

/// How long a hello waits for its answer before it is sent again.
pub(super) const HELLO_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The first `count` bits.
pub(super) fn first_bits(count: u16) -> u64 {
    if count >= SLOTS_MAX { u64::MAX } else { (1 << count) - 1 }
}

impl Endpoint<'_> {
    /// Begins to open a session with the endpoint at `peer`. [`SessionEvent::Connected`] or
    /// [`SessionEvent::Closed`] follows. `None` if all client sessions are in use.
    ///
    /// Each use of a session's place has a generation of its own, and at least 2^31 are left when
    /// a life begins. A place with none left is retired, here and at servers: at 1,000 sessions a
    /// second in one place after 24 days at the earliest, and only that place.
    pub fn connect(&mut self, now: Instant, peer: SocketAddrV4) -> Option<SessionId> {
        // A place whose generations are used up is not used again: names never mean two sessions.
        let is_usable = |session: &ClientSession| session.generation < u32::MAX;
        let of = |state, from| {
            let mut sessions = self.client_sessions[from..].iter();
            let at = sessions.position(|session| session.state == state && is_usable(session));
            at.map(|at| from + at)
        };
        let free = of(ClientState::Free, self.none_free_below);
        self.none_free_below = free.map_or(self.client_sessions.len(), |index| index + 1);
        // A goodbye is not worth more than a greeting.
        let index = free.or_else(|| of(ClientState::Leaving, 0))?;
        let generation = self.client_sessions[index].generation + 1;
        self.client_sessions[index] = ClientSession {
            state: ClientState::Connecting,
            generation,
            peer,
            opened: now,
            rtt: Rtt::new(self.config.retransmit_after),
            control: Control::new(self.config.congestion),
            due: now,
            // What is left in it of the last session finds nothing to send.
            queue: self.client_sessions[index].queue,
            ..ClientSession::EMPTY
        };
        self.wheel.arm(self.client_session_timer_id(index), now);
        self.count_session(now, Side::Client, index);
        Some(SessionId { index: index as u32, generation })
    }

    /// The place of a client session may be used again.
    pub(super) fn free_client_session(&mut self, index: usize) {
        self.client_sessions[index].state = ClientState::Free;
        self.none_free_below = self.none_free_below.min(index);
    }

    /// Ends a client session. Its outstanding calls end at once; the server frees what the session
    /// holds as soon as it hears of it, or when the lease expires. An endpoint that is polled on
    /// repeats the news until the server has confirmed it, for as long as it would try to connect.
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
        if state != ClientState::Connecting {
            let session = &mut self.client_sessions[index];
            session.state = ClientState::Leaving;
            session.opened = now;
            session.due = now + HELLO_AGAIN_AFTER;
            self.wheel.arm(self.client_session_timer_id(index), now + HELLO_AGAIN_AFTER);
        }
        io.tx.flush();
    }

    /// Largest payload of a packet to or from `peer`: each end says its own, and the session has
    /// the smaller. For a way too narrow even for the least that there is, the network cuts up.
    pub(super) fn payload_bytes_to<T: Tx>(&self, tx: &T, peer: SocketAddrV4) -> u32 {
        let most = self.config.payload_bytes_max;
        let Some(datagram_bytes) = tx.path_bytes(peer) else { return most };
        let seal_bytes = if self.config.encrypt { SEAL_BYTES } else { 0 };
        let payload_bytes = datagram_bytes.saturating_sub(HEADER_BYTES + seal_bytes);
        u32::try_from(payload_bytes).unwrap_or(most).max(PAYLOAD_BYTES_MIN).min(most)
    }

    pub(super) fn send_hello<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.client_sessions[index];
        let id = SessionId { index: index as u32, generation: session.generation };
        let hello = Hello {
            incarnation: self.config.incarnation,
            session: id.index,
            generation: id.generation,
            payload_bytes_max: self.payload_bytes_to(io.tx, session.peer),
            slots: self.config.slots_per_session,
            window: self.config.window_packets,
            features: self.config.features,
            nonce: self.secret.client_nonce(id),
            cookie: session.cookie,
            proof: [0; PROOF_BYTES],
        };
        let mut bytes = hello.to_bytes();
        if let Some(keys) = &self.keys {
            let proof = keys.hello_proof(&bytes[..PROVED_BYTES]);
            bytes[PROVED_BYTES..].copy_from_slice(&proof);
        }
        self.send_greeting(io, session.peer, Header::new(Kind::Hello, 0, 0), &bytes);
    }

    /// Sends a packet of the handshake.
    pub(super) fn send_greeting<T: Tx, H: Host>(
        &self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        mut header: Header,
        bytes: &[u8],
    ) {
        header.flags = Flags::PAYLOAD_CHECK;
        send(io.tx, Seal::plain(self.crc), peer, header, bytes.len(), |payload| {
            payload.copy_from_slice(bytes);
        });
    }

    /// The server wants to see that we receive at our address.
    pub(super) fn on_challenge<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Ok(challenge) = Challenge::parse(payload) else {
            self.counters.malformed += 1;
            return;
        };
        let id = SessionId { index: header.session, generation: header.generation };
        let Some(index) = self.client_session_of(peer, header).filter(|index| {
            self.client_sessions[*index].state == ClientState::Connecting
                && challenge.nonce == self.secret.client_nonce(id)
                && challenge.cookie != self.client_sessions[*index].cookie // Answered before.
        }) else {
            self.counters.stale += 1;
            return;
        };
        let session = &mut self.client_sessions[index];
        session.cookie = challenge.cookie;
        session.last_asked = now;
        session.due = now + HELLO_AGAIN_AFTER;
        self.send_hello(io, index);
    }

    /// The secret bytes of the session that a hello's answer grants: `Err` if the answer does not
    /// show that the server has our key, or speaks of one where we have none.
    fn granted_secret(
        &self,
        client: SessionId,
        ack: &HelloAck,
        payload: &[u8],
    ) -> Result<Option<[u8; 16]>, ()> {
        let tagged = ack.features.contains(Features::AUTHENTICATED);
        let Some(keys) = &self.keys else { return if tagged { Err(()) } else { Ok(None) } };
        let parties = Parties {
            client_incarnation: self.config.incarnation,
            client,
            client_nonce: self.secret.client_nonce(client),
            server_incarnation: ack.incarnation,
            server: SessionId { index: ack.session, generation: ack.generation },
            server_nonce: ack.nonce,
        };
        let secret = keys.secret(&parties);
        let proved = tagged && keys.ack_proof(&secret, &payload[..PROVED_BYTES]) == ack.proof;
        if proved { Ok(Some(secret)) } else { Err(()) }
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
        let client = SessionId { index: header.session, generation: header.generation };
        let Ok(secret) = self.granted_secret(client, &ack, payload) else {
            self.counters.bad_tag += 1;
            return;
        };
        let Some(index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return self.decline(io, peer, &ack, secret);
        };
        let slots_max = self.config.slots_per_session;
        // With a key, the proof has shown that it answers this hello and no former life's.
        let answers =
            self.keys.is_some() || ack.proof == HelloAck::echo(self.secret.client_nonce(client));
        let session = &mut self.client_sessions[index];
        let ours = ack.client_incarnation == self.config.incarnation
            && answers
            && ack.slots <= slots_max
            && ack.payload_bytes_max <= self.config.payload_bytes_max;
        let remote = SessionId { index: ack.session, generation: ack.generation };
        if session.state != ClientState::Connecting || !ours {
            self.counters.stale += 1;
            if session.remote != remote {
                self.decline(io, peer, &ack, secret);
            }
            return;
        }
        if ack.features.encrypts() != self.config.features.encrypts() {
            self.decline(io, peer, &ack, secret);
            return self.close_client(now, io, index, Closed::Encryption);
        }
        session.state = ClientState::Up;
        session.remote = remote;
        session.remote_incarnation = ack.incarnation;
        session.payload_bytes = ack.payload_bytes_max;
        session.remote_window = ack.window;
        session.slots = ack.slots;
        // Whoever does not know the short header was not asked for it.
        let features = ack.features - (Features::DIRECT - self.config.features);
        session.features = features;
        let id = SessionId { index: index as u32, generation: session.generation };
        session.template = template(Kind::Request, remote, features, self.crc);
        session.straight = straight(Kind::Response, id, features, peer, self.crc);
        if let (Some(keys), Some(secret)) = (&mut self.keys, secret) {
            let (requests, answers) =
                (session.template.first_part(), session.straight.first_part());
            let usual = Usual { requests, answers };
            let guard = keys.guard(secret, Side::Client, index, usual);
            (session.pad, session.guard) = (guard.pad(), Some(guard));
        }
        session.free = first_bits(ack.slots);
        session.free_count = ack.slots as u8;
        session.last_heard = now;
        let (min, max) = (self.config.retransmit_min, self.config.retransmit_after);
        session.rtt.sample(now.since(session.last_asked), min, max);
        session.last_asked = now;
        session.ponged = now;
        session.server_clock = 0;
        let lease = Duration::from_millis(ack.lease_ms.into()).min(self.config.lease);
        session.prove_every = prove_every(lease, index);
        session.due = now + self.config.keep_alive.min(session.prove_every);
        let event = SessionEvent::Connected { incarnation: ack.incarnation };
        io.tell(now, Side::Client, id, event);
    }

    /// Ends a session that the server has opened for a late copy of a hello.
    fn decline<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        ack: &HelloAck,
        secret: Option<[u8; 16]>,
    ) {
        let mut bye = Header::new(Kind::Bye, ack.session, ack.generation);
        bye.flags = session_flags(ack.features);
        let (cipher, guard);
        let seal = match (secret, &self.keys) {
            (Some(secret), _) if ack.features.encrypts() => {
                cipher = farewell(secret);
                Seal::encrypting(self.crc, &cipher)
            }
            (secret, keys) => {
                let binding =
                    secret.zip(keys.as_ref()).map(|(secret, keys)| keys.tags.bind(secret));
                guard = binding.map(Guard::Tags);
                Seal::new(self.crc, &self.keys, &guard)
            }
        };
        send(io.tx, seal, peer, bye, 0, |_| {});
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
        let (refusal, proof) = match Refusal::parse(payload) {
            Ok(parsed) => parsed,
            Err(error) => return self.counters.wire_error(error),
        };
        let client = SessionId { index: header.session, generation: header.generation };
        let nonce = self.secret.client_nonce(client);
        if let Some(keys) = &self.keys
            && proof != keys.refusal_proof(client, nonce, &payload[..REFUSAL_PROVED_BYTES])
        {
            // Anybody may have said that. The real server may still answer.
            self.counters.bad_tag += 1;
            self.client_sessions[index].refused = true;
            return;
        }
        let why = match refusal {
            Refusal::NoSessions => Closed::NoSessions,
            Refusal::AddressFull { bound } => Closed::AddressFull { bound },
            Refusal::StaleIncarnation => Closed::StaleIncarnation,
            Refusal::NotAuthenticated => Closed::NotAuthenticated,
            Refusal::Encryption => Closed::Encryption,
        };
        self.close_client(now, io, index, why);
    }
}

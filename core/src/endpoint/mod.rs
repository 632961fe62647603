//! RPC: sessions, slots, loss recovery and flow control, as a state machine.
//!
//! An [`Endpoint`] owns one device's traffic on one core. It makes calls in *client sessions* and
//! answers them in *server sessions*; a node that does both has both. Each session has a fixed
//! number of *slots*, and a slot carries one call at a time, so slots are the credits of the
//! protocol.
//!
//! - [`host`]: what the endpoint asks of the code around it;
//! - [`table`]: what it keeps for sessions and slots;
//! - `window`: which packets have arrived, which must be sent again; `rtt`: when to ask;
//! - [`congestion`]: how much may be under way;
//! - `wheel`: timers; `waits`: those of thousands of sessions;
//! - `call`, `client`, `retry`: the calling end; `server`, `absorb`, `settle`: the answering end;
//!   `straight`: the usual case of both, `direct` that of memory, `in_order` that of long messages;
//!   `parts`: what both share;
//! - [`auth`]: keys and cookies; `tag`: whose packet it is; [`cipher`] and `sealed`: encryption;
//! - `ahead`: what comes next, fetched into the processor's caches;
//! - `handshake`, `accept`, `liveness`: how sessions are opened, kept alive and ended;
//! - `poll`: what a poll does, in which order; `transmit`: packets out; `turn`: several of a long
//!   message; `seal`: what is put on each; `unusual`: such as few are; `outgoing`: a message on its
//!   way; `room`: for answers;
//!   `queue`: whose turn it is; `book`: whose the server's sessions are;
//! - [`view`]: who is connected, for accounts of an endpoint.
//!
//! **At most once.** A slot's request numbers only grow. The server executes a number once,
//! answers repetitions from the kept answer, and drops lower numbers. A refusal for want of room
//! is final for its number, so a late duplicate of a refused request can't be executed after the
//! caller was told that it was not.
//!
//! **Who repairs losses.** The client alone has timers: it repeats a request until something of
//! the answer arrives, and then asks for what is missing of the answer. Messages of several
//! packets are acknowledged by bitmap and sent again selectively.
//!
//! **Deadlock.** A call made for another call is one deeper. In each session, calls of depth `d`
//! leave `DEPTH_MAX - 1 - d` slots to deeper ones. The deepest make no further calls, so they end;
//! so do, by induction, all others, whatever cycles the services form.

#![forbid(unsafe_code)]

mod absorb;
mod accept;
mod ahead;
mod alive;
mod almost;
pub mod auth;
mod bits;
mod book;
mod call;
pub mod cipher;
mod client;
mod config;
pub mod congestion;
mod counters;
mod direct;
mod dismiss;
mod handshake;
pub mod here;
pub mod host;
mod in_order;
mod liveness;
mod loans;
mod outgoing;
mod parts;
mod poll;
mod queue;
mod retry;
mod room;
mod rtt;
mod seal;
mod sealed;
mod server;
mod settle;
mod slots;
mod straight;
pub mod table;
mod tag;
mod transmit;
mod turn;
mod unusual;
pub mod view;
mod waits;
mod wheel;
mod window;

pub use call::{Call, StartError};
pub use config::{Config, ConfigError};
pub use counters::Counters;
pub use host::Host;
pub use waits::WaitEntries;
pub use wheel::TimerEntry;

use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::control::Features;
use crate::wire::direct::{DIRECT, DIRECT_REQUEST, DIRECT_RESPONSE};
use crate::wire::packet::{HEADER_BYTES, Header, Kind, Packet, REQUEST, RESPONSE, SEALED};
use ahead::Peak;
use auth::{Keys, Secret, is_authentic, usual_key_of};
use book::Book;
use cipher::CipherRoom;
use congestion::Traffic;
use core::net::SocketAddrV4;
use liveness::Timer;
use loans::Loans;
use queue::Ready;
use slots::Slots;
use table::{
    ClientSession, ClientSlot, ClientState, ServerSession, ServerSlot, Storage, StorageSize,
};
use tag::UsualKey;
use transmit::Io;
use waits::Waits;
use wheel::Wheel;

/// Timers that one poll serves: with thousands of sessions, some thousand may be due at a time
/// after a pause, and the pings that they send must not be more than devices take.
const TIMERS_A_POLL: u32 = 32;
/// Timers taken from the wheel before the first of them is served: what they need is fetched
/// meanwhile. Each looks itself at whether its time has come.
const TIMERS_AT_ONCE: usize = 8;

/// What a poll did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Datagrams taken in.
    pub received: u32,
    /// Timers that fired.
    pub fired: u32,
    /// Packets of messages sent. Acknowledgements are not counted.
    pub sent: u32,
}

impl Polled {
    /// Whether there was nothing to do.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// One end of many sessions, over one device.
pub struct Endpoint<'m> {
    config: Config,
    crc: Crc32c,
    /// If the configuration has a key.
    keys: Option<Keys<'m>>,
    /// Of usual packets' tags, in sessions that have tags.
    usual_key: UsualKey,
    secret: Secret,
    traffic: Traffic,
    /// Resets that may still be sent for the burst that is looked at.
    resets_left: u8,
    /// When a reset that proves nothing is looked at next.
    reset_heeded_at: Instant,
    /// When a hello is heeded next, at a steady rate.
    hello_heeded_at: Instant,
    /// Places of a session's queue, less one: as many as it has slots.
    places: usize,
    peak: Peak,
    /// What is used of the tables is too large for the processor's caches: fetch ahead.
    ahead: bool,
    /// Calls may be due otherwise than by the wheel: sessions are many, or nothing is lost.
    odd_timers: bool,
    counters: Counters,
    loans: Loans,
    wheel: Wheel<'m>,
    /// In use where fetching ahead is worth while.
    waits: Waits<'m>,
    ready: Ready,
    client_sessions: &'m mut [ClientSession],
    /// The client sessions before this one are in use, so that opening thousands does not look at
    /// them all each time.
    none_free_below: usize,
    client_slots: Slots<'m, ClientSlot>,
    server_sessions: &'m mut [ServerSession],
    server_slots: Slots<'m, ServerSlot>,
    /// Whose the server sessions are.
    book: Book,
}

impl<'m> Endpoint<'m> {
    /// An endpoint without sessions, in the memory of `storage`.
    ///
    /// # Errors
    /// A configuration out of its limits, or storage whose lengths do not fit each other; one that
    /// wants encryption needs [`Endpoint::encrypted`].
    pub fn new(config: Config, storage: Storage<'m>, now: Instant) -> Result<Self, ConfigError> {
        Self::build(config, storage, None, now)
    }

    /// The same, with what encryption takes if [`Config::encrypt`] wants it; if not, the room may
    /// be empty, and is not kept.
    ///
    /// # Errors
    /// As [`Endpoint::new`]; encryption without a key, or room that is too small.
    pub fn encrypted(
        config: Config,
        storage: Storage<'m>,
        room: CipherRoom<'m>,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        Self::build(config, storage, Some(room), now)
    }

    fn build(
        mut config: Config,
        storage: Storage<'m>,
        room: Option<CipherRoom<'m>>,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let room = config.take_room(room, &storage.size())?;
        config.check()?;
        config.features.set(Features::AUTHENTICATED, config.key.is_some());
        config.features.set(Features::ENCRYPTED, config.encrypt);
        let slots = usize::from(config.slots_per_session);
        let got = storage.size();
        let needed = StorageSize::new(got.client_sessions, got.server_sessions, slots);
        if needed != got {
            return Err(ConfigError::Storage { needed, got });
        }
        let Storage { client_sessions, client_slots, server_sessions, .. } = storage;
        let Storage { server_slots, timers, waits, .. } = storage;
        // Sessions of an earlier life of this node must not be taken for ours.
        let generation = config.first_generation();
        client_sessions.fill(ClientSession { generation, ..ClientSession::EMPTY });
        server_sessions.fill(ServerSession { generation, ..ServerSession::EMPTY });
        client_slots.fill(ClientSlot::EMPTY);
        server_slots.fill(ServerSlot::EMPTY);
        let secret = Secret(config.secret);
        let book = Book::new(server_sessions, secret.order());
        let many = |sessions| sessions >= config.many_sessions as usize;
        Ok(Self {
            odd_timers: config.features.contains(Features::DIRECT),
            config,
            crc: Crc32c::detect(),
            keys: config.key.as_ref().map(|key| Keys::new(key, room)),
            usual_key: usual_key_of(config.key.as_ref()),
            secret,
            traffic: Traffic::default(),
            resets_left: 0,
            reset_heeded_at: Instant::ZERO,
            hello_heeded_at: Instant::ZERO,
            places: slots - 1,
            peak: Peak::default(),
            ahead: false,
            counters: Counters::default(),
            loans: Loans::NONE,
            wheel: Wheel::new(timers, now),
            waits: Waits::new(waits, now),
            ready: Ready::EMPTY,
            client_sessions,
            none_free_below: 0,
            client_slots: Slots::new(client_slots, got.client_sessions, many(got.client_sessions)),
            server_sessions,
            server_slots: Slots::new(server_slots, got.server_sessions, many(got.server_sessions)),
            book,
        })
    }

    /// Ends the endpoint without a word to its peers, and hands its memory back.
    pub fn into_storage(self) -> Storage<'m> {
        self.into_parts().0
    }

    /// The same, with the room for encryption if it has that; its keys are forgotten.
    pub fn into_parts(self) -> (Storage<'m>, Option<CipherRoom<'m>>) {
        let storage = Storage {
            client_sessions: self.client_sessions,
            client_slots: self.client_slots.into_inner(),
            server_sessions: self.server_sessions,
            server_slots: self.server_slots.into_inner(),
            timers: self.wheel.into_entries(),
            waits: self.waits.into_entries(),
        };
        let mut room = self.keys.and_then(|keys| keys.ciphers);
        if let Some(room) = &mut room {
            room.sessions.forget();
        }
        (storage, room)
    }

    /// When [`Endpoint::poll`] must be called even if no packet comes: now if something is ready
    /// to be sent, else no later than the first timer.
    pub fn poll_at(&self, now: Instant) -> Instant {
        if self.ready.is_empty() { self.wheel.next_due().min(self.waits.next_due()) } else { now }
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration that the endpoint was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    #[inline(always)]
    fn packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        datagram: &[u8],
    ) {
        if let Some((bytes, payload)) = datagram.split_first_chunk::<HEADER_BYTES>() {
            let done = match bytes[1] {
                REQUEST => self.straight_request::<false, T, H>(now, io, peer, bytes, payload),
                RESPONSE => self.straight_response::<false, T, H>(now, io, peer, bytes, payload),
                DIRECT_REQUEST | DIRECT_RESPONSE if T::CAN_BE_LOSSLESS => {
                    return self.direct_packet(now, io, peer, datagram);
                }
                _ => false,
            };
            if done {
                return;
            }
        }
        self.any_packet(now, io, peer, datagram);
    }

    /// Takes in a packet of any kind.
    #[inline(never)]
    fn any_packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        datagram: &[u8],
    ) {
        if self.next_in_order(now, io, peer, datagram) {
            return;
        }
        if let Some(kind) = datagram.get(1)
            && kind & (DIRECT | SEALED) != 0
        {
            return match kind & SEALED {
                0 => self.direct_packet(now, io, peer, datagram),
                _ => self.sealed_packet(now, io, peer, datagram),
            };
        }
        match Packet::parse(datagram, self.crc) {
            Ok(packet) => self.parsed_packet(now, io, peer, packet),
            Err(error) => self.counters.wire_error(error),
        }
    }

    #[inline(always)]
    fn parsed_packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        packet: Packet<'_>,
    ) {
        match packet.kind() {
            Kind::Request => self.on_request(now, io, peer, packet),
            Kind::Response => self.on_response(now, io, peer, packet),
            _ => self.control(now, io, peer, packet),
        }
    }

    #[cold]
    fn control<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        packet: Packet<'_>,
    ) {
        let (header, payload) = (&packet.header(), packet.payload());
        let guard = match self.known_guard(peer, header) {
            Some(guard) => guard,
            // A server's word on no call of ours: nobody is told.
            None if matches!(header.kind, Kind::RequestAck | Kind::Busy | Kind::Pong) => {
                return self.counters.unknown_session += 1;
            }
            // It is answered by a reset, or brings proofs of its own.
            None => None,
        };
        if !is_authentic(&self.keys, guard, packet) {
            self.counters.bad_tag += 1;
            return;
        }
        match header.kind {
            Kind::Request | Kind::Response => unreachable!("not control packets"),
            Kind::RequestAck => self.on_request_ack(now, peer, header, payload),
            Kind::ResponseAck => self.on_response_ack(now, io, peer, header, payload),
            Kind::Busy => self.on_busy(now, io, peer, header),
            Kind::Cancel => self.on_cancel(now, io, peer, header),
            Kind::Done => self.on_done(now, io, peer, header),
            Kind::Hello => self.on_hello(now, io, peer, payload),
            Kind::HelloAck => self.on_hello_ack(now, io, peer, header, payload),
            Kind::Refuse => self.on_refuse(now, io, peer, header, payload),
            Kind::Ping => self.on_ping(now, io, peer, header),
            Kind::Pong => self.on_pong(now, io, peer, header),
            Kind::Bye => self.on_bye(now, io, peer, header),
            Kind::Reset => self.on_reset(now, io, peer, packet),
            Kind::Challenge => self.on_challenge(now, io, peer, header, payload),
        }
    }

    /// Serves timers that are due. Most polls come before the next tick.
    #[inline(always)]
    fn serve_timers<T: Tx, H: Host>(&mut self, now: Instant, io: &mut Io<'_, T, H>) -> u32 {
        if self.wheel.is_served(now) { 0 } else { self.serve_tick(now, io) }
    }

    /// Serves the timers of a tick, or so many of them; the next poll goes on.
    #[inline(never)]
    fn serve_tick<T: Tx, H: Host>(&mut self, now: Instant, io: &mut Io<'_, T, H>) -> u32 {
        let mut fired = 0;
        if self.ahead {
            self.serve_waits(now);
        }
        let mut ids = [0; TIMERS_AT_ONCE];
        while fired < TIMERS_A_POLL {
            let mut count = 0;
            while count < TIMERS_AT_ONCE
                && let Some(id) = self.wheel.pop(now)
            {
                if self.ahead {
                    self.expect_timer(self.timer_of(id));
                    self.wheel.expect_next();
                }
                ids[count] = id;
                count += 1;
            }
            if count == 0 {
                break;
            }
            fired += count as u32;
            for id in &ids[..count] {
                match self.timer_of(*id) {
                    Timer::ClientSlot(index) => self.client_slot_timer(now, io, index),
                    Timer::ClientSession(index) => self.client_session_timer(now, io, index),
                    Timer::ServerSession(index) => self.server_session_timer(now, io, index),
                }
            }
        }
        fired
    }

    /// Looks at the calls that have stood in line: they stand there again, or the wheel has them.
    fn serve_waits(&mut self, now: Instant) {
        while let Some(slot) = self.waits.pop(now) {
            let due = self.client_slots[slot].due;
            if !self.waits.join(slot, now, due) {
                self.wheel.arm(slot as u32, due);
            }
        }
    }

    /// The client session that a packet names, if it is from that session's peer.
    #[inline]
    fn client_session_of(&self, peer: SocketAddrV4, header: &Header) -> Option<usize> {
        let index = header.session as usize;
        let session = self.client_sessions.get(index)?;
        let known = session.generation == header.generation
            && session.peer == peer
            && session.state != ClientState::Free;
        known.then_some(index)
    }

    /// The server session that a packet names, if it is from that session's peer.
    #[inline]
    fn server_session_of(&self, peer: SocketAddrV4, header: &Header) -> Option<usize> {
        let index = header.session as usize;
        let session = self.server_sessions.get(index)?;
        let known = session.open && session.generation == header.generation && session.peer == peer;
        known.then_some(index)
    }
}

//! Sessions: how they are kept alive, suspected and ended.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::{Keys, is_authentic};
use super::handshake::HELLO_AGAIN_AFTER;
use super::host::{CallError, Closed, Host, SessionEvent, SessionId, Side};
use super::table::{CallState, ClientSession, ClientState, ServeState};
use super::transmit::{Io, Seal, send, session_flags};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::packet::{Header, Kind, Packet};
use crate::wire::template::Straight;

/// An unanswered ping is repeated after the keep-alive interval divided by this.
const PINGS_A_KEEP_ALIVE: u64 = 4;
/// Resets that answer nothing we asked are looked into no more often than this for each
/// [`SESSIONS_A_LOOK`] client sessions or part of them.
const RESET_HEEDED_EVERY: Duration = Duration::from_micros(100);
/// Pings of many sessions leave in bursts, so many nanoseconds apart as a power of two (524 us): a
/// few at a time would break the bursts of other packets, each of which may be a system call.
const TOGETHER_SHIFT: u32 = 19;
/// A look at so many takes some 25,000 instructions.
const SESSIONS_A_LOOK: usize = 4096;

/// Whose timer an entry of the wheel is, with the index of that.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    ClientSlot(usize),
    ClientSession(usize),
    ServerSession(usize),
}

/// The next of the times at which the pings of many sessions leave, `due` or later.
fn together(due: Instant) -> Instant {
    Instant::from_nanos(due.as_nanos().next_multiple_of(1 << TOGETHER_SHIFT))
}

impl Endpoint<'_> {
    #[inline]
    pub(super) fn timer_of(&self, id: u32) -> Timer {
        let id = id as usize;
        let (slots, sessions) = (self.client_slots.len(), self.client_sessions.len());
        if id < slots {
            Timer::ClientSlot(id)
        } else if id < slots + sessions {
            Timer::ClientSession(id - slots)
        } else {
            Timer::ServerSession(id - slots - sessions)
        }
    }

    pub(super) fn client_session_timer_id(&self, session: usize) -> u32 {
        (self.client_slots.len() + session) as u32
    }

    pub(super) fn server_session_timer_id(&self, session: usize) -> u32 {
        (self.client_slots.len() + self.client_sessions.len() + session) as u32
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
        let tried = now.since(session.opened) >= self.config.connect_timeout;
        let due = if session.state == ClientState::Connecting {
            if tried {
                let refused = session.refused;
                let why = if refused { Closed::NotAuthenticated } else { Closed::Unreachable };
                return self.close_client(now, io, index, why);
            }
            self.send_hello(io, index);
            now + HELLO_AGAIN_AFTER
        } else if session.state == ClientState::Leaving {
            if tried {
                return self.free_client_session(index);
            }
            self.ask(now, io, index, Kind::Bye);
            now + HELLO_AGAIN_AFTER
        } else {
            let silence = now.since(session.last_heard);
            if silence >= self.config.lease {
                self.counters.leases_expired += 1;
                return self.close_client(now, io, index, Closed::LeaseExpired);
            }
            let id = SessionId { index: index as u32, generation: session.generation };
            // Whoever was not asked is not silent: it is we who have not polled for a while.
            let asked = session.last_asked > session.last_heard;
            let silent = silence >= self.config.suspect_after && asked;
            if silent && session.state == ClientState::Up {
                session.state = ClientState::Suspected;
                io.tell(now, Side::Client, id, SessionEvent::Suspected);
            } else if !silent && session.state == ClientState::Suspected {
                session.state = ClientState::Up;
                io.tell(now, Side::Client, id, SessionEvent::Recovered);
            }
            self.watch_untimed(now, index);
            let over = self.client_sessions[index].last_heard + self.config.lease;
            let due = self.keep_alive(now, io, index).min(over);
            if self.ahead { together(due) } else { due }
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
        let suspected = session.state == ClientState::Suspected;
        let (last_heard, mut unreleased) = (session.last_heard, session.unreleased);
        let often = Duration::from_nanos(self.config.keep_alive.as_nanos() / PINGS_A_KEEP_ALIVE);
        let unanswered = session.last_asked > session.ponged && !suspected;
        let mut due = if unanswered {
            session.last_asked + often
        } else {
            (last_heard.max(session.last_asked) + self.config.keep_alive)
                .min(session.last_asked + session.prove_every)
        };
        if due <= now {
            self.ask(now, io, index, Kind::Ping);
            due = now + if suspected { self.config.keep_alive } else { often };
        }
        if !suspected {
            due = due.min((last_heard + self.config.suspect_after).max(now + often));
        }
        if unreleased != 0 {
            while unreleased != 0 {
                let slot = unreleased.trailing_zeros() as u16;
                unreleased &= unreleased - 1;
                self.send_done(io, index, slot);
            }
            // A suspected server is not worth more than its pings. The longer it is silent, the
            // longer the wait: on a path that stands still, all of these would queue.
            if !suspected {
                let silence = now.since(last_heard);
                due = due.min(now + self.config.retransmit_after.max(silence));
            }
        }
        due
    }

    /// Sends a packet of `kind` that names nothing but the session.
    pub(super) fn ask<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        kind: Kind,
    ) {
        let session = &mut self.client_sessions[index];
        session.last_asked = now;
        let server_clock = session.server_clock;
        let id = SessionId { index: index as u32, generation: session.generation };
        let mut header = Header::new(kind, session.remote.index, session.remote.generation);
        header.flags = session_flags(session.features);
        header.request = self.secret.ping_nonce(id);
        header.message = server_clock;
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        if !send(io.tx, seal, session.peer, header, 0, |_| {}) {
            // With thousands of sessions there are more of these at a time than a device queues.
            io.tx.flush();
            send(io.tx, seal, session.peer, header, 0, |_| {});
        }
    }

    fn send_done<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize, slot: u16) {
        let session = &self.client_sessions[index];
        let mut done = Header::new(Kind::Done, session.remote.index, session.remote.generation);
        done.flags = session_flags(session.features);
        done.slot = slot;
        done.request = self.client_slots[self.client_slots.at(index, slot.into())].request;
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        send(io.tx, seal, session.peer, done, 0, |_| {});
    }

    pub(super) fn on_bye<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        if let Some(index) = self.server_session_of(peer, header) {
            self.close_server(now, io, index, Closed::Bye);
        }
        // Confirms it, also where it was heard before.
        self.send_reset(io, peer, header);
    }

    /// The server does not know the session that it names: it has restarted, or given us up, or
    /// has heard our goodbye. That holds only if it answers a question of this very session;
    /// otherwise the question is asked.
    pub(super) fn on_reset<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        packet: Packet<'_>,
    ) {
        let header = packet.header();
        if !is_authentic(&self.keys, self.keys.as_ref().map(Keys::outside), packet) {
            self.counters.bad_tag += 1;
            return;
        }
        let remote = SessionId { index: header.session, generation: header.generation };
        let is_meant = |session: &ClientSession| {
            !matches!(session.state, ClientState::Free | ClientState::Connecting)
                && session.peer == peer
                && session.remote == remote
        };
        let named = header.request as u32;
        if let Some(session) = self.client_sessions.get_mut(named as usize)
            && is_meant(session)
            && header.request
                == self
                    .secret
                    .ping_nonce(SessionId { index: named, generation: session.generation })
        {
            if session.state == ClientState::Leaving {
                self.free_client_session(named as usize);
            } else {
                self.close_client(now, io, named as usize, Closed::PeerRestarted);
            }
            return;
        }
        self.counters.stale += 1;
        if now < self.reset_heeded_at {
            // Looking for the session takes time that a flood must not cost.
            return;
        }
        let looks = self.client_sessions.len().div_ceil(SESSIONS_A_LOOK) as u64;
        let span = Duration::from_nanos(RESET_HEEDED_EVERY.as_nanos() * looks);
        self.reset_heeded_at = now + span;
        if let Some(index) = self.client_sessions.iter().position(is_meant) {
            self.ask(now, io, index, Kind::Ping);
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
        if now.since(session.proved) >= self.config.lease {
            self.counters.leases_expired += 1;
            return self.close_server(now, io, index, Closed::LeaseExpired);
        }
        let silence = now.since(session.last_heard);
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
            io.tell(now, Side::Server, id, event);
        }
        let due = due.min(session.proved + self.config.lease);
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
        for number in 0..session.slots.into() {
            let slot = self.client_slots.at(index, number);
            let error = match self.client_slots[slot].state {
                CallState::Free => continue,
                CallState::Unsent => CallError::SessionLost,
                CallState::Sent | CallState::Answering => CallError::OutcomeUnknown,
            };
            self.fail_call(now, io, slot, error);
        }
        self.free_client_session(index);
        self.client_sessions[index].straight = Straight::NEVER;
        io.tell(now, Side::Client, id, SessionEvent::Closed(why));
    }

    pub(super) fn close_server<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        why: Closed,
    ) {
        for number in 0..self.server_sessions[index].slots.into() {
            let slot = self.server_slots.at(index, number);
            self.let_go(io, slot);
            self.server_slots[slot].state = ServeState::Idle;
        }
        let session = &mut self.server_sessions[index];
        session.open = false;
        session.straight = Straight::NEVER;
        let id = SessionId { index: index as u32, generation: session.generation };
        self.book.strike(self.server_sessions, index);
        io.tell(now, Side::Server, id, SessionEvent::Closed(why));
    }
}

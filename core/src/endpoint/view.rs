//! Who is connected: sessions as a person or a test may see them.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::host::{SessionId, Side};
use super::table::{CallState, ClientSession, ClientState, ServeState};
use crate::time::Instant;

/// A session of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Which end of it this endpoint is.
    pub side: Side,
    /// Its name here.
    pub id: SessionId,
    /// Its name at the other end; meaningless before the handshake is over.
    pub remote: SessionId,
    /// Where the other end is.
    pub peer: SocketAddrV4,
    /// Which life of the other end; zero before the handshake is over.
    pub incarnation: u64,
    /// Whether nothing was heard from the other end for a while.
    pub suspected: bool,
    /// When it was heard of last.
    pub last_heard: Instant,
    /// Slots agreed on.
    pub slots: u16,
    /// Slots whose call is under way: begun here, or received and not yet answered.
    pub busy: u16,
    /// Slots with a message that is made of the host's bytes and kept for repetitions. At a memory
    /// node each is an answer with a pin.
    pub kept: u16,
}

impl Endpoint<'_> {
    pub(super) fn client_session(&self, id: SessionId) -> Option<&ClientSession> {
        self.client_sessions.get(id.index as usize).filter(|session| {
            let over = matches!(session.state, ClientState::Free | ClientState::Leaving);
            session.generation == id.generation && !over
        })
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

    /// The sessions in which this endpoint answers calls.
    pub fn server_sessions(&self) -> impl Iterator<Item = SessionView> {
        let open = self.server_sessions.iter().enumerate().filter(|(_, session)| session.open);
        open.map(|(index, session)| {
            let slots = || self.server_slots.of(index, session.slots);
            let idle = |state| {
                matches!(state, ServeState::Idle | ServeState::Answered | ServeState::Refused)
            };
            SessionView {
                side: Side::Server,
                id: SessionId { index: index as u32, generation: session.generation },
                remote: session.remote,
                peer: session.peer,
                incarnation: session.remote_incarnation,
                suspected: session.suspected,
                last_heard: session.last_heard,
                slots: session.slots,
                busy: slots().filter(|slot| !idle(slot.state)).count() as u16,
                kept: slots().filter(|slot| slot.outgoing.source().is_some()).count() as u16,
            }
        })
    }

    /// The sessions in which this endpoint makes calls, or is about to.
    pub fn client_sessions(&self) -> impl Iterator<Item = SessionView> {
        let used = |state| state != ClientState::Free;
        let all = self.client_sessions.iter().enumerate();
        all.filter(move |(_, session)| used(session.state)).map(|(index, session)| {
            let slots = || self.client_slots.of(index, session.slots);
            SessionView {
                side: Side::Client,
                id: SessionId { index: index as u32, generation: session.generation },
                remote: session.remote,
                peer: session.peer,
                incarnation: session.remote_incarnation,
                suspected: session.state == ClientState::Suspected,
                last_heard: session.last_heard,
                slots: session.slots,
                busy: slots().filter(|slot| slot.state != CallState::Free).count() as u16,
                kept: slots().filter(|slot| slot.outgoing.source().is_some()).count() as u16,
            }
        })
    }
}

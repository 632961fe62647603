//! Who is at the other end of each session, and what follows when a session is lost.
//!
//! A [`Peer`] names a *line*: an address that the program connected to, and the session that leads
//! there now. A session that is lost (the peer restarted, or was silent for longer than the lease)
//! leaves its line; the node opens the next one by itself, and calls with the same handle go there.
//! What the old session owned does not: [`Loss`] says what that was.

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{Closed, SessionEvent, SessionId};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::reference::Ref;

use crate::error::closed_text;
use crate::memory::Region;

/// After nobody answered at a lost peer's address, calls to it fail at once for so long.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A peer: an address and the session with it, by which calls name it. It stays good when the
/// session is lost and the node has opened another, until it is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    pub(crate) session: SessionId,
    /// Index of its line, and which use of that.
    pub(crate) line: (u32, u32),
}

impl Peer {
    /// The handle of nobody.
    pub(crate) const NOBODY: Self =
        Self { session: SessionId { index: 0, generation: 0 }, line: (u32::MAX, 0) };

    /// Its line, as what a session is to a memory node: in a pool that this process maps, memory
    /// is held in the name of the line, and outlives the memory node and the sessions with it.
    pub(crate) fn as_holder(&self) -> SessionId {
        SessionId { index: self.line.0, generation: self.line.1 }
    }
}

/// A session that was lost, and with it what it owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The peer, by the handle of its lost session.
    pub peer: Peer,
    /// Its address.
    pub address: SocketAddrV4,
    /// Why the session ended.
    pub why: Closed,
    /// Which life of the peer the session was with.
    pub incarnation: u64,
    /// Which life of the peer the next session is with; `None` if there is none yet.
    pub incarnation_now: Option<u64>,
}

impl Loss {
    /// Whether the peer has restarted; `None` if it has not been reached since.
    pub fn has_restarted(&self) -> Option<bool> {
        self.incarnation_now.map(|now| now != self.incarnation)
    }

    /// Whether the region was the lost session's: it is gone.
    pub fn took_region(&self, region: &Region) -> bool {
        region.peer.session == self.peer.session && region.peer.line == self.peer.line
    }

    /// Whether the reference is of the life of the memory node that is over: it is gone. One of
    /// the present life may still be gone, if the lost session owned it.
    pub fn took_ref(&self, reference: &Ref) -> bool {
        self.has_restarted() == Some(true) && reference.incarnation == self.incarnation
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, why, incarnation, .. } = self;
        write!(
            f,
            "the session with {address} was lost ({}): its regions are gone",
            closed_text(*why)
        )?;
        match (self.has_restarted(), self.incarnation_now) {
            (Some(true), Some(now)) => write!(
                f,
                ", and so are all references of its incarnation {incarnation}; it is at {now} now"
            ),
            (Some(false), _) => f.write_str(", and the references it owned expire"),
            _ => f.write_str("; nobody has answered there since"),
        }
    }
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerState {
    Unused,
    Connecting,
    Up,
    Suspected,
    Closed(Closed),
}

/// An address that was connected to, and the session with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    generation: u32,
    session: SessionId,
    pub(crate) address: SocketAddrV4,
    pub(crate) state: PeerState,
    /// Which life of the other end; 0 before it is known.
    pub(crate) incarnation: u64,
    /// Why the last session before this one was lost.
    lost: Option<Closed>,
    /// Whether a session that ends is followed by another.
    lasting: bool,
    /// Whether no session was asked for since one was lost.
    fresh: bool,
    /// When the last session ended, or could not be opened.
    ended_at: Instant,
}

impl Line {
    const UNUSED: Self = Self {
        generation: 0,
        session: Peer::NOBODY.session,
        address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        state: PeerState::Unused,
        incarnation: 0,
        lost: None,
        lasting: false,
        fresh: false,
        ended_at: Instant::ZERO,
    };

    fn is_open(&self) -> bool {
        !matches!(self.state, PeerState::Unused | PeerState::Closed(_))
    }

    /// Why the line is over: no session follows the one that ended.
    pub(crate) fn over(&self) -> Option<Closed> {
        match self.state {
            PeerState::Closed(why) if !self.lasting => Some(why),
            _ => None,
        }
    }
}

/// What follows a session that a call can't be made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The line's present session.
    Session(Peer),
    /// One that is being opened, with this address.
    Opening(SocketAddrV4),
    /// None yet: to be opened at this address.
    Open(SocketAddrV4),
    /// None.
    Nothing,
}

/// All lines of a node: as many as it may have sessions.
pub(crate) struct Peers {
    lines: Box<[Line]>,
    /// Lines from this one on were never used.
    used: usize,
    /// The line of each session, by the session's index.
    line_of: Box<[u32]>,
    losses: VecDeque<Loss>,
    /// Whether a line may have lost its session since [`Peers::bereft`] found none.
    pub(crate) has_bereft: bool,
    /// A line that is the node's own: nobody else is handed it.
    pub(crate) kept: Option<u32>,
}

impl Peers {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            lines: vec![Line::UNUSED; count].into_boxed_slice(),
            used: 0,
            line_of: vec![0; count].into_boxed_slice(),
            losses: VecDeque::with_capacity(count),
            has_bereft: false,
            kept: None,
        }
    }

    /// Bytes that a node with `count` sessions keeps here.
    pub(crate) const fn bytes(count: usize) -> usize {
        count * (size_of::<Line>() + size_of::<u32>() + size_of::<Loss>())
    }

    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    fn peer(&self, index: usize) -> Peer {
        let line = &self.lines[index];
        Peer { session: line.session, line: (index as u32, line.generation) }
    }

    /// A line for a session that was asked for. There are as many lines as sessions, so one is
    /// without a session: best one that nobody uses, else the one that was lost longest ago.
    pub(crate) fn open(&mut self, session: SessionId, address: SocketAddrV4) -> Peer {
        let index = if self.used < self.lines.len() {
            self.used += 1;
            self.used - 1
        } else {
            let idle = self.lines.iter().enumerate().filter(|(_, line)| !line.is_open());
            let index = idle.min_by_key(|(_, line)| (line.lasting, line.ended_at));
            index.map_or(session.index as usize, |(index, _)| index)
        };
        let generation = self.lines[index].generation.wrapping_add(1);
        let state = PeerState::Connecting;
        self.lines[index] = Line { generation, session, address, state, ..Line::UNUSED };
        self.line_of[session.index as usize] = index as u32;
        self.peer(index)
    }

    /// A session was asked for in place of the one that the line of `peer` lost; there may have
    /// been no room for it.
    pub(crate) fn reopen(&mut self, peer: Peer, session: Option<SessionId>) {
        let line = &mut self.lines[peer.line.0 as usize];
        line.fresh = false;
        if let Some(session) = session {
            line.session = session;
            line.state = PeerState::Connecting;
            self.line_of[session.index as usize] = peer.line.0;
        }
    }

    /// The line of a peer.
    pub(crate) fn get(&self, peer: Peer) -> Option<&Line> {
        let line = self.lines.get(peer.line.0 as usize)?;
        (line.generation == peer.line.1 && line.state != PeerState::Unused).then_some(line)
    }

    /// The peer with the session that its line has now.
    pub(crate) fn now(&self, peer: Peer) -> Peer {
        self.get(peer).map_or(peer, |line| Peer { session: line.session, ..peer })
    }

    /// Where calls go that cannot be made in the session of `peer`.
    pub(crate) fn next(&self, peer: Peer, now: Instant) -> Next {
        let Some(line) = self.get(peer) else { return Next::Nothing };
        match line.state {
            PeerState::Connecting => Next::Opening(line.address),
            PeerState::Up | PeerState::Suspected if line.session != peer.session => {
                Next::Session(self.now(peer))
            }
            PeerState::Closed(_) if line.lasting && now >= line.ended_at + AGAIN_AFTER => {
                Next::Open(line.address)
            }
            _ => Next::Nothing,
        }
    }

    /// Whether the session of `peer` is the present one with `address`, and is open.
    pub(crate) fn is_up(&self, peer: Peer, address: SocketAddrV4) -> bool {
        self.get(peer).is_some_and(|line| {
            let is_open = matches!(line.state, PeerState::Up | PeerState::Suspected);
            is_open && line.session == peer.session && line.address == address
        })
    }

    /// Why the session of `peer` is over.
    pub(crate) fn why_over(&self, peer: Peer) -> Option<Closed> {
        let line = self.get(peer)?;
        match line.state {
            PeerState::Closed(why) if line.session == peer.session => Some(why),
            _ => line.lost,
        }
    }

    /// The user is done with a line: no session follows the present one.
    pub(crate) fn end(&mut self, peer: Peer) {
        if self.get(peer).is_some() {
            let line = &mut self.lines[peer.line.0 as usize];
            line.lasting = false;
            if !line.is_open() {
                line.state = PeerState::Closed(Closed::Bye);
            }
        }
    }

    /// As [`Peers::end`], of a session that is said goodbye to later: for the user it is over.
    pub(crate) fn leave(&mut self, now: Instant, peer: Peer) {
        if self.get(peer).is_some() {
            let line = &mut self.lines[peer.line.0 as usize];
            (line.lasting, line.ended_at) = (false, now);
            line.state = PeerState::Closed(Closed::Bye);
        }
    }

    /// A session with `address` that is open or being opened, if there is one.
    pub(crate) fn at(&self, address: SocketAddrV4) -> Option<Peer> {
        let is_it = |index: &usize| {
            let line = &self.lines[*index];
            line.address == address && line.is_open() && Some(*index as u32) != self.kept
        };
        (0..self.lines.len()).find(is_it).map(|index| self.peer(index))
    }

    /// The first session, of the lines from `first` on, that is open or being opened.
    pub(crate) fn open_one(&self, first: usize) -> Option<Peer> {
        let is_it = |&index: &usize| self.lines[index].is_open() && Some(index as u32) != self.kept;
        (first..self.used).find(is_it).map(|at| self.peer(at))
    }

    /// The first line from `first` on that lost its session, in place of which none was asked for
    /// yet.
    pub(crate) fn bereft(&self, first: usize) -> Option<Peer> {
        let bereft = |line: &Line| line.lasting && line.fresh && !line.is_open();
        let at = self.lines[first..self.used].iter().position(bereft)?;
        Some(self.peer(first + at))
    }

    /// The next loss of which it is known what followed.
    pub(crate) fn next_loss(&mut self) -> Option<Loss> {
        let settled = |loss: &Loss| {
            let line = self.get(loss.peer);
            loss.incarnation_now.is_some() || line.is_none_or(|line| !line.is_open())
        };
        let index = self.losses.iter().position(settled)?;
        self.losses.remove(index)
    }

    pub(crate) fn event(&mut self, now: Instant, session: SessionId, event: SessionEvent) {
        let Some(&index) = self.line_of.get(session.index as usize) else { return };
        let Some(line) = self.lines.get_mut(index as usize) else { return };
        if line.session != session || line.state == PeerState::Unused {
            return;
        }
        match event {
            SessionEvent::Connected { incarnation } => {
                line.state = PeerState::Up;
                line.incarnation = incarnation;
                line.lasting = true;
                let (was_lost, line) = (line.lost.is_some(), (index, line.generation));
                // Thousands of others may have been lost.
                if was_lost {
                    for loss in self.losses.iter_mut().filter(|loss| loss.peer.line == line) {
                        loss.incarnation_now.get_or_insert(incarnation);
                    }
                }
            }
            // The user has left it, though it goes on for a while.
            SessionEvent::Suspected | SessionEvent::Recovered if !line.is_open() => {}
            SessionEvent::Suspected => line.state = PeerState::Suspected,
            SessionEvent::Recovered => line.state = PeerState::Up,
            SessionEvent::Closed(why) => self.closed(now, index as usize, why),
            SessionEvent::Accepted { .. } => {}
        }
    }

    fn closed(&mut self, now: Instant, index: usize, why: Closed) {
        let peer = self.peer(index);
        let line = &mut self.lines[index];
        let was_up = line.state != PeerState::Connecting;
        line.state = PeerState::Closed(why);
        line.ended_at = now;
        match why {
            Closed::PeerRestarted
            | Closed::LeaseExpired
            | Closed::Unreachable
            | Closed::NoSessions
            | Closed::AddressFull { .. } => {}
            // Another attempt would end in the same way.
            Closed::Bye
            | Closed::StaleIncarnation
            | Closed::Superseded
            | Closed::NotAuthenticated
            | Closed::Encryption => line.lasting = false,
        }
        if !(was_up && line.lasting) {
            return;
        }
        line.lost = Some(why);
        line.fresh = true;
        self.has_bereft = true;
        let (address, incarnation) = (line.address, line.incarnation);
        if self.losses.len() == self.lines.len() {
            // Nobody asks for them; the oldest is told by the errors of its regions only.
            self.losses.pop_front();
        }
        self.losses.push_back(Loss { peer, address, why, incarnation, incarnation_now: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7400);
    const UP: SessionEvent = SessionEvent::Connected { incarnation: 5 };

    fn session(index: u32, generation: u32) -> SessionId {
        SessionId { index, generation }
    }

    fn lost(peers: &mut Peers) -> Peer {
        let peer = peers.open(session(1, 8), ADDRESS);
        peers.event(Instant::ZERO, peer.session, UP);
        peers.event(Instant::ZERO, peer.session, SessionEvent::Closed(Closed::PeerRestarted));
        peer
    }

    #[test]
    fn a_lost_session_is_followed_by_another_under_the_same_handle() {
        let mut peers = Peers::new(2);
        let peer = lost(&mut peers);
        assert!(peers.has_bereft);
        assert_eq!(peers.bereft(0), Some(peer));
        // The next session has the same index: the handle is not taken for it.
        let next = session(1, 9);
        peers.reopen(peer, Some(next));
        assert_eq!(peers.bereft(0), None);
        assert_eq!(peers.next(peer, Instant::ZERO), Next::Opening(ADDRESS));
        assert_eq!(peers.next_loss(), None);
        peers.event(Instant::ZERO, next, SessionEvent::Connected { incarnation: 6 });
        assert_eq!(peers.next(peer, Instant::ZERO), Next::Session(Peer { session: next, ..peer }));
        assert_eq!(peers.why_over(peer), Some(Closed::PeerRestarted));
        let loss = peers.next_loss().expect("one");
        assert_eq!((loss.incarnation, loss.incarnation_now), (5, Some(6)));
        assert_eq!(loss.has_restarted(), Some(true));
        assert_eq!(peers.next_loss(), None);
    }

    #[test]
    fn attempts_have_pauses_and_end_with_the_user() {
        let mut peers = Peers::new(2);
        let peer = lost(&mut peers);
        peers.reopen(peer, Some(session(0, 3)));
        peers.event(Instant::ZERO, session(0, 3), SessionEvent::Closed(Closed::Unreachable));
        assert_eq!(peers.next(peer, Instant::ZERO), Next::Nothing);
        let later = Instant::ZERO + AGAIN_AFTER;
        assert_eq!(peers.next(peer, later), Next::Open(ADDRESS));
        let loss = peers.next_loss().expect("settled: nobody is there");
        assert_eq!((loss.why, loss.has_restarted()), (Closed::PeerRestarted, None));
        peers.end(peer);
        assert_eq!(peers.next(peer, later), Next::Nothing);
        assert_eq!(peers.bereft(0), None);
    }

    #[test]
    fn a_line_that_never_was_up_is_left_alone() {
        let mut peers = Peers::new(1);
        let peer = peers.open(session(0, 1), ADDRESS);
        let nobody = SessionEvent::Closed(Closed::Unreachable);
        peers.event(Instant::ZERO, peer.session, nobody);
        assert!(!peers.has_bereft);
        assert_eq!(peers.next(peer, Instant::ZERO + AGAIN_AFTER), Next::Nothing);
        assert_eq!(peers.next_loss(), None);
        let again = peers.open(session(0, 2), ADDRESS);
        assert!(peers.get(peer).is_none() && peers.get(again).is_some());
    }

    #[test]
    fn the_line_lost_longest_ago_makes_room() {
        let mut peers = Peers::new(2);
        let first = lost(&mut peers);
        let second = peers.open(session(0, 1), ADDRESS);
        peers.event(Instant::ZERO, second.session, UP);
        let third = peers.open(session(1, 9), ADDRESS);
        assert!(peers.get(first).is_none());
        assert!(peers.get(second).is_some() && peers.get(third).is_some());
    }
}

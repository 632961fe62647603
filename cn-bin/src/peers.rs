//! Who is at the other end of each session.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{Closed, SessionEvent, SessionId};

/// A session with another node, by which calls name it. Good until the session is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    pub(crate) session: SessionId,
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

/// One session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerEntry {
    pub(crate) generation: u32,
    pub(crate) address: SocketAddrV4,
    pub(crate) state: PeerState,
    /// Which life of the other end; 0 before it is known.
    pub(crate) incarnation: u64,
}

impl PeerEntry {
    const UNUSED: Self = Self {
        generation: 0,
        address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        state: PeerState::Unused,
        incarnation: 0,
    };
}

/// All sessions in which a node makes calls.
pub(crate) struct Peers(Box<[PeerEntry]>);

impl Peers {
    pub(crate) fn new(count: usize) -> Self {
        Self(vec![PeerEntry::UNUSED; count].into_boxed_slice())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn open(&mut self, session: SessionId, address: SocketAddrV4) -> Peer {
        self.0[session.index as usize] = PeerEntry {
            generation: session.generation,
            address,
            state: PeerState::Connecting,
            incarnation: 0,
        };
        Peer { session }
    }

    pub(crate) fn get(&self, peer: Peer) -> Option<&PeerEntry> {
        let entry = self.0.get(peer.session.index as usize)?;
        let known = entry.generation == peer.session.generation;
        (known && entry.state != PeerState::Unused).then_some(entry)
    }

    /// A session with `address` that is open or being opened, if there is one.
    pub(crate) fn at(&self, address: SocketAddrV4) -> Option<Peer> {
        let open = |state| !matches!(state, PeerState::Unused | PeerState::Closed(_));
        let index =
            self.0.iter().position(|entry| entry.address == address && open(entry.state))?;
        let generation = self.0[index].generation;
        Some(Peer { session: SessionId { index: index as u32, generation } })
    }

    /// All sessions that are open or being opened.
    pub(crate) fn open_ones(&self) -> impl Iterator<Item = Peer> + '_ {
        self.0.iter().enumerate().filter_map(|(index, entry)| match entry.state {
            PeerState::Unused | PeerState::Closed(_) => None,
            _ => {
                let session = SessionId { index: index as u32, generation: entry.generation };
                Some(Peer { session })
            }
        })
    }

    pub(crate) fn event(&mut self, session: SessionId, event: SessionEvent) {
        let Some(entry) = self.0.get_mut(session.index as usize) else { return };
        if entry.generation != session.generation {
            return;
        }
        match event {
            SessionEvent::Connected { incarnation } => {
                entry.state = PeerState::Up;
                entry.incarnation = incarnation;
            }
            SessionEvent::Suspected => entry.state = PeerState::Suspected,
            SessionEvent::Recovered => entry.state = PeerState::Up,
            SessionEvent::Closed(why) => entry.state = PeerState::Closed(why),
            SessionEvent::Accepted { .. } => {}
        }
    }
}

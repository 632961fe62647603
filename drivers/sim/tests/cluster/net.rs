//! Addresses and the nodes that have them.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{
    Admission, Body, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent, SessionId,
    Side, Sink, Source,
};
use dmrpc_core::endpoint::{Endpoint, Host};
use dmrpc_core::time::Instant;
use dmrpc_sim::cluster::Actor;
use dmrpc_sim::network::NetworkDevice;

use crate::compute::Compute;
use crate::memory::Server;

/// Sessions of either kind that every node has room for.
pub(crate) const SESSIONS: usize = 16;
/// Longest datagram of the simulated network.
pub(crate) const DATAGRAM_BYTES: usize = 1472;

/// The address of node `index`.
pub(crate) fn address(index: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, index as u8 + 1), 4_000)
}

/// The node that has an address.
pub(crate) fn index_of(address: SocketAddrV4) -> usize {
    usize::from(address.ip().octets()[3]) - 1
}

/// A node of the simulated cluster.
pub(crate) enum Node<'m> {
    Memory(Box<Server<'m>>),
    Compute(Compute),
}

impl<'m> Node<'m> {
    pub(crate) fn memory(&mut self) -> Option<&mut Server<'m>> {
        match self {
            Self::Memory(server) => Some(server),
            Self::Compute(_) => None,
        }
    }

    pub(crate) fn compute(&self) -> Option<&Compute> {
        match self {
            Self::Memory(_) => None,
            Self::Compute(compute) => Some(compute),
        }
    }
}

impl Actor for Node<'_> {
    fn act(&mut self, now: Instant, endpoint: &mut Endpoint<'static>, device: &mut NetworkDevice) {
        match self {
            Self::Memory(server) => server.act(now, endpoint),
            Self::Compute(compute) => compute.act(now, endpoint, device),
        }
    }

    fn act_at(&self) -> Instant {
        match self {
            Self::Memory(server) => server.act_at(),
            Self::Compute(compute) => compute.act_at(),
        }
    }
}

/// Both kinds of node, as the endpoint sees them.
macro_rules! both {
    ($self:ident, $name:ident($($argument:expr),*)) => {
        match $self {
            Node::Memory(server) => server.node.$name($($argument),*),
            Node::Compute(compute) => compute.$name($($argument),*),
        }
    };
}

impl Host for Node<'_> {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        both!(self, admit(head, body_bytes))
    }

    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        both!(self, absorb(sink, offset, bytes));
    }

    fn abandon(&mut self, sink: Sink) {
        both!(self, abandon(sink));
    }

    fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        match self {
            Self::Memory(server) => server.request(now, head, body, reply),
            Self::Compute(compute) => compute.request(now, head, body, reply),
        }
    }

    fn cancelled(&mut self, call: PendingCall) {
        both!(self, cancelled(call));
    }

    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        both!(self, supply(source, offset, out));
    }

    fn release(&mut self, source: Source) {
        both!(self, release(source));
    }

    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        both!(self, completed(now, completion));
    }

    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        match self {
            Self::Memory(server) => server.session(now, side, session, event),
            Self::Compute(compute) => compute.session(now, side, session, event),
        }
    }
}

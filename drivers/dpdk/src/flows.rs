//! Rules in a port that lead senders to the queues of the cores that serve them.

use std::net::SocketAddrV4;

use dmrpc_host::steer::Astray;

use crate::queue::QueuePair;

/// Most rules of one core: ports have room for some hundreds to thousands.
const RULES_MAX: usize = 256;

/// The rules that one core has asked for. Where a port takes none, frames go on being handed over
/// in software.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    ruled: Vec<SocketAddrV4>,
    refused: bool,
}

impl Flows {
    /// None so far, with room for all.
    pub(crate) fn new() -> Self {
        Self { ruled: Vec::with_capacity(RULES_MAX), refused: false }
    }

    /// Has all ports lead a sender to the queue of its core, which has the core's number.
    pub(crate) fn lead(&mut self, pairs: &[QueuePair], astray: Astray) {
        let Astray { peer, lane } = astray;
        if self.refused || self.ruled.len() == RULES_MAX || self.ruled.contains(&peer) {
            return;
        }
        self.ruled.push(peer);
        // A port that takes one rule takes the others.
        let lead = |pair: &QueuePair| pair.port().steer(peer, lane as u16);
        self.refused = pairs.iter().any(|pair| lead(pair).is_err());
    }

    /// How many senders are led.
    pub(crate) fn count(&self) -> usize {
        if self.refused { 0 } else { self.ruled.len() }
    }
}

//! Packets that wait until somebody says when they come: those that a node had sent when its time
//! was over, and those that a test makes.

use std::cmp::Reverse;
use std::net::SocketAddrV4;

use dmrpc_core::time::Instant;

use super::{Network, Packet, Shared};
use crate::effects;

/// A packet that was held back.
#[derive(Clone, Debug)]
pub struct Held {
    /// Where it goes.
    pub to: SocketAddrV4,
    /// The datagram.
    pub bytes: Vec<u8>,
    /// Whether it is part of a request, in clear or encrypted.
    pub request: bool,
}

/// Packets held back at most: what comes after them is lost.
const HELD_MAX: usize = 64;

impl Network {
    /// Begins to hold back all that one device sends, or stops to; returns what was held back until
    /// now. It is told as sent, and comes when [`Network::hand_over`] says so.
    pub fn hold_from(&self, from: Option<SocketAddrV4>) -> Vec<Held> {
        let mut shared = self.shared.borrow_mut();
        shared.hold_from = from;
        std::mem::take(&mut shared.held)
    }

    /// When the last packet that is under way now arrives.
    pub fn last_arrival(&self) -> Instant {
        let shared = self.shared.borrow();
        shared.under_way.iter().map(|Reverse(packet)| packet.at).max().unwrap_or(shared.now)
    }

    /// Lets a datagram be at its receiver now, whatever the network does to others.
    pub fn hand_over(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: Vec<u8>) {
        let mut shared = self.shared.borrow_mut();
        shared.packets += 1;
        let (at, number) = (shared.now, shared.packets);
        shared.deliver(Packet { at, number, from, to, bytes, identity: None, copy: None });
    }
}

impl Shared {
    /// Keeps a packet back, if its sender's are.
    pub(super) fn hold(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) -> bool {
        if self.hold_from != Some(from) {
            return false;
        }
        if self.held.len() < HELD_MAX {
            let request = effects::is_request(bytes);
            self.held.push(Held { to, bytes: bytes.to_vec(), request });
        }
        true
    }
}

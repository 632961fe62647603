//! A wire between two devices: a ring of datagrams each way, in memory of the program.

use core::cell::RefCell;
use core::net::SocketAddrV4;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};

/// Longest datagram, in bytes.
pub const DATAGRAM_BYTES: usize = 1472;
/// Datagrams under way in each direction: a power of two.
const DATAGRAMS: usize = 64;
/// Datagrams of a burst.
const BURST: usize = 16;

/// One direction.
pub struct Ring {
    bytes: [[u8; DATAGRAM_BYTES]; DATAGRAMS],
    lengths: [usize; DATAGRAMS],
    sent: usize,
    received: usize,
}

impl Ring {
    /// An empty one.
    pub const EMPTY: Self = Self {
        bytes: [[0; DATAGRAM_BYTES]; DATAGRAMS],
        lengths: [0; DATAGRAMS],
        sent: 0,
        received: 0,
    };
}

/// One end of the wire.
pub struct End<'w> {
    /// The other end's address.
    pub peer: SocketAddrV4,
    /// What comes in.
    pub incoming: &'w RefCell<&'static mut Ring>,
    /// What goes out.
    pub outgoing: &'w RefCell<&'static mut Ring>,
    /// The burst being received.
    pub burst: [[u8; DATAGRAM_BYTES]; BURST],
    /// Lengths of its datagrams.
    pub lengths: [usize; BURST],
}

impl<'w> End<'w> {
    /// An end whose other end has the address `peer`.
    pub fn new(
        peer: SocketAddrV4,
        incoming: &'w RefCell<&'static mut Ring>,
        outgoing: &'w RefCell<&'static mut Ring>,
    ) -> Self {
        let burst = [[0; DATAGRAM_BYTES]; BURST];
        Self { peer, incoming, outgoing, burst, lengths: [0; BURST] }
    }
}

/// The receiving half.
pub struct EndRx<'a> {
    peer: SocketAddrV4,
    ring: core::cell::RefMut<'a, &'static mut Ring>,
    burst: &'a mut [[u8; DATAGRAM_BYTES]; BURST],
    lengths: &'a mut [usize; BURST],
}

/// The sending half.
pub struct EndTx<'a> {
    ring: core::cell::RefMut<'a, &'static mut Ring>,
}

impl Device for End<'_> {
    type Rx<'a>
        = EndRx<'a>
    where
        Self: 'a;
    type Tx<'a>
        = EndTx<'a>
    where
        Self: 'a;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: DATAGRAM_BYTES, burst_max: BURST }
    }

    fn split(&mut self) -> (EndRx<'_>, EndTx<'_>) {
        let rx = EndRx {
            peer: self.peer,
            ring: self.incoming.borrow_mut(),
            burst: &mut self.burst,
            lengths: &mut self.lengths,
        };
        (rx, EndTx { ring: self.outgoing.borrow_mut() })
    }
}

impl Rx for EndRx<'_> {
    fn receive(&mut self) -> usize {
        let mut count = 0;
        while count < BURST && self.ring.received < self.ring.sent {
            let at = self.ring.received % DATAGRAMS;
            let length = self.ring.lengths[at];
            self.burst[count][..length].copy_from_slice(&self.ring.bytes[at][..length]);
            self.lengths[count] = length;
            self.ring.received += 1;
            count += 1;
        }
        count
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        (self.peer, &self.burst[index][..self.lengths[index]])
    }
}

impl Tx for EndTx<'_> {
    fn push(&mut self, _: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        if self.ring.sent - self.ring.received == DATAGRAMS {
            return None;
        }
        let at = self.ring.sent % DATAGRAMS;
        self.ring.sent += 1;
        self.ring.lengths[at] = bytes;
        Some(&mut self.ring.bytes[at][..bytes])
    }

    fn flush(&mut self) {}
}

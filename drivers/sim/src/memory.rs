//! A wire in memory between two devices of one thread.
//!
//! Packets travel in bursts: a device fills a burst of its own and hands the whole over when it is
//! flushed, as one pointer. After construction nothing allocates, nothing locks, and no byte is
//! copied between the sender's `push` and the receiver's `packet`.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::rc::Rc;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};

/// Datagrams of a burst.
pub const BURST: usize = 32;

/// Datagrams side by side, a power of two apart.
struct Burst {
    bytes: Box<[u8]>,
    stride_shift: u32,
    lengths: [u32; BURST],
    count: usize,
}

/// One direction: bursts on their way, and empty ones on their way back.
struct Wire {
    full: Ring,
    empty: Ring,
}

/// Bursts in a row. Indices only grow; the length of `cells` is a power of two.
struct Ring {
    cells: Box<[Cell<Option<Box<Burst>>>]>,
    head: Cell<usize>,
    tail: Cell<usize>,
}

impl Ring {
    fn new(bursts: usize) -> Self {
        let cells = (0..bursts.next_power_of_two()).map(|_| Cell::new(None)).collect();
        Self { cells, head: Cell::new(0), tail: Cell::new(0) }
    }

    #[inline]
    fn put(&self, burst: Box<Burst>) {
        let tail = self.tail.get();
        let before = self.cells[tail & (self.cells.len() - 1)].replace(Some(burst));
        debug_assert!(before.is_none(), "there are as many cells as bursts");
        self.tail.set(tail + 1);
    }

    #[inline]
    fn take(&self) -> Option<Box<Burst>> {
        let head = self.head.get();
        if head == self.tail.get() {
            return None;
        }
        self.head.set(head + 1);
        self.cells[head & (self.cells.len() - 1)].take()
    }
}

/// One end of the wire.
pub struct MemoryDevice {
    peer: SocketAddrV4,
    datagram_bytes_max: usize,
    incoming: Rc<Wire>,
    outgoing: Rc<Wire>,
    receiving: Option<Box<Burst>>,
    filling: Option<Box<Burst>>,
}

/// Two devices at the addresses `a` and `b`, joined by a wire that holds `bursts` bursts of
/// datagrams of up to `datagram_bytes_max` bytes each way. A device whose wire is full says so:
/// nothing is lost.
///
/// # Panics
/// If there is no room for a burst.
pub fn pair(
    a: SocketAddrV4,
    b: SocketAddrV4,
    datagram_bytes_max: usize,
    bursts: usize,
) -> (MemoryDevice, MemoryDevice) {
    assert!(bursts > 0, "a wire holds at least one burst");
    let (there, back) = (wire(datagram_bytes_max, bursts), wire(datagram_bytes_max, bursts));
    let end = |peer, incoming: &Rc<Wire>, outgoing: &Rc<Wire>| MemoryDevice {
        peer,
        datagram_bytes_max,
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        receiving: None,
        filling: None,
    };
    (end(b, &back, &there), end(a, &there, &back))
}

fn wire(datagram_bytes_max: usize, bursts: usize) -> Rc<Wire> {
    let stride = datagram_bytes_max.max(64).next_power_of_two();
    let stride_shift = stride.trailing_zeros();
    // One more is being filled at the sender, and one read at the receiver.
    let wire = Wire { full: Ring::new(bursts + 2), empty: Ring::new(bursts + 2) };
    for _ in 0..bursts + 2 {
        let bytes = vec![0xA5; stride * BURST].into();
        wire.empty.put(Box::new(Burst { bytes, stride_shift, lengths: [0; BURST], count: 0 }));
    }
    Rc::new(wire)
}

#[cold]
#[inline(never)]
fn too_long(bytes: usize) -> ! {
    panic!("a datagram of {bytes} bytes is too long")
}

/// The receiving half of a [`MemoryDevice`].
pub struct MemoryRx<'a> {
    peer: SocketAddrV4,
    wire: &'a Wire,
    burst: &'a mut Option<Box<Burst>>,
}

/// The sending half of a [`MemoryDevice`].
pub struct MemoryTx<'a> {
    datagram_bytes_max: usize,
    wire: &'a Wire,
    burst: &'a mut Option<Box<Burst>>,
}

impl Device for MemoryDevice {
    type Rx<'a> = MemoryRx<'a>;
    type Tx<'a> = MemoryTx<'a>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: self.datagram_bytes_max, burst_max: BURST }
    }

    #[inline]
    fn split(&mut self) -> (MemoryRx<'_>, MemoryTx<'_>) {
        let Self { peer, datagram_bytes_max, incoming, outgoing, receiving, filling } = self;
        let (peer, datagram_bytes_max) = (*peer, *datagram_bytes_max);
        (
            MemoryRx { peer, wire: incoming, burst: receiving },
            MemoryTx { datagram_bytes_max, wire: outgoing, burst: filling },
        )
    }
}

impl Rx for MemoryRx<'_> {
    #[inline]
    fn receive(&mut self) -> usize {
        if let Some(mut burst) = self.burst.take() {
            burst.count = 0;
            self.wire.empty.put(burst);
        }
        *self.burst = self.wire.full.take();
        self.burst.as_ref().map_or(0, |burst| burst.count)
    }

    #[inline]
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let burst = self.burst.as_ref().expect("a burst was received");
        assert!(index < burst.count, "datagram {index} of {}", burst.count);
        let bytes = &burst.bytes[index << burst.stride_shift..][..burst.lengths[index] as usize];
        (self.peer, bytes)
    }
}

impl Tx for MemoryTx<'_> {
    /// Whatever is sent goes to the other end, whatever its address.
    #[inline(always)]
    fn push(&mut self, _: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        if self.burst.is_none() {
            *self.burst = self.wire.empty.take();
        }
        let burst = self.burst.as_deref_mut()?;
        if bytes > self.datagram_bytes_max {
            too_long(bytes);
        }
        let index = burst.count;
        *burst.lengths.get_mut(index)? = bytes as u32;
        burst.count = index + 1;
        burst.bytes.get_mut(index << burst.stride_shift..)?.get_mut(..bytes)
    }

    #[inline]
    fn flush(&mut self) {
        if self.burst.as_ref().is_some_and(|burst| burst.count > 0)
            && let Some(burst) = self.burst.take()
        {
            self.wire.full.put(burst);
        }
    }
}

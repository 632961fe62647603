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

/// Longest datagram that a wire carries, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 1536;

/// Datagrams side by side.
struct Burst {
    bytes: [[u8; DATAGRAM_BYTES_MAX]; BURST],
    lengths: [u32; BURST],
    count: usize,
}

impl Burst {
    fn new(count: usize) -> Box<Self> {
        Box::new(Self { bytes: [[0xA5; _]; _], lengths: [0; _], count })
    }
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
    fn is_empty(&self) -> bool {
        self.head.get() == self.tail.get()
    }

    #[inline]
    fn take(&self) -> Option<Box<Burst>> {
        if self.is_empty() {
            return None;
        }
        let head = self.head.get();
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
    receiving: Held,
    filling: Held,
}

/// A burst in a device's hands, or a stand-in for none.
struct Held {
    burst: Box<Burst>,
    /// The stand-in, while there is a burst.
    stand_in: Option<Box<Burst>>,
}

impl Held {
    /// None yet, for which a burst of `count` datagrams stands.
    fn none(count: usize) -> Self {
        Self { burst: Burst::new(count), stand_in: None }
    }

    /// Takes the burst, if there is one, for another or for none.
    #[inline]
    fn replace(&mut self, by: Option<Box<Burst>>) -> Option<Box<Burst>> {
        match (by, self.stand_in.take()) {
            (Some(burst), None) => {
                self.stand_in = Some(std::mem::replace(&mut self.burst, burst));
                None
            }
            (Some(burst), stand_in) => {
                self.stand_in = stand_in;
                Some(std::mem::replace(&mut self.burst, burst))
            }
            (None, Some(stand_in)) => Some(std::mem::replace(&mut self.burst, stand_in)),
            (None, None) => None,
        }
    }
}

/// Two devices at the addresses `a` and `b`, joined by a wire that holds `bursts` bursts of
/// datagrams of up to `datagram_bytes_max` bytes each way. A device whose wire is full says so:
/// nothing is lost.
///
/// # Panics
/// If there is no room for a burst, or datagrams are longer than [`DATAGRAM_BYTES_MAX`].
pub fn pair(
    a: SocketAddrV4,
    b: SocketAddrV4,
    datagram_bytes_max: usize,
    bursts: usize,
) -> (MemoryDevice, MemoryDevice) {
    assert!(bursts > 0, "a wire holds at least one burst");
    assert!(datagram_bytes_max <= DATAGRAM_BYTES_MAX, "longer datagrams than a wire carries");
    let (there, back) = (wire(bursts), wire(bursts));
    let end = |peer, incoming: &Rc<Wire>, outgoing: &Rc<Wire>| MemoryDevice {
        peer,
        datagram_bytes_max,
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        receiving: Held::none(0),
        filling: Held::none(BURST),
    };
    (end(b, &back, &there), end(a, &there, &back))
}

fn wire(bursts: usize) -> Rc<Wire> {
    // One more is being filled at the sender, and one read at the receiver.
    let wire = Wire { full: Ring::new(bursts + 2), empty: Ring::new(bursts + 2) };
    for _ in 0..bursts + 2 {
        wire.empty.put(Burst::new(0));
    }
    Rc::new(wire)
}

#[cold]
#[inline(never)]
fn too_long(bytes: usize) -> ! {
    panic!("a datagram of {bytes} bytes is too long")
}

#[cold]
#[inline(never)]
fn not_received(index: usize, count: usize) -> ! {
    panic!("datagram {index} of {count}")
}

/// The receiving half of a [`MemoryDevice`].
pub struct MemoryRx<'a> {
    peer: SocketAddrV4,
    wire: &'a Wire,
    held: &'a mut Held,
}

/// The sending half of a [`MemoryDevice`].
pub struct MemoryTx<'a> {
    datagram_bytes_max: usize,
    wire: &'a Wire,
    held: &'a mut Held,
}

impl Device for MemoryDevice {
    type Rx<'a> = MemoryRx<'a>;
    type Tx<'a> = MemoryTx<'a>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: self.datagram_bytes_max, burst_max: BURST }
    }

    fn flushes_cheaply(&self) -> bool {
        true
    }

    #[inline]
    fn split(&mut self) -> (MemoryRx<'_>, MemoryTx<'_>) {
        let Self { peer, datagram_bytes_max, incoming, outgoing, receiving, filling } = self;
        let (peer, datagram_bytes_max) = (*peer, *datagram_bytes_max);
        (
            MemoryRx { peer, wire: incoming, held: receiving },
            MemoryTx { datagram_bytes_max, wire: outgoing, held: filling },
        )
    }
}

impl Rx for MemoryRx<'_> {
    #[inline]
    fn receive(&mut self) -> usize {
        if self.held.stand_in.is_none() && self.wire.full.is_empty() {
            return 0;
        }
        if let Some(mut burst) = self.held.replace(self.wire.full.take()) {
            burst.count = 0;
            self.wire.empty.put(burst);
        }
        self.held.burst.count
    }

    #[inline]
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let Burst { bytes, lengths, count } = &*self.held.burst;
        if index >= *count {
            not_received(index, *count);
        }
        (self.peer, &bytes[index][..lengths[index] as usize])
    }
}

impl MemoryTx<'_> {
    /// Takes another burst to fill, where there is one.
    #[inline(never)]
    fn begin_burst(&mut self) -> Option<()> {
        if self.held.stand_in.is_some() {
            // The one that it has is full.
            return None;
        }
        let burst = self.wire.empty.take()?;
        self.held.replace(Some(burst));
        Some(())
    }
}

impl Tx for MemoryTx<'_> {
    /// Whatever is sent goes to the other end, whatever its address.
    #[inline(always)]
    fn push(&mut self, _: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        if bytes > self.datagram_bytes_max {
            too_long(bytes);
        }
        if self.held.burst.count >= BURST {
            self.begin_burst()?;
        }
        let burst = &mut *self.held.burst;
        let index = burst.count;
        *burst.lengths.get_mut(index)? = bytes as u32;
        burst.count = index + 1;
        burst.bytes.get_mut(index)?.get_mut(..bytes)
    }

    #[inline]
    fn flush(&mut self) {
        if self.held.stand_in.is_some()
            && self.held.burst.count > 0
            && let Some(burst) = self.held.replace(None)
        {
            self.wire.full.put(burst);
        }
    }
}

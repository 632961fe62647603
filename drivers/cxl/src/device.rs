//! A [`Device`] over rings in a pool: an endpoint runs through shared memory as over a network.
//!
//! A participant's address is made of its number, see [`address_of`]. Up to eight rings are looked
//! at one after the other; when more participants send to this one, it asks to be rung for, looks
//! at those rings whose bell rang, and at one other ring a poll, so that a sender that died
//! between its datagram and the bell delays what it sent, but loses nothing.
//!
//! Datagrams are copied out of the ring before they are handed out: what another process can
//! write is no `&[u8]`. Sent ones are copied into it for the same reason.
//!
//! A ring that stays full makes [`Tx::push`](dmrpc_core::device::Tx::push) answer `None`; when it
//! stays full for [`REFUSALS_MAX`] pushes, its receiver is stopped or gone, and what is sent to it
//! is dropped, as on any network, so that it does not hold up what others are sent.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx};
use dmrpc_core::memory::Memory;
use dmrpc_host::idle::Wait;

use crate::mapping::PoolMemory;
use crate::participants::Participant;
use crate::pool::Pool;
use crate::ring::{Consumer, DIRECT_MAX, Producer, Rings};
use crate::superblock::Geometry;

mod send;

pub use send::RingTx;
use send::{Peer, Send};

/// No participant's number.
const NOBODY: u32 = u32::MAX;
/// Most datagrams of a burst.
const BURST_MAX: usize = 32;
/// Pushes to a full ring that are refused before what follows is dropped: about a tenth of a second
/// of polling. A receiver that lost its core to others for some turns of the scheduler loses
/// nothing, and one that is stopped holds up what goes to others for less than it takes them to
/// suspect this end.
pub const REFUSALS_MAX: u32 = 1 << 21;
/// How long a loop that may sleep does so at a time: nothing wakes it.
const NAP: Duration = Duration::from_micros(50);
/// The port of all addresses.
const PORT: u16 = 7;
/// The first byte of all addresses, reserved by RFC 1112: no network delivers to such.
const NETWORK: u8 = 240;

/// The address that participant `index` is reached at through the pool.
///
/// # Panics
/// If `index` needs more than 16 bits.
pub const fn address_of(index: u32) -> SocketAddrV4 {
    assert!(index <= u16::MAX as u32, "participants are few");
    SocketAddrV4::new(Ipv4Addr::new(NETWORK, 0, (index >> 8) as u8, index as u8), PORT)
}

/// The participant that an address is of; `None` for addresses of networks.
pub fn participant_at(address: SocketAddrV4) -> Option<u32> {
    match address.ip().octets() {
        [NETWORK, 0, high, low] if address.port() == PORT => {
            Some(u16::from_be_bytes([high, low]).into())
        }
        _ => None,
    }
}

/// The participant has no rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRings {
    /// The participant.
    pub index: u32,
    /// How many have rings, from 0 on.
    pub ring_participants: u32,
}

impl std::fmt::Display for NoRings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "participant {} has no rings in this pool: only the first {} do; format a pool with \
             more",
            self.index, self.ring_participants
        )
    }
}

impl std::error::Error for NoRings {}

/// Counts since a device was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams dropped because their receiver's ring stayed full.
    pub dropped_full: u64,
    /// Datagrams dropped because their address is no participant's.
    pub dropped_nobody: u64,
    /// Places of rings that held nonsense.
    pub nonsense: u64,
}

/// A device over the rings of one participant.
#[derive(Debug)]
pub struct RingDevice<M = PoolMemory> {
    memory: M,
    rings: Rings,
    own: u32,
    receive: Receive,
    send: Send,
}

impl RingDevice<PoolMemory> {
    /// Opens the rings of a participant of `pool`.
    ///
    /// # Errors
    /// [`NoRings`].
    pub fn open(pool: &Pool, participant: &Participant) -> Result<Self, NoRings> {
        Self::new(pool.memory().clone(), pool.geometry(), participant.index())
    }
}

impl<M: Memory> RingDevice<M> {
    /// Opens the rings of participant `own`; nobody else may have them open.
    ///
    /// # Errors
    /// [`NoRings`].
    pub fn new(memory: M, geometry: &Geometry, own: u32) -> Result<Self, NoRings> {
        let rings = Rings::new(geometry);
        let ring_participants = rings.participants();
        if own >= ring_participants {
            return Err(NoRings { index: own, ring_participants });
        }
        rings.store_wish(&memory, own, false);
        let all = 0..ring_participants;
        let consumers = all.clone().map(|peer| Consumer::open(&rings, &memory, peer, own));
        let receive = Receive::new(&rings, own, consumers.collect());
        let peers = all.map(|peer| Peer::new(Producer::open(&rings, &memory, own, peer)));
        let send = Send::new(peers.collect(), rings.datagram_bytes as usize);
        Ok(Self { memory, rings, own, receive, send })
    }

    /// The address that others reach this device at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        address_of(self.own)
    }

    /// Counts since it was opened.
    pub fn stats(&self) -> RingStats {
        RingStats {
            received: self.receive.stats.received,
            nonsense: self.receive.stats.nonsense,
            ..self.send.stats
        }
    }
}

impl<M: Memory> Device for RingDevice<M> {
    type Rx<'a>
        = RingRx<'a, M>
    where
        M: 'a;
    type Tx<'a>
        = RingTx<'a, M>
    where
        M: 'a;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            datagram_bytes_max: self.rings.datagram_bytes as usize,
            burst_max: BURST_MAX,
        }
    }

    /// Coherent memory has check codes of its own; between hosts that are not coherent, a line may
    /// be an old one.
    fn keeps_bytes(&self) -> bool {
        !self.rings.flush
    }

    /// Rings hold senders up, and are given up only where a receiver stands still. Lines that are
    /// old, between hosts that are not coherent, are another matter.
    fn is_lossless(&self) -> bool {
        !self.rings.flush
    }

    fn flushes_cheaply(&self) -> bool {
        true
    }

    #[inline]
    fn split(&mut self) -> (RingRx<'_, M>, RingTx<'_, M>) {
        let Self { memory, rings, own, receive, send } = self;
        (
            RingRx { memory, rings, own: *own, state: receive },
            RingTx { memory, rings, own: *own, state: send },
        )
    }
}

impl<M> Wait for RingDevice<M> {
    /// Naps: memory wakes nobody.
    fn wait(&self, timeout: Duration) -> bool {
        std::thread::sleep(timeout.min(NAP));
        true
    }
}

/// A datagram of the current burst.
#[derive(Clone, Copy, Debug, Default)]
struct Packet {
    sender: u32,
    start: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Receive {
    consumers: Box<[Consumer]>,
    datagram_bytes: usize,
    /// Where senders tell of themselves.
    senders_at: u64,
    /// A bit for each participant that can.
    all: u64,
    /// Those that ever sent, a bit each.
    senders: u64,
    /// Those whose ring may hold something, a bit each; all senders while they are few.
    hot: u64,
    /// The only sender there ever was; [`NOBODY`] if there is none, or several.
    lone: u32,
    /// Whether senders are asked to ring.
    wants_bells: bool,
    /// The ring that is looked at first; also the next one to be looked at without being rung for.
    first: u32,
    /// Datagrams of the burst, one behind the other.
    buffer: Box<[u8]>,
    packets: [Packet; BURST_MAX],
    count: usize,
    used_bytes: usize,
    stats: RingStats,
}

impl Receive {
    fn new(rings: &Rings, own: u32, consumers: Box<[Consumer]>) -> Self {
        let datagram_bytes = rings.datagram_bytes as usize;
        // Without atomics nobody can tell: all may have sent.
        let known = if rings.flush { rings.all() } else { 0 };
        Self {
            consumers,
            datagram_bytes,
            senders_at: rings.senders(own),
            all: if rings.flush { 0 } else { rings.all() },
            senders: known,
            hot: known,
            lone: NOBODY,
            wants_bells: false,
            first: 0,
            buffer: vec![0; BURST_MAX * datagram_bytes.next_multiple_of(8)].into(),
            packets: [Packet::default(); BURST_MAX],
            count: 0,
            used_bytes: 0,
            stats: RingStats::default(),
        }
    }

    /// Takes all that fits into the burst from one ring. Returns whether the ring is empty now.
    #[inline(always)]
    fn drain(&mut self, rings: &Rings, memory: &impl Memory, sender: u32) -> bool {
        let Some(consumer) = self.consumers.get_mut(sender as usize) else { return true };
        let mut found = consumer.look(rings, memory);
        while let Some(bytes) = found {
            if self.count == BURST_MAX {
                return false;
            }
            let target = &mut self.buffer[self.used_bytes..][..self.datagram_bytes];
            if consumer.take(rings, memory, bytes, target) {
                self.packets[self.count] = Packet { sender, start: self.used_bytes, bytes };
                self.count += 1;
                self.used_bytes += bytes.next_multiple_of(8);
                self.stats.received += 1;
            } else {
                self.stats.nonsense += 1;
            }
            consumer.tell(rings, memory);
            found = consumer.peek(rings, memory);
        }
        true
    }

    /// Learns of new senders, and asks to be rung for once they are many.
    #[cold]
    fn meet(&mut self, rings: &Rings, memory: &impl Memory, own: u32, senders: u64) {
        self.senders = senders;
        if !self.wants_bells && senders.count_ones() > DIRECT_MAX {
            self.wants_bells = true;
            rings.store_wish(memory, own, true);
        }
        // Whoever sent before it could know of the wish did not ring: look at all once.
        self.hot = senders;
        self.lone = if senders.is_power_of_two() { senders.trailing_zeros() } else { NOBODY };
    }

    /// One burst from the rings that may hold something. While only one can, a look at it in vain
    /// is two loads: the shorter it is, the sooner the next one finds what came meanwhile.
    #[inline(always)]
    fn receive(&mut self, rings: &Rings, memory: &impl Memory, own: u32) -> usize {
        (self.count, self.used_bytes) = (0, 0);
        let senders = memory.load_u64(self.senders_at) & self.all;
        if senders != self.senders || self.lone == NOBODY {
            return self.receive_any(rings, memory, own, senders);
        }
        self.drain(rings, memory, self.lone);
        self.count
    }

    /// The same where several senders may have sent something; those that ever sent are `senders`.
    #[inline(never)]
    fn receive_any(
        &mut self,
        rings: &Rings,
        memory: &impl Memory,
        own: u32,
        senders: u64,
    ) -> usize {
        if senders & !self.senders != 0 {
            self.meet(rings, memory, own, senders);
        }
        if self.wants_bells {
            // One ring a poll is looked at unasked: its sender may have died before it rang.
            self.hot |= rings.take_rung(memory, own) | self.senders & (1 << self.first);
        }
        // From `first` on, then the rest: nobody is served last for ever.
        let mut bits = self.hot.rotate_right(self.first);
        while bits != 0 && self.count < BURST_MAX {
            let sender = bits.trailing_zeros().wrapping_add(self.first) % u64::BITS;
            bits &= bits - 1;
            let is_empty = self.drain(rings, memory, sender);
            if self.wants_bells && is_empty {
                self.hot &= !(1 << sender);
            }
        }
        if self.count > 0 || self.wants_bells {
            self.first = if self.first + 1 < rings.participants() { self.first + 1 } else { 0 };
        }
        self.count
    }
}

/// The receiving half of a [`RingDevice`].
#[derive(Debug)]
pub struct RingRx<'a, M> {
    memory: &'a M,
    rings: &'a Rings,
    own: u32,
    state: &'a mut Receive,
}

impl<M: Memory> Rx for RingRx<'_, M> {
    #[inline(always)]
    fn receive(&mut self) -> usize {
        self.state.receive(self.rings, self.memory, self.own)
    }

    #[inline]
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let Packet { sender, start, bytes } = self.state.packets[..self.state.count][index];
        (address_of(sender), &self.state.buffer[start..start + bytes])
    }
}

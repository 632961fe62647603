//! A network of devices under a virtual clock.
//!
//! Everything that happens follows from the seed and from what is sent: time moves only when the
//! owner of the [`Network`] says so, and each packet's fate is drawn when it is sent. A hash over
//! all deliveries tells whether two runs were the same.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::packet::SEALED;

use crate::effects::{Effects, Fault, identity};
use crate::faults::{Counts, Faults};
use crate::random::{Random, mix};

mod late;

pub use late::Held;

/// Datagrams that a device hands over at a time, and queues before it says that it is full.
const BURST: usize = 32;

/// A full queue with packets of so many senders is one that too many sent to at once.
const INCAST_SENDERS: usize = 6;

/// A network. Clones are handles to the same one.
#[derive(Clone)]
pub struct Network {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    now: Instant,
    random: Random,
    faults: Faults,
    counts: Counts,
    hash: u64,
    /// Packets under way, the first to arrive on top; the number settles ties.
    under_way: BinaryHeap<Reverse<Packet>>,
    packets: u64,
    /// What has arrived, by the receiver's address.
    arrived: BTreeMap<SocketAddrV4, VecDeque<(SocketAddrV4, Vec<u8>)>>,
    /// Paths, from and to, on which nothing passes.
    cut: BTreeSet<(SocketAddrV4, SocketAddrV4)>,
    /// Until when the path from a sender stalls.
    clogged_until: BTreeMap<SocketAddrV4, Instant>,
    burst_left: u64,
    /// An earlier packet, for splicing.
    earlier: Vec<u8>,
    effects: Effects,
    /// Who has received something since the last [`Network::receivers`].
    receivers: Vec<SocketAddrV4>,
    recording: bool,
    record_from: Option<SocketAddrV4>,
    recorded: Vec<(SocketAddrV4, SocketAddrV4, Vec<u8>)>,
    hold_from: Option<SocketAddrV4>,
    held: Vec<Held>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: Instant,
    number: u64,
    from: SocketAddrV4,
    to: SocketAddrV4,
    bytes: Vec<u8>,
    /// See [`identity`].
    identity: Option<u64>,
    /// What made it, if it is a copy.
    copy: Option<Fault>,
}

impl Network {
    /// A network without devices, at time zero.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let shared = Shared {
            now: Instant::ZERO,
            random: Random::new(seed),
            faults,
            counts: Counts::default(),
            hash: 0,
            under_way: BinaryHeap::new(),
            packets: 0,
            arrived: BTreeMap::new(),
            cut: BTreeSet::new(),
            clogged_until: BTreeMap::new(),
            burst_left: 0,
            earlier: Vec::new(),
            effects: Effects::default(),
            receivers: Vec::new(),
            recording: false,
            record_from: None,
            recorded: Vec::new(),
            hold_from: None,
            held: Vec::new(),
        };
        Self { shared: Rc::new(RefCell::new(shared)) }
    }

    /// A device with the address `address`, for datagrams of up to `datagram_bytes_max` bytes.
    /// A device that had the address before hears nothing any more.
    pub fn open(&self, address: SocketAddrV4, datagram_bytes_max: usize) -> NetworkDevice {
        self.shared.borrow_mut().arrived.insert(address, VecDeque::new());
        NetworkDevice {
            network: self.clone(),
            address,
            datagram_bytes_max,
            burst: Vec::with_capacity(BURST),
            outgoing: Vec::with_capacity(BURST),
        }
    }

    /// Takes a device's address away: packets to it reach nobody.
    pub fn close(&self, address: SocketAddrV4) {
        self.shared.borrow_mut().arrived.remove(&address);
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.shared.borrow().now
    }

    /// When the next packet arrives, if any is under way.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.shared.borrow().under_way.peek().map(|Reverse(packet)| packet.at)
    }

    /// Lets time pass until `now`: what arrives by then is there afterwards.
    ///
    /// # Panics
    /// If `now` is in the past.
    pub fn advance(&self, now: Instant) {
        let mut shared = self.shared.borrow_mut();
        assert!(now >= shared.now, "time goes forward");
        while shared.under_way.peek().is_some_and(|Reverse(packet)| packet.at <= now) {
            let Reverse(packet) = shared.under_way.pop().expect("peeked");
            shared.now = packet.at;
            shared.deliver(packet);
        }
        shared.now = now;
    }

    /// Calls `with` for each address that something has arrived at since the last time.
    pub(crate) fn receivers(&self, mut with: impl FnMut(SocketAddrV4)) {
        let mut shared = self.shared.borrow_mut();
        shared.receivers.drain(..).for_each(&mut with);
    }

    /// Whether packets wait at `address`.
    pub fn has_arrived(&self, address: SocketAddrV4) -> bool {
        self.shared.borrow().arrived.get(&address).is_some_and(|queue| !queue.is_empty())
    }

    /// Changes what happens to packets from now on. Those under way keep their fate.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.borrow_mut().faults = faults;
    }

    /// Cuts the path from one address to another, or heals it. The way back is not touched.
    pub fn set_cut(&self, from: SocketAddrV4, to: SocketAddrV4, cut: bool) {
        let mut shared = self.shared.borrow_mut();
        if cut {
            shared.cut.insert((from, to));
        } else {
            shared.cut.remove(&(from, to));
        }
    }

    /// Sends a datagram as a device at `from` would: for forged and replayed packets.
    pub fn inject(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        self.shared.borrow_mut().send(from, to, bytes.to_vec());
    }

    /// Begins or stops to keep copies of what is sent.
    pub fn record(&self, on: bool) {
        self.shared.borrow_mut().recording = on;
    }

    /// Begins to keep copies of what one device sends, or stops to.
    pub fn record_from(&self, from: Option<SocketAddrV4>) {
        self.shared.borrow_mut().record_from = from;
    }

    /// Takes the copies kept since the last time: sender, receiver and bytes.
    pub fn recorded(&self) -> Vec<(SocketAddrV4, SocketAddrV4, Vec<u8>)> {
        std::mem::take(&mut self.shared.borrow_mut().recorded)
    }

    /// What has happened to packets so far.
    pub fn counts(&self) -> Counts {
        self.shared.borrow().counts
    }

    /// How often each fault took effect so far.
    pub fn effects(&self) -> Vec<(Fault, u64)> {
        self.shared.borrow().effects.counts().collect()
    }

    /// A hash over every delivery so far: time, addresses and bytes.
    pub fn trace_hash(&self) -> u64 {
        self.shared.borrow().hash
    }
}

impl Shared {
    fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, mut bytes: Vec<u8>) {
        self.counts.sent += 1;
        if self.recording || self.record_from == Some(from) {
            self.recorded.push((from, to, bytes.clone()));
        }
        if self.hold(from, to, &bytes) {
            return;
        }
        let identity = identity(from, to, &bytes);
        self.effects.sent(identity);
        if let Some(fault) = self.lose(from, to) {
            return self.effects.hit(identity, fault);
        }
        let delay = self.hold_back(from, identity);
        if self.random.happens(self.faults.duplicate) {
            self.counts.duplicated += 1;
            let delay = delay + self.delay(from);
            self.launch(delay, from, to, bytes.clone(), identity, Some(Fault::Duplicate));
        }
        if self.random.happens(self.faults.replay) {
            self.counts.replayed += 1;
            let later = self.random.within(0..=self.faults.replay_after_max.as_nanos());
            let later = Duration::from_nanos(later);
            self.launch(later, from, to, bytes.clone(), identity, Some(Fault::Replay));
        }
        if self.random.happens(self.faults.corrupt) {
            let fault = self.corrupt(&mut bytes);
            self.effects.hit(identity, fault);
        } else if self.random.below(8) == 0 {
            self.earlier.clone_from(&bytes);
        }
        let delay = delay + self.delay(from);
        self.launch(delay, from, to, bytes, identity, None);
    }

    /// Whether a packet gets lost, and to what.
    fn lose(&mut self, from: SocketAddrV4, to: SocketAddrV4) -> Option<Fault> {
        if self.cut.contains(&(from, to)) {
            self.counts.partitioned += 1;
            let both = self.cut.contains(&(to, from));
            return Some(if both { Fault::Partition } else { Fault::PartitionOneWay });
        }
        if self.burst_left > 0 {
            self.burst_left -= 1;
            self.counts.lost_in_burst += 1;
            return Some(Fault::Burst);
        }
        if self.random.happens(self.faults.burst) {
            self.burst_left = self.random.within(1..=self.faults.burst_packets_max);
        }
        if self.random.happens(self.faults.loss) {
            self.counts.lost += 1;
            return Some(Fault::Loss);
        }
        None
    }

    /// How much longer a packet is under way than others, if it is.
    fn hold_back(&mut self, from: SocketAddrV4, identity: Option<u64>) -> Duration {
        if self.random.happens(self.faults.clog) {
            let stall = self.random.within(0..=self.faults.clog_max.as_nanos());
            self.clogged_until.insert(from, self.now + Duration::from_nanos(stall));
            self.counts.clogged += 1;
        }
        if self.clogged_until.get(&from).is_some_and(|until| *until > self.now) {
            self.effects.hit(identity, Fault::Clog);
        }
        if !self.random.happens(self.faults.straggle) {
            return Duration::ZERO;
        }
        self.counts.straggled += 1;
        self.effects.hit(identity, Fault::Straggle);
        Duration::from_nanos(self.random.within(0..=self.faults.straggle_max.as_nanos()))
    }

    fn delay(&mut self, from: SocketAddrV4) -> Duration {
        let (min, max) = (self.faults.delay_min.as_nanos(), self.faults.delay_max.as_nanos());
        let way = Duration::from_nanos(self.random.within(min..=max.max(min)));
        let stalled = self.clogged_until.get(&from).map_or(Duration::ZERO, |&t| t.since(self.now));
        stalled + way
    }

    fn launch(
        &mut self,
        delay: Duration,
        from: SocketAddrV4,
        to: SocketAddrV4,
        bytes: Vec<u8>,
        identity: Option<u64>,
        copy: Option<Fault>,
    ) {
        self.packets += 1;
        let (at, number) = (self.now + delay, self.packets);
        let packet = Packet { at, number, from, to, bytes, identity, copy };
        self.under_way.push(Reverse(packet));
    }

    fn corrupt(&mut self, bytes: &mut Vec<u8>) -> Fault {
        match self.random.below(5) {
            0 if !bytes.is_empty() => {
                let bit = self.random.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
                self.counts.bit_flipped += 1;
                Fault::BitFlip
            }
            1 if !bytes.is_empty() => {
                bytes.truncate(self.random.below(bytes.len() as u64) as usize);
                self.counts.truncated += 1;
                Fault::Truncate
            }
            2 if self.earlier.len() > 1 && bytes.len() > 1 => {
                let at = self.random.within(1..=bytes.len().min(self.earlier.len()) as u64 - 1);
                bytes.truncate(at as usize);
                bytes.extend_from_slice(&self.earlier[at as usize..]);
                if *bytes == self.earlier {
                    // Both began alike. Another sender's packet under this one's address is a
                    // forgery, which takes more than a bad cable.
                    bytes[at as usize] ^= 1;
                }
                self.counts.spliced += 1;
                Fault::Splice
            }
            3 if !bytes.is_empty() => {
                let at = self.random.below(bytes.len() as u64) as usize;
                let end = bytes.len().min(at + self.random.within(1..=8) as usize);
                for byte in &mut bytes[at..end] {
                    // Never the byte that was there.
                    *byte ^= self.random.within(1..=255) as u8;
                }
                self.counts.burst_flipped += 1;
                Fault::BitBurst
            }
            _ => {
                let more = self.random.within(1..=16);
                bytes.extend((0..more).map(|_| self.random.draw() as u8));
                self.counts.extended += 1;
                Fault::Extend
            }
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let Packet { at, number, from, to, bytes, identity, copy } = packet;
        let limit = self.faults.queue_packets;
        let Some(queue) = self.arrived.get_mut(&to) else {
            self.counts.nobody += 1;
            return;
        };
        if queue.len() >= limit {
            self.counts.queue_full += 1;
            if copy.is_none() {
                let senders: BTreeSet<_> = queue.iter().map(|(from, _)| from).collect();
                let incast = senders.len() >= INCAST_SENDERS;
                let fault = if incast { Fault::Incast } else { Fault::QueueFull };
                self.effects.hit(identity, fault);
            }
            return;
        }
        match copy {
            Some(fault) if identity.is_some() => self.effects.count(fault),
            None if identity.is_some() => self.effects.delivered(from, to, number),
            _ => {}
        }
        let mut hash = mix(self.hash ^ at.as_nanos());
        for address in [from, to] {
            hash = mix(hash ^ u64::from(address.ip().to_bits()) << 16 ^ u64::from(address.port()));
        }
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
        self.hash = mix(hash ^ bytes.len() as u64);
        self.counts.sealed += u64::from(bytes.get(1).is_some_and(|kind| kind & SEALED != 0));
        if queue.is_empty() {
            self.receivers.push(to);
        }
        queue.push_back((from, bytes));
        self.counts.delivered += 1;
    }
}

/// A device on a [`Network`].
pub struct NetworkDevice {
    network: Network,
    address: SocketAddrV4,
    datagram_bytes_max: usize,
    burst: Vec<(SocketAddrV4, Vec<u8>)>,
    outgoing: Vec<(SocketAddrV4, Vec<u8>)>,
}

impl NetworkDevice {
    /// The device's address.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

/// The receiving half of a [`NetworkDevice`].
pub struct NetworkRx<'a> {
    network: &'a Network,
    address: SocketAddrV4,
    datagram_bytes_max: usize,
    burst: &'a mut Vec<(SocketAddrV4, Vec<u8>)>,
}

/// The sending half of a [`NetworkDevice`]. What it flushes, the network takes at once.
pub struct NetworkTx<'a> {
    network: &'a Network,
    address: SocketAddrV4,
    datagram_bytes_max: usize,
    outgoing: &'a mut Vec<(SocketAddrV4, Vec<u8>)>,
}

impl Device for NetworkDevice {
    type Rx<'a> = NetworkRx<'a>;
    type Tx<'a> = NetworkTx<'a>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: self.datagram_bytes_max, burst_max: BURST }
    }

    fn split(&mut self) -> (NetworkRx<'_>, NetworkTx<'_>) {
        let Self { network, address, datagram_bytes_max, burst, outgoing } = self;
        let (address, datagram_bytes_max) = (*address, *datagram_bytes_max);
        (
            NetworkRx { network, address, datagram_bytes_max, burst },
            NetworkTx { network, address, datagram_bytes_max, outgoing },
        )
    }
}

impl Rx for NetworkRx<'_> {
    fn receive(&mut self) -> usize {
        self.burst.clear();
        let mut shared = self.network.shared.borrow_mut();
        if let Some(queue) = shared.arrived.get_mut(&self.address) {
            while self.burst.len() < BURST {
                let Some((from, bytes)) = queue.pop_front() else { break };
                // A datagram that corruption made longer than a device takes is cut, as on a wire.
                let bytes = if bytes.len() > self.datagram_bytes_max {
                    bytes[..self.datagram_bytes_max].to_vec()
                } else {
                    bytes
                };
                self.burst.push((from, bytes));
            }
        }
        self.burst.len()
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let (from, bytes) = &self.burst[index];
        (*from, bytes)
    }
}

impl Tx for NetworkTx<'_> {
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        assert!(bytes <= self.datagram_bytes_max, "a datagram of {bytes} bytes is too long");
        if self.outgoing.len() == 2 * BURST {
            return None;
        }
        // Not zeros: nobody may rely on them.
        self.outgoing.push((peer, vec![0xA5; bytes]));
        self.outgoing.last_mut().map(|(_, bytes)| &mut bytes[..])
    }

    fn flush(&mut self) {
        let mut shared = self.network.shared.borrow_mut();
        for (peer, bytes) in self.outgoing.drain(..) {
            shared.send(self.address, peer, bytes);
        }
    }
}

//! A network with a rate: hosts on one switch, each by a link of so many bits a second, each of
//! the switch's ports with a queue of so many bytes. For goodput, incast and fairness.
//!
//! Beside [`crate::network`], which draws fates and knows no rate, this one queues: a packet
//! waits behind its sender's earlier ones, then, at the switch, behind everybody's to the same
//! receiver, and is dropped there if the queue is full. Everything follows from the seed and from
//! what is sent.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};
use dmrpc_core::time::{Duration, Instant};

use crate::random::Random;

/// Datagrams that a device hands over at a time.
const BURST: usize = 32;
/// Bytes that a datagram takes on the wire beside its own: preamble, Ethernet, IPv4 and UDP
/// headers, frame check, gap between frames.
pub const OVERHEAD_BYTES: usize = 8 + 14 + 20 + 8 + 4 + 12;

/// What a fabric is like.
#[derive(Clone, Copy, Debug)]
pub struct FabricConfig {
    /// Rate of each host's link, in bits a second, each way.
    pub bits_per_s: u64,
    /// Time from host to host on an idle network, without the time that the bits take.
    pub delay: Duration,
    /// Bytes that wait at each of the switch's ports, at most. More are dropped.
    pub queue_bytes: u64,
    /// Bytes that wait at a host's own device, at most. It takes no more, and loses nothing.
    pub device_bytes: u64,
    /// Packets lost, in a million.
    pub loss: u32,
    /// Packets that arrive later than they would, in a million, so that others overtake them.
    pub late: u32,
    /// How much later, at most.
    pub late_by: Duration,
}

impl FabricConfig {
    /// 100 Gbit/s, 10 us for a round trip, deep queues, no faults.
    pub const FAST: Self = Self {
        bits_per_s: 100_000_000_000,
        delay: Duration::from_micros(5),
        queue_bytes: u64::MAX,
        device_bytes: u64::MAX,
        loss: 0,
        late: 0,
        late_by: Duration::ZERO,
    };
}

/// What has happened to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FabricCounts {
    /// Handed to the network.
    pub sent: u64,
    /// Handed to a receiver.
    pub delivered: u64,
    /// Lost at random.
    pub lost: u64,
    /// Dropped at a full port.
    pub dropped: u64,
    /// Made late.
    pub late: u64,
    /// Most bytes that have waited at a port.
    pub queued_bytes_max: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Instant,
    number: u64,
    /// At the switch; else at the receiver.
    at_switch: bool,
    from: SocketAddrV4,
    to: SocketAddrV4,
    bytes: Vec<u8>,
}

struct Shared {
    config: FabricConfig,
    random: Random,
    now: Instant,
    numbers: u64,
    events: BinaryHeap<Reverse<Event>>,
    /// Until when a host's link to the switch is busy, and the switch's link to a host.
    up_busy: BTreeMap<SocketAddrV4, Instant>,
    down_busy: BTreeMap<SocketAddrV4, Instant>,
    arrived: BTreeMap<SocketAddrV4, VecDeque<(SocketAddrV4, Vec<u8>)>>,
    counts: FabricCounts,
}

/// A fabric. Clones are handles to the same one.
#[derive(Clone)]
pub struct Fabric {
    shared: Rc<RefCell<Shared>>,
}

impl Fabric {
    /// A fabric without hosts, at time zero.
    pub fn new(seed: u64, config: FabricConfig) -> Self {
        let shared = Shared {
            config,
            random: Random::new(seed),
            now: Instant::ZERO,
            numbers: 0,
            events: BinaryHeap::new(),
            up_busy: BTreeMap::new(),
            down_busy: BTreeMap::new(),
            arrived: BTreeMap::new(),
            counts: FabricCounts::default(),
        };
        Self { shared: Rc::new(RefCell::new(shared)) }
    }

    /// A host's device, for datagrams of up to `datagram_bytes_max` bytes.
    pub fn open(&self, address: SocketAddrV4, datagram_bytes_max: usize) -> FabricDevice {
        self.shared.borrow_mut().arrived.insert(address, VecDeque::new());
        let fabric = self.clone();
        FabricDevice {
            fabric,
            address,
            datagram_bytes_max,
            burst: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.shared.borrow().now
    }

    /// When something happens next to a packet, if any is under way.
    pub fn next_event(&self) -> Option<Instant> {
        self.shared.borrow().events.peek().map(|Reverse(event)| event.at)
    }

    /// Lets time pass until `now`. Returns who has got packets.
    ///
    /// # Panics
    /// If `now` is in the past.
    pub fn advance(&self, now: Instant) -> Vec<SocketAddrV4> {
        let mut shared = self.shared.borrow_mut();
        assert!(now >= shared.now, "time goes forward");
        let mut receivers = Vec::new();
        while shared.events.peek().is_some_and(|Reverse(event)| event.at <= now) {
            let Reverse(event) = shared.events.pop().expect("peeked");
            shared.now = event.at;
            if event.at_switch {
                shared.switch(event);
            } else if let Some(queue) = shared.arrived.get_mut(&event.to) {
                queue.push_back((event.from, event.bytes));
                shared.counts.delivered += 1;
                receivers.push(event.to);
            }
        }
        shared.now = now;
        receivers
    }

    /// Whether packets wait at `address`.
    pub fn has_arrived(&self, address: SocketAddrV4) -> bool {
        self.shared.borrow().arrived.get(&address).is_some_and(|queue| !queue.is_empty())
    }

    /// What has happened so far.
    pub fn counts(&self) -> FabricCounts {
        self.shared.borrow().counts
    }
}

impl Shared {
    /// How long a datagram of `bytes` bytes occupies a link.
    fn occupies(&self, bytes: usize) -> Duration {
        let bits = (bytes + OVERHEAD_BYTES) as u128 * 8;
        Duration::from_nanos((bits * 1_000_000_000 / u128::from(self.config.bits_per_s)) as u64)
    }

    /// Bytes that a link carries in a time.
    fn bytes_in(&self, span: Duration) -> u64 {
        let bits = u128::from(span.as_nanos()) * u128::from(self.config.bits_per_s);
        u64::try_from(bits / 8_000_000_000).unwrap_or(u64::MAX)
    }

    /// Bytes that wait at a host's own device.
    fn waiting_at(&self, host: SocketAddrV4) -> u64 {
        let free = self.up_busy.get(&host).copied().unwrap_or(self.now).max(self.now);
        self.bytes_in(free.since(self.now))
    }

    fn half_delay(&self) -> Duration {
        Duration::from_nanos(self.config.delay.as_nanos() / 2)
    }

    fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: Vec<u8>) {
        self.counts.sent += 1;
        let free = self.up_busy.get(&from).copied().unwrap_or(self.now).max(self.now);
        let leaves = free + self.occupies(bytes.len());
        self.up_busy.insert(from, leaves);
        if self.random.happens(self.config.loss) {
            self.counts.lost += 1;
            return;
        }
        let mut at = leaves + self.half_delay();
        if self.random.happens(self.config.late) {
            self.counts.late += 1;
            at = at + Duration::from_nanos(self.random.within(0..=self.config.late_by.as_nanos()));
        }
        self.numbers += 1;
        let number = self.numbers;
        self.events.push(Reverse(Event { at, number, at_switch: true, from, to, bytes }));
    }

    fn switch(&mut self, event: Event) {
        let free = self.down_busy.get(&event.to).copied().unwrap_or(self.now).max(self.now);
        let waiting = self.bytes_in(free.since(self.now)) + event.bytes.len() as u64;
        if waiting > self.config.queue_bytes {
            self.counts.dropped += 1;
            return;
        }
        self.counts.queued_bytes_max = self.counts.queued_bytes_max.max(waiting);
        let leaves = free + self.occupies(event.bytes.len());
        self.down_busy.insert(event.to, leaves);
        let at = leaves + self.half_delay();
        self.events.push(Reverse(Event { at, at_switch: false, ..event }));
    }
}

/// A host's device on a [`Fabric`].
pub struct FabricDevice {
    fabric: Fabric,
    address: SocketAddrV4,
    datagram_bytes_max: usize,
    burst: Vec<(SocketAddrV4, Vec<u8>)>,
    outgoing: Vec<(SocketAddrV4, Vec<u8>)>,
}

impl FabricDevice {
    /// The device's address.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// When half of what may wait at the device has left, if it is full: then it is worth while to
    /// poll again.
    pub fn takes_at(&self) -> Instant {
        let shared = self.fabric.shared.borrow();
        let full = shared.config.device_bytes;
        let longest = (self.datagram_bytes_max + OVERHEAD_BYTES) as u64;
        if shared.waiting_at(self.address).saturating_add(longest) <= full {
            return shared.now;
        }
        shared.now + shared.occupies((full / 2) as usize)
    }
}

/// The receiving half of a [`FabricDevice`].
pub struct FabricRx<'a> {
    fabric: &'a Fabric,
    address: SocketAddrV4,
    burst: &'a mut Vec<(SocketAddrV4, Vec<u8>)>,
}

/// The sending half of a [`FabricDevice`]. What it takes leaves at the link's rate.
pub struct FabricTx<'a> {
    fabric: &'a Fabric,
    address: SocketAddrV4,
    datagram_bytes_max: usize,
    /// Bytes that may be queued beside those that wait.
    room: u64,
    outgoing: &'a mut Vec<(SocketAddrV4, Vec<u8>)>,
}

impl Device for FabricDevice {
    type Rx<'a> = FabricRx<'a>;
    type Tx<'a> = FabricTx<'a>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: self.datagram_bytes_max, burst_max: BURST }
    }

    fn split(&mut self) -> (FabricRx<'_>, FabricTx<'_>) {
        let Self { fabric, address, datagram_bytes_max, burst, outgoing } = self;
        let (address, datagram_bytes_max) = (*address, *datagram_bytes_max);
        let shared = fabric.shared.borrow();
        let room = shared.config.device_bytes.saturating_sub(shared.waiting_at(address));
        drop(shared);
        (
            FabricRx { fabric, address, burst },
            FabricTx { fabric, address, datagram_bytes_max, room, outgoing },
        )
    }
}

impl Rx for FabricRx<'_> {
    fn receive(&mut self) -> usize {
        self.burst.clear();
        let mut shared = self.fabric.shared.borrow_mut();
        if let Some(queue) = shared.arrived.get_mut(&self.address) {
            let count = queue.len().min(BURST);
            self.burst.extend(queue.drain(..count));
        }
        self.burst.len()
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let (from, bytes) = &self.burst[index];
        (*from, bytes)
    }
}

impl Tx for FabricTx<'_> {
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        assert!(bytes <= self.datagram_bytes_max, "a datagram of {bytes} bytes is too long");
        self.room = self.room.checked_sub((bytes + OVERHEAD_BYTES) as u64)?;
        self.outgoing.push((peer, vec![0xA5; bytes]));
        self.outgoing.last_mut().map(|(_, bytes)| &mut bytes[..])
    }

    fn flush(&mut self) {
        let mut shared = self.fabric.shared.borrow_mut();
        for (peer, bytes) in self.outgoing.drain(..) {
            shared.send(self.address, peer, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 1)
    }

    fn send(device: &mut FabricDevice, to: SocketAddrV4, packets: usize, bytes: usize) {
        let (_, mut tx) = device.split();
        for _ in 0..packets {
            tx.push(to, bytes).expect("takes all").fill(0);
        }
        tx.flush();
    }

    /// 1,184 bytes take 1,250 on the wire: 100 ns at 100 Gbit/s.
    #[test]
    fn packets_arrive_at_the_links_rate() {
        let fabric = Fabric::new(1, FabricConfig::FAST);
        let (mut a, _b) = (fabric.open(address(1), 1500), fabric.open(address(2), 1500));
        send(&mut a, address(2), 10, 1_184);
        // The first is there after both links and the way, the others 100 ns apart.
        for i in 0..10u64 {
            fabric.advance(Instant::from_nanos(5_200 + i * 100 - 1));
            assert_eq!(fabric.counts().delivered, i);
            fabric.advance(Instant::from_nanos(5_200 + i * 100));
            assert_eq!(fabric.counts().delivered, i + 1);
        }
    }

    #[test]
    fn a_full_port_drops() {
        let config = FabricConfig { queue_bytes: 5_000, ..FabricConfig::FAST };
        let fabric = Fabric::new(1, config);
        let _sink = fabric.open(address(0), 1500);
        for i in 1..=20 {
            send(&mut fabric.open(address(i), 1500), address(0), 1, 1_000);
        }
        fabric.advance(Instant::from_nanos(1_000_000));
        let counts = fabric.counts();
        assert_eq!(counts.dropped + counts.delivered, 20);
        assert!((4..=6).contains(&counts.delivered), "{counts:?}");
    }
}

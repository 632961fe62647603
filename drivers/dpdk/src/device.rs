//! Links with the core's Ethernet port above them: a device of datagrams.

use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration as StdDuration;

use dmrpc_core::device::{Capabilities, Device};
use dmrpc_core::port::{EthernetPort, PortAddress, PortCounters, PortRx, PortTx};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::Wait;
use dmrpc_host::steer::{Lane, SteerStats, Steered};

use crate::error::DpdkError;
use crate::flows::Flows;
use crate::links::Links;
use crate::queue::{QueuePair, ReceiveStats, SendStats};

/// Polls between two looks at the clock. A power of two.
const POLLS_A_LOOK: u32 = 4096;
/// How often links are looked after.
const CARE_INTERVAL: Duration = Duration::from_millis(100);
/// How long a poll loop that sleeps does so: what a packet that came meanwhile waits.
const NAP: StdDuration = StdDuration::from_micros(50);

/// What a device has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DpdkStats {
    /// On the way in.
    pub receive: ReceiveStats,
    /// On the way out.
    pub send: SendStats,
    /// Frames dropped because one of several links took no more.
    pub dropped: u64,
    /// Frames that were no datagrams for us.
    pub port: PortCounters,
    /// Frames handed over between cores.
    pub steer: SteerStats,
    /// Senders that the port leads to their cores.
    pub led: usize,
}

impl DpdkStats {
    /// Hands `each` every count with its name, in an order that stays the same.
    pub fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
        each("device_looks", self.receive.looks);
        each("device_bursts", self.receive.bursts);
        each("device_packets", self.receive.packets);
        each("device_scattered", self.receive.scattered);
        each("device_bad_checksums", self.receive.bad_checksums);
        each("device_sends", self.send.bursts);
        each("device_sent", self.send.packets);
        each("device_blocked", self.send.blocked);
        each("device_dropped", self.dropped);
        each("frames_slow", self.port.slow);
        each("frames_slow_full", self.port.slow_full);
        each("frames_unresolved", self.port.unresolved);
        each("frames_handed_over", self.steer.handed_over);
        each("frames_taken_over", self.steer.taken_over);
        each("frames_not_handed_over", self.steer.dropped);
        each("senders_led", self.led as u64);
    }
}

/// One queue pair of each of several ports as a device with one address.
pub struct DpdkDevice {
    port: Box<EthernetPort<Steered<Links>>>,
    address: SocketAddrV4,
    clock: Clock,
    polls: u32,
    care_at: Instant,
    flows: Flows,
}

impl fmt::Debug for DpdkDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.links().pairs();
        f.debug_struct("DpdkDevice").field("address", &self.address).field("pairs", &pairs).finish()
    }
}

impl DpdkDevice {
    /// A device at `address` over `pairs`, with the hardware address of the first one's port.
    /// `prefix_bits` and `gateway` say who is in the neighbourhood; `seed` is any random number.
    ///
    /// # Errors
    /// [`DpdkError::NoPorts`]: `pairs` is empty.
    ///
    /// # Panics
    /// If the prefix is longer than 32 bits.
    pub fn open(
        pairs: Vec<QueuePair>,
        address: SocketAddrV4,
        prefix_bits: u8,
        gateway: Option<std::net::Ipv4Addr>,
        seed: u64,
    ) -> Result<Self, DpdkError> {
        Self::open_in_lane(pairs, address, prefix_bits, gateway, seed, None)
    }

    /// The same on one core of several that share the ports: the lane's number is the number of
    /// its queue pairs.
    ///
    /// # Errors
    /// [`DpdkError::NoPorts`]: `pairs` is empty.
    ///
    /// # Panics
    /// If the prefix is longer than 32 bits.
    pub fn open_in_lane(
        pairs: Vec<QueuePair>,
        address: SocketAddrV4,
        prefix_bits: u8,
        gateway: Option<std::net::Ipv4Addr>,
        seed: u64,
        mut lane: Option<Lane>,
    ) -> Result<Self, DpdkError> {
        if let Some(lane) = &mut lane {
            lane.set_address(address);
        }
        let hardware = pairs.first().ok_or(DpdkError::NoPorts)?.port().hardware();
        let links = Links::new(pairs)?;
        let clock = Clock::new();
        let who = PortAddress { hardware, address, prefix_bits, gateway };
        let links = Steered::new(links, lane);
        let port = Box::new(EthernetPort::new(links, who, seed, clock.now()));
        let flows = Flows::new();
        Ok(Self { port, address, clock, polls: 0, care_at: Instant::ZERO, flows })
    }

    /// The address that the device is reached at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.address
    }

    /// The links.
    pub fn links(&self) -> &Links {
        self.port.driver().driver()
    }

    /// What was counted since the device was opened.
    pub fn stats(&self) -> DpdkStats {
        let links = self.links();
        DpdkStats {
            receive: links.receive_stats(),
            send: links.send_stats(),
            dropped: links.dropped(),
            port: self.port.counters(),
            steer: self.port.driver().stats(),
            led: self.flows.count(),
        }
    }

    /// Remembers the hardware address of a neighbour, so that it need not be asked for.
    pub fn learn(&self, neighbour: std::net::Ipv4Addr, hardware: [u8; 6]) {
        self.port.learn(neighbour, hardware);
    }

    /// Answers ARP and ICMP, asks for neighbours, and looks after the links.
    #[cold]
    fn care(&mut self) {
        let now = self.clock.now();
        self.port.maintain(now);
        if now >= self.care_at {
            self.care_at = now + CARE_INTERVAL;
            self.links().look_after();
        }
        if let Some(astray) = self.port.driver().astray() {
            self.flows.lead(self.port.driver().driver().pairs(), astray);
        }
    }
}

impl Device for DpdkDevice {
    type Rx<'a> = PortRx<'a, Steered<Links>>;
    type Tx<'a> = PortTx<'a, Steered<Links>>;

    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }

    fn receive_queue(&self) -> usize {
        self.links().receive_queue()
    }

    fn is_memory(&self) -> bool {
        self.links().pairs().iter().all(|pair| pair.port().is_memif())
    }

    fn flushes_cheaply(&self) -> bool {
        self.links().pairs().iter().all(|pair| !pair.port().asks_the_kernel())
    }

    fn borrows(&self) -> bool {
        self.port.borrows()
    }

    #[inline]
    fn split(&mut self) -> (PortRx<'_, Steered<Links>>, PortTx<'_, Steered<Links>>) {
        self.polls = self.polls.wrapping_add(1);
        if self.port.needs_maintenance() || self.polls.is_multiple_of(POLLS_A_LOOK) {
            self.care();
        }
        self.port.split()
    }
}

impl Wait for DpdkDevice {
    /// Ports are polled: this sleeps for 50 us at most.
    fn wait(&self, timeout: StdDuration) -> bool {
        std::thread::sleep(timeout.min(NAP));
        true
    }
}

//! The Ethernet port: makes a [`Device`] of a driver that moves raw frames.
//!
//! Frames that carry a datagram for our port take the fast path and never leave their buffers.
//! Everything else (ARP, ICMP) goes to the slow path, a smoltcp interface of its own, which
//! answers neighbours' questions and pings. Neighbours are learned from what they send; an unknown
//! one is asked for by ARP, and what was to be sent to it meanwhile is dropped: the endpoint's
//! timers send it again.

#![forbid(unsafe_code)]

mod neighbours;
mod slow_path;

use core::net::{Ipv4Addr, SocketAddrV4};
use core::ops::Range;

use smoltcp::wire::EthernetAddress;

use crate::device::{Capabilities, Device, Rx, Tx};
use crate::memory::Loan;
use crate::time::{Duration, Instant};
use crate::wire::ethernet::{
    ARP_REQUEST_BYTES, HEADERS_BYTES, HeaderTemplate, HeaderWords, emit_arp_request, parse_arp,
    parse_udp,
};
use neighbours::Neighbours;
use slow_path::SlowPath;

pub use neighbours::NEIGHBOURS_MAX;

/// Most frames of a burst that the port looks at.
pub const FRAMES_A_BURST: usize = 64;
/// Longest datagram that the port carries, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 9216;
/// How long to wait between two questions for the same neighbour.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What a driver of raw frames can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCapabilities {
    /// Longest frame, in bytes, from the Ethernet header on, without the frame check sequence.
    pub frame_bytes_max: usize,
    /// Most frames that one receive hands over.
    pub burst_max: usize,
}

/// A driver of raw Ethernet frames. The same seam as [`Device`], one layer below.
pub trait FrameDevice {
    /// The receiving half.
    type Rx<'a>: FrameRx
    where
        Self: 'a;
    /// The sending half.
    type Tx<'a>: FrameTx
    where
        Self: 'a;

    /// What this driver can do.
    fn capabilities(&self) -> FrameCapabilities;

    /// Whether frames may end with bytes that are sent from where they lie; see
    /// [`Device::borrows`].
    fn borrows(&self) -> bool {
        false
    }

    /// Both halves, borrowed side by side.
    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>);
}

/// The receiving half of a [`FrameDevice`].
pub trait FrameRx {
    /// Takes in a burst and returns its length; releases the previous one.
    fn receive(&mut self) -> usize;

    /// Frame `index` of the burst.
    ///
    /// # Panics
    /// If `index` is not below what the last [`FrameRx::receive`] returned.
    fn frame(&self, index: usize) -> &[u8];
}

/// The sending half of a [`FrameDevice`].
pub trait FrameTx {
    /// Queues a frame of exactly `bytes` bytes, to be filled in; `None` without room.
    fn push(&mut self, bytes: usize) -> Option<&mut [u8]>;

    /// Hands all queued frames to the medium.
    fn flush(&mut self);

    /// Whether frames can end with bytes that are sent from where they lie.
    #[inline(always)]
    fn borrows(&self) -> bool {
        false
    }

    /// As [`FrameTx::push`], of a frame that ends with the bytes of `loan`; see
    /// [`Tx::push_borrowed`].
    fn push_borrowed(&mut self, bytes: usize, loan: &Loan, ticket: u8) -> Option<&mut [u8]> {
        let _ = (bytes, loan, ticket);
        None
    }

    /// See [`Tx::returned`].
    #[inline(always)]
    fn returned(&mut self) -> Option<(u8, u32)> {
        None
    }
}

/// Header templates that are kept. A power of two.
const TEMPLATES: usize = 64;

/// The headers of datagrams to a peer.
#[derive(Clone, Copy)]
struct Headers {
    peer: SocketAddrV4,
    /// What [`Neighbours::changes`] was when the peer's neighbour was looked up.
    asked_at: u32,
    template: HeaderTemplate,
}

/// Headers of peers, by the last bits of address and port.
type Templates = [Option<Headers>; TEMPLATES];

/// The datagrams of a burst: frame, sender and place in the frame.
type Burst = heapless::Vec<(usize, SocketAddrV4, Range<usize>), FRAMES_A_BURST>;

/// Who a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAddress {
    /// Hardware address: unicast.
    pub hardware: [u8; 6],
    /// IPv4 address and UDP port.
    pub address: SocketAddrV4,
    /// Leading bits of the address that all neighbours share: 0 to 32.
    pub prefix_bits: u8,
    /// Where to send what is for nobody in the neighbourhood.
    pub gateway: Option<Ipv4Addr>,
}

impl PortAddress {
    /// The neighbour to which packets for `peer` go.
    fn next_hop(&self, peer: Ipv4Addr) -> Ipv4Addr {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
        let near = (u32::from(peer) ^ u32::from(*self.address.ip())) & mask == 0;
        if near { peer } else { self.gateway.unwrap_or(peer) }
    }
}

/// Frames that the port dropped, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Handed to the slow path.
    pub slow: u64,
    /// For the slow path, which had no room.
    pub slow_full: u64,
    /// Not sent because the neighbour is not known yet.
    pub unresolved: u64,
}

/// A [`Device`] on top of a [`FrameDevice`].
pub struct EthernetPort<D> {
    driver: D,
    address: PortAddress,
    neighbours: Neighbours,
    slow: SlowPath,
    counters: PortCounters,
    /// The burst's datagrams: frame, sender and place.
    datagrams: Burst,
    /// Headers of the peers last sent to, by the last bits of address and port.
    templates: Templates,
    /// Takes what is for neighbours that are not known yet.
    nowhere: [u8; DATAGRAM_BYTES_MAX],
    unresolved: u64,
    /// The neighbour to ask for, and when it was last done.
    wanted: Option<Ipv4Addr>,
    asked: Option<(Ipv4Addr, Instant)>,
}

impl<D: FrameDevice> EthernetPort<D> {
    /// A port of `driver`. `seed` is any random number; `now` the current time.
    ///
    /// # Panics
    /// If the hardware address is not unicast, or the prefix longer than 32 bits.
    pub fn new(driver: D, address: PortAddress, seed: u64, now: Instant) -> Self {
        assert!(address.prefix_bits <= 32, "a prefix of at most 32 bits");
        let slow = SlowPath::new(&address, driver.capabilities().frame_bytes_max, seed, now);
        Self {
            driver,
            address,
            neighbours: Neighbours::new(),
            slow,
            counters: PortCounters::default(),
            datagrams: heapless::Vec::new(),
            templates: [None; TEMPLATES],
            nowhere: [0; DATAGRAM_BYTES_MAX],
            unresolved: 0,
            wanted: None,
            asked: None,
        }
    }

    /// The driver below.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// What became of frames that are not datagrams.
    pub fn counters(&self) -> PortCounters {
        PortCounters { unresolved: self.unresolved, ..self.counters }
    }

    /// Remembers a neighbour's hardware address, as if it had said so itself.
    pub fn learn(&self, neighbour: Ipv4Addr, hardware: [u8; 6]) {
        self.neighbours.learn(&self.address, neighbour, EthernetAddress(hardware));
    }

    /// Whether [`EthernetPort::maintain`] has something to do.
    #[inline]
    pub fn needs_maintenance(&self) -> bool {
        self.wanted.is_some() || !self.slow.is_idle()
    }

    /// Does the slow path's work: answers ARP and ICMP, asks for unknown neighbours. To be called
    /// now and then, such as after each poll; costs next to nothing when there is nothing to do.
    pub fn maintain(&mut self, now: Instant) {
        if !self.needs_maintenance() {
            return;
        }
        let (_, mut tx) = self.driver.split();
        self.slow.serve(now, &mut tx);
        if let Some(wanted) = self.wanted.take() {
            let recently = self
                .asked
                .is_some_and(|(who, when)| who == wanted && now.since(when) < ASK_AGAIN_AFTER);
            if !recently && let Some(frame) = tx.push(ARP_REQUEST_BYTES) {
                let hardware = EthernetAddress(self.address.hardware);
                emit_arp_request(frame, hardware, *self.address.address.ip(), wanted);
                self.asked = Some((wanted, now));
            }
        }
        tx.flush();
    }
}

impl<D: FrameDevice> Device for EthernetPort<D> {
    type Rx<'a>
        = PortRx<'a, D>
    where
        Self: 'a;
    type Tx<'a>
        = PortTx<'a, D>
    where
        Self: 'a;

    fn capabilities(&self) -> Capabilities {
        let driver = self.driver.capabilities();
        Capabilities {
            datagram_bytes_max: (driver.frame_bytes_max - HEADERS_BYTES).min(DATAGRAM_BYTES_MAX),
            burst_max: driver.burst_max.min(FRAMES_A_BURST),
        }
    }

    fn borrows(&self) -> bool {
        self.driver.borrows()
    }

    fn split(&mut self) -> (PortRx<'_, D>, PortTx<'_, D>) {
        let (rx, tx) = self.driver.split();
        // Receiving learns neighbours and sending looks them up, within one poll.
        let neighbours = &self.neighbours;
        let rx = PortRx {
            driver: rx,
            address: &self.address,
            neighbours,
            slow: &mut self.slow,
            counters: &mut self.counters,
            datagrams: &mut self.datagrams,
        };
        let tx = PortTx {
            driver: tx,
            address: &self.address,
            neighbours,
            templates: &mut self.templates,
            nowhere: &mut self.nowhere,
            unresolved: &mut self.unresolved,
            wanted: &mut self.wanted,
        };
        (rx, tx)
    }
}

/// The receiving half of an [`EthernetPort`].
pub struct PortRx<'a, D: FrameDevice + 'a> {
    driver: D::Rx<'a>,
    address: &'a PortAddress,
    neighbours: &'a Neighbours,
    slow: &'a mut SlowPath,
    counters: &'a mut PortCounters,
    datagrams: &'a mut Burst,
}

impl<D: FrameDevice> Rx for PortRx<'_, D> {
    fn receive(&mut self) -> usize {
        self.datagrams.clear();
        let frames = self.driver.receive();
        // The last datagram's headers and length, and what it was found to be.
        let mut last: Option<(HeaderWords, usize, SocketAddrV4, Range<usize>)> = None;
        for index in 0..frames {
            let frame = self.driver.frame(index);
            let headers = if frames > 1 { HeaderWords::of(frame) } else { None };
            // Packets of a long message come one after the other, all with the same headers.
            if let Some((before, bytes, from, place)) = &last
                && frame.len() == *bytes
                && headers.is_some_and(|headers| headers.is(before))
            {
                let pushed = self.datagrams.push((index, *from, place.clone()));
                debug_assert!(pushed.is_ok(), "bursts are limited to FRAMES_A_BURST");
                continue;
            }
            match parse_udp(frame) {
                Some(udp) if udp.to == self.address.address => {
                    let hop = self.address.next_hop(*udp.from.ip());
                    self.neighbours.learn(self.address, hop, udp.hardware);
                    last = headers
                        .map(|headers| (headers, frame.len(), udp.from, udp.payload.clone()));
                    let pushed = self.datagrams.push((index, udp.from, udp.payload));
                    debug_assert!(pushed.is_ok(), "bursts are limited to FRAMES_A_BURST");
                }
                _ => {
                    if let Some((address, hardware)) = parse_arp(frame) {
                        self.neighbours.learn(self.address, address, hardware);
                    }
                    self.counters.slow += 1;
                    self.counters.slow_full += u64::from(!self.slow.take_in(frame));
                }
            }
        }
        self.datagrams.len()
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let (frame, from, place) = &self.datagrams[index];
        (*from, &self.driver.frame(*frame)[place.clone()])
    }
}

/// The sending half of an [`EthernetPort`].
pub struct PortTx<'a, D: FrameDevice + 'a> {
    driver: D::Tx<'a>,
    address: &'a PortAddress,
    neighbours: &'a Neighbours,
    templates: &'a mut Templates,
    nowhere: &'a mut [u8; DATAGRAM_BYTES_MAX],
    unresolved: &'a mut u64,
    wanted: &'a mut Option<Ipv4Addr>,
}

impl<D: FrameDevice> Tx for PortTx<'_, D> {
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        let Some(template) = template_of(self.templates, self.address, peer, self.neighbours)
        else {
            *self.wanted = Some(self.address.next_hop(*peer.ip()));
            *self.unresolved += 1;
            return Some(&mut self.nowhere[..bytes]);
        };
        let frame = self.driver.push(HEADERS_BYTES + bytes)?;
        template.emit(frame, bytes);
        Some(&mut frame[HEADERS_BYTES..])
    }

    fn flush(&mut self) {
        self.driver.flush();
    }

    #[inline]
    fn borrows(&self, peer: SocketAddrV4) -> bool {
        // What goes nowhere is copied: then nothing has to come back.
        self.driver.borrows() && self.neighbours.find(self.address.next_hop(*peer.ip())).is_some()
    }

    fn push_borrowed(
        &mut self,
        peer: SocketAddrV4,
        bytes: usize,
        loan: &Loan,
        ticket: u8,
    ) -> Option<&mut [u8]> {
        let template = template_of(self.templates, self.address, peer, self.neighbours)?;
        let frame = self.driver.push_borrowed(HEADERS_BYTES + bytes, loan, ticket)?;
        template.emit(frame, bytes + loan.bytes());
        Some(&mut frame[HEADERS_BYTES..])
    }

    #[inline]
    fn returned(&mut self) -> Option<(u8, u32)> {
        self.driver.returned()
    }
}

/// The headers of datagrams to `peer`; `None` if its neighbour is not known.
#[inline]
fn template_of<'t>(
    templates: &'t mut Templates,
    address: &PortAddress,
    peer: SocketAddrV4,
    neighbours: &Neighbours,
) -> Option<&'t HeaderTemplate> {
    let place = (u32::from(*peer.ip()) as usize ^ usize::from(peer.port())) % TEMPLATES;
    let known = &mut templates[place];
    let asked_at = neighbours.changes();
    let fits = matches!(known, Some(to) if to.peer == peer && to.asked_at == asked_at);
    if !fits {
        let hardware = neighbours.find(address.next_hop(*peer.ip()))?;
        let source = EthernetAddress(address.hardware);
        let template = HeaderTemplate::new(source, address.address, hardware, peer);
        *known = Some(Headers { peer, asked_at, template });
    }
    known.as_ref().map(|headers| &headers.template)
}

//! The slow path: a smoltcp interface that answers ARP and ICMP.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use super::{FrameTx, PortAddress};
use crate::time::Instant;

/// Frames that wait on either side of the interface.
const FRAMES_MAX: usize = 8;
/// Longest frame on the slow path, in bytes: an MTU of 1500 and the Ethernet header.
const FRAME_BYTES_MAX: usize = 1514;

type Frame = heapless::Vec<u8, FRAME_BYTES_MAX>;

/// The interface and the frames on their way to and from it.
pub(super) struct SlowPath {
    interface: Interface,
    queues: Queues,
}

struct Queues {
    incoming: heapless::Deque<Frame, FRAMES_MAX>,
    outgoing: heapless::Deque<Frame, FRAMES_MAX>,
    frame_bytes_max: usize,
}

fn smoltcp_time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((now.as_nanos() / 1000) as i64)
}

impl SlowPath {
    pub(super) fn new(
        address: &PortAddress,
        frame_bytes_max: usize,
        seed: u64,
        now: Instant,
    ) -> Self {
        let hardware = HardwareAddress::Ethernet(EthernetAddress(address.hardware));
        let mut config = Config::new(hardware);
        config.random_seed = seed;
        let frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_MAX);
        let mut queues = Queues {
            incoming: heapless::Deque::new(),
            outgoing: heapless::Deque::new(),
            frame_bytes_max,
        };
        let mut interface = Interface::new(config, &mut queues, smoltcp_time(now));
        interface.update_ip_addrs(|addresses| {
            let ours = Ipv4Cidr::new(*address.address.ip(), address.prefix_bits);
            let pushed = addresses.push(IpCidr::Ipv4(ours));
            debug_assert!(pushed.is_ok(), "an interface has room for one address");
        });
        if let Some(gateway) = address.gateway {
            let gateway: Ipv4Address = gateway;
            let added = interface.routes_mut().add_default_ipv4_route(gateway);
            debug_assert!(added.is_ok(), "an interface has room for one route");
        }
        Self { interface, queues }
    }

    /// Takes a copy of a frame; false if there is no room for it.
    pub(super) fn take_in(&mut self, frame: &[u8]) -> bool {
        Frame::from_slice(frame).is_ok_and(|frame| self.queues.incoming.push_back(frame).is_ok())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queues.incoming.is_empty() && self.queues.outgoing.is_empty()
    }

    /// Lets the interface look at what came in, and sends what it answers.
    pub(super) fn serve(&mut self, now: Instant, tx: &mut impl FrameTx) {
        let mut sockets = SocketSet::new(&mut [][..]);
        self.interface.poll(smoltcp_time(now), &mut self.queues, &mut sockets);
        while let Some(frame) = self.queues.outgoing.front() {
            let Some(buffer) = tx.push(frame.len()) else { return };
            buffer.copy_from_slice(frame);
            self.queues.outgoing.pop_front();
        }
    }
}

impl phy::Device for Queues {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(RxToken, TxToken<'_>)> {
        if self.outgoing.is_full() {
            return None;
        }
        let frame = self.incoming.pop_front()?;
        Some((RxToken(frame), TxToken(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<TxToken<'_>> {
        (!self.outgoing.is_full()).then_some(TxToken(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.frame_bytes_max;
        capabilities
    }
}

struct RxToken(Frame);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0)
    }
}

struct TxToken<'a>(&'a mut heapless::Deque<Frame, FRAMES_MAX>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        let mut frame = Frame::new();
        let sized = frame.resize(bytes, 0);
        debug_assert!(sized.is_ok(), "smoltcp keeps to the device's frame size");
        let result = fill(&mut frame);
        // Tokens are only handed out while there is room.
        let _ = self.0.push_back(frame);
        result
    }
}

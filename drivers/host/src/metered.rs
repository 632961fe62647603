//! A device that keeps an account of what was sent to whom, and what came from whom.

use std::net::SocketAddrV4;
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};

use crate::idle::{Doorbell, Wait};

/// Peers that are told apart in each direction; further ones are counted together.
pub const PEERS_MAX: usize = 32;

/// What went to one peer, or came from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes, our headers included, those below (UDP, IP, Ethernet) not.
    pub bytes: u64,
}

/// Any device, and what went through it.
#[derive(Debug)]
pub struct Metered<D> {
    device: D,
    sent: Account,
    received: Account,
}

#[derive(Debug)]
struct Account {
    peers: Vec<(SocketAddrV4, Traffic)>,
    others: Traffic,
}

impl<D> Metered<D> {
    /// Wraps a device; the accounts are empty.
    pub fn new(device: D) -> Self {
        Self { device, sent: Account::new(), received: Account::new() }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What was sent to `peer`: queued for sending, that is; repetitions count each time.
    pub fn sent_to(&self, peer: SocketAddrV4) -> Traffic {
        self.sent.look(peer)
    }

    /// What came from `peer`, good or bad.
    pub fn received_from(&self, peer: SocketAddrV4) -> Traffic {
        self.received.look(peer)
    }

    /// What was sent beyond the first [`PEERS_MAX`] peers.
    pub fn sent_to_others(&self) -> Traffic {
        self.sent.others
    }
}

impl Account {
    fn new() -> Self {
        Self { peers: Vec::with_capacity(PEERS_MAX), others: Traffic::default() }
    }

    fn look(&self, peer: SocketAddrV4) -> Traffic {
        let found = self.peers.iter().find(|(known, _)| *known == peer);
        found.map_or(Traffic::default(), |(_, traffic)| *traffic)
    }

    fn count(&mut self, peer: SocketAddrV4, bytes: usize) {
        let traffic = self.of(peer);
        traffic.datagrams += 1;
        traffic.bytes += bytes as u64;
    }

    fn of(&mut self, peer: SocketAddrV4) -> &mut Traffic {
        let place = self.peers.iter().position(|(known, _)| *known == peer);
        match place {
            Some(place) => &mut self.peers[place].1,
            None if self.peers.len() < PEERS_MAX => {
                self.peers.push((peer, Traffic::default()));
                let last = self.peers.len() - 1;
                &mut self.peers[last].1
            }
            None => &mut self.others,
        }
    }
}

impl<D: Device> Device for Metered<D> {
    type Rx<'a>
        = MeteredRx<'a, D>
    where
        Self: 'a;
    type Tx<'a>
        = MeteredTx<'a, D>
    where
        Self: 'a;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn receive_queue(&self) -> usize {
        self.device.receive_queue()
    }

    fn keeps_bytes(&self) -> bool {
        self.device.keeps_bytes()
    }

    fn is_memory(&self) -> bool {
        self.device.is_memory()
    }

    fn flushes_cheaply(&self) -> bool {
        self.device.flushes_cheaply()
    }

    fn is_lossless(&self) -> bool {
        self.device.is_lossless()
    }

    fn split(&mut self) -> (MeteredRx<'_, D>, MeteredTx<'_, D>) {
        let (rx, tx) = self.device.split();
        let rx = MeteredRx { rx, account: &mut self.received };
        (rx, MeteredTx { tx, account: &mut self.sent })
    }
}

impl<D: Wait> Wait for Metered<D> {
    fn announce(&self) {
        self.device.announce();
    }

    fn retract(&self) {
        self.device.retract();
    }

    fn wait(&self, timeout: Duration) -> bool {
        self.device.wait(timeout)
    }

    fn wait_with(&self, doorbell: &Doorbell, timeout: Duration) -> bool {
        self.device.wait_with(doorbell, timeout)
    }
}

/// The receiving half of a [`Metered`] device.
pub struct MeteredRx<'a, D: Device + 'a> {
    rx: D::Rx<'a>,
    account: &'a mut Account,
}

impl<D: Device> Rx for MeteredRx<'_, D> {
    fn receive(&mut self) -> usize {
        let count = self.rx.receive();
        for index in 0..count {
            let (peer, datagram) = self.rx.packet(index);
            self.account.count(peer, datagram.len());
        }
        count
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        self.rx.packet(index)
    }
}

/// The sending half of a [`Metered`] device.
pub struct MeteredTx<'a, D: Device + 'a> {
    tx: D::Tx<'a>,
    account: &'a mut Account,
}

impl<'a, D: Device> Tx for MeteredTx<'a, D> {
    const CAN_BE_LOSSLESS: bool = <D::Tx<'a> as Tx>::CAN_BE_LOSSLESS;

    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        let buffer = self.tx.push(peer, bytes)?;
        self.account.count(peer, bytes);
        Some(buffer)
    }

    fn flush(&mut self) {
        self.tx.flush();
    }

    fn path_bytes(&self, peer: SocketAddrV4) -> Option<usize> {
        self.tx.path_bytes(peer)
    }
}

/// A byte count for people: three digits and a binary unit.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit < UNITS.len() - 1 {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || amount >= 99.95 {
        0
    } else if amount >= 9.995 {
        1
    } else {
        2
    };
    format!("{amount:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// A device that takes two datagrams a burst and gives one.
    struct Drain([u8; 100]);
    struct DrainRx;
    struct DrainTx<'a>(&'a mut [u8; 100], usize);

    impl Device for Drain {
        type Rx<'a> = DrainRx;
        type Tx<'a> = DrainTx<'a>;

        fn capabilities(&self) -> Capabilities {
            Capabilities { datagram_bytes_max: 100, burst_max: 1 }
        }

        fn split(&mut self) -> (DrainRx, DrainTx<'_>) {
            (DrainRx, DrainTx(&mut self.0, 0))
        }
    }

    impl dmrpc_core::device::Rx for DrainRx {
        fn receive(&mut self) -> usize {
            1
        }

        fn packet(&self, _index: usize) -> (SocketAddrV4, &[u8]) {
            (peer(7), &[0; 12])
        }
    }

    impl Tx for DrainTx<'_> {
        fn push(&mut self, _peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
            self.1 += 1;
            (self.1 <= 2).then_some(&mut self.0[..bytes])
        }

        fn flush(&mut self) {}
    }

    fn peer(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    #[test]
    fn what_is_sent_is_counted_by_peer_and_what_is_refused_is_not() {
        let mut device = Metered::new(Drain([0; 100]));
        for _ in 0..3 {
            let (_, mut tx) = device.split();
            assert!(tx.push(peer(1), 10).is_some());
            assert!(tx.push(peer(2), 1).is_some());
            assert!(tx.push(peer(2), 1).is_none());
        }
        assert_eq!(device.sent_to(peer(1)), Traffic { datagrams: 3, bytes: 30 });
        assert_eq!(device.sent_to(peer(2)), Traffic { datagrams: 3, bytes: 3 });
        assert_eq!(device.sent_to(peer(3)), Traffic::default());
    }

    #[test]
    fn what_comes_is_counted_once_however_often_it_is_looked_at() {
        let mut device = Metered::new(Drain([0; 100]));
        let (mut rx, _) = device.split();
        assert_eq!(rx.receive(), 1);
        assert_eq!(rx.packet(0), rx.packet(0));
        assert_eq!(device.received_from(peer(7)), Traffic { datagrams: 1, bytes: 12 });
    }

    #[test]
    fn peers_beyond_the_limit_share_an_account() {
        let mut device = Metered::new(Drain([0; 100]));
        for port in 0..PEERS_MAX as u16 + 5 {
            assert!(device.split().1.push(peer(port), 2).is_some());
        }
        assert_eq!(device.sent_to_others(), Traffic { datagrams: 5, bytes: 10 });
    }

    #[test]
    fn bytes_for_people() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1536, "1.50 KiB"),
            (2 << 20, "2.00 MiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}

//! A device that keeps an account of what was sent to whom.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};

use dmrpc_core::device::{Capabilities, Device, Tx};

/// Peers that are told apart; what goes to further ones is counted together.
pub const PEERS_MAX: usize = 32;

/// What was sent to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes, our headers included, those below (UDP, IP, Ethernet) not.
    pub bytes: u64,
}

/// Any device, and what was sent through it.
#[derive(Debug)]
pub struct Metered<D> {
    device: D,
    account: Account,
}

#[derive(Debug)]
struct Account {
    peers: Vec<(SocketAddrV4, Traffic)>,
    others: Traffic,
}

impl<D> Metered<D> {
    /// Wraps a device; the account is empty.
    pub fn new(device: D) -> Self {
        let account = Account { peers: Vec::with_capacity(PEERS_MAX), others: Traffic::default() };
        Self { device, account }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What was sent to `peer`: queued for sending, that is; repetitions count each time.
    pub fn sent_to(&self, peer: SocketAddrV4) -> Traffic {
        let found = self.account.peers.iter().find(|(known, _)| *known == peer);
        found.map_or(Traffic::default(), |(_, traffic)| *traffic)
    }

    /// All peers that something was sent to, in the order of the first time.
    pub fn peers(&self) -> impl Iterator<Item = (SocketAddrV4, Traffic)> {
        self.account.peers.iter().copied()
    }

    /// What was sent beyond the first [`PEERS_MAX`] peers.
    pub fn others(&self) -> Traffic {
        self.account.others
    }
}

impl Account {
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
        = D::Rx<'a>
    where
        Self: 'a;
    type Tx<'a>
        = MeteredTx<'a, D>
    where
        Self: 'a;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn split(&mut self) -> (D::Rx<'_>, MeteredTx<'_, D>) {
        let (rx, tx) = self.device.split();
        (rx, MeteredTx { tx, account: &mut self.account })
    }
}

impl<D: AsFd> AsFd for Metered<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// The sending half of a [`Metered`] device.
pub struct MeteredTx<'a, D: Device + 'a> {
    tx: D::Tx<'a>,
    account: &'a mut Account,
}

impl<D: Device> Tx for MeteredTx<'_, D> {
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        let buffer = self.tx.push(peer, bytes)?;
        let traffic = self.account.of(peer);
        traffic.datagrams += 1;
        traffic.bytes += bytes as u64;
        Some(buffer)
    }

    fn flush(&mut self) {
        self.tx.flush();
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

    /// A device that takes everything and gives nothing.
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
            0
        }

        fn packet(&self, _index: usize) -> (SocketAddrV4, &[u8]) {
            unreachable!("nothing is ever received")
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
        assert_eq!(device.peers().count(), 2);
    }

    #[test]
    fn peers_beyond_the_limit_share_an_account() {
        let mut device = Metered::new(Drain([0; 100]));
        for port in 0..PEERS_MAX as u16 + 5 {
            assert!(device.split().1.push(peer(port), 2).is_some());
        }
        assert_eq!(device.others(), Traffic { datagrams: 5, bytes: 10 });
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

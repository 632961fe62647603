//! Which lane serves whom: a table that all lanes share.

use std::sync::atomic::{AtomicU64, Ordering};

/// Peers that are remembered. A power of two.
const PLACES: usize = 1 << 14;
/// Places where a peer may be.
const PROBES: usize = 16;
/// Bits of a peer's address and port.
const KEY_BITS: u32 = 48;

/// An IPv4 address and a UDP port as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    pub(super) const fn new(ip: [u8; 4], port: [u8; 2]) -> Self {
        let [a, b, c, d] = ip;
        let [e, f] = port;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    pub(super) fn of(address: std::net::SocketAddrV4) -> Self {
        Self::new(address.ip().octets(), address.port().to_be_bytes())
    }

    /// The address.
    pub(super) fn ip(self) -> std::net::Ipv4Addr {
        ((self.0 >> 16) as u32).into()
    }

    /// The port.
    pub(super) const fn port(self) -> u16 {
        self.0 as u16
    }

    pub(super) const fn number(self) -> u64 {
        self.0
    }

    fn place(self) -> usize {
        // The upper bits of a product with 2^64 over the golden ratio.
        (self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as usize % PLACES
    }
}

/// Peers and their lanes. A peer belongs to the lane that heard of it first, for good: what the
/// network's own distribution does with it is usually the same for ever, so most frames need no
/// hand-over. Nothing is ever taken out, so all lanes agree without a lock; peers that find the
/// table full belong to the lane that their port says, which all agree on, too.
pub(super) struct Owners {
    /// Zero, or the lane plus one above the peer's key.
    places: Box<[AtomicU64]>,
    lanes: usize,
}

impl Owners {
    pub(super) fn new(lanes: usize) -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), lanes }
    }

    /// The lane of `peer`: `asking`, if nobody has heard of it.
    #[inline]
    pub(super) fn find(&self, peer: Key, asking: usize) -> usize {
        let claim = (asking as u64 + 1) << KEY_BITS | peer.0;
        let first = peer.place();
        for probe in 0..PROBES {
            let place = &self.places[(first + probe) % PLACES];
            // The word says all there is to know: no order between words matters.
            let mut word = place.load(Ordering::Relaxed);
            if word == 0 {
                match place.compare_exchange(0, claim, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return asking,
                    Err(theirs) => word = theirs,
                }
            }
            if word & ((1 << KEY_BITS) - 1) == peer.0 {
                return (word >> KEY_BITS) as usize - 1;
            }
        }
        usize::from(peer.port()) % self.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn key(number: u32) -> Key {
        let [a, b, c, d] = number.to_be_bytes();
        Key::new([10, 0, a, b], [c, d])
    }

    #[test]
    fn who_asks_first_has_it() {
        let owners = Owners::new(3);
        assert_eq!(owners.find(key(7), 2), 2);
        assert_eq!(owners.find(key(7), 0), 2);
        assert_eq!(owners.find(key(8), 0), 0);
        let address = std::net::SocketAddrV4::new([10, 0, 0, 9].into(), 515);
        assert_eq!((Key::of(address).ip(), Key::of(address).port()), (*address.ip(), 515));
    }

    #[test]
    fn all_agree_even_when_it_is_full() {
        let owners = Owners::new(4);
        let answers: Vec<Vec<usize>> = thread::scope(|scope| {
            let ask = |lane| {
                let owners = &owners;
                scope.spawn(move || (0..40_000).map(|peer| owners.find(key(peer), lane)).collect())
            };
            let threads: Vec<_> = (0..4).map(ask).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for others in &answers[1..] {
            assert_eq!(&answers[0], others);
        }
        let again: Vec<usize> = (0..40_000).map(|peer| owners.find(key(peer), 3)).collect();
        assert_eq!(answers[0], again);
    }
}

//! Which lane serves whom: a table that all lanes share.

use crate::sync::{AtomicU64, Ordering};

/// Peers that are remembered, usually.
pub(super) const PEERS_MAX: usize = 1 << 14;
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

    fn hash(self) -> usize {
        // The upper bits of a product with 2^64 over the golden ratio.
        (self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as usize
    }
}

/// Peers and their lanes. A peer belongs to the lane that heard of it first, for good: what the
/// network's own distribution does with it is usually the same for ever, so most frames need no
/// hand-over. Nothing is ever taken out, so all lanes agree without a lock; peers that find the
/// table full belong to the lane that their port says, which all agree on, too.
///
/// The number of places is a power of two.
pub(super) struct Owners<const PLACES: usize = PEERS_MAX> {
    /// Zero, or the lane plus one above the peer's key.
    places: Box<[AtomicU64]>,
    lanes: usize,
}

impl<const PLACES: usize> Owners<PLACES> {
    pub(super) fn new(lanes: usize) -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), lanes }
    }

    /// The lane of `peer`: `asking`, if nobody has heard of it.
    #[inline]
    pub(super) fn find(&self, peer: Key, asking: usize) -> usize {
        let claim = (asking as u64 + 1) << KEY_BITS | peer.0;
        let first = peer.hash();
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

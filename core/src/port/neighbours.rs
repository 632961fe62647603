//! Who has which hardware address.

use core::cell::Cell;
use core::net::Ipv4Addr;

use smoltcp::wire::EthernetAddress;

use super::PortAddress;

/// Neighbours that are remembered. A power of two; beyond it, newer ones replace older ones.
pub const NEIGHBOURS_MAX: usize = 256;
/// Places where an address may be kept.
const PROBES: usize = 8;

/// A table that both halves of a port look into: the receiving one learns, the sending one asks.
pub(super) struct Neighbours {
    places: [Cell<Option<(Ipv4Addr, EthernetAddress)>>; NEIGHBOURS_MAX],
    /// Grows with each change, so that who asked before need not ask again.
    changes: Cell<u32>,
}

impl Neighbours {
    pub(super) const fn new() -> Self {
        Self { places: [const { Cell::new(None) }; NEIGHBOURS_MAX], changes: Cell::new(0) }
    }

    /// As long as this stays the same, so does what [`Neighbours::find`] says.
    #[inline]
    pub(super) fn changes(&self) -> u32 {
        self.changes.get()
    }

    /// The places where `address` may be.
    fn places(address: Ipv4Addr) -> impl Iterator<Item = usize> {
        // Neighbours differ in their last bits; those alone spread them.
        let first = u32::from(address) as usize;
        (0..PROBES).map(move |probe| (first + probe) % NEIGHBOURS_MAX)
    }

    #[inline]
    pub(super) fn find(&self, address: Ipv4Addr) -> Option<EthernetAddress> {
        Self::places(address)
            .filter_map(|place| self.places[place].get())
            .find_map(|(known, hardware)| (known == address).then_some(hardware))
    }

    /// Remembers what a neighbour says of itself. Addresses outside the neighbourhood, and
    /// hardware addresses that are not one station's, are not believed.
    #[inline]
    pub(super) fn learn(&self, ours: &PortAddress, address: Ipv4Addr, hardware: EthernetAddress) {
        if self.find(address) == Some(hardware) {
            return;
        }
        let near = ours.next_hop(address) == address;
        let station = hardware.is_unicast() && hardware.0 != ours.hardware;
        let host = !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
        if !near || !station || !host {
            return;
        }
        let place = Self::places(address)
            .find(|place| self.places[*place].get().is_none_or(|(known, _)| known == address))
            .unwrap_or(u32::from(address) as usize % NEIGHBOURS_MAX);
        self.places[place].set(Some((address, hardware)));
        self.changes.set(self.changes.get().wrapping_add(1));
    }
}

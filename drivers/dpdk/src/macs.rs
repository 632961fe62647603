//! Which hardware address is at the end of which link: the table of a learning switch.

use std::cell::Cell;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// Hardware addresses that are remembered. A power of two; newer ones replace older ones.
const PLACES: usize = 64;

/// Addresses and their links. Receiving learns, sending asks, within one poll.
pub(crate) struct Macs {
    places: [Cell<Option<(Mac, u8)>>; PLACES],
}

impl Macs {
    pub(crate) const fn new() -> Self {
        Self { places: [const { Cell::new(None) }; PLACES] }
    }

    fn place(mac: Mac) -> usize {
        // Neighbours differ in their last bytes.
        usize::from(mac[5] ^ mac[4].rotate_left(3) ^ mac[3]) % PLACES
    }

    /// Remembers that `mac` is at the end of `link`.
    #[inline]
    pub(crate) fn learn(&self, mac: Mac, link: usize) {
        // The lowest bit of the first byte marks a group, which nobody is.
        if mac[0] & 1 == 0 {
            self.places[Self::place(mac)].set(Some((mac, link as u8)));
        }
    }

    /// The link at whose end `mac` is, if it has been heard of.
    #[inline]
    pub(crate) fn find(&self, mac: Mac) -> Option<usize> {
        match self.places[Self::place(mac)].get() {
            Some((known, link)) if known == mac => Some(link.into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learned_is_found_and_groups_are_not_learned() {
        let macs = Macs::new();
        for last in 0..PLACES as u8 {
            macs.learn([2, 0, 0, 0, 0, last], usize::from(last) % 3);
        }
        for last in 0..PLACES as u8 {
            assert_eq!(macs.find([2, 0, 0, 0, 0, last]), Some(usize::from(last) % 3));
        }
        macs.learn([2, 0, 0, 0, 0, 5], 7);
        assert_eq!(macs.find([2, 0, 0, 0, 0, 5]), Some(7));
        macs.learn([0xFF; 6], 1);
        assert_eq!(macs.find([0xFF; 6]), None);
    }
}

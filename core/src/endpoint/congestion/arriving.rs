//! What of a session comes in, and which of it has its turn.
//!
//! A receiver shares what may be under way to it among sessions first, so that a session with more
//! messages has no more. Within a session the share goes to as many messages as there are eight
//! packets for, in turn by slot; the others wait, and are granted nothing until one in front of
//! them is over.

use super::share;

/// Packets that a message has under way, if it has its turn and its session's share allows.
const PACKETS_A_MESSAGE: u32 = 8;

/// Messages of several packets that come in, of one session.
#[derive(Clone, Copy, Debug)]
pub(in crate::endpoint) struct Arriving {
    /// Bit `i`: that of slot `i`.
    slots: u64,
    /// The slot whose turn is the first.
    first: u32,
}

impl Arriving {
    pub(in crate::endpoint) const NONE: Self = Self { slots: 0, first: 0 };

    /// Slots in the order of their turns.
    fn in_turn(&self) -> u64 {
        self.slots.rotate_right(self.first)
    }

    fn count(&self) -> u32 {
        self.slots.count_ones()
    }

    /// Messages that have their turn, where the session may have `packets` under way.
    fn active(&self, packets: u32) -> u32 {
        (packets / PACKETS_A_MESSAGE).clamp(1, self.count())
    }

    /// The message of `slot` begins to come in. Returns whether it is the session's only one.
    pub(super) fn begin(&mut self, slot: u32) -> bool {
        let alone = self.slots == 0;
        if alone {
            self.first = slot;
        }
        self.slots |= 1 << slot;
        alone
    }

    /// The message of `slot` is over. Returns whether it was the session's only one.
    pub(super) fn end(&mut self, slot: u32) -> bool {
        self.slots &= !(1 << slot);
        // Who comes again in the same slot is behind all that are waiting.
        let skipped = self.in_turn().trailing_zeros();
        self.first = (self.first + skipped) % 64;
        self.slots == 0
    }

    /// How many packets of the message of `slot` may be under way, where `packets` of the session
    /// may: none if it has to wait.
    #[inline]
    pub(in crate::endpoint) fn share(&self, slot: u32, packets: u32) -> u32 {
        if self.slots & (self.slots.wrapping_sub(1)) == 0 {
            return packets;
        }
        let place = slot.wrapping_sub(self.first) % 64;
        let in_front = (self.in_turn() & ((1 << place) - 1)).count_ones();
        let active = self.active(packets);
        if in_front < active { share(packets, active) } else { 0 }
    }

    /// The slot that has its turn since another's message is over, if there is one.
    pub(in crate::endpoint) fn next(&self, packets: u32) -> Option<u32> {
        if self.slots == 0 {
            return None;
        }
        let mut in_turn = self.in_turn();
        for _ in 1..self.active(packets) {
            in_turn &= in_turn - 1;
        }
        Some((in_turn.trailing_zeros() + self.first) % 64)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_message_alone_has_all() {
        let mut arriving = Arriving::NONE;
        assert!(arriving.begin(7));
        assert_eq!(arriving.share(7, 100), 100);
        assert!(arriving.end(7));
        assert_eq!(arriving.next(100), None);
    }

    #[test]
    fn shares_of_a_session_are_its_share_whatever_it_has() {
        for packets in [1, 8, 30, 128] {
            let mut arriving = Arriving::NONE;
            for slot in 0..60 {
                arriving.begin(slot);
            }
            let sum: u32 = (0..60).map(|slot| arriving.share(slot, packets)).sum();
            assert!(sum <= packets && sum > packets * 7 / 8, "{sum} of {packets}");
        }
    }

    /// Each message that is over is followed at once by another in its slot: all have their turns.
    #[test]
    fn nobody_waits_for_ever() {
        let mut arriving = Arriving::NONE;
        for slot in 0..64 {
            arriving.begin(slot);
        }
        let mut ended = [0; 64];
        for round in 0..6_400u32 {
            let active: Vec<u32> = (0..64).filter(|slot| arriving.share(*slot, 16) > 0).collect();
            assert_eq!(active.len(), 2);
            let slot = active[round as usize / 3 % 2];
            arriving.end(slot);
            ended[slot as usize] += 1;
            let next = arriving.next(16).expect("others wait");
            assert!(arriving.share(next, 16) > 0, "who is told has its turn");
            arriving.begin(slot);
        }
        assert!(ended.iter().all(|times| *times >= 20), "{ended:?}");
    }
}

//! The queue of what is ready to be sent: sessions take turns, and within a session slots are
//! served first come, first served.

use crate::wire::control::SLOTS_MAX;

/// "No session" in links.
pub(super) const NONE: u32 = u32::MAX;
/// Marks a server session among the ids in the queue.
pub(super) const SERVER: u32 = 1 << 31;

const SLOTS: usize = SLOTS_MAX as usize;

/// Slots of a session with packets to send. Each is in it at most once, which its `queued` tells,
/// so there is room for all.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Queue {
    /// The session behind it in the endpoint's queue.
    pub(super) next: u32,
    /// The session is in the endpoint's queue.
    pub(super) linked: bool,
    /// Where the first is. This and the end grow until the queue is rewound; their low bits are
    /// places, as many as the session has slots.
    first: u8,
    end: u8,
    slots: [u8; SLOTS],
}

impl Queue {
    pub(super) const EMPTY: Self =
        Self { next: NONE, linked: false, first: 0, end: 0, slots: [0; SLOTS] };

    /// Puts `slot` behind the others. `places` is the number of places less one, always the same.
    #[inline(always)]
    pub(super) fn push(&mut self, slot: usize, places: usize) {
        self.slots[usize::from(self.end) & (places % SLOTS)] = slot as u8;
        self.end = self.end.wrapping_add(1);
    }

    #[inline(always)]
    pub(super) fn front(&self, places: usize) -> Option<usize> {
        (!self.is_empty()).then(|| self.slots[usize::from(self.first) & (places % SLOTS)].into())
    }

    /// Takes the front away.
    #[inline(always)]
    pub(super) fn pop(&mut self) {
        self.first = self.first.wrapping_add(1);
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Of an empty one: the next to come have the places at the front, which lie where a usual
    /// call's other bytes do.
    #[inline(always)]
    pub(super) fn rewind(&mut self) {
        (self.first, self.end) = (0, 0);
    }
}

/// Sessions whose queues are not empty, linked through the sessions.
pub(super) struct Ready {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl Ready {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

const _: () = assert!(256 % SLOTS == 0, "places follow from the low bits of a byte");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served_however_often() {
        for slots in [1, 2, 8, SLOTS] {
            let places = slots - 1;
            let mut queue = Queue::EMPTY;
            for round in 0..1_000 {
                for slot in 0..slots {
                    queue.push((slot + round) % slots, places);
                }
                for slot in 0..slots {
                    assert_eq!(queue.front(places), Some((slot + round) % slots));
                    queue.pop();
                }
                assert_eq!(queue.front(places), None);
                if round % 3 == 0 {
                    queue.rewind();
                }
            }
        }
    }

    #[test]
    fn one_that_is_rewound_whenever_it_is_empty_stays_at_the_front() {
        let mut queue = Queue::EMPTY;
        for slot in 0..SLOTS {
            queue.push(slot, SLOTS - 1);
            assert_eq!(
                (queue.front(SLOTS - 1), queue.slots[1..].iter().max()),
                (Some(slot), Some(&0))
            );
            queue.pop();
            queue.rewind();
        }
    }
}

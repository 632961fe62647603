//! Calls that are waited for, in the order in which they began: the timers of endpoints with
//! thousands of sessions.
//!
//! Nearly every call is over long before its timer. With a few sessions a slot's timer just stays
//! armed from call to call. With thousands each call would arm its timer and see it fire: an entry
//! of the wheel, its neighbour and the slot, none of which is in a cache by then. So there the slot
//! of a call stands in a line, and is looked at when it has stood there for [`AGE`] ticks. A bit
//! says whether its call is still under way: one that is over has touched only the two ends of the
//! line and its bits, which lie close together for all slots. One that is not is the wheel's.

use super::wheel::FINE_SHIFT;
use crate::time::{Duration, Instant};

/// Slots of one part of the line's memory.
const PART_SLOTS: usize = 512;
const WORDS: usize = PART_SLOTS / 64;
/// Ticks that are remembered: a power of two, more than [`AGE`].
const TICKS: usize = 8;
/// Ticks after which a slot is looked at.
const AGE: u64 = 6;
/// Who can wait for so long may stand in line.
const SPAN: Duration = Duration::from_nanos((AGE + 1) << FINE_SHIFT);

/// The line's memory for 512 client slots.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct WaitEntries {
    /// Bit `i`: the slot has a call under way.
    under_way: [u64; WORDS],
    /// Bit `i`: the slot stands in line.
    in_line: [u64; WORDS],
    /// Slots in the order in which they began to stand.
    line: [u32; PART_SLOTS],
}

impl WaitEntries {
    /// Nobody waits.
    pub const EMPTY: Self =
        Self { under_way: [0; WORDS], in_line: [0; WORDS], line: [0; PART_SLOTS] };

    /// How many are needed for so many client slots.
    pub(super) const fn needed(slots: usize) -> usize {
        if slots == 0 { 0 } else { slots.div_ceil(PART_SLOTS).next_power_of_two() }
    }
}

/// The line.
pub(super) struct Waits<'m> {
    parts: &'m mut [WaitEntries],
    /// Slots that ever joined, and those that were looked at: their low bits are places.
    joined: u64,
    served: u64,
    /// Those that joined before this are served now.
    until: u64,
    /// The tick of the last look at the clock.
    tick: u64,
    /// How many had joined when a tick began, by the tick's low bits.
    joined_at: [u64; TICKS],
}

impl<'m> Waits<'m> {
    pub(super) fn new(parts: &'m mut [WaitEntries], now: Instant) -> Self {
        parts.fill(WaitEntries::EMPTY);
        let tick = now.as_nanos() >> FINE_SHIFT;
        Self { parts, joined: 0, served: 0, until: 0, tick, joined_at: [0; TICKS] }
    }

    pub(super) fn into_entries(self) -> &'m mut [WaitEntries] {
        self.parts
    }

    /// The call of `slot` is under way, and is looked at before `due`. Returns false if that is too
    /// soon for the line.
    #[inline(always)]
    pub(super) fn begin(&mut self, slot: usize, now: Instant, due: Instant) -> bool {
        self.parts[slot / PART_SLOTS].under_way[slot / 64 % WORDS] |= 1 << (slot % 64);
        self.join(slot, now, due)
    }

    /// The call of `slot` is over.
    #[inline(always)]
    pub(super) fn end(&mut self, slot: usize) {
        self.parts[slot / PART_SLOTS].under_way[slot / 64 % WORDS] &= !(1 << (slot % 64));
    }

    /// Sees to it that `slot` is looked at before `due`. Returns false if that is too soon for the
    /// line.
    #[inline(always)]
    pub(super) fn join(&mut self, slot: usize, now: Instant, due: Instant) -> bool {
        if due < now + SPAN {
            return false;
        }
        let word = &mut self.parts[slot / PART_SLOTS].in_line[slot / 64 % WORDS];
        let bit = 1 << (slot % 64);
        if *word & bit == 0 {
            *word |= bit;
            *self.place(self.joined) = slot as u32;
            self.joined += 1;
        }
        true
    }

    /// There are as many places as slots, and each slot has one at most.
    #[inline(always)]
    fn place(&mut self, number: u64) -> &mut u32 {
        let place = number as usize & (self.parts.len() * PART_SLOTS - 1);
        &mut self.parts[place / PART_SLOTS].line[place % PART_SLOTS]
    }

    /// The next slot that has stood in line for long enough and whose call is still under way. Its
    /// owner looks at its time, acts, and asks on until `None`.
    #[inline]
    pub(super) fn pop(&mut self, now: Instant) -> Option<usize> {
        let tick = now.as_nanos() >> FINE_SHIFT;
        if tick > self.tick {
            self.advance(tick);
        }
        while self.served < self.until {
            let slot = *self.place(self.served) as usize;
            self.served += 1;
            let part = &mut self.parts[slot / PART_SLOTS];
            let (word, bit) = (slot / 64 % WORDS, 1 << (slot % 64));
            part.in_line[word] &= !bit;
            if part.under_way[word] & bit != 0 {
                return Some(slot);
            }
        }
        None
    }

    #[inline(never)]
    fn advance(&mut self, tick: u64) {
        let first = (self.tick + 1).max((tick + 1).saturating_sub(TICKS as u64));
        for between in first..=tick {
            self.joined_at[between as usize % TICKS] = self.joined;
        }
        self.tick = tick;
        // Who joined in tick T had joined when T + 1 began, and is served from T + AGE on.
        self.until = self.joined_at[(tick + 1 - AGE.min(tick + 1)) as usize % TICKS];
    }

    /// A time before which nobody need be looked at.
    pub(super) fn next_due(&self) -> Instant {
        if self.served == self.joined {
            return Instant::FAR_FUTURE;
        }
        let joined_before = |ahead: u64| {
            let tick = self.tick + ahead + 1;
            tick >= AGE && self.joined_at[(tick - AGE) as usize % TICKS] > self.served
        };
        let ahead = (1..AGE).find(|ahead| joined_before(*ahead)).unwrap_or(AGE);
        Instant::from_nanos((self.tick + ahead) << FINE_SHIFT)
    }
}

const _: () = assert!(TICKS.is_power_of_two() && TICKS as u64 > AGE);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    const SLOTS: usize = 1_000;

    proptest! {
        /// Whatever begins and ends, at whatever times: a call that is under way is looked at
        /// before its time, `next_due` sleeps past none, and none that is over is handed out.
        #[test]
        fn no_call_under_way_is_forgotten(
            steps in proptest::collection::vec(
                (0usize..SLOTS, 0u64..900_000, any::<bool>()), 1..400),
        ) {
            let mut parts = vec![WaitEntries::EMPTY; WaitEntries::needed(SLOTS)];
            let mut now = Instant::from_nanos(5);
            let mut waits = Waits::new(&mut parts, now);
            // Slots whose calls are under way, and when they must be looked at.
            let mut due: HashMap<usize, Instant> = HashMap::new();
            for (slot, pause, answered) in steps {
                let until = now + Duration::from_nanos(pause);
                // Polls whenever one is asked for.
                while waits.next_due() <= until {
                    now = now.max(waits.next_due());
                    let mut seen = Vec::new();
                    while let Some(slot) = waits.pop(now) {
                        seen.push(slot);
                    }
                    for slot in seen {
                        prop_assert!(due.contains_key(&slot), "its call is over");
                        let next = now + SPAN;
                        due.insert(slot, next);
                        prop_assert!(waits.join(slot, now, next));
                    }
                    for due in due.values() {
                        prop_assert!(*due > now, "one is late");
                    }
                }
                now = until;
                if answered {
                    waits.end(slot);
                    due.remove(&slot);
                } else {
                    let next = now + SPAN;
                    due.insert(slot, next);
                    prop_assert!(waits.begin(slot, now, next));
                }
            }
        }
    }

    #[test]
    fn who_must_be_looked_at_soon_may_not_join() {
        let mut parts = vec![WaitEntries::EMPTY; 1];
        let now = Instant::from_nanos(1 << 40);
        let mut waits = Waits::new(&mut parts, now);
        assert!(!waits.join(3, now, now + Duration::from_micros(400)));
        assert_eq!(waits.next_due(), Instant::FAR_FUTURE);
        assert!(waits.join(3, now, now + Duration::from_micros(500)));
        assert!(waits.next_due() > now);
    }

    #[test]
    fn all_slots_find_a_place_again_and_again() {
        let mut parts = vec![WaitEntries::EMPTY; WaitEntries::needed(SLOTS)];
        let mut now = Instant::ZERO;
        let mut waits = Waits::new(&mut parts, now);
        for _ in 0..10 {
            for slot in 0..SLOTS {
                assert!(waits.begin(slot, now, now + SPAN));
            }
            now = now + SPAN;
            for slot in 0..SLOTS {
                assert_eq!(waits.pop(now), Some(slot));
            }
            assert_eq!(waits.pop(now), None);
        }
    }
}

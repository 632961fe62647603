//! Calls that are waited for: the timers of endpoints with thousands of sessions.
//!
//! Nearly every call is over long before its timer. With a few sessions a slot's timer just stays
//! armed from call to call. With thousands each call would arm its timer and see it fire: an entry
//! of the wheel, its neighbour and the slot, none of which is in a cache by then. So there a call
//! that begins sets a bit, and its end clears it. A hand goes round the bits, a third of them a
//! tick. A bit that it finds for the second time stands for a call that has been under way for
//! longer than most: its slot is looked at. All bits of 20,000 sessions are a few kilobytes.

use super::wheel::FINE_SHIFT;
use crate::time::{Duration, Instant};

/// Slots of one part of the memory.
const PART_SLOTS: usize = 512;
const WORDS: usize = PART_SLOTS / 64;
/// Parts whose use one word tells.
const GROUP: usize = 64;
/// Ticks in which the hand goes round once.
const ROUND: u64 = 3;
/// Who can wait for so long may be left to the hand: twice round, and the tick that is under way.
const SPAN: Duration = Duration::from_nanos((2 * ROUND + 1) << FINE_SHIFT);

/// The memory for 512 client slots.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct WaitEntries {
    /// Bit `i`: the slot has a call under way that the hand has not come by yet.
    young: [u64; WORDS],
    /// Bit `i`: one that it has come by once.
    old: [u64; WORDS],
    /// In the first part of each group: bit `i`: part `i` may have bits set.
    used: u64,
}

impl WaitEntries {
    /// Nobody waits.
    pub const EMPTY: Self = Self { young: [0; WORDS], old: [0; WORDS], used: 0 };

    /// How many are needed for so many client slots.
    pub(super) const fn needed(slots: usize) -> usize {
        slots.div_ceil(PART_SLOTS)
    }
}

/// The bits, and the hand.
pub(super) struct Waits<'m> {
    parts: &'m mut [WaitEntries],
    /// The tick of the last look at the clock.
    tick: u64,
    /// The part that the hand comes to next, and how many it has to go on by now.
    hand: usize,
    left: usize,
    /// Slots that it has found, from slot `first` on.
    found: [u64; WORDS],
    word: usize,
    first: usize,
}

impl<'m> Waits<'m> {
    pub(super) fn new(parts: &'m mut [WaitEntries], now: Instant) -> Self {
        parts.fill(WaitEntries::EMPTY);
        let tick = now.as_nanos() >> FINE_SHIFT;
        Self { parts, tick, hand: 0, left: 0, found: [0; WORDS], word: WORDS, first: 0 }
    }

    pub(super) fn into_entries(self) -> &'m mut [WaitEntries] {
        self.parts
    }

    /// The bits are in use from `now` on: what came before is not to be caught up with.
    pub(super) fn start(&mut self, now: Instant) {
        self.tick = now.as_nanos() >> FINE_SHIFT;
    }

    /// The call of `slot` is under way: sees to it that it is looked at before `due`. Returns false
    /// if that is too soon for the hand.
    #[inline(always)]
    pub(super) fn join(&mut self, slot: usize, now: Instant, due: Instant) -> bool {
        if due < now + SPAN {
            return false;
        }
        let at = slot / PART_SLOTS;
        let word = &mut self.parts[at].young[slot / 64 % WORDS];
        let before = *word;
        *word |= 1 << (slot % 64);
        if before == 0 {
            self.parts[at - at % GROUP].used |= 1 << (at % GROUP);
        }
        true
    }

    /// The call of `slot` is over.
    #[inline(always)]
    pub(super) fn end(&mut self, slot: usize) {
        let part = &mut self.parts[slot / PART_SLOTS];
        let (word, others) = (slot / 64 % WORDS, !(1 << (slot % 64)));
        part.young[word] &= others;
        part.old[word] &= others;
    }

    /// The next slot whose call has been under way for longer than most. Its owner looks at its
    /// time, acts, and asks on until `None`.
    #[inline]
    pub(super) fn pop(&mut self, now: Instant) -> Option<usize> {
        let tick = now.as_nanos() >> FINE_SHIFT;
        if tick > self.tick {
            self.advance(tick);
        }
        loop {
            while self.word < WORDS {
                let word = &mut self.found[self.word];
                if *word != 0 {
                    let bit = word.trailing_zeros() as usize;
                    *word &= *word - 1;
                    return Some(self.first + self.word * 64 + bit);
                }
                self.word += 1;
            }
            self.go_on()?;
        }
    }

    /// Lets the hand go where it must be in a later tick.
    #[inline(never)]
    fn advance(&mut self, tick: u64) {
        // Who has waited for longer than two rounds is found in two.
        let ticks = (tick - self.tick).min(2 * ROUND);
        self.hand = self.third(tick - ticks + 1).0;
        self.left =
            (tick - ticks + 1..=tick).map(|tick| self.third(tick)).map(|(a, b)| b - a).sum();
        self.tick = tick;
    }

    /// The parts that the hand goes by in a tick: the first, and the one behind the last.
    fn third(&self, tick: u64) -> (usize, usize) {
        let (third, parts) = ((tick % ROUND) as usize, self.parts.len());
        (parts * third / ROUND as usize, parts * (third + 1) / ROUND as usize)
    }

    /// Goes by the next part with calls in it, if the hand has to go that far. Slots whose calls
    /// are old are found then; those that are young are old.
    fn go_on(&mut self) -> Option<()> {
        while self.left > 0 {
            let at = if self.hand < self.parts.len() { self.hand } else { 0 };
            let used = self.parts[at - at % GROUP].used >> (at % GROUP);
            let idle = if used == 0 { GROUP - at % GROUP } else { used.trailing_zeros() as usize };
            let idle = idle.min(self.left).min(self.parts.len() - at);
            if idle > 0 {
                (self.hand, self.left) = (at + idle, self.left - idle);
                continue;
            }
            (self.hand, self.left) = (at + 1, self.left - 1);
            let part = &mut self.parts[at];
            self.found = core::mem::replace(&mut part.old, part.young);
            part.young = [0; WORDS];
            if part.old == [0; WORDS] {
                self.parts[at - at % GROUP].used &= !(1 << (at % GROUP));
            }
            (self.word, self.first) = (0, at * PART_SLOTS);
            return Some(());
        }
        None
    }

    /// A time before which nobody need be looked at.
    pub(super) fn next_due(&self) -> Instant {
        let ticks = self.tick + 1..=self.tick + ROUND;
        let mut with_calls = ticks.filter(|tick| self.is_used(self.third(*tick)));
        with_calls
            .next()
            .map_or(Instant::FAR_FUTURE, |tick| Instant::from_nanos(tick << FINE_SHIFT))
    }

    /// Whether there may be calls under way in the parts from one to another.
    fn is_used(&self, (mut at, end): (usize, usize)) -> bool {
        while at < end {
            let inside = GROUP - at % GROUP;
            let bits = self.parts[at - at % GROUP].used >> (at % GROUP);
            if bits != 0 && at + (bits.trailing_zeros() as usize) < end {
                return true;
            }
            at += inside;
        }
        false
    }
}

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
                    prop_assert!(waits.join(slot, now, next));
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
    fn all_slots_are_found_again_and_again_and_none_that_is_over() {
        let mut parts = vec![WaitEntries::EMPTY; WaitEntries::needed(SLOTS)];
        let mut now = Instant::ZERO;
        let mut waits = Waits::new(&mut parts, now);
        for round in 0..10 {
            for slot in 0..SLOTS {
                assert!(waits.join(slot, now, now + SPAN));
            }
            waits.end(round);
            now = now + SPAN;
            let mut found: Vec<_> = core::iter::from_fn(|| waits.pop(now)).collect();
            found.sort_unstable();
            assert!(found.iter().copied().eq((0..SLOTS).filter(|slot| *slot != round)));
            assert_eq!(waits.next_due(), Instant::FAR_FUTURE, "nobody is left");
        }
    }

    #[test]
    fn parts_without_calls_are_not_looked_at() {
        let slots = 300 * PART_SLOTS;
        let mut parts = vec![WaitEntries::EMPTY; WaitEntries::needed(slots)];
        let mut now = Instant::ZERO;
        let mut waits = Waits::new(&mut parts, now);
        for slot in [5, 70 * PART_SLOTS, slots - 1] {
            assert!(waits.join(slot, now, now + SPAN));
            let mut found = Vec::new();
            while found.is_empty() {
                assert!(waits.next_due() > now && waits.next_due() <= now + SPAN);
                now = waits.next_due();
                found.extend(core::iter::from_fn(|| waits.pop(now)));
            }
            assert_eq!(found, [slot]);
            assert_eq!(waits.parts.iter().filter(|part| part.used != 0).count(), 0);
        }
    }
}

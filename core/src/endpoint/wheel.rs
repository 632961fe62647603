//! Timers: a hashed wheel of two levels, whose entries are re-armed without being touched.
//!
//! Arming an entry that is already armed for an earlier time does nothing: when that time comes
//! the owner looks at its own due time and arms again. So the timer of a slot in steady use costs
//! one comparison a call. See Varghese and Lauck, "Hashed and hierarchical timing wheels" (1987).

use crate::prefetch::fetch;
use crate::time::Instant;

/// Nanoseconds of a fine tick, as a power of two: 65.5 us.
pub(super) const FINE_SHIFT: u32 = 16;
/// Nanoseconds of a coarse tick, as a power of two: 16.8 ms.
const COARSE_SHIFT: u32 = 24;
const BUCKETS: usize = 256;
/// Words of a level's bitmap of occupied buckets.
const WORDS: usize = BUCKETS / 64;
/// Fine ticks of a coarse one.
const FINE_A_COARSE: u64 = 1 << (COARSE_SHIFT - FINE_SHIFT);
/// "No entry" in links and buckets.
const NONE: u32 = u32::MAX;

/// The wheel's memory for one timer. The caller hands in one for each slot and session.
#[derive(Clone, Copy, Debug)]
pub struct TimerEntry {
    next: u32,
    previous: u32,
    /// Level * [`BUCKETS`] + bucket, or [`NONE`] when not armed.
    bucket: u32,
    armed_for: Instant,
}

impl TimerEntry {
    /// A timer that is not armed.
    pub const EMPTY: Self =
        Self { next: NONE, previous: NONE, bucket: NONE, armed_for: Instant::FAR_FUTURE };
}

pub(super) struct Wheel<'m> {
    entries: &'m mut [TimerEntry],
    heads: [u32; 2 * BUCKETS],
    occupied: [u64; 2 * WORDS],
    /// All fine ticks before this one have been served.
    served: u64,
    /// This tick's buckets may not be empty yet.
    serving: bool,
}

impl<'m> Wheel<'m> {
    pub(super) fn new(entries: &'m mut [TimerEntry], now: Instant) -> Self {
        entries.fill(TimerEntry::EMPTY);
        Self {
            entries,
            heads: [NONE; 2 * BUCKETS],
            occupied: [0; 2 * WORDS],
            served: now.as_nanos() >> FINE_SHIFT,
            serving: false,
        }
    }

    pub(super) fn into_entries(self) -> &'m mut [TimerEntry] {
        self.entries
    }

    /// Timer `id` will be armed soon.
    #[inline]
    pub(super) fn expect(&self, id: u32) {
        if let Some(entry) = self.entries.get(id as usize) {
            fetch(entry, 1);
        }
    }

    /// The one behind the timer that [`Wheel::pop`] will hand out next, if that is in the bucket
    /// being served, will be taken out soon.
    #[inline]
    pub(super) fn expect_next(&self) {
        let id = self.heads[self.served as usize % BUCKETS];
        if let Some(entry) = self.entries.get(id as usize) {
            self.expect(entry.next);
        }
    }

    /// Sees to it that timer `id` fires at `due` or up to a tick later, or earlier.
    #[inline(always)]
    pub(super) fn arm(&mut self, id: u32, due: Instant) {
        // One that is not armed is as good as armed for ever after.
        if self.entries[id as usize].armed_for > due {
            self.arm_earlier(id, due);
        }
    }

    #[inline(never)]
    fn arm_earlier(&mut self, id: u32, due: Instant) {
        if self.entries[id as usize].bucket != NONE {
            self.unlink(id);
        }
        self.link(id, due);
    }

    fn link(&mut self, id: u32, due: Instant) {
        // A time that has passed fires with the next tick to be served, never the one being
        // served: that would not end.
        let fine = ((due.as_nanos() >> FINE_SHIFT) + 1).max(self.served + 1);
        let bucket = if fine - self.served < BUCKETS as u64 {
            fine as usize % BUCKETS
        } else {
            let coarse_now = self.served / FINE_A_COARSE;
            let coarse = fine / FINE_A_COARSE;
            // Beyond the horizon: the last bucket, to be armed again from there.
            let coarse = coarse.min(coarse_now + BUCKETS as u64 - 1);
            BUCKETS + coarse as usize % BUCKETS
        };
        let head = self.heads[bucket];
        self.entries[id as usize] =
            TimerEntry { next: head, previous: NONE, bucket: bucket as u32, armed_for: due };
        if head != NONE {
            self.entries[head as usize].previous = id;
        }
        self.heads[bucket] = id;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    fn unlink(&mut self, id: u32) {
        let TimerEntry { next, previous, bucket, .. } = self.entries[id as usize];
        if previous == NONE {
            self.heads[bucket as usize] = next;
            if next == NONE {
                self.occupied[bucket as usize / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        self.entries[id as usize] = TimerEntry::EMPTY;
    }

    /// Whether [`Wheel::pop`] has nothing to hand out before the next tick.
    #[inline]
    pub(super) fn is_served(&self, now: Instant) -> bool {
        self.served >= now.as_nanos() >> FINE_SHIFT && !self.serving
    }

    /// The next timer whose bucket's time has come, disarmed. The owner compares with its own due
    /// time, acts or arms again, and asks on until `None`.
    #[inline]
    pub(super) fn pop(&mut self, now: Instant) -> Option<u32> {
        let target = now.as_nanos() >> FINE_SHIFT;
        if self.served >= target && !self.serving {
            return None;
        }
        self.pop_slow(target)
    }

    fn pop_slow(&mut self, target: u64) -> Option<u32> {
        loop {
            // Nothing is linked into the buckets being served: they can only become empty.
            let fine = self.served as usize % BUCKETS;
            let coarse = BUCKETS + (self.served / FINE_A_COARSE) as usize % BUCKETS;
            let starts_coarse = self.served.is_multiple_of(FINE_A_COARSE);
            let bucket = if starts_coarse && self.heads[coarse] != NONE { coarse } else { fine };
            let id = self.heads[bucket];
            if self.serving && id != NONE {
                self.unlink(id);
                return Some(id);
            }
            self.serving = self.served < target;
            if !self.serving {
                return None;
            }
            self.served = self.next_tick().map_or(target, |tick| tick.min(target));
        }
    }

    /// A time before which no timer fires; never later than the first that does.
    pub(super) fn next_due(&self) -> Instant {
        let tick = if self.serving { Some(self.served) } else { self.next_tick() };
        tick.map_or(Instant::FAR_FUTURE, |tick| Instant::from_nanos(tick << FINE_SHIFT))
    }

    /// The first tick to come at which a bucket is to be served.
    fn next_tick(&self) -> Option<u64> {
        let (fine, coarse) = self.occupied.split_at(WORDS);
        let next_fine = self.served + 1;
        let next_coarse = self.served / FINE_A_COARSE + 1;
        let fine = distance(fine, next_fine).map(|ahead| next_fine + ahead);
        let coarse = distance(coarse, next_coarse).map(|ahead| next_coarse + ahead);
        let coarse = coarse.map(|tick| tick * FINE_A_COARSE);
        [fine, coarse].into_iter().flatten().min()
    }
}

/// Ticks from `tick` to the first occupied bucket of a level.
#[inline]
fn distance(occupied: &[u64], tick: u64) -> Option<u64> {
    let (first, bit) = (tick as usize % BUCKETS / 64, tick % 64);
    let here = occupied[first] >> bit;
    if here != 0 {
        return Some(u64::from(here.trailing_zeros()));
    }
    // The words behind it in a circle; of the first once more, what lies below `tick`.
    (1..=WORDS).find_map(|ahead| {
        let word = occupied[(first + ahead) % WORDS];
        (word != 0).then(|| ahead as u64 * 64 - bit + u64::from(word.trailing_zeros()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::time::Duration;

    proptest! {
        /// Every timer fires once, not before its time and not more than a tick after it, when it
        /// is polled often; `next_due` never sleeps past one.
        #[test]
        fn fires_once_and_in_time(
            dues in proptest::collection::vec(0u64..6_000_000_000, 1..40),
            start in 0u64..1_000_000_000_000,
        ) {
            let mut entries = vec![TimerEntry::EMPTY; dues.len()];
            let start = Instant::from_nanos(start);
            let mut wheel = Wheel::new(&mut entries, start);
            let due_at = |due| start + Duration::from_nanos(due);
            let dues: Vec<_> = dues.into_iter().map(due_at).collect();
            for (id, due) in dues.iter().enumerate() {
                wheel.arm(id as u32, *due);
            }
            let mut fired = vec![false; dues.len()];
            let mut now = start;
            while fired.contains(&false) {
                let next = wheel.next_due();
                prop_assert!(next < Instant::FAR_FUTURE);
                now = now.max(next);
                while let Some(id) = wheel.pop(now) {
                    let due = dues[id as usize];
                    if due > now {
                        wheel.arm(id, due);
                        continue;
                    }
                    prop_assert!(!std::mem::replace(&mut fired[id as usize], true));
                    prop_assert!(now.since(due) <= Duration::from_nanos(2 << FINE_SHIFT));
                }
            }
            prop_assert_eq!(wheel.pop(now + Duration::from_secs(100)), None);
        }
    }

    /// Timers armed again and again from within the serving of their buckets, as owners do, for
    /// every distance about the border between the levels: serving ends.
    #[test]
    fn arming_again_while_serving_ends() {
        for ahead in 250..=520u64 {
            let mut entries = [TimerEntry::EMPTY; 1];
            let mut wheel = Wheel::new(&mut entries, Instant::ZERO);
            wheel.arm(0, Instant::from_nanos(300 << FINE_SHIFT));
            let mut served = 0;
            for tick in 0..2_000u64 {
                let now = Instant::from_nanos(tick << FINE_SHIFT);
                while let Some(id) = wheel.pop(now) {
                    served += 1;
                    assert!(served < 100, "serving goes on for ever at {ahead} ticks");
                    wheel.arm(id, now + Duration::from_nanos(ahead << FINE_SHIFT));
                }
            }
        }
    }

    #[test]
    fn an_earlier_time_replaces_a_later_one() {
        let mut entries = [TimerEntry::EMPTY; 1];
        let mut wheel = Wheel::new(&mut entries, Instant::ZERO);
        wheel.arm(0, Instant::from_nanos(1_000_000_000));
        wheel.arm(0, Instant::from_nanos(1_000_000));
        assert_eq!(wheel.pop(Instant::from_nanos(1_200_000)), Some(0));
    }
}

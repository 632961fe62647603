//! Which packets have come, by their numbers.

use super::Unopened;

/// Numbers of packets that a receiver remembers, at least: how late a packet may come.
pub const REPLAY_PACKETS: u64 = 64 * (SEEN_WORDS as u64 - 1);
/// Words of the receiver's memory.
const SEEN_WORDS: usize = 16;

/// The numbers that have come, as far back as is remembered. The words are a ring.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The number after the highest.
    next: u64,
    words: [u64; SEEN_WORDS],
}

impl Seen {
    pub(super) const NONE: Self = Self { next: 0, words: [0; SEEN_WORDS] };

    pub(super) fn look(&self, number: u64) -> Result<(), Unopened> {
        if number >= self.next {
            return Ok(());
        }
        // The word of the highest number may have room for numbers to come.
        if number / 64 + (SEEN_WORDS as u64) <= (self.next - 1) / 64 {
            return Err(Unopened::Old);
        }
        let word = self.words[number as usize / 64 % SEEN_WORDS];
        if word & 1 << (number % 64) == 0 { Ok(()) } else { Err(Unopened::Again) }
    }

    pub(super) fn note(&mut self, number: u64) {
        if number >= self.next {
            let highest = self.next.saturating_sub(1) / 64;
            let fresh = (number / 64 - highest).min(SEEN_WORDS as u64);
            for word in 1..=fresh {
                self.words[(highest + word) as usize % SEEN_WORDS] = 0;
            }
            self.next = number + 1;
        }
        self.words[number as usize / 64 % SEEN_WORDS] |= 1 << (number % 64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    proptest! {
        /// Against a plain set: each number once, those within reach in any order.
        #[test]
        fn numbers_are_taken_once(
            steps in proptest::collection::vec((0u64..3000, 0u64..40), 1..400)
        ) {
            let (mut seen, mut model) = (Seen::NONE, BTreeSet::new());
            let mut base = 0;
            for (ahead, step) in steps {
                base += step;
                let number = (base + ahead).saturating_sub(1500);
                let highest = model.last().copied().unwrap_or(0);
                match seen.look(number) {
                    Ok(()) => {
                        seen.note(number);
                        prop_assert!(model.insert(number));
                    }
                    Err(Unopened::Again) => prop_assert!(model.contains(&number)),
                    Err(_) => prop_assert!(number + REPLAY_PACKETS < highest),
                }
                prop_assert!(seen.look(number).is_err());
            }
        }
    }
}

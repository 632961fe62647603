//! Which packets of a message have arrived, and which must be sent again: 256 packets beyond the
//! first gap, as a bitmap.

use crate::wire::control::{Beyond, WINDOW_PACKETS_MAX};

/// Packets further along than a missing one by this many mean that it is lost, not late.
const REORDER_PACKETS: u32 = 3;

/// Bits of a window: bit `i` stands for packet `base + i`, where the base is kept elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bits([u64; 4]);

impl Bits {
    const EMPTY: Self = Self([0; 4]);

    fn get(&self, at: u32) -> bool {
        self.0[at as usize / 64] & (1 << (at % 64)) != 0
    }

    fn set(&mut self, at: u32) {
        self.0[at as usize / 64] |= 1 << (at % 64);
    }

    fn clear(&mut self, at: u32) {
        self.0[at as usize / 64] &= !(1 << (at % 64));
    }

    /// Moves the base up by `by` packets.
    fn advance(&mut self, by: u32) {
        if by >= 256 {
            *self = Self::EMPTY;
            return;
        }
        let (words, bits) = (by as usize / 64, by % 64);
        for i in 0..4 {
            let low = self.0.get(i + words).copied().unwrap_or(0);
            let high = self.0.get(i + words + 1).copied().unwrap_or(0);
            self.0[i] = if bits == 0 { low } else { low >> bits | high << (64 - bits) };
        }
    }

    /// The first `count` bits.
    fn first(count: u32) -> Self {
        Self(core::array::from_fn(|i| {
            let before = i as u32 * 64;
            match count.saturating_sub(before) {
                0 => 0,
                some @ 1..64 => (1 << some) - 1,
                _ => u64::MAX,
            }
        }))
    }

    fn or(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    fn and_not(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    fn lowest(&self) -> Option<u32> {
        (0..4).find(|&i| self.0[i] != 0).map(|i| i as u32 * 64 + self.0[i].trailing_zeros())
    }

    fn highest(&self) -> Option<u32> {
        (0..4)
            .rev()
            .find(|&i| self.0[i] != 0)
            .map(|i| i as u32 * 64 + 63 - self.0[i].leading_zeros())
    }

    /// Length of the run of set bits at the base.
    fn run(&self) -> u32 {
        Self(self.0.map(|word| !word)).lowest().unwrap_or(256)
    }
}

/// What becomes of a packet that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// New. `gap` tells that an earlier one is missing.
    Fresh { gap: bool },
    /// Seen before.
    Duplicate,
    /// Further ahead than was granted.
    Beyond,
}

/// The receiver's view of one message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Receiving {
    /// Packets that have arrived without a gap.
    pub(super) contiguous: u32,
    beyond: Bits,
}

impl Receiving {
    pub(super) const EMPTY: Self = Self { contiguous: 0, beyond: Bits::EMPTY };
    /// All of a message of one packet.
    pub(super) const WHOLE: Self = Self { contiguous: 1, beyond: Bits::EMPTY };

    /// Takes note of packet `number`.
    pub(super) fn arrived(&mut self, number: u32) -> Arrived {
        let Some(ahead) = number.checked_sub(self.contiguous) else {
            return Arrived::Duplicate;
        };
        if ahead >= u32::from(WINDOW_PACKETS_MAX) {
            return Arrived::Beyond;
        }
        if self.beyond.get(ahead) {
            return Arrived::Duplicate;
        }
        self.beyond.set(ahead);
        if ahead == 0 {
            let run = self.beyond.run();
            self.contiguous += run;
            self.beyond.advance(run);
        }
        Arrived::Fresh { gap: ahead != 0 }
    }

    pub(super) fn beyond(&self) -> Beyond {
        Beyond(self.beyond.0)
    }
}

/// The sender's view of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// Packets of the message.
    pub(super) packets: u32,
    /// The next packet that was never sent.
    pub(super) next: u32,
    /// Packets that the receiver lets us send in all.
    pub(super) granted: u32,
    /// Packets that the receiver has without a gap: the base of the bitmaps.
    pub(super) acknowledged: u32,
    /// Whether anything was ever lost: the bitmaps mean something only then.
    repairing: bool,
    /// To be sent again.
    resend: Bits,
    /// Sent again since the last probe: a late acknowledgement doesn't send them a third time.
    resent: Bits,
}

impl Sending {
    pub(super) const EMPTY: Self = Self {
        packets: 0,
        next: 0,
        granted: 0,
        acknowledged: 0,
        repairing: false,
        resend: Bits::EMPTY,
        resent: Bits::EMPTY,
    };

    /// A message of `packets` packets, of which the first `granted` may be sent.
    #[inline]
    pub(super) fn start(&mut self, packets: u32, granted: u32) {
        self.packets = packets;
        self.next = 0;
        self.granted = granted.min(packets);
        self.acknowledged = 0;
        self.repairing = false;
    }

    /// Nothing to send any more.
    #[inline]
    pub(super) fn stop(&mut self) {
        self.start(0, 0);
    }

    fn repair(&mut self) {
        if !self.repairing {
            self.repairing = true;
            self.resend = Bits::EMPTY;
            self.resent = Bits::EMPTY;
        }
    }

    /// Takes in what the receiver says. Returns whether it is progress.
    pub(super) fn acknowledge(
        &mut self,
        contiguous: u32,
        granted: u32,
        beyond: Beyond,
        probe: bool,
    ) -> bool {
        if contiguous < self.acknowledged || contiguous > self.next {
            // Old news, or a claim to packets that were never sent.
            return false;
        }
        let advance = contiguous - self.acknowledged;
        let progress = advance > 0 || granted > self.granted;
        self.acknowledged = contiguous;
        self.granted = self.granted.max(granted.min(self.packets));
        if !self.repairing && !probe && beyond.is_empty() {
            return progress;
        }
        self.repair();
        self.resend.advance(advance);
        self.resent.advance(advance);
        let there = Bits(beyond.0);
        let lost = if probe {
            self.resent = Bits::EMPTY;
            Bits::first(self.next - contiguous).and_not(&there)
        } else {
            let sure = there.highest().map_or(0, |high| (high + 1).saturating_sub(REORDER_PACKETS));
            Bits::first(sure.min(self.next - contiguous)).and_not(&there).and_not(&self.resent)
        };
        self.resend = self.resend.or(&lost).and_not(&there);
        progress
    }

    /// Whether a message of one packet is to be sent.
    #[inline(always)]
    pub(super) fn is_unsent(&self) -> bool {
        self.next < self.granted
    }

    /// The packet to send now, if any; `sent` confirms it.
    #[inline]
    pub(super) fn due(&self) -> Option<u32> {
        if self.repairing
            && let Some(at) = self.resend.lowest()
        {
            return Some(self.acknowledged + at);
        }
        (self.next < self.granted).then_some(self.next)
    }

    #[inline]
    pub(super) fn sent(&mut self, number: u32) {
        if number == self.next {
            self.next += 1;
        } else if let Some(at) = number.checked_sub(self.acknowledged)
            && at < u32::from(WINDOW_PACKETS_MAX)
        {
            self.resend.clear(at);
            self.resent.set(at);
        }
    }

    /// Sends everything not acknowledged again, up to `limit` packets.
    pub(super) fn resend_first(&mut self, limit: u32) {
        self.repair();
        let sent = (self.next - self.acknowledged).min(limit);
        self.resend = self.resend.or(&Bits::first(sent));
        self.resent = Bits::EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    proptest! {
        /// Sender and receiver over a network that loses and reorders: everything arrives exactly
        /// once in the receiver's eyes, and nothing beyond the grant is ever sent.
        #[test]
        fn lossy_transfer_completes(
            packets in 1u32..700, window in 4u32..=256, seed in any::<u64>(), loss in 0u64..40
        ) {
            let mut random = seed | 1;
            let mut draw = move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            };
            let mut sender = Sending::EMPTY;
            sender.start(packets, window.min(8));
            let mut receiver = Receiving::EMPTY;
            let mut seen = vec![0; packets as usize];
            let mut flight: Vec<u32> = Vec::new();
            for _ in 0..200_000 {
                if receiver.contiguous == packets {
                    break;
                }
                if let Some(number) = sender.due() {
                    prop_assert!(number < sender.granted);
                    sender.sent(number);
                    if draw() % 100 >= loss {
                        flight.push(number);
                    }
                } else if flight.is_empty() {
                    let ack = receiver.beyond();
                    let arrived = receiver.contiguous;
                    sender.acknowledge(arrived, arrived + window, ack, true);
                }
                if !flight.is_empty() && draw() % 2 == 0 {
                    let number = flight.swap_remove(draw() as usize % flight.len());
                    match receiver.arrived(number) {
                        Arrived::Fresh { .. } => seen[number as usize] += 1,
                        Arrived::Duplicate => {}
                        Arrived::Beyond => prop_assert!(false, "{number} was not granted"),
                    }
                    if draw() % 4 == 0 {
                        let granted = receiver.contiguous + window;
                        sender.acknowledge(receiver.contiguous, granted, receiver.beyond(), false);
                    }
                }
            }
            prop_assert_eq!(receiver.contiguous, packets);
            prop_assert!(seen.iter().all(|&count| count == 1));
        }

        #[test]
        fn advance_is_a_shift(bits in any::<[u64; 4]>(), by in 0u32..300) {
            let before = Bits(bits);
            let mut after = before;
            after.advance(by);
            for at in 0..256 {
                prop_assert_eq!(after.get(at), at + by < 256 && before.get(at + by));
            }
        }
    }
}

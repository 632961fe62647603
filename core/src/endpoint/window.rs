//! Which packets of a message have arrived, and which must be sent again: 256 packets beyond the
//! first gap, as a bitmap.

use super::bits::Bits;
use crate::wire::control::{Beyond, WINDOW_PACKETS_MAX};

/// Packets further along than a missing one by this many mean that it is lost, not late, on a
/// network that is not known to reorder.
const REORDER_PACKETS: u16 = 3;
/// The same at most: a third of the largest window, so that repairs still fit it.
const REORDER_PACKETS_MAX: u16 = 96;
/// Repairs in a row without a needless one after which the tolerance is halved.
const CALM_REPAIRS: u8 = 16;

/// How much reordering a session's network is taken to do. Grows when a packet was sent again
/// needlessly, as RFC 8985 (6.2) has it for time; here packets, which need no clock, are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reordering {
    packets: u16,
    calm: u8,
}

impl Reordering {
    pub(super) const NONE: Self = Self { packets: REORDER_PACKETS, calm: 0 };

    /// A packet that was taken for lost was only late.
    fn grow(&mut self) {
        self.packets = (self.packets * 2).min(REORDER_PACKETS_MAX);
        self.calm = 0;
    }

    /// Packets were taken for lost.
    fn repaired(&mut self) {
        self.calm += 1;
        if self.calm >= CALM_REPAIRS {
            self.packets = (self.packets / 2).max(REORDER_PACKETS);
            self.calm = 0;
        }
    }
}

/// What a receiver says of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// Packets that have arrived without a gap.
    pub(super) contiguous: u32,
    /// Packets that may be sent in all.
    pub(super) granted: u32,
    /// What has arrived beyond the gap.
    pub(super) beyond: Beyond,
    /// Whether all that is missing is to be sent again.
    pub(super) probe: bool,
    /// Whether a packet arrived that had arrived before.
    pub(super) duplicate: bool,
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
    /// Packets that have arrived in all.
    pub(super) received: u32,
    beyond: Bits,
}

impl Receiving {
    pub(super) const EMPTY: Self = Self { contiguous: 0, received: 0, beyond: Bits::EMPTY };
    /// All of a message of one packet.
    pub(super) const WHOLE: Self = Self { contiguous: 1, received: 1, beyond: Bits::EMPTY };

    /// Takes note of packet `number`.
    #[inline]
    pub(super) fn arrived(&mut self, number: u32) -> Arrived {
        if number == self.contiguous && self.beyond.is_empty() {
            // In order, as nearly all are.
            self.contiguous += 1;
            self.received += 1;
            return Arrived::Fresh { gap: false };
        }
        self.arrived_oddly(number)
    }

    /// The same when packets are missing, or this one has been seen.
    #[inline(never)]
    fn arrived_oddly(&mut self, number: u32) -> Arrived {
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
        self.received += 1;
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
    /// Whether anything was ever lost: the repairs mean something only then.
    repairing: bool,
}

/// Which packets of a message that is under way must be sent again. Kept apart from [`Sending`],
/// because a call without losses never looks at it.
#[derive(Clone, Debug)]
pub(super) struct Repairs {
    /// To be sent again.
    resend: Bits,
    /// Sent again, and neither arrived nor lost again as far as is known: first those sent again
    /// before packet `mark` was sent for the first time, then those of later. Once packets behind
    /// the mark have arrived, what is still missing of the first is lost again.
    resent: [Bits; 2],
    mark: u32,
}

impl Repairs {
    pub(super) const EMPTY: Self = Self { resend: Bits::EMPTY, resent: [Bits::EMPTY; 2], mark: 0 };
}

impl Sending {
    pub(super) const EMPTY: Self =
        Self { packets: 0, next: 0, granted: 0, acknowledged: 0, repairing: false };

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

    fn repair(&mut self, repairs: &mut Repairs) {
        if !self.repairing {
            self.repairing = true;
            repairs.resend = Bits::EMPTY;
            repairs.resent = [Bits::EMPTY; 2];
        }
    }

    /// Takes in what the receiver says. Returns whether it is progress.
    pub(super) fn acknowledge(
        &mut self,
        repairs: &mut Repairs,
        report: &Report,
        reordering: &mut Reordering,
    ) -> bool {
        let &Report { contiguous, granted, beyond, probe, duplicate } = report;
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
        if duplicate && self.repairing {
            reordering.grow();
        }
        self.repair(repairs);
        let there = Bits(beyond.0);
        repairs.resend.advance(advance);
        for resent in &mut repairs.resent {
            resent.advance(advance);
            *resent = resent.and_not(&there);
        }
        let lost = if probe {
            repairs.resent = [Bits::EMPTY; 2];
            Bits::first(self.next - contiguous).and_not(&there)
        } else {
            self.lost(repairs, &there, reordering)
        };
        repairs.resend = repairs.resend.or(&lost).and_not(&there);
        progress
    }

    /// The packets that are lost by what has arrived, `there`, and are not under way again.
    fn lost(&self, repairs: &mut Repairs, there: &Bits, reordering: &mut Reordering) -> Bits {
        // No more than a window can show.
        let span = (self.next - self.acknowledged) * 3 / 4;
        let tolerance = u32::from(reordering.packets).min(span).max(REORDER_PACKETS.into());
        let arrived = there.highest().map_or(0, |highest| highest + 1);
        let [first, later] = repairs.resent;
        let mut again = Bits::EMPTY;
        if first.is_empty() || self.acknowledged + arrived >= repairs.mark + tolerance {
            again = first;
            repairs.resent = [later, Bits::EMPTY];
            repairs.mark = self.next;
        }
        let sure = arrived.saturating_sub(tolerance).min(self.next - self.acknowledged);
        let under_way = first.or(&later);
        let lost = Bits::first(sure).and_not(there).and_not(&under_way).and_not(&repairs.resend);
        if !lost.is_empty() {
            reordering.repaired();
        }
        lost.or(&again)
    }

    /// The packet to send now, if any; `sent` confirms it.
    #[inline]
    pub(super) fn due(&self, repairs: &Repairs) -> Option<u32> {
        if self.repairing
            && let Some(at) = repairs.resend.lowest()
        {
            return Some(self.acknowledged + at);
        }
        (self.next < self.granted).then_some(self.next)
    }

    /// Packet `number`, which was due, is on its way. Returns whether it was before.
    #[inline]
    pub(super) fn sent(&mut self, repairs: &mut Repairs, number: u32) -> bool {
        if number == self.next {
            self.next += 1;
            return false;
        }
        if let Some(at) = number.checked_sub(self.acknowledged)
            && at < u32::from(WINDOW_PACKETS_MAX)
        {
            repairs.resend.clear(at);
            repairs.resent[1].set(at);
        }
        true
    }

    /// Sends everything not acknowledged again, up to `limit` packets.
    pub(super) fn resend_first(&mut self, repairs: &mut Repairs, limit: u32) {
        self.repair(repairs);
        let sent = (self.next - self.acknowledged).min(limit);
        repairs.resend = repairs.resend.or(&Bits::first(sent));
        repairs.resent = [Bits::EMPTY; 2];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn report(receiver: &Receiving, window: u32, probe: bool) -> Report {
        Report {
            contiguous: receiver.contiguous,
            granted: receiver.contiguous + window,
            beyond: receiver.beyond(),
            probe,
            duplicate: false,
        }
    }

    /// A sender together with its repairs.
    struct Sender {
        sending: Sending,
        repairs: Repairs,
    }

    impl Sender {
        fn new(packets: u32, granted: u32) -> Self {
            let mut sending = Sending::EMPTY;
            sending.start(packets, granted);
            Self { sending, repairs: Repairs::EMPTY }
        }

        fn due(&self) -> Option<u32> {
            self.sending.due(&self.repairs)
        }

        fn sent(&mut self, number: u32) -> bool {
            self.sending.sent(&mut self.repairs, number)
        }

        fn acknowledge(&mut self, report: &Report, reordering: &mut Reordering) {
            self.sending.acknowledge(&mut self.repairs, report, reordering);
        }
    }

    /// A sender with `sent` packets under way of a long message.
    fn under_way(sent: u32) -> Sender {
        let mut sender = Sender::new(1_000, 1_000);
        (0..sent).for_each(|number| assert!(!sender.sent(number)));
        sender
    }

    /// All before `upto` have arrived but those in `missing`.
    fn all_but(missing: &[u32], upto: u32) -> Report {
        let mut receiver = Receiving::EMPTY;
        for number in (0..upto).filter(|number| !missing.contains(number)) {
            receiver.arrived(number);
        }
        report(&receiver, 1_000, false)
    }

    #[test]
    fn a_repair_that_is_lost_is_repaired_without_a_probe() {
        let (mut sender, mut reordering) = (under_way(20), Reordering::NONE);
        sender.acknowledge(&all_but(&[5], 8), &mut reordering);
        assert_eq!(sender.due(), Some(20), "two behind it may have overtaken it");
        sender.acknowledge(&all_but(&[5], 9), &mut reordering);
        assert_eq!(sender.due(), Some(5));
        sender.sent(5);
        sender.acknowledge(&all_but(&[5], 20), &mut reordering);
        assert_eq!(sender.due(), Some(20), "it is under way");
        (20..30).for_each(|number| assert!(!sender.sent(number)));
        sender.acknowledge(&all_but(&[5], 22), &mut reordering);
        assert_eq!(sender.due(), Some(30));
        sender.acknowledge(&all_but(&[5], 23), &mut reordering);
        assert_eq!(sender.due(), Some(5), "three that were sent after it have arrived");
    }

    #[test]
    fn needless_repairs_make_the_sender_more_patient() {
        let (mut sender, mut reordering) = (under_way(40), Reordering::NONE);
        sender.acknowledge(&all_but(&[5], 9), &mut reordering);
        assert_eq!(sender.due(), Some(5));
        sender.sent(5);
        let late = Report { duplicate: true, ..all_but(&[], 10) };
        sender.acknowledge(&late, &mut reordering);
        sender.acknowledge(&all_but(&[15], 21), &mut reordering);
        assert_eq!(sender.due(), Some(40), "five behind it are not enough now");
        sender.acknowledge(&all_but(&[15], 22), &mut reordering);
        assert_eq!(sender.due(), Some(15));
    }

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
            let mut sender = Sender::new(packets, window.min(8));
            let mut reordering = Reordering::NONE;
            let mut receiver = Receiving::EMPTY;
            let mut seen = vec![0; packets as usize];
            let mut flight: Vec<u32> = Vec::new();
            for _ in 0..200_000 {
                if receiver.contiguous == packets {
                    break;
                }
                if let Some(number) = sender.due() {
                    prop_assert!(number < sender.sending.granted);
                    sender.sent(number);
                    if draw() % 100 >= loss {
                        flight.push(number);
                    }
                } else if flight.is_empty() {
                    sender.acknowledge(&report(&receiver, window, true), &mut reordering);
                }
                if !flight.is_empty() && draw() % 2 == 0 {
                    let number = flight.swap_remove(draw() as usize % flight.len());
                    match receiver.arrived(number) {
                        Arrived::Fresh { .. } => seen[number as usize] += 1,
                        Arrived::Duplicate => {}
                        Arrived::Beyond => prop_assert!(false, "{number} was not granted"),
                    }
                    if draw() % 4 == 0 {
                        sender.acknowledge(&report(&receiver, window, false), &mut reordering);
                    }
                }
            }
            prop_assert_eq!(receiver.contiguous, packets);
            prop_assert!(seen.iter().all(|&count| count == 1));
        }
    }
}

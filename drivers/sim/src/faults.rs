//! What a simulated network may do to packets, and how often it did.

use crate::random::Random;
use dmrpc_core::time::Duration;

/// What a network does to packets. Rates are parts in a million of the packets sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Packets lost, each for itself.
    pub loss: u32,
    /// Packets at which a burst of losses begins.
    pub burst: u32,
    /// Most packets of one burst.
    pub burst_packets_max: u64,
    /// Packets delivered twice.
    pub duplicate: u32,
    /// Packets delivered once more, much later.
    pub replay: u32,
    /// How much later, at most.
    pub replay_after_max: Duration,
    /// Least time under way.
    pub delay_min: Duration,
    /// Most time under way. Packets whose times differ overtake each other.
    pub delay_max: Duration,
    /// Packets at which the path from their sender stalls: what comes after waits.
    pub clog: u32,
    /// How long a path stalls, at most.
    pub clog_max: Duration,
    /// Packets held back alone, so that any number of later ones overtakes them.
    pub straggle: u32,
    /// How long they are held back, at most.
    pub straggle_max: Duration,
    /// Packets corrupted, in one of the ways of [`Counts`].
    pub corrupt: u32,
    /// Packets that wait at a receiver, at most. More are dropped.
    pub queue_packets: usize,
}

impl Faults {
    /// A network without faults: every packet arrives after 2 us.
    pub const NONE: Self = Self {
        loss: 0,
        burst: 0,
        burst_packets_max: 1,
        duplicate: 0,
        replay: 0,
        replay_after_max: Duration::ZERO,
        delay_min: Duration::from_micros(2),
        delay_max: Duration::from_micros(2),
        clog: 0,
        clog_max: Duration::ZERO,
        straggle: 0,
        straggle_max: Duration::ZERO,
        corrupt: 0,
        queue_packets: usize::MAX,
    };

    /// Faults whose rates are drawn, up to loss of 30 %, duplication of 50 % and replays minutes
    /// later. Each kind is left out of about half the draws, so that faults are met alone too.
    pub fn drawn(random: &mut Random) -> Self {
        let mut rate =
            |max: u64| if random.below(2) == 0 { 0 } else { random.within(0..=max) as u32 };
        let (loss, burst) = (rate(300_000), rate(20_000));
        let (duplicate, replay) = (rate(500_000), rate(20_000));
        let (clog, straggle, corrupt) = (rate(500), rate(10_000), rate(50_000));
        let delay_min = random.within(1_000..=50_000);
        let spread = [0, 5_000, 200_000, 20_000_000][random.below(4) as usize];
        Self {
            loss,
            burst,
            burst_packets_max: random.within(2..=40),
            duplicate,
            replay,
            replay_after_max: Duration::from_secs(random.within(1..=120)),
            delay_min: Duration::from_nanos(delay_min),
            delay_max: Duration::from_nanos(delay_min + random.within(0..=spread)),
            clog,
            clog_max: Duration::from_millis(random.within(1..=5_000)),
            straggle,
            straggle_max: Duration::from_millis(random.within(1..=5_000)),
            corrupt,
            queue_packets: [usize::MAX, 256, 32, 8, 4][random.below(5) as usize],
        }
    }
}

/// How often each thing happened to a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to the network.
    pub sent: u64,
    /// Handed to a receiver, copies included.
    pub delivered: u64,
    /// Lost, each for itself.
    pub lost: u64,
    /// Lost in a burst.
    pub lost_in_burst: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered once more, much later.
    pub replayed: u64,
    /// Stalled the path from its sender.
    pub clogged: u64,
    /// Held back alone.
    pub straggled: u64,
    /// One bit flipped.
    pub bit_flipped: u64,
    /// Up to eight bytes in a row changed.
    pub burst_flipped: u64,
    /// Cut short.
    pub truncated: u64,
    /// Made longer.
    pub extended: u64,
    /// The tail replaced by that of an earlier packet.
    pub spliced: u64,
    /// Dropped at a partition.
    pub partitioned: u64,
    /// Dropped because the receiver's queue was full.
    pub queue_full: u64,
    /// Dropped because nobody has the address.
    pub nobody: u64,
    /// Delivered encrypted.
    pub sealed: u64,
}

impl Counts {
    /// Packets whose bytes were changed.
    pub fn corrupted(&self) -> u64 {
        self.bit_flipped + self.burst_flipped + self.truncated + self.extended + self.spliced
    }
}

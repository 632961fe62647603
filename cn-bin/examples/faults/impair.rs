//! What a bad link does to datagrams, decided by a seed. Without sockets and clocks: it is told the
//! time, and says what leaves when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use dmrpc_sim::forge;

use super::Random;
use super::mutate::change;

/// Parts of a share of one.
const WHOLE: usize = 1_000_000;
/// How much later a packet comes that others overtake, at most.
const OVERTAKEN_BY: Duration = Duration::from_millis(4);
/// How much later a replay comes, at most.
const REPLAYED_AFTER: Duration = Duration::from_secs(4);
/// How long a link stands still or is cut, at most.
const OUTAGE_MAX: Duration = Duration::from_millis(1_200);
/// Packets lost one after the other when losses come in bursts, at most.
const BURST_MAX: usize = 12;

/// A probability, given in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share(usize);

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let percent = percent.ok_or_else(|| format!("{text}: give 0% to 100%"))?;
        Ok(Self((percent * WHOLE as f64 / 100.0) as usize))
    }
}

/// What a link does. Everything off by default.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct Impairment {
    /// Packets lost.
    #[arg(long, default_value = "0%")]
    pub(super) loss: Share,
    /// Packets that begin a loss of up to 12 in a row.
    #[arg(long, default_value = "0%")]
    pub(super) burst_loss: Share,
    /// Packets that come twice.
    #[arg(long, default_value = "0%")]
    pub(super) duplicate: Share,
    /// Packets that come again up to 4 s later.
    #[arg(long, default_value = "0%")]
    pub(super) replay: Share,
    /// Packets held back for up to 4 ms, so that others overtake them.
    #[arg(long, default_value = "0%")]
    pub(super) reorder: Share,
    /// Packets spoiled: a bit, a run of bytes, the end cut off or drawn out, the end of another.
    #[arg(long, default_value = "0%")]
    pub(super) corrupt: Share,
    /// Packets to the server that are followed by a changed copy with a right checksum.
    #[arg(long, default_value = "0%")]
    pub(super) mutate: Share,
    /// Delay of each packet in microseconds.
    #[arg(long, default_value_t = 0)]
    pub(super) delay_us: u64,
    /// Most delay that comes on top, in microseconds, for each packet another.
    #[arg(long, default_value_t = 0)]
    pub(super) jitter_us: u64,
    /// Bits a second; unlimited if zero.
    #[arg(long, default_value_t = 0)]
    pub(super) rate: u64,
    /// Packets that wait for the link at most.
    #[arg(long, default_value_t = 1000)]
    pub(super) limit: usize,
    /// About once in so many milliseconds each direction stands still for up to 1.2 s.
    #[arg(long, default_value_t = 0)]
    pub(super) clog_every_ms: u64,
    /// About once in so many milliseconds each direction loses everything for up to 1.2 s.
    #[arg(long, default_value_t = 0)]
    pub(super) cut_every_ms: u64,
}

/// How often each thing was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) came: u64,
    pub(super) left: u64,
    pub(super) lost: u64,
    pub(super) cut: u64,
    pub(super) duplicated: u64,
    pub(super) replayed: u64,
    pub(super) reordered: u64,
    pub(super) corrupted: u64,
    pub(super) mutated: u64,
    pub(super) overflowed: u64,
    pub(super) clogs: u64,
    pub(super) cuts: u64,
    /// Held back until it was told to let go of them.
    pub(super) held: u64,
}

impl Effects {
    /// As JSON.
    pub(super) fn json(&self) -> String {
        let Self { came, left, lost, cut, duplicated, replayed, .. } = self;
        let Self { reordered, corrupted, mutated, overflowed, clogs, cuts, held, .. } = self;
        format!(
            "{{\"came\":{came},\"left\":{left},\"lost\":{lost},\"cut\":{cut},\
             \"duplicated\":{duplicated},\"replayed\":{replayed},\"reordered\":{reordered},\
             \"corrupted\":{corrupted},\"mutated\":{mutated},\"overflowed\":{overflowed},\
             \"clogs\":{clogs},\"cuts\":{cuts},\"held\":{held}}}"
        )
    }
}

/// A packet that waits, compared by when it leaves.
struct Waiting<F> {
    due: Instant,
    number: u64,
    flow: F,
    bytes: Vec<u8>,
}

impl<F> PartialEq for Waiting<F> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl<F> Eq for Waiting<F> {}

impl<F> PartialOrd for Waiting<F> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<F> Ord for Waiting<F> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// One direction of a link that flows of type `F` share.
pub(super) struct Direction<F> {
    does: Impairment,
    random: Random,
    waiting: BinaryHeap<Reverse<Waiting<F>>>,
    number: u64,
    /// When the last packet sent at the link's rate has left.
    free_at: Instant,
    burst_left: usize,
    clog: Outage,
    cut: Outage,
    /// Nothing leaves.
    holds: bool,
    /// The packet before, for splices.
    last: Vec<u8>,
    pub(super) effects: Effects,
}

/// Times at which a link does not work.
struct Outage {
    every: Duration,
    begin: Instant,
    end: Instant,
}

impl Outage {
    fn new(every_ms: u64, now: Instant, random: &mut Random) -> Self {
        let mut outage = Self { every: Duration::from_millis(every_ms), begin: now, end: now };
        outage.draw(now, random);
        outage
    }

    fn draw(&mut self, now: Instant, random: &mut Random) {
        self.begin = now + random.up_to(self.every * 2);
        self.end = self.begin + random.up_to(OUTAGE_MAX);
    }

    /// Whether it is on now; whether it has just begun.
    fn look(&mut self, now: Instant, random: &mut Random, count: &mut u64) -> bool {
        if self.every.is_zero() || now < self.begin {
            return false;
        }
        if now >= self.end {
            self.draw(now, random);
            *count += 1;
            return false;
        }
        true
    }
}

impl Random {
    fn up_to(&mut self, span: Duration) -> Duration {
        Duration::from_nanos(self.below(span.as_nanos() as usize + 1) as u64)
    }

    fn hits(&mut self, share: Share) -> bool {
        share.0 > 0 && self.below(WHOLE) < share.0
    }
}

impl<F: Clone> Direction<F> {
    pub(super) fn new(does: Impairment, seed: u64, now: Instant) -> Self {
        let mut random = Random(seed);
        Self {
            clog: Outage::new(does.clog_every_ms, now, &mut random),
            cut: Outage::new(does.cut_every_ms, now, &mut random),
            does,
            random,
            waiting: BinaryHeap::new(),
            holds: false,
            number: 0,
            free_at: now,
            burst_left: 0,
            last: Vec::new(),
            effects: Effects::default(),
        }
    }

    /// A packet comes in.
    pub(super) fn push(&mut self, now: Instant, flow: &F, packet: &[u8]) {
        let Impairment { loss, burst_loss, duplicate, replay, corrupt, mutate, .. } = self.does;
        self.effects.came += 1;
        if self.cut.look(now, &mut self.random, &mut self.effects.cuts) {
            self.effects.cut += 1;
            return;
        }
        if self.random.hits(burst_loss) {
            self.burst_left = 1 + self.random.below(BURST_MAX);
        }
        if self.burst_left > 0 || self.random.hits(loss) {
            self.burst_left = self.burst_left.saturating_sub(1);
            self.effects.lost += 1;
            return;
        }
        if self.random.hits(mutate) {
            let mut copy = packet.to_vec();
            change(&mut copy, &mut self.random);
            forge::seal(&mut copy);
            self.effects.mutated += 1;
            self.enqueue(now, Duration::ZERO, flow, copy);
        }
        let mut bytes = packet.to_vec();
        if self.random.hits(corrupt) {
            spoil(&mut bytes, &self.last, &mut self.random);
            self.effects.corrupted += 1;
        }
        if self.random.hits(duplicate) {
            self.effects.duplicated += 1;
            self.enqueue(now, Duration::ZERO, flow, bytes.clone());
        }
        if self.random.hits(replay) {
            self.effects.replayed += 1;
            let later = self.random.up_to(REPLAYED_AFTER);
            self.enqueue(now, later, flow, bytes.clone());
        }
        self.enqueue(now, Duration::ZERO, flow, bytes);
        self.last.clear();
        self.last.extend_from_slice(packet);
    }

    fn enqueue(&mut self, now: Instant, later: Duration, flow: &F, bytes: Vec<u8>) {
        let does = self.does;
        if self.waiting.len() >= does.limit {
            self.effects.overflowed += 1;
            return;
        }
        let mut due = now + later;
        let bits_times_1e9 = bytes.len() as u64 * 8 * 1_000_000_000;
        if let Some(takes) = bits_times_1e9.checked_div(does.rate) {
            self.free_at = self.free_at.max(now) + Duration::from_nanos(takes);
            due = due.max(self.free_at);
        }
        due += Duration::from_micros(does.delay_us);
        due += self.random.up_to(Duration::from_micros(does.jitter_us));
        if self.random.hits(does.reorder) {
            self.effects.reordered += 1;
            due += self.random.up_to(OVERTAKEN_BY);
        }
        self.number += 1;
        let waiting = Waiting { due, number: self.number, flow: flow.clone(), bytes };
        self.waiting.push(Reverse(waiting));
    }

    /// Holds everything back, or, if it does, lets go of it.
    pub(super) fn hold_or_let_go(&mut self) {
        if self.holds {
            self.effects.held += self.waiting.len() as u64;
        }
        self.holds = !self.holds;
    }

    /// A packet that leaves by now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(F, Vec<u8>)> {
        if self.holds
            || self.waiting.peek()?.0.due > now
            || self.clog.look(now, &mut self.random, &mut self.effects.clogs)
        {
            return None;
        }
        let Reverse(Waiting { flow, bytes, .. }) = self.waiting.pop()?;
        self.effects.left += 1;
        Some((flow, bytes))
    }

    /// When the next packet leaves, unless the link stands still.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.peek().map(|waiting| waiting.0.due).filter(|_| !self.holds)
    }
}

/// Spoils a packet in one of five ways; `last` is the one before it.
fn spoil(bytes: &mut Vec<u8>, last: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    match random.below(5) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => {
            let end = bytes.len().min(at + 1 + random.below(16));
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= 1 + random.below(255) as u8);
        }
        2 => bytes.truncate(at),
        3 => bytes.resize(bytes.len() + 1 + random.below(64), 0xA5),
        _ if at > 0 && last.len() > at => {
            bytes.truncate(at);
            bytes.extend_from_slice(&last[at..]);
        }
        _ => bytes[at] ^= 0x80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves of so many packets, sent a millisecond apart, and what was done to them.
    fn sent(does: Impairment, count: u64) -> (Vec<Vec<u8>>, Effects) {
        let start = Instant::now();
        let mut direction = Direction::new(Impairment { limit: 100_000, ..does }, 7, start);
        for number in 0..count {
            let now = start + Duration::from_millis(number);
            let bytes: Vec<u8> = (0..64).map(|at| (number + at) as u8).collect();
            direction.push(now, &(), &bytes);
        }
        let end = start + Duration::from_secs(3600);
        let out = std::iter::from_fn(|| direction.pop(end)).map(|packet| packet.1).collect();
        (out, direction.effects)
    }

    #[test]
    fn a_good_link_changes_nothing() {
        let (out, effects) = sent(Impairment::default(), 100);
        assert_eq!(effects, Effects { came: 100, left: 100, ..Effects::default() });
        assert!(out.iter().enumerate().all(|(at, bytes)| bytes[0] == at as u8));
    }

    #[test]
    fn shares_are_kept_and_counted() {
        let share = |percent: &str| percent.parse::<Share>().expect("a share");
        let (out, effects) = sent(Impairment { loss: share("10%"), ..Default::default() }, 10_000);
        assert!((900..1100).contains(&effects.lost), "{effects:?}");
        assert_eq!(out.len() as u64, 10_000 - effects.lost);
        let (out, effects) = sent(Impairment { corrupt: share("50"), ..Default::default() }, 1000);
        let whole = |bytes: &&Vec<u8>| {
            bytes.len() == 64 && bytes.windows(2).all(|two| two[1] == two[0].wrapping_add(1))
        };
        assert_eq!(1000 - out.iter().filter(whole).count() as u64, effects.corrupted);
        let both = Impairment { duplicate: share("5%"), replay: share("5%"), ..Default::default() };
        let (out, effects) = sent(both, 1000);
        assert!(effects.duplicated > 20 && effects.replayed > 20);
        assert_eq!(out.len() as u64, 1000 + effects.duplicated + effects.replayed);
        assert!("101%".parse::<Share>().is_err() && "x".parse::<Share>().is_err());
    }

    #[test]
    fn reordered_packets_are_overtaken_and_the_same_seed_does_the_same() {
        let does = Impairment { reorder: "30%".parse().expect("a share"), ..Default::default() };
        let (out, effects) = sent(does, 200);
        assert!(effects.reordered > 20);
        assert!(out.windows(2).any(|two| two[1][0] < two[0][0]), "nobody overtook");
        assert_eq!(sent(does, 200), (out, effects));
    }

    #[test]
    fn a_slow_link_queues_and_overflows() {
        let start = Instant::now();
        // 64 bytes take 512 us.
        let does = Impairment { rate: 1_000_000, limit: 10, ..Default::default() };
        let mut direction = Direction::new(does, 1, start);
        (0..20).for_each(|_| direction.push(start, &(), &[0; 64]));
        assert_eq!(direction.effects.overflowed, 10);
        assert!(direction.pop(start + Duration::from_micros(500)).is_none());
        assert!(direction.pop(start + Duration::from_micros(513)).is_some());
        assert_eq!(direction.due(), Some(start + Duration::from_micros(1024)));
    }

    #[test]
    fn what_is_held_back_leaves_later() {
        let start = Instant::now();
        let does = Impairment { limit: 10, ..Default::default() };
        let mut direction = Direction::new(does, 1, start);
        direction.hold_or_let_go();
        (0..3).for_each(|number| direction.push(start, &(), &[number; 64]));
        assert!(direction.due().is_none() && direction.pop(start).is_none());
        direction.hold_or_let_go();
        assert_eq!(direction.effects.held, 3);
        assert_eq!(direction.pop(start).map(|packet| packet.1[0]), Some(0));
    }

    #[test]
    fn outages_come_and_go() {
        let does = Impairment { cut_every_ms: 500, clog_every_ms: 500, ..Default::default() };
        let (out, effects) = sent(does, 20_000);
        assert!(effects.cuts > 5 && effects.cut > 500 && out.len() > 5_000, "{effects:?}");
    }
}

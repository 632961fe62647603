//! What is drawn for a seed: who takes part, and what goes wrong.

use dmrpc_core::endpoint::Config;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_core::store::Limits;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::control::Features;
use dmrpc_sim::cluster::Clock;
use dmrpc_sim::faults::Faults;
use dmrpc_sim::random::Random;

use crate::compute::Temper;
use crate::net::DATAGRAM_BYTES;

/// Operations of all programs together, about.
const OPERATIONS: u64 = 1_800;

/// Something that happens to nodes or paths when so many operations have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incident {
    /// A compute node dies and returns after this time.
    Crash(Duration),
    /// A compute node does not run for this time.
    Pause(Duration),
    /// A memory node does not run for this time.
    MemoryPause(Duration),
    /// A memory node dies and returns empty after this time.
    MemoryCrash(Duration),
    /// The path between two nodes is cut for this time, one way or both.
    Cut { both: bool, span: Duration },
    /// Somebody opens all sessions that a memory node has left, for this time.
    Hog(Duration),
}

/// What is drawn for a seed.
pub(crate) struct Plan {
    pub(crate) memory_nodes: usize,
    /// Nodes in all, a hostile one among them.
    pub(crate) nodes: usize,
    pub(crate) temper: Temper,
    pub(crate) faults: Faults,
    pub(crate) clocks: bool,
    /// The last node keeps to no rules.
    pub(crate) hostile: bool,
    /// Memory nodes return with a smaller pool.
    pub(crate) shrinking: bool,
    pub(crate) deaths: u32,
    /// When so many operations have begun, this happens; the last comes first.
    pub(crate) incidents: Vec<(u64, Incident)>,
    pub(crate) slots: u16,
    pub(crate) window: u16,
    pub(crate) programs: usize,
    /// Of each program.
    pub(crate) operations: u32,
    /// Sessions that a memory node has room for.
    pub(crate) sessions: usize,
    /// All nodes have this key.
    pub(crate) key: Option<Key>,
    /// And encrypt their packets with what comes of it.
    pub(crate) encrypt: bool,
    /// What a session may have at a memory node.
    pub(crate) limits: Limits,
    /// How endpoints are set up.
    pub(crate) tuning: Tuning,
    /// What a session may have at a memory node of things in progress, and of detached references.
    pub(crate) quotas: Quotas,
}

/// How endpoints are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Longest datagrams of nodes with an even and with an odd index.
    pub(crate) datagram_bytes: [usize; 2],
    pub(crate) payload_check: bool,
    pub(crate) congestion: Congestion,
    pub(crate) arriving_packets: u32,
    /// Silence after which a session is over, on a node's own clock.
    pub(crate) lease: Duration,
    retransmit_after: Duration,
    retransmit_max: Duration,
    busy_retry_after: Duration,
    /// Sessions from which on endpoints fetch ahead, have bits instead of timers, and have slots
    /// lie otherwise.
    many_sessions: u32,
}

impl Tuning {
    const USUAL: Self = Self {
        datagram_bytes: [DATAGRAM_BYTES; 2],
        payload_check: true,
        congestion: Congestion::Swift,
        arriving_packets: 128,
        lease: Duration::from_secs(10),
        retransmit_after: Duration::from_millis(5),
        retransmit_max: Duration::from_millis(200),
        busy_retry_after: Duration::from_micros(200),
        many_sessions: 1_500,
    };

    /// Every second one is as usual, and each part of most others.
    fn drawn(random: &mut Random, harsh: bool, corrupts: bool) -> Self {
        let mut tuning = Self::USUAL;
        if random.below(2) == 0 {
            return tuning;
        }
        let mut of = |values: [u64; 4]| values[random.below(4) as usize];
        let usual = DATAGRAM_BYTES as u64;
        tuning.datagram_bytes =
            [of([usual, 1_100, 4_096, 8_972]), of([usual, 1_100, 2_000, 8_972])]
                .map(|n| n as usize);
        // Without it, bytes that were corrupted on the way are taken for good.
        tuning.payload_check = of([0, 1, 1, 1]) == 1 || corrupts;
        if of([0, 1, 1, 1]) == 0 {
            tuning.congestion = Congestion::None;
        }
        tuning.arriving_packets = of([128, 16, 40, 512]) as u32;
        // Where no session may end, a short lease is too short for bursts of losses.
        if harsh {
            tuning.lease = Duration::from_secs(of([10, 10, 5, 3]));
        }
        tuning.retransmit_after = Duration::from_millis(of([5, 5, 1, 20]));
        tuning.retransmit_max = Duration::from_millis(of([200, 200, 50, 600]));
        tuning.busy_retry_after = Duration::from_micros(of([200, 200, 20, 2_000]));
        tuning
    }
}

/// See [`Plan::quotas`]; `None` is without bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quotas {
    pub(crate) staged_pages: Option<u64>,
    pub(crate) transfers: Option<usize>,
    pub(crate) detached: Option<u32>,
}

impl Quotas {
    fn drawn(random: &mut Random) -> Self {
        let mut maybe = |range| (random.below(4) == 0).then(|| random.within(range));
        Self {
            staged_pages: maybe(12..=70),
            transfers: maybe(1..=3).map(|most| most as usize),
            detached: maybe(1..=4).map(|most| most as u32),
        }
    }
}

/// How long a memory node pauses at least to lose all sessions, on the slowest clock.
pub(crate) const PAST_LEASE: Duration = Duration::from_millis(11_200);

impl Plan {
    pub(crate) fn drawn(random: &mut Random) -> Self {
        let incast = random.below(64) == 0;
        let faults = drawn_faults(random, incast);
        let incidents = if incast { Vec::new() } else { drawn_incidents(random) };
        let memory_nodes = if incast { 1 } else { random.within(1..=2) as usize };
        let compute_nodes = if incast { 100 } else { random.within(2..=5) as usize };
        let hostile = !incast && random.below(4) == 0;
        let programs = if incast { 1 } else { random.within(1..=4) as usize };
        let each = (OPERATIONS / (programs * compute_nodes) as u64).max(20);
        let hogged = incidents.iter().any(|(_, what)| matches!(what, Incident::Hog(_)));
        let memory_crash =
            incidents.iter().any(|(_, what)| matches!(what, Incident::MemoryCrash(_)));
        let shrinking = memory_crash && random.below(2) == 0;
        let deaths = if !incast && random.below(3) == 0 { random.within(1..=2) as u32 } else { 0 };
        let clocks = random.below(4) == 0;
        let nodes = memory_nodes + compute_nodes + usize::from(hostile);
        let temper = Temper {
            tight: shrinking || random.below(4) == 0,
            mortal: deaths > 0,
            hasty: [0, 0, 10_000, 100_000][random.below(4) as usize],
            harsh: faults.clog > 0 || clocks || incast || !incidents.is_empty(),
            hostile: false,
            alone: incast,
            limited: false,
            long_bytes: 2 * DATAGRAM_BYTES,
        };
        Self {
            memory_nodes,
            nodes,
            temper,
            faults,
            clocks,
            hostile,
            shrinking,
            deaths,
            incidents,
            slots: [16, 16, 8, 64][random.below(4) as usize],
            window: [32, 8, 3, 256][random.below(4) as usize],
            programs,
            operations: random.within(each * 3 / 4..=each * 5 / 4) as u32,
            sessions: if hogged { nodes + 2 } else { nodes.max(16) },
            key: None,
            encrypt: false,
            limits: Limits::NONE,
            tuning: Tuning::USUAL,
            quotas: Quotas::default(),
        }
    }

    /// Draws how endpoints and quotas are set up, which came later still.
    pub(crate) fn and_tuning(mut self, random: &mut Random) -> Self {
        let corrupts = self.faults.corrupt > 0 || self.hostile;
        self.tuning = Tuning::drawn(random, self.temper.harsh, corrupts);
        if !self.temper.alone {
            self.quotas = Quotas::drawn(random);
            self.temper.limited |= self.quotas.staged_pages.is_some();
            self.temper.limited |= self.quotas.detached.is_some();
        }
        // From the first session on, or in the midst of the run.
        self.tuning.many_sessions = [1_500, 1_500, 1, 3][random.below(4) as usize];
        self.temper.long_bytes = 2 * self.tuning.datagram_bytes.into_iter().max().unwrap_or(0);
        self
    }

    /// How the endpoint of node `index` is set up.
    pub(crate) fn config(&self, index: usize, incarnation: u64) -> Config {
        let tuning = &self.tuning;
        let mut config = Config::new(incarnation, tuning.datagram_bytes[index % 2]);
        config.slots_per_session = self.slots;
        config.window_packets = self.window;
        config.key = self.key;
        config.encrypt = self.encrypt;
        config.lease = tuning.lease;
        config.congestion = tuning.congestion;
        config.arriving_packets = tuning.arriving_packets;
        config.retransmit_after = tuning.retransmit_after;
        config.retransmit_max = tuning.retransmit_max;
        config.busy_retry_after = tuning.busy_retry_after;
        config.many_sessions = tuning.many_sessions;
        if !tuning.payload_check {
            config.features -= Features::PAYLOAD_CHECK;
        }
        config
    }

    /// Draws what came later: from numbers of its own, so that a seed's other draws stay.
    pub(crate) fn and_more(mut self, random: &mut Random) -> Self {
        if random.below(4) == 0 {
            let secret = random.draw().to_le_bytes().repeat(2);
            self.key = Some(Key::new(&secret).expect("16 bytes"));
        }
        let incast = self.temper.alone;
        if !incast && random.below(4) == 0 {
            let few = random.within(3..=12) as u32;
            match random.below(3) {
                0 => self.limits.pages = u64::from(few) * 24,
                1 => self.limits.regions = few,
                _ => self.limits.entries = few,
            }
            self.temper.limited = true;
        }
        for (_, incident) in &mut self.incidents {
            if let Incident::MemoryPause(span) = incident
                && random.below(2) == 0
            {
                *span = PAST_LEASE + Duration::from_nanos(random.below(4_000_000_000));
            }
        }
        self.encrypt = self.key.is_some() && random.below(2) == 0;
        self
    }

    /// A node's clock: 10 % off at most, or up to ten times as fast as another's.
    pub(crate) fn clock(&self, random: &mut Random) -> Clock {
        let permille = match self.clocks {
            true => random.within(1_000..=10_000),
            false => [1_000, 1_000, 900, 1_100][random.below(4) as usize],
        };
        Clock { offset: Duration::from_nanos(random.below(1 << 50)), permille }
    }
}

fn drawn_faults(random: &mut Random, incast: bool) -> Faults {
    let mut faults = Faults::drawn(random);
    if random.below(2) == 0 {
        // Without paths that stall for longer than a lease, no session may end.
        faults.clog = 0;
    }
    if incast {
        faults.queue_packets = random.within(8..=64) as usize / 4;
        // What is sent at once arrives at once, or no queue would form.
        faults.delay_max = faults.delay_min;
    }
    faults
}

/// A time up to `most`, short ones as likely as long ones.
fn drawn_span(random: &mut Random, most: Duration) -> Duration {
    let most = most.as_nanos() >> random.below(8);
    Duration::from_nanos(random.within(0..=most))
}

/// What happens to nodes and paths, the last first.
fn drawn_incidents(random: &mut Random) -> Vec<(u64, Incident)> {
    let mut incidents = Vec::new();
    let mut add = |random: &mut Random, what| {
        incidents.push((random.within(10..=OPERATIONS * 3 / 4), what));
    };
    // Every second seed is calm, so that what must not happen there is noticed.
    if random.below(2) == 0 {
        return Vec::new();
    }
    let (second, lease) = (Duration::from_secs(1), Duration::from_secs(11));
    if random.below(4) == 0 {
        for _ in 0..random.within(1..=2) {
            let away = drawn_span(random, Duration::from_secs(14));
            add(random, Incident::Crash(away));
        }
    }
    if random.below(4) == 0 {
        let over = Duration::from_nanos(random.below(second.as_nanos() * 4));
        let span = if random.below(2) == 0 { lease + over } else { drawn_span(random, second) };
        add(random, Incident::Pause(span));
    }
    if random.below(4) == 0 {
        let span = drawn_span(random, Duration::from_secs(4));
        add(random, Incident::MemoryPause(span));
    }
    if random.below(4) == 0 {
        let away = drawn_span(random, Duration::from_secs(14));
        add(random, Incident::MemoryCrash(away));
    }
    if random.below(3) == 0 {
        for _ in 0..random.within(1..=3) {
            let (both, span) = (random.below(2) == 0, drawn_span(random, Duration::from_secs(14)));
            add(random, Incident::Cut { both, span });
        }
    }
    if random.below(4) == 0 {
        let span = drawn_span(random, second);
        add(random, Incident::Hog(span));
    }
    incidents.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    incidents
}

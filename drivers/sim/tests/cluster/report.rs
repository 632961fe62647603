//! What seeds did, and whether every kind of fault took effect.

use std::collections::{BTreeMap, BTreeSet};

use dmrpc_core::time::Instant;
use dmrpc_sim::effects::Fault;
use dmrpc_sim::faults::Counts;

/// Faults of nodes, as they are counted.
pub(crate) const NODE_FAULTS: [&str; 31] = [
    "dies at any time",
    "dies holding regions",
    "dies holding references",
    "dies between create and send",
    "dies between receive and map",
    "dies in a long write",
    "dies in a chain of calls",
    "restart met by a new incarnation",
    "zombie fenced",
    "memory node returns empty",
    "memory node returns smaller",
    "memory node paused",
    "memory node paused past a lease",
    "exhausted frames",
    "exhausted nodes",
    "exhausted versions",
    "exhausted regions",
    "exhausted references",
    "exhausted holders",
    "exhausted pins",
    "exhausted stages",
    "exhausted detached references",
    "exhausted holds of a version",
    "exhausted sessions",
    "exhausted slots",
    "quota used up",
    "packet without its tag",
    "clocks apart",
    "encrypted",
    "hostile packets",
    "hostile requests",
];

/// Below this number of seeds, not every kind of fault can be expected.
const SEEDS_FOR_ALL_FAULTS: usize = 1_000;

/// What a seed did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) ended: Instant,
    pub(crate) nodes: usize,
    /// Calls begun at all endpoints.
    pub(crate) calls: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) network: Counts,
    pub(crate) effects: Vec<(Fault, u64)>,
}

impl Report {
    /// The kinds of fault that took effect, and how often.
    fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let network = self.effects.iter().map(|(fault, count)| (fault.name(), *count));
        let count = |name: &'static str| (name, self.counts.get(name).copied().unwrap_or(0));
        network.chain(NODE_FAULTS.into_iter().map(count))
    }

    /// Prints one JSON line over all seeds, and checks that they were hard enough.
    ///
    /// # Panics
    /// If the median seed is too small, or if a kind of fault never took effect in a long run.
    pub(crate) fn conclude(start: u64, reports: &[Self], seconds: f64) {
        let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
        let mut others: BTreeMap<&str, u64> = BTreeMap::new();
        let named: BTreeSet<&str> = NODE_FAULTS.into_iter().collect();
        let mut packets = 0;
        for report in reports {
            report.faults().for_each(|(name, count)| *faults.entry(name).or_default() += count);
            for (name, count) in report.counts.iter().filter(|(name, _)| !named.contains(*name)) {
                *others.entry(name).or_default() += count;
            }
            packets += report.network.sent;
        }
        let calls = median(reports, |report| report.calls);
        let nodes = median(reports, |report| report.nodes as u64);
        let kinds =
            median(reports, |report| report.faults().filter(|(_, n)| *n > 0).count() as u64);
        let all: u64 = reports.iter().map(|report| report.calls).sum();
        let simulated: u64 = reports.iter().map(|report| report.ended.as_nanos()).sum();
        println!(
            "{{\"app\":\"sim\",\"seeds\":{},\"start\":{start},\"calls\":{all},\
             \"calls_per_min\":{:.0},\"calls_per_cpu_min\":{:.0},\
             \"simulated_s\":{},\"packets\":{packets},\
             \"median\":{{\"calls\":{calls},\"nodes\":{nodes},\"fault_kinds\":{kinds}}},\
             \"took_effect\":{{{}}},\"done\":{{{}}},\"violations\":0}}",
            reports.len(),
            all as f64 * 60.0 / seconds,
            all as f64 * 60.0 / cpu_seconds().unwrap_or(seconds),
            simulated / 1_000_000_000,
            fields(&faults),
            fields(&others),
        );
        if reports.len() >= 12 {
            assert!(calls >= 2_000, "the median seed makes {calls} calls; at least 2,000 are due");
            assert!(nodes >= 3, "the median seed has {nodes} nodes; at least 3 are due");
            assert!(kinds >= 5, "the median seed has {kinds} kinds of fault; at least 5 are due");
        }
        if reports.len() >= SEEDS_FOR_ALL_FAULTS {
            let never: Vec<_> = faults.iter().filter(|(_, n)| **n == 0).map(|(f, _)| f).collect();
            assert!(never.is_empty(), "faults that never took effect: {never:?}");
        }
    }
}

/// The processor time that this process has taken, which others on the machine do not change:
/// fields 14 and 15 of its `stat`, in hundredths of a second.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0).filter(|seconds| *seconds > 0.0)
}

fn fields(counts: &BTreeMap<&str, u64>) -> String {
    let field = |(name, count): (&&str, &u64)| {
        format!("\"{}\":{count}", name.replace(", ", "_").replace([' ', '-'], "_"))
    };
    counts.iter().map(field).collect::<Vec<_>>().join(",")
}

fn median(reports: &[Report], of: impl Fn(&Report) -> u64) -> u64 {
    let mut all: Vec<_> = reports.iter().map(of).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

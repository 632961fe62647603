//! How long things may take when nothing goes wrong any more, and where that comes from.

use dmrpc_core::store::Stats;
use dmrpc_core::time::Duration;

use super::World;
use crate::memory::GRACE;
use crate::net::Node;

/// Ticks of the slowest clock to 1,000 of the network's.
const SLOWEST_PERMILLE: u64 = 900;

/// How long a path that stands still when the faults end may go on doing so.
const CLOG_MAX: Duration = Duration::from_secs(5);

/// Units of reclamation for each record that there is: to free it, and to look at what is beside.
const UNITS_A_RECORD: u64 = 4;

/// Times that an idle memory node looks for work late, and how late.
const IDLE_LOOKS: u64 = 4;
const IDLE_LOOK: Duration = Duration::from_millis(50);

/// What a span on a node's own clock is at most on the network's.
fn at_most(span: Duration) -> Duration {
    Duration::from_nanos(span.as_nanos() * 1_000 / SLOWEST_PERMILLE)
}

/// How long it takes to sweep what a full pool holds, at the least rate: a unit a microsecond.
fn sweep(stats: &Stats) -> Duration {
    let Stats { frames, nodes, versions, regions, entries, holders, pins, stages, .. } = stats;
    let all = [frames, nodes, versions, regions, entries, holders, pins, stages];
    let records: u64 = all.iter().map(|usage| usage.limit).sum();
    let looks = Duration::from_nanos(IDLE_LOOK.as_nanos() * IDLE_LOOKS);
    Duration::from_micros(records * UNITS_A_RECORD) + looks
}

impl World<'_> {
    /// Within this, what was let go of is swept.
    pub(super) fn swept_within(&self) -> Duration {
        let sweeps = self.cluster.nodes().filter_map(|node| match &node.actor {
            Node::Memory(server) => Some(sweep(&server.node.store().stats())),
            Node::Compute(_) => None,
        });
        at_most(sweeps.max().unwrap_or(Duration::ZERO))
    }

    /// Within this from its death on, what a dead node held is back: the lease, the grace, and the
    /// sweep, whatever of its packets the network still delivers.
    pub(super) fn reclaimed_within(&self) -> Duration {
        at_most(self.plan.tuning.lease + GRACE) + self.swept_within()
    }

    /// Within this, each call under way ends: a path stands still no longer, silence is noticed,
    /// and what those that are gone held makes room for those that wait.
    pub(super) fn settled_within(&self) -> Duration {
        CLOG_MAX + self.reclaimed_within()
    }
}

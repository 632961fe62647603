//! Simulated clusters with memory nodes: random programs of memory operations and calls between
//! compute nodes, over a network that loses, repeats and reorders, every answer compared with a
//! plain model.
//!
//! `DMRPC_SIM_SEEDS` sets how many seeds, `DMRPC_SIM_START` the first; `ci/sim` runs many.

use dmrpc_host as _;

mod bad;
mod client;
mod compute;
mod memory;
mod model;
mod net;
mod program;
mod serve;
mod world;

use world::{Report, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn memory_is_what_the_model_says() {
    let start = number("DMRPC_SIM_START").unwrap_or(0);
    let seeds = number("DMRPC_SIM_SEEDS").unwrap_or(12);
    let mut reports = Vec::new();
    for seed in start..start + seeds {
        let report = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} fails; replay it with: ci/sim --seeds 1 --start {seed}");
            std::panic::resume_unwind(panic)
        });
        reports.push(report);
    }
    Report::print_all(start, &reports);
    let mut calls: Vec<_> = reports.iter().map(|report| report.calls).collect();
    calls.sort_unstable();
    let median = calls[calls.len() / 2];
    assert!(seeds < 12 || median >= 1_000, "the median seed makes {median} calls; 1,000 at least");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 500_000..500_003 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

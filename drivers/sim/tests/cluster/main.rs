//! Simulated clusters with memory nodes: random programs of memory operations and calls between
//! compute nodes, while the network and the nodes fail in every way of the plan, every answer
//! compared with a plain model.
//!
//! `DMRPC_SIM_SEEDS` sets how many seeds, `DMRPC_SIM_START` the first; `ci/sim` runs many.

use dmrpc_host as _;

mod bad;
mod client;
mod compute;
mod hostile;
mod memory;
mod model;
mod net;
mod plan;
mod program;
mod report;
mod serve;
mod world;

use report::Report;
use world::run;

/// Seeds that once failed: one a line, then why.
const CORPUS: &str = include_str!("corpus.txt");

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn run_or_tell(seed: u64) -> Report {
    std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
        eprintln!("seed {seed} fails; replay it with: ci/sim --seeds 1 --start {seed}");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn memory_is_what_the_model_says() {
    let start = number("DMRPC_SIM_START").unwrap_or(0);
    let seeds = number("DMRPC_SIM_SEEDS").unwrap_or(12);
    let began = std::time::Instant::now();
    let reports: Vec<_> = (start..start + seeds).map(run_or_tell).collect();
    Report::conclude(start, &reports, began.elapsed().as_secs_f64());
}

#[test]
fn seeds_that_once_failed_pass() {
    let lines = CORPUS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        let seed = line.split_whitespace().next().and_then(|word| word.parse().ok());
        run_or_tell(seed.expect("a line begins with a seed"));
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 500_000..500_003 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

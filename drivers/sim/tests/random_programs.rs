//! Random programs on random networks: phase one breaks things, phase two heals them and waits
//! for every call to end. `DMRPC_SIM_SEEDS` sets how many seeds, `DMRPC_SIM_SEED` picks one.

use dmrpc_host as _;

mod common;

use common::actor::Plan;
use common::{Work, World, address};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_sim::cluster::Clock;
use dmrpc_sim::faults::Faults;
use dmrpc_sim::random::Random;

const NODES: usize = 3;
const CALLS: u64 = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[derive(Debug, PartialEq, Eq)]
struct Trace {
    hash: u64,
    ended: Instant,
    calls: usize,
    answered: usize,
}

fn size(random: &mut Random) -> u32 {
    match random.below(100) {
        0..70 => random.within(0..=700) as u32,
        70..90 => random.within(0..=8_000) as u32,
        90..99 => random.within(0..=100_000) as u32,
        _ => random.within(0..=600_000) as u32,
    }
}

fn plan(random: &mut Random, from: usize, span: u64) -> Plan {
    let mut pick = |other: usize| (other + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
    let to = pick(from);
    let mut route = [0; 8];
    let mut at = to;
    for hop in route.iter_mut().take(6) {
        at = pick(at);
        *hop = at as u8 + 1;
    }
    let hops = [0, 0, 0, 0, 1, 2, 6][random.below(7) as usize];
    route[hops..].fill(0);
    let answer_bytes = size(random);
    let delay_us = if random.below(3) == 0 { random.below(3_000) as u32 } else { 0 };
    let room = if random.below(50) == 0 { answer_bytes / 2 } else { answer_bytes };
    let micros = |random: &mut Random, max: u64| Duration::from_micros(random.within(1..=max));
    let deadline = (random.below(3) == 0).then(|| micros(random, 200_000));
    let cancel_after = (random.below(10) == 0).then(|| micros(random, 20_000));
    let work = Work { answer_bytes, delay_us, route, ..Work::default() };
    let at = Instant::from_nanos(random.below(span));
    let body_bytes = size(random);
    Plan { to, work, body_bytes, room, at, deadline, cancel_after, ..Plan::default() }
}

fn clock(random: &mut Random) -> Clock {
    let permille = [1_000, 1_000, 320, 3_100][random.below(4) as usize];
    Clock { offset: Duration::from_nanos(random.below(1 << 50)), permille }
}

fn run(seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let faults = Faults::drawn(&mut random);
    let mut clocks = random.split();
    let slots = [16, 16, 8, 64][random.below(4) as usize];
    let window = [32, 8, 3, 256][random.below(4) as usize];
    let mut world = World::with(seed, faults, NODES, |_, config| {
        config.slots_per_session = slots;
        config.window_packets = window;
        // Fetching ahead, never, from the first session on, or in the midst of the run.
        config.many_sessions = [1_500, 1, 3][seed as usize % 3];
        clock(&mut clocks)
    });
    let span = [10_000_000, 300_000_000, 3_000_000_000][random.below(3) as usize];
    for from in 0..NODES {
        let start = world.cluster.now(from);
        let places_max = [1, 4, 64][random.below(3) as usize];
        let busy = [0, 10_000, 300_000][random.below(3) as usize];
        let peer = world.peer(from);
        (peer.places_max, peer.busy) = (places_max, busy);
        let mut plans: Vec<_> = (0..CALLS).map(|_| plan(&mut random, from, span)).collect();
        plans.sort_by_key(|plan| plan.at);
        let mut last = [(0u32, 0u32, None); NODES];
        for mut plan in plans {
            plan.at = start + plan.at.since(Instant::ZERO);
            // Some calls form rows: each must be executed after the one before.
            if random.below(4) == 0 {
                let (chain, place, before) = last[plan.to];
                let fresh = chain == 0 || random.below(20) == 0;
                plan.work.chain = if fresh { (random.draw() as u32) | 1 } else { chain };
                plan.work.place = if fresh { 1 } else { place + 1 };
                plan.after = if fresh { None } else { before };
                let id = peer.plan(plan);
                last[plan.to] = (plan.work.chain, plan.work.place, Some(id));
            } else {
                peer.plan(plan);
            }
        }
    }
    disturb(&mut world, &mut random, span);
    world.cluster.network().set_faults(Faults::NONE);
    for from in 0..NODES {
        for to in 0..NODES {
            world.cluster.network().set_cut(address(from), address(to), false);
        }
    }
    world.finish(120);
    world.settle();
    let oracle = world.oracle.borrow();
    let network = world.cluster.network();
    Trace {
        hash: network.trace_hash(),
        ended: network.now(),
        calls: oracle.calls.len(),
        answered: oracle.answered_ok(),
    }
}

/// Lets the faulty phase pass, with restarts, cuts and pauses in some seeds.
fn disturb(world: &mut World, random: &mut Random, span: u64) {
    let violent = random.below(3) == 0;
    let mut clocks = random.split();
    for _ in 0..4 {
        let pause = Duration::from_nanos(random.below(span));
        let limit = world.cluster.network().now() + pause;
        while world.cluster.step(limit) {}
        if !violent {
            continue;
        }
        let node = random.below(NODES as u64) as usize;
        let other = (node + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
        match random.below(4) {
            0 => world.restart(node, clock(&mut clocks)),
            1 => world.cluster.network().set_cut(address(node), address(other), true),
            2 => world.cluster.network().set_cut(address(node), address(other), false),
            _ => world.cluster.pause(node, Duration::from_millis(random.below(15_000))),
        }
    }
}

#[test]
fn every_call_ends_and_none_is_executed_twice() {
    let only = number("DMRPC_SIM_SEED");
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 0..number("DMRPC_SIM_SEEDS").unwrap_or(24),
    };
    let mut calls = Vec::new();
    for seed in seeds {
        let trace = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("failing seed: DMRPC_SIM_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        if only.is_some() {
            eprintln!("{trace:?}");
        }
        calls.push(trace.calls);
    }
    calls.sort_unstable();
    assert!(calls[calls.len() / 2] >= 1_000, "the median seed makes at least 1,000 calls");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 1_000..1_003 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

//! What it costs that a memory node has much: reads in 1,000 regions and through 100,000
//! references, and references made in them, at random, against the same call on one region again
//! and again.
//!
//! `at_random [--blocks N] [--bar]` prints a line of JSON for each operation: nanoseconds of a call
//! that is hot and of one at random, and their difference in random loads, which are measured in
//! the same run; medians of N pairs of blocks in turns. With `--bar`, a difference of more than
//! three loads ends it with 1.
//!
//! Client and memory node share a core and a wire in memory, so nothing hides the difference.

#[path = "two_cores/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Instant;

use dmrpc_core::memory::Atomic;
use dmrpc_core::store::{Config, Store};
use dmrpc_core::wire::memory_op::RegionName;
use dmrpc_core::wire::reference::Ref;
use dmrpc_host as _;
use world::{Pool, World};

const POOL_BYTES: u64 = 512 << 20;
const REGIONS: usize = 1_000;
const REFERENCES: usize = 100_000;
const REGION_BYTES: u64 = 128 << 10;
const PAGE_BYTES: u64 = 4096;
const BYTES: u64 = 64;
/// Calls of a block.
const CALLS: u32 = 2_000;
/// Loads of a short walk: so many that the clock does not count.
const WALK: u32 = 50;
/// Words of what loads at random are measured in: 256 MiB.
const CHASED: usize = 32 << 20;
/// Random loads that a call at random may take longer.
const LOADS_MAX: f64 = 3.0;

/// Numbers without a pattern, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * bound as u128) >> 64) as usize
    }
}

/// A walk through memory in which each load says where the next one is.
struct Chase {
    next: Vec<u64>,
    at: u64,
}

impl Chase {
    fn new(random: &mut Random) -> Self {
        // One cycle through all (Sattolo's shuffle).
        let mut next: Vec<u64> = (0..CHASED as u64).collect();
        for last in (1..CHASED).rev() {
            next.swap(last, random.below(last));
        }
        Self { next, at: 0 }
    }

    /// Nanoseconds of a load: the median of short walks.
    fn block(&mut self) -> f64 {
        let mut walk = || {
            let begin = Instant::now();
            for _ in 0..WALK {
                self.at = self.next[self.at as usize];
            }
            begin.elapsed().as_nanos() as f64 / f64::from(WALK)
        };
        median((0..CALLS / WALK).map(|_| walk()).collect())
    }
}

/// What there is, and where it is looked for.
struct Scene {
    world: World,
    regions: Vec<RegionName>,
    references: Vec<Ref>,
    random: Random,
}

/// An operation: `hot` on the first region or reference, else on any.
type Operation = fn(&mut Scene, hot: bool) -> u128;

impl Scene {
    fn new() -> Self {
        let words = vec![0u64; POOL_BYTES as usize / 8].leak();
        let memory: Pool = Box::leak(Box::new(Atomic::new(words)));
        let mut config = Config::for_pool_bytes(POOL_BYTES * 3 / 4);
        config.entries = config.entries.max(2 * REFERENCES as u32);
        config.regions = config.regions.max(2 * REGIONS as u32);
        let mut world = World::new(Store::format(memory, &config).expect("room"));
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let regions: Vec<RegionName> = (0..REGIONS).map(|_| world.alloc(REGION_BYTES)).collect();
        for (number, region) in regions.iter().enumerate() {
            for offset in (0..REGION_BYTES).step_by(PAGE_BYTES as usize) {
                world.write(*region, offset, &[number as u8; BYTES as usize]);
            }
        }
        let mut references = Vec::with_capacity(REFERENCES);
        for _ in 0..REFERENCES {
            let region = regions[random.below(REGIONS)];
            references.push(world.create_ref(region, random_page(&mut random), PAGE_BYTES));
        }
        Self { world, regions, references, random }
    }

    fn place(&mut self, hot: bool) -> (usize, u64) {
        match hot {
            true => (0, 0),
            false => (self.random.below(REGIONS), random_page(&mut self.random)),
        }
    }

    /// Each returns the nanoseconds of its call.
    fn read(&mut self, hot: bool) -> u128 {
        let (number, offset) = self.place(hot);
        let begin = Instant::now();
        let first = self.world.read(self.regions[number], offset, BYTES);
        let took = begin.elapsed().as_nanos();
        assert_eq!(first, number as u8);
        took
    }

    fn read_ref(&mut self, hot: bool) -> u128 {
        let number = if hot { 0 } else { self.random.below(REFERENCES) };
        let begin = Instant::now();
        self.world.read_ref(self.references[number], BYTES);
        begin.elapsed().as_nanos()
    }

    fn create_ref(&mut self, hot: bool) -> u128 {
        let (number, offset) = self.place(hot);
        let begin = Instant::now();
        let made = self.world.create_ref(self.regions[number], offset, PAGE_BYTES);
        let took = begin.elapsed().as_nanos();
        // Another one goes, so that there are as many as before.
        let gone = match hot {
            true => made,
            false => {
                let place = self.random.below(REFERENCES);
                std::mem::replace(&mut self.references[place], made)
            }
        };
        self.world.drop_ref(gone);
        took
    }

    /// Nanoseconds of a call: the median of a block, which no interruption shows in.
    fn block(&mut self, operation: Operation, hot: bool) -> f64 {
        median((0..CALLS).map(|_| operation(self, hot) as f64).collect())
    }
}

fn random_page(random: &mut Random) -> u64 {
    random.below((REGION_BYTES / PAGE_BYTES) as usize) as u64 * PAGE_BYTES
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let given = args.iter().position(|arg| arg == "--blocks").and_then(|at| args.get(at + 1));
    let Ok(blocks) = given.map_or("21", String::as_str).parse::<usize>() else {
        eprintln!("at_random: --blocks wants a number");
        return ExitCode::from(2);
    };
    let mut scene = Scene::new();
    let mut chase = Chase::new(&mut scene.random);
    let operations: [(&str, Operation); 3] =
        [("read", Scene::read), ("read_ref", Scene::read_ref), ("create_ref", Scene::create_ref)];
    let mut within = true;
    for (name, operation) in operations {
        let (mut hot, mut spread, mut loads) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..blocks.max(1) {
            hot.push(scene.block(operation, true));
            spread.push(scene.block(operation, false));
            loads.push(chase.block());
        }
        let (hot, spread, load) = (median(hot), median(spread), median(loads));
        let difference = (spread - hot) / load;
        within &= difference <= LOADS_MAX;
        println!(
            "{{\"op\":\"{name}_at_random\",\"hot_ns\":{hot:.0},\"random_ns\":{spread:.0},\
             \"load_ns\":{load:.1},\"loads\":{difference:.2},\"calls\":{}}}",
            blocks.max(1) * CALLS as usize
        );
    }
    assert_eq!(scene.world.references(), REFERENCES as u64, "as many as before");
    match within || !args.iter().any(|arg| arg == "--bar") {
        true => ExitCode::SUCCESS,
        false => {
            eprintln!("at_random: more than {LOADS_MAX} random loads beyond the hot call");
            ExitCode::FAILURE
        }
    }
}

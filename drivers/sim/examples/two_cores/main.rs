//! Whether two cores do twice the work of one: each is a memory node and its client over a wire in
//! memory, both share one pool, and what they do there has nothing to do with each other.
//!
//! `two_cores [--blocks N] [--milliseconds T] [--bar R]` prints one line of JSON: the rate of both
//! over that of one alone, as the median of N pairs of blocks measured in turns, with quartiles.
//! With `--bar`, less than R ends it with 1. It needs two cores to itself.

mod world;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use dmrpc_core::memory::Atomic;
use dmrpc_core::store::{Config, Store};
use dmrpc_core::wire::memory_op::RegionName;
use dmrpc_host as _;
use dmrpc_host::affinity::{available_cores, pin_to_core};
use world::{Pool, World};

const POOL_BYTES: u64 = 256 << 20;
/// A region of each core: more than the caches of a core hold.
const REGION_BYTES: u64 = 32 << 20;
const PAGE_BYTES: u64 = 4096;
/// Bytes of a write and a read.
const BYTES: u64 = 64;
/// Rounds between two looks at the clock.
const ROUNDS: u32 = 16;
const CORES: usize = 2;

/// One core's work.
struct Worker {
    world: World,
    region: RegionName,
    random: u64,
}

impl Worker {
    fn new(store: Store<Pool>, seed: u64) -> Self {
        let mut world = World::new(store);
        let region = world.alloc(REGION_BYTES);
        for offset in (0..REGION_BYTES).step_by(PAGE_BYTES as usize) {
            world.write(region, offset, &[seed as u8; BYTES as usize]);
        }
        Self { world, region, random: seed }
    }

    /// A write, a read, and a reference that comes and goes, in a page at random.
    fn round(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let offset = self.random % (REGION_BYTES / PAGE_BYTES) * PAGE_BYTES;
        let bytes = [self.random as u8; BYTES as usize];
        self.world.write(self.region, offset, &bytes);
        assert_eq!(self.world.read(self.region, offset, BYTES), bytes[0], "another's bytes");
        let reference = self.world.create_ref(self.region, offset, PAGE_BYTES);
        self.world.drop_ref(reference);
    }

    /// Works for `span`. Returns rounds a second.
    fn block(&mut self, span: Duration) -> f64 {
        let begin = Instant::now();
        let mut rounds = 0;
        while begin.elapsed() < span {
            (0..ROUNDS).for_each(|_| self.round());
            rounds += ROUNDS;
        }
        f64::from(rounds) / begin.elapsed().as_secs_f64()
    }
}

fn number(name: &str, default: f64) -> f64 {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    args.next().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("two_cores: {name} {text}: a number is wanted");
            std::process::exit(2)
        })
    })
}

/// Rates of one core: in blocks of its own, and in blocks of both. Cores take turns at being alone.
fn work(core: usize, store: Store<Pool>, turns: &Barrier, blocks: usize) -> Vec<(f64, f64)> {
    let span = Duration::from_secs_f64(number("--milliseconds", 50.0) / 1e3);
    let mut worker = Worker::new(store, core as u64 + 1);
    worker.block(span);
    let mut rates = Vec::with_capacity(blocks);
    for block in 0..blocks {
        turns.wait();
        let alone = if block % CORES == core { worker.block(span) } else { 0.0 };
        turns.wait();
        rates.push((alone, worker.block(span)));
    }
    turns.wait();
    assert_eq!(worker.world.references(), 0, "all references are gone");
    rates
}

fn main() {
    let cores = available_cores().unwrap_or_default();
    if cores.len() < CORES {
        eprintln!("two_cores: {} cores are available, two are needed", cores.len());
        std::process::exit(1);
    }
    let blocks = number("--blocks", 20.0) as usize;
    let words = vec![0u64; POOL_BYTES as usize / 8].leak();
    let memory: Pool = Box::leak(Box::new(Atomic::new(words)));
    // The tables of a shared pool take room, too.
    let mut config = Config::for_pool_bytes(POOL_BYTES * 3 / 4);
    config.participants = CORES as u32;
    let mut stores = vec![Store::format(memory, &config).expect("room")];
    stores.push(Store::attach(memory, 1).expect("a second participant"));
    let turns = Barrier::new(CORES);
    let rates: Vec<Vec<(f64, f64)>> = thread::scope(|scope| {
        let start = |(core, store)| {
            let (turns, place) = (&turns, cores[core]);
            scope.spawn(move || {
                pin_to_core(place).expect("the core is there");
                work(core, store, turns, blocks)
            })
        };
        let threads: Vec<_> = stores.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut ratios: Vec<f64> = (rates[0].iter().zip(&rates[1]))
        .map(|(first, second)| (first.1 + second.1) / (first.0 + second.0))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| ratios[(ratios.len() - 1) * part / 4];
    let alone = rates.iter().flatten().map(|(alone, _)| alone).sum::<f64>() / blocks as f64;
    println!(
        "{{\"op\":\"two_cores\",\"ratio\":{:.3},\"q1\":{:.3},\"q3\":{:.3},\
         \"alone_ops_per_s\":{:.0},\"blocks\":{blocks}}}",
        at(2),
        at(1),
        at(3),
        // A round is four operations.
        4.0 * alone
    );
    let bar = number("--bar", 0.0);
    if at(2) < bar {
        eprintln!("two_cores: {:.3} is below the bar of {bar}", at(2));
        std::process::exit(1);
    }
}

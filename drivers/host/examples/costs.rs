//! What the small things cost that a poll loop does all the time.

use std::hint::black_box;
use std::thread;

use dmrpc_host::affinity::{available_cores, pin_to_core};
use dmrpc_host::clock::Clock;
use dmrpc_host::spsc;
use dmrpc_host::table::table;

const ROUNDS: u64 = 2_000_000;
const REPEATS: usize = 9;
/// Loads of a repeat.
const LOADS: u64 = 200_000;

/// Prints the median over a few repeats of what one of `count` rounds costs.
fn measure(name: &str, count: u64, mut run: impl FnMut()) {
    let clock = Clock::system();
    let mut costs: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = clock.now();
            run();
            clock.now().since(start).as_nanos() as f64 / count as f64
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    println!("{name:46} {:7.1} ns", costs[REPEATS / 2]);
}

/// Measures loads that wait for each other, of `lines` lines in a random order, so many words apart
/// in a table that asks for huge pages. Where it has them, and the processor can have a whole one
/// of them as one entry of its translations, the distance makes little difference.
fn measure_loads(name: &str, lines: usize, words_apart: usize) {
    let mut order: Vec<usize> = (0..lines).collect();
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for end in (1..lines).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        order.swap(end, (random % (end as u64 + 1)) as usize);
    }
    // Each holds the place of the next.
    let mut words = table(0usize, lines * words_apart);
    for (at, line) in order.iter().enumerate() {
        words[line * words_apart] = order[(at + 1) % lines] * words_apart;
    }
    let mut at = 0;
    measure(name, LOADS, || (0..LOADS).for_each(|_| at = words[at]));
    black_box(at);
}

fn main() {
    let cores = available_cores().expect("the kernel tells");
    pin_to_core(cores[0]).expect("it is available");
    for clock in [Clock::new(), Clock::system()] {
        measure(&format!("clock from {}", clock.source()), ROUNDS, || {
            for _ in 0..ROUNDS {
                black_box(clock.now());
            }
        });
    }
    for lines in [2_000, 8_000] {
        for (apart, words) in [("side by side", 8), ("a page and a line apart", 520)] {
            measure_loads(&format!("load of {lines} lines {apart}"), lines, words);
        }
    }
    let (mut producer, mut consumer) = spsc::ring::<u64>(1024);
    measure("ring, push and pop, one thread", ROUNDS, || {
        for i in 0..ROUNDS {
            producer.push(black_box(i)).expect("it is empty");
            black_box(consumer.pop());
        }
    });
    measure("ring, from core to core", ROUNDS, || {
        let (mut producer, mut consumer) = spsc::ring::<u64>(1024);
        thread::scope(|scope| {
            scope.spawn(|| {
                pin_to_core(*cores.last().expect("one at least")).expect("it is available");
                let mut taken = 0;
                while taken < ROUNDS {
                    match consumer.pop() {
                        Some(_) => taken += 1,
                        None => thread::yield_now(),
                    }
                }
            });
            let mut put = 0;
            while put < ROUNDS {
                match producer.push(put) {
                    Ok(()) => put += 1,
                    Err(_) => thread::yield_now(),
                }
            }
        });
    });
}

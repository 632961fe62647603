//! What the small things cost that a poll loop does all the time.

use std::hint::black_box;
use std::thread;

use dmrpc_host::affinity::{available_cores, pin_to_core};
use dmrpc_host::clock::Clock;
use dmrpc_host::spsc;

const ROUNDS: u64 = 2_000_000;
const REPEATS: usize = 9;

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
    println!("{name:32} {:7.1} ns", costs[REPEATS / 2]);
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

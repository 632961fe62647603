//! Logs a few messages, from two threads. With `--flood`, far more than a ring holds, and says what
//! one costs.

use std::error::Error;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Instant;

use dmrpc_host::log::{self, LogConfig};

/// A type with a format of its own.
#[derive(defmt::Format)]
struct Range {
    /// In bytes.
    offset: u64,
    bytes: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let flood = std::env::args().nth(1).is_some_and(|argument| argument == "--flood");
    let log = log::start(LogConfig { process: "demo".to_owned(), ..LogConfig::default() })?;
    assert!(matches!(log::start(LogConfig::default()), Err(log::LogError::Started)));
    log::attach_thread();
    if flood {
        measure();
    }
    messages();
    thread::spawn(|| defmt::warn!("from another thread, number {=u8}", 2))
        .join()
        .expect("no panic");
    drop(log);
    defmt::error!("after the end");
    println!("dropped {}", log::dropped());
    Ok(())
}

fn messages() {
    defmt::info!("hello");
    defmt::error!("frame {=u32} of {=u64}, {=f32}", 7, 1 << 40, 0.5);
    defmt::warn!("text {=str} and bytes {=[u8]:x}", "näh", [1_u8, 0xab]);
    defmt::info!("{} and {}", Range { offset: 4096, bytes: 12 }, Some(-3_i16));
    defmt::info!("{}", defmt::Display2Format(&Ipv4Addr::LOCALHOST));
    defmt::debug!("left out of the program");
    let long = "x".repeat(5000);
    defmt::info!("too long: {=str}", long.as_str());
}

/// Logs in small batches, each of which fits the ring, and then without restraint.
fn measure() {
    const BATCHES: u32 = 200;
    const BATCH: u32 = 1000;
    let mut costs: Vec<f64> = (0..BATCHES)
        .map(|batch| {
            let start = Instant::now();
            for i in 0..BATCH {
                defmt::info!("request {=u32} from {=u64}", i, u64::from(batch));
            }
            let cost = start.elapsed().as_nanos() as f64 / f64::from(BATCH);
            thread::sleep(std::time::Duration::from_millis(20));
            cost
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    println!("one message costs {:.1} ns", costs[costs.len() / 2]);
    println!("dropped before the flood {}", log::dropped());
    for i in 0..1_000_000 {
        defmt::info!("flood {=u32}", i);
    }
}

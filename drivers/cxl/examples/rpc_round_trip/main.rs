//! What a call through a pool costs, beside what the two cores can do: 64 bytes to an echo on
//! another core and back, against one cache line that goes to and fro.
//!
//! `rpc_round_trip [--blocks N] [--calls N] [--bytes N]` measures both in turns and prints a line
//! of JSON for each, with the ratio of the medians of each block: the median, and the quartiles.
//!
//! `rpc_round_trip --alone N` makes N calls with both ends polled in turns by one thread and
//! measures nothing: for counting instructions.

mod echo;

use std::sync::atomic::{AtomicU32, Ordering};

use dmrpc_core::endpoint::Call;
use dmrpc_core::endpoint::host::SessionId;
use dmrpc_core::memory::Memory;
use dmrpc_core::wire::message::Method;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, device, pingpong};
use dmrpc_host as _;
use dmrpc_host::affinity::{available_cores, pin_to_core};
use dmrpc_host::clock::Clock;

use echo::Node;

/// Round trips of the cache line in a sample: one alone is too short for the clock.
const PINGS: u32 = 16;

/// Round trips of a cache line that a call of 64 bytes may take.
const BAR: f64 = 2.5;

/// What the other core does.
const SERVE: u32 = 0;
const PING: u32 = 1;
const STOP: u32 = 2;

/// What one core looks at all the time, far from what the other one writes for itself.
#[repr(align(256))]
struct Apart(AtomicU32);

fn number(name: &str, default: u64) -> u64 {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    args.next().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("{name} {text}: a number is wanted");
            std::process::exit(2)
        })
    })
}

/// The samples' value at share `q`.
fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * q) as usize]
}

fn pool() -> Result<Pool, Box<dyn std::error::Error>> {
    let mapping = Mapping::memfd("rpc-round-trip", 64 << 20)?;
    let config = PoolConfig::default();
    Ok(Pool::format(mapping, Mode::Coherent, &config, (1, [7; 2]), Overwrite::Unused)?)
}

/// `calls` calls, one at a time, with both ends polled by this thread.
fn both_ends(calls: u64, bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let pool = pool()?;
    let (mut server, mut client) = (Node::open(&pool, 1), Node::open(&pool, 2));
    let session = client.connect(device::address_of(1), || server.poll());
    let body = vec![0x5A; bytes];
    client.host.expected.clone_from(&body);
    for token in 0..calls {
        let call = Call { body: &body, token, ..Call::new(Method(1)) };
        while client.call_now(session, &call).is_err() {
            client.spin();
        }
        while client.host.completed <= token {
            client.spin();
            server.spin();
        }
    }
    assert_eq!(client.host.wrong, 0, "every answer is right");
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (blocks, calls) = (number("--blocks", 21), number("--calls", 2000));
    let bytes = number("--bytes", 64) as usize;
    let alone = number("--alone", 0);
    if alone > 0 {
        return both_ends(alone, bytes);
    }
    let cores = available_cores()?;
    let (Some(ours), Some(theirs)) = (cores.first(), cores.get(1)) else {
        return Err("two cores are needed".into());
    };
    let pool = pool()?;
    // The line of the yardstick lies where the store would be.
    let line = pool.store_memory();
    let Apart(task) = &Apart(AtomicU32::new(SERVE));
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin_to_core(*theirs).expect("it is there");
            let mut node = Node::open(&pool, 1);
            loop {
                match task.load(Ordering::Acquire) {
                    SERVE => node.spin(),
                    PING => pingpong::answer(&line, 0),
                    _ => return,
                }
            }
        });
        pin_to_core(*ours).expect("it is there");
        let mut client = Node::open(&pool, 2);
        let session = client.connect(device::address_of(1), || ());
        let clock = Clock::new();
        let mut all = [const { Vec::new() }; 2];
        let mut ratios = Vec::new();
        for _ in 0..blocks {
            let mut rpc = round_trips(&mut client, session, bytes, calls);
            // The line starts over: it says that the last block's pings were all.
            line.store_u64(0, 0);
            task.store(PING, Ordering::Release);
            pingpong::ask(&line, &clock, 0, PINGS);
            let mut bare: Vec<f64> = (0..calls.div_ceil(PINGS.into()))
                .map(|_| {
                    let span = pingpong::ask(&line, &clock, 0, PINGS);
                    span.as_nanos() as f64 / f64::from(PINGS)
                })
                .collect();
            task.store(SERVE, Ordering::Release);
            pingpong::stop(&line, 0);
            ratios.push(quantile(&mut rpc, 0.5) / quantile(&mut bare, 0.5));
            all[0].append(&mut rpc);
            all[1].append(&mut bare);
        }
        task.store(STOP, Ordering::Release);
        let at = |q| quantile(&mut ratios.clone(), q);
        let verdict = format!(
            ",\"ratio\":{:.3},\"ratio_low\":{:.3},\"ratio_high\":{:.3},\
             \"beside\":\"raw_pingpong\",\"bar\":\"at most {BAR}\",\"met\":{}",
            at(0.5),
            at(0.25),
            at(0.75),
            at(0.5) <= BAR
        );
        let rows = [("rpc", verdict.as_str()), ("raw_pingpong", "")];
        for ((op, verdict), samples) in rows.iter().zip(&mut all) {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| quantile(samples, q));
            println!(
                "{{\"app\":\"rpc_round_trip\",\"driver\":\"cxl\",\"mode\":\"coherent\",\
                 \"op\":\"{op}\",\"size_bytes\":{bytes},\"concurrency\":1,\"count\":{},\
                 \"errors\":0,\"verified\":{0},\"p50_ns\":{p50:.0},\"p99_ns\":{p99:.0},\
                 \"p999_ns\":{p999:.0},\"ops_per_s\":{:.0},\"gbit_per_s\":{:.3}{verdict}}}",
                samples.len(),
                1e9 / p50,
                bytes as f64 * 8.0 / p50,
            );
        }
        server.join().expect("no panic");
    });
    Ok(())
}

/// Nanoseconds of each of `calls` calls.
fn round_trips(client: &mut Node, session: SessionId, bytes: usize, calls: u64) -> Vec<f64> {
    let body = vec![0x5A; bytes];
    client.host.expected.clone_from(&body);
    let mut samples = Vec::with_capacity(calls as usize);
    for token in 0..calls {
        let start = client.now();
        let before = client.host.completed;
        let call = Call { body: &body, token, ..Call::new(Method(1)) };
        while client.call_now(session, &call).is_err() {
            client.spin();
        }
        while client.host.completed == before {
            client.spin();
        }
        samples.push(client.now().since(start).as_nanos() as f64);
    }
    assert_eq!(client.host.wrong, 0, "every answer is right");
    samples
}

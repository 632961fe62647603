//! A call of 64 bytes by iceoryx2's request-response: a rival of DmRPC's calls through a pool.
//!
//! `iceoryx2_rpc [--blocks N]` makes calls from one core to a service on another, which echoes
//! them; both ask again and again without ever waiting for an event. Prints a line of JSON.
//! Measured as `rpc_round_trip` measures ours: one call at a time, each answer compared.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use iceoryx2::prelude::*;

/// What is carried.
type Bytes = [u8; 64];

/// Calls of a block.
const CALLS: usize = 2000;
/// Calls before the first block.
const WARMUP: usize = 2000;
const BODY: Bytes = [0x5A; 64];

/// Puts this thread on core `core`.
fn pin(core: usize) {
    // SAFETY: a set of zeros is an empty set, `core` is below its size, and the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

fn serve(name: &ServiceName, ready: &AtomicBool, over: &AtomicBool) -> Result<(), Box<dyn Error>> {
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let service = node.service_builder(name).request_response::<Bytes, Bytes>().open_or_create()?;
    let server = service.server_builder().create()?;
    ready.store(true, Ordering::Release);
    while !over.load(Ordering::Relaxed) {
        if let Some(request) = server.receive()? {
            let response = request.loan_uninit()?;
            response.write_payload(*request).send()?;
        }
    }
    Ok(())
}

fn call(name: &ServiceName, blocks: usize) -> Result<Vec<u64>, Box<dyn Error>> {
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let service = node.service_builder(name).request_response::<Bytes, Bytes>().open_or_create()?;
    let client = service.client_builder().create()?;
    let mut samples = Vec::with_capacity(blocks * CALLS);
    for number in 0..WARMUP + blocks * CALLS {
        let start = Instant::now();
        let request = client.loan_uninit()?;
        let pending = request.write_payload(BODY).send()?;
        let answer = loop {
            if let Some(response) = pending.receive()? {
                break *response;
            }
        };
        if number >= WARMUP {
            samples.push(start.elapsed().as_nanos() as u64);
        }
        if answer != BODY {
            return Err("an answer is wrong".into());
        }
    }
    Ok(samples)
}

fn main() -> Result<(), Box<dyn Error>> {
    set_log_level(LogLevel::Error);
    let mut args = std::env::args().skip_while(|arg| arg != "--blocks").skip(1);
    let blocks: usize = args.next().map_or(Ok(21), |text| text.parse())?;
    let name = format!("dmrpc-rival-{}", std::process::id());
    let name: ServiceName = name.as_str().try_into()?;
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut samples = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(1);
            serve(&name, &ready, &over).map_err(|error| error.to_string())
        });
        pin(0);
        while !ready.load(Ordering::Acquire) && !server.is_finished() {
            std::hint::spin_loop();
        }
        let samples = call(&name, blocks);
        over.store(true, Ordering::Relaxed);
        server.join().expect("no panic")?;
        samples
    })?;
    samples.sort_unstable();
    let at = |q: f64| samples[((samples.len() - 1) as f64 * q) as usize];
    println!(
        "{{\"app\":\"iceoryx2\",\"driver\":\"cxl\",\"op\":\"iceoryx2_rpc\",\"size_bytes\":64,\
         \"concurrency\":1,\"count\":{},\"errors\":0,\"verified\":{0},\"p50_ns\":{},\"p99_ns\":{},\
         \"p999_ns\":{},\"ops_per_s\":{:.0},\"gbit_per_s\":0.0}}",
        samples.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        1e9 / at(0.5) as f64,
    );
    Ok(())
}

//! Two hosts of a pool in flush mode, each with a process of the library's: what `ci/vm` runs in
//! its guests, beside a real `dmrpc-mn`. Bytes go from host to host by reference, and every one of
//! them is compared.
//!
//! Prints a line for each check, and `DONE` at the end; whatever goes wrong ends it with one line
//! and exit code 1.

use std::cell::Cell;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmrpc_cn::{Arg, CallOptions, IdleStrategy, Method, Node, NodeConfig, Peer, Ref, Status};
use dmrpc_cxl::device::address_of;
use dmrpc_cxl::{Mapping, Mode, Participant, Pool, PoolDevice};

type Failure = Box<dyn std::error::Error>;
type Hosted = Node<PoolDevice>;

/// The participants that serve and call; 0 is the memory node.
const SERVES: u32 = 1;
const CALLS: u32 = 2;
/// Reads what a reference refers to, takes it, and answers with a reference to the same inverted.
const INVERT: Method = Method(1);
/// Ends the service.
const END: Method = Method(2);
const ROUNDS: u64 = 40;
const BYTES: usize = 37 * 4096 + 123;
/// Slices that are looked at again some rounds later.
const HELD: usize = 3;
/// A guest boots and loads its modules.
const PATIENCE: Duration = Duration::from_secs(100);

fn ensure(holds: bool, what: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn pattern(round: u64) -> Vec<u8> {
    (0..BYTES as u64).map(|at| (at.wrapping_mul(7919 + round) >> 5) as u8).collect()
}

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

/// Waits for the pool to be made, and becomes a participant of it.
fn join(path: &Path, index: u32) -> Result<(Arc<Pool>, Participant), Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        let opened = Pool::open(Mapping::open(path)?, Mode::Flush);
        match opened.map(|pool| (pool.attach(Some(index), 1), pool)) {
            Ok((Ok(participant), pool)) => return Ok((Arc::new(pool), participant)),
            Ok((Err(error), _)) => ensure(Instant::now() < end, &error.to_string())?,
            Err(error) => ensure(Instant::now() < end, &error.to_string())?,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn node(path: &Path, index: u32) -> Result<Hosted, Failure> {
    let (pool, participant) = join(path, index)?;
    let datagram_bytes = pool.geometry().datagram_bytes as usize;
    let device = PoolDevice::new(Arc::clone(&pool), participant)?;
    let local = device.local_addr();
    // Guests that are emulated are slow.
    let idle = IdleStrategy::Yield;
    let config = NodeConfig { datagram_bytes, idle, ..NodeConfig::default() };
    let node = Node::new(device, local, &config)?;
    node.share_pool(&pool, index)?;
    Ok(node)
}

fn connect(node: &Hosted, index: u32) -> Result<Peer, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        match node.connect(address_of(index)) {
            Ok(peer) => return Ok(peer),
            Err(error) => ensure(Instant::now() < end, &error.to_string())?,
        }
    }
}

async fn invert(node: &Hosted, memory_node: Peer, reference: Ref) -> Result<Ref, Failure> {
    let memory = node.memory(memory_node).asynchronous();
    let (mut read, mut taken) = (vec![0; BYTES], vec![0; BYTES]);
    memory.read_ref(&reference, 0, &mut read).await?;
    ensure(memory.take(&reference, &mut taken).await? == BYTES, "it is shorter")?;
    ensure(read == taken, "it was read and taken differently")?;
    Ok(memory.put(&inverted(&taken)).await?)
}

fn serve(path: &Path) -> Result<(), Failure> {
    let node = node(path, SERVES)?;
    let memory_node = connect(&node, 0)?;
    println!("INFO serving");
    let (has_ended, failed) = (Cell::new(false), Cell::new(false));
    let service = node.serve(|context, call| {
        let (has_ended, failed) = (&has_ended, &failed);
        async move {
            if call.method() == END {
                has_ended.set(true);
                return call.reply(Status::OK, &[]).expect("short");
            }
            let reference = call.refs().next();
            let Some(reference) = reference else {
                return call.reply(Status::MALFORMED, &[]).expect("short");
            };
            match invert(context.node(), memory_node, reference).await {
                Ok(made) => call.reply(Status::OK, &[Arg::Ref(made)]).expect("short"),
                Err(error) => {
                    println!("FAIL {error}");
                    failed.set(true);
                    call.reply(Status(Status::APPLICATION_FIRST), &[]).expect("short");
                }
            }
        }
    });
    // The last answer leaves before the service ends.
    let mut ended_at = None;
    service.run(|| {
        let is_late = |at: &mut Instant| at.elapsed() > Duration::from_millis(300);
        has_ended.get() && is_late(ended_at.get_or_insert_with(Instant::now))
    });
    drop(service);
    node.disconnect_all();
    ensure(!failed.get(), "the service failed")
}

fn call(path: &Path) -> Result<(), Failure> {
    let node = node(path, CALLS)?;
    let memory = node.memory(connect(&node, 0)?);
    let service = connect(&node, SERVES)?;
    let mut held = std::collections::VecDeque::new();
    for round in 0..ROUNDS {
        let bytes = pattern(round);
        let sent = memory.put(&bytes)?;
        let args = [Arg::Ref(sent)];
        let reply = node.call_with(service, INVERT, &args, &mut [], CallOptions::default())?;
        ensure(reply.status == Status::OK, "the other host refused")?;
        let made = reply.refs().next().ok_or("an answer without a reference")?;
        let slices = memory.slices(&made)?;
        let expected = inverted(&bytes);
        ensure(slices.iter().flatten().eq(&expected), "slices show other bytes")?;
        let mut taken = vec![0; BYTES];
        memory.take(&made, &mut taken)?;
        ensure(taken == expected, "what was taken has other bytes")?;
        held.push_back((slices, expected));
        if held.len() > HELD
            && let Some((slices, expected)) = held.pop_front()
        {
            let still = slices.iter().flatten().eq(&expected);
            ensure(still, "slices changed while frames were used again")?;
        }
    }
    println!("PASS {ROUNDS} times {BYTES} bytes there and back by reference, through the pool");
    println!("PASS slices of another host's bytes stay while frames change hands");
    node.call(service, END, &[], &mut [])?;
    drop(held);
    node.disconnect_all();
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", path] => serve(Path::new(path)),
        ["call", path] => call(Path::new(path)),
        _ => Err("usage: pool_hosts serve|call POOL".into()),
    };
    match done {
        Ok(()) => {
            println!("DONE");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAIL {error}");
            ExitCode::FAILURE
        }
    }
}

//! Finds the size from which an argument is better passed by reference, for a chain of three hops:
//! client, two forwarders, and a worker that reads it. Everything over UDP on this machine, each
//! process a thread.
//!
//! ```text
//! cargo run --release -p dmrpc-cn --example value_threshold
//! ```
//!
//! Both ways are measured in turns; medians of each, and the first size from which on the
//! reference wins. More threads than cores: run it on a machine that does nothing else.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::atomic::Ordering;

use common::{Server, config, pattern};
use dmrpc_cn::{Arg, ClusterDirectory, Memory, Method, Node, NodeConfig, Peer, Status};
use dmrpc_host::idle::IdleStrategy;
use dmrpc_udp::UdpDevice;

/// Calls of each kind and size that are measured.
const ROUNDS: usize = 101;
/// Longest argument, in bytes.
const BYTES_MAX: usize = 1 << 20;

fn chain_config() -> NodeConfig {
    NodeConfig { idle: IdleStrategy::Yield, value_threshold_bytes: usize::MAX, ..config() }
}

/// A node that passes requests on to `next`.
fn forwarder(next: std::net::SocketAddrV4) -> Server {
    Server::node_with(chain_config(), move |node, stop| {
        let service = node.serve(|context, call| async move {
            let peer = context.peer(next).await.expect("the next one runs");
            let args: heapless::Vec<Arg<'_>, 8> = call.args().collect();
            let options = context.options();
            let answer = node.call_buffered(peer, call.method(), &args, 64, options).await;
            drop(args);
            let (reply, body) = answer.expect("an answer");
            call.pass_back(&reply, body).expect("short");
        });
        service.run(|| stop.load(Ordering::Relaxed));
    })
}

/// A node that reads the argument, wherever it is.
fn worker(memory_node: std::net::SocketAddrV4) -> Server {
    Server::node_with(chain_config(), move |node, stop| {
        node.set_directory(ClusterDirectory::from_iter([memory_node]));
        let scratch = std::cell::RefCell::new(vec![0; BYTES_MAX]);
        let service = node.serve(|_, call| {
            let scratch = &scratch;
            async move {
                let mut bytes = scratch.take();
                let length = call.fetch(0, &mut bytes).await.expect("reachable");
                let sum = bytes[..length].iter().map(|&byte| u64::from(byte)).sum::<u64>();
                scratch.replace(bytes);
                call.reply(Status::OK, &[Arg::Inline(&sum.to_le_bytes())]).expect("short");
            }
        });
        service.run(|| stop.load(Ordering::Relaxed));
    })
}

/// One call in microseconds. A reference's end is begun, and finished outside the time measured:
/// nobody waits for it.
fn measure(
    node: &Node<UdpDevice>,
    memory: Option<Memory<'_, UdpDevice>>,
    peer: Peer,
    bytes: &[u8],
) -> f64 {
    let start = node.now();
    let mut sum = [0; 8];
    let arg = match memory {
        None => Arg::Inline(bytes),
        Some(memory) => Arg::Ref(memory.put(bytes).expect("room")),
    };
    node.call(peer, Method(1), &[arg], &mut sum).expect("an answer");
    let mut dropping = None;
    if let (Some(memory), Arg::Ref(reference)) = (memory, arg) {
        dropping = Some(memory.start().drop_ref(&reference).expect("begun"));
    }
    let span_us = node.now().since(start).as_nanos() as f64 / 1e3;
    if let Some(ticket) = dropping {
        node.block_on(node.ended(ticket)).expect("answered").checked().expect("ours");
    }
    span_us
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let memory_node = Server::memory_node();
    let worker = worker(memory_node.address);
    let second = forwarder(worker.address);
    let first = forwarder(second.address);
    let node = Node::open_udp(&chain_config()).expect("loopback");
    let memory = node.memory(node.connect(memory_node.address).expect("it runs"));
    let peer = node.connect(first.address).expect("it runs");
    println!("{:>10} {:>14} {:>14}", "bytes", "by value us", "by ref us");
    let mut crossover = None;
    let mut size = 256;
    while size <= BYTES_MAX {
        let bytes = pattern(size, 1);
        let (mut by_value, mut by_ref) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            by_value.push(measure(&node, None, peer, &bytes));
            by_ref.push(measure(&node, Some(memory), peer, &bytes));
        }
        let (value_us, ref_us) = (median(&mut by_value), median(&mut by_ref));
        println!("{size:>10} {value_us:>14.1} {ref_us:>14.1}");
        if ref_us >= value_us {
            crossover = None;
        } else if crossover.is_none() {
            crossover = Some(size);
        }
        size *= 2;
    }
    match crossover {
        Some(size) => println!("by reference from {size} bytes on"),
        None => println!("by value up to {BYTES_MAX} bytes"),
    }
}

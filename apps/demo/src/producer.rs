//! The producer: brings the others up, sends the file round, verifies what comes back.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dmrpc_cn::{Arg, Peer, Status};
use dmrpc_host::local::LocalProcess;
use dmrpc_host::metered::human_bytes;

use crate::error::Error;
use crate::file::{self, Original};
use crate::network::Network;
use crate::roles::{PROCESS, Part, TRAFFIC};
use crate::traffic::{self, Hop, Hops, MeteredNode};

/// Bytes of the file in one message, by value. A multiple of the page size.
const PART_BYTES: usize = 4 << 20;
/// How long a child may take until it is ready, and to stop.
const CHILD_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the demo.
pub(crate) fn run(path: Option<&Path>, out: &Path, network: Network) -> Result<(), Error> {
    let Original { bytes: original, extension, decoded } = Original::load(path)?;
    if decoded {
        println!(
            "a compressed picture: its pixels are sent, {}",
            human_bytes(original.len() as u64)
        );
    }
    fs::create_dir_all(out).map_err(|source| Error::WriteFile { path: out.to_owned(), source })?;
    let cluster = Cluster::start(original.len() as u64, network)?;
    println!(
        "memory node {}, producer {}, forwarder {}, transformer {}",
        cluster.memory_node.1,
        cluster.node.local_addr(),
        cluster.forwarder.1,
        cluster.transformer.1
    );
    let expected = file::expected(&original);
    let by_reference = cluster.by_reference(&original, &expected)?;
    let by_value = cluster.by_value(&original, &expected)?;
    println!();
    traffic::print(&by_reference.hops, &by_value.hops);
    let milliseconds = |run: &Run| format!("{:.1} ms", run.time.as_secs_f64() * 1e3);
    let (reference_time, value_time) = (milliseconds(&by_reference), milliseconds(&by_value));
    println!("  {:<26} {reference_time:>14} {value_time:>14}", "time");
    let forwarder = |hops: &Hops| hops.producer_forwarder.there + hops.forwarder_transformer.back;
    println!(
        "\nby value, {:.2} times the bytes cross all hops, and {:.0} times those that the \
         forwarder handles",
        by_value.hops.total() as f64 / by_reference.hops.total() as f64,
        forwarder(&by_value.hops) as f64 / forwarder(&by_reference.hops) as f64
    );
    let before = file::write_out(out, "original", &extension, &original)?;
    let after = file::write_out(out, "transformed", &extension, &by_reference.result)?;
    println!("look at {} and {}", before.display(), after.display());
    cluster.stop()
}

/// One way of sending the file round.
struct Run {
    hops: Hops,
    time: Duration,
    result: Vec<u8>,
}

/// All that is running.
struct Cluster {
    node: MeteredNode,
    memory: Peer,
    service: Peer,
    observed: Peer,
    memory_node: (LocalProcess, SocketAddrV4),
    forwarder: (LocalProcess, SocketAddrV4),
    transformer: (LocalProcess, SocketAddrV4),
    /// What joins them, which ends last.
    _network: Network,
}

impl Cluster {
    /// Brings up a memory node with room for the file, and the two services.
    fn start(file_bytes: u64, network: Network) -> Result<Self, Error> {
        // The original, the pages that are changed, and the tables, with room to spare; in a pool
        // that is mapped, everybody's rings, too.
        let pool_bytes = (64 << 20) + (4 * file_bytes).next_multiple_of(1 << 20);
        let mut command = Command::new(sibling("dmrpc-mn")?);
        command.args(["--idle", "sleep", "--pool-size", &format!("{pool_bytes}B")]);
        network.settle(0, &mut command)?;
        let memory_node = child("memory node", command)?;
        let itself =
            std::env::current_exe().map_err(|source| Error::Binary { name: "demo", source })?;
        let mut command = Command::new(&itself);
        command.args(["--role", "transformer", "--memory-node", &memory_node.1.to_string()]);
        network.settle(1, &mut command)?;
        let transformer = child("transformer", command)?;
        let mut command = Command::new(&itself);
        command.args(["--role", "forwarder", "--next", &transformer.1.to_string()]);
        network.settle(2, &mut command)?;
        let forwarder = child("forwarder", command)?;
        let node = network.node(3)?;
        let memory = node.connect(memory_node.1)?;
        let service = node.connect(forwarder.1)?;
        let observed = node.connect(transformer.1)?;
        Ok(Self {
            node,
            memory,
            service,
            observed,
            memory_node,
            forwarder,
            transformer,
            _network: network,
        })
    }

    /// Puts the file into memory, has a reference to it sent round, and reads the result.
    fn by_reference(&self, original: &[u8], expected: &[u8]) -> Result<Run, Error> {
        let memory = self.node.memory(self.memory);
        let before = self.hops()?;
        let start = Instant::now();
        let reference = memory.put(original)?;
        let reply = self.node.call(self.service, PROCESS, &[Arg::Ref(reference)], &mut [])?;
        check_status(reply.status)?;
        let result_ref = reply.refs().next().ok_or(Error::Answer(reply.status))?;
        let mut result = vec![0; result_ref.length as usize];
        memory.take(&result_ref, &mut result)?;
        let time = start.elapsed();
        let hops = self.hops()?.since(before);
        check("the result by reference", &result, expected)?;
        // Reading the original again proves that nobody's writes reached it.
        let mut again = vec![0; original.len()];
        memory.read_ref(&reference, 0, &mut again)?;
        check("the original after the call", &again, original)?;
        memory.drop_ref(&reference)?;
        println!(
            "by reference: {} verified, and the original unchanged to the byte",
            human_bytes(result.len() as u64)
        );
        Ok(Run { hops, time, result })
    }

    /// Sends the bytes round, in as many messages as they take.
    fn by_value(&self, original: &[u8], expected: &[u8]) -> Result<Run, Error> {
        let before = self.hops()?;
        let start = Instant::now();
        let mut result = vec![0; original.len()];
        let parts = original.chunks(PART_BYTES).zip(result.chunks_mut(PART_BYTES));
        for (number, (bytes, room)) in parts.enumerate() {
            let start = (number * PART_BYTES) as u64;
            let part = Part { start, file_bytes: original.len() as u64 }.to_bytes();
            let args = [Arg::Inline(&part), Arg::Inline(bytes)];
            let reply = self.node.call(self.service, PROCESS, &args, room)?;
            check_status(reply.status)?;
            if reply.body_bytes != room.len() {
                let first = start as usize + reply.body_bytes;
                return Err(Error::Different { what: "the result by value", first });
            }
        }
        let time = start.elapsed();
        let hops = self.hops()?.since(before);
        check("the result by value", &result, expected)?;
        println!("by value: {} verified", human_bytes(result.len() as u64));
        Ok(Run { hops, time, result })
    }

    /// What has crossed each hop so far, but for the questions about it.
    fn hops(&self) -> Result<Hops, Error> {
        // Ask about what lies furthest first, so that asking changes nothing that is asked later.
        let transformer_memory = self.ask(self.observed)?;
        let producer_forwarder = Hop::of(&self.node, self.forwarder.1);
        let forwarder_transformer = self.ask(self.service)?;
        let producer_memory = Hop::of(&self.node, self.memory_node.1);
        Ok(Hops { producer_memory, producer_forwarder, forwarder_transformer, transformer_memory })
    }

    fn ask(&self, peer: Peer) -> Result<Hop, Error> {
        let mut answer = [0; 16];
        check_status(self.node.call(peer, TRAFFIC, &[], &mut answer)?.status)?;
        Ok(Hop::from_bytes(answer))
    }

    /// Stops the children and sees them end well.
    fn stop(self) -> Result<(), Error> {
        for (mut process, _) in [self.forwarder, self.transformer, self.memory_node] {
            process.stop(CHILD_TIMEOUT)?;
        }
        Ok(())
    }
}

fn check_status(status: Status) -> Result<(), Error> {
    if status == Status::OK { Ok(()) } else { Err(Error::Answer(status)) }
}

fn check(what: &'static str, got: &[u8], expected: &[u8]) -> Result<(), Error> {
    match file::difference(got, expected) {
        None => Ok(()),
        Some(first) => Err(Error::Different { what, first }),
    }
}

/// A program of the workspace, which is built into the same folder as this one.
fn sibling(name: &'static str) -> Result<PathBuf, Error> {
    let itself = std::env::current_exe().map_err(|source| Error::Binary { name, source })?;
    let path = itself.with_file_name(name);
    fs::metadata(&path).map_err(|source| Error::Binary { name, source })?;
    Ok(path)
}

/// Starts a child and waits until it says where it is.
fn child(name: &str, command: Command) -> Result<(LocalProcess, SocketAddrV4), Error> {
    let mut process = LocalProcess::spawn(name, command)?;
    let line = process.wait_line("ready ", CHILD_TIMEOUT)?;
    let address = line.rsplit(' ').next().and_then(|address| address.parse().ok());
    Ok((process, address.ok_or(Error::ReadyLine(line))?))
}

//! A process that is given the participant's number of one that was killed: what the dead one held
//! comes back first, and the number is good then.
//!
//! The victim is this test's own program, started again with an order in its environment.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use dmrpc_choice::{AnyDevice, Driver, DriverArgs};
use dmrpc_cn::{Node, NodeConfig};
use dmrpc_cxl::device::address_of;

/// The order to a victim: the pool's path and its mode.
const ORDER: &str = "DMRPC_HEIR_ORDER";
/// Most of the pool: two do not fit.
const MOST_BYTES: u64 = 130 << 20;
const NUMBER: &str = "3";
const PATIENCE: Duration = Duration::from_secs(20);
const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// Flags of a compute node.
#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    driver: DriverArgs,
}

/// A node as the programs open it: participant [`NUMBER`] of the pool.
fn open(path: &str, mode: &str) -> Node<AnyDevice> {
    let flags = ["test", "--pool", path, "--coherence", mode, "--participant", NUMBER];
    let flags = Flags::parse_from(flags).driver;
    let driver = Driver::start(&flags, flags.datagram_bytes(), 1).expect("a pool");
    let device = driver.device(0, ANYWHERE).expect("the number is free soon");
    let pool = device.pool().map(|(pool, index)| (Arc::clone(pool), index));
    let (pool, index) = pool.expect("it is one");
    let local = device.local_addr();
    let config = NodeConfig { datagram_bytes: 4400, ..NodeConfig::default() };
    let node = Node::new(device, local, &config).expect("a node");
    node.share_pool(&pool, index).expect("nothing is left of an earlier life");
    node
}

/// Memory that is being freed is there soon.
fn patiently<T, E: std::fmt::Display>(mut operation: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match operation() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// With an order, the victim; without one there is nothing to be killed.
#[test]
fn victim() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (path, mode) = order.split_once('|').expect("path and mode");
    let node = open(path, mode);
    let memory = node.memory(node.connect(address_of(0)).expect("it serves"));
    let region = patiently(|| memory.alloc(MOST_BYTES));
    memory.write(region, 0, &vec![7; MOST_BYTES as usize]).expect("room");
    println!("\nholding");
    std::io::stdout().flush().expect("a pipe");
    loop {
        node.step();
    }
}

/// A child that is killed at the end.
struct Running(Child);

impl Running {
    /// Starts it and waits for its line.
    fn start(command: &mut Command, line: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut running = Self(command.spawn().expect("it starts"));
        let stdout = running.0.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        assert!(lines.any(|found| found.starts_with(line)), "it ended before {line:?}");
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Path(PathBuf);

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn inherits(mode: &str) {
    let path = Path(format!("/dev/shm/dmrpc-heir-{mode}-{}", std::process::id()).into());
    let text = path.0.to_str().expect("a plain name");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
    command.args(["--pool", text, "--pool-size", "256MiB", "--coherence", mode]);
    let _node = Running::start(&mut command, "ready");
    for _ in 0..3 {
        let mut command = Command::new(std::env::current_exe().expect("Linux"));
        command.args(["--exact", "victim", "--nocapture"]).env(ORDER, format!("{text}|{mode}"));
        // It can only hold that much if nothing is left of the one before.
        let victim = Running::start(&mut command, "holding");
        drop(victim);
        let node = open(text, mode);
        let memory = node.memory(node.connect(address_of(0)).expect("it serves"));
        let region = patiently(|| memory.alloc(MOST_BYTES));
        memory.free(region).expect("its own");
        node.disconnect_all();
    }
}

#[test]
fn the_next_one_with_a_number_finds_all_that_the_last_one_held() {
    inherits("coherent");
}

/// There the number has to be given.
#[test]
fn so_in_flush_mode() {
    inherits("flush");
}

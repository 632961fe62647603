//! A peer that disappears from a memif link, or comes back, is a lost link, not a crash.
#![cfg(feature = "dpdk")]

mod common;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_dpdk::{Port, PortConfig};

/// Set for the process that is killed: the socket that it connects to.
const CHILD_SOCKET: &str = "DMRPC_TEST_SOCKET";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn pair(
    server: Arc<Port>,
    client: Arc<Port>,
) -> Vec<(dmrpc_dpdk::DpdkDevice, std::net::SocketAddrV4)> {
    common::devices(&[server, client])
}

#[test]
fn a_listener_that_comes_back_is_found_again() {
    let socket = common::Socket::new();
    let listening = PortConfig { link_timeout: None, ..PortConfig::default() };
    let server = common::memif("server", &socket, "", &listening);
    let client = common::memif("client", &socket, "", &PortConfig::default());
    let mut devices = pair(Arc::clone(&server), Arc::clone(&client));
    let (mut ours, _) = devices.pop().expect("two");
    let (theirs, their_address) = devices.pop().expect("two");
    // All that holds the port goes, so it closes.
    drop((theirs, devices, server));
    let begin = Instant::now();
    while client.link_is_up() {
        assert!(begin.elapsed() < PATIENCE, "the link stays up without a peer");
        ours.split().0.receive();
    }
    let server = common::memif("server", &socket, "", &listening);
    ours.learn(*their_address.ip(), server.hardware());
    let queue = vec![server.queue(0).expect("free")];
    let mut theirs =
        dmrpc_dpdk::DpdkDevice::open(queue, their_address, 24, None, 2).expect("a device");
    loop {
        assert!(begin.elapsed() < PATIENCE, "nothing arrives: {:?}", ours.stats());
        let (mut rx, mut tx) = ours.split();
        rx.receive();
        if let Some(buffer) = tx.push(their_address, 3) {
            buffer.copy_from_slice(b"new");
        }
        tx.flush();
        let (mut rx, _) = theirs.split();
        if rx.receive() > 0 {
            assert_eq!(rx.packet(0).1, b"new");
            return;
        }
    }
}

/// Not a check by itself: what the killed process does.
#[test]
fn flood_of_the_child() {
    let Some(path) = std::env::var_os(CHILD_SOCKET) else { return };
    // The name is the parent's, who removes it.
    let socket = std::mem::ManuallyDrop::new(common::Socket(path.into()));
    let port = common::memif("client", &socket, "", &PortConfig::default());
    let queue = vec![port.queue(0).expect("free")];
    let at = "10.9.0.2:7002".parse().expect("an address");
    let to = "10.9.0.1:7001".parse().expect("an address");
    let mut device = dmrpc_dpdk::DpdkDevice::open(queue, at, 24, None, 1).expect("a device");
    loop {
        let (mut rx, mut tx) = device.split();
        rx.receive();
        for _ in 0..32 {
            if let Some(buffer) = tx.push(to, 1000) {
                buffer.fill(1);
            }
        }
        tx.flush();
    }
}

#[test]
fn a_peer_killed_in_full_flight_is_a_lost_link() {
    if std::env::var_os(CHILD_SOCKET).is_some() {
        return;
    }
    let socket = common::Socket::new();
    let listening = PortConfig { link_timeout: None, ..PortConfig::default() };
    let server = common::memif("server", &socket, "", &listening);
    let queue = vec![server.queue(0).expect("free")];
    let at = "10.9.0.1:7001".parse().expect("an address");
    let mut device = dmrpc_dpdk::DpdkDevice::open(queue, at, 24, None, 1).expect("a device");
    let program = std::env::current_exe().expect("this program");
    let rounds =
        std::env::var("DMRPC_TEST_KILLS").map_or(5, |text| text.parse().expect("a number"));
    for round in 0..rounds {
        let mut child = Command::new(&program)
            .args(["--exact", "flood_of_the_child"])
            .env_remove("DMRPC_TEST_KILLS")
            .env(CHILD_SOCKET, &socket.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let begin = Instant::now();
        let mut came = 0;
        // Echoing: both directions are busy when it dies.
        while came < 20_000 + 1000 * (round % 5) {
            assert!(begin.elapsed() < PATIENCE, "round {round}: {came} came");
            came += echo(&mut device);
        }
        child.kill().expect("it runs");
        while server.link_is_up() {
            assert!(begin.elapsed() < PATIENCE, "round {round}: the link stays up");
            echo(&mut device);
        }
        child.wait().expect("a child");
    }
}

/// Sends a burst back. Returns its length.
fn echo(device: &mut dmrpc_dpdk::DpdkDevice) -> usize {
    let (mut rx, mut tx) = device.split();
    let count = rx.receive();
    for index in 0..count {
        let (peer, bytes) = rx.packet(index);
        if let Some(buffer) = tx.push(peer, bytes.len()) {
            buffer.copy_from_slice(bytes);
        }
    }
    tx.flush();
    count
}

//! What `dmrpc-mn` says where DPDK cannot be had as asked, and that nothing is left behind.
#![cfg(feature = "dpdk")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dmrpc_host as _;

/// How long a refusal may take: DPDK takes some tenths of a second to start.
const REFUSAL_MAX: Duration = Duration::from_secs(10);
/// Where DPDK keeps files of its processes.
const RUNTIME_FOLDER: &str = "/var/run/dpdk";

/// Runs it with `line` until it ends by itself, and checks that it left nothing.
fn run(line: &str) -> Output {
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
    command.args(["--pool-size", "8MiB"]);
    if !line.contains("--bind") {
        command.args(["--bind", "10.9.0.1:7400"]);
    }
    command.args(line.split(' ')).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let folder = Path::new(RUNTIME_FOLDER).join(format!("dmrpc-{}", child.id()));
    let output = child.wait_with_output().expect("it ends");
    assert!(start.elapsed() < REFUSAL_MAX, "{line} took {:?}", start.elapsed());
    assert!(!folder.exists(), "{line} left {}", folder.display());
    output
}

/// Bad input gets one line that names what was wrong and what would be right.
fn refused(line: &str, code: i32, parts: &[&str]) {
    let output = run(line);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{line}: {error}");
    assert_eq!(error.lines().count(), 1, "{line}: {error}");
    assert!(output.stdout.is_empty(), "{line}: {:?}", String::from_utf8_lossy(&output.stdout));
    for part in parts {
        assert!(error.contains(part), "{line}: {error:?} lacks {part:?}");
    }
}

#[test]
fn wrong_flags() {
    refused("--dpdk-vdev net_null0", 2, &["--dpdk-vdev is for DPDK", "--driver dpdk"]);
    refused("--driver dpdk --dpdk-no-huge", 2, &["DPDK has no port", "--dpdk-vdev"]);
    let null = "--driver dpdk --dpdk-no-huge --dpdk-vdev net_null0";
    refused(&format!("{null} --bind 127.0.0.1:7400"), 2, &["127.0.0.1:7400", "10.0.0.1:7400"]);
    refused(&format!("{null} --prefix-bits 33"), 2, &["33"]);
}

#[test]
fn devices_that_are_not_there() {
    let dpdk = "--driver dpdk --dpdk-no-huge";
    refused(&format!("{dpdk} --dpdk-vdev net_nonsense0"), 1, &["--dpdk-vdev net_nonsense0"]);
    let line = format!("{dpdk} --dpdk-vdev net_af_packet0,iface=nosuch0");
    refused(&line, 1, &["net_af_packet0,iface=nosuch0", "iface=veth0"]);
    refused(&format!("{dpdk} --dpdk-pci 0000:ff:1f.7"), 2, &["0000:ff:1f.7", "bind the device"]);
    let line = format!("{dpdk} --dpdk-vdev net_null0 --dpdk-eal --nonsense");
    refused(&line, 1, &["--nonsense", "does not start"]);
    refused(
        "--driver dpdk --dpdk-no-huge --dpdk-vdev net_af_xdp0,iface=lo",
        2,
        &["net_af_xdp0", "huge pages"],
    );
}

#[test]
fn what_the_device_cannot_do() {
    let dpdk = "--driver dpdk --dpdk-no-huge";
    let line = format!("{dpdk} --dpdk-vdev net_null0 --dpdk-vdev net_null0");
    refused(&line, 2, &["net_null0", "name of its own"]);
    let line = format!("{dpdk} --dpdk-vdev net_null0,nonsense=3");
    refused(&line, 1, &["net_null0,nonsense=3", "NAME[,KEY=VALUE...]"]);
    let memif = "net_memif0,id=0,socket-abstract=no";
    let line = format!("{dpdk} --dpdk-vdev {memif},role=king,socket=/tmp/x.sock");
    refused(&line, 1, &["role=king", "role=server"]);
    let line = format!("{dpdk} --dpdk-vdev {memif},role=server,socket=/nosuch/x.sock");
    refused(&line, 1, &["/nosuch/x.sock"]);
}

/// A socket where somebody listens already.
#[test]
fn a_busy_socket() {
    let name = format!("dmrpc-mn-busy-{}.sock", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let busy = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let line = format!(
        "--driver dpdk --dpdk-no-huge --dpdk-vdev \
         net_memif0,role=server,id=0,socket={},socket-abstract=no",
        socket.display()
    );
    refused(&line, 1, &["net_memif0", "already in use"]);
    drop(busy);
    assert!(socket.exists(), "another's socket stays");
    std::fs::remove_file(socket).expect("it was there");
}

/// Interfaces without a link, or with fewer queues than cores, or that may not be used.
#[test]
fn interfaces_as_they_are() {
    if !dmrpc_conformance::may(dmrpc_host::network::own_network(), "network namespaces") {
        return;
    }
    let ip = |line: &str| {
        let status = Command::new("ip").args(line.split(' ')).status().expect("ip is installed");
        assert!(status.success(), "ip {line}");
    };
    ip("link add veth0 type veth peer name veth1");
    let dpdk = "--driver dpdk --dpdk-no-huge --dpdk-link-wait 200ms --dpdk-vdev net_af_packet0";
    let line = format!("{dpdk},iface=veth0");
    // Down; then up without anybody at the other end.
    for state in ["down", "up"] {
        ip(&format!("link set veth0 {state}"));
        refused(&line, 1, &["net_af_packet0", "no link for 200 ms", "interface up"]);
    }
    ip("link set veth1 up");
    refused(&format!("{line} --cores 0,1"), 2, &["1 queue pairs, 2 are needed", "qpairs=2"]);
    refused(&format!("{line} --datagram-size 9000B"), 2, &["at most 1518", "--datagram-size"]);
    let links = Command::new("ip").args(["-o", "link"]).output().expect("ip is installed");
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    assert_eq!(links.lines().count(), 3, "nothing but veths and loopback: {links}");
}

#[test]
fn a_link_without_another_end() {
    let socket = std::env::temp_dir().join(format!("dmrpc-mn-{}.sock", std::process::id()));
    let line = format!(
        "--driver dpdk --dpdk-no-huge --dpdk-link-wait 100ms --dpdk-vdev \
         net_memif0,role=client,id=0,socket={},socket-abstract=no",
        socket.display()
    );
    refused(&line, 1, &["net_memif0", "no link for 100 ms", "other end"]);
    assert!(!socket.exists());
}

#[test]
fn no_huge_pages() {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let free = sizes.map(|size| std::fs::read_to_string(size.path().join("free_hugepages")));
    let some = free.flatten().any(|count| count.trim() != "0");
    // What is refused where there are none is no refusal where there are.
    if !some {
        let parts = ["no huge page", "nr_hugepages", "--dpdk-no-huge"];
        refused("--driver dpdk --dpdk-vdev net_null0", 1, &parts);
    }
}

#[test]
fn not_enough_memory_for_buffers() {
    let line = "--driver dpdk --dpdk-no-huge --dpdk-memory 4MiB --dpdk-vdev net_null0";
    refused(line, 1, &["no memory for", "--dpdk-memory"]);
}

//! The links of `--local memif` and `--local veth`, and DPDK with a cluster file.
//!
//! Network namespaces need root: without it, what needs them says so and passes.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dmrpc_conformance::{Killed, ip, may};
use dmrpc_host::network::{Network, own_network};
use serde_json::Value;

use crate::common::{
    ClusterFile, KeyFile, build_memory_node, children_of, command, program, refused_late, rows,
    runs,
};

/// Short, and the processes of two cores give each other way. Without huge pages it runs anywhere.
const BRIEF: &str = "--dpdk-no-huge --seconds 0.05 --blocks 3 --warmup 20 --idle yield";

fn check(rows: &[Value], driver: &str, wanted: &[&str]) {
    let ops: Vec<_> = rows.iter().map(|row| row["op"].as_str().expect("an op")).collect();
    assert_eq!(ops, wanted);
    for row in rows {
        assert_eq!(row["driver"], driver, "{row}");
        let raw = row["op"].as_str().is_some_and(|op| op.starts_with("raw_"));
        assert!(row["count"].as_u64() > Some(0), "{row}");
        assert!(raw || row["errors"] == 0 && row["verified"].as_u64() > Some(0), "{row}");
    }
}

#[test]
fn over_memif() {
    let line = format!("--local memif --raw {BRIEF} --sizes 32B,4KiB --concurrency 4");
    check(&rows("rpc_test", &line), "memif", &["rpc", "raw_echo", "rpc", "raw_oneway"]);
    let line = format!("--local memif --raw {BRIEF} --sizes 32KiB --pages 2 --write-sizes 1KiB");
    let rows = rows("fork_test", &format!("{line} --concurrency 1"));
    check(&rows, "memif", &["cow_write", "copy_write", "raw_rtt"]);
}

/// What is sent from the buffers of a compute node and from the pool of a memory node is verified
/// while both are written again, and rows say whether it was.
#[test]
fn sent_from_where_it_lies_over_memif() {
    for (when, sends) in [("auto", true), ("on", true), ("off", false)] {
        let line = format!("--local memif {BRIEF} --sizes 256KiB --zero-copy-transmit {when}");
        for (app, op) in [("rpc_test", "rpc"), ("bandwidth_write_test", "write")] {
            let rows = rows(app, &format!("{line} --concurrency 4"));
            check(&rows, "memif", &[op]);
            assert_eq!(rows[0]["zero_copy_transmit"], sends, "{rows:?}");
        }
    }
}

#[test]
fn encrypted_over_memif() {
    let key = KeyFile::new("memif");
    let line = format!("--local memif {BRIEF} {} --sizes 32B,32KiB --concurrency 4", key.encrypt());
    let rows = rows("rpc_test", &line);
    check(&rows, "memif", &["rpc", "rpc"]);
    assert!(rows.iter().all(|row| row["auth"] == true), "{rows:?}");
}

#[test]
fn over_veth() {
    if !may(Network::new(), "network namespaces") {
        return;
    }
    let line = format!("--local veth --raw {BRIEF} --sizes 32B,4KiB --concurrency 4");
    check(&rows("rpc_test", &line), "veth", &["rpc", "raw_echo", "rpc", "raw_oneway"]);
    // Four hosts and more: two endpoints of ours, the memory node, the raw servers.
    let line = format!("--local veth --raw {BRIEF} --sizes 32KiB --pages 2 --write-sizes 1KiB");
    let rows = rows("fork_test", &format!("{line} --concurrency 1"));
    check(&rows, "veth", &["cow_write", "copy_write", "raw_rtt"]);
}

fn network_of(id: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{id}/ns/net")).ok()?;
    Some(link.display().to_string())
}

/// Every host is in a namespace of its own, and all go with the program, even if it is killed.
#[test]
fn hosts_on_veths_go_with_the_program() {
    if !may(Network::new(), "network namespaces") {
        return;
    }
    build_memory_node();
    let line = format!("--local veth --raw {BRIEF}").replace("0.05", "60");
    let mut parent =
        command("latency_test", &line).stdout(Stdio::null()).spawn().expect("it starts");
    let end = Instant::now() + Duration::from_secs(60);
    let (mut children, mut networks) = (Vec::new(), HashSet::new());
    // A network each for the memory node, the echo and two raw servers, and the bridge's.
    while networks.len() < 5 {
        assert!(Instant::now() < end, "{} children in {networks:?}", children.len());
        assert!(parent.try_wait().expect("a child").is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(20));
        children = children_of(parent.id());
        let processes = children.iter().copied().chain([parent.id()]);
        networks = processes.filter_map(network_of).collect::<HashSet<String>>();
    }
    let own = network_of(std::process::id()).expect("a network");
    assert!(!networks.contains(&own), "this test's network is none of them");

    parent.kill().expect("it runs");
    parent.wait().expect("it ends");
    while children.iter().any(|id| runs(*id)) {
        assert!(Instant::now() < end, "children outlive their parent");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Whoever is left in one of the networks would keep it.
    let left = std::fs::read_dir("/proc").expect("/proc").flatten();
    let left = left.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let left: Vec<u32> =
        left.filter(|id| network_of(*id).is_some_and(|of| networks.contains(&of))).collect();
    assert!(left.is_empty(), "{left:?} are in their networks");
    let out = Command::new("ip").args(["-o", "link"]).output().expect("ip is installed");
    let links = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!links.contains("bridge0") && !links.contains("child0"), "{links}");
}

/// Two endpoints of one program, each with a link of its own to one memory node.
#[test]
fn fork_test_joins_a_cluster_over_dpdk() {
    if !may(Network::new(), "network namespaces") {
        return;
    }
    build_memory_node();
    let file = ClusterFile::new("dpdk", "10.9.0.1:7400", "10.9.0.3:7401", "10.9.0.2:7402");
    own_network().expect("it was possible before");
    for number in [0, 1] {
        for line in [
            format!("link add mn{number} type veth peer name cn{number}"),
            format!("link set mn{number} addrgenmode none up"),
            format!("link set cn{number} addrgenmode none up"),
        ] {
            ip(&line);
        }
    }
    let memory_node = std::path::Path::new(program("rpc_test")).with_file_name("dmrpc-mn");
    let dpdk = |end: &str| {
        let vdev = |number| {
            format!("--dpdk-vdev net_af_packet{number},qdisc_bypass=1,iface={end}{number}")
        };
        format!("--driver dpdk --dpdk-no-huge {} {}", vdev(0), vdev(1))
    };
    let line = file.line(&format!("--server-index 0 --pool-size 64MiB {}", dpdk("mn")));
    let mut serving = Command::new(memory_node);
    serving.args(line.split(' ')).stderr(Stdio::null());
    let (_serving, address) = Killed::serving(&mut serving);
    assert_eq!(address, "10.9.0.1:7400");

    let brief = "--seconds 0.05 --blocks 3 --warmup 20 --idle yield --concurrency 1";
    let what = "--sizes 32KiB --pages 2 --write-sizes 1KiB";
    let ours = dpdk("cn");
    let line = file.line(&format!("--client-index 2 --server-index 0 {brief} {what} {ours}"));
    check(&rows("fork_test", &line), "dpdk", &["cow_write", "copy_write"]);
    // With one link it says what is missing.
    let (one, _) = line.rsplit_once(" --dpdk-vdev").expect("two of them");
    refused_late("fork_test", one, 2, &["2 endpoints", "1 links", "--dpdk-vdev"]);
}

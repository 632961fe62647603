//! Bad input: one line, the right exit code, within two seconds, and no process left behind.

use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{
    ClusterFile, build_memory_node, children_of, command, free_port, refused, runs,
};

const PROGRAMS: [&str; 7] = [
    "simple_test",
    "latency_test",
    "bandwidth_read_test",
    "bandwidth_write_test",
    "rpc_test",
    "fork_speed",
    "fork_test",
];

#[test]
fn wrong_flags() {
    for name in PROGRAMS {
        refused(name, "", 2, &["--local udp", "--cluster"]);
        refused(name, "--local tcp", 2, &["tcp", "udp"]);
        refused(name, "--local udp --frobnicate", 2, &["--frobnicate"]);
        refused(name, "--local udp --seconds 0", 2, &["--seconds 0", "0.001"]);
        refused(name, "--local udp --cores 0,77", 2, &["core 77"]);
        refused(name, "--local udp --cores 0", 2, &["2 cores are needed"]);
        refused(name, "--local udp --idle lazy", 2, &["lazy", "busy, yield or sleep"]);
        refused(name, "--local udp --sizes 4KB", 2, &["4KB", "KiB"]);
        refused(name, "--local udp --congestion reno", 2, &["reno", "swift"]);
        refused(name, "--cluster x", 2, &["--client-index"]);
    }
    refused("rpc_test", "--local udp --key-file /no/key", 2, &["/no/key"]);
    refused("rpc_test", "--local udp --sizes 9MiB", 2, &["--sizes 9MiB", "8MiB"]);
    refused("rpc_test", "--local udp --concurrency 0", 2, &["--concurrency 0", "1 to 128"]);
    refused("rpc_test", "--local udp --sessions 0", 2, &["--sessions 0", "1 to 65536"]);
    refused("rpc_test", "--local udp --sessions 65537", 2, &["--sessions 65537", "1 to 65536"]);
    refused("latency_test", "--local udp --sessions 9", 2, &["--sessions"]);
    refused("fork_test", "--local udp --sizes 1KiB", 2, &["--sizes 1KiB", "4KiB to 8MiB"]);
    refused("fork_test", "--local udp --sizes 8KiB --pages 3", 2, &["--pages 3", "1 to 2"]);
    refused("fork_test", "--local udp --write-sizes 5KiB", 2, &["--write-sizes 5KiB", "4KiB"]);
    refused("latency_test", "--local udp --ops fork", 2, &["fork", "references"]);
}

#[test]
fn a_cluster_file_that_is_of_no_use() {
    let line = "--cluster /no/such/file --client-index 0 --server-index 1";
    refused("rpc_test", line, 2, &["/no/such/file"]);
    let file = ClusterFile::new("use", &free_port(), &free_port(), &free_port());
    let line = file.line("--client-index 2 --server-index 9");
    refused("rpc_test", &line, 2, &["index 9", "0 to 2"]);
    let line = file.line("--client-index 2 --server-index 0");
    refused("rpc_test", &line, 2, &["echo service", "--server-index"]);
    let line = file.line("--client-index 2 --server-index 1");
    refused("bandwidth_read_test", &line, 2, &["memory node", "--server-index"]);
    let line = file.line("--client-index 2 --server-index 0 --raw");
    refused("bandwidth_read_test", &line, 2, &["--raw", "--local udp"]);
}

#[test]
fn nobody_there() {
    let (mn, echo) = (free_port(), free_port());
    let file = ClusterFile::new("nobody", &mn, &echo, &free_port());
    let line = file.line("--client-index 2 --server-index 0");
    refused("bandwidth_read_test", &line, 1, &[&mn, "nobody answers"]);
    let line = file.line("--client-index 2 --server-index 1");
    refused("rpc_test", &line, 1, &[&echo, "nobody answers"]);
}

#[test]
fn a_busy_port() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = taken.local_addr().expect("bound").to_string();
    let file = ClusterFile::new("busy", &free_port(), &free_port(), &address);
    let line = file.line("--client-index 2 --server-index 0");
    refused("bandwidth_write_test", &line, 1, &[&address, "in use"]);
}

#[test]
fn a_pool_that_does_not_fit() {
    build_memory_node();
    // One line, though it is the memory node that refuses.
    let line = "--local udp --pool-size 900TiB";
    refused("simple_test", line, 1, &["(role mn) does not start", "900TiB"]);
}

/// As any Unix tool in `tool | head`: no panic, no message.
#[test]
fn nobody_reads_the_results() {
    build_memory_node();
    for json in ["", " --json"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let line = format!("--local udp --pool-size 64MiB{json}");
        let mut command = command("simple_test", &line);
        command.stdout(writer).stderr(Stdio::piped());
        let program = command.spawn().expect("it starts");
        // The command has an end of the pipe of its own.
        drop(command);
        let output = program.wait_with_output().expect("a child");
        assert_eq!(output.status.code(), Some(141), "{:?}", crate::common::text(&output.stderr));
        assert_eq!(crate::common::text(&output.stderr), "");
    }
}

/// However a program ends, its children end with it.
#[test]
fn no_process_is_left() {
    build_memory_node();
    // What runs in a shell's background may have been told to ignore SIGINT, and its children are.
    let ends = |signal: &&str| *signal != "-INT" || !ignores(libc::SIGINT);
    for signal in ["-TERM", "-INT", "-KILL"].into_iter().filter(ends) {
        let line = "--local udp --raw --seconds 60 --pool-size 64MiB";
        let mut program =
            command("latency_test", line).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let program = program.as_mut().expect("it starts");
        let end = Instant::now() + Duration::from_secs(20);
        let mut children = Vec::new();
        while children.len() < 5 && Instant::now() < end {
            children = children_of(program.id());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(children.len(), 5, "a memory node, an echo and three yardsticks");
        std::thread::sleep(Duration::from_millis(200));
        let id = program.id().to_string();
        let killed = std::process::Command::new("kill").args([signal, &id]).status();
        assert!(killed.expect("kill").success());
        program.wait().expect("a child");
        let end = Instant::now() + Duration::from_secs(20);
        while children.iter().any(|child| runs(*child)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left: Vec<_> = children.iter().filter(|child| runs(**child)).collect();
        assert!(left.is_empty(), "{signal} left {left:?}");
    }
}

/// Whether this process ignores a signal (proc(5): a bit for each, from 1 on).
fn ignores(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("hexadecimal");
    mask >> (signal - 1) & 1 == 1
}

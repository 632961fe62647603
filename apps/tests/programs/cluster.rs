//! The processes of a cluster file, started one by one.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dmrpc_conformance::Killed;

use crate::common::{ClusterFile, build_memory_node, command, free_port, program, rows};

fn start(command: &mut Command) -> Killed {
    Killed::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
}

#[test]
fn programs_join_a_cluster() {
    build_memory_node();
    let (mn, echo) = (free_port(), free_port());
    let file = ClusterFile::new("join", &mn, &echo, &free_port());
    let memory_node = std::path::Path::new(program("rpc_test")).with_file_name("dmrpc-mn");
    let line = file.line("--server-index 0 --pool-size 64MiB");
    let _memory_node = start(Command::new(memory_node).args(line.split(' ')));
    let line = format!("--role echo --idle sleep --bind {echo}");
    let _echo = start(&mut command("rpc_test", &line));
    let brief = "--seconds 0.05 --blocks 3 --warmup 20 --idle yield --sizes 4KiB";

    let line = file.line(&format!("--client-index 2 --server-index 0 --server-index 1 {brief}"));
    let end = Instant::now() + Duration::from_secs(30);
    while !is_up(&mn) || !is_up(&echo) {
        assert!(Instant::now() < end, "the servers do not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(rows("latency_test", &line).len(), 8);
    assert_eq!(rows("bandwidth_write_test", &format!("{line} --concurrency 20")).len(), 1);
    assert_eq!(rows("rpc_test", &format!("{line} --concurrency 20")).len(), 1);
    assert!(rows("simple_test", &line).len() > 20);
}

/// Whether somebody has bound a UDP address.
fn is_up(address: &str) -> bool {
    std::net::UdpSocket::bind(address).is_err()
}

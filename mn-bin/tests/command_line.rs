//! `dmrpc-mn` as a person meets it: what it says to good and to bad flags, and how it ends.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dmrpc_cn::{Node, NodeConfig};
use dmrpc_host as _;

/// How long a busy machine may take for a refusal, or an end.
const REFUSAL_MAX: Duration = Duration::from_secs(20);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
    command.args(arguments).env_remove("RUST_BACKTRACE");
    command
}

/// Runs it until it ends by itself; it must end in time.
fn run(arguments: &[&str]) -> Output {
    let start = Instant::now();
    let output = command(arguments).stdin(Stdio::null()).output().expect("it starts");
    assert!(start.elapsed() < REFUSAL_MAX, "{arguments:?} took {:?}", start.elapsed());
    output
}

/// Bad input gets one line that names what was wrong and what would be right.
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    for part in parts {
        assert!(error.contains(part), "{arguments:?}: {error:?} lacks {part:?}");
    }
}

/// A memory node that serves, on a port of the kernel's choice.
struct Serving {
    child: Child,
    address: String,
    _stdout: BufReader<ChildStdout>,
}

impl Serving {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(&["--bind", "127.0.0.1:0", "--pool-size", "8MiB"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("ready ").expect(&line).to_owned();
        Self { child, address, _stdout: stdout }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Waits for the end and returns exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        while self.child.try_wait().expect("a child").is_none() {
            assert!(start.elapsed() < REFUSAL_MAX, "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut error = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        std::io::Read::read_to_string(&mut stderr, &mut error).expect("text");
        (self.child.wait().expect("a child").code(), error)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Harmless if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_teaches() {
    let output = run(&["--help"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success());
    for flag in ["--pool-size", "--cores", "--idle", "--cluster", "Examples:"] {
        assert!(text.contains(flag), "--help lacks {flag}");
    }
}

#[test]
fn unknown_flags_and_values_are_usage_errors() {
    for arguments in [&["--pol-size", "1GiB"][..], &["--pool-size", "lots"], &["--idle", "lazy"]] {
        refused(arguments, 2, &[arguments[0], "--help tells more"]);
    }
}

#[test]
fn a_pool_that_does_not_fit_is_refused() {
    let arguments = ["--bind", "127.0.0.1:0", "--pool-size", "900TiB"];
    refused(&arguments, 1, &["--pool-size 900TiB does not fit", "available"]);
}

#[test]
fn a_pool_too_small_for_its_tables_is_refused() {
    let arguments = ["--bind", "127.0.0.1:0", "--pool-size", "4KiB"];
    refused(&arguments, 2, &["--pool-size 4KiB", "needed"]);
    let arguments = ["--bind", "127.0.0.1:0", "--pool-size", "10"];
    refused(&arguments, 2, &["--pool-size 10B", "needed"]);
    for none in ["0", "7B"] {
        refused(&["--bind", "127.0.0.1:0", "--pool-size", none], 2, &["--pool-size", "needed"]);
    }
}

#[test]
fn values_out_of_their_range_are_usage_errors() {
    for flags in [
        ["--lease", "0s"],
        ["--lease", "5000000h"],
        ["--report", "0s"],
        ["--datagram-size", "0"],
        ["--datagram-size", "70000"],
    ] {
        let arguments = [&["--bind", "127.0.0.1:0"], &flags[..]].concat();
        refused(&arguments, 2, &[flags[0], flags[1], "give"]);
    }
}

#[test]
fn huge_pages_are_not_compared_with_what_is_available_beside_them() {
    let arguments = ["--bind", "127.0.0.1:0", "--huge-pages", "--pool-size", "900TiB"];
    refused(&arguments, 1, &["huge pages", "nr_hugepages"]);
}

#[test]
fn a_busy_port_is_refused() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = taken.local_addr().expect("bound").to_string();
    refused(&["--bind", &address, "--pool-size", "8MiB"], 1, &[&address, "in use"]);
}

#[test]
fn an_address_of_nobody_here_is_refused() {
    refused(&["--bind", "192.0.2.1:7400", "--pool-size", "8MiB"], 1, &["192.0.2.1"]);
}

#[test]
fn cores_that_are_not_there_are_refused() {
    refused(&["--bind", "127.0.0.1:0", "--cores", "4000"], 2, &["4000"]);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 {
        refused(&["--bind", "127.0.0.1:0", "--cores", "0,1"], 2, &["--cores", "one"]);
    }
}

#[test]
fn slots_and_sessions_out_of_range_are_refused() {
    refused(&["--bind", "127.0.0.1:0", "--slots", "12"], 2, &["12 slots", "power of two"]);
    refused(&["--bind", "127.0.0.1:0", "--sessions", "0"], 2, &["--sessions 0", "1 to 65536"]);
}

#[test]
fn cluster_files_that_cannot_be_used_are_refused() {
    let missing = ["--cluster", "/does/not/exist.toml", "--server-index", "0"];
    refused(&missing, 2, &["/does/not/exist.toml"]);
    let path = std::env::temp_dir().join(format!("dmrpc-mn-test-{}.toml", std::process::id()));
    std::fs::write(&path, "[[process]]\nname = \"a\"\nrole = \"cn\"\naddress = \"127.0.0.1:1\"\n")
        .expect("a temporary file");
    let path_text = path.to_string_lossy().into_owned();
    refused(&["--cluster", &path_text, "--server-index", "0"], 2, &["'a'", "role mn"]);
    refused(&["--cluster", &path_text, "--server-index", "7"], 2, &["7"]);
    std::fs::remove_file(&path).expect("it was written");
}

#[test]
fn signals_stop_it_cleanly() {
    for signal in ["-INT", "-TERM"] {
        let serving = Serving::start(&[]);
        serving.signal(signal);
        assert_eq!(serving.end().0, Some(0), "{signal}");
    }
}

/// The next line that is `wanted`.
fn line_with(lines: &mut impl BufRead, wanted: impl Fn(&str) -> bool) -> String {
    let mut line = String::new();
    while !wanted(&line) {
        line.clear();
        assert!(lines.read_line(&mut line).expect("text") > 0, "it ended before it said so");
    }
    line
}

#[test]
fn it_reports_once_a_second_and_on_demand() {
    let begin = Instant::now();
    let mut serving = Serving::start(&["--report", "200ms"]);
    let mut stderr = BufReader::new(serving.child.stderr.take().expect("piped"));
    for _ in 0..3 {
        line_with(&mut stderr, |line| line.starts_with("core "));
    }
    assert!(begin.elapsed() >= Duration::from_millis(600), "{:?}", begin.elapsed());
    drop(serving);

    let mut serving = Serving::start(&["--json"]);
    let mut stderr = BufReader::new(serving.child.stderr.take().expect("piped"));
    serving.signal("-USR1");
    let report = line_with(&mut stderr, |line| line.starts_with('{'));
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["frames_in_use"], 0);
    assert!(report["rates"]["write"]["ops_per_s"].is_number());
}

/// Whoever read the output has gone away: no reason to stop serving, nor to fail at the end.
#[test]
fn it_serves_on_when_nobody_reads() {
    let mut serving = Serving::start(&["--report", "20ms"]);
    drop(serving.child.stderr.take());
    std::thread::sleep(Duration::from_millis(200));
    assert!(serving.child.try_wait().expect("a child").is_none(), "it must serve on");
    serving.signal("-TERM");
    assert!(serving.child.wait().expect("a child").success());
    // Not even the first line can be told.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let free = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let mut child = command(&["--bind", &address, "--pool-size", "8MiB"])
        .stdout(writer.try_clone().expect("a descriptor"))
        .stderr(writer)
        .spawn()
        .expect("it starts");
    // Whoever is served is served after that line.
    let node = Node::open_udp(&NodeConfig::default()).expect("a node");
    let (begin, address) = (Instant::now(), address.parse().expect("an address"));
    while node.connect(address).is_err() {
        assert!(begin.elapsed() < REFUSAL_MAX, "nobody serves");
        assert!(child.try_wait().expect("a child").is_none(), "it must serve on");
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.expect("kill").success());
    assert!(child.wait().expect("a child").success());
}

#[test]
fn noise_from_the_network_does_not_end_it() {
    let serving = Serving::start(&[]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let mut state = 7u64;
    for length in 0..2000usize {
        let noise: Vec<u8> = (0..length % 300)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        socket.send_to(&noise, &serving.address).expect("loopback");
    }
    std::thread::sleep(Duration::from_millis(100));
    serving.signal("-TERM");
    assert_eq!(serving.end().0, Some(0));
}

#[test]
fn an_address_on_the_command_line_beats_the_cluster_file_s() {
    let name = format!("dmrpc-mn-test-bind-{}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    let elsewhere = "[[process]]\nname = \"a\"\nrole = \"mn\"\naddress = \"192.0.2.1:7400\"\n";
    std::fs::write(&path, elsewhere).expect("a temporary file");
    let path_text = path.to_string_lossy().into_owned();
    let flags = ["--cluster", &path_text, "--server-index", "0"];
    refused(&flags, 1, &["192.0.2.1"]);
    let serving = Serving::start(&flags);
    assert!(serving.address.starts_with("127.0.0.1:"), "{}", serving.address);
    std::fs::remove_file(&path).expect("it was written");
}

//! Programs as a person or a script meets them.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long bad input may take to be refused.
const REFUSAL_MAX: Duration = Duration::from_secs(20);

/// Where a program of this package is.
pub(crate) fn program(name: &str) -> &'static str {
    match name {
        "simple_test" => env!("CARGO_BIN_EXE_simple_test"),
        "latency_test" => env!("CARGO_BIN_EXE_latency_test"),
        "bandwidth_read_test" => env!("CARGO_BIN_EXE_bandwidth_read_test"),
        "bandwidth_write_test" => env!("CARGO_BIN_EXE_bandwidth_write_test"),
        "fork_speed" => env!("CARGO_BIN_EXE_fork_speed"),
        "fork_test" => env!("CARGO_BIN_EXE_fork_test"),
        "rpc_test" => env!("CARGO_BIN_EXE_rpc_test"),
        other => panic!("no program {other}"),
    }
}

/// Builds the memory node beside the programs: it is of another package, so cargo does not.
pub(crate) fn build_memory_node() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let debug = Path::new(program("simple_test")).parent().expect("a folder");
        if debug.join("dmrpc-mn").exists() && std::env::var_os("DMRPC_TEST_BUILT").is_some() {
            return;
        }
        let profile = if debug.ends_with("release") { "release" } else { "test" };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "dmrpc-mn", "--profile", profile])
            .args(if cfg!(feature = "dpdk") { &["--features", "dpdk"][..] } else { &[] })
            .status()
            .expect("cargo runs");
        assert!(status.success(), "dmrpc-mn must build");
    });
}

pub(crate) fn command(name: &str, line: &str) -> Command {
    let mut command = Command::new(program(name));
    command.args(line.split_whitespace()).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    command
}

/// Runs a program to its end.
pub(crate) fn run(name: &str, line: &str) -> Output {
    command(name, line).output().expect("it starts")
}

/// Held while a program measures.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a program that must succeed with `--json` and returns its rows.
pub(crate) fn rows(name: &str, line: &str) -> Vec<Value> {
    build_memory_node();
    let output = {
        // Each takes both cores: side by side they would only wait for each other.
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        run(name, &format!("{line} --json"))
    };
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name} {line}: {error}{out}");
    // Nothing but JSON on standard output.
    out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Bad input gets one line that names what was wrong and what would be right, in time.
pub(crate) fn refused(name: &str, line: &str, code: i32, parts: &[&str]) {
    let start = Instant::now();
    refused_late(name, line, code, parts);
    assert!(start.elapsed() < REFUSAL_MAX, "{name} {line} took {:?}", start.elapsed());
}

/// The same, however long it takes: DPDK has to start first.
pub(crate) fn refused_late(name: &str, line: &str, code: i32, parts: &[&str]) {
    let output = run(name, line);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name} {line}: {error}");
    assert_eq!(error.lines().count(), 1, "{name} {line}: {error}");
    for part in parts {
        assert!(error.contains(part), "{name} {line}: {error:?} lacks {part:?}");
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// The processes whose parent is `id`, zombies not counted.
pub(crate) fn children_of(id: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// Whether a process runs, zombies not counted.
pub(crate) fn runs(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}

/// A cluster file in a folder of its own, gone when dropped.
pub(crate) struct ClusterFile(std::path::PathBuf);

impl ClusterFile {
    pub(crate) fn new(name: &str, mn: &str, echo: &str, client: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dmrpc-{name}-{}.toml", std::process::id()));
        let table = |name, role, address| {
            format!("[[process]]\nname = \"{name}\"\nrole = \"{role}\"\naddress = \"{address}\"\n")
        };
        let text =
            table("mn0", "mn", mn) + &table("echo", "cn", echo) + &table("client", "cn", client);
        std::fs::write(&path, text).expect("a temporary file");
        Self(path)
    }

    pub(crate) fn line(&self, rest: &str) -> String {
        format!("--cluster {} {rest}", self.0.display())
    }
}

impl Drop for ClusterFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A pre-shared key in a file of its own, gone when dropped.
pub(crate) struct KeyFile(std::path::PathBuf);

impl KeyFile {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("dmrpc-{name}-{}.key", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "sixteen bytes or more\n").expect("a key file");
        Self(path)
    }

    /// The flags that have a program encrypt with what comes of it.
    pub(crate) fn encrypt(&self) -> String {
        format!("--encrypt --key-file {}", self.0.display())
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A port that nobody uses now.
pub(crate) fn free_port() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    socket.local_addr().expect("bound").to_string()
}

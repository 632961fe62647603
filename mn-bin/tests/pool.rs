//! `dmrpc-mn --pool`: pools made, found again, refused, and looked after.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dmrpc_cxl::{Mapping, Mode, Pool, PoolError};

const SIZE: &str = "64MiB";

/// A pool in tmpfs that is removed at the end.
struct Path(PathBuf);

impl Path {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/dmrpc-mn-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("a plain name")
    }

    fn open(&self) -> Result<Pool, PoolError> {
        Pool::open(Mapping::open(&self.0).expect("it is there"), Mode::Coherent)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn command(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
    command.args(["--pool", path.text(), "--pool-size", SIZE]).args(arguments);
    command.stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    command
}

/// A memory node that is killed at the end.
struct Serving(Child);

impl Serving {
    fn start(path: &Path, arguments: &[&str]) -> Self {
        let mut command = command(path, arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready 240.0.0.0:7");
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().expect("a child");
        self.0.wait().expect("a child");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One line that says why, and exit code 1.
fn refused(path: &Path, arguments: &[&str], part: &str) {
    let output = command(path, arguments).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(part), "{text:?} lacks {part:?}");
}

/// Waits for a slot to be free again.
fn await_slot(pool: &Pool, index: u32) {
    let end = Instant::now() + Duration::from_secs(10);
    while pool.attach(Some(index), 1).map(std::mem::forget).is_err() {
        assert!(Instant::now() < end, "nobody freed slot {index}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_pool_in_use_or_unfit_is_refused() {
    let path = Path::new("refused");
    let node = Serving::start(&path, &[]);
    refused(&path, &[], "participant 0 of the pool is process");
    refused(&path, &["--format", "--force"], "is in use by process");
    node.kill();
    refused(&path, &["--coherence", "flush"], "is in coherent mode, not in flush mode");
    let before = std::fs::read(&path.0).expect("it is there");
    std::fs::write(&path.0, b"holiday.jpg\n").expect("tmpfs");
    refused(&path, &[], "4096");
    let mut foreign = before;
    foreign[..8].copy_from_slice(b"\x89PNG\r\n\x1A\n");
    std::fs::write(&path.0, &foreign).expect("tmpfs");
    refused(&path, &[], "something that is not a pool");
    refused(&path, &["--format"], "something that is not a pool");
    assert!(std::fs::read(&path.0).expect("it is there") == foreign, "a refusal wrote");
    Serving::start(&path, &["--format", "--force"]).kill();
}

#[test]
fn a_memory_node_that_died_comes_back_to_its_pool() {
    let path = Path::new("back");
    let node = Serving::start(&path, &[]);
    let identity = |pool: Pool| (pool.geometry().incarnation, pool.geometry().key);
    let first = identity(path.open().expect("a pool"));
    node.kill();
    let node = Serving::start(&path, &[]);
    assert_eq!(identity(path.open().expect("a pool")), first, "references stay good");
    node.kill();
    let node = Serving::start(&path, &["--format"]);
    assert_ne!(identity(path.open().expect("a pool")), first, "made anew");
    node.kill();
}

#[test]
fn slots_of_those_who_left_or_died_become_free() {
    let path = Path::new("slots");
    let _node = Serving::start(&path, &[]);
    let pool = path.open().expect("a pool");
    drop(pool.attach(Some(3), 1).expect("free"));
    await_slot(&pool, 3);
    // A process that attaches and is killed: the memory node of a pool is a handy one.
    let mut other = command(&path, &["--participant", "4", "--driver", "cxl"]);
    assert_eq!(other.output().expect("it starts").status.code(), Some(1), "0 is its slot");
}

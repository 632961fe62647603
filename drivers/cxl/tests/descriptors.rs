//! A process that can open nothing more sees no deaths where there are none.

use dmrpc_host as _;

use std::fs::File;
use std::process::{Child, Command, Stdio};

use dmrpc_core::time::{Duration, Instant};
use dmrpc_cxl::participants::Event;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::process::{Fate, Observed, ProcessId, own_host};
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolError};

/// Set for the process that runs out of descriptors.
const FEW: &str = "DMRPC_FEW_DESCRIPTORS";

/// Limits are a process's: this test's own program is started again with a few descriptors.
#[test]
fn nobody_is_declared_dead_for_want_of_descriptors() {
    if std::env::var_os(FEW).is_some() {
        return without_descriptors();
    }
    let program = std::env::current_exe().expect("Linux");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 48 && exec \"$0\" --nocapture"]).arg(program).env(FEW, "1");
    let output = command.output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

/// Opens files until none can be opened.
fn exhaust() -> Vec<File> {
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    assert!(!files.is_empty() && files.len() < 48);
    files
}

/// A process of this host that lives until it is killed.
fn bystander() -> (Child, ProcessId) {
    let mut command = Command::new("sleep");
    // With no pipe of this test's, whose end would wait for it if a check failed.
    command.arg("100").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("sleep");
    let id = ProcessId { pid: child.id(), start: 0, host: own_host() };
    (child, id)
}

fn without_descriptors() {
    let mapping = Mapping::memfd("descriptors", 32 << 20).expect("memory");
    let second = Mapping::open(mapping.path()).expect("it is there");
    let config = PoolConfig { ring_participants: 4, ..PoolConfig::default() };
    let pool = Pool::format(mapping, Mode::Coherent, &config, (5, [7; 2]), Overwrite::Unused);
    let pool = pool.expect("room");
    let node = pool.attach(Some(0), 1).expect("free");
    let other = pool.attach(Some(3), 1).expect("free");
    let (mut child, id) = bystander();

    let files = exhaust();
    let mut own = Observed::new(ProcessId::own());
    let mut seen = Observed::new(id);
    assert_eq!((own.fate(), seen.fate()), (Fate::Unseen, Fate::Unseen));
    let mut watch = pool.watch(&node, Duration::from_secs(10));
    assert!(matches!(watch.look(Instant::ZERO), Some(Event::Joined { index: 3, .. })));
    let later = Instant::ZERO + Duration::from_secs(100);
    assert_eq!(watch.look(later), None, "it lives, and is of this host");
    assert!(other.is_attached());
    assert!(pool.take_over(3, 2).is_err());
    assert!(!watch.confirm_lost(3), "nobody's word ends a process of this host");
    let forced = Pool::format(second, Mode::Coherent, &config, (6, [7; 2]), Overwrite::Anything);
    assert!(matches!(forced, Err(PoolError::InUse { elsewhere: false, .. })), "{forced:?}");

    // Whoever was not seen is seen once there are descriptors again.
    drop(files);
    assert_eq!((own.fate(), seen.fate()), (Fate::Alive, Fate::Alive));
    assert_eq!(watch.look(later), None);
    child.kill().expect("a child");
    child.wait().expect("a child");
    assert_eq!(seen.fate(), Fate::Gone);
}

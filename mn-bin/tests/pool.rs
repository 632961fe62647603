//! `dmrpc-mn --pool`: pools made, found again, refused, and looked after.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use dmrpc_choice::{AnyDevice, Driver, DriverArgs, data_pool};
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Node, NodeConfig};
use dmrpc_conformance::Killed;
use dmrpc_core::memory::Memory;
use dmrpc_core::store::{Limits, Stats, Store};
use dmrpc_cxl::{Mapping, Mode, Pool, PoolError};

const SIZE: &str = "64MiB";
/// A participant of a pool is where its number says.
const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

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

/// A memory node.
struct Serving(Killed);

impl Serving {
    fn start(path: &Path, arguments: &[&str]) -> Self {
        let (serving, address) = Self::start_at(path, arguments);
        assert_eq!(address, dmrpc_cxl::device::address_of(0));
        serving
    }

    /// The same wherever it says that it is.
    fn start_at(path: &Path, arguments: &[&str]) -> (Self, SocketAddrV4) {
        let mut command = command(path, arguments);
        let (serving, address) = Killed::serving(command.stderr(Stdio::null()));
        (Self(serving), address.parse().expect("an address"))
    }

    fn kill(self) {
        drop(self.0);
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

/// Of a pool that is too small nothing is left, and nothing is written to what was there.
#[test]
fn a_pool_that_is_too_small_leaves_nothing_behind() {
    let path = Path::new("small");
    let refusal = |size: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
        command.args(["--pool", path.text(), "--pool-size", size]);
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.lines().count() == 1, "{size}: {text}");
        text
    };
    let needed = dmrpc_cxl::PoolConfig::default();
    let room = Pool::store_bytes_of(&path.0, 1 << 30, Mode::Coherent, &needed).expect("room");
    // Room for rings alone; for them and a page; for them and too little of a store.
    let (rings, mib) = ((1 << 30) - room, 1 << 20);
    for bytes in [mib, rings, rings + 4096, rings + mib] {
        let text = refusal(&format!("{bytes}B"));
        assert!(text.contains("too small") || text.contains("too few"), "{text}");
        assert!(!path.0.exists(), "{bytes} bytes were left behind");
        std::fs::write(&path.0, vec![0; bytes as usize]).expect("tmpfs");
        refusal(SIZE);
        let after = std::fs::read(&path.0).expect("it is there");
        assert!(after.iter().all(|byte| *byte == 0), "a refusal wrote");
        std::fs::remove_file(&path.0).expect("it is there");
    }
}

/// Flags of a compute node.
#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    driver: DriverArgs,
}

#[test]
fn a_capture_file_goes_with_a_pool() {
    let (path, [ours, theirs]) = (Path::new("pcap"), ["pcap-cn", "pcap-mn"].map(Path::new));
    let _node = Serving::start(&path, &["--pcap", theirs.text()]);
    let flags = ["test", "--pool", path.text(), "--pcap", ours.text()];
    let flags = Flags::parse_from(flags).driver;
    let driver = Driver::start(&flags, flags.datagram_bytes(), 1).expect("a pool");
    let device = driver.device(0, ANYWHERE).expect("a slot");
    let pool = device.pool().map(|(pool, index)| (Arc::clone(pool), index));
    let (pool, index) = pool.expect("a captured device is one of a pool, too");
    let local = device.local_addr();
    let config = NodeConfig { datagram_bytes: 4400, ..NodeConfig::default() };
    let node = Node::new(device, local, &config).expect("a node");
    node.share_pool(&pool, index).expect("the store is there");
    let address = dmrpc_cxl::device::address_of(0);
    assert!(node.shares(address));
    let memory = node.memory(node.connect(address).expect("it serves"));
    memory.alloc(1 << 20).expect("room");
    node.disconnect_all();
    drop(node);
    const FILE_HEADER: u64 = 24;
    let end = Instant::now() + Duration::from_secs(10);
    for file in [ours, theirs] {
        while std::fs::metadata(&file.0).map_or(0, |file| file.len()) <= FILE_HEADER {
            assert!(Instant::now() < end, "{} has no packets", file.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sends a child a signal.
fn signal(serving: &Serving, name: &str) {
    let pid = serving.0.0.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
}

/// A node over UDP, as the programs open it, with `flags` beside.
fn udp_node(memory_node: SocketAddrV4, flags: &[&str]) -> Node<AnyDevice> {
    let all = ["test", "--driver", "udp"].iter().chain(flags);
    let flags = Flags::parse_from(all).driver;
    let driver = Driver::start(&flags, flags.datagram_bytes(), 1).expect("a socket");
    let device = driver.device(0, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let local = device.local_addr();
    let config = NodeConfig { datagram_bytes: flags.datagram_bytes(), ..NodeConfig::default() };
    let node = Node::new(device, local, &config).expect("a node");
    if let Some((pool, place)) = data_pool(&flags).expect("a pool") {
        node.share_memory_of(memory_node, &pool, place).expect("the store is there");
    }
    node
}

/// Calls by a network, data through the pool.
#[test]
fn data_goes_through_a_pool_while_calls_go_by_a_network() {
    const LEN: usize = 1 << 20;
    let path = Path::new("net");
    let (node, address) = Serving::start_at(&path, &["--driver", "udp", "--bind", "127.0.0.1:0"]);
    let near = udp_node(address, &["--pool", path.text()]);
    let far = udp_node(address, &[]);
    assert!(near.shares(address) && !far.shares(address));
    let [mine, theirs] = [&near, &far].map(|node| {
        let peer = node.connect(address).expect("it serves");
        node.memory(peer)
    });
    let bytes: Vec<u8> = (0..LEN).map(|index| (index % 251) as u8).collect();
    let mut found = vec![0; LEN];
    // Nobody answers by the network: what is done is done in the pool.
    signal(&node, "-STOP");
    let region = mine.alloc(LEN as u64).expect("room");
    mine.write(region, 0, &bytes).expect("room");
    let reference = mine.create_ref(region, 0, LEN as u64, ALL_RIGHTS).expect("room");
    mine.read_ref(&reference, 0, &mut found).expect("its own");
    signal(&node, "-CONT");
    assert!(found == bytes);
    // What was made there, others reach by messages, and the other way round.
    found.fill(0);
    theirs.read_ref(&reference, 0, &mut found).expect("the same memory");
    assert!(found == bytes);
    let copy = theirs.map_ref(&reference).expect("room");
    theirs.write(copy, 5, b"theirs").expect("room");
    let changed = theirs.create_ref(copy, 0, 16, ALL_RIGHTS).expect("room");
    mine.read_ref(&changed, 0, &mut found[..16]).expect("the same memory");
    assert_eq!(&found[5..11], b"theirs");
    mine.drop_ref(&reference).expect("its own");
    theirs.drop_ref(&changed).expect("its own");
    // What both held comes back.
    near.disconnect_all();
    far.disconnect_all();
    drop((near, far));
    let pool = path.open().expect("a pool");
    let _place = pool.attach(Some(9), 1).expect("free");
    let store = Store::attach(pool.store_memory(), 9).expect("free");
    let end = Instant::now() + Duration::from_secs(20);
    while store.stats().frames.in_use != 0 {
        assert!(Instant::now() < end, "{:?}", store.stats().frames);
        std::thread::sleep(Duration::from_millis(20));
    }
    let flush = ["test", "--driver", "udp", "--pool", path.text(), "--coherence", "flush"];
    let refused = data_pool(&Flags::parse_from(flush).driver).expect_err("calls have to, too");
    assert!(refused.is_usage() && refused.to_string().contains("flush mode"), "{refused}");
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

/// Sessions with the memory node end with it; what they held comes back when it does.
#[test]
fn what_sessions_of_an_earlier_life_held_is_free_again() {
    let path = Path::new("earlier");
    let flags = ["--driver", "udp", "--bind", "127.0.0.1:0", "--grace", "100ms"];
    let (node, address) = Serving::start_at(&path, &flags);
    let far = udp_node(address, &[]);
    let memory = far.memory(far.connect(address).expect("it serves"));
    let region = memory.alloc(1 << 20).expect("room");
    memory.write(region, 0, &[7; 100_000]).expect("room");
    memory.create_ref(region, 0, 100_000, ALL_RIGHTS).expect("room");
    node.kill();
    let (_node, _) = Serving::start_at(&path, &flags);
    let pool = path.open().expect("a pool");
    let _place = pool.attach(Some(9), 1).expect("free");
    let store = Store::attach(pool.store_memory(), 9).expect("free");
    let end = Instant::now() + Duration::from_secs(20);
    let held = |stats: Stats| (stats.holders.in_use, stats.regions.in_use, stats.frames.in_use);
    while held(store.stats()) != (0, 0, 0) {
        assert!(Instant::now() < end, "{:?}", store.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The kernel says by SIGBUS that memory is gone, as it does of memory that is damaged: a load has
/// no error to return.
#[test]
fn a_pool_that_is_cut_short_under_a_memory_node_is_told_of_in_one_line() {
    let path = Path::new("cut");
    let mut command = command(&path, &[]);
    let mut node = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("built");
    let mut ready = String::new();
    let mut out = BufReader::new(node.stdout.take().expect("piped"));
    out.read_line(&mut ready).expect("it says that it is ready");
    assert!(ready.starts_with("ready "), "{ready}");
    let file = std::fs::OpenOptions::new().write(true).open(&path.0).expect("it is there");
    file.set_len(0).expect("tmpfs");
    let end = Instant::now() + Duration::from_secs(20);
    while node.try_wait().expect("a child").is_none() {
        if Instant::now() > end {
            node.kill().expect("a child");
            panic!("it goes on without its pool");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = node.wait_with_output().expect("a child");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{:?}: {text}", output.status);
    // The others are its log's.
    let lines: Vec<_> = text.lines().filter(|line| !line.contains(" info ")).collect();
    let [text] = lines[..] else { panic!("{text}") };
    let wanted = format!("dmrpc: pool {}: its memory at byte ", path.text());
    assert!(text.starts_with(&wanted) && text.contains("cut short"), "{text}");
}

/// The memory node of a pool in flush mode told its participants where pages are: another one may
/// not come while they go on by that.
#[test]
fn a_pool_in_flush_mode_gets_no_other_memory_node_while_it_is_used() {
    let path = Path::new("flush");
    let flush = &["--coherence", "flush"];
    Serving::start(&path, flush).kill();
    refused(&path, &[], "is in flush mode, not in coherent mode");
    let pool = Pool::open(Mapping::open(&path.0).expect("it is there"), Mode::Flush);
    let participant = pool.expect("a pool").attach(Some(3), 1).expect("free");
    refused(&path, flush, "is in use by process");
    drop(participant);
    Serving::start(&path, flush).kill();
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

/// Runs `dmrpc-mn --confirm-lost HOST`; its exit code and what it says.
fn confirm_lost(path: &Path, host: u64) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
    command.args(["--pool", path.text(), "--lease", "1s", "--confirm-lost", &format!("{host:x}")]);
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn what_a_lost_host_held_is_free_once_an_operator_confirms_it() {
    const OTHER_HOST: u64 = 0xABCD_EF01_2345;
    const LOST_BYTES: u64 = 8 << 20;
    let path = Path::new("lost");
    Serving::start(&path, &[]).kill();
    // A participant that seems to be of another host: nobody here can see what became of it.
    let pool = path.open().expect("a pool");
    let lost = pool.attach(Some(2), 1).expect("free");
    let slot = pool.geometry().participants_offset + 2 * 128;
    pool.memory().store_u64(slot + 16, OTHER_HOST);
    assert_eq!(pool.participants_of(OTHER_HOST), [2]);
    let mut store = Store::attach(pool.store_memory(), 2).expect("free");
    let holder = store.holder_join(Limits::NONE).expect("room");
    let region = store.alloc(holder, LOST_BYTES).expect("room");
    store.write(holder, region, 0, &vec![1; LOST_BYTES as usize]).expect("room");
    let held = store.stats().frames.in_use;
    assert!(held >= LOST_BYTES / 4096);

    refused(&path, &[], "--coherent-hosts");
    let node = Serving::start(&path, &["--lease", "1s", "--coherent-hosts"]);
    // Long past the lease, nothing of it is anybody else's.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(store.stats().frames.in_use, held);
    assert!(lost.is_attached());
    let (code, text) = confirm_lost(&path, dmrpc_cxl::process::own_host());
    assert_eq!((code, text.contains("is this host")), (Some(2), true), "{text}");
    let (code, text) = confirm_lost(&path, OTHER_HOST);
    assert_eq!((code, text.trim()), (Some(0), "1 participants of host abcdef012345 given up"));
    assert!(!lost.is_attached(), "its own process, if it still ran, would see that");
    let end = Instant::now() + Duration::from_secs(10);
    // Any handle's account is that of the whole pool.
    while store.stats().frames.in_use >= held {
        assert!(Instant::now() < end, "its frames never came back");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(node);
}

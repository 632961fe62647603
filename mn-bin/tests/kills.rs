//! Processes that work on a pool are killed with SIGKILL, each before a chosen store of a named
//! operation; and so is the memory node, while others go on.
//!
//! The victim is this test's own program, started again with an order in its environment.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::ExitStatusExt;

use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Node, NodeConfig};
use dmrpc_core::device::{Capabilities, Device};
use dmrpc_core::memory::Counted;
use dmrpc_core::store::{EntryId, Error, HolderId, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_cxl::{Mapping, Mode, Pool, PoolDevice, PoolMemory};
use dmrpc_host::idle::Wait;

const LEN: u64 = 70 * PAGE_BYTES;
/// The order to a victim: the pool's path, the operation, the store, an entry's index and
/// generation.
const ORDER: &str = "DMRPC_KILL_ORDER";
/// The participants: of the victim and of the one that goes on.
const VICTIM: u32 = 2;
const SURVIVOR: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(20);

/// What a victim does when it dies. All that it needs is there before.
const OPERATIONS: [&str; 9] =
    ["alloc", "write", "rewrite", "create_ref", "map_ref", "claim_ref", "drop_ref", "free", "pin"];

/// Does something again for as long as it has to wait for memory that is being freed.
fn patiently<T>(mut operation: impl FnMut() -> Result<T, Error>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match operation() {
            Err(Error::Pending) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done.expect("all that it takes is there"),
        }
    }
}

/// A victim's handle on the store, whose stores are counted.
type Victim<'m> = Store<&'m Counted<PoolMemory>>;

struct Scene {
    holder: HolderId,
    region: RegionId,
    own: EntryId,
    others: EntryId,
}

fn prepare(store: &mut Victim<'_>, others: EntryId) -> Scene {
    let holder = store.holder_join(Limits::NONE).expect("room");
    let region = patiently(|| store.alloc(holder, LEN));
    patiently(|| store.write(holder, region, 0, &vec![1; LEN as usize]));
    let own = patiently(|| store.create_ref(holder, region, 0, LEN));
    Scene { holder, region, own, others }
}

fn act(store: &mut Victim<'_>, scene: &Scene, operation: &str) -> Result<(), Error> {
    let Scene { holder, region, own, others } = *scene;
    match operation {
        "alloc" => store.alloc(holder, LEN).map(drop),
        "write" => store.write(holder, region, 5, &[2; 9000]),
        "rewrite" => {
            let first = store.write(holder, region, 0, &[3; 10]);
            first.and_then(|()| store.write(holder, region, 8, &[4; 10]))
        }
        "create_ref" => store.create_ref(holder, region, 0, LEN).map(drop),
        "map_ref" => store.map_ref(holder, others, 0, LEN, true).map(drop),
        "claim_ref" => store.claim_ref(holder, others).map(drop),
        "drop_ref" => store.drop_ref(holder, own),
        "free" => store.free(holder, region),
        "pin" => store.pin_ref(others, 0, LEN).and_then(|pin| store.unpin(pin)),
        other => panic!("no operation {other}"),
    }
}

/// Ends this process as an operator or the kernel would: nothing of it runs any more.
fn kill_this_process() {
    let pid = std::process::id().to_string();
    let _ = Command::new("kill").args(["-KILL", &pid]).status();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Runs an operation, dying before store `at`; how many stores there were if it does not.
fn obey(pool: &Pool, operation: &str, others: EntryId, at: Option<u64>) -> u64 {
    let memory = Counted::new(pool.store_memory(), kill_this_process);
    let mut store = Store::attach(&memory, VICTIM).expect("free");
    let scene = prepare(&mut store, others);
    patiently(|| {
        memory.reset();
        memory.die_at_store(at);
        let done = act(&mut store, &scene, operation);
        memory.die_at_store(None);
        // The hook counts bulk writes, too: there are some more.
        done.map(|()| memory.touches().stores)
    })
}

/// With an order, the victim; without one there is nothing to be killed.
#[test]
fn victim() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let words: Vec<&str> = order.split('|').collect();
    let [path, operation, at, index, generation] = words[..] else { panic!("order {order}") };
    let pool = open(Path::new(path));
    // The slot is free soon after its last user was recovered.
    let end = Instant::now() + PATIENCE;
    let _place = loop {
        match pool.attach(Some(VICTIM), 1) {
            Ok(place) => break place,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let index = index.parse().expect("a number");
    let others = EntryId { index, generation: generation.parse().expect("a number") };
    let stores = obey(&pool, operation, others, at.parse().ok());
    println!("\nstores {stores}");
}

/// A pool in tmpfs with its memory node.
struct Served {
    path: PathBuf,
    node: Option<Child>,
}

impl Served {
    fn start(name: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/dmrpc-kills-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut served = Self { path, node: None };
        served.start_node();
        served
    }

    fn start_node(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
        command.arg("--pool").arg(&self.path).args(["--pool-size", "64MiB", "--grace", "0s"]);
        command.args(["--memory-node", "3"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready"), "{line:?}");
        self.node = Some(child);
    }

    fn kill_node(&mut self) {
        let mut node = self.node.take().expect("it runs");
        node.kill().expect("a child");
        node.wait().expect("a child");
    }

    fn order(&self, operation: &str, at: &str, entry: EntryId) -> (ExitStatus, String) {
        let path = self.path.display();
        let (index, generation) = (entry.index, entry.generation);
        let order = format!("{path}|{operation}|{at}|{index}|{generation}");
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "victim", "--nocapture"]).env(ORDER, order);
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> Pool {
    Pool::open(Mapping::open(path).expect("a file"), Mode::Coherent).expect("a pool")
}

/// Waits for the memory node to have recovered the victim.
fn await_recovery(store: &Store<PoolMemory>) {
    let end = Instant::now() + PATIENCE;
    while store.participant_state(VICTIM).expect("there is such a one").1 {
        assert!(Instant::now() < end, "the victim was not recovered");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until nothing is left to be freed and the bookkeeping is in order, invariants and all.
/// The memory node may be at work while it is looked at: then another look says so.
fn audit(store: &Store<PoolMemory>, context: &str) {
    let mut scratch = vec![0; store.check_scratch_bytes()];
    let end = Instant::now() + PATIENCE;
    loop {
        let checked = store.check(&mut scratch);
        match (store.pending(), checked) {
            (false, Ok(())) => return,
            (pending, checked) => {
                assert!(Instant::now() < end, "{context}: {checked:?}, pending {pending}");
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One that goes on whatever happens to others: each round must succeed, and find its own bytes.
struct Survivor {
    store: Store<PoolMemory>,
    holder: HolderId,
    region: RegionId,
    rounds: u64,
}

impl Survivor {
    fn new(pool: &Pool) -> Self {
        let mut store = Store::attach(pool.store_memory(), SURVIVOR).expect("free");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, LEN).expect("room");
        store.write(holder, region, 0, &vec![0xA5; LEN as usize]).expect("room");
        Self { store, holder, region, rounds: 0 }
    }

    fn reference(&mut self) -> EntryId {
        patiently(|| self.store.create_ref(self.holder, self.region, 0, LEN))
    }

    fn round(&mut self) {
        let Self { holder, region, .. } = *self;
        let entry = self.reference();
        let store = &mut self.store;
        let mapped = patiently(|| store.map_ref(holder, entry, 0, LEN, true));
        let at = self.rounds % 69 * PAGE_BYTES + 40;
        patiently(|| store.write(holder, mapped, at, &[self.rounds as u8; 100]));
        let mut found = vec![0; LEN as usize];
        store.read(holder, region, 0, &mut found).expect("its own");
        assert!(found.iter().all(|byte| *byte == 0xA5), "another's write is seen");
        store.free(holder, mapped).expect("its own");
        store.drop_ref(holder, entry).expect("its own");
        self.rounds += 1;
    }

    /// Lets go of everything; then nothing of anybody's is left.
    fn wind_up(mut self) {
        self.store.free(self.holder, self.region).expect("its own");
        self.store.holder_leave(self.holder, dmrpc_core::time::Instant::ZERO).expect("once");
        let end = Instant::now() + PATIENCE;
        loop {
            let stats = self.store.stats();
            let left = [stats.frames, stats.versions, stats.regions, stats.entries, stats.pins]
                .map(|usage| usage.in_use);
            if left == [0; 5] {
                return;
            }
            assert!(Instant::now() < end, "left of frames, versions and so on: {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The number of stores that a victim says it made.
fn stores_of(text: &str) -> u64 {
    let stores = text.lines().find_map(|line| line.strip_prefix("stores "));
    stores.and_then(|stores| stores.parse().ok()).unwrap_or_else(|| panic!("no count: {text}"))
}

/// Has a victim killed before store `at` of an operation, and sees that all is as it should be.
/// What the victim said if it ended before that store.
fn kill_at(served: &Served, survivor: &mut Survivor, operation: &str, at: u64) -> Option<String> {
    let entry = survivor.reference();
    let order = || served.order(operation, &at.to_string(), entry);
    let (status, text) = std::thread::scope(|scope| {
        let order = scope.spawn(order);
        // Meanwhile, and until the victim is dead, all goes on.
        while !order.is_finished() {
            survivor.round();
        }
        order.join().expect("no panic")
    });
    assert!(status.success() || status.signal() == Some(9), "{operation}, store {at}: {text}");
    survivor.round();
    await_recovery(&survivor.store);
    // It may be the victim's, and gone with it.
    let _ = survivor.store.drop_ref(survivor.holder, entry);
    audit(&survivor.store, &format!("{operation}, store {at}"));
    status.success().then_some(text)
}

#[test]
fn processes_killed_at_named_stores_leave_nothing_behind() {
    let served = Served::start("victims");
    let pool = open(&served.path);
    let _place = pool.attach(Some(SURVIVOR), 1).expect("free");
    let mut survivor = Survivor::new(&pool);
    for operation in OPERATIONS {
        let entry = survivor.reference();
        // Nobody dies, to know how many stores there are.
        let mut stores = match served.order(operation, "-", entry) {
            (status, text) if status.success() => stores_of(&text),
            (_, text) => panic!("{operation}: {text}"),
        };
        assert!(stores >= 3, "{operation} has {stores} stores");
        await_recovery(&survivor.store);
        let _ = survivor.store.drop_ref(survivor.holder, entry);
        for part in 0..=4 {
            // What the caches have makes some stores more or less: then the end is elsewhere.
            let mut misses = 0;
            while let Some(text) =
                kill_at(&served, &mut survivor, operation, (stores - 1) * part / 4)
            {
                misses += 1;
                assert!(misses < 10, "{operation}, part {part} of 4 was not hit: {text}");
                stores = stores_of(&text);
            }
        }
    }
    assert!(survivor.rounds > 2 * 5 * OPERATIONS.len() as u64);
    survivor.wind_up();
}

/// A device whose end takes until the memory node has taken back what its participant held: what
/// a thread sees that loses its core just after it gave up its place.
struct Lingering {
    device: Option<PoolDevice>,
    store: Store<PoolMemory>,
}

impl Device for Lingering {
    type Rx<'a> = <PoolDevice as Device>::Rx<'a>;
    type Tx<'a> = <PoolDevice as Device>::Tx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.device.as_ref().expect("until it is dropped").capabilities()
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        self.device.as_mut().expect("until it is dropped").split()
    }
}

impl Wait for Lingering {
    fn wait(&self, timeout: Duration) -> bool {
        self.device.as_ref().expect("until it is dropped").wait(timeout)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        drop(self.device.take());
        let end = Instant::now() + PATIENCE;
        while self.store.participant_state(SURVIVOR).expect("there is such a one").1 {
            assert!(Instant::now() < end, "nobody took back what was held");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The memory node recovers who has left. A node that then gives up what it held does it for
/// another: its holder is left already, and may be somebody else's.
#[test]
fn a_node_gives_up_what_it_held_before_its_place() {
    let served = Served::start("ends");
    let pool = std::sync::Arc::new(open(&served.path));
    let place = pool.attach(Some(SURVIVOR), 1).expect("free");
    let device = PoolDevice::new(std::sync::Arc::clone(&pool), place).expect("rings");
    let local = device.local_addr();
    let onlooker = Store::attach(pool.store_memory(), 5).expect("free");
    let device = Lingering { device: Some(device), store: onlooker };
    let config = NodeConfig { datagram_bytes: 4400, ..NodeConfig::default() };
    let node = Node::new(device, local, &config).expect("a node");
    node.share_pool(&pool, SURVIVOR).expect("the store is there");
    let memory = node.memory(node.connect("240.0.0.0:7".parse().expect("its")).expect("it serves"));
    let region = memory.alloc(LEN).expect("room");
    memory.write(region, 0, &vec![0xA5; LEN as usize]).expect("room");
    // A holder that was left already is an error there.
    drop(node);
    let store = Store::attach(pool.store_memory(), 6).expect("free");
    let end = Instant::now() + PATIENCE;
    while store.stats().frames.in_use != 0 {
        assert!(Instant::now() < end, "{:?}", store.stats().frames);
        std::thread::sleep(Duration::from_millis(5));
    }
    audit(&store, "after its end");
}

#[test]
fn the_memory_node_is_killed_and_comes_back_while_others_go_on() {
    let mut served = Served::start("watcher");
    let pool = std::sync::Arc::new(open(&served.path));
    let place = pool.attach(Some(SURVIVOR), 1).expect("free");
    let device = PoolDevice::new(std::sync::Arc::clone(&pool), place).expect("rings");
    let local = device.local_addr();
    let config = NodeConfig { datagram_bytes: 4400, ..NodeConfig::default() };
    let node = Node::new(device, local, &config).expect("a node");
    node.share_pool(&pool, SURVIVOR).expect("the store is there");
    let memory = node.memory(node.connect("240.0.0.0:7".parse().expect("its")).expect("it serves"));
    let region = memory.alloc(LEN).expect("room");
    memory.write(region, 0, &vec![0xA5; LEN as usize]).expect("room");
    // References name the pool, whether its memory node or a compute node makes them.
    let reference = memory.create_ref(region, 0, 1, ALL_RIGHTS).expect("room");
    assert_eq!(reference.memory_node, 3);
    memory.drop_ref(&reference).expect("its own");
    let work = |rounds: u64| {
        for round in 0..rounds {
            let reference = memory.create_ref(region, 0, LEN, ALL_RIGHTS).expect("goes on");
            let mapped = memory.map_ref(&reference).expect("goes on");
            memory.write(mapped, round % 60 * PAGE_BYTES, &[7; 200]).expect("goes on");
            let mut found = [0; 200];
            memory.read(region, round % 60 * PAGE_BYTES, &mut found).expect("goes on");
            assert_eq!(found, [0xA5; 200]);
            memory.free(mapped).expect("goes on");
            memory.drop_ref(&reference).expect("goes on");
            node.poll();
        }
    };
    // Nothing is freed meanwhile: this takes nothing that has to be.
    let go_on_alone = |rounds: u8| {
        for round in 0..rounds {
            let reference = memory.create_ref(region, 0, LEN, ALL_RIGHTS).expect("goes on");
            let mut found = [0; 200];
            memory.read_ref(&reference, PAGE_BYTES, &mut found).expect("goes on");
            assert_eq!(found, [0xA5; 200]);
            memory.drop_ref(&reference).expect("goes on");
            memory.write(region, 69 * PAGE_BYTES, &[round; 10]).expect("goes on");
            memory.read(region, 69 * PAGE_BYTES, &mut found[..10]).expect("goes on");
            assert_eq!(found[..10], [round; 10]);
            node.poll();
        }
    };
    for life in 0..5 {
        // Killed at some moment of its work, which is what others let go of.
        work(20 + 7 * life);
        served.kill_node();
        go_on_alone(50);
        served.start_node();
        work(20);
    }
    memory.free(region).expect("its own");
    drop(node);
    let store = Store::attach(pool.store_memory(), 5).expect("free");
    let end = Instant::now() + PATIENCE;
    while store.stats().frames.in_use != 0 {
        assert!(Instant::now() < end, "{:?}", store.stats().frames);
        std::thread::sleep(Duration::from_millis(5));
    }
    audit(&store, "after five lives");
}

//! The store's own code under every kind of schedule: a switch of threads is possible before each
//! access to the pool, and the scheduler looks for orders that break something. Participants die
//! at any access while others go on and recover them.

mod store_common;

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::{Arc, Mutex, Once};

use dmrpc_core::memory::{Atomic, Memory};
use dmrpc_core::store::{Config, EntryId, Error, HolderId, Layout, Limits, PAGE_BYTES, Store};
use dmrpc_core::time::Instant;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use store_common::{audit, settle};

/// What a death unwinds with.
struct Died;

/// Memory that lets another thread run before each access, and its user die before a store.
struct Stepped {
    memory: Arc<Atomic<'static>>,
    deaths: Option<std::cell::Cell<u64>>,
}

impl Stepped {
    fn new(memory: &Arc<Atomic<'static>>) -> Self {
        Self { memory: memory.clone(), deaths: None }
    }

    /// Its user dies before store number `stores`.
    fn dying(memory: &Arc<Atomic<'static>>, stores: u64) -> Self {
        Self { memory: memory.clone(), deaths: Some(std::cell::Cell::new(stores)) }
    }

    fn step(&self) {
        thread::yield_now();
    }

    fn step_store(&self) {
        if let Some(left) = &self.deaths {
            if left.get() == 0 {
                panic_any(Died);
            }
            left.set(left.get() - 1);
        }
        self.step();
    }
}

impl Memory for Stepped {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn shared(&self) -> bool {
        true
    }

    fn load_u32(&self, offset: u64) -> u32 {
        self.step();
        self.memory.load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> u64 {
        self.step();
        self.memory.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) {
        self.step_store();
        self.memory.store_u32(offset, value);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.step_store();
        self.memory.store_u64(offset, value);
    }

    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.step_store();
        self.memory.compare_exchange_u64(offset, current, new)
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        self.step();
        self.memory.read(offset, target);
    }

    fn write(&self, offset: u64, source: &[u8]) {
        self.step_store();
        self.memory.write(offset, source);
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        self.step_store();
        self.memory.copy(source, target, len);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.step_store();
        self.memory.fill_zero(offset, len);
    }

    fn flush(&self, offset: u64, len: u64) {
        self.memory.flush(offset, len);
    }

    fn fence(&self) {
        self.memory.fence();
    }
}

/// Few of everything, so that batches are small and hand-overs many.
const CONFIG: Config = Config {
    frames: 150,
    nodes: 96,
    versions: 64,
    regions: 64,
    entries: 64,
    holders: 8,
    pins: 8,
    stages: 8,
    detached_max: 8,
    holds_max: 1 << 20,
    grace_ns: 0,
    participants: 3,
};

/// Pools of earlier schedules, to be used again: they live as long as the process.
static POOLS: Mutex<Vec<Arc<Atomic<'static>>>> = Mutex::new(Vec::new());

const LEN: u64 = 3 * PAGE_BYTES;

/// A pool, made without switches: they are for what runs at the same time.
fn pool() -> Arc<Atomic<'static>> {
    let used = POOLS.lock().expect("nobody fails in it").pop();
    let memory = used.unwrap_or_else(|| {
        let bytes = Layout::new(&CONFIG).expect("legal").bytes();
        let words = vec![0xDEAD_BEEF_DEAD_BEEF; bytes.div_ceil(8) as usize].leak();
        Arc::new(Atomic::new(words))
    });
    Store::format(&*memory, &CONFIG).expect("it fits");
    memory
}

/// Repeats what must wait for the reclaimer.
fn patiently<T>(mut f: impl FnMut() -> Result<T, Error>) -> Option<T> {
    for _ in 0..1_000 {
        match f() {
            Ok(value) => return Some(value),
            Err(Error::Pending | Error::OutOf { .. }) => thread::yield_now(),
            Err(Error::Consumed | Error::Dropped | Error::Expired | Error::Stale { .. }) => {
                return None;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing is ever reclaimed");
}

/// One participant's life: maps, writes, refers to, claims and drops what all share.
fn live<M: Memory>(store: &mut Store<M>, holder: HolderId, shared: EntryId, prize: EntryId) {
    let mapped = patiently(|| store.map_ref(holder, shared, 0, LEN, true)).expect("it lives");
    patiently(|| store.write(holder, mapped, 10, &[holder.index() as u8; 10])).expect("room");
    let mut bytes = [0; 30];
    store.read_ref(shared, 0, &mut bytes).expect("it lives");
    assert_eq!(bytes, [1; 30], "a reference changed");
    let own = patiently(|| store.create_ref(holder, mapped, 0, LEN)).expect("room");
    patiently(|| store.write(holder, mapped, 10, &[99; 10])).expect("room");
    store.read_ref(own, 0, &mut bytes).expect("it is ours");
    assert_eq!(bytes[10..20], [holder.index() as u8; 10], "somebody else's bytes");
    if let Some(claimed) = patiently(|| store.claim_ref(holder, prize)) {
        store.read_ref(claimed, 0, &mut bytes).expect("it is ours");
        assert_eq!(bytes, [1; 30]);
        patiently(|| store.drop_ref(holder, claimed)).expect("it is ours");
    }
    patiently(|| store.drop_ref(holder, own)).expect("it is ours");
    patiently(|| store.free(holder, mapped)).expect("it is ours");
}

/// The first participant makes what all share, then reclaims while the others live; `deaths` are
/// the stores before which the others die.
fn run(deaths: [Option<u64>; 2]) {
    let memory = pool();
    let mut node = Store::open(Stepped::new(&memory)).expect("it is there");
    let holder = node.holder_join(Limits::NONE).expect("room");
    let region = node.alloc(holder, LEN).expect("room");
    node.write(holder, region, 0, &[1; LEN as usize]).expect("promised");
    let shared = node.create_ref(holder, region, 0, LEN).expect("room");
    let prize = node.create_ref(holder, region, 0, LEN).expect("room");
    let users: Vec<_> = (1..3)
        .map(|participant| {
            let memory = memory.clone();
            let dies = deaths[participant as usize - 1];
            thread::spawn(move || {
                let life = || {
                    let stepped = match dies {
                        Some(stores) => Stepped::dying(&memory, stores),
                        None => Stepped::new(&memory),
                    };
                    let mut store = Store::attach(stepped, participant).expect("it is free");
                    let holder = patiently(|| store.holder_join(Limits::NONE)).expect("room");
                    live(&mut store, holder, shared, prize);
                };
                if let Err(payload) = catch_unwind(AssertUnwindSafe(life)) {
                    assert!(payload.is::<Died>(), "not the death asked for");
                }
            })
        })
        .collect();
    patiently(|| node.write(holder, region, 0, &[2; 100])).expect("room");
    for (user, participant) in users.into_iter().zip(1..) {
        node.reclaim(Instant::ZERO, 8);
        user.join().expect("the others fail nothing");
        let recovered = (0..100).any(|_| node.recover(participant, Instant::ZERO) == Ok(true));
        assert!(recovered || participant == 1, "nobody else can be at it");
        // The other one still runs: what it is at must not be waited for.
        node.reclaim(Instant::ZERO, 8);
    }
    for participant in 1..3 {
        assert_eq!(node.recover(participant, Instant::ZERO), Ok(true));
    }
    wind_up(&memory, holder);
}

/// All is where it belongs, and comes home.
fn wind_up(memory: &Arc<Atomic<'static>>, holder: HolderId) {
    let mut node = Store::open(&**memory).expect("it is there");
    audit(&node);
    node.holder_leave(holder, Instant::ZERO).expect("it is live");
    settle(&mut node, Instant::from_nanos(1));
    audit(&node);
    let stats = node.stats();
    assert_eq!((stats.frames.in_use, stats.nodes.in_use), (0, 0), "{stats:?}");
    assert_eq!((stats.versions.in_use, stats.entries.in_use), (0, 0), "{stats:?}");
    assert_eq!((stats.regions.in_use, stats.holders.in_use), (0, 0), "{stats:?}");
    POOLS.lock().expect("nobody fails in it").push(memory.clone());
}

fn schedules() -> usize {
    std::env::var("SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

/// Runs `f` under many schedules of both kinds, without reports of the deaths it asks for.
fn check(f: impl Fn() + Send + Sync + Copy + 'static) {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Died>() {
                report(info);
            }
        }));
    });
    let mut config = shuttle::Config::new();
    config.max_steps = shuttle::MaxSteps::FailAfter(10_000_000);
    config.stack_size = 1 << 20;
    let random = RandomScheduler::new(schedules());
    shuttle::Runner::new(random, config.clone()).run(f);
    let few_switches = PctScheduler::new(4, schedules());
    shuttle::Runner::new(few_switches, config).run(f);
}

#[test]
fn three_participants_at_once() {
    check(|| run([None, None]));
}

#[test]
fn one_dies_anywhere_while_the_others_go_on() {
    check(|| {
        use shuttle::rand::Rng;
        let stores = shuttle::rand::thread_rng().gen_range(0..900);
        run([Some(stores), None]);
    });
}

#[test]
fn two_die_anywhere() {
    check(|| {
        use shuttle::rand::Rng;
        let first = shuttle::rand::thread_rng().gen_range(0..900);
        let second = shuttle::rand::thread_rng().gen_range(0..900);
        run([Some(first), Some(second)]);
    });
}

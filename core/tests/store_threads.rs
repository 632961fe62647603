//! Two cores with one pool: what one makes, the other maps, claims and drops while both run.

mod store_common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use dmrpc_core::memory::Atomic;
use dmrpc_core::store::{Config, EntryId, Error, HolderId, Layout, Limits, PAGE_BYTES, Store};
use dmrpc_core::time::Instant;
use store_common::{assert_all_home, audit, settle};

const CONFIG: Config = Config {
    frames: 6_000,
    nodes: 4_000,
    versions: 2_000,
    regions: 1_000,
    entries: 2_000,
    holders: 16,
    pins: 64,
    stages: 16,
    detached_max: 100,
    holds_max: 1 << 20,
    grace_ns: 0,
    participants: 2,
};

/// Bytes of each region that goes round: more than one level of nodes.
const LEN: u64 = 70 * PAGE_BYTES;

/// References on their way beyond which a core takes before it makes.
const IN_FLIGHT_MAX: u64 = 30;

/// A reference on its way, and the byte that all it stands for must have.
struct Parcel {
    id: EntryId,
    byte: u8,
}

/// One core: makes references, and takes what the other made.
struct Core<'m> {
    store: Store<&'m Atomic<'m>>,
    holder: HolderId,
    to: Sender<Parcel>,
    from: Receiver<Parcel>,
    /// References on their way, in both directions.
    in_flight: &'m AtomicU64,
    seed: u64,
    waits: u64,
    taken: u64,
}

impl Core<'_> {
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    /// Takes what comes until few references are on their way: they fill the pool.
    fn make_room(&mut self) {
        while self.in_flight.load(Ordering::Relaxed) > IN_FLIGHT_MAX {
            self.store.reclaim(Instant::ZERO, 16);
            match self.from.try_recv() {
                Ok(parcel) => self.take(parcel),
                Err(_) => thread::yield_now(),
            }
        }
    }

    /// Repeats what must wait for memory to be reclaimed.
    fn patiently<T>(
        &mut self,
        mut f: impl FnMut(&mut Store<&Atomic<'_>>) -> Result<T, Error>,
    ) -> T {
        for _ in 0..1_000_000u64 {
            self.store.reclaim(Instant::ZERO, 16);
            match f(&mut self.store) {
                // Some may be in the other core's cache, or about to be handed over.
                Err(Error::Pending | Error::OutOf { .. }) => {
                    self.waits += 1;
                    thread::yield_now();
                }
                other => return other.expect("it is legal"),
            }
        }
        panic!("nothing is ever reclaimed: {:?}", self.store.stats());
    }

    /// Makes a region, refers to it, writes to it, and sends the reference away.
    fn make(&mut self) {
        let holder = self.holder;
        let byte = self.random(256) as u8;
        let region = self.patiently(|store| store.alloc(holder, LEN));
        let page = self.random(LEN / PAGE_BYTES);
        let all = vec![byte; LEN as usize];
        self.patiently(|store| store.write(holder, region, 0, &all));
        let id = self.patiently(|store| store.create_ref(holder, region, 0, LEN));
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.to.send(Parcel { id, byte }).expect("the other core runs");
        for _ in 0..self.random(4) {
            let at = self.random(LEN - 10);
            self.patiently(|store| store.write(holder, region, at, &[!byte; 10]));
        }
        let mut bytes = [0; 16];
        self.store.read_ref(id, page * PAGE_BYTES, &mut bytes).map_or_else(
            // Claimed by the other core; and once that has dropped it too, of an earlier life.
            |error| assert!(matches!(error, Error::Consumed | Error::Stale { .. }), "{error}"),
            |()| assert_eq!(bytes, [byte; 16]),
        );
        self.patiently(|store| store.free(holder, region));
    }

    /// Maps, reads, writes, claims and drops what the other core sent.
    fn take(&mut self, parcel: Parcel) {
        let (holder, id) = (self.holder, parcel.id);
        let mapped = self.patiently(|store| store.map_ref(holder, id, 0, LEN, true));
        self.check(mapped, parcel.byte);
        let at = self.random(LEN - 100);
        self.patiently(|store| store.write(holder, mapped, at, &[1; 100]));
        let claimed = self.patiently(|store| store.claim_ref(holder, id));
        assert_eq!(self.store.map_ref(holder, id, 0, 1, false), Err(Error::Consumed));
        let mut bytes = [0; 64];
        let offset = self.random(LEN - 64);
        self.store.read_ref(claimed, offset, &mut bytes).expect("it is ours");
        assert_eq!(bytes, [parcel.byte; 64]);
        self.patiently(|store| store.drop_ref(holder, claimed));
        self.patiently(|store| store.free(holder, mapped));
        self.taken += 1;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn check(&mut self, region: dmrpc_core::store::RegionId, byte: u8) {
        let mut bytes = vec![0; LEN as usize];
        self.store.read(self.holder, region, 0, &mut bytes).expect("it is live");
        assert!(bytes.iter().all(|found| *found == byte), "somebody else's bytes");
    }

    fn run(mut self, rounds: u64) -> u64 {
        for round in 0..rounds {
            self.make_room();
            self.make();
            // A few stay on their way, so that both cores are busy with the same versions.
            while let Some(parcel) = self.next(round) {
                self.take(parcel);
            }
        }
        drop(std::mem::replace(&mut self.to, channel().0));
        loop {
            self.store.reclaim(Instant::ZERO, 16);
            match self.from.try_recv() {
                Ok(parcel) => self.take(parcel),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(TryRecvError::Disconnected) => return self.taken,
            }
        }
    }

    fn next(&mut self, round: u64) -> Option<Parcel> {
        if round % 8 < 4 { None } else { self.from.try_recv().ok() }
    }
}

fn words(config: &Config) -> Vec<u64> {
    let bytes = Layout::new(config).expect("legal").bytes();
    vec![0xDEAD_BEEF_DEAD_BEEF; bytes.div_ceil(8) as usize]
}

fn rounds() -> u64 {
    std::env::var("STRESS_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_500)
}

#[test]
fn a_reference_made_on_one_core_is_taken_on_the_other_while_both_run() {
    let mut pool = words(&CONFIG);
    let memory = Atomic::new(&mut pool);
    let mut first = Store::format(&memory, &CONFIG).expect("it fits");
    let mut second = Store::attach(&memory, 1).expect("it is free");
    let holders = [first.holder_join(Limits::NONE), second.holder_join(Limits::NONE)];
    let (to_second, from_first) = channel();
    let (to_first, from_second) = channel();
    let rounds = rounds();
    let in_flight = AtomicU64::new(0);
    let core = |store, holder: usize, to, from| Core {
        store,
        holder: holders[holder].expect("room"),
        to,
        from,
        in_flight: &in_flight,
        seed: 7 + holder as u64,
        waits: 0,
        taken: 0,
    };
    let (a, b) = (core(first, 0, to_second, from_second), core(second, 1, to_first, from_first));
    let taken = thread::scope(|scope| {
        let b = scope.spawn(move || b.run(rounds));
        let a = a.run(rounds);
        a + b.join().expect("the other core fails nothing")
    });
    assert_eq!(taken, 2 * rounds);
    let mut store = Store::open(&memory).expect("it is there");
    audit(&store);
    assert_eq!(store.recover(1, Instant::ZERO), Ok(true));
    let left: Vec<HolderId> = store.holders_of(0).collect();
    assert_eq!(left.len(), 1);
    store.holder_leave(left[0], Instant::ZERO).expect("it is live");
    settle(&mut store, Instant::ZERO);
    audit(&store);
    assert_all_home(&store);
}

#[test]
fn a_participant_is_one_handle_until_it_is_recovered() {
    let mut pool = words(&CONFIG);
    let memory = Atomic::new(&mut pool);
    let mut first = Store::format(&memory, &CONFIG).expect("it fits");
    assert!(Store::attach(&memory, 2).is_err());
    let mut second = Store::attach(&memory, 1).expect("it is free");
    assert!(Store::attach(&memory, 1).is_err());
    let holder = second.holder_join(Limits::NONE).expect("room");
    let region = second.alloc(holder, LEN).expect("room");
    second.write(holder, region, 5, &[9; 9_000]).expect("promised");
    let id = second.create_ref(holder, region, 0, LEN).expect("room");
    second.pin(holder, region, 0, LEN).expect("room");
    let incarnation = second.incarnation();
    assert_eq!(first.recover(1, Instant::ZERO), Ok(true));
    let again = Store::attach(&memory, 1).expect("it was recovered");
    assert_eq!(again.incarnation(), incarnation + 1);
    settle(&mut first, Instant::from_nanos(1));
    assert_eq!(first.ref_len(id), Err(Error::Expired));
    audit(&first);
    assert_all_home(&first);
    assert_eq!(first.stats().holders.in_use, 0);
}

//! What was freed is on its way while the reclaimer has it, alive or dead: who needs it meanwhile
//! is told to wait, never that there is none.

mod store_common;

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::Once;

use dmrpc_core::memory::{Atomic, Counted};
use dmrpc_core::store::{Config, Error, HolderId, Layout, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_core::time::Instant;
use store_common::{audit, settle};

const CONFIG: Config = Config {
    frames: 600,
    nodes: 200,
    versions: 200,
    regions: 20,
    entries: 20,
    holders: 6,
    pins: 6,
    stages: 6,
    detached_max: 4,
    holds_max: 1 << 20,
    grace_ns: 0,
    participants: 2,
};

/// Bytes of the region: two levels of nodes.
const LEN: u64 = 70 * PAGE_BYTES;

type Pool<'m> = Counted<Atomic<'m>>;

/// What a death unwinds with.
struct Died;

fn words() -> Vec<u64> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Died>() {
                report(info);
            }
        }));
    });
    let bytes = Layout::new(&CONFIG).expect("legal").bytes();
    vec![0; bytes.div_ceil(8) as usize]
}

/// A participant that uses the pool, and copies pages without end.
struct User<'m> {
    store: Store<&'m Pool<'m>>,
    holder: HolderId,
    region: RegionId,
}

impl<'m> User<'m> {
    fn new(memory: &'m Pool<'m>) -> Self {
        let mut store = Store::attach(memory, 1).expect("free");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, LEN).expect("room");
        store.write(holder, region, 0, &vec![1; LEN as usize]).expect("room");
        Self { store, holder, region }
    }

    /// Copies a page in a mapping that ends: frames and nodes are the reclaimer's to free then.
    fn round(&mut self) -> Result<(), Error> {
        let Self { holder, region, .. } = *self;
        let entry = self.store.create_ref(holder, region, 0, LEN)?;
        let mapped = self.store.map_ref(holder, entry, 0, LEN, true);
        let done = mapped.and_then(|mapped| {
            let written = self.store.write(holder, mapped, 0, &[2; 100]);
            self.store.free(holder, mapped).expect("its own");
            written
        });
        self.store.drop_ref(holder, entry).expect("its own");
        done
    }

    /// Goes on until nothing is left but what waits for the reclaimer.
    fn use_up(&mut self) {
        let mut rounds = 0;
        loop {
            match self.round() {
                Ok(()) => rounds += 1,
                Err(error) => return assert_eq!((error, rounds > 9), (Error::Pending, true)),
            }
        }
    }
}

#[test]
fn nothing_that_was_freed_is_denied_when_the_reclaimer_died() {
    let mut waits = 0;
    for stores in 0.. {
        let mut words = words();
        let memory = Counted::new(Atomic::new(&mut words), || panic_any(Died));
        let mut node = Store::format(&memory, &CONFIG).expect("it fits");
        let mut user = User::new(&memory);
        user.use_up();
        memory.die_at_store(Some(stores));
        let reclaimed =
            catch_unwind(AssertUnwindSafe(|| while node.reclaim(Instant::ZERO, 10_000) != 0 {}));
        memory.die_at_store(None);
        match user.round() {
            Ok(()) => {}
            Err(Error::Pending) if reclaimed.is_err() => waits += 1,
            Err(error) => panic!("dead before store {stores}: {error}"),
        }
        let Err(payload) = reclaimed else { break };
        assert!(payload.is::<Died>(), "store {stores}: not the death asked for");
        let mut node = Store::open(&memory).expect("it is there");
        settle(&mut node, Instant::ZERO);
        user.round().unwrap_or_else(|error| panic!("recovered from store {stores}: {error}"));
        settle(&mut node, Instant::ZERO);
        audit(&node);
    }
    assert!(waits > 0, "it never died with what was needed");
}

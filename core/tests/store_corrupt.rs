//! Another participant writes where it may not: random words of a live pool's bookkeeping change.
//! Operations answer with typed errors, or with bytes; nothing panics, nothing runs for ever and
//! nothing reaches outside of the pool, where every access would panic.

use dmrpc_core::memory::{Atomic, Memory};
use dmrpc_core::store::{
    Config, EntryId, Error, HolderId, Layout, Limits, PAGE_BYTES, RegionId, Store,
};
use dmrpc_core::time::Instant;

const CONFIG: Config = Config {
    frames: 220,
    nodes: 120,
    versions: 40,
    regions: 30,
    entries: 30,
    holders: 8,
    pins: 8,
    stages: 6,
    detached_max: 8,
    holds_max: 1 << 20,
    grace_ns: 10,
    participants: 2,
};

/// Offset behind which the configuration is: it is read once, when the pool is opened.
const BOOKKEEPING: u64 = 128;

/// What is random here: the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A participant, and what it believes to have.
struct User<'m> {
    store: Store<&'m Atomic<'m>>,
    holder: HolderId,
    regions: Vec<RegionId>,
    entries: Vec<EntryId>,
}

impl User<'_> {
    fn one_of<T: Copy>(list: &[T], random: &mut Random) -> Option<T> {
        if list.is_empty() { None } else { Some(list[random.below(list.len() as u64) as usize]) }
    }

    /// Does one random thing.
    fn act(&mut self, random: &mut Random) -> Result<(), Error> {
        let holder = self.holder;
        let len = (1 + random.below(70)) * PAGE_BYTES;
        let mut bytes = [0; 5_000];
        if random.below(5) == 0 {
            self.regions.push(self.store.alloc(holder, len)?);
        }
        let region = Self::one_of(&self.regions, random);
        if let Some(region) = region {
            let offset = random.below(3 * PAGE_BYTES);
            match random.below(8) {
                0 => self.store.free(holder, region)?,
                1 => self.store.read(holder, region, offset, &mut bytes)?,
                2 | 3 => self.store.write(holder, region, offset, &bytes)?,
                4 | 5 => self.entries.push(self.store.create_ref(holder, region, 0, 100)?),
                6 => {
                    let stage = self.store.stage_begin(holder, region, offset, 5_000)?;
                    self.store.stage_write(holder, stage, 0, &bytes)?;
                    self.store.stage_commit(holder, stage)?;
                }
                _ => {
                    let pin = self.store.pin(holder, region, 0, 100)?;
                    self.store.pin_place(pin, 3)?;
                    self.store.unpin(pin)?;
                }
            }
        }
        if let Some(entry) = Self::one_of(&self.entries, random) {
            match random.below(6) {
                0 => self.store.drop_ref(holder, entry)?,
                1 => self.store.read_ref(entry, 0, &mut bytes[..100])?,
                2 => self.entries.push(self.store.claim_ref(holder, entry)?),
                3 => self.store.detach(holder, entry)?,
                _ => self.regions.push(self.store.map_ref(holder, entry, 0, 100, true)?),
            }
        }
        Ok(())
    }
}

/// What goes into a word: an index that is too large, a flipped bit, another's value, noise.
fn damage(memory: &Atomic<'_>, end: u64, random: &mut Random) {
    let at = BOOKKEEPING + random.below((end - BOOKKEEPING) / 4) * 4;
    let old = memory.load_u32(at);
    let new = match random.below(5) {
        0 => u32::MAX,
        1 => old ^ 1 << random.below(32),
        2 => random.below(300) as u32,
        3 => old.wrapping_add(1),
        _ => random.0 as u32,
    };
    memory.store_u32(at, new);
}

/// One pool's life with damage; how many operations were answered with an error that says so.
fn live(seed: u64) -> (u64, u64) {
    let bytes = Layout::new(&CONFIG).expect("legal").bytes();
    let mut words = vec![0; bytes.div_ceil(8) as usize];
    let memory = Atomic::new(&mut words);
    let mut random = Random(seed | 1);
    let node = Store::format(&memory, &CONFIG).expect("it fits");
    let other = Store::attach(&memory, 1).expect("it is free");
    let mut users = [node, other].map(|mut store| {
        let holder = store.holder_join(Limits::NONE).expect("room");
        User { store, holder, regions: Vec::new(), entries: Vec::new() }
    });
    // The trees' nodes are damaged as well; the frames are data, and anybody's to damage.
    let end = users[0].store.layout().frame_base();
    let (mut corrupt, mut refused) = (0, 0);
    for step in 0..400u64 {
        let user = &mut users[(step % 2) as usize];
        match user.act(&mut random) {
            Err(Error::Corrupt) => corrupt += 1,
            Err(_) => refused += 1,
            Ok(()) => {}
        }
        user.store.reclaim(Instant::from_nanos(step), 4);
        if step > 60 && random.below(4) == 0 {
            for _ in 0..=random.below(20) {
                damage(&memory, end, &mut random);
            }
        }
    }
    // Recovery reads the same words.
    let _ = users[0].store.recover(1, Instant::from_nanos(500));
    users[0].store.reclaim(Instant::from_nanos(600), 200);
    users[0].store.stats();
    (corrupt, refused)
}

#[test]
fn damage_ends_in_typed_errors() {
    let lives: u64 =
        std::env::var("CORRUPT_LIVES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let (mut corrupt, mut refused) = (0, 0);
    for seed in 1..=lives {
        let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let result = std::panic::catch_unwind(|| live(seed));
        let (found, others) = result.unwrap_or_else(|_| panic!("seed {seed:#x} panics"));
        corrupt += found;
        refused += others;
    }
    assert!(corrupt > lives / 10, "only {corrupt} contradictions were noticed");
    assert!(refused > 0);
}

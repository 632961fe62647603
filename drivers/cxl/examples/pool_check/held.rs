//! What a host holds in the pool when it is killed: references and pages of its own.
//!
//! In coherent mode both hosts are participants of the store. In flush mode the first one is the
//! only one, tells the second where its pages are, and the second reads and writes them there.

use dmrpc_core::memory::{Handed, Memory};
use dmrpc_core::pen::{KnownPage, KnownRegion, Pens};
use dmrpc_core::store::{Config, EntryId, HolderId, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_core::time::Instant;
use dmrpc_cxl::{Mode, Participant, Pool, PoolMemory};

use crate::two_hosts::{await_word, load, store as put};
use crate::{Failure, ensure, pass};

/// Pages that the second host holds.
const PAGES: u64 = 64;
const BYTES: usize = (PAGES * PAGE_BYTES) as usize;
/// Kept free at the end of the store's part, for the words that the hosts exchange.
const KEPT_BYTES: u64 = 1 << 20;

/// Where the hosts tell each other things: a page, in which each line has one writer.
#[derive(Clone, Copy)]
struct Desk(u64);

impl Desk {
    fn of(pool: &Pool) -> Self {
        Self(pool.geometry().pool_bytes - 2 * 4096)
    }

    /// How far a host has come.
    fn step(self, host: u64) -> u64 {
        self.0 + 64 * host
    }

    /// What a host says.
    fn word(self, host: u64, index: u64) -> u64 {
        self.0 + if host == 1 { 128 } else { 192 } + 8 * index
    }
}

/// What the first host keeps of the store.
pub(crate) enum Keeper {
    Coherent { store: Store<PoolMemory>, own: HolderId, mapped: Option<RegionId> },
    Flush { store: Store<Handed<PoolMemory>>, own: HolderId, other: HolderId },
}

fn filled<M: Memory>(store: &Store<M>, holder: HolderId, region: RegionId, byte: u8) -> bool {
    let mut found = vec![0; BYTES];
    store.read(holder, region, 0, &mut found).is_ok() && found.iter().all(|at| *at == byte)
}

/// Frees all that is to be freed, and audits what is left: nothing.
fn settle<M: Memory>(store: &mut Store<M>) -> Result<(), Failure> {
    while store.reclaim(Instant::FAR_FUTURE, 1000) != 0 {}
    let mut scratch = vec![0; store.check_scratch_bytes()];
    store.check(&mut scratch).map_err(|fault| format!("{fault:?}"))?;
    let in_use = store.stats().frames.in_use;
    ensure(in_use == 0, &format!("{in_use} frames never came home"))
}

impl Keeper {
    /// Makes the store.
    pub(crate) fn new(pool: &Pool, mode: Mode) -> Result<Self, Failure> {
        let desk = Desk::of(pool);
        (0..128).for_each(|word| put(pool, desk.0 + 8 * word, 0));
        let memory = pool.store_memory();
        let participants = if mode == Mode::Flush { 1 } else { 4 };
        let config =
            Config { participants, ..Config::for_pool_bytes(memory.len() / 2 - KEPT_BYTES) };
        if mode == Mode::Coherent {
            let mut store = Store::format(memory, &config)?;
            let own = store.holder_join(Limits::NONE)?;
            return Ok(Self::Coherent { store, own, mapped: None });
        }
        let mut store = Store::format(Handed(memory), &config)?;
        let (own, other) = (store.holder_join(Limits::NONE)?, store.holder_join(Limits::NONE)?);
        Ok(Self::Flush { store, own, other })
    }

    /// Works with what the second host makes: to be called on both sides at once.
    pub(crate) fn share(&mut self, pool: &Pool, me: &mut Participant) -> Result<(), Failure> {
        let desk = Desk::of(pool);
        match self {
            Self::Coherent { store, own, mapped } => {
                await_word(pool, me, desk.step(1), 1)?;
                let index = load(pool, desk.word(1, 0)) as u32;
                let entry = EntryId { index, generation: load(pool, desk.word(1, 1)) };
                let region = store.map_ref(*own, entry, 0, BYTES as u64, true)?;
                ensure(filled(store, *own, region, 0x5A), "a reference has other bytes")?;
                *mapped = Some(region);
                pass("a reference made by one host, mapped and read by another");
            }
            Self::Flush { store, own, other } => {
                let region = store.alloc(*other, BYTES as u64)?;
                tell(pool, store, (*other, region), true)?;
                put(pool, desk.step(0), 1);
                await_word(pool, me, desk.step(1), 1)?;
                let entry = store.create_ref(*other, region, 0, BYTES as u64)?;
                let mapped = store.map_ref(*own, entry, 0, BYTES as u64, true)?;
                ensure(filled(store, *own, mapped, 0x5A), "written pages have other bytes")?;
                pass("pages written by one host where they are, read by another");
                // The same frames, in other hands.
                store.free(*other, region)?;
                store.free(*own, mapped)?;
                store.drop_ref(*other, entry)?;
                while store.reclaim(Instant::ZERO, 1000) != 0 {}
                let region = store.alloc(*own, BYTES as u64)?;
                store.write(*own, region, 0, &vec![0xEE; BYTES])?;
                let entry = store.create_ref(*own, region, 0, BYTES as u64)?;
                let lent = store.map_ref(*other, entry, 0, BYTES as u64, true)?;
                store.free(*own, region)?;
                store.drop_ref(*own, entry)?;
                tell(pool, store, (*other, lent), false)?;
                put(pool, desk.step(0), 2);
                await_word(pool, me, desk.step(1), 2)?;
                pass("frames that changed hands, read anew by the other host");
            }
        }
        Ok(())
    }

    /// While the second host is lost and nobody has confirmed it, what it held stays.
    pub(crate) fn keeps(&mut self) -> Result<(), Failure> {
        let in_use = match self {
            Self::Coherent { store, .. } => {
                while store.reclaim(Instant::ZERO, 1000) != 0 {}
                store.stats().frames.in_use
            }
            Self::Flush { store, .. } => {
                while store.reclaim(Instant::ZERO, 1000) != 0 {}
                store.stats().frames.in_use
            }
        };
        ensure(in_use >= PAGES, &format!("{in_use} frames: a lost host's were given away"))
    }

    /// Gets back what the lost host held; what was mapped of it stays until it is freed.
    pub(crate) fn recover(&mut self) -> Result<(), Failure> {
        match self {
            Self::Coherent { store, own, mapped } => {
                while !store.recover(1, Instant::ZERO)? {}
                while store.reclaim(Instant::ZERO, 1000) != 0 {}
                if let Some(region) = mapped.take() {
                    ensure(filled(store, *own, region, 0x5A), "a mapping ended with its maker")?;
                    store.free(*own, region)?;
                }
                settle(store)?;
            }
            Self::Flush { store, other, .. } => {
                store.holder_leave(*other, Instant::ZERO)?;
                settle(store)?;
                *other = store.holder_join(Limits::NONE)?;
            }
        }
        pass("what the lost host held is home, and the books are in order");
        Ok(())
    }
}

/// Tells the second host where the pages of a region are.
fn tell<M: Memory>(
    pool: &Pool,
    store: &mut Store<M>,
    (holder, region): (HolderId, RegionId),
    with_pen: bool,
) -> Result<(), Failure> {
    for page in 0..PAGES {
        if with_pen {
            store.own_page(holder, region, page * PAGE_BYTES)?;
        }
        let told = store.page_place(holder, region, page * PAGE_BYTES)?;
        let word = told.place.unwrap_or(0) | u64::from(told.is_own);
        put(pool, Desk::of(pool).word(0, page), word);
    }
    Ok(())
}

/// The second host's part; it goes on holding all of it.
pub(crate) fn hold(pool: &Pool, mode: Mode, me: &mut Participant) -> Result<(), Failure> {
    let desk = Desk::of(pool);
    put(pool, desk.step(1), 0);
    if mode == Mode::Coherent {
        let mut store = Store::attach(pool.store_memory(), 1)?;
        let holder = store.holder_join(Limits::NONE)?;
        let region = store.alloc(holder, BYTES as u64)?;
        store.write(holder, region, 0, &vec![0x5A; BYTES])?;
        let entry = store.create_ref(holder, region, 0, BYTES as u64)?;
        put(pool, desk.word(1, 0), entry.index.into());
        put(pool, desk.word(1, 1), entry.generation);
        put(pool, desk.step(1), 1);
        return Ok(());
    }
    let (mut regions, mut pages) = ([KnownRegion::EMPTY; 2], [KnownPage::EMPTY; 128]);
    let mut pens = Pens::new(pool.store_memory(), &mut regions, &mut pages);
    let told = |pens: &mut Pens<'_, PoolMemory>, name| {
        let words = (0..PAGES).map(|page| load(pool, desk.word(0, page)));
        pens.learn((1, name), 0, (0, BYTES as u64), words);
    };
    await_word(pool, me, desk.step(0), 1)?;
    told(&mut pens, 1);
    ensure(pens.write((1, 1), 0, &vec![0x5A; BYTES]).is_ok(), "a page is not its own")?;
    put(pool, desk.step(1), 1);
    await_word(pool, me, desk.step(0), 2)?;
    told(&mut pens, 2);
    let mut found = vec![0; BYTES];
    ensure(pens.read((1, 2), 0, &mut found).is_ok(), "a page's place is not known")?;
    ensure(found.iter().all(|byte| *byte == 0xEE), "bytes of a frame's earlier life")?;
    put(pool, desk.step(1), 2);
    Ok(())
}

//! Two hosts on one pool. The second one is killed in the middle and comes back.
//!
//! The first formats the pool, answers, counts together with the second, shares references and
//! pages with it, hears that it fell silent, refuses to take that for a death until it is
//! confirmed, gets back what it held, and answers its next life.

use std::path::Path;
use std::time::Instant as StdInstant;

use dmrpc_core::memory::Memory;
use dmrpc_core::time::Duration;
use dmrpc_cxl::participants::{Event, Watch};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Participant, Pool, PoolError, RingDevice};
use dmrpc_host::clock::Clock;

use crate::alone::{CONFIG, incarnation};
use crate::held::Keeper;
use crate::talk::PATIENCE;
use crate::{Failure, ensure, held, pass, talk};

/// Datagrams of each talk.
const COUNT: u64 = 300;
/// What each host adds to the shared counter, one at a time.
const ADDITIONS: u64 = 20_000;
/// Without a heartbeat for so long, a host is silent.
const LEASE: Duration = Duration::from_secs(3);

/// Words at the end of the pool, each on a line of its own.
struct Words {
    base: u64,
}

impl Words {
    fn of(pool: &Pool) -> Self {
        Self { base: pool.geometry().pool_bytes - 4096 }
    }

    /// The counter that both add to.
    fn counter(&self) -> u64 {
        self.base
    }

    /// How far a host has come: written by it alone.
    fn stage(&self, host: u32) -> u64 {
        self.base + 128 * (1 + u64::from(host))
    }
}

pub(crate) fn store(pool: &Pool, at: u64, value: u64) {
    pool.memory().store_u64(at, value);
    pool.memory().flush(at, 8);
}

pub(crate) fn load(pool: &Pool, at: u64) -> u64 {
    pool.memory().flush(at, 8);
    pool.memory().load_u64(at)
}

/// Waits for the other host to come as far as `value`, and shows life meanwhile.
fn await_stage(pool: &Pool, own: &mut Participant, host: u32, value: u64) -> Result<(), Failure> {
    await_word(pool, own, Words::of(pool).stage(host), value)
}

/// Waits for the other host to raise a word to `value`, and shows life meanwhile.
pub(crate) fn await_word(
    pool: &Pool,
    own: &mut Participant,
    at: u64,
    value: u64,
) -> Result<(), Failure> {
    let end = StdInstant::now() + PATIENCE;
    while load(pool, at) < value {
        own.beat();
        ensure(StdInstant::now() < end, &format!("the word at {at:#x} never came to {value}"))?;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

fn add_together(pool: &Pool) {
    let (memory, at) = (pool.memory(), Words::of(pool).counter());
    for _ in 0..ADDITIONS {
        let mut found = memory.load_u64(at);
        while let Err(other) = memory.compare_exchange_u64(at, found, found + 1) {
            found = other;
        }
    }
}

pub(crate) fn first(path: &Path, mode: Mode) -> Result<(), Failure> {
    let force = Overwrite::Anything;
    let mapping = Mapping::open(path)?;
    let mut pool = Pool::format(mapping, mode, &CONFIG, (incarnation(), [7; 2]), force)?;
    // Asked for by name in coherent mode.
    pool.declare_coherent_hosts();
    let words = Words::of(&pool);
    for at in [words.counter(), words.stage(0), words.stage(1)] {
        store(&pool, at, 0);
    }
    let mut keeper = Keeper::new(&pool, mode)?;
    let mut node = pool.attach(Some(0), incarnation())?;
    let mut watch = pool.watch(&node, LEASE);
    let clock = Clock::new();
    let mut device = RingDevice::open(&pool, &node)?;
    store(&pool, words.stage(0), 1);
    println!("INFO formatted in {mode} mode");

    await_stage(&pool, &mut node, 1, 1)?;
    let joined = watch.look(clock.now());
    ensure(matches!(joined, Some(Event::Joined { index: 1, .. })), "the other host is not seen")?;
    ensure(talk::answer(&mut device, &mut node)? == COUNT, "datagrams were lost")?;
    pass("datagrams between two hosts");

    store(&pool, words.stage(0), 2);
    await_stage(&pool, &mut node, 1, 2)?;
    add_together(&pool);
    store(&pool, words.stage(0), 3);
    await_stage(&pool, &mut node, 1, 3)?;
    let lost = 2 * ADDITIONS - load(&pool, words.counter());
    match (mode, lost) {
        (Mode::Coherent, 0) => pass("compare-and-swap between two hosts"),
        (Mode::Coherent, _) => return Err(format!("{lost} updates were lost").into()),
        (Mode::Flush, _) => {
            println!("INFO flush mode relies on no atomics; {lost} updates were lost here");
        }
    }
    keeper.share(&pool, &mut node)?;
    lost_host(path, mode, (&mut watch, &mut keeper), &clock)?;
    pass("a lost host is silent, not dead, until that is confirmed");

    store(&pool, words.stage(0), 4);
    println!("INFO waiting for the next life");
    ensure(talk::answer(&mut device, &mut node)? == COUNT, "datagrams were lost")?;
    pass("its next life talks through the same rings");
    Ok(())
}

/// Hears the second host fall silent, and gives it up.
fn lost_host(
    path: &Path,
    mode: Mode,
    (watch, keeper): (&mut Watch, &mut Keeper),
    clock: &Clock,
) -> Result<(), Failure> {
    println!("INFO kill the second host");
    let end = StdInstant::now() + PATIENCE;
    while watch.look(clock.now()) != Some(Event::Silent { index: 1 }) {
        ensure(StdInstant::now() < end, "a lost host never fell silent")?;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let refused = Pool::format(Mapping::open(path)?, mode, &CONFIG, (1, [7; 2]), Overwrite::Unused);
    ensure(matches!(refused, Err(PoolError::InUse { .. })), "the pool was formatted under it")?;
    keeper.keeps()?;
    ensure(watch.confirm_lost(1), "a silent host could not be given up")?;
    let died = watch.look(clock.now());
    ensure(matches!(died, Some(Event::Died { index: 1, .. })), "its death was not noticed")?;
    keeper.recover()?;
    watch.release(1);
    Ok(())
}

pub(crate) fn second(path: &Path, mode: Mode) -> Result<(), Failure> {
    let end = StdInstant::now() + PATIENCE;
    // The other host formats it meanwhile, or has to give up this one's former life.
    let (pool, mut own) = loop {
        let opened = Pool::open(Mapping::open(path)?, mode);
        let attached = opened.map(|mut pool| {
            pool.declare_coherent_hosts();
            (pool.attach(Some(1), incarnation()), pool)
        });
        if let Ok((Ok(own), pool)) = attached {
            break (pool, own);
        }
        ensure(StdInstant::now() < end, &format!("no pool: {attached:?}"))?;
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    println!("INFO attached, life {}", own.life());
    let words = Words::of(&pool);
    let mut device = RingDevice::open(&pool, &own)?;
    if own.life() > 1 {
        await_stage(&pool, &mut own, 0, 4)?;
        talk::ask(&mut device, 0, COUNT)?;
        pass("talked again");
        return Ok(());
    }
    await_stage(&pool, &mut own, 0, 1)?;
    store(&pool, words.stage(1), 1);
    talk::ask(&mut device, 0, COUNT)?;
    await_stage(&pool, &mut own, 0, 2)?;
    store(&pool, words.stage(1), 2);
    add_together(&pool);
    store(&pool, words.stage(1), 3);
    held::hold(&pool, mode, &mut own)?;
    // Holds what it has, shows life, and is killed.
    loop {
        own.beat();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

//! One host: the mapping's rules, a pool, its rings, and a page store on it.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use dmrpc_core::memory::Memory;
use dmrpc_core::store::{Config, Limits, PAGE_BYTES, Store};
use dmrpc_core::time::Instant;
use dmrpc_cxl::mapping::Kind;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolError, PoolMemory, RingDevice};

use crate::{Failure, ensure, pass, talk};

/// Sized for small devices.
pub(crate) const CONFIG: PoolConfig = PoolConfig {
    participants: 16,
    ring_participants: 4,
    ring_slots: 32,
    datagram_bytes: 4400,
    memory_node: 0,
};

/// A number that grows with each start.
pub(crate) fn incarnation() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |span| span.as_nanos() as u64)
}

pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    let mapping = Mapping::open(path)?;
    println!("INFO {} is {}, {} bytes", path.display(), mapping.kind(), mapping.bytes());
    if mapping.kind() == Kind::Dax {
        device_rules(path)?;
    }
    let end = mapping.bytes();
    mapping.touch();
    let ends = mapping.memory(0, end);
    ends.store_u64(end - 8, 0x1234);
    ensure(mapping.memory(end - 8, 8).load_u64(0) == 0x1234, "the last word does not stay")?;
    pass("mapped from the first word to the last");

    let force = Overwrite::Anything;
    let pool = Pool::format(mapping, Mode::Coherent, &CONFIG, (incarnation(), [7; 2]), force)?;
    let node = pool.attach(Some(0), incarnation())?;
    let again = Mapping::open(path)?;
    let refused = Pool::format(again, Mode::Coherent, &CONFIG, (1, [7; 2]), force);
    ensure(matches!(refused, Err(PoolError::InUse { .. })), "a pool in use was formatted")?;
    let other = Pool::open(Mapping::open(path)?, Mode::Coherent)?;
    ensure(other.geometry() == pool.geometry(), "a second mapping finds another pool")?;
    pass("formatted, refused while in use, opened a second time");

    rings(&pool, &other)?;
    store(pool.store_memory())?;
    drop(node);
    Ok(())
}

/// What device-dax refuses: nobody may come to rely on it.
fn device_rules(path: &Path) -> Result<(), Failure> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    ensure(file.metadata()?.len() == 0, "the file's size means something")?;
    ensure(file.read(&mut [0; 8]).is_err(), "a device-dax can be read")?;
    ensure(file.write(&[0; 8]).is_err(), "a device-dax can be written")?;
    ensure(file.set_len(4096).is_err(), "a device-dax can be cut")?;
    pass("device-dax: no read, write or truncate, size from sysfs");
    Ok(())
}

fn rings(pool: &Pool, other: &Pool) -> Result<(), Failure> {
    const COUNT: u64 = 500;
    let (asker, mut answerer) = (pool.attach(Some(1), 1)?, other.attach(Some(2), 1)?);
    let (mut asks, mut answers) =
        (RingDevice::open(pool, &asker)?, RingDevice::open(other, &answerer)?);
    let count = std::thread::scope(|scope| {
        let side = scope
            .spawn(|| talk::answer(&mut answers, &mut answerer).map_err(|error| error.to_string()));
        let asked = talk::ask(&mut asks, 2, COUNT).map_err(|error| error.to_string());
        side.join().map_err(|_| "the answering side panicked".to_owned())?.and_then(|count| {
            asked?;
            Ok(count)
        })
    })?;
    ensure(count == COUNT, "datagrams were lost")?;
    pass("datagrams through rings of two mappings");
    Ok(())
}

fn store(memory: PoolMemory) -> Result<(), Failure> {
    let config = Config::for_pool_bytes(memory.len());
    let mut store = Store::format(memory, &config)?;
    let holder = store.holder_join(Limits::NONE)?;
    let bytes = 64 * PAGE_BYTES;
    let region = store.alloc(holder, bytes)?;
    store.write(holder, region, 0, &vec![1; bytes as usize])?;
    let reference = store.create_ref(holder, region, 0, bytes)?;
    store.write(holder, region, 5000, &[2; 100])?;
    let mut found = vec![0; bytes as usize];
    store.read_ref(reference, 0, &mut found)?;
    ensure(found.iter().all(|byte| *byte == 1), "a reference saw a later write")?;
    store.read(holder, region, 0, &mut found)?;
    ensure(found[5000..5100].iter().all(|byte| *byte == 2), "a write was lost")?;
    store.holder_leave(holder, Instant::ZERO)?;
    while store.reclaim(Instant::FAR_FUTURE, 1000) != 0 {}
    let mut scratch = vec![0; store.check_scratch_bytes()];
    store.check(&mut scratch).map_err(|fault| format!("{fault:?}"))?;
    pass("a page store: written, referred to, written again, freed, audited");
    Ok(())
}

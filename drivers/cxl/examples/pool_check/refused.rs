//! A second host at a pool in coherent mode, where nobody said that hosts are coherent.

use std::path::Path;
use std::time::Instant as StdInstant;

use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{AttachError, Mapping, Mode, Pool};

use crate::alone::{CONFIG, incarnation};
use crate::talk::PATIENCE;
use crate::two_hosts::{await_word, load, store};
use crate::{Failure, ensure, pass};

/// Where a host says how far it has come, on a line of its own.
fn stage(pool: &Pool, host: u64) -> u64 {
    pool.geometry().pool_bytes - 4096 + 128 * host
}

/// Is there, and waits for the other host to have tried.
pub(crate) fn first(path: &Path) -> Result<(), Failure> {
    let force = Overwrite::Anything;
    let mapping = Mapping::open(path)?;
    let pool = Pool::format(mapping, Mode::Coherent, &CONFIG, (incarnation(), [7; 2]), force)?;
    (0..2).for_each(|host| store(&pool, stage(&pool, host), 0));
    let mut node = pool.attach(Some(0), incarnation())?;
    store(&pool, stage(&pool, 0), 1);
    await_word(&pool, &mut node, stage(&pool, 1), 1)?;
    ensure(pool.participants_of(dmrpc_cxl::process::own_host()) == [0], "others came in")?;
    pass("a pool in coherent mode stayed one host's");
    Ok(())
}

/// Tries.
pub(crate) fn second(path: &Path) -> Result<(), Failure> {
    let end = StdInstant::now() + PATIENCE;
    let pool = loop {
        let opened = Pool::open(Mapping::open(path)?, Mode::Coherent);
        match opened {
            Ok(pool) if load(&pool, stage(&pool, 0)) == 1 => break pool,
            _ => ensure(StdInstant::now() < end, "no pool")?,
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let refused = pool.attach(None, incarnation());
    let is_refused = matches!(refused, Err(AttachError::OtherHost { index: 0, .. }));
    ensure(is_refused, &format!("a second host was let in: {refused:?}"))?;
    store(&pool, stage(&pool, 1), 1);
    pass("a second host is refused in coherent mode");
    Ok(())
}

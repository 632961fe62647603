//! The pool of `--local cxl`: memory without a path, gone with this program whatever happens.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dmrpc_choice::{AnyDevice, Driver, DriverError};
use dmrpc_cxl::participants::AttachError;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, OpenError, Pool, PoolConfig};

use crate::args::Args;
use crate::error::AppError;

/// The participant that this program is in flush mode; its further endpoints are those after it.
/// The memory node is 0.
const OWN: u32 = 1;
/// The pool is whole huge pages.
const UNIT_BYTES: u64 = 2 << 20;

/// A pool that this program made.
pub(crate) struct LocalPool {
    pool: Arc<Pool>,
    /// What opens devices of this program: one for any participant, or one for each number that is
    /// this program's.
    drivers: Vec<Driver>,
    latency_ns: Option<u64>,
    /// The participant that the next child is, where each has to be told.
    next: Cell<u32>,
}

impl LocalPool {
    /// Makes a pool of the size that the flags ask for, rings included, for a program with so many
    /// endpoints at a time.
    pub(crate) fn make(args: &Args, endpoints: usize) -> Result<Self, AppError> {
        let bytes = args.pool_size.0.next_multiple_of(UNIT_BYTES);
        let config =
            PoolConfig { datagram_bytes: args.datagram_bytes() as u32, ..PoolConfig::default() };
        let mut pool = make(bytes, &config, args).map_err(DriverError::from)?;
        args.driver.set_up(&mut pool);
        let pool = Arc::new(pool);
        let next = OWN + endpoints as u32;
        let driver = |told| Driver::of_pool(Arc::clone(&pool), told);
        let drivers = match args.driver.coherence {
            Mode::Flush => (OWN..next).map(|index| driver(Some(index))).collect(),
            Mode::Coherent => vec![driver(None)],
        };
        let latency_ns = args.driver.cxl_latency_ns;
        Ok(Self { pool, drivers, latency_ns, next: Cell::new(next) })
    }

    /// Opens a device of this program: as the first of its numbers that is not in use.
    pub(crate) fn device(&self, bind: SocketAddrV4) -> Result<AnyDevice, DriverError> {
        let (last, others) = self.drivers.split_last().expect("one for any participant at least");
        for driver in others {
            match driver.device(0, bind) {
                Err(DriverError::Pool(OpenError::Attach(AttachError::Taken { .. }))) => {}
                opened => return opened,
            }
        }
        last.device(0, bind)
    }

    /// Frees the slots of clients that this program has closed: what a memory node does otherwise.
    pub(crate) fn free_left(&self) {
        self.pool.free_left();
    }

    /// The flags that each child is started with.
    pub(crate) fn flags(&self) -> Vec<String> {
        let path = self.pool.mapping().path().display().to_string();
        let mode = self.pool.geometry().mode;
        let mut flags = vec!["--pool".to_owned(), path, "--coherence".to_owned(), mode.to_string()];
        if let Some(nanos) = self.latency_ns {
            flags.extend(["--cxl-latency-ns".to_owned(), nanos.to_string()]);
        }
        if mode == Mode::Flush {
            // The memory node is participant 0 whatever it is told.
            let index = self.next.replace(self.next.get() + 1);
            flags.extend(["--participant".to_owned(), index.to_string()]);
        }
        flags
    }
}

fn make(bytes: u64, config: &PoolConfig, args: &Args) -> Result<Pool, OpenError> {
    let mapping = Mapping::memfd("dmrpc-local", bytes)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = now.as_nanos() as u64;
    // Whoever can map this pool may do anything with it, so its key guards nothing.
    let identity = (now, [now, args.seed]);
    let mode = args.driver.coherence;
    Ok(Pool::format(mapping, mode, config, identity, Overwrite::Unused)?)
}

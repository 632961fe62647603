//! A participant with its rings: what a process needs to be reached through a pool.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device};
use dmrpc_host::idle::Wait;

use crate::device::{NoRings, RingDevice, RingRx, RingTx};
use crate::mapping::{MapError, Mapping, PoolMemory};
use crate::participants::{AttachError, Participant};
use crate::pool::{Pool, PoolError};
use crate::superblock::Mode;

/// Why a process cannot be reached through a pool.
#[derive(Debug)]
pub enum OpenError {
    /// The path gives no memory.
    Map(MapError),
    /// There is no pool in it.
    Pool(PoolError),
    /// There is no place for a participant.
    Attach(AttachError),
    /// Its place has no rings.
    NoRings(NoRings),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Pool(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::NoRings(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<MapError> for OpenError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<PoolError> for OpenError {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}

impl From<AttachError> for OpenError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl From<NoRings> for OpenError {
    fn from(error: NoRings) -> Self {
        Self::NoRings(error)
    }
}

/// A device over the rings of a participant, which leaves the pool when it is dropped.
#[derive(Debug)]
pub struct PoolDevice {
    rings: RingDevice,
    participant: Participant,
    pool: Arc<Pool>,
}

impl PoolDevice {
    /// Maps the pool at `path` and becomes a participant of it: any, or number `index`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        path: &Path,
        mode: Mode,
        index: Option<u32>,
        incarnation: u64,
    ) -> Result<Self, OpenError> {
        let pool = Arc::new(Pool::open(Mapping::open(path)?, mode)?);
        let participant = pool.attach(index, incarnation)?;
        Self::new(pool, participant)
    }

    /// The rings of a participant of `pool`.
    ///
    /// # Errors
    /// [`OpenError::NoRings`].
    pub fn new(pool: Arc<Pool>, participant: Participant) -> Result<Self, OpenError> {
        let rings = RingDevice::open(&pool, &participant)?;
        Ok(Self { rings, participant, pool })
    }

    /// The address that others reach it at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.rings.local_addr()
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The participant.
    pub fn participant(&self) -> &Participant {
        &self.participant
    }

    /// The rings, for their counts.
    pub fn rings(&self) -> &RingDevice {
        &self.rings
    }
}

impl Device for PoolDevice {
    type Rx<'a> = RingRx<'a, PoolMemory>;
    type Tx<'a> = RingTx<'a, PoolMemory>;

    fn capabilities(&self) -> Capabilities {
        self.rings.capabilities()
    }

    fn keeps_bytes(&self) -> bool {
        self.rings.keeps_bytes()
    }

    fn is_lossless(&self) -> bool {
        self.rings.is_lossless()
    }

    fn flushes_cheaply(&self) -> bool {
        self.rings.flushes_cheaply()
    }

    #[inline]
    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        self.rings.split()
    }
}

impl Wait for PoolDevice {
    fn wait(&self, timeout: Duration) -> bool {
        self.rings.wait(timeout)
    }
}

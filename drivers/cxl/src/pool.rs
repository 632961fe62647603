//! A pool: a mapping with a superblock, participants, rings and room for a store.

use std::fs::TryLockError;
use std::path::Path;

use dmrpc_core::memory::Memory;
use dmrpc_core::time::Duration;

use crate::direct::Direct;
use crate::mapping::{Mapping, PoolMemory};
use crate::participants::{AttachError, Participant, Table, Watch};
use crate::process::{Fate, Observed, ProcessId};
use crate::ring;
use crate::superblock::{Found, Geometry, Mode, SUPERBLOCK_BYTES};

mod error;
mod protected;

pub use error::PoolError;

/// Datagrams that a ring holds unless another number is asked for.
pub const RING_SLOTS: u16 = 64;

/// Most participants of a pool.
const PARTICIPANTS_MAX: u32 = 1024;

/// How a pool is laid out, beside its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Slots for participants: 2 to 1024. Slot 0 is the memory node's.
    pub participants: u32,
    /// How many of them, from the first, have rings to each other: 0 to 64.
    pub ring_participants: u32,
    /// Datagrams that a ring holds: a power of two up to 4096.
    pub ring_slots: u32,
    /// Bytes of the largest datagram: 64 to 65507.
    pub datagram_bytes: u32,
    /// Number of the memory node that references to the pool's memory name, whoever makes them.
    pub memory_node: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            participants: 64,
            ring_participants: 8,
            ring_slots: RING_SLOTS.into(),
            datagram_bytes: 4400,
            memory_node: 0,
        }
    }
}

impl PoolConfig {
    pub(crate) fn check(&self) -> Result<(), PoolError> {
        let range = |what, given: u32, min, max| match (min..=max).contains(&given) {
            true => Ok(()),
            false => Err(PoolError::Range { what, given, min, max }),
        };
        range("participants", self.participants, 2, PARTICIPANTS_MAX)?;
        let most = ring::PARTICIPANTS_MAX.min(self.participants);
        range("participants with rings", self.ring_participants, 0, most)?;
        range("datagrams in a ring", self.ring_slots, 2, 4096)?;
        if !self.ring_slots.is_power_of_two() {
            return Err(PoolError::NotPowerOfTwo { given: self.ring_slots });
        }
        range("bytes of a datagram", self.datagram_bytes, 64, 65_507)
    }
}

/// How far formatting may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Blank memory, and pools that nobody uses.
    #[default]
    Unused,
    /// Also foreign and damaged contents, and pools of participants on other hosts. Never a pool
    /// that a process of this host uses.
    Anything,
}

/// A pool that is mapped and found in order.
#[derive(Debug)]
pub struct Pool {
    mapping: Mapping,
    memory: PoolMemory,
    geometry: Geometry,
    /// Whether somebody said that the memory is coherent between hosts.
    spans_hosts: bool,
}

impl Pool {
    /// Makes a pool of all of a mapping. Where an error is returned, nothing was written.
    /// `identity` is a number that grows with each formatting, and a random key for references.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn format(
        mapping: Mapping,
        mode: Mode,
        config: &PoolConfig,
        identity: (u64, [u64; 2]),
        overwrite: Overwrite,
    ) -> Result<Self, PoolError> {
        config.check()?;
        if mode == Mode::Flush && config.ring_participants > ring::DIRECT_MAX {
            return Err(PoolError::RingsInFlushMode { given: config.ring_participants });
        }
        let path = || mapping.path().to_owned();
        // Released when the mapping's file is closed, or at this function's end.
        match mapping.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(PoolError::BeingFormatted { path: path() });
            }
            // A file system without locks: two formatters at once are the operator's care.
            Err(TryLockError::Error(_)) => {}
        }
        let made = Self::format_locked(mapping, mode, config, identity, overwrite)?;
        let _ = made.mapping.file().unlock();
        Ok(made)
    }

    fn format_locked(
        mapping: Mapping,
        mode: Mode,
        config: &PoolConfig,
        (incarnation, key): (u64, [u64; 2]),
        overwrite: Overwrite,
    ) -> Result<Self, PoolError> {
        let bytes = mapping.bytes();
        let path = || mapping.path().to_owned();
        let needed = needed_bytes(mode, config);
        let geometry = Geometry::lay_out(mode, bytes, (incarnation, key), config);
        let geometry =
            geometry.ok_or_else(|| PoolError::TooSmall { path: path(), bytes, needed })?;
        let memory = mapping.memory(0, bytes);
        let force = overwrite == Overwrite::Anything;
        match Geometry::find(&memory) {
            Found::Blank => {}
            Found::Foreign if force => {}
            Found::OtherVersion(_) | Found::Damaged if force => {
                nobody_is_found(&mapping, &memory)?;
            }
            Found::Foreign => return Err(PoolError::Foreign { path: path() }),
            Found::OtherVersion(found) => {
                return Err(PoolError::OtherVersion { path: path(), found });
            }
            Found::Damaged => return Err(PoolError::Damaged { path: path() }),
            // Even if it has become shorter since: those who mapped it may go on.
            Found::Pool(found) => nobody_uses(&mapping, &memory, &found, force)?,
        }
        // The word that makes it a pool goes first and comes back last.
        memory.store_u64(0, 0);
        memory.fence();
        let end = geometry.store_offset.min(bytes);
        memory.fill_zero(SUPERBLOCK_BYTES, end - SUPERBLOCK_BYTES);
        memory.fill_zero(0, SUPERBLOCK_BYTES);
        // The store's first page too: nobody shall find an older pool's store there.
        memory.fill_zero(geometry.store_offset, SUPERBLOCK_BYTES);
        memory.flush(0, geometry.store_offset + SUPERBLOCK_BYTES);
        geometry.write(&memory);
        Ok(Self { mapping, memory, geometry, spans_hosts: false })
    }

    /// Opens the pool that is in a mapping. Writes nothing.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn open(mapping: Mapping, mode: Mode) -> Result<Self, PoolError> {
        let path = || mapping.path().to_owned();
        let bytes = mapping.bytes();
        let memory = mapping.memory(0, bytes);
        let geometry = match Geometry::find(&memory) {
            Found::Blank => return Err(PoolError::Blank { path: path() }),
            Found::Foreign => return Err(PoolError::Foreign { path: path() }),
            Found::OtherVersion(found) => {
                return Err(PoolError::OtherVersion { path: path(), found });
            }
            Found::Damaged => return Err(PoolError::Damaged { path: path() }),
            Found::Pool(geometry) => geometry,
        };
        if geometry.pool_bytes > bytes {
            let needed = geometry.pool_bytes;
            return Err(PoolError::TooSmall { path: path(), bytes, needed });
        }
        if geometry.mode != mode {
            let found = geometry.mode;
            return Err(PoolError::OtherMode { path: path(), found, wanted: mode });
        }
        Ok(Self { mapping, memory, geometry, spans_hosts: false })
    }

    /// Bytes that the page store of a pool of `bytes` bytes at `path` would have.
    ///
    /// # Errors
    /// [`PoolError`]: there cannot be such a pool.
    pub fn store_bytes_of(
        path: &Path,
        bytes: u64,
        mode: Mode,
        config: &PoolConfig,
    ) -> Result<u64, PoolError> {
        config.check()?;
        let geometry = Geometry::lay_out(mode, bytes, (0, [0; 2]), config);
        let needed = needed_bytes(mode, config);
        let too_small = || PoolError::TooSmall { path: path.to_owned(), bytes, needed };
        geometry.map(|geometry| geometry.store_bytes).ok_or_else(too_small)
    }

    /// Whether `mapping` is blank: no pool, and nothing else.
    pub fn is_blank(mapping: &Mapping) -> bool {
        Geometry::find(&mapping.memory(0, mapping.bytes())) == Found::Blank
    }

    /// Where everything is.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What it is mapped from.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// All of the pool as memory.
    pub fn memory(&self) -> &PoolMemory {
        &self.memory
    }

    /// The part that is the page store's.
    pub fn store_memory(&self) -> PoolMemory {
        self.mapping.memory(self.geometry.store_offset, self.geometry.store_bytes)
    }

    /// Makes loads from the pool, by what opens or maps it from now on in this process, take
    /// `latency`: see [`crate::latency`]. Slices of the pool are as fast as ever.
    pub fn slow_down(&mut self, latency: Duration) {
        self.mapping.slow_down(latency);
        self.memory = self.mapping.memory(0, self.geometry.pool_bytes);
    }

    /// The same as slices where they are.
    pub fn store_direct(&self) -> Direct {
        self.mapping.direct(self.geometry.store_offset, self.geometry.store_bytes)
    }

    /// Says that a host is gone, on the word of an operator who knows: the memory node gives up its
    /// participants that are silent, and what they could write is free again. 0 for no host.
    pub fn name_lost(&self, host: u64) {
        self.table().name_lost(host);
    }

    /// Participants of a host that are not given up.
    pub fn participants_of(&self, host: u64) -> Vec<u32> {
        self.table().slots_of(host)
    }

    /// Whether nobody but participant `own` may be using the pool.
    ///
    /// # Errors
    /// [`PoolError::InUse`].
    pub fn must_be_unused(&self, own: u32) -> Result<(), PoolError> {
        in_use(&self.mapping, self.table().anybody_but(Some(own), false))
    }

    /// Declares that the memory is coherent between hosts (CXL 3 with back-invalidation), which
    /// nothing here can find out for certain: in coherent mode, participants of several hosts are
    /// refused otherwise.
    pub fn declare_coherent_hosts(&mut self) {
        self.spans_hosts = true;
    }

    /// Becomes a participant: number `index`, or any but 0, which is the memory node's.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&self, index: Option<u32>, incarnation: u64) -> Result<Participant, AttachError> {
        self.must_be_of_this_host()?;
        let participant = Participant::attach(self.table(), index, incarnation)?;
        // Of two hosts that attach at once, one at least sees the other.
        self.must_be_of_this_host().map(|()| participant)
    }

    /// Hosts lose each other's updates, unless somebody said that theirs do not.
    fn must_be_of_this_host(&self) -> Result<(), AttachError> {
        if self.spans_hosts || self.geometry.mode == Mode::Flush {
            return Ok(());
        }
        self.memory.fence();
        match self.table().anybody_elsewhere() {
            Some((index, host)) => Err(AttachError::OtherHost { index, host }),
            None => Ok(()),
        }
    }

    /// As [`Pool::attach`] to a given slot, after whoever had it and is known to be dead, or has
    /// left. For memory nodes, whose store recovers their own earlier life, and for pools without
    /// a store: where there is one, what another participant held is in it, and its slot becomes
    /// free when the memory node has recovered that.
    ///
    /// # Errors
    /// [`AttachError::Taken`] while its process lives, or may live on another host, and for others
    /// than the memory node until the slot is free.
    pub fn take_over(&self, index: u32, incarnation: u64) -> Result<Participant, AttachError> {
        if index == 0 || !self.has_store() {
            self.end_if_gone(index);
        }
        self.attach(Some(index), incarnation)
    }

    /// Whether there is a page store in the pool.
    pub fn has_store(&self) -> bool {
        let at = self.geometry.store_offset;
        if self.geometry.mode == Mode::Flush {
            self.memory.flush(at, 8);
        }
        self.memory.load_u64(at) != 0
    }

    /// Frees the slots of participants that left or died: for pools without a memory node, which
    /// have nothing that they held. Where there is a store, its memory node does that.
    pub fn free_left(&self) {
        if !self.has_store() {
            (0..self.geometry().participants as u32).for_each(|index| self.end_if_gone(index));
        }
    }

    fn end_if_gone(&self, index: u32) {
        let is_gone = |id| Observed::new(id).fate() == Fate::Gone;
        self.table().end_if_gone(index, ProcessId::own(), is_gone);
    }

    /// Begins to watch all participants but `own`.
    pub fn watch(&self, own: &Participant, lease: Duration) -> Watch {
        Watch::new(self.table(), own, lease)
    }

    fn table(&self) -> Table {
        Table::new(self.memory.clone(), &self.geometry)
    }
}

/// Bytes of the smallest pool of that layout.
fn needed_bytes(mode: Mode, config: &PoolConfig) -> u64 {
    const LARGE: u64 = 1 << 60;
    let laid = Geometry::lay_out(mode, LARGE, (0, [0; 2]), config);
    laid.map_or(LARGE, |geometry| geometry.store_offset + SUPERBLOCK_BYTES)
}

fn nobody_uses(
    mapping: &Mapping,
    memory: &PoolMemory,
    found: &Geometry,
    force: bool,
) -> Result<(), PoolError> {
    in_use(mapping, Table::new(memory.clone(), found).anybody_but(None, force))
}

/// As far as can be told where no superblock says what there is: the participants' table of each
/// version began in the same place.
fn nobody_is_found(mapping: &Mapping, memory: &PoolMemory) -> Result<(), PoolError> {
    let (base, slots) = (SUPERBLOCK_BYTES, PARTICIPANTS_MAX);
    let table = Table::at_offset(memory.clone(), base, slots, Mode::Coherent);
    in_use(mapping, table.anybody_here())
}

fn in_use(mapping: &Mapping, user: Option<(u32, ProcessId)>) -> Result<(), PoolError> {
    match user {
        None => Ok(()),
        Some((participant, id)) => Err(PoolError::InUse {
            path: mapping.path().to_owned(),
            participant,
            pid: id.pid,
            elsewhere: id.host != crate::process::own_host(),
        }),
    }
}

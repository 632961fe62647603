//! A pool that compute nodes map too: formatted or found again, and watched.

use std::path::Path;
use std::sync::Arc;

use dmrpc_choice::{AnyDevice, Driver, DriverError, DriverKind};
use dmrpc_core::memory::Memory;
use dmrpc_core::service::Identity;
use dmrpc_core::store::{Config, FormatError, Layout, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_cxl::participants::Event;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::process::own_host;
use dmrpc_cxl::{
    Mapping, Mode, OpenError, Participant, Pool, PoolConfig, PoolDevice, PoolMemory, Watch,
};
use dmrpc_host::key::random_secret;

use crate::error::Error;
use crate::node::wall_clock_ns;
use crate::options::Options;
use crate::place::Place;
use crate::sizes::store_config;

/// The memory node's own slot.
const OWN: u32 = 0;
/// Most participants that a pool has: as many can be gone at a time.
const GONE_MAX: usize = 1024;
/// How long `--confirm-lost` waits beyond the lease.
const CONFIRM_PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);
/// Between its looks.
const CONFIRM_LOOK: std::time::Duration = std::time::Duration::from_millis(20);
/// Between two looks at the participants: each asks the kernel about each of them.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What became of the slot of a participant that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nobody has it, and nobody gets it before it is released.
    Empty,
    /// Another participant has it: what the store has in its number may be that one's.
    Taken,
}

/// A mapped pool, and this memory node's place in it.
pub(crate) struct SharedPool {
    pool: Arc<Pool>,
    /// Until the device has it.
    participant: Option<Participant>,
    watch: Watch,
    next_look: Instant,
    /// Participants that are gone and have not been recovered.
    gone: Vec<u32>,
}

impl SharedPool {
    /// Maps what is at `path`; makes a pool of it if it is blank, not there, or to be made anew.
    pub(crate) fn open(options: &Options, path: &Path, memory_node: u32) -> Result<Self, Error> {
        let mut pool = Self::pool(options, path, memory_node)?;
        options.driver.set_up(&mut pool);
        // What its participants were told by an earlier memory node, they would go on using.
        if pool.geometry().mode == Mode::Flush && pool.store_memory().load_u64(0) != 0 {
            pool.must_be_unused(OWN).map_err(|error| pool_error(error.into()))?;
        }
        let attached = pool.take_over(OWN, wall_clock_ns());
        let participant = attached.map_err(|error| pool_error(error.into()))?;
        let watch = pool.watch(&participant, options.lease.0);
        let (next_look, gone) = (Instant::ZERO, Vec::with_capacity(GONE_MAX));
        let participant = Some(participant);
        Ok(Self { pool: Arc::new(pool), participant, watch, next_look, gone })
    }

    fn pool(options: &Options, path: &Path, memory_node: u32) -> Result<Pool, Error> {
        let mut config = PoolConfig { memory_node, ..PoolConfig::default() };
        if let Some(size) = options.datagram_size {
            config.datagram_bytes = size.0 as u32;
        }
        let is_there = path.exists();
        if !is_there {
            must_have_room(options, path, options.pool_size.0, &config)?;
        }
        let mapping = match is_there {
            true => Mapping::open(path),
            false => Mapping::create_on(path, options.pool_size.0, options.numa_node)
                .map(|(mapping, _)| mapping),
        };
        let mapping = mapping.map_err(|error| pool_error(error.into()))?;
        if let Some(node) = options.numa_node.filter(|_| is_there) {
            mapping.move_to_node(node).map_err(|error| pool_error(error.into()))?;
        }
        let pool = Self::pool_in(mapping, options, &config);
        if pool.is_err() && !is_there {
            // Nobody shall find a file that is no pool.
            let _ = std::fs::remove_file(path);
        }
        pool
    }

    /// The pool in `mapping`, made if it is blank or to be made anew.
    fn pool_in(mapping: Mapping, options: &Options, config: &PoolConfig) -> Result<Pool, Error> {
        let mode = options.driver.coherence;
        if !options.format && !Pool::is_blank(&mapping) {
            return Pool::open(mapping, mode).map_err(|error| pool_error(error.into()));
        }
        must_have_room(options, mapping.path(), mapping.bytes(), config)?;
        let key = random_secret().map_err(Error::Random)?;
        let (words, _) = key.as_chunks::<8>();
        let key = [words[0], words[1]].map(u64::from_le_bytes);
        let overwrite = if options.force { Overwrite::Anything } else { Overwrite::Unused };
        Pool::format(mapping, mode, config, (wall_clock_ns(), key), overwrite)
            .map_err(|error| pool_error(error.into()))
    }

    /// Whether the pool's hosts are not coherent.
    pub(crate) fn is_in_flush_mode(&self) -> bool {
        self.pool.geometry().mode == Mode::Flush
    }

    /// The part of the pool that is the store's.
    pub(crate) fn memory(&self) -> PoolMemory {
        self.pool.store_memory()
    }

    /// The page store in the pool, over its `memory`: a new one if there is none.
    pub(crate) fn store<M: Memory>(
        &self,
        memory: M,
        config: impl FnOnce(u64, u32) -> Config,
    ) -> Result<Store<M>, Error> {
        let bytes = memory.len();
        let is_new = memory.load_u64(0) == 0;
        let participants = self.pool.geometry().participants as u32;
        let store = match is_new {
            true => Store::format(memory, &config(bytes, participants)),
            false => Store::open(memory),
        };
        store.map_err(|source| Error::PoolFormat { bytes, source })
    }

    /// Who this memory node is in references: the pool's number and incarnation, for they outlive
    /// the node, and others make them too.
    pub(crate) fn identity(&self) -> Identity {
        let geometry = self.pool.geometry();
        let mut key = [0; 16];
        for (bytes, word) in key.as_chunks_mut::<8>().0.iter_mut().zip(geometry.key) {
            *bytes = word.to_le_bytes();
        }
        let memory_node = geometry.memory_node as u32;
        Identity { memory_node, incarnation: geometry.incarnation, key: RefKey(key) }
    }

    /// What calls come by: the pool's rings, or what the command line chooses.
    pub(crate) fn device(
        &mut self,
        options: &Options,
        place: &Place,
    ) -> Result<(Driver, AnyDevice), Error> {
        match (options.driver.kind(), self.participant.take()) {
            (DriverKind::Cxl, Some(participant)) => {
                let driver = Driver::of_pool(Arc::clone(&self.pool), Some(OWN));
                let driver = driver.with_pcap(options.driver.pcap.clone());
                let device = PoolDevice::new(Arc::clone(&self.pool), participant);
                let device = driver.captured(0, device.map_err(pool_error)?);
                Ok((driver, device.map_err(Error::Device)?))
            }
            (_, participant) => {
                self.participant = participant;
                let datagram_bytes = options.datagram_size.map(|size| size.as_usize());
                let datagram_bytes = datagram_bytes.unwrap_or(options.driver.datagram_bytes());
                let driver = Driver::start(&options.driver, datagram_bytes, 1);
                let driver = driver.map_err(Error::Device)?;
                let device = driver.device(0, place.address).map_err(Error::Device)?;
                Ok((driver, device))
            }
        }
    }

    /// Looks after the participants, now and then: `end` ends what one that is gone has here; with
    /// its slot empty, it also gets back what that one held, or says that it has to wait.
    pub(crate) fn look(&mut self, now: Instant, mut end: impl FnMut(u32, Slot) -> bool) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_INTERVAL;
        while let Some(event) = self.watch.look(now) {
            match event {
                Event::Joined { index, pid } => {
                    defmt::info!("participant {=u32} joined: process {=u32}", index, pid);
                }
                Event::Left { index } => {
                    defmt::info!("participant {=u32} left", index);
                    self.gone.push(index);
                }
                Event::Died { index, pid } => {
                    defmt::warn!("participant {=u32} died: process {=u32}", index, pid);
                    self.gone.push(index);
                }
                Event::Replaced { index, pid } => {
                    defmt::warn!("participant {=u32} is another: process {=u32}", index, pid);
                    end(index, Slot::Taken);
                }
                Event::Silent { index } => {
                    defmt::warn!(
                        "participant {=u32} of host {=u64:x} is silent; its memory stays as it is \
                         until --confirm-lost",
                        index,
                        self.watch.host_of(index).unwrap_or(0)
                    );
                }
                Event::Heard { index } => defmt::info!("participant {=u32} is back", index),
            }
        }
        // One may have to wait for another: the rest has its turn with the next look.
        let watch = &mut self.watch;
        self.gone.retain(|index| {
            let recovered = end(*index, Slot::Empty);
            if recovered {
                watch.release(*index);
            }
            !recovered
        });
    }
}

/// Tells the memory node of the pool at `path`, running or to be started, that a host is gone, and
/// waits until it has given up that host's participants.
pub(crate) fn confirm_lost(options: &Options, path: &Path, host: u64) -> Result<(), Error> {
    if host == own_host() {
        return Err(Error::LostHostIsHere(host));
    }
    let mapping = Mapping::open(path).map_err(|error| pool_error(error.into()))?;
    let pool = Pool::open(mapping, options.driver.coherence);
    let pool = pool.map_err(|error| pool_error(error.into()))?;
    let before = pool.participants_of(host).len();
    pool.name_lost(host);
    let end = std::time::Instant::now()
        + std::time::Duration::from_nanos(options.lease.0.as_nanos())
        + CONFIRM_PATIENCE;
    let mut left = pool.participants_of(host);
    while !left.is_empty() && std::time::Instant::now() < end {
        std::thread::sleep(CONFIRM_LOOK);
        left = pool.participants_of(host);
    }
    pool.name_lost(0);
    if let Some(participant) = left.first() {
        return Err(Error::HostNotLost { host, participant: *participant });
    }
    dmrpc_host::cli::announce(format_args!("{before} participants of host {host:x} given up"));
    Ok(())
}

/// Refuses a pool whose store would have no room, before anything of it is written.
fn must_have_room(
    options: &Options,
    path: &Path,
    bytes: u64,
    config: &PoolConfig,
) -> Result<(), Error> {
    let bytes = Pool::store_bytes_of(path, bytes, options.driver.coherence, config);
    let bytes = bytes.map_err(|error| pool_error(error.into()))?;
    let store = Layout::new(&store_config(options, bytes, config.participants));
    let source = match store.map(|layout| layout.bytes()) {
        Ok(needed) if needed <= bytes => return Ok(()),
        Ok(needed) => FormatError::TooSmall { bytes, needed },
        Err(error) => error,
    };
    Err(Error::PoolFormat { bytes, source })
}

fn pool_error(error: OpenError) -> Error {
    Error::Device(DriverError::Pool(error))
}

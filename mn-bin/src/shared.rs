//! A pool that compute nodes map too: formatted or found again, and watched.

use std::path::Path;
use std::sync::Arc;

use dmrpc_choice::{AnyDevice, Driver, DriverError, DriverKind};
use dmrpc_core::memory::Memory;
use dmrpc_core::service::Identity;
use dmrpc_core::store::{Config, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_cxl::participants::Event;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, OpenError, Participant, Pool, PoolConfig, PoolDevice, PoolMemory, Watch};
use dmrpc_host::key::random_secret;

use crate::error::Error;
use crate::node::wall_clock_ns;
use crate::options::Options;
use crate::place::Place;

/// The memory node's own slot.
const OWN: u32 = 0;
/// Most participants that a pool has: as many can be gone at a time.
const GONE_MAX: usize = 1024;
/// Between two looks at the participants: each asks the kernel about each of them.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

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
    pub(crate) fn open(options: &Options, path: &Path) -> Result<Self, Error> {
        let mut pool = Self::pool(options, path)?;
        options.driver.slow_down(&mut pool);
        let attached = pool.take_over(OWN, wall_clock_ns());
        let participant = attached.map_err(|error| pool_error(error.into()))?;
        let watch = pool.watch(&participant, options.lease.0);
        let (next_look, gone) = (Instant::ZERO, Vec::with_capacity(GONE_MAX));
        let participant = Some(participant);
        Ok(Self { pool: Arc::new(pool), participant, watch, next_look, gone })
    }

    fn pool(options: &Options, path: &Path) -> Result<Pool, Error> {
        let bytes = options.pool_size.0;
        let mapping = match path.exists() {
            true => Mapping::open(path),
            false => Mapping::create(path, bytes).map(|(mapping, _)| mapping),
        };
        let mapping = mapping.map_err(|error| pool_error(error.into()))?;
        if let Some(node) = options.numa_node {
            mapping.bind_to_node(node).map_err(|error| pool_error(error.into()))?;
        }
        let mode = options.driver.coherence;
        if !options.format && !Pool::is_blank(&mapping) {
            return Pool::open(mapping, mode).map_err(|error| pool_error(error.into()));
        }
        let key = random_secret().map_err(Error::Random)?;
        let (words, _) = key.as_chunks::<8>();
        let key = [words[0], words[1]].map(u64::from_le_bytes);
        let mut config = PoolConfig::default();
        if let Some(size) = options.datagram_size {
            config.datagram_bytes = size.0 as u32;
        }
        let overwrite = if options.force { Overwrite::Anything } else { Overwrite::Unused };
        Pool::format(mapping, mode, &config, (wall_clock_ns(), key), overwrite)
            .map_err(|error| pool_error(error.into()))
    }

    /// The page store in the pool: a new one if there is none.
    pub(crate) fn store(
        &self,
        config: impl FnOnce(u64, u32) -> Config,
    ) -> Result<Store<PoolMemory>, Error> {
        let memory = self.pool.store_memory();
        let bytes = memory.len();
        let is_new = memory.load_u64(0) == 0;
        let participants = self.pool.geometry().participants as u32;
        let store = match is_new {
            true => Store::format(memory, &config(bytes, participants)),
            false => Store::open(memory),
        };
        store.map_err(|source| Error::PoolFormat { bytes, source })
    }

    /// Who this memory node is in references: the pool's incarnation, for they outlive the node.
    pub(crate) fn identity(&self, memory_node: u32) -> Identity {
        let geometry = self.pool.geometry();
        let mut key = [0; 16];
        for (bytes, word) in key.as_chunks_mut::<8>().0.iter_mut().zip(geometry.key) {
            *bytes = word.to_le_bytes();
        }
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
                let device = PoolDevice::new(Arc::clone(&self.pool), participant);
                Ok((driver, AnyDevice::Cxl(device.map_err(pool_error)?)))
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

    /// Looks after the participants, now and then: `recover` gets back what one that is gone held,
    /// or says that it has to wait.
    pub(crate) fn look(&mut self, now: Instant, mut recover: impl FnMut(u32) -> bool) {
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
                Event::Silent { index } => {
                    defmt::warn!(
                        "participant {=u32} of another host is silent; its memory stays as it is",
                        index
                    );
                }
                Event::Heard { index } => defmt::info!("participant {=u32} is back", index),
            }
        }
        // One may have to wait for another: the rest has its turn with the next look.
        let watch = &mut self.watch;
        self.gone.retain(|index| {
            let recovered = recover(*index);
            if recovered {
                watch.release(*index);
            }
            !recovered
        });
    }
}

fn pool_error(error: OpenError) -> Error {
    Error::Device(DriverError::Pool(error))
}

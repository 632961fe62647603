//! What the flags start.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dmrpc_cxl::{AttachError, Mapping, Mode, OpenError, Participant, Pool, PoolDevice};
use dmrpc_host::captured::Captured;
use dmrpc_udp::{UdpConfig, UdpDevice, UdpError};

use crate::args::{DriverArgs, DriverKind};
use crate::device::{AnyDevice, Chosen};

/// Why a driver cannot be started, or a device not be opened.
#[derive(Debug)]
pub enum DriverError {
    /// A UDP socket cannot be opened.
    Udp(UdpError),
    /// DPDK, or a port of it, cannot be used.
    #[cfg(feature = "dpdk")]
    Dpdk(dmrpc_dpdk::DpdkError),
    /// A pool cannot be used.
    Pool(OpenError),
    /// No pool was named.
    PoolNeeded,
    /// Data through a pool in flush mode needs calls through it.
    FlushByNetwork,
    /// DPDK was left out when this program was built.
    NotBuilt,
    /// This process cannot have a network of its own.
    Network(std::io::Error),
    /// An interface cannot be made.
    Interface {
        /// What `ip` was asked to do.
        line: String,
        /// What it said.
        said: String,
    },
    /// A flag for DPDK was given without asking for it.
    WithoutDpdk {
        /// The flag.
        flag: &'static str,
    },
    /// The capture file cannot be written.
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// DPDK's port cannot have this address.
    Address {
        /// The address given.
        given: SocketAddrV4,
    },
}

impl DriverError {
    /// Whether the command line is to blame, not the machine.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Udp(_)
            | Self::Pool(_)
            | Self::NotBuilt
            | Self::Capture { .. }
            | Self::Network(_)
            | Self::Interface { .. } => false,
            #[cfg(feature = "dpdk")]
            Self::Dpdk(error) => error.is_usage(),
            Self::PoolNeeded
            | Self::FlushByNetwork
            | Self::WithoutDpdk { .. }
            | Self::Address { .. } => true,
        }
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(error) => error.fmt(f),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(error) => error.fmt(f),
            Self::Pool(error) => error.fmt(f),
            Self::PoolNeeded => {
                f.write_str("--driver cxl needs a pool: give --pool and the pool's path")
            }
            Self::FlushByNetwork => f.write_str(
                "data goes through a pool in flush mode only where calls do: leave --driver out, \
                 or --pool",
            ),
            Self::NotBuilt => f.write_str(
                "this program was built without DPDK: install libdpdk-dev and libclang-dev \
                 (ci/setup does), then cargo build --release --features dpdk",
            ),
            Self::Network(source) => write!(
                f,
                "this process cannot have a network of its own ({source}): run it as root, or give \
                 --local memif"
            ),
            Self::Interface { line, said } => write!(f, "ip {line} failed: {said}"),
            Self::WithoutDpdk { flag } => {
                write!(f, "{flag} is for DPDK: give --driver dpdk too, or leave it out")
            }
            Self::Capture { path, source } => {
                let path = path.display();
                write!(f, "--pcap {path} cannot be written: {source}; give a file that can")
            }
            Self::Address { given } => write!(
                f,
                "DPDK's port cannot be {given}: give --bind an address of its network and a port, \
                 such as 10.0.0.1:7400"
            ),
        }
    }
}

impl std::error::Error for DriverError {}

impl From<UdpError> for DriverError {
    fn from(error: UdpError) -> Self {
        Self::Udp(error)
    }
}

impl From<OpenError> for DriverError {
    fn from(error: OpenError) -> Self {
        Self::Pool(error)
    }
}

#[cfg(feature = "dpdk")]
impl From<dmrpc_dpdk::DpdkError> for DriverError {
    fn from(error: dmrpc_dpdk::DpdkError) -> Self {
        Self::Dpdk(error)
    }
}

/// A driver that runs.
pub struct Driver {
    datagram_bytes: usize,
    #[cfg_attr(not(feature = "dpdk"), allow(dead_code, reason = "only DPDK's links are shared"))]
    endpoints: usize,
    pcap: Option<PathBuf>,
    pool: Option<(Arc<Pool>, Option<u32>)>,
    #[cfg(feature = "dpdk")]
    dpdk: Option<dpdk::Ports>,
}

impl Driver {
    /// Starts what the flags ask for: devices for datagrams of up to `datagram_bytes` bytes, for as
    /// many poll loops as `queues`.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn start(
        args: &DriverArgs,
        datagram_bytes: usize,
        queues: u16,
    ) -> Result<Self, DriverError> {
        match args.kind() {
            DriverKind::Cxl => {
                let path = args.pool.as_ref().ok_or(DriverError::PoolNeeded)?;
                let pool = open_pool(args, path)?;
                Ok(Self::of_pool(pool, args.participant).with_pcap(args.pcap.clone()))
            }
            DriverKind::Udp => match args.first_of_dpdk() {
                Some(flag) => Err(DriverError::WithoutDpdk { flag }),
                None => Ok(Self {
                    datagram_bytes,
                    endpoints: 1,
                    pcap: args.pcap.clone(),
                    pool: None,
                    #[cfg(feature = "dpdk")]
                    dpdk: None,
                }),
            },
            #[cfg(feature = "dpdk")]
            DriverKind::Dpdk => {
                let dpdk = Some(dpdk::Ports::open(args, datagram_bytes, queues)?);
                let pcap = args.pcap.clone();
                Ok(Self { datagram_bytes, endpoints: 1, pcap, pool: None, dpdk })
            }
            #[cfg(not(feature = "dpdk"))]
            DriverKind::Dpdk => {
                let _ = queues;
                Err(DriverError::NotBuilt)
            }
        }
    }

    /// A driver over the rings of a pool that is open: for any participant, or number `index`.
    pub fn of_pool(pool: Arc<Pool>, index: Option<u32>) -> Self {
        Self {
            datagram_bytes: pool.geometry().datagram_bytes as usize,
            endpoints: 1,
            pool: Some((pool, index)),
            pcap: None,
            #[cfg(feature = "dpdk")]
            dpdk: None,
        }
    }

    /// The same with a capture file, if there is to be one.
    pub fn with_pcap(self, pcap: Option<PathBuf>) -> Self {
        Self { pcap, ..self }
    }

    /// Tells the driver that the calling thread, not the one that started the driver, will poll a
    /// device.
    ///
    /// # Errors
    /// [`DriverError`]: there are too many threads.
    pub fn enter_thread(&self) -> Result<(), DriverError> {
        #[cfg(feature = "dpdk")]
        if let Some(ports) = &self.dpdk {
            ports.enter_thread()?;
        }
        Ok(())
    }

    /// Starts what the flags ask for, for as many endpoints of one program as `endpoints`. Over
    /// DPDK each has a link of its own, or several.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn start_for(
        args: &DriverArgs,
        datagram_bytes: usize,
        endpoints: usize,
    ) -> Result<Self, DriverError> {
        let driver = Self::start(args, datagram_bytes, 1)?;
        #[cfg(feature = "dpdk")]
        if let Some(ports) = &driver.dpdk {
            ports.share(endpoints)?;
        }
        Ok(Self { endpoints, ..driver })
    }

    /// Opens a device for the first endpoint that has none: at `bind`, or over DPDK for the second
    /// and further ones at the addresses after it.
    ///
    /// # Errors
    /// [`DriverError`]; all have one among them.
    pub fn endpoint(&self, bind: SocketAddrV4) -> Result<AnyDevice, DriverError> {
        #[cfg(feature = "dpdk")]
        if let (Some(ports), 2..) = (&self.dpdk, self.endpoints) {
            return Ok(AnyDevice::plain(ports.endpoint(self.endpoints, bind)?));
        }
        self.device(0, bind)
    }

    /// Opens the device of poll loop `queue` at `bind`.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn device(&self, queue: u16, bind: SocketAddrV4) -> Result<AnyDevice, DriverError> {
        #[cfg(feature = "dpdk")]
        if let Some(ports) = &self.dpdk {
            return self.captured(queue, ports.device(queue, bind)?);
        }
        if let Some((pool, index)) = &self.pool {
            let participant = attach(pool, *index).map_err(OpenError::from)?;
            return self.captured(queue, PoolDevice::new(Arc::clone(pool), participant)?);
        }
        let mut config = UdpConfig::at(bind);
        config.datagram_bytes_max = self.datagram_bytes;
        self.captured(queue, UdpDevice::open(config)?)
    }

    /// The device of poll loop `queue`, with a capture file if the flags ask for one.
    ///
    /// # Errors
    /// [`DriverError::Capture`].
    pub fn captured(
        &self,
        queue: u16,
        device: impl Into<Chosen>,
    ) -> Result<AnyDevice, DriverError> {
        let device = device.into();
        let Some(path) = self.capture(queue) else { return Ok(AnyDevice::Plain(device)) };
        let local = device.local_addr();
        let captured = Captured::new(device, local, &path);
        captured.map(AnyDevice::Captured).map_err(|source| DriverError::Capture { path, source })
    }

    /// The capture file of a poll loop: loops after the first have their number in its name.
    fn capture(&self, queue: u16) -> Option<PathBuf> {
        let path = self.pcap.clone()?;
        if queue == 0 {
            return Some(path);
        }
        let mut name = path.into_os_string();
        name.push(format!(".{queue}"));
        Some(name.into())
    }
}

/// The pool for a compute node's data where the flags have its calls go by a network, and the
/// node's place in it.
///
/// # Errors
/// [`DriverError`]: there is no such pool, or no place in it, or it is in flush mode.
pub fn data_pool(args: &DriverArgs) -> Result<Option<(Arc<Pool>, Participant)>, DriverError> {
    let Some(path) = args.pool.as_ref().filter(|_| args.kind() != DriverKind::Cxl) else {
        return Ok(None);
    };
    if args.coherence == Mode::Flush {
        return Err(DriverError::FlushByNetwork);
    }
    let pool = open_pool(args, path)?;
    let place = attach(&pool, args.participant).map_err(OpenError::from)?;
    Ok(Some((pool, place)))
}

/// The pool at `path` as a compute node uses it.
fn open_pool(args: &DriverArgs, path: &Path) -> Result<Arc<Pool>, OpenError> {
    let mut pool = Pool::open(Mapping::open(path)?, args.coherence)?;
    args.set_up(&mut pool);
    pool.protect();
    Ok(Arc::new(pool))
}

/// How long a memory node may take to recover the earlier user of a slot.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at whether it has.
const RECOVERY_LOOK: Duration = Duration::from_millis(2);

/// Becomes a participant. A number that is asked for may be that of one that is gone: its memory
/// node recovers what it held, and only then the slot is another's.
fn attach(pool: &Pool, index: Option<u32>) -> Result<Participant, AttachError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let incarnation = now.as_nanos() as u64;
    let Some(index) = index else { return pool.attach(None, incarnation) };
    let end = Instant::now() + RECOVERY_PATIENCE;
    loop {
        let attached = match pool.has_store() {
            true => pool.attach(Some(index), incarnation),
            // So nobody recovers anything.
            false => pool.take_over(index, incarnation),
        };
        match attached {
            Err(AttachError::Taken { gone: true, .. }) if Instant::now() < end => {
                std::thread::sleep(RECOVERY_LOOK);
            }
            done => return done,
        }
    }
}

#[cfg(feature = "dpdk")]
pub(crate) mod dpdk;

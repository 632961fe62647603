//! Why a memory node does not run.

use std::fmt;

use dmrpc_choice::DriverError;
use dmrpc_core::endpoint::ConfigError;
use dmrpc_core::store::FormatError;
use dmrpc_host::affinity::CoreError;
use dmrpc_host::cluster::ClusterError;
use dmrpc_host::key::KeyLoadError;
use dmrpc_host::log::LogError;
use dmrpc_host::signals::SignalError;
use dmrpc_host::size::ByteSize;

/// Why the memory node does not run.
#[derive(Debug)]
pub(crate) enum Error {
    Cluster(ClusterError),
    Cores(CoreError),
    OneCoreOnly(usize),
    Sessions(usize),
    Device(DriverError),
    Endpoint(ConfigError),
    PoolTooLarge { wanted: u64, available: u64 },
    PoolMap { bytes: u64, huge_pages: bool, source: std::io::Error },
    PoolFormat { bytes: u64, source: FormatError },
    Key(KeyLoadError),
    Random(std::io::Error),
    Signals(SignalError),
    Log(LogError),
    Thread(std::io::Error),
    Loop,
    LostHostIsHere(u64),
    HostNotLost { host: u64, participant: u32 },
}

impl Error {
    /// Whether the command line is to blame, not the machine.
    pub(crate) fn is_usage(&self) -> bool {
        if let Self::Device(error) = self {
            return error.is_usage();
        }
        matches!(
            self,
            Self::Cluster(_)
                | Self::Cores(_)
                | Self::OneCoreOnly(_)
                | Self::Sessions(_)
                | Self::LostHostIsHere(_)
                | Self::Endpoint(_)
                | Self::Key(_)
                | Self::PoolFormat { .. }
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(error) => error.fmt(f),
            Self::Cores(error) => error.fmt(f),
            Self::OneCoreOnly(count) => {
                write!(f, "--cores names {count} cores; over UDP a memory node uses one")
            }
            Self::Sessions(count) => {
                write!(f, "--sessions {count} is out of range; use 1 to 65536")
            }
            Self::Device(error) => error.fmt(f),
            Self::Endpoint(error) => error.fmt(f),
            Self::PoolTooLarge { wanted, available } => write!(
                f,
                "--pool-size {} does not fit: this machine has {} available",
                ByteSize(*wanted),
                ByteSize(available & !0xF_FFFF)
            ),
            Self::PoolMap { bytes, huge_pages: true, source } => write!(
                f,
                "cannot map {} of huge pages ({source}); reserve {} of them: \
                 echo N > /proc/sys/vm/nr_hugepages",
                ByteSize(*bytes),
                bytes.div_ceil(2 << 20)
            ),
            Self::PoolMap { bytes, source, .. } => {
                write!(f, "cannot map a pool of {}: {source}", ByteSize(*bytes))
            }
            Self::PoolFormat { bytes, source } => {
                write!(f, "--pool-size {} cannot be used: {source}", ByteSize(*bytes))
            }
            Self::Key(error) => error.fmt(f),
            Self::Random(error) => write!(f, "no random numbers from the system: {error}"),
            Self::Signals(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::LostHostIsHere(host) => write!(
                f,
                "--confirm-lost {host:x} is this host: the memory node sees here who is gone"
            ),
            Self::HostNotLost { host, participant } => write!(
                f,
                "participant {participant} of host {host:x} was heard of within the lease, or no \
                 memory node looks after the pool: nothing of it was given up"
            ),
            Self::Loop => f.write_str("a poll loop did not start"),
            Self::Thread(error) => write!(f, "the reporting thread could not be started: {error}"),
        }
    }
}

//! What can go wrong, in one line each.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use dmrpc_choice::DriverError;
use dmrpc_cn::{ConnectError, Error, OpenError, OperationError, Status};
use dmrpc_core::store::FormatError;
use dmrpc_host::affinity::CoreError;
use dmrpc_host::cluster::ClusterError;
use dmrpc_host::key::KeyLoadError;
use dmrpc_host::log::LogError;
use dmrpc_host::signals::SignalError;

/// Why the command failed.
#[derive(Debug)]
pub(crate) enum CliError {
    NoMemoryNode,
    OneCoreOnly { given: usize },
    Open(OpenError),
    Driver(DriverError),
    Cluster(ClusterError),
    Cores(CoreError),
    Key(KeyLoadError),
    Connect(ConnectError),
    Call(Error),
    Operation(OperationError),
    NoStatistics { address: SocketAddrV4, status: Status },
    Read { path: PathBuf, source: io::Error },
    NoFile { path: PathBuf },
    Empty { path: PathBuf },
    Write { path: PathBuf, source: io::Error },
    Output(io::Error),
    Range { offset: u64, length: u64, size: u64 },
    AnswerSize { given: u64, max: u64 },
    FewSlots { given: u16, min: u16 },
    Signals(SignalError),
    Log(LogError),
    Thread(io::Error),
    Store(FormatError),
}

impl CliError {
    /// Whether the command line is to blame, not the machine or the other end.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Open(error) => !matches!(error, OpenError::Udp(_) | OpenError::Random(_)),
            Self::Driver(error) => error.is_usage(),
            Self::Connect(ConnectError::NoAddress { .. })
            | Self::NoMemoryNode
            | Self::OneCoreOnly { .. }
            | Self::Cluster(_)
            | Self::Cores(_)
            | Self::Key(_)
            | Self::Range { .. }
            | Self::AnswerSize { .. }
            | Self::FewSlots { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemoryNode => f.write_str(
                "no memory node is named: give --memory-node IP:PORT, or --cluster FILE with one",
            ),
            Self::OneCoreOnly { given } => {
                write!(f, "--cores names {given} cores: a compute node over UDP uses one")
            }
            Self::Open(error) => error.fmt(f),
            Self::Driver(error) => error.fmt(f),
            Self::Cluster(error) => error.fmt(f),
            Self::Cores(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            Self::Call(error) => error.fmt(f),
            Self::Operation(error) => error.fmt(f),
            Self::NoStatistics { address, status } => write!(
                f,
                "{address} gives no statistics (status {}): give the address of a memory node",
                status.0
            ),
            Self::Read { path, source } => {
                write!(f, "file {} cannot be read: {source}", path.display())
            }
            Self::NoFile { path } => {
                write!(f, "{} is no regular file: give one that has an end", path.display())
            }
            Self::Empty { path } => {
                write!(f, "file {} is empty: give one of at least 1 byte", path.display())
            }
            Self::Write { path, source } => {
                write!(f, "file {} cannot be written: {source}", path.display())
            }
            Self::Output(error) => write!(f, "standard output cannot be written: {error}"),
            Self::Range { offset, length, size } => write!(
                f,
                "--offset {offset} and --length {length} reach past the end: the reference has \
                 {size} bytes"
            ),
            Self::AnswerSize { given, max } => {
                write!(f, "--answer-size {given} is not possible: give 1B to {max}B")
            }
            Self::FewSlots { given, min } => {
                write!(f, "--slots {given} are too few for --forward-to: give {min} to 64")
            }
            Self::Signals(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Store(error) => write!(f, "the pool's memory cannot be shared: {error}"),
            Self::Thread(error) => write!(f, "the reporting thread could not be started: {error}"),
        }
    }
}

/// Makes a variant of each error that it wraps.
macro_rules! from {
    ($($error:ty => $variant:ident),* $(,)?) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from! {
    OpenError => Open,
    DriverError => Driver,
    ClusterError => Cluster,
    CoreError => Cores,
    ConnectError => Connect,
    Error => Call,
    OperationError => Operation,
    SignalError => Signals,
    LogError => Log,
    FormatError => Store,
}

//! Why a program ends before it is done.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;

use dmrpc_choice::DriverError;
use dmrpc_cn::memory::Cause;
use dmrpc_cn::{ConnectError, Error, OpenError, OperationError};
use dmrpc_host::affinity::CoreError;
use dmrpc_host::cluster::ClusterError;
use dmrpc_host::key::KeyLoadError;
use dmrpc_host::local::LocalError;
use dmrpc_host::raw::RawError;
use dmrpc_host::signals::SignalError;

use crate::args::ArgsError;

/// Why a program ends before it is done.
#[derive(Debug)]
pub enum AppError {
    /// The store of a pool cannot be shared.
    Store(dmrpc_core::store::FormatError),
    /// The command line is wrong.
    Args(ArgsError),
    /// The cluster file is of no use.
    Cluster(ClusterError),
    /// Cores are not there.
    Cores(CoreError),
    /// The pre-shared key cannot be had.
    Key(KeyLoadError),
    /// The cluster has no process of the kind that the program needs among `--server-index`.
    NoServer {
        /// What is needed.
        needed: &'static str,
    },
    /// A program that is started as a child is not beside this one.
    NotBuilt {
        /// Where it should be.
        path: PathBuf,
        /// The package that it is built from.
        package: &'static str,
    },
    /// A child does not do what it should.
    Local(LocalError),
    /// A child refused to start.
    Refused {
        /// What it is called.
        name: String,
        /// Why, in its own words.
        line: String,
    },
    /// A child said that it is ready, but not where.
    BadReady {
        /// What it said.
        line: String,
    },
    /// Signals cannot be handled.
    Signal(SignalError),
    /// A socket cannot be bound.
    Bind {
        /// The address.
        address: SocketAddrV4,
        /// What the system says.
        source: io::Error,
    },
    /// A device cannot be opened.
    Device(DriverError),
    /// This program's node cannot be opened.
    Open(OpenError),
    /// There is no session with a server.
    Connect(ConnectError),
    /// A call failed.
    Call(Error),
    /// A memory operation failed.
    Operation(OperationError),
    /// An operation brought wrong bytes.
    WrongBytes {
        /// The operation.
        op: &'static str,
        /// How many bytes it should have brought.
        bytes: usize,
        /// The first that is wrong.
        at: usize,
    },
    /// Nothing ended for a long time.
    Stalled {
        /// Operations that had begun and not ended.
        in_flight: usize,
    },
    /// An operation that should have failed succeeded, or failed in another way.
    Unexpected {
        /// What was tried.
        what: &'static str,
        /// What should have happened.
        expected: String,
        /// What did.
        found: String,
    },
    /// The bare device cannot be measured.
    Raw(RawError),
    /// No pipe for a child's standard error.
    Pipe(io::Error),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl AppError {
    /// Exit code: 2 if the command line is to blame, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Args(_)
            | Self::Cluster(_)
            | Self::Cores(_)
            | Self::Key(_)
            | Self::NoServer { .. } => ExitCode::from(2),
            Self::Device(error) if error.is_usage() => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

impl AppError {
    /// Whether the reader of the results has gone away.
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether nothing was sent because the server has been silent for a while, as it is when the
    /// machine is busy with other things: to be tried again when it is heard of.
    pub fn is_suspicion(&self) -> bool {
        let error = match self {
            Self::Call(error) => error,
            Self::Operation(OperationError { cause: Cause::Call(error), .. }) => error,
            _ => return false,
        };
        matches!(error, Error::Suspected { .. })
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Args(error) => error.fmt(f),
            Self::Cluster(error) => error.fmt(f),
            Self::Cores(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::NoServer { needed } => {
                write!(f, "no {needed} among --server-index: name one of the cluster file")
            }
            Self::NotBuilt { path, package } => write!(
                f,
                "{} is not there: build it with cargo build -p {package} (with --release if this \
                 program is)",
                path.display()
            ),
            Self::Local(error) => error.fmt(f),
            Self::Refused { name, line } => write!(f, "{name} does not start: {line}"),
            Self::BadReady { line } => write!(
                f,
                "a child said '{line}' where 'ready IP:PORT' was expected: rebuild all programs"
            ),
            Self::Signal(error) => error.fmt(f),
            Self::Bind { address, source } => {
                write!(f, "binding UDP address {address} failed: {source}")
            }
            Self::Device(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            Self::Call(error) => error.fmt(f),
            Self::Operation(error) => error.fmt(f),
            Self::WrongBytes { op, bytes, at } => {
                write!(f, "{op} of {bytes} bytes brought wrong ones from byte {at} on")
            }
            Self::Stalled { in_flight } => write!(
                f,
                "no operation ended for 30 s, {in_flight} are in flight: the node lost track"
            ),
            Self::Unexpected { what, expected, found } => {
                write!(f, "{what}: expected {expected}, found {found}")
            }
            Self::Raw(error) => error.fmt(f),
            Self::Pipe(source) => write!(f, "making a pipe failed: {source}"),
            Self::Output(source) => write!(f, "standard output cannot be written: {source}"),
        }
    }
}

impl std::error::Error for AppError {}

/// One `From` for each error that is taken over as it is.
macro_rules! from {
    ($($variant:ident($error:ty)),* $(,)?) => {
        $(impl From<$error> for AppError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from! {
    Args(ArgsError),
    Cluster(ClusterError),
    Cores(CoreError),
    Key(KeyLoadError),
    Local(LocalError),
    Signal(SignalError),
    Device(DriverError),
    Raw(RawError),
    Open(OpenError),
    Connect(ConnectError),
    Call(Error),
    Operation(OperationError),
}

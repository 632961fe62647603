//! What can go wrong in the demo.

use std::fmt;
use std::io;
use std::path::PathBuf;

use dmrpc_choice::DriverError;
use dmrpc_cn::{ConnectError, OpenError, OperationError, Status};
use dmrpc_host::local::LocalError;
use dmrpc_host::signals::SignalError;

/// Why the demo failed.
#[derive(Debug)]
pub(crate) enum Error {
    ReadFile { path: PathBuf, source: io::Error },
    NoFile { path: PathBuf },
    EmptyFile { path: PathBuf },
    WriteFile { path: PathBuf, source: io::Error },
    Binary { name: &'static str, source: io::Error },
    Local(LocalError),
    ReadyLine(String),
    Signals(SignalError),
    Device(DriverError),
    OwnDriver,
    Open(OpenError),
    Connect(ConnectError),
    Call(dmrpc_cn::Error),
    Memory(OperationError),
    Answer(Status),
    MissingAddress(&'static str),
    Different { what: &'static str, first: usize },
}

impl Error {
    /// Whether the command line is to blame.
    pub(crate) fn is_usage(&self) -> bool {
        if let Self::Device(error) = self {
            return error.is_usage();
        }
        matches!(
            self,
            Self::OwnDriver
                | Self::ReadFile { .. }
                | Self::NoFile { .. }
                | Self::EmptyFile { .. }
                | Self::MissingAddress(_)
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadFile { path, source } => {
                write!(f, "--file {}: cannot be read: {source}", path.display())
            }
            Self::NoFile { path } => {
                write!(f, "--file {}: is no regular file; give one", path.display())
            }
            Self::EmptyFile { path } => {
                write!(f, "--file {}: is empty; give a file with contents", path.display())
            }
            Self::WriteFile { path, source } => {
                write!(f, "{}: cannot be written: {source}", path.display())
            }
            Self::Binary { name, source } => {
                write!(f, "{name} is not beside this program ({source}); build the workspace")
            }
            Self::Local(error) => error.fmt(f),
            Self::ReadyLine(line) => write!(f, "unexpected line from a child: {line:?}"),
            Self::Signals(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::OwnDriver => f.write_str(
                "the demo brings up a memory node and services of its own: give --local udp, cxl \
                 or veth instead of --driver or --pool",
            ),
            Self::Open(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            Self::Call(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Answer(status) => write!(f, "the forwarder answered with status {}", status.0),
            Self::MissingAddress(flag) => write!(f, "this role needs {flag} IP:PORT"),
            Self::Different { what, first } => {
                write!(f, "{what} is wrong from byte {first} on")
            }
        }
    }
}

macro_rules! from {
    ($($source:ty => $variant:ident),+ $(,)?) => {
        $(
            impl From<$source> for Error {
                fn from(error: $source) -> Self {
                    Self::$variant(error)
                }
            }
        )+
    };
}

from! {
    LocalError => Local,
    SignalError => Signals,
    DriverError => Device,
    OpenError => Open,
    ConnectError => Connect,
    dmrpc_cn::Error => Call,
    OperationError => Memory,
}

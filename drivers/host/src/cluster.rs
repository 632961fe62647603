//! The cluster file: which processes there are, and where.
//!
//! ```toml
//! [[process]]
//! name = "mn0"
//! role = "mn"
//! address = "127.0.0.1:7000"
//!
//! [[process]]
//! name = "producer"
//! role = "cn"
//! address = "127.0.0.1:7001"
//! core = 1                    # optional
//! ```
//!
//! With `encrypt = true` in front of the first process all of them encrypt their packets, as
//! `--encrypt` says for one.
//!
//! A process's index is its place in the file, from 0: `--server-index` and `--client-index` name
//! it.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

/// What a process of the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A memory node.
    MemoryNode,
    /// A compute node.
    ComputeNode,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryNode => "mn",
            Self::ComputeNode => "cn",
        })
    }
}

/// One process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its name, unique in the file.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Where its endpoint is, unique in the file.
    pub address: SocketAddrV4,
    /// The core it is to run on, if the file says so.
    pub core: Option<usize>,
}

/// The processes of a cluster, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    processes: Vec<Process>,
    encrypt: bool,
}

/// Why a cluster file is of no use.
#[derive(Debug)]
pub enum ClusterError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line of the file is wrong.
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, with the value, and what would be right.
        reason: String,
    },
    /// The file names no process.
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No process has the index.
    NoSuchIndex {
        /// The index asked for.
        index: usize,
        /// How many processes there are.
        count: usize,
    },
    /// The process with the index has another role.
    WrongRole {
        /// The index asked for.
        index: usize,
        /// The process's name.
        name: String,
        /// The role wanted.
        wanted: Role,
    },
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => {
                write!(f, "cluster file {} cannot be read: {source}", path.display())
            }
            Self::Line { path, line, reason } => {
                write!(f, "cluster file {}, line {line}: {reason}", path.display())
            }
            Self::Empty { path } => write!(
                f,
                "cluster file {} names no process: give at least one [[process]] table",
                path.display()
            ),
            Self::NoSuchIndex { index, count } => write!(
                f,
                "no process has index {index}: the cluster file names {count}, give 0 to {}",
                count.saturating_sub(1)
            ),
            Self::WrongRole { index, name, wanted } => write!(
                f,
                "process {index} of the cluster file, '{name}', is no {wanted}: give the index of \
                 a process with role {wanted}"
            ),
        }
    }
}

impl std::error::Error for ClusterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    #[serde(default)]
    encrypt: bool,
    #[serde(default)]
    process: Vec<Spanned<RawProcess>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProcess {
    name: Spanned<String>,
    role: Spanned<String>,
    address: Spanned<String>,
    core: Option<Spanned<i64>>,
}

/// What is wrong, and where in the text.
type Fault = (Range<usize>, String);

impl RawProcess {
    fn check(self) -> Result<Process, Fault> {
        let fault = |span: Range<usize>, reason: String| Err((span, reason));
        let role = match self.role.get_ref().as_str() {
            "mn" => Role::MemoryNode,
            "cn" => Role::ComputeNode,
            other => return fault(self.role.span(), format!("role '{other}' is not mn or cn")),
        };
        let address = match self.address.get_ref().parse::<SocketAddrV4>() {
            Ok(address) if address.port() != 0 => address,
            _ => {
                let text = self.address.get_ref();
                let reason = format!(
                    "address '{text}' is not an IPv4 address and a port, such as 127.0.0.1:7000"
                );
                return fault(self.address.span(), reason);
            }
        };
        let core = match self.core {
            None => None,
            Some(core) => match usize::try_from(*core.get_ref()) {
                Ok(number) => Some(number),
                Err(_) => {
                    let reason = format!("core {} is not a core: give 0 or more", core.get_ref());
                    return fault(core.span(), reason);
                }
            },
        };
        if self.name.get_ref().is_empty() {
            return fault(self.name.span(), "a name is empty: give each process one".to_owned());
        }
        Ok(Process { name: self.name.into_inner(), role, address, core })
    }
}

impl Cluster {
    /// Reads the cluster file at `path`.
    ///
    /// # Errors
    /// [`ClusterError`], with the line and the value that is wrong.
    pub fn load(path: &Path) -> Result<Self, ClusterError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ClusterError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a cluster file's text; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Cluster::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ClusterError> {
        let line = |(span, reason): Fault| {
            let start = span.start.min(text.len());
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            ClusterError::Line { path: path.to_owned(), line, reason }
        };
        let raw: RawCluster = toml::from_str(text).map_err(|error| {
            line((error.span().unwrap_or_default(), error.message().to_owned()))
        })?;
        let mut processes: Vec<Process> = Vec::new();
        for table in raw.process {
            let raw = table.into_inner();
            let (name_span, address_span) = (raw.name.span(), raw.address.span());
            let process = raw.check().map_err(line)?;
            for earlier in &processes {
                if earlier.name == process.name {
                    let reason = format!("name '{}' is taken by another process", process.name);
                    return Err(line((name_span, reason)));
                }
                if earlier.address == process.address {
                    let reason =
                        format!("address {} is taken by '{}'", process.address, earlier.name);
                    return Err(line((address_span, reason)));
                }
            }
            processes.push(process);
        }
        if processes.is_empty() {
            return Err(ClusterError::Empty { path: path.to_owned() });
        }
        Ok(Self { processes, encrypt: raw.encrypt })
    }

    /// Whether all of them encrypt their packets.
    pub fn encrypts(&self) -> bool {
        self.encrypt
    }

    /// All processes, in the order of the file.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The process with index `index`, which must have role `role`.
    ///
    /// # Errors
    /// [`ClusterError::NoSuchIndex`] or [`ClusterError::WrongRole`].
    pub fn select(&self, index: usize, role: Role) -> Result<&Process, ClusterError> {
        let count = self.processes.len();
        let process =
            self.processes.get(index).ok_or(ClusterError::NoSuchIndex { index, count })?;
        if process.role != role {
            let name = process.name.clone();
            return Err(ClusterError::WrongRole { index, name, wanted: role });
        }
        Ok(process)
    }

    /// The process called `name`.
    pub fn by_name(&self, name: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.name == name)
    }

    /// The processes with role `role`, in the order of the file.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.role == role)
    }
}

#[cfg(test)]
mod tests;

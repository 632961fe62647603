//! A node's configuration from what surrounds its process: the cluster file and the environment.

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use dmrpc_host::cluster::{Cluster, ClusterError, Role};
use dmrpc_host::key::{self, KeyLoadError};

use crate::config::NodeConfig;

/// The variable that names the file with the pre-shared key.
const KEY_FILE_VARIABLE: &str = "DMRPC_KEY_FILE";
/// The variable that says whether packets are encrypted.
const ENCRYPT_VARIABLE: &str = "DMRPC_ENCRYPT";

impl NodeConfig {
    /// The defaults, with what the environment says: the pre-shared key in the file that
    /// `DMRPC_KEY_FILE` names, or else in `DMRPC_KEY` itself, and whether packets are encrypted
    /// (`DMRPC_ENCRYPT`, `true` or `false`). The programs of this project read the same variables.
    ///
    /// # Errors
    /// [`SetupError`]: a key that cannot be read or is too short, or a value that is neither.
    pub fn from_environment() -> Result<Self, SetupError> {
        let bind = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        Self::at(bind).surrounded_by(std::env::var_os)
    }

    /// That of process `index` of a cluster file, which must be a compute node: its address, and
    /// whether the cluster encrypts; else as [`NodeConfig::from_environment`].
    ///
    /// # Errors
    /// [`SetupError`]: also if the file has no such compute node.
    pub fn of_cluster(cluster: &Cluster, index: usize) -> Result<Self, SetupError> {
        let process = cluster.select(index, Role::ComputeNode).map_err(SetupError::Cluster)?;
        let config = Self::at(process.address).surrounded_by(std::env::var_os)?;
        Ok(Self { encrypt: config.encrypt || cluster.encrypts(), ..config })
    }

    fn surrounded_by(
        self,
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, SetupError> {
        let file = variable(KEY_FILE_VARIABLE);
        let key = key::load(file.as_deref().map(Path::new)).map_err(SetupError::Key)?;
        let encrypt = match variable(ENCRYPT_VARIABLE) {
            None => self.encrypt,
            Some(value) if value == "true" => true,
            Some(value) if value == "false" => false,
            Some(given) => return Err(SetupError::Encrypt { given }),
        };
        Ok(Self { key, encrypt, ..self })
    }
}

/// Why the surroundings make no configuration.
#[derive(Debug)]
pub enum SetupError {
    /// The cluster file cannot be used so.
    Cluster(ClusterError),
    /// The key cannot be used.
    Key(KeyLoadError),
    /// `DMRPC_ENCRYPT` is neither `true` nor `false`.
    Encrypt {
        /// What it is.
        given: OsString,
    },
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::Encrypt { given } => {
                write!(f, "{ENCRYPT_VARIABLE} is '{}': give true or false", given.display())
            }
        }
    }
}

impl std::error::Error for SetupError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn surrounded(encrypt: Option<&str>, file: Option<&Path>) -> Result<NodeConfig, SetupError> {
        NodeConfig::default().surrounded_by(|name| match name {
            ENCRYPT_VARIABLE => encrypt.map(OsString::from),
            KEY_FILE_VARIABLE => file.map(|path| path.as_os_str().to_owned()),
            other => panic!("asked for {other}"),
        })
    }

    #[test]
    fn the_environment_is_read_and_wrong_values_are_named() {
        assert!(!surrounded(None, None).expect("nothing set").encrypt);
        assert!(surrounded(Some("true"), None).expect("right").encrypt);
        let text = surrounded(Some("yes"), None).expect_err("neither").to_string();
        assert_eq!(text, "DMRPC_ENCRYPT is 'yes': give true or false");
        let path = std::env::temp_dir().join(format!("dmrpc-setup-{}", std::process::id()));
        std::fs::write(&path, "sixteen bytes and more\n").expect("a file");
        let config = surrounded(None, Some(&path));
        std::fs::remove_file(&path).expect("it is there");
        assert!(config.expect("a key").key.is_some());
        let text = surrounded(None, Some(&path)).expect_err("it is gone").to_string();
        assert!(text.contains("cannot be read"), "{text}");
    }

    #[test]
    fn a_process_of_a_cluster_is_told_where_it_is() {
        let process = |role: &str, port| {
            let address = format!("address = '127.0.0.1:{port}'");
            format!("[[process]]\nname = '{role}'\nrole = '{role}'\n{address}\n")
        };
        let text = format!("encrypt = true\n{}{}", process("mn", 1), process("cn", 2));
        let cluster = Cluster::parse(&text, Path::new("x")).expect("right");
        let config = NodeConfig::of_cluster(&cluster, 1).expect("a compute node");
        assert!(config.encrypt);
        assert_eq!(config.bind.port(), 2);
        assert!(matches!(NodeConfig::of_cluster(&cluster, 0), Err(SetupError::Cluster(_))));
    }
}

//! Where a memory node is in its cluster.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_choice::DriverKind;
use dmrpc_host::cluster::{Cluster, Role};

use crate::error::Error;
use crate::options::Options;

/// Where a memory node serves if nothing says otherwise.
const SERVE_AT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7400);

/// Where this memory node is in its cluster.
pub(crate) struct Place {
    pub(crate) address: SocketAddrV4,
    /// The cores to run on, one poll loop on each; none to run wherever the system likes.
    pub(crate) cores: Vec<usize>,
    pub(crate) memory_node: u32,
    /// Whether its packets are encrypted.
    pub(crate) encrypt: bool,
}

impl Place {
    /// From the command line and the cluster file.
    pub(crate) fn of(options: &Options) -> Result<Self, Error> {
        let address = options.bind.unwrap_or(SERVE_AT);
        let mut place = Self {
            address,
            cores: Vec::new(),
            memory_node: options.memory_node,
            encrypt: options.encrypt,
        };
        if let (Some(path), Some(index)) = (&options.cluster, options.server_index) {
            let cluster = Cluster::load(path).map_err(Error::Cluster)?;
            let process = cluster.select(index, Role::MemoryNode).map_err(Error::Cluster)?;
            place.address = options.bind.unwrap_or(process.address);
            place.cores = process.core.into_iter().collect();
            let before = cluster.processes()[..index].iter();
            let before = before.filter(|process| process.role == Role::MemoryNode).count();
            place.memory_node = before as u32;
            place.encrypt |= cluster.encrypts();
        }
        if let Some(list) = &options.cores {
            list.check().map_err(Error::Cores)?;
            place.cores = list.cores().to_vec();
            // The kernel would give all that comes for an address to one of several sockets.
            if place.cores.len() > 1 && options.driver.kind() != DriverKind::Dpdk {
                return Err(Error::OneCoreOnly(place.cores.len()));
            }
        }
        Ok(place)
    }
}

//! From the command line to what it asks for.

mod commands;
mod error;
pub(crate) mod options;
mod report;
mod serve;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use dmrpc_choice::{AnyDevice, Driver, DriverKind};
use dmrpc_cn::{BufferClass, Node, NodeConfig};
use dmrpc_host::affinity::pin_to_core;
use dmrpc_host::cluster::{Cluster, Role};
use dmrpc_host::key;

use error::CliError;
use options::{Command, Options};

/// Where `serve` binds if nothing says otherwise.
const SERVE_AT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7500);
/// Where the others do: any port, any way out.
const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// Does what the command line asks for.
pub(crate) fn run(options: &Options) -> Result<(), CliError> {
    let place = Place::of(options)?;
    match &options.command {
        Command::Serve(serve) => serve::run(options, serve, &place),
        command => commands::run(options, command, &place),
    }
}

/// What the command line and the cluster file say about where things are.
pub(crate) struct Place {
    bind: SocketAddrV4,
    core: Option<usize>,
    memory_node: Option<SocketAddrV4>,
    cluster: Option<Cluster>,
}

impl Place {
    fn of(options: &Options) -> Result<Self, CliError> {
        let serves = matches!(options.command, Command::Serve(_));
        let default = if serves { SERVE_AT } else { ANYWHERE };
        let mut place = Self {
            bind: options.bind.unwrap_or(default),
            core: None,
            memory_node: options.memory_node,
            cluster: None,
        };
        if options.driver.kind() == DriverKind::Cxl && place.memory_node.is_none() {
            // The pool's first participant.
            place.memory_node = Some(dmrpc_cxl::device::address_of(0));
        }
        if let Some(path) = &options.cluster {
            let cluster = Cluster::load(path)?;
            if let Some(index) = options.client_index {
                let process = cluster.select(index, Role::ComputeNode)?;
                place.core = process.core;
                place.bind = options.bind.unwrap_or(process.address);
            }
            let server = match options.server_index {
                Some(index) => Some(cluster.select(index, Role::MemoryNode)?),
                None => cluster.with_role(Role::MemoryNode).next(),
            };
            place.memory_node = place.memory_node.or(server.map(|process| process.address));
            place.cluster = Some(cluster);
        }
        if let Some(list) = &options.cores {
            list.check()?;
            match list.cores() {
                [core] => place.core = Some(*core),
                cores => return Err(CliError::OneCoreOnly { given: cores.len() }),
            }
        }
        Ok(place)
    }

    /// Pins the calling thread, if it is to be.
    fn pin(&self) -> Result<(), CliError> {
        self.core.map_or(Ok(()), |core| Ok(pin_to_core(core)?))
    }
}

/// How the node of this process is set up.
pub(crate) fn node_config(options: &Options, place: &Place) -> Result<NodeConfig, CliError> {
    let config = NodeConfig::at(place.bind);
    Ok(NodeConfig {
        key: key::load(options.key_file.as_deref()).map_err(CliError::Key)?,
        encrypt: options.encrypt || place.cluster.as_ref().is_some_and(Cluster::encrypts),
        datagram_bytes: datagram_bytes(options),
        idle: options.idle,
        payload_check: !options.no_payload_check,
        congestion: options.congestion,
        deadline: options.deadline.0,
        ..config
    })
}

/// The largest datagram, in bytes.
fn datagram_bytes(options: &Options) -> usize {
    options.datagram_size.map_or(options.driver.datagram_bytes(), |size| size.as_usize())
}

/// Opens a node over the driver that the command line chooses.
pub(crate) fn open(options: &Options, config: &NodeConfig) -> Result<Node<AnyDevice>, CliError> {
    let driver = Driver::start(&options.driver, config.datagram_bytes, 1)?;
    let device = driver.device(0, config.bind)?;
    let local = device.local_addr();
    let pool = device.pool().map(|(pool, index)| (Arc::clone(pool), index));
    let node = Node::new(device, local, config)?;
    if let Some((pool, index)) = pool {
        // A pool without a store may still carry calls.
        if pool.has_store() {
            node.share_pool(&pool, index)?;
        }
    }
    Ok(node)
}

/// The same for a node that makes a few calls and ends.
pub(crate) fn client_config(options: &Options, place: &Place) -> Result<NodeConfig, CliError> {
    // Blocking calls need no buffers.
    let buffers = [BufferClass { count: 1, bytes: 4096 }; 3];
    let config = node_config(options, place)?;
    Ok(NodeConfig {
        client_sessions: 4,
        server_sessions: 1,
        calls: 16,
        tasks: 1,
        buffers,
        ..config
    })
}

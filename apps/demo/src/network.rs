//! What joins the demo's processes: the driver that the command line asks for.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command;

use clap::ValueEnum;
use dmrpc_choice::{AnyDevice, Driver, DriverArgs, DriverKind, LinkKind, LocalLinks, local_links};
use dmrpc_cn::{Duration, NodeConfig};
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::metered::Metered;

use crate::error::Error;
use crate::traffic::MeteredNode;

/// A port of the kernel's choice.
pub(crate) const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// What the processes may be joined by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Local {
    /// UDP on loopback.
    Udp,
    /// A pool of shared memory that all map.
    Cxl,
    /// DPDK on a bridge of the kernel's, each process a host of its own; needs root.
    Veth,
}

/// A pool's file, gone with this program.
pub(crate) struct PoolFile(PathBuf);

impl Drop for PoolFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What joins the processes.
pub(crate) enum Network {
    Udp(DriverArgs),
    Pool(DriverArgs, PoolFile),
    Links(Box<dyn LocalLinks>),
}

impl Network {
    /// Makes ready for children. To be called before the first one is started.
    pub(crate) fn new(local: Local, args: &DriverArgs) -> Result<Self, Error> {
        if args.driver.is_some() || args.pool.is_some() {
            return Err(Error::OwnDriver);
        }
        Ok(match local {
            Local::Udp => {
                // What is wrong with the flags is told before anybody is started.
                Driver::start(args, args.datagram_bytes(), 1)?;
                Self::Udp(args.clone())
            }
            Local::Cxl => {
                let path = PathBuf::from(format!("/dev/shm/dmrpc-demo-{}", std::process::id()));
                let args = DriverArgs { pool: Some(path.clone()), ..args.clone() };
                Self::Pool(args, PoolFile(path))
            }
            Local::Veth => {
                let args = DriverArgs { driver: Some(DriverKind::Dpdk), ..args.clone() };
                Self::Links(local_links(LinkKind::Veth, &args, args.datagram_bytes())?)
            }
        })
    }

    /// Adds to `command` what child `child` is to be started with, and where.
    pub(crate) fn settle(&self, child: usize, command: &mut Command) -> Result<(), Error> {
        match self {
            Self::Udp(_) => {
                command.args(["--bind", &ANYWHERE.to_string()]);
            }
            Self::Pool(args, PoolFile(path)) => {
                command.arg("--pool").arg(path);
                command.args(["--coherence", &args.coherence.to_string()]);
                if let Some(nanos) = args.cxl_latency_ns {
                    command.args(["--cxl-latency-ns", &nanos.to_string()]);
                }
            }
            Self::Links(links) => {
                command.args(links.flags(child, 1)?);
                links.settle(child, command);
            }
        }
        Ok(())
    }

    /// Opens this program's own node, which reaches the first `children` children.
    pub(crate) fn node(&self, children: usize) -> Result<MeteredNode, Error> {
        match self {
            Self::Udp(args) | Self::Pool(args, _) => open_node(args, ANYWHERE),
            Self::Links(links) => {
                let children: Vec<usize> = (0..children).collect();
                node_on(links.device(&children)?, dmrpc_choice::DPDK_DATAGRAM_BYTES)
            }
        }
    }
}

/// Opens a node at `bind`, where the driver leaves that open.
pub(crate) fn open_node(args: &DriverArgs, bind: SocketAddrV4) -> Result<MeteredNode, Error> {
    let driver = Driver::start(args, args.datagram_bytes(), 1)?;
    node_on(driver.device(0, bind)?, args.datagram_bytes())
}

fn node_on(device: AnyDevice, datagram_bytes: usize) -> Result<MeteredNode, Error> {
    let local = device.local_addr();
    let config = NodeConfig {
        // Four processes share the machine's cores.
        idle: IdleStrategy::Sleep,
        deadline: Duration::from_secs(10),
        datagram_bytes,
        ..NodeConfig::at(local)
    };
    Ok(MeteredNode::new(Metered::new(device), local, &config)?)
}

//! Links to children on this machine: what `--local memif` and `--local veth` bring up.
//!
//! A link of `net_memif` is point to point, so there is one for each child and endpoint of ours.
//! The children listen, on sockets in a folder that only this user may enter; once all links are
//! up nobody needs the sockets any more, and the folder goes.
//!
//! With veths every process and endpoint is a host in a network namespace of its own, all joined by
//! a bridge in another one. The kernel takes them down with the last process in them.

#[cfg(feature = "dpdk")]
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

#[cfg(feature = "dpdk")]
use dmrpc_dpdk::DpdkDevice;

use crate::args::DriverArgs;
use crate::device::AnyDevice;
use crate::driver::DriverError;

#[cfg(feature = "dpdk")]
mod memif;

#[cfg(feature = "dpdk")]
mod veth;

/// The port where children serve.
#[cfg(feature = "dpdk")]
const PORT: u16 = 7400;

/// What links are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Memory shared by two processes.
    Memif,
    /// Kernel interfaces on a bridge, in a network of their own.
    Veth,
}

/// Links to children on this machine.
pub trait LocalLinks {
    /// Makes ready for child `child`, which gets a link to each of our first `endpoints` endpoints,
    /// and returns the flags that it is to be started with.
    ///
    /// # Errors
    /// [`DriverError`]: an interface cannot be made.
    fn flags(&self, child: usize, endpoints: usize) -> Result<Vec<String>, DriverError>;

    /// Has the process of `command` start where child `child` is to be, for which flags were made.
    fn settle(&self, _child: usize, _command: &mut Command) {}

    /// Connects the first `endpoints` endpoints of ours to child `child`, which serves.
    ///
    /// # Errors
    /// [`DriverError`]: DPDK refuses, or the child does not answer.
    fn connect(&mut self, _child: usize, _endpoints: usize) -> Result<(), DriverError> {
        Ok(())
    }

    /// Removes what is needed for connecting only: no further child will be.
    fn seal(&mut self) {}

    /// Opens a device for one of our endpoints that is free, with links to `children`.
    ///
    /// # Errors
    /// [`DriverError`]: none is free, or none can be made.
    fn device(&self, children: &[usize]) -> Result<AnyDevice, DriverError>;
}

/// Starts DPDK in this process; links come one by one. To be called before the first child is
/// started: those of [`LinkKind::Veth`] have to be in the same network.
///
/// # Errors
/// [`DriverError`]: no DPDK, no huge pages, no temporary folder, no network of one's own.
#[cfg(feature = "dpdk")]
pub fn local_links(
    kind: LinkKind,
    args: &DriverArgs,
    datagram_bytes: usize,
) -> Result<Box<dyn LocalLinks>, DriverError> {
    Ok(match kind {
        LinkKind::Memif => Box::new(memif::MemifLinks::start(args, datagram_bytes)?),
        LinkKind::Veth => Box::new(veth::VethLinks::start(args, datagram_bytes)?),
    })
}

/// Says that this program was built without DPDK.
///
/// # Errors
/// [`DriverError::NotBuilt`].
#[cfg(not(feature = "dpdk"))]
pub fn local_links(
    _: LinkKind,
    _: &DriverArgs,
    _: usize,
) -> Result<Box<dyn LocalLinks>, DriverError> {
    Err(DriverError::NotBuilt)
}

/// The address where child `child` serves.
#[cfg(feature = "dpdk")]
fn child_address(child: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 87, 2, child as u8 + 1), PORT)
}

/// The address of endpoint `endpoint` of ours.
#[cfg(feature = "dpdk")]
fn endpoint_address(endpoint: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 87, 1, endpoint as u8 + 1)
}

/// The hardware address of who has an IP address: locally administered, and made of it.
#[cfg(feature = "dpdk")]
fn hardware(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [2, 0, a, b, c, d]
}

/// A hardware address as `ip` and DPDK write it.
#[cfg(feature = "dpdk")]
fn hardware_text(ip: Ipv4Addr) -> String {
    hardware(ip).map(|byte| format!("{byte:02x}")).join(":")
}

/// The flags that choose DPDK for child `child`, with these virtual devices.
#[cfg(feature = "dpdk")]
fn child_flags(child: usize, args: &DriverArgs, vdevs: &[String]) -> Vec<String> {
    let bind = child_address(child).to_string();
    let mut flags: Vec<String> =
        ["--driver", "dpdk", "--prefix-bits", "16", "--bind", &bind].map(str::to_owned).to_vec();
    for vdev in vdevs {
        flags.extend(["--dpdk-vdev", vdev].map(str::to_owned));
    }
    flags.extend(["--zero-copy-transmit", args.zero_copy_transmit.name()].map(str::to_owned));
    if args.dpdk_no_huge {
        let memory = args.dpdk_memory.to_string();
        flags.extend(["--dpdk-no-huge", "--dpdk-memory", &memory].map(str::to_owned));
    }
    flags
}

/// A device that knows where these children are.
#[cfg(feature = "dpdk")]
fn acquainted(device: DpdkDevice, children: &[usize]) -> AnyDevice {
    for &child in children {
        let ip = *child_address(child).ip();
        device.learn(ip, hardware(ip));
    }
    AnyDevice::plain(device)
}

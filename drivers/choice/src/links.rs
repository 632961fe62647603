//! Links of `net_memif` to children on this machine: what `--local memif` brings up.
//!
//! A link is point to point, so there is one for each child and endpoint of ours. The children
//! listen, on sockets in a folder that only this user may enter; once all links are up nobody needs
//! the sockets any more, and the folder goes.

#[cfg(not(feature = "dpdk"))]
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::args::DriverArgs;
use crate::device::AnyDevice;
use crate::driver::DriverError;

#[cfg(feature = "dpdk")]
mod memif;

/// The port where children serve.
const PORT: u16 = 7400;

/// Links of `net_memif` to children on this machine.
pub struct LocalLinks {
    #[cfg(feature = "dpdk")]
    links: memif::Links,
    #[cfg(not(feature = "dpdk"))]
    links: Infallible,
}

/// The address where child `child` serves.
pub(crate) fn child_address(child: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 87, 2, child as u8 + 1), PORT)
}

#[cfg(feature = "dpdk")]
impl LocalLinks {
    /// Starts DPDK in this process; links come one by one.
    ///
    /// # Errors
    /// [`DriverError`]: no DPDK, no huge pages, no temporary folder.
    pub fn start(args: &DriverArgs, datagram_bytes: usize) -> Result<Self, DriverError> {
        Ok(Self { links: memif::Links::start(args, datagram_bytes)? })
    }

    /// The flags that child `child` is started with, which has a link to each of our first
    /// `endpoints` endpoints.
    pub fn flags(&self, child: usize, endpoints: usize) -> Vec<String> {
        self.links.flags(child, endpoints)
    }

    /// Connects the first `endpoints` endpoints of ours to child `child`, which serves.
    ///
    /// # Errors
    /// [`DriverError`]: DPDK refuses, or the child does not answer.
    pub fn connect(&mut self, child: usize, endpoints: usize) -> Result<(), DriverError> {
        self.links.connect(child, endpoints)
    }

    /// Removes the sockets: no further child will be connected.
    pub fn seal(&mut self) {
        self.links.seal();
    }

    /// Opens a device for one of our endpoints that is free, with links to `children`.
    ///
    /// # Errors
    /// [`DriverError`]: none is free.
    pub fn device(&self, children: &[usize]) -> Result<AnyDevice, DriverError> {
        Ok(AnyDevice::Dpdk(self.links.device(children)?))
    }
}

#[cfg(not(feature = "dpdk"))]
impl LocalLinks {
    /// Says that this program was built without DPDK.
    ///
    /// # Errors
    /// [`DriverError::NotBuilt`].
    pub fn start(_: &DriverArgs, _: usize) -> Result<Self, DriverError> {
        Err(DriverError::NotBuilt)
    }

    /// Never called: there are no links without DPDK.
    pub fn flags(&self, _: usize, _: usize) -> Vec<String> {
        match self.links {}
    }

    /// Never called: there are no links without DPDK.
    ///
    /// # Errors
    /// None.
    pub fn connect(&mut self, _: usize, _: usize) -> Result<(), DriverError> {
        match self.links {}
    }

    /// Never called: there are no links without DPDK.
    pub fn seal(&mut self) {
        match self.links {}
    }

    /// Never called: there are no links without DPDK.
    ///
    /// # Errors
    /// None.
    pub fn device(&self, _: &[usize]) -> Result<AnyDevice, DriverError> {
        match self.links {}
    }
}

impl LocalLinks {
    /// The address where child `child` serves.
    pub fn child_address(&self, child: usize) -> SocketAddrV4 {
        child_address(child)
    }
}

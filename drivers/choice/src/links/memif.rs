//! The links themselves.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dmrpc_core::wire::ethernet::HEADERS_BYTES;
use dmrpc_dpdk::{DpdkError, Eal, Port, PortConfig};

use super::{LocalLinks, acquainted, child_address, child_flags, endpoint_address, hardware_text};
use crate::args::DriverArgs;
use crate::device::AnyDevice;
use crate::driver::{DriverError, dpdk};

/// How long a child that serves may take to answer a link.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);
/// Buffers of memif's are so long unless frames are longer, in bytes.
const BUFFER_BYTES: usize = 2048;

/// A folder that only this user may enter, removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("dmrpc-local-{}", std::process::id()));
        // One of a dead process with our number.
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A link of ours.
struct Link {
    child: usize,
    endpoint: usize,
    port: Arc<Port>,
}

/// All links, and how further ones are made.
pub(super) struct MemifLinks {
    links: Vec<Link>,
    eal: Eal,
    folder: Option<Folder>,
    frame_bytes_max: usize,
    args: DriverArgs,
}

/// A virtual device at one end of a link.
fn vdev(number: usize, role: &str, socket: &Path, ip: Ipv4Addr, frame_bytes_max: usize) -> String {
    let mac = hardware_text(ip);
    let mut text = format!(
        "net_memif{number},role={role},id=0,socket={},socket-abstract=no,mac={mac}",
        socket.display()
    );
    if frame_bytes_max > BUFFER_BYTES {
        text += &format!(",bsize={}", frame_bytes_max.next_multiple_of(64));
    }
    text
}

impl MemifLinks {
    pub(super) fn start(args: &DriverArgs, datagram_bytes: usize) -> Result<Self, DriverError> {
        let folder = Folder::new().map_err(|source| DpdkError::Port {
            port: std::env::temp_dir().display().to_string(),
            doing: "making a folder for sockets in",
            source,
            said: String::new(),
        })?;
        Ok(Self {
            links: Vec::new(),
            eal: Eal::start(&dpdk::eal_config(args))?,
            folder: Some(folder),
            frame_bytes_max: datagram_bytes + HEADERS_BYTES,
            args: args.clone(),
        })
    }

    fn socket(&self, child: usize, endpoint: usize) -> PathBuf {
        let folder = self.folder.as_ref().expect("children come before the links are sealed");
        folder.0.join(format!("{child}-{endpoint}"))
    }
}

impl LocalLinks for MemifLinks {
    fn flags(&self, child: usize, endpoints: usize) -> Result<Vec<String>, DriverError> {
        let ip = *child_address(child).ip();
        let vdevs: Vec<String> = (0..endpoints)
            .map(|endpoint| {
                let socket = self.socket(child, endpoint);
                vdev(endpoint, "server", &socket, ip, self.frame_bytes_max)
            })
            .collect();
        Ok(child_flags(child, &self.args, &vdevs))
    }

    fn connect(&mut self, child: usize, endpoints: usize) -> Result<(), DriverError> {
        let config = PortConfig {
            frame_bytes_max: self.frame_bytes_max,
            link_timeout: Some(LINK_TIMEOUT),
            zero_copy_transmit: dpdk::zero_copy_transmit(&self.args),
            ..PortConfig::default()
        };
        for endpoint in 0..endpoints {
            let (socket, ip) = (self.socket(child, endpoint), endpoint_address(endpoint));
            let text = vdev(self.links.len(), "client", &socket, ip, self.frame_bytes_max);
            let name = self.eal.add_vdev(&text)?;
            let port = Port::open(&self.eal, &name, &config)?;
            self.links.push(Link { child, endpoint, port });
        }
        Ok(())
    }

    fn seal(&mut self) {
        self.folder = None;
    }

    fn device(&self, children: &[usize]) -> Result<AnyDevice, DriverError> {
        let wanted: Vec<&Link> =
            self.links.iter().filter(|link| children.contains(&link.child)).collect();
        let endpoints = wanted.iter().map(|link| link.endpoint).max().map_or(0, |most| most + 1);
        let mut refused = DriverError::from(DpdkError::NoPorts);
        for endpoint in 0..endpoints {
            let ours = wanted.iter().filter(|link| link.endpoint == endpoint);
            match ours.map(|link| link.port.queue(0)).collect::<Result<Vec<_>, _>>() {
                Ok(pairs) => {
                    let bind = SocketAddrV4::new(endpoint_address(endpoint), 0);
                    return Ok(acquainted(dpdk::open(pairs, bind, 16, None)?, children));
                }
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }
}

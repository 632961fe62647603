//! Hosts on a bridge, each in a network namespace of its own.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::Arc;

use dmrpc_core::wire::ethernet::HEADERS_BYTES;
use dmrpc_dpdk::{Eal, Port, PortConfig};
use dmrpc_host::network::{Network, own_network};

use super::{LocalLinks, acquainted, child_address, child_flags, endpoint_address, hardware_text};
use crate::args::DriverArgs;
use crate::device::AnyDevice;
use crate::driver::{DriverError, dpdk};

/// The bridge and the hosts on it.
///
/// Each host is alone in its namespace with its end of a veth, as if it were another machine; the
/// bridge and the other ends are in this process's own. No namespace has a name, so the kernel
/// takes them all down with this process and its children.
pub(super) struct VethLinks {
    /// The ports of our endpoints, in their order.
    ports: RefCell<Vec<Arc<Port>>>,
    /// The namespaces of our endpoints.
    own: RefCell<Vec<Network>>,
    /// The namespaces of the children, in their order.
    children: RefCell<Vec<Network>>,
    eal: Eal,
    frame_bytes_max: usize,
    args: DriverArgs,
}

/// Runs `ip`.
fn ip(line: &str) -> Result<(), DriverError> {
    let failed = |said: String| DriverError::Interface { line: line.to_owned(), said };
    let output = Command::new("ip")
        .args(line.split(' '))
        .output()
        .map_err(|source| failed(format!("{source}; install iproute2")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))),
    }
}

/// Puts a host of that name and address on the bridge, and returns its namespace.
fn add_host(name: &str, address: Ipv4Addr) -> Result<Network, DriverError> {
    let host = Network::new().map_err(DriverError::Network)?;
    let hardware = hardware_text(address);
    ip(&format!("link add {name} address {hardware} type veth peer name {name}b"))?;
    ip(&format!("link set {name} netns {}", host.path()))?;
    // The kernel is not to send anything of its own.
    ip(&format!("link set {name}b addrgenmode none"))?;
    ip(&format!("link set {name}b master bridge0 up"))?;
    let set_up = || {
        ip(&format!("link set {name} addrgenmode none"))?;
        ip(&format!("link set {name} up"))
    };
    host.within(set_up).map_err(DriverError::Network)??;
    Ok(host)
}

/// The virtual device of a host. A process has one of each number.
fn vdev(number: usize, host: &str) -> String {
    format!("net_af_packet{number},iface={host},qdisc_bypass=1")
}

impl VethLinks {
    pub(super) fn start(args: &DriverArgs, datagram_bytes: usize) -> Result<Self, DriverError> {
        own_network().map_err(DriverError::Network)?;
        ip("link add bridge0 type bridge forward_delay 0")?;
        ip("link set bridge0 addrgenmode none")?;
        ip("link set bridge0 up")?;
        Ok(Self {
            ports: RefCell::default(),
            own: RefCell::default(),
            children: RefCell::default(),
            eal: Eal::start(&dpdk::eal_config(args))?,
            frame_bytes_max: datagram_bytes + HEADERS_BYTES,
            args: args.clone(),
        })
    }
}

impl LocalLinks for VethLinks {
    fn flags(&self, child: usize, _: usize) -> Result<Vec<String>, DriverError> {
        let host = format!("child{child}");
        let network = add_host(&host, *child_address(child).ip())?;
        self.children.borrow_mut().push(network);
        Ok(child_flags(child, &self.args, &[vdev(0, &host)]))
    }

    fn settle(&self, child: usize, command: &mut Command) {
        if let Some(network) = self.children.borrow().get(child) {
            network.start_in(command);
        }
    }

    /// Makes an endpoint if there is none that is free.
    fn device(&self, children: &[usize]) -> Result<AnyDevice, DriverError> {
        let mut ports = self.ports.borrow_mut();
        let free = ports
            .iter()
            .enumerate()
            .find_map(|(endpoint, port)| port.queue(0).ok().map(|pair| (endpoint, pair)));
        let (endpoint, pair) = match free {
            Some(found) => found,
            None => {
                let endpoint = ports.len();
                let host = format!("own{endpoint}");
                let network = add_host(&host, endpoint_address(endpoint))?;
                let config = PortConfig {
                    frame_bytes_max: self.frame_bytes_max,
                    zero_copy_transmit: dpdk::zero_copy_transmit(&self.args),
                    ..PortConfig::default()
                };
                let open = || {
                    let name = self.eal.add_vdev(&vdev(endpoint, &host))?;
                    Port::open(&self.eal, &name, &config)
                };
                ports.push(network.within(open).map_err(DriverError::Network)??);
                self.own.borrow_mut().push(network);
                (endpoint, ports[endpoint].queue(0)?)
            }
        };
        let bind = SocketAddrV4::new(endpoint_address(endpoint), 0);
        Ok(acquainted(dpdk::open(vec![pair], bind, 16, None)?, children))
    }
}

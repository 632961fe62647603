//! What a UDP device is opened with, and why opening one can fail.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Largest payload of a UDP datagram over IPv4: 65,535 bytes less 20 of IPv4 and 8 of UDP header.
pub const DATAGRAM_BYTES_LIMIT: usize = 65_507;

/// Most datagrams that the sending half may be configured to queue.
pub(crate) const SEND_QUEUE_LIMIT: usize = 4096;

/// What [`UdpDevice::open`](crate::UdpDevice::open) is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// Address and port to bind. Port 0 lets the kernel choose one; see
    /// [`UdpDevice::local_addr`](crate::UdpDevice::local_addr).
    pub bind: SocketAddrV4,
    /// Largest datagram, in bytes, sent or received whole: 1 to [`DATAGRAM_BYTES_LIMIT`]. Sessions
    /// use less where the kernel knows a way that carries less in one piece.
    pub datagram_bytes_max: usize,
    /// Most datagrams queued between two flushes: 1 to 4096.
    pub send_queue_max: usize,
    /// Wanted size, in bytes, of each of the kernel's two socket buffers. The kernel may grant
    /// less; [`UdpDevice::socket_buffer_bytes`](crate::UdpDevice::socket_buffer_bytes) tells.
    pub socket_buffer_bytes: usize,
    /// Whether neighbouring datagrams of one length to one peer go through the kernel as one
    /// (UDP GSO and GRO), where it can do that.
    pub trains: bool,
}

impl UdpConfig {
    /// A port of the kernel's choice on loopback, 9000-byte datagrams, 64 of them queued, socket
    /// buffers of 8 MiB, trains.
    pub const LOOPBACK: Self = Self {
        bind: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
        datagram_bytes_max: 9000,
        send_queue_max: 64,
        socket_buffer_bytes: 8 << 20,
        trains: true,
    };

    /// [`UdpConfig::LOOPBACK`] bound to `bind` instead.
    pub const fn at(bind: SocketAddrV4) -> Self {
        Self { bind, ..Self::LOOPBACK }
    }

    pub(crate) fn check(&self) -> Result<(), UdpError> {
        if !(1..=DATAGRAM_BYTES_LIMIT).contains(&self.datagram_bytes_max) {
            return Err(UdpError::DatagramSize { given: self.datagram_bytes_max });
        }
        if !(1..=SEND_QUEUE_LIMIT).contains(&self.send_queue_max) {
            return Err(UdpError::SendQueue { given: self.send_queue_max });
        }
        if !(1..=i32::MAX as usize / 2).contains(&self.socket_buffer_bytes) {
            return Err(UdpError::SocketBuffer { given: self.socket_buffer_bytes });
        }
        Ok(())
    }
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self::LOOPBACK
    }
}

/// Why a UDP device could not be opened.
#[derive(Debug)]
pub enum UdpError {
    /// `datagram_bytes_max` is out of range.
    DatagramSize {
        /// The value given.
        given: usize,
    },
    /// `send_queue_max` is out of range.
    SendQueue {
        /// The value given.
        given: usize,
    },
    /// `socket_buffer_bytes` is out of range.
    SocketBuffer {
        /// The value given.
        given: usize,
    },
    /// Another socket is bound to the address.
    AddressInUse {
        /// The address asked for.
        address: SocketAddrV4,
    },
    /// No interface of this machine has the address.
    AddressNotLocal {
        /// The address asked for.
        address: SocketAddrV4,
    },
    /// The user may not bind the port.
    PortNotPermitted {
        /// The address asked for.
        address: SocketAddrV4,
    },
    /// A system call failed in a way that has no better name here.
    Os {
        /// The system call.
        call: &'static str,
        /// The address asked for.
        address: SocketAddrV4,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UdpError {
    /// Names the error of `bind`.
    pub(crate) fn from_bind(address: SocketAddrV4, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::AddressInUse { address },
            Some(libc::EADDRNOTAVAIL) => Self::AddressNotLocal { address },
            Some(libc::EACCES) => Self::PortNotPermitted { address },
            _ => Self::Os { call: "bind", address, source },
        }
    }
}

impl fmt::Display for UdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DatagramSize { given } => write!(
                f,
                "a largest datagram of {given} bytes is not possible: give 1 to \
                 {DATAGRAM_BYTES_LIMIT}"
            ),
            Self::SendQueue { given } => write!(
                f,
                "a send queue of {given} datagrams is not possible: give 1 to {SEND_QUEUE_LIMIT}"
            ),
            Self::SocketBuffer { given } => write!(
                f,
                "a socket buffer of {given} bytes is not possible: give 1 to {}",
                i32::MAX / 2
            ),
            Self::AddressInUse { address } => write!(
                f,
                "UDP address {address} is in use by another process: stop that process, or give \
                 another port (0 lets the kernel choose)"
            ),
            Self::AddressNotLocal { address } => write!(
                f,
                "no interface of this machine has the address {}: give one that `ip address` \
                 lists, or 0.0.0.0",
                address.ip()
            ),
            Self::PortNotPermitted { address } => write!(
                f,
                "binding UDP address {address} is not permitted: give a port above 1023, or run \
                 with CAP_NET_BIND_SERVICE"
            ),
            Self::Os { call, address, source } => {
                write!(f, "opening a UDP socket at {address} failed in {call}: {source}")
            }
        }
    }
}

impl std::error::Error for UdpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os { source, .. } => Some(source),
            _ => None,
        }
    }
}

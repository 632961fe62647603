//! What ports of each of DPDK's drivers are like, where DPDK does not say so itself.

use std::fmt;

use dmrpc_core::device::RECEIVE_QUEUE;

/// Binary logarithm of the length of memif's rings, if its argument `rsize` does not say.
const MEMIF_RING_LOG: u32 = 10;

/// The driver of a port, and what its arguments say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    driver: Driver,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// Memory that two processes share.
    Memif { listens: bool, zero_copy: bool, ring: usize },
    /// Sockets that look past the kernel's network stack.
    AfXdp,
    /// Sockets that see all frames of an interface.
    AfPacket,
    /// An interface whose other end the kernel has.
    Tap,
    /// A network card, or another virtual device.
    Other,
}

impl Kind {
    /// The kind of a port with the driver `name`, made with `arguments` (`key=value`, with commas
    /// between).
    pub(crate) fn new(name: &str, arguments: &str) -> Self {
        let driver = match name {
            "net_memif" => memif(arguments),
            "net_af_xdp" => Driver::AfXdp,
            "net_af_packet" => Driver::AfPacket,
            "net_tap" => Driver::Tap,
            _ => Driver::Other,
        };
        Self { driver, name: name.to_owned() }
    }

    /// The driver's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_memif(&self) -> bool {
        matches!(self.driver, Driver::Memif { .. })
    }

    /// Whether frames leave by a system call.
    pub(crate) fn asks_the_kernel(&self) -> bool {
        matches!(self.driver, Driver::AfXdp | Driver::AfPacket | Driver::Tap)
    }

    /// The end of a link that asks for it, and has to ask again when it is lost.
    pub(crate) fn connects(&self) -> bool {
        matches!(self.driver, Driver::Memif { listens: false, .. })
    }

    /// Whether packets may end with bytes of anybody's memory: the driver copies them. Memif with
    /// zero copy reckons with buffers of its own pool (`memif_tx_one_zc`), and what reads memory by
    /// itself would have to have it mapped.
    pub(crate) fn copies_what_it_sends(&self) -> bool {
        match self.driver {
            Driver::Memif { zero_copy, .. } => !zero_copy,
            Driver::AfPacket | Driver::Tap => true,
            Driver::AfXdp | Driver::Other => false,
        }
    }

    /// Whether lending was found to be faster than copying.
    pub(crate) fn pays_to_borrow(&self) -> bool {
        self.is_memif()
    }

    /// Whether it chains buffers for frames of any length, whatever it states as its limit.
    pub(crate) fn chains(&self) -> bool {
        self.is_memif()
    }

    pub(crate) fn needs_huge_pages(&self) -> bool {
        self.driver == Driver::AfXdp
    }

    /// Whether its pool of buffers must be one piece of memory, and hold a ring each for the way
    /// to the kernel and the way back: their length, whatever was asked for.
    pub(crate) fn rings_of_kernel(&self) -> Option<u16> {
        (self.driver == Driver::AfXdp).then_some(2048)
    }

    /// Whether the kernel's end of the interface has the address that the port says is its own.
    pub(crate) fn shares_its_address(&self) -> bool {
        self.driver == Driver::Tap
    }

    /// Whether the interface runs before the port does. That of a tap is brought up later, by
    /// whom it is for.
    pub(crate) fn is_an_interface(&self) -> bool {
        self.driver != Driver::Tap
    }

    /// Frames that are held for us where `ring` descriptors were asked for.
    pub(crate) fn receive_queue(&self, ring: u16) -> usize {
        match self.driver {
            // A full one holds its sender up and loses nothing.
            Driver::Memif { ring, .. } => ring,
            // What is in a socket's buffer, which no ring of ours says anything about.
            Driver::AfPacket | Driver::Tap => RECEIVE_QUEUE,
            Driver::AfXdp | Driver::Other => usize::from(ring),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.driver {
            Driver::Memif { zero_copy: true, .. } => f.write_str(" with zero-copy=yes"),
            _ => Ok(()),
        }
    }
}

/// Whether a virtual device, described as `NAME,key=value,...`, is the end of a memif link that has
/// none before another comes.
pub fn listens(vdev: &str) -> bool {
    let (name, arguments) = vdev.split_once(',').unwrap_or((vdev, ""));
    name.starts_with("net_memif") && matches!(memif(arguments), Driver::Memif { listens: true, .. })
}

fn memif(arguments: &str) -> Driver {
    let value = |key: &str| {
        let mut pairs = arguments.split(',').filter_map(|part| part.split_once('='));
        pairs.find(|(found, _)| *found == key).map(|(_, value)| value)
    };
    let log = value("rsize").and_then(|log| log.parse().ok()).unwrap_or(MEMIF_RING_LOG);
    Driver::Memif {
        // As DPDK has it: a client if nothing is said.
        listens: matches!(value("role"), Some("server" | "master")),
        zero_copy: value("zero-copy") == Some("yes"),
        ring: 1usize.checked_shl(log).unwrap_or(1 << MEMIF_RING_LOG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_decide() {
        let plain = Kind::new("net_memif", "role=server,id=0,socket=/run/x.sock");
        assert!(plain.copies_what_it_sends() && plain.is_memif() && !plain.connects());
        assert_eq!((plain.receive_queue(64), plain.to_string()), (1024, "net_memif".into()));
        let zero = Kind::new("net_memif", "id=0,zero-copy=yes,rsize=12");
        assert!(!zero.copies_what_it_sends() && zero.connects(), "a client if nothing is said");
        assert_eq!(zero.receive_queue(64), 4096);
        assert_eq!(zero.to_string(), "net_memif with zero-copy=yes");
        let card = Kind::new("net_ice", "zero-copy=yes");
        assert!(!card.copies_what_it_sends() && !card.connects() && card.is_an_interface());
        assert_eq!(card.receive_queue(64), 64);
    }

    #[test]
    fn frames_leave_by_a_system_call_where_the_kernel_takes_them() {
        for name in ["net_af_packet", "net_af_xdp", "net_tap"] {
            assert!(Kind::new(name, "").asks_the_kernel(), "{name}");
        }
        for name in ["net_memif", "net_ice"] {
            assert!(!Kind::new(name, "").asks_the_kernel(), "{name}");
        }
    }

    #[test]
    fn only_a_server_waits() {
        assert!(listens("net_memif0,role=server,id=0") && listens("net_memif0,role=master"));
        assert!(!listens("net_memif0,id=0") && !listens("net_tap0,role=server"));
    }
}

//! Why DPDK, or a port of it, cannot be used.

use std::fmt;
use std::io;

/// Why DPDK, or a port of it, cannot be used.
#[derive(Debug)]
pub enum DpdkError {
    /// DPDK was started in this process before.
    AlreadyStarted,
    /// The libraries found at run time are of another release than those compiled against.
    Version {
        /// The release compiled against.
        compiled: String,
        /// What the libraries say they are.
        found: String,
    },
    /// An argument contains a zero byte.
    Argument {
        /// The argument.
        given: String,
    },
    /// No huge page is free.
    NoHugePages,
    /// The port's driver cannot do without huge pages.
    NeedsHugePages {
        /// The port.
        port: String,
    },
    /// A pool that the kernel is to share is not one piece: it would share the first one only.
    Scattered {
        /// The port.
        port: String,
        /// How many pieces it is.
        pieces: u32,
    },
    /// DPDK refused to start.
    Start {
        /// The arguments that it was given.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// A virtual device could not be made.
    Vdev {
        /// What was asked for.
        given: String,
        /// What DPDK said.
        said: String,
        /// Whether this process may have interfaces of the kernel's.
        root: bool,
    },
    /// There is a device of that name already.
    Twice {
        /// The name.
        name: String,
    },
    /// There is no port of that name.
    NoPort {
        /// The name.
        name: String,
    },
    /// Neither a virtual device nor a PCI address was given, or none of them has a port.
    NoPorts,
    /// More queue pairs were asked for than the port has.
    Queues {
        /// The port.
        port: String,
        /// How many were asked for.
        asked: u16,
        /// How many the port has.
        most: u16,
    },
    /// The port cannot send bytes from where they lie.
    CopiesOnly {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
    },
    /// Longer frames were asked for than the port takes.
    FrameSize {
        /// The port.
        port: String,
        /// The length asked for, in bytes, from the Ethernet header on.
        asked: usize,
        /// The longest that it takes, in bytes.
        most: usize,
    },
    /// There is no memory for a pool of buffers.
    Pool {
        /// How many buffers.
        buffers: u32,
        /// Length of each, in bytes.
        bytes: usize,
        /// Whether memory was to come from huge pages.
        huge_pages: bool,
        /// What DPDK said.
        source: io::Error,
    },
    /// The port refused to be set up.
    Port {
        /// The port.
        port: String,
        /// What was being done.
        doing: &'static str,
        /// The error code.
        source: io::Error,
        /// What DPDK said.
        said: String,
    },
    /// The port has no link.
    NoLink {
        /// The port.
        port: String,
        /// For how long it was waited, in milliseconds.
        waited_ms: u64,
    },
    /// Links cannot be shared among endpoints.
    Links {
        /// Endpoints of the program.
        endpoints: usize,
        /// Links that there are.
        links: usize,
    },
    /// All queue pairs of a port are in use.
    NoQueue {
        /// The port.
        port: String,
    },
}

impl DpdkError {
    /// Whether the command line is to blame, not the machine.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Argument { .. }
                | Self::NoPorts
                | Self::NoPort { .. }
                | Self::Queues { .. }
                | Self::Links { .. }
                | Self::Twice { .. }
                | Self::NeedsHugePages { .. }
                | Self::FrameSize { .. }
                | Self::CopiesOnly { .. }
        )
    }
}

/// The end of a message: what DPDK said, if it said anything.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

impl fmt::Display for DpdkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted => f.write_str("DPDK runs in this process already"),
            Self::Version { compiled, found } => write!(
                f,
                "built for DPDK {compiled}, but the libraries here are '{found}': rebuild, or \
                 install DPDK {compiled}"
            ),
            Self::Argument { given } => {
                write!(f, "'{}' has a zero byte in it: leave that out", given.escape_default())
            }
            Self::NoHugePages => f.write_str(
                "no huge page is free: reserve some (echo 256 > /proc/sys/vm/nr_hugepages), or \
                 give --dpdk-no-huge",
            ),
            Self::NeedsHugePages { port } => write!(
                f,
                "{port} shares buffers with the kernel, which needs huge pages: leave \
                 --dpdk-no-huge out, or use net_af_packet"
            ),
            Self::Scattered { port, pieces } => write!(
                f,
                "the buffers of {port} lie in {pieces} pieces of memory, one is needed: reserve \
                 more huge pages, or use net_af_packet"
            ),
            Self::Start { arguments, said } => {
                write!(f, "DPDK does not start with '{arguments}'{}", Said(said))
            }
            Self::Vdev { given, said, .. } if said.contains("already in use") => write!(
                f,
                "--dpdk-vdev {given} cannot be made{}: stop the process that has it, or give \
                 another",
                Said(said)
            ),
            Self::Vdev { given, said, root } => write!(
                f,
                "--dpdk-vdev {given} cannot be made{}: {}give NAME[,KEY=VALUE...] such as \
                 net_memif0,role=server,id=0,socket=/run/x.sock,socket-abstract=no or \
                 net_af_packet0,iface=veth0",
                Said(said),
                if *root { "" } else { "all but memif needs root; " }
            ),
            Self::Twice { name } => write!(
                f,
                "there is a device {name} already: give each --dpdk-vdev a name of its own, such \
                 as net_memif0 and net_memif1"
            ),
            Self::NoPort { name } => {
                write!(f, "DPDK has no port '{name}': bind the device to a driver that DPDK knows")
            }
            Self::NoPorts => f.write_str(
                "DPDK has no port: give --dpdk-vdev NAME[,KEY=VALUE...] or --dpdk-pci ADDRESS",
            ),
            Self::Queues { port, asked, most } => write!(
                f,
                "{port} has {most} queue pairs, {asked} are needed: name at most {most} cores, or \
                 give the device more (net_af_packet's argument qpairs={asked})"
            ),
            Self::CopiesOnly { port, driver } => write!(
                f,
                "{port} ({driver}) cannot send from the pool: leave --zero-copy-transmit out, or \
                 give --zero-copy-transmit off"
            ),
            Self::FrameSize { port, asked, most } => write!(
                f,
                "{port} takes frames of at most {most} bytes, {asked} are needed: give \
                 --datagram-size {}B",
                most.saturating_sub(42)
            ),
            Self::Pool { buffers, bytes, huge_pages, source } => {
                let more = if *huge_pages {
                    "reserve more huge pages (/proc/sys/vm/nr_hugepages)"
                } else {
                    "give --dpdk-memory more"
                };
                write!(f, "no memory for {buffers} buffers of {bytes} bytes ({source}): {more}")
            }
            Self::Port { port, doing, source, said } => {
                write!(f, "{doing} {port} failed: {source}{}", Said(said))
            }
            Self::NoLink { port, waited_ms } => write!(
                f,
                "{port} has had no link for {waited_ms} ms: start what is at its other end, or \
                 bring its interface up"
            ),
            Self::Links { endpoints, links } => write!(
                f,
                "this program has {endpoints} endpoints, and {links} links of DPDK's cannot be \
                 shared among them: give --dpdk-vdev or --dpdk-pci {endpoints} times, for a link \
                 each"
            ),
            Self::NoQueue { port } => write!(f, "all queue pairs of {port} are in use"),
        }
    }
}

impl std::error::Error for DpdkError {}

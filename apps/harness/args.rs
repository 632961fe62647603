//! The command line that all programs understand.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::ValueEnum;
use dmrpc_choice::{DriverArgs, DriverKind, ZeroCopyTransmit};
use dmrpc_cn::SESSIONS_MAX;
use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_cxl::Mode;
use dmrpc_host::affinity::CoreList;
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::size::{ByteSize, TimeSpan};

use crate::role::Role;

/// Drivers that `--local` can bring processes up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// Kernel UDP sockets on loopback.
    Udp,
    /// Memory shared by two processes, as DPDK's net_memif: a link for each server.
    Memif,
    /// A pool that all processes map, with rings in it.
    Cxl,
    /// Hosts on a bridge of the kernel's, by DPDK's net_af_packet on veths. Needs root.
    Veth,
}

impl Driver {
    /// The name of the driver in flags and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Memif => "memif",
            Self::Cxl => "cxl",
            Self::Veth => "veth",
        }
    }
}

/// Flags of every program.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Bring up all that is needed on this machine, over this driver, and take it down at the end.
    #[arg(long, value_name = "DRIVER", conflicts_with = "cluster")]
    pub local: Option<Driver>,

    /// Join the processes of this cluster file instead.
    #[arg(long, value_name = "FILE", requires_all = ["client_index", "server_index"])]
    pub cluster: Option<PathBuf>,

    /// Which process of the cluster file this is, counted from 0.
    #[arg(long, value_name = "N", requires = "cluster")]
    pub client_index: Option<usize>,

    /// Which process of the cluster file serves: a memory node, or a compute node that runs
    /// `dmrpc-cn serve`. Give the flag twice where both are needed.
    #[arg(long, value_name = "N", requires = "cluster")]
    pub server_index: Vec<usize>,

    /// Cores to run on: this program on the first, with --local the servers on the second.
    #[arg(long, value_name = "LIST")]
    pub cores: Option<CoreList>,

    /// What poll loops do when there is nothing to do: busy, yield or sleep.
    #[arg(long, default_value_t = IdleStrategy::Busy, value_name = "STRATEGY")]
    pub idle: IdleStrategy,

    /// Sizes to measure, such as 64B,4KiB,1MiB.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub sizes: Vec<ByteSize>,

    /// Numbers of operations in flight to measure, such as 1,16.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub concurrency: Vec<usize>,

    /// Operations of each row. Without it, --seconds says how long a row takes.
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    pub count: Option<u64>,

    /// How long each row measures, in seconds.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    pub seconds: f64,

    /// Operations before each row that are not timed, and all verified.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub warmup: u64,

    /// Blocks that a row is measured in, in turns with the bare device if --raw is given.
    #[arg(long, default_value_t = 21, value_name = "N")]
    pub blocks: u64,

    /// Seed of everything random.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,

    /// Print one JSON object a line for each row and nothing else.
    #[arg(long)]
    pub json: bool,

    /// Measure the bare device in the same run, with the same datagrams and no protocol.
    #[arg(long)]
    pub raw: bool,

    /// Leave payloads out of the packets' checksums.
    #[arg(long)]
    pub no_payload_check: bool,

    /// How senders of long messages are slowed down when the network delays them: swift or none.
    #[arg(long, default_value = "swift", value_name = "NAME")]
    pub congestion: Congestion,

    /// Authenticate sessions by the pre-shared key in this file, at least 16 bytes. Without it, the
    /// environment variable DMRPC_KEY may hold the key itself.
    #[arg(long, env = "DMRPC_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Encrypt every packet (AES-128-GCM) with the key in --key-file or the environment.
    #[arg(long, env = "DMRPC_ENCRYPT")]
    pub encrypt: bool,

    /// Largest datagram: 9000B over UDP, 1472B over DPDK if not given.
    #[arg(long, value_name = "SIZE")]
    pub datagram_size: Option<ByteSize>,

    /// Pool of the memory node that --local brings up.
    #[arg(long, default_value = "512MiB", value_name = "SIZE")]
    pub pool_size: ByteSize,

    /// How long an operation may take.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub deadline: TimeSpan,

    /// Over how many sessions calls are spread, for programs that have a flag for it. Without it,
    /// there are as many as the operations in flight need, each with many slots.
    #[arg(skip)]
    pub sessions: Option<usize>,

    /// What this process is, when a program starts itself as a child.
    #[arg(long, hide = true)]
    pub role: Option<Role>,

    /// Where a child binds.
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    pub bind: SocketAddrV4,

    /// What carries the packets of a process of a cluster.
    #[command(flatten)]
    pub driver: DriverArgs,
}

/// Most blocks of a row.
const BLOCKS_MAX: u64 = 10_000;

/// A flag's value is out of range, or flags are missing.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgsError {
    /// Neither `--local` nor `--cluster`.
    NoServers,
    /// A value is out of range.
    Range {
        /// The flag.
        flag: &'static str,
        /// The value given.
        given: String,
        /// What would be right.
        expected: String,
    },
    /// `--raw` needs children.
    RawNeedsLocal,
}

impl std::fmt::Display for ArgsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoServers => f.write_str(
                "nothing to run against: give --local udp (or memif, cxl) to bring all up on this \
                 machine, or --cluster FILE --client-index N --server-index M",
            ),
            Self::Range { flag, given, expected } => write!(f, "{flag} {given}: give {expected}"),
            Self::RawNeedsLocal => f.write_str(
                "--raw measures against processes of its own: give --local udp instead of \
                 --cluster",
            ),
        }
    }
}

impl std::error::Error for ArgsError {}

impl Args {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// [`ArgsError`].
    pub fn check(&self) -> Result<(), ArgsError> {
        if self.local.is_none() && self.cluster.is_none() {
            return Err(ArgsError::NoServers);
        }
        if self.raw && self.local.is_none() {
            return Err(ArgsError::RawNeedsLocal);
        }
        let range = |flag, given: String, expected: &str| {
            Err(ArgsError::Range { flag, given, expected: expected.to_owned() })
        };
        if !(0.001..=3600.0).contains(&self.seconds) {
            return range("--seconds", self.seconds.to_string(), "0.001 to 3600");
        }
        if self.count == Some(0) {
            return range("--count", "0".to_owned(), "1 or more");
        }
        if !(1..=BLOCKS_MAX).contains(&self.blocks) {
            return range("--blocks", self.blocks.to_string(), "1 to 10000");
        }
        if let Some(sessions) = self.sessions.filter(|count| !(1..=SESSIONS_MAX).contains(count)) {
            return range("--sessions", sessions.to_string(), "1 to 65536");
        }
        if let Some(size) = self.datagram_size.filter(|size| !(1200..=65_507).contains(&size.0)) {
            return range("--datagram-size", size.to_string(), "1200B to 65507B");
        }
        Ok(())
    }

    /// Largest datagram in bytes.
    pub fn datagram_bytes(&self) -> usize {
        let usual = match self.local {
            Some(Driver::Memif | Driver::Veth) => dmrpc_choice::DPDK_DATAGRAM_BYTES,
            Some(Driver::Cxl) => dmrpc_choice::CXL_DATAGRAM_BYTES,
            _ => self.driver.datagram_bytes(),
        };
        self.datagram_size.map_or(usual, |size| size.as_usize())
    }

    /// The name of the driver in results; of a pool in flush mode it says so.
    pub fn driver_name(&self) -> &'static str {
        let is_flush = self.driver.coherence == Mode::Flush;
        match (self.local, self.driver.kind()) {
            (Some(Driver::Cxl), _) | (None, DriverKind::Cxl) if is_flush => "cxl-flush",
            (Some(local), _) => local.name(),
            (None, DriverKind::Udp) => "udp",
            (None, DriverKind::Dpdk) => "dpdk",
            (None, DriverKind::Cxl) => "cxl",
        }
    }

    /// Whether there is only memory between the two ends.
    pub fn is_memory(&self) -> bool {
        matches!(self.driver_name(), "memif" | "cxl" | "cxl-flush")
    }

    /// Whether long messages are sent from where they lie instead of a copy: a memory node's
    /// answers from its pool, requests and answers of compute nodes from their buffers.
    pub fn sends_in_place(&self) -> bool {
        match self.driver.zero_copy_transmit {
            ZeroCopyTransmit::Auto => self.driver_name() == "memif",
            ZeroCopyTransmit::On => matches!(self.driver_name(), "memif" | "veth" | "dpdk"),
            ZeroCopyTransmit::Off => false,
        }
    }

    /// The sizes to measure, in bytes: those given, else `default`.
    ///
    /// # Errors
    /// [`ArgsError::Range`]: one of them is not within `allowed`.
    pub fn sizes_within(
        &self,
        default: &[u64],
        allowed: std::ops::RangeInclusive<u64>,
    ) -> Result<Vec<usize>, ArgsError> {
        let given: Vec<u64> = self.sizes.iter().map(|size| size.0).collect();
        let sizes = if given.is_empty() { default.to_vec() } else { given };
        match sizes.iter().find(|size| !allowed.contains(size)) {
            None => Ok(sizes.into_iter().map(|size| size as usize).collect()),
            Some(&size) => Err(ArgsError::Range {
                flag: "--sizes",
                given: ByteSize(size).to_string(),
                expected: format!("{} to {}", ByteSize(*allowed.start()), ByteSize(*allowed.end())),
            }),
        }
    }

    /// The numbers in flight to measure: those given, else `default`.
    ///
    /// # Errors
    /// [`ArgsError::Range`]: one of them is not within 1 to `max`.
    pub fn concurrency_within(
        &self,
        default: &[usize],
        max: usize,
    ) -> Result<Vec<usize>, ArgsError> {
        let given = if self.concurrency.is_empty() { default } else { &self.concurrency };
        match given.iter().find(|number| !(1..=max).contains(*number)) {
            None => Ok(given.to_vec()),
            Some(number) => Err(ArgsError::Range {
                flag: "--concurrency",
                given: number.to_string(),
                expected: format!("1 to {max}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Cli::try_parse_from(line.split(' ')).expect(line).args
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_said() {
        assert_eq!(parse("app").check(), Err(ArgsError::NoServers));
        assert_eq!(parse("app --local udp").check(), Ok(()));
        for (wrong, part) in [
            ("--seconds 0", "--seconds 0: give 0.001 to 3600"),
            ("--count 0", "--count 0: give 1 or more"),
            ("--blocks 0", "1 to 10000"),
            ("--datagram-size 100", "1200B to 65507B"),
        ] {
            let args = parse(&format!("app --local udp {wrong}"));
            let text = args.check().expect_err(wrong).to_string();
            assert!(text.contains(part), "{text}");
        }
        let args = parse("app --local udp --sizes 64B,16MiB --concurrency 0,1");
        let text = args.sizes_within(&[], 1..=8 << 20).expect_err("too large").to_string();
        assert_eq!(text, "--sizes 16MiB: give 1B to 8MiB");
        let text = args.concurrency_within(&[], 4).expect_err("none").to_string();
        assert_eq!(text, "--concurrency 0: give 1 to 4");
    }

    #[test]
    fn a_cluster_needs_both_indices() {
        let wrong = ["app", "--cluster", "f", "--client-index", "1"];
        assert!(Cli::try_parse_from(wrong).is_err());
        let args = parse("app --cluster f --client-index 2 --server-index 0 --server-index 1");
        assert_eq!((args.check(), args.server_index), (Ok(()), vec![0, 1]));
    }
}

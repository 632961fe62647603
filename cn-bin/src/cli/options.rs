//! The command line.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::RangedI64ValueParser;
use clap::{Args, Parser, Subcommand};
use dmrpc_choice::DriverArgs;
use dmrpc_cn::Ref;
use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::control::PAYLOAD_BYTES_MIN;
use dmrpc_core::wire::packet::HEADER_BYTES;
use dmrpc_core::wire::reference::REF_BYTES;
use dmrpc_host::affinity::CoreList;
use dmrpc_host::cli::{size_between, span_between};
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::size::{ByteSize, TimeSpan};
use dmrpc_udp::DATAGRAM_BYTES_LIMIT;

/// What a deadline can be: it travels as microseconds in 32 bits.
const DEADLINES: (TimeSpan, TimeSpan) =
    (TimeSpan(Duration::from_micros(1)), TimeSpan(Duration::from_secs(60 * 60)));

/// What an interval between reports can be.
const INTERVALS: (TimeSpan, TimeSpan) =
    (TimeSpan(Duration::from_millis(1)), TimeSpan(Duration::from_secs(24 * 60 * 60)));

/// What a packet needs, and what a UDP datagram can be.
const DATAGRAM_SIZES: (ByteSize, ByteSize) = (
    ByteSize(PAYLOAD_BYTES_MIN as u64 + HEADER_BYTES as u64),
    ByteSize(DATAGRAM_BYTES_LIMIT as u64),
);

/// Round trips of one `ping`: each is kept until the end.
fn ping_count() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}

/// A DmRPC compute node: works on a memory node's memory, and serves.
///
/// Regions and references belong to a session, and each of these commands is a session of its own
/// that ends with it. So what a command leaves behind is a *detached* reference, printed as 128
/// hexadecimal digits: it lives in the memory node until `free` ends it, and the next command, on
/// this machine or another, goes on with it.
#[derive(Debug, Parser)]
#[command(
    name = "dmrpc-cn",
    version,
    after_help = "\
Examples:
  dmrpc-cn ping --memory-node 127.0.0.1:7400
      Is it there, and how far away?
  R=$(dmrpc-cn ref --memory-node 127.0.0.1:7400 --file photo.jpg)
      Put a file into memory; keep the reference.
  dmrpc-cn read --memory-node 127.0.0.1:7400 --ref $R --out copy.jpg
      Read it back, here or on another machine.
  S=$(dmrpc-cn write --memory-node 127.0.0.1:7400 --ref $R --offset 4096 --in patch.bin)
      Change a copy of it: R still reads as before, S has the change, unchanged pages are shared.
  dmrpc-cn free --memory-node 127.0.0.1:7400 --ref $R
      End it.
  dmrpc-cn serve --bind 127.0.0.1:7501
      Answer every request with what it brought.
  dmrpc-cn serve --bind 127.0.0.1:7500 --forward-to 127.0.0.1:7501 --report 1s
      Pass every request on, and its answer back."
)]
pub(crate) struct Options {
    /// Address and port of this node; port 0 lets the kernel choose. 127.0.0.1:7500 for `serve`.
    #[arg(long, global = true, env = "DMRPC_BIND", value_name = "IP:PORT")]
    pub(crate) bind: Option<SocketAddrV4>,

    /// The memory node.
    #[arg(long, global = true, env = "DMRPC_MEMORY_NODE", value_name = "IP:PORT")]
    pub(crate) memory_node: Option<SocketAddrV4>,

    /// Take addresses (and the core, if given there) from this cluster file.
    #[arg(long, global = true, env = "DMRPC_CLUSTER", value_name = "FILE")]
    pub(crate) cluster: Option<PathBuf>,

    /// Which process of the cluster file this is, counted from 0.
    #[arg(long, global = true, value_name = "N", requires = "cluster")]
    pub(crate) client_index: Option<usize>,

    /// Which process of the cluster file is the memory node, counted from 0; else its first one.
    #[arg(long, global = true, value_name = "N", requires = "cluster")]
    pub(crate) server_index: Option<usize>,

    /// Pin the poll loop to this core.
    #[arg(long, global = true, value_name = "LIST")]
    pub(crate) cores: Option<CoreList>,

    /// What the poll loop does when there is nothing to do: busy (lowest latency, takes the whole
    /// core), yield (shares it), sleep (waits for packets).
    #[arg(long, global = true, default_value_t = IdleStrategy::Sleep, value_name = "STRATEGY")]
    pub(crate) idle: IdleStrategy,

    /// How long each operation waits for its answer.
    #[arg(long, global = true, default_value = "1500ms", value_name = "TIME",
        value_parser = span_between(DEADLINES.0, DEADLINES.1))]
    pub(crate) deadline: TimeSpan,

    /// Largest datagram. 9000B over UDP, 1472B over DPDK if not given. A session has what both ends
    /// agree on; over UDP less where the way is known to carry less in one piece.
    #[arg(long, global = true, value_name = "SIZE",
        value_parser = size_between(DATAGRAM_SIZES.0, DATAGRAM_SIZES.1))]
    pub(crate) datagram_size: Option<ByteSize>,

    #[command(flatten)]
    pub(crate) driver: DriverArgs,

    /// Do not ask for a checksum over payloads (headers always have one). Others may still ask.
    /// Through a pool in coherent mode nobody does.
    #[arg(long, global = true)]
    pub(crate) no_payload_check: bool,

    /// How senders of long answers are slowed down when the network delays them: swift or none.
    /// Through a pool or net_memif there is no network, and they are not.
    #[arg(long, global = true, default_value = "swift", value_name = "NAME")]
    pub(crate) congestion: Congestion,

    /// Speak only to nodes that have the same pre-shared key: the contents of this file, at least
    /// 16 bytes. Without it, the environment variable DMRPC_KEY may hold the key itself.
    #[arg(long, global = true, env = "DMRPC_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Encrypt every packet (AES-128-GCM). Needs a pre-shared key, and --encrypt at the other end
    /// too: who does not encrypt is refused.
    #[arg(long, global = true, env = "DMRPC_ENCRYPT")]
    pub(crate) encrypt: bool,

    /// Print results as JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure round trips to a node.
    Ping {
        /// How many.
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = ping_count())]
        count: u32,
    },
    /// Reserve memory, which reads as zeros; print a reference to it.
    Alloc {
        /// How much.
        #[arg(long, value_name = "SIZE")]
        size: ByteSize,
    },
    /// Put a file into memory; print a reference to it.
    Ref {
        /// The file.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Map a reference and say what it refers to.
    Map {
        /// The reference.
        #[arg(long, value_name = "HEX")]
        r#ref: HexRef,
    },
    /// Read what a reference refers to.
    Read {
        /// The reference.
        #[arg(long, value_name = "HEX")]
        r#ref: HexRef,
        /// First byte.
        #[arg(long, default_value = "0", value_name = "SIZE")]
        offset: ByteSize,
        /// How many bytes; to the end if not given.
        #[arg(long, value_name = "SIZE")]
        length: Option<ByteSize>,
        /// Where to; standard output if not given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write a file's bytes into a copy of what a reference refers to; print a reference to the
    /// copy. Pages that are not written are shared; the old reference reads as before.
    Write {
        /// The reference.
        #[arg(long, value_name = "HEX")]
        r#ref: HexRef,
        /// First byte.
        #[arg(long, default_value = "0", value_name = "SIZE")]
        offset: ByteSize,
        /// The file with the bytes.
        #[arg(long = "in", value_name = "FILE")]
        input: PathBuf,
    },
    /// End a reference: its memory goes back to the pool.
    Free {
        /// The reference.
        #[arg(long, value_name = "HEX")]
        r#ref: HexRef,
    },
    /// Print a memory node's counters and gauges.
    Stat,
    /// Serve until SIGINT or SIGTERM: echo, or forward. Prints `ready ADDRESS` when it does;
    /// SIGUSR1 prints all counters and what happened last.
    Serve(Serve),
}

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Pass each request on to the service there, with all arguments, and its answer back.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) forward_to: Option<SocketAddrV4>,

    /// Longest answer of the service that is forwarded to.
    #[arg(long, default_value = "16KiB", value_name = "SIZE", requires = "forward_to")]
    pub(crate) answer_size: ByteSize,

    /// Print rates to standard error in this interval, such as 1s.
    #[arg(long, value_name = "TIME", value_parser = span_between(INTERVALS.0, INTERVALS.1))]
    pub(crate) report: Option<TimeSpan>,

    /// Most sessions at a time.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub(crate) sessions: usize,

    /// Most sessions at a time of one address, whatever its ports; three quarters of --sessions if
    /// not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sessions_per_address: Option<u32>,

    /// Slots of a session, that is, requests in flight: a power of two up to 64, and at least 8 to
    /// forward.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) slots: u16,
}

/// A reference as 128 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HexRef(pub(crate) Ref);

/// The text is no reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HexRefError {
    Length(usize),
    Digit(char),
    Value(dmrpc_core::wire::WireError),
}

impl fmt::Display for HexRefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = 2 * REF_BYTES;
        match self {
            Self::Length(length) => write!(
                f,
                "a reference has {digits} hexadecimal digits, this has {length}: give what `ref`, \
                 `alloc` or `write` printed"
            ),
            Self::Digit(digit) => write!(f, "'{digit}' is no hexadecimal digit"),
            Self::Value(error) => write!(f, "this is no reference: {error}"),
        }
    }
}

impl std::error::Error for HexRefError {}

impl FromStr for HexRef {
    type Err = HexRefError;

    fn from_str(text: &str) -> Result<Self, HexRefError> {
        let mut bytes = [0; REF_BYTES];
        let length = text.chars().count();
        if length != 2 * REF_BYTES {
            return Err(HexRefError::Length(length));
        }
        for (at, digit) in text.chars().enumerate() {
            let value = digit.to_digit(16).ok_or(HexRefError::Digit(digit))?;
            bytes[at / 2] = bytes[at / 2] << 4 | value as u8;
        }
        Ref::parse(&bytes).map(Self).map_err(HexRefError::Value)
    }
}

impl fmt::Display for HexRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use dmrpc_cn::Rights;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn references_round_trip_as_text() {
        let reference = Ref {
            memory_node: 1,
            incarnation: u64::MAX,
            index: 3,
            generation: 4,
            offset: 5,
            length: 6,
            rights: Rights::all(),
            tag: 0x0102_0304_0506_0708,
        };
        let text = HexRef(reference).to_string();
        assert_eq!(text.parse(), Ok(HexRef(reference)));
        assert_eq!(text[1..].parse::<HexRef>(), Err(HexRefError::Length(127)));
        let wrong = format!("x{}", &text[1..]);
        assert_eq!(wrong.parse::<HexRef>(), Err(HexRefError::Digit('x')));
        assert!(matches!("0".repeat(128).parse::<HexRef>(), Err(HexRefError::Value(_))));
        assert!(matches!("ä".repeat(128).parse::<HexRef>(), Err(HexRefError::Digit('ä'))));
    }
}

//! The command line.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::Parser;
use dmrpc_choice::DriverArgs;
use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::control::PAYLOAD_BYTES_MIN;
use dmrpc_core::wire::packet::HEADER_BYTES;
use dmrpc_host::affinity::CoreList;
use dmrpc_host::cli::{size_between, span_between};
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::size::{ByteSize, TimeSpan};
use dmrpc_udp::DATAGRAM_BYTES_LIMIT;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a packet needs, and what a UDP datagram can be.
const DATAGRAM_SIZES: (ByteSize, ByteSize) = (
    ByteSize(PAYLOAD_BYTES_MIN as u64 + HEADER_BYTES as u64),
    ByteSize(DATAGRAM_BYTES_LIMIT as u64),
);

/// Parses the number of a host as it is logged.
fn host_number(text: &str) -> Result<u64, String> {
    match u64::from_str_radix(text, 16) {
        Ok(host) if host != 0 => Ok(host),
        _ => Err("give the host's number as it is logged: up to 16 hexadecimal digits".to_owned()),
    }
}

/// A DmRPC memory node: owns a pool of 4 KiB page frames and serves it to compute nodes.
///
/// Prints `ready ADDRESS` on standard output once it serves. SIGUSR1 prints rates, pool use,
/// sessions, counters and the last events at once; SIGINT or SIGTERM stops it cleanly.
#[derive(Debug, Parser)]
#[command(
    name = "dmrpc-mn",
    version,
    after_help = "\
Examples:
  dmrpc-mn --bind 127.0.0.1:7400 --pool-size 1GiB
      Serve a pool of 1 GiB on loopback.
  dmrpc-mn --cluster cluster.toml --server-index 0 --cores 0 --idle busy
      Be the first process of the cluster file, on core 0, never yielding it.
  dmrpc-mn --pool /dev/shm/pool --pool-size 1GiB
      Make a pool that the compute nodes of this machine map, or find it again, and look after it.
  dmrpc-mn --bind 127.0.0.1:0 --report 1s
      Let the kernel choose the port; print rates once a second.

Then, from another terminal:
  dmrpc-cn ping --memory-node 127.0.0.1:7400"
)]
pub(crate) struct Options {
    /// Address and port to serve on; port 0 lets the kernel choose. By default that of the cluster
    /// file, else 127.0.0.1:7400.
    #[arg(long, env = "DMRPC_BIND", value_name = "IP:PORT")]
    pub(crate) bind: Option<SocketAddrV4>,

    /// Take the address (and the core, if given there) from this cluster file.
    #[arg(long, env = "DMRPC_CLUSTER", value_name = "FILE", requires = "server_index")]
    pub(crate) cluster: Option<PathBuf>,

    /// Which process of the cluster file this is, counted from 0.
    #[arg(long, value_name = "N", requires = "cluster")]
    pub(crate) server_index: Option<usize>,

    /// Number of this memory node in the references that it makes. With a cluster file, its place
    /// among the file's memory nodes. A pool keeps the number that it was made with.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) memory_node: u32,

    /// Memory for the pool, tables included.
    #[arg(long, env = "DMRPC_POOL_SIZE", default_value = "256MiB", value_name = "SIZE")]
    pub(crate) pool_size: ByteSize,

    /// Put the pool on huge pages of 2 MiB (reserve them in /proc/sys/vm/nr_hugepages).
    #[arg(long)]
    pub(crate) huge_pages: bool,

    /// With --pool: make the pool anew even if there is one, provided that nobody uses it.
    #[arg(long, requires = "pool")]
    pub(crate) format: bool,

    /// With --format: overwrite what is no pool, or is damaged, or is used by other hosts, which
    /// must be known to be gone. A pool that a process of this host uses is never overwritten.
    #[arg(long, requires = "format")]
    pub(crate) force: bool,

    /// With --pool: do not serve, but tell the memory node of the pool that this host is gone (its
    /// number is in the log line that says that it fell silent) and will never write again, and
    /// wait until what its participants held is given back. Say so only when the host is off.
    #[arg(long, value_name = "HOST", requires = "pool", value_parser = host_number)]
    pub(crate) confirm_lost: Option<u64>,

    /// With --pool: take the memory from this NUMA node.
    #[arg(long, value_name = "N", requires = "pool")]
    pub(crate) numa_node: Option<u32>,

    /// Pin the poll loop to this core. Over DPDK several may be named: each has a poll loop, a
    /// session and a queue pair of the port of its own, and all share the pool.
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<CoreList>,

    /// What the poll loop does when there is nothing to do: busy (lowest latency, takes the whole
    /// core), yield (shares it), sleep (waits for packets).
    #[arg(long, default_value_t = IdleStrategy::Sleep, value_name = "STRATEGY")]
    pub(crate) idle: IdleStrategy,

    /// Most sessions at a time.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) sessions: usize,

    /// Most sessions at a time of one address, whatever its ports; three quarters of --sessions if
    /// not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sessions_per_address: Option<u32>,

    /// Slots of a session, that is, requests in flight: a power of two up to 64.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) slots: u16,

    /// Most memory that one session may have; the whole pool if not given.
    #[arg(long, value_name = "SIZE")]
    pub(crate) session_quota: Option<ByteSize>,

    /// Most regions that one session may have; as many as there are if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) session_regions: Option<u32>,

    /// Most references that one session may own; as many as there are if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) session_references: Option<u32>,

    /// Most memory that one session's writes in progress may take; what comes beyond waits.
    #[arg(long, value_name = "SIZE")]
    pub(crate) session_staged: Option<ByteSize>,

    /// Most long writes that one session may have in progress; what comes beyond waits. Three
    /// quarters of what the pool has room for if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) session_writes: Option<u32>,

    /// Most detached references that one session may have made and nobody has taken; three
    /// quarters of what the pool has room for if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) session_detached: Option<u32>,

    /// Largest datagram. 9000B over UDP, 1472B over DPDK if not given. A session has what both ends
    /// agree on; over UDP less where the way is known to carry less in one piece.
    #[arg(long, value_name = "SIZE",
        value_parser = size_between(DATAGRAM_SIZES.0, DATAGRAM_SIZES.1))]
    pub(crate) datagram_size: Option<ByteSize>,

    #[command(flatten)]
    pub(crate) driver: DriverArgs,

    /// How long a silent session keeps its memory.
    #[arg(long, default_value = "10s", value_name = "TIME",
        value_parser = span_between(TimeSpan(SECOND), TimeSpan(DAY)))]
    pub(crate) lease: TimeSpan,

    /// How long references outlive their owner, so that receivers can claim them.
    #[arg(long, default_value = "10s", value_name = "TIME",
        value_parser = span_between(TimeSpan(Duration::ZERO), TimeSpan(DAY)))]
    pub(crate) grace: TimeSpan,

    /// Do not ask for a checksum over payloads (headers always have one). Clients may still ask.
    /// Through a pool in coherent mode nobody does.
    #[arg(long)]
    pub(crate) no_payload_check: bool,

    /// How senders of long writes are slowed down when the network delays them: swift or none.
    /// Through a pool or net_memif there is no network, and they are not.
    #[arg(long, default_value = "swift", value_name = "NAME")]
    pub(crate) congestion: Congestion,

    /// Speak only to nodes that have the same pre-shared key: the contents of this file, at least
    /// 16 bytes. Without it, the environment variable DMRPC_KEY may hold the key itself.
    #[arg(long, env = "DMRPC_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Encrypt every packet (AES-128-GCM). Needs a pre-shared key, and --encrypt at the other end
    /// too: who does not encrypt is refused.
    #[arg(long, env = "DMRPC_ENCRYPT")]
    pub(crate) encrypt: bool,

    /// Print rates and pool use to standard error in this interval, such as 1s.
    #[arg(long, value_name = "TIME",
        value_parser = span_between(TimeSpan(MILLISECOND), TimeSpan(DAY)))]
    pub(crate) report: Option<TimeSpan>,

    /// Reports as JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

//! The node that makes the operations.

use std::net::SocketAddrV4;
use std::sync::Arc;

use dmrpc_choice::{AnyDevice, data_pool};
use dmrpc_cn::{BufferClass, Method, Node, NodeConfig, Peer};
use dmrpc_core::time::Duration;
use dmrpc_host::key;

use crate::args::Args;
use crate::error::AppError;
use crate::servers::Server;
use crate::session::Session;

/// The node of a program.
pub type Client = Node<AnyDevice>;

/// The method that an echo is called by. It answers any.
pub const ECHO: Method = Method(1);

/// Slots of a session.
const SLOTS: u16 = 64;
/// The same where calls are spread over many: nine for these, seven for calls within calls.
const SLOTS_OF_MANY: u16 = 16;
/// Sessions of a node: enough for any concurrency however few slots the other end gives.
const SESSIONS: usize = 32;
/// Calls at a time in a session with a server that was brought up here: it gives [`SLOTS`].
const CALLS_LOCAL: usize = 32;
/// Calls at a time in a session with another server, which may give no more than 16 slots.
const CALLS_CLUSTER: usize = 8;
/// Small buffers of a node.
const SMALL_COUNT: usize = 64;
/// Longest answer that is small, in bytes: with its head it fits the smallest buffer.
const SMALL_BYTES: usize = 4 << 10;
/// How long a server that was stopped may take to be heard of again.
const RECOVERY: Duration = Duration::from_secs(2);

/// Opens a node with `count` buffers of `bytes` bytes, and a few small ones.
///
/// # Errors
/// [`AppError::Open`].
pub fn open(session: &mut Session<'_>, count: usize, bytes: usize) -> Result<Client, AppError> {
    let address = session.servers.client_address();
    open_at(session, address, count, bytes)
}

/// Opens another node beside the one that [`open`] has opened, on a port of the kernel's choice.
///
/// # Errors
/// [`AppError::Open`].
pub fn open_beside(
    session: &mut Session<'_>,
    count: usize,
    bytes: usize,
) -> Result<Client, AppError> {
    let address = SocketAddrV4::new(*session.servers.client_address().ip(), 0);
    open_at(session, address, count, bytes)
}

fn open_at(
    session: &mut Session<'_>,
    address: SocketAddrV4,
    count: usize,
    bytes: usize,
) -> Result<Client, AppError> {
    let none = BufferClass { count: 0, bytes: 0 };
    let small = BufferClass { count: SMALL_COUNT, bytes: SMALL_BYTES.min(bytes) };
    let args = session.args;
    let config = NodeConfig {
        datagram_bytes: args.datagram_bytes(),
        client_sessions: args.sessions.unwrap_or(SESSIONS),
        server_sessions: 1,
        slots: slots(args),
        calls: 512,
        tasks: 1,
        buffers: [none, small, BufferClass { count, bytes }],
        idle: args.idle,
        payload_check: !args.no_payload_check,
        key: key::load(args.key_file.as_deref())?,
        congestion: args.congestion,
        encrypt: session.servers.encrypts(),
        deadline: args.deadline.0,
        ..NodeConfig::at(address)
    };
    let device = session.servers.device(address)?;
    let local = device.local_addr();
    let pool = device.pool().map(|(pool, index)| (Arc::clone(pool), index));
    let node = Node::new(device, local, &config)?;
    // Where there is a memory node, its store is in the pool by now.
    if let Some((pool, index)) = pool
        && session.servers.address(Server::MemoryNode).is_ok()
    {
        node.share_pool(&pool, index).map_err(AppError::Store)?;
    }
    if args.local.is_none()
        && let Ok(memory_node) = session.servers.address(Server::MemoryNode)
        && let Some((pool, slot)) = data_pool(&args.driver)?
    {
        node.share_memory_of(memory_node, &pool, slot).map_err(AppError::Store)?;
    }
    Ok(node)
}

/// Slots of a session, at both ends.
pub fn slots(args: &Args) -> u16 {
    if args.sessions.is_some() { SLOTS_OF_MANY } else { SLOTS }
}

/// Connects to a server, which must be running.
///
/// # Errors
/// [`AppError::Connect`]: nobody there.
pub fn connect(
    session: &mut Session<'_>,
    client: &Client,
    server: Server,
) -> Result<Peer, AppError> {
    session.servers.activate(server)?;
    Ok(client.connect(session.servers.address(server)?)?)
}

/// Opens as many sessions with a server as `concurrency` calls need, or as the command line wants.
///
/// # Errors
/// As [`connect`].
pub fn connect_for(
    session: &mut Session<'_>,
    client: &Client,
    server: Server,
    concurrency: usize,
) -> Result<Vec<Peer>, AppError> {
    let calls = if session.args.local.is_some() { CALLS_LOCAL } else { CALLS_CLUSTER };
    let count = session.args.sessions.unwrap_or(concurrency.div_ceil(calls));
    (0..count).map(|_| connect(session, client, server)).collect()
}

/// Polls until a peer that was stopped for a while is heard of again; the next operation tells if
/// it is not.
pub fn wait_up(client: &Client, peer: Peer) {
    wait_all_up(client, &[peer]);
}

/// The same of several, for no longer than of one: thousands may have been lost at once.
pub fn wait_all_up(client: &Client, peers: &[Peer]) {
    let end = client.now() + RECOVERY;
    for peer in peers {
        while !client.is_up(*peer) && client.now() < end {
            client.step();
        }
    }
}

/// So many times in a row a silent server is waited for.
const PATIENCE: u32 = 10;

/// Makes an operation, again if the server was silent and nothing was sent.
///
/// # Errors
/// What the operation says.
pub fn patiently<T, E: Into<AppError>>(
    client: &Client,
    peer: Peer,
    mut operation: impl FnMut() -> Result<T, E>,
) -> Result<T, AppError> {
    for _ in 0..PATIENCE {
        match operation().map_err(Into::into) {
            Err(error) if error.is_suspicion() => wait_up(client, peer),
            result => return result,
        }
    }
    operation().map_err(Into::into)
}

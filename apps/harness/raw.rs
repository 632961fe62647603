//! The bare device, measured in blocks.
//!
//! | `op` | what | over |
//! |---|---|---|
//! | `raw_rtt` | one round trip at a time | the bare socket where there is one; else the device |
//! | `raw_echo` | several round trips at a time, one datagram each way | the device |
//! | `raw_oneway` | as fast as the device takes it, one way | the device |

use std::net::SocketAddrV4;

use dmrpc_choice::AnyDevice;
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;
use dmrpc_host::raw::socket::RawSocket;
use dmrpc_host::raw::{RawClient, RawResult};

use crate::args::{Args, Driver};
use crate::block::{Block, Budget, Tally};
use crate::error::AppError;
use crate::frames::{Exchange, Frames};
use crate::servers::{Server, Servers};
use crate::train::TrainClient;

/// Round trips between two looks at the clock.
const CHUNK: u64 = 16;
/// The part of a one-way block that goes by before it counts.
const ONEWAY_SPAN_MIN: Duration = Duration::from_millis(5);

/// This side's sockets.
#[derive(Default)]
pub struct RawDevices {
    /// Where there is a socket below the device.
    socket: Option<RawSocket>,
    device: Option<AnyDevice>,
}

/// This side of the bare device.
pub struct Raw<'a> {
    socket: Option<(&'a mut RawSocket, SocketAddrV4)>,
    device: RawClient<'a, AnyDevice>,
    train: TrainClient<AnyDevice>,
    datagram_bytes_max: usize,
}

/// The servers that [`Raw`] measures against.
pub const RAW_SERVERS: [Server; 3] = [Server::RawSocket, Server::RawDevice, Server::RawTrain];
/// How many devices [`RawDevices::connect`] opens, which stay open as long as it measures.
pub(crate) const RAW_DEVICES: usize = 2;

impl RawDevices {
    /// Opens the sockets if `--raw` asks for them.
    ///
    /// # Errors
    /// As [`RawDevices::open`].
    pub fn if_wanted(args: &Args) -> Result<Option<Self>, AppError> {
        args.raw.then(|| Self::open(args)).transpose()
    }

    /// Opens the sockets, if there are any below the device.
    ///
    /// # Errors
    /// Loopback has no port left.
    pub fn open(args: &Args) -> Result<Self, AppError> {
        let os = |source| AppError::Bind { address: args.bind, source };
        let socket = match args.local {
            Some(Driver::Udp) => Some(RawSocket::bind(args.bind).map_err(os)?),
            _ => None,
        };
        Ok(Self { socket, device: None })
    }

    /// What measures against the raw servers of `servers`.
    ///
    /// # Errors
    /// They were not asked for, or a socket cannot be opened.
    pub fn connect(&mut self, args: &Args, servers: &mut Servers) -> Result<Raw<'_>, AppError> {
        let socket = match &mut self.socket {
            Some(socket) => Some((socket, servers.address(Server::RawSocket)?)),
            None => None,
        };
        let device = self.device.insert(servers.raw_device(args, Server::RawDevice)?);
        let train = servers.raw_device(args, Server::RawTrain)?;
        Ok(Raw {
            socket,
            device: RawClient::new(device, servers.address(Server::RawDevice)?),
            train: TrainClient::new(train, servers.address(Server::RawTrain)?),
            datagram_bytes_max: args.datagram_bytes(),
        })
    }
}

impl Raw<'_> {
    /// The datagrams of both messages of an exchange.
    pub fn frames(&self, exchange: Exchange) -> (Frames, Frames) {
        exchange.frames(self.datagram_bytes_max)
    }

    /// The server that [`Raw::rtt`] needs to be running.
    pub fn rtt_server(&self, exchange: Exchange) -> Server {
        let (request, answer) = self.frames(exchange);
        match (request.count, answer.count) {
            (1, 1) if self.socket.is_some() => Server::RawSocket,
            (1, 1) => Server::RawDevice,
            _ => Server::RawTrain,
        }
    }

    /// A block of `raw_rtt`: the datagrams of `exchange`, one exchange at a time.
    ///
    /// # Errors
    /// [`AppError::Raw`].
    pub fn rtt(
        &mut self,
        clock: &Clock,
        block: &mut Block,
        exchange: Exchange,
    ) -> Result<Tally, AppError> {
        let (request, answer) = self.frames(exchange);
        if (request.count, answer.count) != (1, 1) {
            return Ok(self.train.rtt(clock, block, request, answer)?);
        }
        let mut tally = Tally::new();
        while block.more(clock, tally.count) {
            let chunk = match block.budget() {
                Budget::Count(count) => CHUNK.min(count - tally.count),
                Budget::Span(_) => CHUNK,
            };
            let (request, answer) = (request.last_bytes, answer.last_bytes);
            let result = match &mut self.socket {
                Some((socket, peer)) => socket.rtt(clock, *peer, request, answer, chunk)?,
                None => self.device.rtt(request, answer, chunk)?,
            };
            tally.merge(&of_result(&result));
        }
        Ok(tally)
    }

    /// A block of `raw_echo`: the datagrams of `exchange`, one each way, `window` at a time.
    ///
    /// # Errors
    /// [`AppError::Raw`]; a message of several datagrams among them.
    pub fn echo(
        &mut self,
        clock: &Clock,
        block: &mut Block,
        exchange: Exchange,
        window: usize,
    ) -> Result<Tally, AppError> {
        let (request, answer) = self.frames(exchange);
        let mut tally = Tally::new();
        let chunk = (window as u64 * CHUNK).max(512);
        while block.more(clock, tally.count) {
            let (request, answer) = (request.total_bytes(), answer.total_bytes());
            let result = self.device.echo(request, answer, window as u32, chunk)?;
            tally.merge(&of_result(&result));
        }
        Ok(tally)
    }

    /// A block of `raw_oneway`: datagrams of `bytes` bytes, for the time of the block.
    ///
    /// # Errors
    /// [`AppError::Raw`].
    pub fn oneway(&mut self, block: &Block, bytes: usize) -> Result<Tally, AppError> {
        let span = match block.budget() {
            Budget::Span(span) => span.max(ONEWAY_SPAN_MIN),
            Budget::Count(_) => ONEWAY_SPAN_MIN,
        };
        let result = self.device.oneway(bytes, span)?;
        // What the kernel dropped is not an error of a device without a protocol.
        Ok(Tally { count: result.count, elapsed_ns: result.elapsed.as_nanos(), ..Tally::new() })
    }
}

fn of_result(result: &RawResult) -> Tally {
    Tally {
        histogram: result.histogram.clone(),
        count: result.count,
        errors: result.lost,
        verified: 0,
        elapsed_ns: result.elapsed.as_nanos(),
    }
}

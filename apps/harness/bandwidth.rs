//! Sizes and numbers in flight, row by row: what `bandwidth_read_test`, `bandwidth_write_test` and
//! `rpc_test` have in common.

use std::process::ExitCode;

use dmrpc_cn::Peer;
use dmrpc_host::clock::Clock;

use crate::args::Args;
use crate::block::{Block, Budget, Tally};
use crate::client::{self, Client};
use crate::error::AppError;
use crate::frames::{Exchange, Frames};
use crate::interleave::Compare;
use crate::pattern::Random;
use crate::raw::{RAW_SERVERS, Raw, RawDevices};
use crate::row::Subject;
use crate::servers::{Server, Sharing};
use crate::session::{self, Session};
use crate::window::{self, Traffic};

/// Most operations in flight.
pub const CONCURRENCY_MAX: usize = 128;

/// Most bytes of one operation: a message.
pub const SIZE_MAX: u64 = 8 << 20;

/// Operations of the untimed pass, as a multiple of those in flight.
const WARMUP_WINDOWS: u64 = 4;

/// Most bytes of the untimed pass.
const WARMUP_BYTES_MAX: u64 = 64 << 20;

/// Which yardstick stands beside the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// `raw_oneway`: datagrams like those of the request.
    Request,
    /// `raw_oneway`: datagrams like those of the answer.
    Answer,
    /// `raw_echo` where request and answer are a datagram each, else `raw_oneway`.
    Both,
}

/// A program: its operation, its server, and its yardstick.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The operation.
    pub op: &'static str,
    /// Who answers.
    pub server: Server,
    /// The messages of an operation of so many bytes.
    pub exchange: fn(usize) -> Exchange,
    /// What it is compared with.
    pub beside: Beside,
    /// Sizes unless others are given, in bytes.
    pub sizes: &'static [u64],
    /// Numbers in flight unless others are given.
    pub concurrency: &'static [usize],
}

/// The yardstick of one row.
#[derive(Clone, Copy, Debug)]
struct Yardstick {
    op: &'static str,
    /// Bytes that one operation of it moves.
    size_bytes: usize,
    datagrams: usize,
    datagram_bytes: usize,
    compare: Compare,
}

impl Program {
    /// Runs the program: brings up what it needs, measures all rows, says how the process is to
    /// end.
    pub fn main(&self, args: &Args, traffic: impl TrafficOf) -> ExitCode {
        let mut needed = vec![self.server];
        needed.extend(RAW_SERVERS);
        session::main(self.name, args, &needed, Sharing::InTurns, |session| {
            self.run(session, traffic)
        })
    }

    /// Measures all rows. `traffic` makes the operations of one row: of so many bytes, in these
    /// sessions.
    fn run<F>(&self, session: &mut Session<'_>, mut traffic: F) -> Result<(), AppError>
    where
        F: TrafficOf,
    {
        session.zero_copy = traffic.zero_copy();
        let args = session.args;
        let sizes = args.sizes_within(self.sizes, 1..=SIZE_MAX)?;
        let numbers = args.concurrency_within(self.concurrency, CONCURRENCY_MAX)?;
        let mut devices = RawDevices::if_wanted(args)?;
        let raw = devices.as_mut().map(|devices| devices.connect(args, &mut session.servers));
        let mut raw = raw.transpose()?;
        for bytes in sizes {
            for &concurrency in &numbers {
                // A source and a place for the answer each, and as many that are on their way back.
                let client = client::open(session, 2 * concurrency + 2, bytes)?;
                let peers = client::connect_for(session, &client, self.server, concurrency)?;
                let mut traffic = traffic.of(&client, &peers, args.seed, bytes)?;
                let mut row = RowRun { program: self, client: &client, bytes, concurrency };
                row.measure(session, &mut traffic, raw.as_mut())?;
                drop(traffic);
                peers.iter().for_each(|peer| client.disconnect(*peer));
                client.step();
            }
        }
        Ok(())
    }

    fn yardstick(&self, bytes: usize, datagram_bytes_max: usize) -> Yardstick {
        let (request, answer) = (self.exchange)(bytes).frames(datagram_bytes_max);
        let oneway = |frames: Frames| {
            // What is sent one way is full datagrams, unless there is only one.
            let datagram = frames.bytes(0);
            let compare = match frames.count {
                1 => Compare::Rates(1, 1),
                _ => Compare::Rates(bytes as u64, datagram as u64),
            };
            Yardstick {
                op: "raw_oneway",
                size_bytes: datagram,
                datagrams: 1,
                datagram_bytes: datagram,
                compare,
            }
        };
        match self.beside {
            Beside::Request => oneway(request),
            Beside::Answer => oneway(answer),
            Beside::Both if (request.count, answer.count) == (1, 1) => Yardstick {
                op: "raw_echo",
                size_bytes: bytes,
                datagrams: 2,
                datagram_bytes: request.total_bytes() + answer.total_bytes(),
                compare: Compare::Rates(1, 1),
            },
            Beside::Both => oneway(request),
        }
    }
}

/// Makes the [`Traffic`] of a row. A trait because the traffic borrows the row's client.
pub trait TrafficOf {
    /// The traffic.
    type Traffic<'c>: Traffic;

    /// Whether bytes are looked at where they came in.
    fn zero_copy(&self) -> bool {
        false
    }

    /// Operations of `bytes` bytes in the sessions `peers`.
    ///
    /// # Errors
    /// What they need is not there.
    fn of<'c>(
        &mut self,
        client: &'c Client,
        peers: &[Peer],
        seed: u64,
        bytes: usize,
    ) -> Result<Self::Traffic<'c>, AppError>;
}

/// One row.
struct RowRun<'r> {
    program: &'r Program,
    client: &'r Client,
    bytes: usize,
    concurrency: usize,
}

impl RowRun<'_> {
    fn measure(
        &mut self,
        session: &mut Session<'_>,
        traffic: &mut impl Traffic,
        raw: Option<&mut Raw<'_>>,
    ) -> Result<(), AppError> {
        let (client, concurrency) = (self.client, self.concurrency);
        let args = session.args;
        let mut random = Random::new(args.seed);
        session.servers.activate(self.program.server)?;
        let count = args.warmup.max(WARMUP_WINDOWS * concurrency as u64);
        let count = count.min((WARMUP_BYTES_MAX / self.bytes as u64).max(2 * concurrency as u64));
        let block = &mut Block::start(&session.clock, Budget::Count(count));
        let all = (&mut random, true);
        let warm = window::measure(traffic, client, (&session.clock, block), concurrency, all)?;

        let yardstick = self.program.yardstick(self.bytes, args.datagram_bytes());
        let exchange = (self.program.exchange)(self.bytes);
        let server = self.program.server;
        let ours = |clock: &Clock, block: &mut Block| {
            let sample = (&mut random, false);
            window::measure(traffic, client, (clock, block), concurrency, sample)
                .map(|tally| [tally])
        };
        let what = format!("{} {} B, {concurrency} in flight", self.program.op, self.bytes);
        let has_raw = raw.is_some();
        let turns = match raw {
            None => session.in_turns(&what, (server, ours), None, yardstick.compare)?,
            Some(raw) => {
                let mut bare = |clock: &Clock, block: &mut Block| match yardstick.op {
                    "raw_echo" => raw.echo(clock, block, exchange, concurrency),
                    _ => raw.oneway(block, yardstick.datagram_bytes),
                };
                let bare = Some((Server::RawDevice, &mut bare as &mut _));
                session.in_turns(&what, (server, ours), bare, yardstick.compare)?
            }
        };
        let mut tally: Tally = turns.ours[0].clone();
        tally.verified += warm.verified;
        tally.errors += warm.errors;
        session.row(self.subject(exchange, args.datagram_bytes()), &tally, turns.ratio(0))?;
        if has_raw {
            let subject = Subject {
                op: yardstick.op,
                size_bytes: yardstick.size_bytes,
                concurrency,
                beside: Some(self.program.op),
                datagrams: yardstick.datagrams,
                datagram_bytes: yardstick.datagram_bytes,
            };
            session.row(subject, &turns.bare, None)?;
        }
        Ok(())
    }

    fn subject(&self, exchange: Exchange, datagram_bytes_max: usize) -> Subject {
        let (request, answer) = exchange.frames(datagram_bytes_max);
        Subject {
            op: self.program.op,
            size_bytes: self.bytes,
            concurrency: self.concurrency,
            beside: None,
            datagrams: request.count + answer.count,
            datagram_bytes: request.total_bytes() + answer.total_bytes(),
        }
    }
}

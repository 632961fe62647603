//! `fork_speed`: what making and mapping a reference costs, by the size of what it refers to.
#![forbid(unsafe_code)]

mod ops;

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::Args;
use dmrpc_apps::bandwidth::CONCURRENCY_MAX;
use dmrpc_apps::block::{Block, Tally};
use dmrpc_apps::client::{self, Client};
use dmrpc_apps::cycle;
use dmrpc_apps::echo::{Echo, Rpc};
use dmrpc_apps::error::AppError;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::interleave::{Compare, Turns};
use dmrpc_apps::pattern::Random;
use dmrpc_apps::raw::{RAW_SERVERS, Raw, RawDevices};
use dmrpc_apps::row::{Details, Subject};
use dmrpc_apps::servers::{Server, Sharing};
use dmrpc_apps::session::{self, BareBlock, Companion, Session};
use dmrpc_apps::window;
use dmrpc_cn::Peer;
use dmrpc_host::clock::Clock;

use ops::{Fork, Rate};

/// Measures create_ref and map_ref by the size of what they refer to, beside a call of 64 bytes.
///
/// One at a time: how long each takes. Many in flight: how many references a second are made.
/// Blocks of both alternate with blocks of the call, and with --raw of the bare device; the ratios
/// are medians over pairs of neighbouring blocks.
#[derive(Debug, Parser)]
#[command(
    name = "fork_speed",
    version,
    mut_arg("pool_size", |arg| arg.default_value("1280MiB")),
    after_help = "\
Examples:
  fork_speed --local udp --raw
      All sizes on this machine, each beside a call and the bare device.
  fork_speed --local udp --sizes 4KiB,64GiB --pool-size 66GiB
      The smallest and a very large region; memory is only touched where pages are written.
  fork_speed --cluster cluster.toml --client-index 2 --server-index 0 --server-index 1
      Against a memory node and `dmrpc-cn serve` of a cluster file."
)]
struct Options {
    #[command(flatten)]
    args: Args,
}

/// Sizes measured unless others are given, in bytes.
const SIZES: [u64; 6] = [4 << 10, 64 << 10, 1 << 20, 64 << 20, 256 << 20, 1 << 30];
/// Largest region, in bytes.
const SIZE_MAX: u64 = 1 << 40;
/// Numbers in flight unless others are given.
const CONCURRENCY: [usize; 2] = [1, 16];
/// Bytes of the call beside.
const RPC_BYTES: usize = 64;

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let mut needed = vec![Server::MemoryNode, Server::Echo];
    needed.extend(RAW_SERVERS);
    session::main("fork_speed", &options.args, &needed, Sharing::InTurns, run)
}

fn run(session: &mut Session<'_>) -> Result<(), AppError> {
    let args = session.args;
    let sizes = args.sizes_within(&SIZES, 1..=SIZE_MAX)?;
    let numbers = args.concurrency_within(&CONCURRENCY, CONCURRENCY_MAX)?;
    let mut devices = RawDevices::if_wanted(args)?;
    let raw = devices.as_mut().map(|devices| devices.connect(args, &mut session.servers));
    let mut raw = raw.transpose()?;
    for bytes in sizes {
        for &concurrency in &numbers {
            let client = client::open(session, 2 * concurrency + 2, RPC_BYTES)?;
            let echo = client::connect_for(session, &client, Server::Echo, concurrency)?;
            let memory = client::connect_for(session, &client, Server::MemoryNode, concurrency)?;
            let mut bench =
                Bench { session: &mut *session, client: &client, raw: raw.as_mut(), bytes };
            match concurrency {
                1 => bench.one_at_a_time(memory[0], echo[0])?,
                _ => bench.many(&memory, &echo, concurrency)?,
            }
            memory.iter().chain(&echo).for_each(|peer| client.disconnect(*peer));
            client.step();
        }
    }
    Ok(())
}

/// The rows of one size.
struct Bench<'b, 's, 'r, 'd> {
    session: &'b mut Session<'s>,
    client: &'b Client,
    raw: Option<&'r mut Raw<'d>>,
    bytes: usize,
}

/// What a row has been measured beside.
struct Beside<const N: usize> {
    rpc: Turns<N>,
    raw: Option<Turns<N>>,
}

impl<const N: usize> Beside<N> {
    fn details(&self, index: usize) -> Details {
        Details {
            ratio_to_raw: self.raw.as_ref().and_then(|raw| raw.ratio(index)),
            ratio_to_rpc: self.rpc.ratio(index),
            ..Details::default()
        }
    }
}

/// The messages of making a reference.
const CREATE: Exchange = Exchange::with_refs(0, 1);
/// The messages of mapping one.
const MAP: Exchange = Exchange::with_refs(1, 0);

impl Bench<'_, '_, '_, '_> {
    fn one_at_a_time(&mut self, memory: Peer, echo: Peer) -> Result<(), AppError> {
        let args = self.session.args;
        let mut fork = Fork::new(self.client, memory, args.seed, self.bytes as u64)?;
        let mut call = Rpc::new(self.client, echo, args.seed, RPC_BYTES);
        let clock = &self.session.clock;
        let warm = cycle::warm_up(&mut fork, clock, args.warmup)?;
        self.session.servers.activate(Server::Echo)?;
        let warm_rpc = cycle::warm_up(&mut call, &self.session.clock, args.warmup)?;
        let mut random = Random::new(args.seed);
        let mut other_random = random.clone();
        let ours =
            |clock: &Clock, block: &mut Block| cycle::measure(&mut fork, clock, block, &mut random);
        let mut rpc = |clock: &Clock, block: &mut Block| {
            cycle::measure(&mut call, clock, block, &mut other_random).map(|[tally]| tally)
        };
        let rtt_server = self.raw.as_ref().map(|raw| raw.rtt_server(CREATE));
        let mut rtt =
            |raw: &mut Raw<'_>, clock: &Clock, block: &mut Block| raw.rtt(clock, block, CREATE);
        let turns = self.in_turns(ours, &mut rpc, (rtt_server, &mut rtt), Compare::Medians)?;
        fork.end()?;
        for (index, (op, exchange)) in [("create_ref", CREATE), ("map_ref", MAP)].iter().enumerate()
        {
            let mut tally = turns.rpc.ours[index].clone();
            tally.verified += warm[index].verified;
            let subject = self.subject(op, *exchange, 1, None);
            self.session.row_with(subject, &tally, turns.details(index))?;
        }
        let [warm_rpc] = warm_rpc;
        self.other_rows(&turns, "raw_rtt", 1, warm_rpc.verified)
    }

    fn many(&mut self, memory: &[Peer], echo: &[Peer], flights: usize) -> Result<(), AppError> {
        let args = self.session.args;
        let mut rate = Rate::new(self.client, memory, args.seed, self.bytes as u64)?;
        let mut echoes = Echo::new(self.client, echo, args.seed, RPC_BYTES);
        let (mut random, mut other_random) = (Random::new(args.seed), Random::new(args.seed));
        let client = self.client;
        let ours = |clock: &Clock, block: &mut Block| {
            rate.measure((clock, block), flights, &mut random).map(|tally| [tally])
        };
        let mut rpc = |clock: &Clock, block: &mut Block| {
            let sample = (&mut other_random, false);
            window::measure(&mut echoes, client, (clock, block), flights, sample)
        };
        let echo_server = self.raw.as_ref().map(|_| Server::RawDevice);
        let mut bare = |raw: &mut Raw<'_>, clock: &Clock, block: &mut Block| {
            raw.echo(clock, block, CREATE, flights)
        };
        let rates = Compare::Rates(1, 1);
        let turns = self.in_turns(ours, &mut rpc, (echo_server, &mut bare), rates)?;
        rate.end()?;
        let subject = self.subject("create_ref", CREATE, flights, None);
        self.session.row_with(subject, &turns.rpc.ours[0], turns.details(0))?;
        self.other_rows(&turns, "raw_echo", flights, 0)
    }

    /// Rounds of ours, the call and, if it is there, the bare device.
    fn in_turns<const N: usize>(
        &mut self,
        ours: impl FnMut(&Clock, &mut Block) -> Result<[Tally; N], AppError>,
        rpc: &mut BareBlock<'_>,
        (bare_server, bare): (Option<Server>, &mut RawBlock<'_>),
        compare: Compare,
    ) -> Result<Beside<N>, AppError> {
        let what = format!("create_ref {} B", self.bytes);
        let ours = (Server::MemoryNode, ours);
        let rpc = Companion { server: Server::Echo, block: rpc, compare };
        match (&mut self.raw, bare_server) {
            (Some(raw), Some(server)) => {
                let mut block = |clock: &Clock, block: &mut Block| bare(raw, clock, block);
                let mut others = [rpc, Companion { server, block: &mut block, compare }];
                let [rpc, raw] = self.session.in_turns_with(&what, ours, &mut others)?;
                Ok(Beside { rpc, raw: Some(raw) })
            }
            _ => {
                let [rpc] = self.session.in_turns_with(&what, ours, &mut [rpc])?;
                Ok(Beside { rpc, raw: None })
            }
        }
    }

    /// The rows of what ours was measured beside.
    fn other_rows<const N: usize>(
        &mut self,
        turns: &Beside<N>,
        raw_op: &'static str,
        concurrency: usize,
        verified: u64,
    ) -> Result<(), AppError> {
        let mut tally = turns.rpc.bare.clone();
        tally.verified += verified;
        let rpc = Exchange::echo(RPC_BYTES);
        let subject = self.subject("rpc", rpc, concurrency, Some("create_ref"));
        let subject = Subject { size_bytes: RPC_BYTES, ..subject };
        self.session.row(subject, &tally, None)?;
        if let Some(raw) = &turns.raw {
            let subject = self.subject(raw_op, CREATE, concurrency, Some("create_ref"));
            self.session.row(subject, &raw.bare, None)?;
        }
        Ok(())
    }

    fn subject(
        &self,
        op: &'static str,
        exchange: Exchange,
        concurrency: usize,
        beside: Option<&'static str>,
    ) -> Subject {
        let (request, answer) = exchange.frames(self.session.args.datagram_bytes());
        Subject {
            op,
            size_bytes: self.bytes,
            concurrency,
            beside,
            datagrams: request.count + answer.count,
            datagram_bytes: request.total_bytes() + answer.total_bytes(),
        }
    }
}

/// A block of the bare device, which is lent to it.
type RawBlock<'a> = dyn FnMut(&mut Raw<'_>, &Clock, &mut Block) -> Result<Tally, AppError> + 'a;

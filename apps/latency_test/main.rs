//! `latency_test`: how long operations take, one at a time, beside the bare socket.
#![forbid(unsafe_code)]

mod ops;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use dmrpc_apps::args::Args;
use dmrpc_apps::block::{Block, Tally};
use dmrpc_apps::client::{self, Client};
use dmrpc_apps::cycle::{self, Cycle};
use dmrpc_apps::echo::Rpc;
use dmrpc_apps::error::AppError;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::interleave::Compare;
use dmrpc_apps::pattern::Random;
use dmrpc_apps::raw::{RAW_SERVERS, Raw, RawDevices};
use dmrpc_apps::row::Subject;
use dmrpc_apps::servers::{Server, Sharing};
use dmrpc_apps::session::{self, Session};
use dmrpc_host::clock::Clock;

use ops::{REFERENCE_OPS, Read, References, Write};

/// Measures how long operations take, one at a time.
///
/// `rpc` calls an echo, `read` and `write` move bytes of a region, `references` is the life of a
/// region and of a reference to it: alloc, create_ref, map_ref, drop_ref, free.
#[derive(Debug, Parser)]
#[command(
    name = "latency_test",
    version,
    after_help = "\
Examples:
  latency_test --local udp --raw
      All operations on this machine, each beside the bare socket.
  latency_test --local udp --raw --ops rpc --sizes 64B --seconds 5 --json
      One row, measured for 5 seconds, as JSON.
  latency_test --cluster cluster.toml --client-index 2 --server-index 0 --ops read,write
      Against the memory node of a cluster file."
)]
struct Options {
    #[command(flatten)]
    args: Args,

    /// What to measure.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        default_values = ["rpc", "read", "write", "references"]
    )]
    ops: Vec<Op>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Op {
    Rpc,
    Read,
    Write,
    References,
}

/// Sizes measured unless others are given, in bytes.
const SIZES: [u64; 6] = [64, 1 << 10, 4 << 10, 32 << 10, 256 << 10, 1 << 20];
/// Sizes of regions for `references`.
const REGION_SIZES: [u64; 2] = [4 << 10, 1 << 20];
/// Most bytes of one operation: a message.
const SIZE_MAX: u64 = 8 << 20;

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let mut needed = Vec::new();
    if options.ops.contains(&Op::Rpc) {
        needed.push(Server::Echo);
    }
    if options.ops.iter().any(|op| *op != Op::Rpc) {
        needed.push(Server::MemoryNode);
    }
    needed.extend(RAW_SERVERS);
    session::main("latency_test", &options.args, &needed, Sharing::InTurns, |session| {
        run(session, &options.ops)
    })
}

fn run(session: &mut Session<'_>, ops: &[Op]) -> Result<(), AppError> {
    let args = session.args;
    let sizes = args.sizes_within(&SIZES, 1..=SIZE_MAX)?;
    let region_sizes = args.sizes_within(&REGION_SIZES, 1..=SIZE_MAX)?;
    let mut devices = RawDevices::if_wanted(args)?;
    let raw = devices.as_mut().map(|devices| devices.connect(args, &mut session.servers));
    let mut raw = raw.transpose()?;
    for op in ops {
        let server = if *op == Op::Rpc { Server::Echo } else { Server::MemoryNode };
        let client = client::open(session, 0, 0)?;
        let peer = client::connect(session, &client, server)?;
        let sizes = if *op == Op::References { &region_sizes } else { &sizes };
        for &bytes in sizes {
            let mut bench = Bench { session: &mut *session, raw: raw.as_mut(), server, bytes };
            let seed = args.seed;
            match op {
                Op::Rpc => {
                    let mut rpc = Rpc::new(&client, peer, seed, bytes);
                    bench.rows(["rpc"], &mut rpc, Exchange::echo(bytes))?;
                }
                Op::Read => {
                    let mut read = Read::new(&client, peer, seed, bytes)?;
                    bench.rows(["read"], &mut read, Exchange::memory(0, bytes))?;
                    read.end()?;
                }
                Op::Write => {
                    let mut write = Write::new(&client, peer, seed, bytes)?;
                    bench.rows(["write"], &mut write, Exchange::memory(bytes, 0))?;
                    write.end()?;
                }
                Op::References => {
                    let mut references = References::new(&client, peer, seed, bytes);
                    bench.rows(REFERENCE_OPS, &mut references, Exchange::memory(0, 0))?;
                }
            }
        }
        end(&client, peer);
    }
    Ok(())
}

/// Says goodbye: the session's memory comes back at once.
fn end(client: &Client, peer: dmrpc_cn::Peer) {
    client.disconnect(peer);
    client.step();
}

/// One row, or several that are measured in the same blocks.
struct Bench<'b, 's, 'r, 'd> {
    session: &'b mut Session<'s>,
    raw: Option<&'r mut Raw<'d>>,
    server: Server,
    bytes: usize,
}

impl Bench<'_, '_, '_, '_> {
    /// Measures `names` and the bare socket with the datagrams of `exchange`, and prints the rows.
    fn rows<const N: usize>(
        &mut self,
        names: [&'static str; N],
        cycle: &mut impl Cycle<N>,
        exchange: Exchange,
    ) -> Result<(), AppError> {
        let (session, bytes) = (&mut *self.session, self.bytes);
        session.servers.activate(self.server)?;
        let warm = cycle::warm_up(cycle, &session.clock, session.args.warmup)?;
        let mut random = Random::new(session.args.seed);
        let ours =
            |clock: &Clock, block: &mut Block| cycle::measure(cycle, clock, block, &mut random);
        let what = format!("{} {bytes} B", names[0]);
        let turns = match &mut self.raw {
            None => session.in_turns(&what, (self.server, ours), None, Compare::Medians)?,
            Some(raw) => {
                let raw_server = raw.rtt_server(exchange);
                let mut bare = |clock: &Clock, block: &mut Block| raw.rtt(clock, block, exchange);
                let bare = Some((raw_server, &mut bare as &mut _));
                session.in_turns(&what, (self.server, ours), bare, Compare::Medians)?
            }
        };
        for (index, op) in names.into_iter().enumerate() {
            let mut tally: Tally = turns.ours[index].clone();
            tally.verified += warm[index].verified;
            let subject = self.subject(op, None, exchange);
            self.session.row(subject, &tally, turns.ratio(index))?;
        }
        if self.raw.is_some() {
            let subject = self.subject("raw_rtt", Some(names[0]), exchange);
            self.session.row(subject, &turns.bare, None)?;
        }
        Ok(())
    }

    fn subject(
        &self,
        op: &'static str,
        beside: Option<&'static str>,
        exchange: Exchange,
    ) -> Subject {
        let (request, answer) = exchange.frames(self.session.args.datagram_bytes());
        Subject {
            op,
            size_bytes: self.bytes,
            concurrency: 1,
            beside,
            datagrams: request.count + answer.count,
            datagram_bytes: request.total_bytes() + answer.total_bytes(),
        }
    }
}

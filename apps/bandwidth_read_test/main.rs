//! `bandwidth_read_test`: how many bytes a second are read, many reads in flight.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::Args;
use dmrpc_apps::bandwidth::{Beside, Program, TrafficOf};
use dmrpc_apps::client::{Client, wait_up};
use dmrpc_apps::error::AppError;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::places::Places;
use dmrpc_apps::raw::RAW_SERVERS;
use dmrpc_apps::servers::{Server, Sharing};
use dmrpc_apps::session;
use dmrpc_apps::window::{Begun, Ended, Traffic};
use dmrpc_cn::memory::Cause;
use dmrpc_cn::{Error, Finished, Peer};

/// Measures how many bytes a second are read from a memory node, with many reads in flight.
#[derive(Debug, Parser)]
#[command(
    name = "bandwidth_read_test",
    version,
    after_help = "\
Examples:
  bandwidth_read_test --local udp --raw
      All sizes and numbers in flight on this machine, each beside the bare device.
  bandwidth_read_test --local udp --sizes 1MiB --concurrency 16 --seconds 5 --json
      One row, measured for 5 seconds, as JSON."
)]
struct Options {
    #[command(flatten)]
    args: Args,
}

const PROGRAM: Program = Program {
    op: "read",
    server: Server::MemoryNode,
    exchange: |bytes| Exchange::memory(0, bytes),
    beside: Beside::Answer,
    sizes: &[64, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 8 << 20],
    concurrency: &[1, 4, 16],
};

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let mut needed = vec![Server::MemoryNode];
    needed.extend(RAW_SERVERS);
    session::main("bandwidth_read_test", &options.args, &needed, Sharing::InTurns, |session| {
        PROGRAM.run(session, Reads)
    })
}

struct Reads;

impl TrafficOf for Reads {
    type Traffic<'c> = Read<'c>;

    fn of<'c>(
        &mut self,
        client: &'c Client,
        peers: &[Peer],
        seed: u64,
        bytes: usize,
    ) -> Result<Read<'c>, AppError> {
        let lanes = peers.iter().map(|&peer| Places::new(client, peer, seed, bytes));
        Ok(Read { client, lanes: lanes.collect::<Result<_, _>>()?, next: 0 })
    }
}

/// Reads of random places.
struct Read<'c> {
    client: &'c Client,
    /// The places of each session.
    lanes: Vec<Places>,
    /// The session whose turn it is.
    next: usize,
}

impl Traffic for Read<'_> {
    /// The session and the place.
    type Context = (usize, usize);

    fn begin(&mut self) -> Result<Begun<(usize, usize)>, AppError> {
        for _ in 0..self.lanes.len() {
            let lane = self.next;
            self.next = (lane + 1) % self.lanes.len();
            let places = &mut self.lanes[lane];
            let place = places.choose();
            let (region, offset, bytes) = (places.region(), places.offset(place), places.bytes());
            let pipeline = self.client.memory(region.peer).start();
            match pipeline.read(region, offset, bytes) {
                Ok(ticket) => return Ok(Begun::Operation(ticket, (lane, place))),
                Err(error) if matches!(error.cause, Cause::Call(error) if error.is_room()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Begun::Full)
    }

    fn end(
        &mut self,
        (lane, place): (usize, usize),
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError> {
        let buffer = result?.bytes_read()?;
        if verify {
            let places = &self.lanes[lane];
            let found = buffer.as_deref().unwrap_or_default();
            places.check("read", places.sequence(place), found)?;
        }
        Ok(Ended::Counted { verified: verify })
    }

    fn prepare(&mut self) {
        self.lanes.iter().for_each(|places| wait_up(self.client, places.region().peer));
    }
}

//! `bandwidth_read_test`: how many bytes a second are read, many reads in flight.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::Args;
use dmrpc_apps::bandwidth::{Beside, Program, TrafficOf};
use dmrpc_apps::client::Client;
use dmrpc_apps::error::AppError;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::lanes::{Lanes, room};
use dmrpc_apps::servers::Server;
use dmrpc_apps::window::{Begun, Ended, Traffic};
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
    name: "bandwidth_read_test",
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
    PROGRAM.main(&options.args, Reads)
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
        Ok(Read(Lanes::new(client, peers, seed, bytes)?))
    }
}

/// Reads of random places.
struct Read<'c>(Lanes<'c>);

impl Traffic for Read<'_> {
    /// The session and the place.
    type Context = (usize, usize);

    fn begin(&mut self) -> Result<Begun<(usize, usize)>, AppError> {
        let begun = self.0.begin(|client, lane, places| {
            let place = places.choose();
            let (region, offset, bytes) = (places.region(), places.offset(place), places.bytes());
            let ticket = room(client.memory(region.peer).start().read(region, offset, bytes))?;
            Ok(ticket.map(|ticket| Begun::Operation(ticket, (lane, place))))
        });
        Ok(begun?.unwrap_or(Begun::Full))
    }

    fn end(
        &mut self,
        (lane, place): (usize, usize),
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError> {
        let buffer = result?.bytes_read()?;
        if verify {
            let places = self.0.places(lane);
            let found = buffer.as_deref().unwrap_or_default();
            places.check("read", places.sequence(place), found)?;
        }
        Ok(Ended::Counted { verified: verify })
    }

    fn prepare(&mut self) {
        self.0.wait_up();
    }
}

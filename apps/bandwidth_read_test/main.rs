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
use dmrpc_cn::{Error, Finished, Peer, Ticket};

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
      One row, measured for 5 seconds, as JSON.
  bandwidth_read_test --local memif --sizes 1MiB --concurrency 4 --zero-copy --raw
      The same without copying what comes in out of the device's buffers."
)]
struct Options {
    #[command(flatten)]
    args: Args,
    /// Look at the bytes where they came in, in the device's buffers, instead of copying them to a
    /// buffer.
    #[arg(long)]
    zero_copy: bool,
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
    PROGRAM.main(&options.args, Reads { zero_copy: options.zero_copy })
}

struct Reads {
    zero_copy: bool,
}

impl TrafficOf for Reads {
    type Traffic<'c> = Read<'c>;

    fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    fn of<'c>(
        &mut self,
        client: &'c Client,
        peers: &[Peer],
        seed: u64,
        bytes: usize,
    ) -> Result<Read<'c>, AppError> {
        let lanes = Lanes::new(client, peers, seed, bytes)?;
        Ok(Read { lanes, visits: self.zero_copy.then(Vec::new) })
    }
}

/// Reads of random places.
struct Read<'c> {
    lanes: Lanes<'c>,
    /// Reads under way whose bytes are looked at where they come in, if that is wanted.
    visits: Option<Vec<Visited>>,
}

/// A read whose bytes are looked at where they come in.
struct Visited {
    ticket: Ticket,
    lane: usize,
    sequence: u64,
    verify: bool,
    /// Bytes that came.
    bytes: u64,
    wrong: Option<AppError>,
}

impl Visited {
    fn see(&mut self, lanes: &mut Lanes<'_>, offset: u64, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.verify && self.wrong.is_none() {
            let places = lanes.places(self.lane);
            let checked = places.check_part("read", self.sequence, offset as usize, bytes);
            self.wrong = checked.err();
        }
    }
}

impl Traffic for Read<'_> {
    /// The session, the place, and the number of the read.
    type Context = (usize, usize, Option<Ticket>);

    fn begin(&mut self) -> Result<Begun<Self::Context>, AppError> {
        self.begin_with(false)
    }

    fn begin_with(&mut self, verify: bool) -> Result<Begun<Self::Context>, AppError> {
        let visits = &mut self.visits;
        let begun = self.lanes.begin(|client, lane, places| {
            let place = places.choose();
            let (region, offset, bytes) = (places.region(), places.offset(place), places.bytes());
            let pipeline = client.memory(region.peer).start();
            let Some(visits) = visits else {
                let ticket = room(pipeline.read(region, offset, bytes))?;
                return Ok(ticket.map(|ticket| Begun::Operation(ticket, (lane, place, None))));
            };
            let Some(ticket) = room(pipeline.visit(region, offset, bytes))? else {
                return Ok(None);
            };
            let sequence = places.sequence(place);
            visits.push(Visited { ticket, lane, sequence, verify, bytes: 0, wrong: None });
            Ok(Some(Begun::Operation(ticket, (lane, place, Some(ticket)))))
        });
        Ok(begun?.unwrap_or(Begun::Full))
    }

    fn step(&mut self, client: &Client) {
        let Self { lanes, visits: Some(visits) } = self else {
            client.step();
            return;
        };
        client.step_visiting(&mut |ticket, offset, bytes| {
            if let Some(visited) = visits.iter_mut().find(|visited| visited.ticket == ticket) {
                visited.see(lanes, offset, bytes);
            }
        });
    }

    fn end(
        &mut self,
        (lane, place, ticket): Self::Context,
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError> {
        let visits = self.visits.as_mut();
        let visited = visits.and_then(|visits| {
            let at = visits.iter().position(|visited| Some(visited.ticket) == ticket)?;
            Some(visits.swap_remove(at))
        });
        let buffer = result?.bytes_read()?;
        let places = self.lanes.places(lane);
        match (visited, buffer) {
            // Memory that this process maps does not come in packets.
            (_, Some(buffer)) if verify => {
                places.check("read", places.sequence(place), &buffer)?;
            }
            (Some(visited), None) => {
                if let Some(wrong) = visited.wrong {
                    return Err(wrong);
                }
                if visited.bytes != places.bytes() as u64 {
                    let (bytes, at) = (places.bytes(), visited.bytes as usize);
                    return Err(AppError::WrongBytes { op: "read", bytes, at });
                }
            }
            _ => {}
        }
        Ok(Ended::Counted { verified: verify })
    }

    fn prepare(&mut self) {
        self.lanes.wait_up();
    }
}

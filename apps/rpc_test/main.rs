//! `rpc_test`: how many calls a second an echo answers, of which size, with how many in flight.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::Args;
use dmrpc_apps::bandwidth::{Beside, Program, TrafficOf};
use dmrpc_apps::client::{Client, ECHO, wait_up};
use dmrpc_apps::error::AppError;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::pattern;
use dmrpc_apps::raw::RAW_SERVERS;
use dmrpc_apps::servers::{Server, Sharing};
use dmrpc_apps::session;
use dmrpc_apps::window::{Begun, Ended, Traffic};
use dmrpc_cn::{Arg, CallOptions, Error, Finished, Peer, Status};

/// Measures how many calls a second an echo answers, of which size, with how many in flight.
#[derive(Debug, Parser)]
#[command(
    name = "rpc_test",
    version,
    after_help = "\
Examples:
  rpc_test --local udp --raw
      All sizes and numbers in flight on this machine, each beside the bare device.
  rpc_test --local udp --sizes 32B --concurrency 32 --seconds 5 --json
      One row, measured for 5 seconds, as JSON.
  rpc_test --cluster cluster.toml --client-index 2 --server-index 1
      Against `dmrpc-cn serve` of a cluster file."
)]
struct Options {
    #[command(flatten)]
    args: Args,
}

const PROGRAM: Program = Program {
    op: "rpc",
    server: Server::Echo,
    exchange: Exchange::echo,
    beside: Beside::Both,
    sizes: &[32, 1 << 10, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 8 << 20],
    concurrency: &[1, 4, 16, 32],
};

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let mut needed = vec![Server::Echo];
    needed.extend(RAW_SERVERS);
    session::main("rpc_test", &options.args, &needed, Sharing::InTurns, |session| {
        PROGRAM.run(session, Echoes)
    })
}

struct Echoes;

impl TrafficOf for Echoes {
    type Traffic<'c> = Echo<'c>;

    fn of<'c>(
        &mut self,
        client: &'c Client,
        peers: &[Peer],
        seed: u64,
        bytes: usize,
    ) -> Result<Echo<'c>, AppError> {
        let mut content = vec![0; bytes];
        pattern::fill(seed, &mut content);
        Ok(Echo { client, peers: peers.to_vec(), next: 0, seed, sequence: 0, content })
    }
}

/// Calls of an echo.
struct Echo<'c> {
    client: &'c Client,
    peers: Vec<Peer>,
    /// The session whose turn it is.
    next: usize,
    seed: u64,
    sequence: u64,
    content: Vec<u8>,
}

impl Traffic for Echo<'_> {
    /// What the request was stamped with.
    type Context = u64;

    fn begin(&mut self) -> Result<Begun<u64>, AppError> {
        let sequence = self.sequence + 1;
        pattern::stamp(sequence, &mut self.content);
        for _ in 0..self.peers.len() {
            let peer = self.peers[self.next];
            self.next = (self.next + 1) % self.peers.len();
            let reply = match self.client.buffer(self.content.len()) {
                Ok(buffer) => buffer,
                Err(error) if error.is_room() => return Ok(Begun::Full),
                Err(error) => return Err(error.into()),
            };
            let args = [Arg::Inline(&self.content)];
            let options = CallOptions::default();
            match self.client.start_call(peer, ECHO, &args, Some(reply), options) {
                Ok(ticket) => {
                    self.sequence = sequence;
                    return Ok(Begun::Operation(ticket, sequence));
                }
                Err(error) if error.is_room() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Begun::Full)
    }

    fn end(
        &mut self,
        sequence: u64,
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError> {
        let finished = result?;
        let bytes = self.content.len();
        let found = finished.buffer.as_deref().unwrap_or_default();
        if finished.reply.status != Status::OK || found.len() != bytes {
            return Err(AppError::WrongBytes { op: "rpc", bytes, at: found.len() });
        }
        if verify && let Some(at) = pattern::first_unstamped(self.seed, sequence, found) {
            return Err(AppError::WrongBytes { op: "rpc", bytes, at });
        }
        Ok(Ended::Counted { verified: verify })
    }

    fn prepare(&mut self) {
        self.peers.iter().for_each(|peer| wait_up(self.client, *peer));
    }
}

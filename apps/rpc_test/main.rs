//! `rpc_test`: how many calls a second an echo answers, of which size, with how many in flight.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::Args;
use dmrpc_apps::bandwidth::{Beside, Program};
use dmrpc_apps::echo::Echoes;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::servers::Server;

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
  rpc_test --local udp --sizes 32B --concurrency 64 --sessions 20000
      Calls in 20,000 sessions, picked at random.
  rpc_test --cluster cluster.toml --client-index 2 --server-index 1
      Against `dmrpc-cn serve` of a cluster file."
)]
struct Options {
    /// Spread the calls over so many sessions with 16 slots each, picked at random: up to nine at a
    /// time in each, for seven slots are kept for calls within calls. Without it there are as many
    /// sessions as the numbers in flight need, with 64 slots each, which take turns. With --cluster
    /// the server must be let have them: `dmrpc-cn serve --sessions`, --sessions-per-address.
    #[arg(long, value_name = "N")]
    sessions: Option<usize>,

    #[command(flatten)]
    args: Args,
}

const PROGRAM: Program = Program {
    name: "rpc_test",
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
    let Options { sessions, args } = options;
    let traffic = Echoes { at_random: sessions.is_some() };
    PROGRAM.main(&Args { sessions, ..args }, traffic)
}

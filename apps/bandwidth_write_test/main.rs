//! `bandwidth_write_test`: how many bytes a second are written, many writes in flight.
#![forbid(unsafe_code)]

mod traffic;

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::Args;
use dmrpc_apps::bandwidth::{Beside, Program};
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::servers::Server;

/// Measures how many bytes a second are written to a memory node, with many writes in flight.
#[derive(Debug, Parser)]
#[command(
    name = "bandwidth_write_test",
    version,
    after_help = "\
Examples:
  bandwidth_write_test --local udp --raw
      All sizes and numbers in flight on this machine, each beside the bare device.
  bandwidth_write_test --local udp --sizes 1MiB --concurrency 16 --seconds 5 --json
      One row, measured for 5 seconds, as JSON."
)]
struct Options {
    #[command(flatten)]
    args: Args,
}

const PROGRAM: Program = Program {
    name: "bandwidth_write_test",
    op: "write",
    server: Server::MemoryNode,
    exchange: |bytes| Exchange::memory(bytes, 0),
    beside: Beside::Request,
    sizes: &[64, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 8 << 20],
    concurrency: &[1, 4, 16],
};

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    PROGRAM.main(&options.args, traffic::Writes)
}

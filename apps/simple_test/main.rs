//! `simple_test`: every operation once, verified, and every kind of refusal.
#![forbid(unsafe_code)]

mod checks;
mod memory;
mod refusals;
mod rpc;

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::Args;
use dmrpc_apps::client;
use dmrpc_apps::error::AppError;
use dmrpc_apps::servers::{Server, Sharing};
use dmrpc_apps::session::{self, Session};

use checks::Checks;

/// Tries every operation once, verifies what it did, and tries what must be refused.
#[derive(Debug, Parser)]
#[command(
    name = "simple_test",
    version,
    after_help = "\
Examples:
  simple_test --local udp
      Bring up a memory node and an echo on this machine, try everything, take them down.
  simple_test --cluster cluster.toml --client-index 2 --server-index 0 --server-index 1
      The same against a memory node and a compute node of a cluster file."
)]
struct Options {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let needed = [Server::Echo, Server::MemoryNode];
    session::main("simple_test", &options.args, &needed, Sharing::Together, run)
}

fn run(session: &mut Session<'_>) -> Result<(), AppError> {
    let client = client::open(session, 4, 8 << 20)?;
    let echo = client::connect(session, &client, Server::Echo)?;
    let owner = client::connect(session, &client, Server::MemoryNode)?;
    let other = client::connect(session, &client, Server::MemoryNode)?;
    let pool_bytes = session.args.pool_size.0;
    let mut checks = Checks::new(session);
    rpc::run(&mut checks, &client, echo)?;
    memory::run(&mut checks, &client, (owner, other), echo)?;
    refusals::run(&mut checks, &client, (owner, other), pool_bytes)?;
    let passed = checks.passed();
    for peer in [echo, owner, other] {
        client.disconnect(peer);
    }
    client.step();
    session.output.text(&format!("all {passed} checks passed"))
}

//! A real file goes from service to service by reference, and again by value.
//!
//! This process is the *producer*. It brings up a memory node, a *forwarder* and a *transformer* as
//! processes of their own, puts the file into disaggregated memory, and calls the forwarder with a
//! reference; the forwarder, which never touches the bytes, calls the transformer; the transformer
//! maps the reference, inverts a band of the file in place (copy-on-write) and hands a reference of
//! its result back. The producer reads the result and verifies it, and its own original.

#![forbid(unsafe_code)]

mod error;
mod file;
mod network;
mod picture;
mod producer;
mod roles;
mod traffic;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use dmrpc_choice::DriverArgs;

use network::{ANYWHERE, Local, Network};

/// Sends a file through three services by reference, then by value, and compares the traffic.
#[derive(Debug, Parser)]
#[command(
    name = "demo",
    version,
    after_help = "\
Examples:
  demo
      Render a picture and send it round; look at both pictures in target/demo afterwards.
  demo --file photo.jpeg --out /tmp/pictures
      The same with a picture (or any other file) of yours, however long.
  demo --local cxl
      The same through a pool of shared memory instead of UDP on loopback.
  demo --local veth --dpdk-no-huge
      The same over DPDK, each process a host of its own (as root; built with --features dpdk)."
)]
struct Options {
    /// The file to send. Of a picture (BMP of 24 bits, JPEG, PNG) the pixels are sent, and the
    /// result is a picture again; of anything else, the bytes. Without a file, a picture is
    /// rendered.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Folder for the original and the result.
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    out: PathBuf,

    /// What joins the processes, all of which are on this machine.
    #[arg(long, value_enum, value_name = "DRIVER", default_value = "udp")]
    local: Local,

    #[command(flatten)]
    driver: DriverArgs,

    /// Where a child is to be reached.
    #[arg(long, hide = true, default_value_t = ANYWHERE)]
    bind: SocketAddrV4,

    /// Which of the compute nodes this process is (the producer starts the others).
    #[arg(long, value_enum, default_value_t = Role::Producer, hide = true)]
    role: Role,

    /// Where to pass requests on to.
    #[arg(long, hide = true)]
    next: Option<SocketAddrV4>,

    /// The memory node.
    #[arg(long, hide = true)]
    memory_node: Option<SocketAddrV4>,
}

/// The parts that a process can play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Producer,
    Forwarder,
    Transformer,
}

fn main() -> ExitCode {
    dmrpc_host::cli::end_with_reader();
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let result = match options.role {
        Role::Producer => {
            let network = Network::new(options.local, &options.driver);
            let file = options.file.as_deref();
            network.and_then(|network| producer::run(file, &options.out, network))
        }
        Role::Forwarder => roles::forward(&options.driver, options.bind, options.next),
        Role::Transformer => roles::transform(&options.driver, options.bind, options.memory_node),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dmrpc_host::cli::complain("demo", &error);
            if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

//! Traffic for `ci/faults` and `ci/soak`: a client that keeps account of every call on a network
//! that fails, a sender of bad packets, and a bad link.
//!
//! ```text
//! faults client --memory-node IP:PORT --seconds N --seed S [--pcap FILE] [--hostile]
//!     [--service IP:PORT] [--key-file FILE --encrypt]
//! faults mutate --memory-node IP:PORT --seconds N --seed S --capture FILE
//! faults relay --listen IP:PORT --to IP:PORT --seed S [--loss 10%] [--reorder 25%] ...
//! ```

mod client;
mod impair;
mod mutate;
mod relay;

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// What both have in common.
#[derive(Debug, clap::Args)]
struct Common {
    /// The memory node.
    #[arg(long)]
    memory_node: SocketAddrV4,
    /// How long.
    #[arg(long)]
    seconds: u64,
    /// Of the random numbers.
    #[arg(long)]
    seed: u64,
}

/// Keys and encryption.
#[derive(Debug, clap::Args)]
struct Secrecy {
    /// The pre-shared key.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Encrypt packets.
    #[arg(long, requires = "key_file")]
    encrypt: bool,
}

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Works on memory and compares every byte; prints an account of all calls.
    Client {
        #[command(flatten)]
        common: Common,
        /// Write all datagrams to this file.
        #[arg(long)]
        pcap: Option<PathBuf>,
        /// What it sends is changed on the way: bytes are not compared, and calls fail as they may.
        #[arg(long)]
        hostile: bool,
        /// Pass references to this service, too, which answers with what it gets.
        #[arg(long)]
        service: Option<SocketAddrV4>,
        #[command(flatten)]
        secrecy: Secrecy,
    },
    /// Sends packets of a capture again, changed.
    Mutate {
        #[command(flatten)]
        common: Common,
        /// The capture: of a client, made with `--pcap`.
        #[arg(long)]
        capture: PathBuf,
    },
    /// Passes datagrams on, as a bad link does.
    Relay(relay::Options),
}

/// Numbers that follow from a seed: the generator of Knuth's MMIX, its high bits.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * bound as u128) >> 64) as usize
    }
}

fn main() {
    match Options::parse().command {
        Command::Client { common, pcap, hostile, service, secrecy } => {
            client::run(&common, pcap.as_deref(), hostile, service, &secrecy);
        }
        Command::Mutate { common, capture } => mutate::run(&common, &capture),
        Command::Relay(options) => relay::run(&options),
    }
}

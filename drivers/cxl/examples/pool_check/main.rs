//! Checks pools of real devices, alone or as one of two hosts: what `ci/vm` runs in its guests.
//!
//! Prints a line for each check, `PASS` or `INFO` and what it was, and `DONE` at the end; whatever
//! goes wrong ends it with one line and exit code 1.

mod alone;
mod held;
mod refused;
mod talk;
mod two_hosts;

use std::path::PathBuf;
use std::process::ExitCode;

use dmrpc_cxl::Mode;

/// What a check says when it fails.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Fails unless `holds`.
pub(crate) fn ensure(holds: bool, what: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// Says that something holds.
pub(crate) fn pass(what: &str) {
    println!("PASS {what}");
}

const USAGE: &str = "usage: pool_check alone PATH
       pool_check first|second PATH flush
       pool_check first|second PATH coherent [declared]
where declared says that hosts are coherent";

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["alone", path] => alone::run(&PathBuf::from(path)),
        ["first", path, "coherent"] => refused::first(&PathBuf::from(path)),
        ["second", path, "coherent"] => refused::second(&PathBuf::from(path)),
        ["first", path, mode] | ["first", path, mode, "declared"] => {
            two_hosts::first(&PathBuf::from(path), mode.parse::<Mode>()?)
        }
        ["second", path, mode] | ["second", path, mode, "declared"] => {
            two_hosts::second(&PathBuf::from(path), mode.parse::<Mode>()?)
        }
        _ => Err(USAGE.into()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => {
            println!("DONE");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAIL {error}");
            ExitCode::FAILURE
        }
    }
}

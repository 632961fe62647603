//! `dmrpc-cn`: a compute node on the command line.
//!
//! A thin shell round the client library: memory operations one at a time, and an echo or forward
//! service in a pinned poll loop.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    dmrpc_host::cli::end_with_reader();
    let options: cli::options::Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    match cli::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dmrpc_host::cli::complain("dmrpc-cn", &error);
            if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

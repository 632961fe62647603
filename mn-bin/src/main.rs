//! `dmrpc-mn`: a memory node.
//!
//! A thin shell round the core: it maps the pool, opens the device, and runs one pinned poll loop
//! until it is told to stop. Everything that decides is in `dmrpc-core`.

#![forbid(unsafe_code)]

mod error;
mod memory;
mod node;
mod options;
mod place;
mod report;
mod shared;
mod sizes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let options: options::Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let result = match (options.confirm_lost, &options.driver.pool) {
        (Some(host), Some(path)) => shared::confirm_lost(&options, path, host),
        _ => node::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dmrpc_host::cli::complain("dmrpc-mn", &error);
            if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

//! `bench_report`: turns the rows that the programs print into tables, plots and verdicts.
#![forbid(unsafe_code)]

mod bars;
mod check;
mod compare;
mod cores;
mod forks;
mod header;
mod instructions;
mod plot;
mod pools;
mod results;
mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use results::{Error, Results};

/// Turns the rows that the programs print into tables, plots and verdicts.
#[derive(Debug, Parser)]
#[command(name = "bench_report", version)]
struct Options {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Print the line that a file of results begins with: commit, machine, versions, command.
    Header {
        /// The command whose rows follow.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Measure again how far apart the cores are, and note it in the header of a file of results.
    Finish {
        /// The file.
        file: PathBuf,
    },
    /// Print what a line of cache takes from one core to another and back now, in nanoseconds.
    Distance,
    /// Write README.md and plots beside the files of results in a folder.
    Report {
        /// The folder.
        folder: PathBuf,
        /// A folder with the results before these, to compare with.
        #[arg(long)]
        previous: Option<PathBuf>,
    },
    /// Fail if a row in a folder has errors, no rate, bytes that nobody compared, or a void raw
    /// probe.
    Check {
        /// The folder.
        folder: PathBuf,
    },
    /// Fail if an instruction count has grown by more than 5 %.
    Instructions {
        /// What ci/instructions printed before.
        committed: PathBuf,
        /// What it prints now.
        now: PathBuf,
    },
}

fn main() -> ExitCode {
    dmrpc_host::cli::end_with_reader();
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let result = match options.job {
        Job::Header { command } => {
            println!("{}", header::line(&command));
            Ok(())
        }
        Job::Finish { file } => header::finish(&file),
        Job::Distance => {
            println!("{}", cores::line_ns().map_or("null".to_owned(), |line| line.to_string()));
            Ok(())
        }
        Job::Report { folder, previous } => report(&folder, previous.as_deref()),
        Job::Instructions { committed, now } => instructions::check(&committed, &now),
        Job::Check { folder } => Results::load(&folder).and_then(|results| check::all(&results)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dmrpc_host::cli::complain("bench_report", &error);
            ExitCode::FAILURE
        }
    }
}

/// Writes the README and the plots, and prints what changed.
fn report(folder: &Path, previous: Option<&Path>) -> Result<(), Error> {
    let results = Results::load(folder)?;
    let plots = plot::all(&results, folder)?;
    let changes = match previous {
        Some(previous) => compare::table(&Results::load(previous)?, &results),
        None => String::new(),
    };
    let text = tables::readme(&results, &plots, &changes);
    let path = folder.join("README.md");
    std::fs::write(&path, text).map_err(|source| Error::Write { path, source })?;
    print!("{changes}");
    Ok(())
}

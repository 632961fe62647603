//! From the command line to servers that answer, and down again.

use std::process::ExitCode;

use dmrpc_core::time::Duration;
use dmrpc_host::affinity::pin_to_core;
use dmrpc_host::cli;
use dmrpc_host::clock::Clock;

use crate::args::{Args, Driver};
use crate::block::{Block, Budget, Tally};
use crate::error::AppError;
use crate::interleave::{Compare, Ratio, Turns};
use crate::output::Output;
use crate::row::{Row, Subject, Switches};
use crate::servers::{Server, Servers, Sharing};

/// Longest block in seconds: a server that is stopped for longer is suspected to be gone.
const BLOCK_S_MAX: f64 = 0.25;

/// Runs a program: checks the flags, plays a child's role if that is what is asked, else runs
/// `work`; prints what went wrong; and says how the process is to end.
///
/// No signal is handled: SIGINT and SIGTERM end a program at once, whatever it waits for, and the
/// kernel then ends its children.
pub fn main(
    app: &'static str,
    args: &Args,
    needed: &[Server],
    sharing: Sharing,
    work: impl FnOnce(&mut Session<'_>) -> Result<(), AppError>,
) -> ExitCode {
    match run(app, args, needed, sharing, work) {
        Ok(errors @ 1..) => {
            let what = "operations failed or brought wrong bytes: see the rows";
            cli::complain(app, format_args!("{errors} {what}"));
            ExitCode::FAILURE
        }
        Ok(0) => ExitCode::SUCCESS,
        // Who reads no further has read enough.
        Err(error) if error.is_unread() => ExitCode::from(cli::UNREAD),
        Err(error) => {
            cli::complain(app, &error);
            error.exit_code()
        }
    }
}

fn run(
    app: &'static str,
    args: &Args,
    needed: &[Server],
    sharing: Sharing,
    work: impl FnOnce(&mut Session<'_>) -> Result<(), AppError>,
) -> Result<u64, AppError> {
    if let Some(role) = args.role {
        return role.play(args).map(|()| 0);
    }
    args.check()?;
    let servers = Servers::bring_up(args, needed, sharing)?;
    if let Some(core) = servers.client_core() {
        pin_to_core(core)?;
    }
    let mut session = Session {
        app,
        args,
        servers,
        clock: Clock::new(),
        output: Output::new(args.json),
        errors: 0,
    };
    let result = work(&mut session);
    session.output.finish();
    let errors = session.errors;
    let down = session.servers.take_down();
    result?;
    down.map(|()| errors)
}

/// One run of a program.
pub struct Session<'a> {
    app: &'static str,
    /// The command line.
    pub args: &'a Args,
    /// Who is measured against.
    pub servers: Servers,
    /// Time.
    pub clock: Clock,
    /// Where results go.
    pub output: Output,
    errors: u64,
}

impl Session<'_> {
    /// Blocks of a row: those asked for, and more if each would take long.
    pub fn blocks(&self) -> u64 {
        let wanted = self.args.blocks;
        match self.args.count {
            Some(count) => wanted.min(count),
            None => wanted.max((self.args.seconds / BLOCK_S_MAX).ceil() as u64),
        }
    }

    /// How much a block measures: a row's share of `--count` or `--seconds`.
    pub fn block_budget(&self) -> Budget {
        let blocks = self.blocks();
        match self.args.count {
            Some(count) => Budget::Count(count.div_ceil(blocks)),
            None => {
                let nanos = self.args.seconds * 1e9 / blocks as f64;
                Budget::Span(Duration::from_nanos(nanos as u64))
            }
        }
    }

    /// Whether `--raw` was given.
    pub fn raw(&self) -> bool {
        self.args.raw
    }

    /// Measures the blocks of a row, or of `N` rows that are measured in the same blocks: `ours`
    /// against `server`, in turns with `bare` against its server, if that is given.
    ///
    /// # Errors
    /// What the closures say, or that a server has ended.
    pub fn in_turns<const N: usize>(
        &mut self,
        what: &str,
        (server, mut ours): (
            Server,
            impl FnMut(&Clock, &mut Block) -> Result<[Tally; N], AppError>,
        ),
        bare: Option<(Server, &mut BareBlock<'_>)>,
        compare: Compare,
    ) -> Result<Turns<N>, AppError> {
        let mut turns = Turns::default();
        let budget = self.block_budget();
        let blocks = self.blocks();
        self.output.expect(what, blocks);
        let mut bare = bare;
        for _ in 0..blocks {
            self.servers.activate(server)?;
            let tallies = ours(&self.clock, &mut Block::start(&self.clock, budget))?;
            let raw = match &mut bare {
                None => None,
                Some((server, bare)) => {
                    self.servers.activate(*server)?;
                    Some(bare(&self.clock, &mut Block::start(&self.clock, budget))?)
                }
            };
            turns.add(&tallies, raw.as_ref(), compare);
            self.output.step();
        }
        self.servers.activate(server)?;
        Ok(turns)
    }

    /// Prints a row, and remembers its errors for the exit code.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn row(
        &mut self,
        subject: Subject,
        tally: &Tally,
        ratio: Option<Ratio>,
    ) -> Result<(), AppError> {
        let bare = subject.op.starts_with("raw_");
        let integrity = !bare && !self.args.no_payload_check;
        let switches = Switches { integrity, ..Switches::default() };
        let driver = self.args.local.unwrap_or(Driver::Udp).name();
        let about = (self.app, driver, self.args.idle.to_string());
        let row = Row::new(about, subject, tally, switches, ratio);
        if !bare {
            self.errors += tally.errors;
        }
        self.output.row(&row)
    }
}

/// A block of the bare device.
pub type BareBlock<'a> = dyn FnMut(&Clock, &mut Block) -> Result<Tally, AppError> + 'a;

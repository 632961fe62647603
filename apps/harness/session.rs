//! From the command line to servers that answer, and down again.

use std::process::ExitCode;

use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_core::time::Duration;
use dmrpc_host::affinity::pin_to_core;
use dmrpc_host::cli;
use dmrpc_host::clock::Clock;
use dmrpc_host::key;

use crate::args::Args;
use crate::block::{Block, Budget, Tally};
use crate::error::AppError;
use crate::interleave::{Compare, Ratio, Turns};
use crate::output::Output;
use crate::row::{Details, Row, Subject, Switches};
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
    let keyed = key::load(args.key_file.as_deref())?.is_some();
    let servers = Servers::bring_up(args, needed, sharing)?;
    if let Some(core) = servers.client_core() {
        pin_to_core(core)?;
    }
    let mut session = Session {
        keyed,
        app,
        args,
        servers,
        clock: Clock::new(),
        output: Output::new(args.json),
        zero_copy: false,
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
    /// Whether sessions are authenticated.
    keyed: bool,
    /// Whether bytes are looked at where they came in.
    pub zero_copy: bool,
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
        ours: (Server, impl FnMut(&Clock, &mut Block) -> Result<[Tally; N], AppError>),
        bare: Option<(Server, &mut BareBlock<'_>)>,
        compare: Compare,
    ) -> Result<Turns<N>, AppError> {
        match bare {
            None => {
                let mut alone = Turns::default();
                self.rounds(what, ours, &mut [], |tallies, _| alone.add(tallies, None, compare))?;
                Ok(alone)
            }
            Some((server, block)) => {
                let mut other = [Companion { server, block, compare }];
                self.in_turns_with(what, ours, &mut other).map(|[turns]| turns)
            }
        }
    }

    /// As [`Session::in_turns`], with several yardsticks or competitors in each round. Returns for
    /// each of them what ours did and how the two relate.
    ///
    /// # Errors
    /// What the closures say, or that a server has ended.
    pub fn in_turns_with<const N: usize, const M: usize>(
        &mut self,
        what: &str,
        ours: (Server, impl FnMut(&Clock, &mut Block) -> Result<[Tally; N], AppError>),
        others: &mut [Companion<'_, '_>; M],
    ) -> Result<[Turns<N>; M], AppError> {
        let mut turns: [Turns<N>; M] = std::array::from_fn(|_| Turns::default());
        let compare = others.each_ref().map(|other| other.compare);
        self.rounds(what, ours, others, |tallies, others| {
            for ((turns, other), compare) in turns.iter_mut().zip(others).zip(compare) {
                turns.add(tallies, Some(other), compare);
            }
        })?;
        Ok(turns)
    }

    /// The rounds of a row: a block of ours, then one of each other.
    fn rounds<const N: usize>(
        &mut self,
        what: &str,
        (server, mut ours): (
            Server,
            impl FnMut(&Clock, &mut Block) -> Result<[Tally; N], AppError>,
        ),
        others: &mut [Companion<'_, '_>],
        mut add: impl FnMut(&[Tally; N], &[Tally]),
    ) -> Result<(), AppError> {
        let budget = self.block_budget();
        let blocks = self.blocks();
        self.output.expect(what, blocks);
        let mut tallies = Vec::with_capacity(others.len());
        for _ in 0..blocks {
            self.servers.activate(server)?;
            let own = ours(&self.clock, &mut Block::start(&self.clock, budget))?;
            tallies.clear();
            for other in others.iter_mut() {
                self.servers.activate(other.server)?;
                let block = &mut Block::start(&self.clock, budget);
                tallies.push((other.block)(&self.clock, block)?);
            }
            add(&own, &tallies);
            self.output.step();
        }
        self.servers.activate(server)
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
        let sessions = self.args.sessions.filter(|_| subject.beside.is_none());
        self.row_with(
            subject,
            tally,
            Details { sessions, ratio_to_raw: ratio, ..Details::default() },
        )
    }

    /// As [`Session::row`], with ratios to more than the bare device.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn row_with(
        &mut self,
        subject: Subject,
        tally: &Tally,
        details: Details,
    ) -> Result<(), AppError> {
        let bare = subject.op.starts_with("raw_");
        let integrity = !bare && !self.args.no_payload_check;
        let auth = !bare && self.keyed;
        // Where there is only memory between the two ends, there is nothing to control.
        let controlled = self.args.congestion != Congestion::None;
        let congestion = !bare && controlled && !self.args.is_memory();
        let zero_copy = !bare && self.zero_copy;
        let zero_copy_transmit = !bare && self.args.sends_in_place();
        let switches = Switches { integrity, auth, congestion, zero_copy, zero_copy_transmit };
        let about = (self.app, self.args.driver_name(), self.args.idle.to_string());
        let row = Row::new(about, subject, tally, switches, details);
        if !bare {
            self.errors += tally.errors;
        }
        self.output.row(&row)
    }
}

/// A yardstick or a competitor that is measured in the rounds of a row.
pub struct Companion<'a, 'b> {
    /// The server that must be running.
    pub server: Server,
    /// A block of it.
    pub block: &'a mut BareBlock<'b>,
    /// What the ratio of ours to it compares.
    pub compare: Compare,
}

/// A block of the bare device, or of what else ours is compared with.
pub type BareBlock<'a> = dyn FnMut(&Clock, &mut Block) -> Result<Tally, AppError> + 'a;

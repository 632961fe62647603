//! `fork_test`: what copy-on-write saves a service that writes to a part of its argument.
#![forbid(unsafe_code)]

mod bare;
mod lane;
mod plan;

use std::process::ExitCode;

use clap::Parser;
use dmrpc_apps::args::{Args, ArgsError};
use dmrpc_apps::block::{Block, Budget, Tally};
use dmrpc_apps::client;
use dmrpc_apps::error::AppError;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::interleave::{Compare, Turns};
use dmrpc_apps::raw::{RAW_SERVERS, Raw, RawDevices};
use dmrpc_apps::row::{Details, Subject};
use dmrpc_apps::servers::{Server, Sharing};
use dmrpc_apps::session::{self, Companion, Session};
use dmrpc_host::clock::Clock;
use dmrpc_host::size::ByteSize;

use bare::Bare;
use lane::{Ends, Job, Lanes, PAGES_MAX};
use plan::{PAGE_BYTES, Way};

/// Measures a producer that hands an object over and a receiver that writes to some of its pages.
///
/// Both are endpoints of this process; the memory node is another. An operation (`cow_write`): the
/// producer makes a reference to its object, the receiver turns that into a region of its own and
/// writes. Its rival (`copy_write`) copies the whole object where ours makes a reference, in the
/// faster of two ways, tried before each row: the producer sends its bytes once more, or the memory
/// node copies every page. What is measured ends when all is written; the receiver then gives its
/// bytes back, which counts in rates only.
#[derive(Debug, Parser)]
#[command(
    name = "fork_test",
    version,
    after_help = "\
Examples:
  fork_test --local udp --raw
      Objects of 32 KiB and 1 MiB, 1 to 8 pages, 4 to 4096 bytes in each.
  fork_test --local udp --sizes 1MiB --pages 2 --write-sizes 1KiB --concurrency 1 --json
      One row and its rival, as JSON."
)]
struct Options {
    #[command(flatten)]
    args: Args,

    /// Numbers of pages that the receiver writes, 1 to 8.
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_values_t = [1, 2, 4, 8])]
    pages: Vec<usize>,

    /// Bytes that it writes to each of them, 1B to 4KiB.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        default_values = ["4B", "1KiB", "2KiB", "4KiB"]
    )]
    write_sizes: Vec<ByteSize>,
}

/// Sizes of objects unless others are given, in bytes.
const SIZES: [u64; 2] = [32 << 10, 1 << 20];
/// The largest: a message.
const SIZE_MAX: u64 = 8 << 20;
/// Objects at a time unless other numbers are given.
const CONCURRENCY: [usize; 2] = [1, 8];
/// Most objects at a time.
const CONCURRENCY_MAX: usize = 16;
/// Operations that tell which way of copying is faster.
const TRIALS: u64 = 24;

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    // Once for the producer and once for the receiver.
    let mut needed = vec![Server::MemoryNode, Server::MemoryNode];
    needed.extend(RAW_SERVERS);
    session::main("fork_test", &options.args, &needed, Sharing::InTurns, |session| {
        run(session, &options)
    })
}

/// Checks what clap cannot.
fn checked(options: &Options, sizes: &[usize]) -> Result<(), ArgsError> {
    let range =
        |flag, given: String, expected: String| Err(ArgsError::Range { flag, given, expected });
    let pages_max = sizes.iter().map(|size| size / PAGE_BYTES).min().unwrap_or(0).min(PAGES_MAX);
    if let Some(pages) = options.pages.iter().find(|pages| !(1..=pages_max).contains(*pages)) {
        let expected = format!("1 to {pages_max}, as many as the smallest of --sizes has");
        return range("--pages", pages.to_string(), expected);
    }
    let allowed = 1..=PAGE_BYTES as u64;
    match options.write_sizes.iter().find(|size| !allowed.contains(&size.0)) {
        Some(size) => range("--write-sizes", size.to_string(), "1B to 4KiB".to_owned()),
        None => Ok(()),
    }
}

fn run(session: &mut Session<'_>, options: &Options) -> Result<(), AppError> {
    let args = session.args;
    let sizes = args.sizes_within(&SIZES, PAGE_BYTES as u64..=SIZE_MAX)?;
    let numbers = args.concurrency_within(&CONCURRENCY, CONCURRENCY_MAX)?;
    checked(options, &sizes)?;
    let mut devices = RawDevices::if_wanted(args)?;
    let raw = devices.as_mut().map(|devices| devices.connect(args, &mut session.servers));
    let mut raw = raw.transpose()?;
    for bytes in sizes {
        for &concurrency in &numbers {
            let producer = client::open(session, concurrency + 2, bytes)?;
            let receiver = client::open_beside(session, 0, PAGE_BYTES)?;
            let producer_peer = client::connect(session, &producer, Server::MemoryNode)?;
            let receiver_peer = client::connect(session, &receiver, Server::MemoryNode)?;
            let ends =
                Ends { producer: &producer, producer_peer, receiver: &receiver, receiver_peer };
            for &pages in &options.pages {
                for write_size in &options.write_sizes {
                    let job = Job::new(bytes, pages, write_size.as_usize(), args.seed);
                    rows(session, ends, &job, concurrency, raw.as_mut())?;
                }
            }
            for (client, peer) in [(&producer, producer_peer), (&receiver, receiver_peer)] {
                client.disconnect(peer);
                client.step();
            }
        }
    }
    Ok(())
}

/// Measures a row, its rival and the bare device.
fn rows(
    session: &mut Session<'_>,
    ends: Ends<'_>,
    job: &Job,
    concurrency: usize,
    raw: Option<&mut Raw<'_>>,
) -> Result<(), AppError> {
    session.servers.activate(Server::MemoryNode)?;
    let clock = &session.clock;
    let way = faster_copy(clock, ends, job, concurrency)?;
    let mut ours = Lanes::new(ends, job, Way::Reference, concurrency)?;
    let mut theirs = Lanes::new(ends, job, way, concurrency)?;
    let warm_up = session.args.warmup.min(TRIALS).max(concurrency as u64);
    let mut verified = [0; 2];
    for (lanes, verified) in [&mut ours, &mut theirs].into_iter().zip(&mut verified) {
        let block = &mut Block::start(clock, Budget::Count(warm_up));
        *verified = lanes.measure(clock, block, true)?.verified;
    }
    let what = format!("{} B, {} pages, {} B each", job.object_bytes, job.pages, job.write_bytes);
    let server = Server::MemoryNode;
    let ours_block =
        |clock: &Clock, block: &mut Block| ours.measure(clock, block, false).map(|tally| [tally]);
    let mut copy = |clock: &Clock, block: &mut Block| theirs.measure(clock, block, false);
    // A pause of the machine spoils a mean, not a median.
    let compare = if concurrency == 1 { Compare::Speedup } else { Compare::Rates(1, 1) };
    let copy = Companion { server, block: &mut copy, compare };
    let beside = Bare::of(job.write_bytes, concurrency, session.args.datagram_bytes());
    let (turns, bare) = match raw {
        None => {
            let [turns] = session.in_turns_with(&what, (server, ours_block), &mut [copy])?;
            (turns, None)
        }
        Some(raw) => {
            let responder = beside.server(raw);
            let mut block = |clock: &Clock, block: &mut Block| beside.measure(raw, clock, block);
            let bare =
                Companion { server: responder, block: &mut block, compare: beside.compare() };
            let mut others = [copy, bare];
            let [turns, bare] = session.in_turns_with(&what, (server, ours_block), &mut others)?;
            (turns, Some((beside, bare)))
        }
    };
    ours.end()?;
    theirs.end()?;
    print(session, job, concurrency, (way, verified), &turns, bare)
}

/// The way of copying that is faster for this row.
fn faster_copy(
    clock: &Clock,
    ends: Ends<'_>,
    job: &Job,
    concurrency: usize,
) -> Result<Way, AppError> {
    let mut fastest = (0.0, Way::COPIES[0]);
    for way in Way::COPIES {
        let mut lanes = Lanes::new(ends, job, way, concurrency)?;
        let mut trial = || -> Result<Tally, AppError> {
            let block = &mut Block::start(clock, Budget::Count(TRIALS.max(concurrency as u64)));
            lanes.measure(clock, block, false)
        };
        // The first one warms up. Times of single operations stand a neighbour's noise.
        trial()?;
        let rate = 1e9 / trial()?.median_ns() as f64;
        if rate > fastest.0 {
            fastest = (rate, way);
        }
        lanes.end()?;
    }
    Ok(fastest.1)
}

fn print(
    session: &mut Session<'_>,
    job: &Job,
    concurrency: usize,
    (way, verified): (Way, [u64; 2]),
    turns: &Turns<1>,
    bare: Option<(Bare, Turns<1>)>,
) -> Result<(), AppError> {
    // The messages of a write stand for all of an operation's, which differ with the way.
    let exchange = Exchange::memory(job.write_bytes, 0);
    let (request, answer) = exchange.frames(session.args.datagram_bytes());
    let subject = |op, beside| Subject {
        op,
        size_bytes: job.object_bytes,
        concurrency,
        beside,
        datagrams: request.count + answer.count,
        datagram_bytes: request.total_bytes() + answer.total_bytes(),
    };
    let details = |way: Option<Way>| Details {
        pages: Some(job.pages),
        write_bytes: Some(job.write_bytes),
        way: way.map(Way::name),
        ..Details::default()
    };
    let ratios = Details {
        ratio_to_copy: turns.ratio(0),
        ratio_to_raw: bare.as_ref().and_then(|(_, turns)| turns.ratio(0)),
        ..details(Some(Way::Reference))
    };
    let with = |tally: &Tally, verified: u64| {
        let mut tally = tally.clone();
        tally.verified += verified;
        tally
    };
    let ours = with(&turns.ours[0], verified[0]);
    session.row_with(subject("cow_write", None), &ours, ratios)?;
    let theirs = with(&turns.bare, verified[1]);
    session.row_with(subject("copy_write", Some("cow_write")), &theirs, details(Some(way)))?;
    if let Some((bare, turns)) = bare {
        let (datagrams, datagram_bytes) = bare.datagrams(session.args.datagram_bytes());
        let subject =
            Subject { datagrams, datagram_bytes, ..subject(bare.op(), Some("cow_write")) };
        session.row_with(subject, &turns.bare, details(None))?;
    }
    Ok(())
}

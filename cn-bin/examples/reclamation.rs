//! What a memory node's other clients notice of the death of one that held much, and how fast what
//! it held comes back: `ci/reclamation` runs it against a real memory node.
//!
//! ```text
//! reclamation --memory-node IP:PORT [--references N] [--region-mib N]
//! ```
//!
//! One node takes N references, each to a page that only it has, and a region; another reads 64
//! bytes again and again. Then the first is not polled any more: to the memory node it is dead. The
//! reader goes on and looks at the memory node's account now and then until all is back. Prints one
//! JSON line.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use clap::Parser;
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{IdleStrategy, Memory, Node, NodeConfig, Region};
use dmrpc_udp::UdpDevice;

/// Bytes of a read.
const READ_BYTES: usize = 64;
/// Reads between two looks at the account.
const READS_A_LOOK: usize = 8;
/// Puts in flight.
const PUTS_IN_FLIGHT: usize = 8;
/// Bytes of one write.
const WRITE_BYTES: usize = 1 << 20;
const PAGE: usize = 4096;

#[derive(Debug, Parser)]
struct Options {
    /// The memory node. Nobody else uses it.
    #[arg(long)]
    memory_node: SocketAddrV4,
    /// References that the one who dies holds.
    #[arg(long, default_value_t = 100_000)]
    references: u64,
    /// Memory in MiB that it holds beside their pages.
    #[arg(long, default_value_t = 633)]
    region_mib: u64,
}

/// What the memory node says that is in use: frames, references, and whether any is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    frames: u64,
    references: u64,
    reclaiming: bool,
}

fn node() -> Node<UdpDevice> {
    let config = NodeConfig { idle: IdleStrategy::Yield, ..NodeConfig::default() };
    Node::open_udp(&config).expect("a socket")
}

fn account(node: &Node<UdpDevice>, memory: &Memory<'_, UdpDevice>) -> Account {
    let mut text = String::new();
    for page in 0..2 {
        let mut out = [0; 1024];
        let reply = node.statistics_page(memory.peer(), page, &mut out).expect("it answers");
        text += std::str::from_utf8(&out[..reply.body_bytes]).expect("text");
    }
    let of = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let value = lines.find(|line| line.0 == name).expect(name).1;
        value.parse::<u64>().expect("a number")
    };
    let (frames, references) = (of("frames_in_use"), of("references_in_use"));
    Account { frames, references, reclaiming: of("reclaiming") != 0 }
}

/// Takes references and a region; what it has then is its alone. Others are polled meanwhile. On a
/// busy machine the memory node may seem silent for a while: then it tries again.
fn take_much(
    node: &Node<UdpDevice>,
    memory: &Memory<'_, UdpDevice>,
    options: &Options,
    others: impl Fn(),
) -> Region {
    let (start, page) = (memory.start(), [7; PAGE]);
    let (mut begun, mut ended) = (0, 0);
    while ended < options.references {
        while begun < options.references && begun - ended < PUTS_IN_FLIGHT as u64 {
            if start.put(&page).is_err() {
                break;
            }
            begun += 1;
        }
        node.step();
        others();
        while let Some(ticket) = node.next_ended() {
            match node.try_finish(ticket).expect("ended") {
                Ok(finished) => {
                    finished.reference().expect("room");
                    ended += 1;
                }
                Err(_) => begun -= 1,
            }
        }
    }
    let bytes = vec![9; WRITE_BYTES];
    let region = memory.alloc(options.region_mib << 20).expect("room");
    for part in 0..options.region_mib {
        while memory.write(region, part << 20, &bytes).is_err() {
            node.step();
        }
        others();
    }
    region
}

/// The reader, and how long its reads took.
struct Reader<'n> {
    node: &'n Node<UdpDevice>,
    memory: Memory<'n, UdpDevice>,
    region: Region,
}

impl Reader<'_> {
    /// Reads a few times; appends the times in nanoseconds.
    fn read(&self, times: &mut Vec<u64>) {
        let mut out = [0; READ_BYTES];
        for _ in 0..READS_A_LOOK {
            let begin = Instant::now();
            while self.memory.read(self.region, 0, &mut out).is_err() {
                self.node.step();
            }
            times.push(begin.elapsed().as_nanos() as u64);
        }
    }

    fn account(&self) -> Account {
        account(self.node, &self.memory)
    }
}

fn percentile_us(times: &mut [u64], permille: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * permille / 1000).min(times.len().saturating_sub(1));
    times.get(at).map_or(0.0, |nanos| *nanos as f64 / 1e3)
}

/// How many a second went from the first account in which some were gone to the last.
fn rate(seen: &[(Duration, u64)]) -> f64 {
    let Some(&(_, full)) = seen.first() else { return 0.0 };
    let Some(begin) = seen.iter().rposition(|&(_, left)| left == full) else { return 0.0 };
    let Some(end) = seen.iter().position(|&(_, left)| left == 0) else { return 0.0 };
    let span = seen[end].0.saturating_sub(seen[begin].0);
    full as f64 / span.as_secs_f64()
}

fn main() {
    let options = Options::parse();
    let (dying, living) = (node(), node());
    let memory = living.memory(living.connect(options.memory_node).expect("it runs"));
    let region = memory.alloc(PAGE as u64).expect("room");
    memory.write(region, 0, &[1; PAGE]).expect("writable");
    let reader = Reader { node: &living, memory, region };
    let theirs = dying.memory(dying.connect(options.memory_node).expect("it runs"));
    let before = reader.account();
    let big = take_much(&dying, &theirs, &options, || {
        living.poll();
    });
    let one = theirs.create_ref(big, 0, PAGE as u64, ALL_RIGHTS).expect("room");
    let held = reader.account();
    let mut calm = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        reader.read(&mut calm);
    }

    // From here on the one is not polled: it is dead.
    let death = Instant::now();
    let (mut busy, mut frames, mut references) = (Vec::new(), Vec::new(), Vec::new());
    let mut gone_after = None;
    loop {
        let mut times = Vec::new();
        reader.read(&mut times);
        let (at, now) = (death.elapsed(), reader.account());
        frames.push((at, now.frames.saturating_sub(before.frames + options.references)));
        references.push((at, now.references.saturating_sub(before.references)));
        if now.reclaiming {
            busy.extend(times);
        }
        if now.frames < held.frames && gone_after.is_none() {
            gone_after = Some(at);
        }
        if now.references == before.references && now.frames == before.frames {
            break;
        }
        assert!(at < Duration::from_secs(60), "{now:?} after {at:?}: not back to {before:?}");
    }
    let expired = reader.memory.map_ref(&one).expect_err("expired");
    assert!(expired.memory().is_some(), "{expired}");
    let back = death.elapsed();
    println!(
        "{{\"app\":\"reclamation\",\"driver\":\"udp\",\"references\":{},\"frames\":{},\
         \"references_per_s\":{:.0},\"frames_per_s\":{:.0},\"gone_after_ms\":{},\
         \"back_after_ms\":{},\"calm_p50_us\":{:.1},\"calm_p999_us\":{:.1},\"busy_reads\":{},\
         \"busy_p50_us\":{:.1},\"busy_p999_us\":{:.1}}}",
        held.references - before.references,
        held.frames - before.frames,
        rate(&references),
        rate(&frames),
        gone_after.map_or(0, |span| span.as_millis()),
        back.as_millis(),
        percentile_us(&mut calm, 500),
        percentile_us(&mut calm, 999),
        busy.len(),
        percentile_us(&mut busy, 500),
        percentile_us(&mut busy, 999),
    );
    living.disconnect_all();
}

//! A memory node of two cores over one memif link with two queue pairs: what one core's session
//! makes, both cores' sessions map, claim, take and drop at the same time, and one of them wins.
#![cfg(feature = "dpdk")]

use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use dmrpc_cn::memory::{Cause, OperationError};
use dmrpc_cn::{Error, Memory, MemoryError, Node, NodeConfig, Ref};
use dmrpc_conformance::Killed;
use dmrpc_dpdk::{DpdkDevice, Eal, EalConfig, Port, PortConfig};
use dmrpc_host as _;
use dmrpc_host::idle::IdleStrategy;

/// References that each core makes, unless `STRESS_ROUNDS` says how many.
const ROUNDS: usize = 1_000;
/// Bytes behind each: some pages, the last one not whole.
const BYTES: usize = 10_000;
const SERVER: &str = "10.9.1.1:7400";
/// How long a busy machine may keep something from happening.
const PATIENCE: Duration = Duration::from_secs(30);

fn start(vdev: &str) -> Killed {
    let (serving, address) = Killed::serving(
        Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"))
            .args(["--driver", "dpdk", "--dpdk-no-huge", "--dpdk-vdev", vdev, "--bind", SERVER])
            .args(["--cores", "0,1", "--idle", "yield", "--pool-size", "64MiB"]),
    );
    assert_eq!(address, SERVER);
    serving
}

/// A node on queue pair `queue`, which is that of the memory node's core of the same number.
fn node(port: &Arc<Port>, queue: u16) -> Node<DpdkDevice> {
    let pairs = vec![port.queue(queue).expect("free")];
    let at = format!("10.9.1.{}:7500", queue + 2).parse().expect("an address");
    let device = DpdkDevice::open(pairs, at, 24, None, 1).expect("a device");
    let deadline = dmrpc_cn::Duration::from_secs(PATIENCE.as_secs());
    let config = NodeConfig { idle: IdleStrategy::Yield, deadline, ..NodeConfig::default() };
    Node::new(device, at, &config).expect("a node")
}

fn bytes(seed: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (seed * 31 + at * 7) as u8).collect()
}

/// What both cores do to a reference at the same time.
#[derive(Clone, Copy, Debug)]
enum Race {
    /// Both claim it: one of them gets it.
    Claim,
    /// Both take it: one of them gets its bytes.
    Take,
    /// Its maker drops it, the other maps it and writes to it: before that or not at all.
    Drop,
}

impl Race {
    fn of(round: usize) -> Self {
        [Self::Claim, Self::Take, Self::Drop][round % 3]
    }
}

/// What one core tells the other.
enum Said {
    /// A reference that both go for now.
    Made(usize, Ref),
    /// Whether the sender had the better of the reference of that round.
    Won(usize, bool),
    /// The sender makes no more, and has heard of all that it made.
    Over,
}

/// A core's part.
struct Core<'n> {
    number: usize,
    node: &'n Node<DpdkDevice>,
    memory: Memory<'n, DpdkDevice>,
    to: Sender<Said>,
    from: Receiver<Said>,
    /// Whether the other has won, round by round.
    theirs: Vec<Option<bool>>,
    other_is_over: bool,
}

/// The loser is told that the reference is gone, in one of these words, and nothing else happens.
fn lost(error: OperationError) -> bool {
    let gone = [MemoryError::Consumed, MemoryError::Dropped, MemoryError::StaleReference];
    assert!(error.memory().is_some_and(|why| gone.contains(&why)), "{error}");
    false
}

impl Core<'_> {
    /// Does `work`, again if it was not begun because the peer had been silent: on a busy machine
    /// nobody may have polled for half a second.
    fn patiently<T>(
        &self,
        mut work: impl FnMut() -> Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match work() {
                Err(OperationError { cause: Cause::Call(Error::Suspected { .. }), .. })
                    if Instant::now() < end =>
                {
                    self.node.step();
                }
                result => return result,
            }
        }
    }

    /// Goes for the reference that core `maker` made in a round. Returns whether it was won.
    fn go(&self, maker: usize, round: usize, reference: &Ref) -> bool {
        let memory = &self.memory;
        let wanted = bytes(2 * round + maker);
        let mut found = vec![0; BYTES];
        match Race::of(round) {
            Race::Claim => match self.patiently(|| memory.claim_ref(reference)) {
                Ok(claimed) => self.patiently(|| memory.drop_ref(&claimed)).is_ok(),
                Err(error) => lost(error),
            },
            Race::Take => match self.patiently(|| memory.take(reference, &mut found)) {
                Ok(_) => found == wanted || panic!("round {round}: wrong bytes"),
                Err(error) => lost(error),
            },
            Race::Drop if maker == self.number => {
                self.patiently(|| memory.drop_ref(reference)).expect("its owner drops it");
                true
            }
            Race::Drop => match self.patiently(|| memory.map_ref(reference)) {
                Ok(region) => {
                    self.patiently(|| memory.write(region, 5000, b"mine")).expect("write");
                    self.patiently(|| memory.read(region, 0, &mut found)).expect("read");
                    assert_eq!(&found[5000..5004], b"mine");
                    found[5000..5004].copy_from_slice(&wanted[5000..5004]);
                    assert!(found == wanted, "round {round}: wrong bytes");
                    self.patiently(|| memory.free(region)).expect("free");
                    true
                }
                Err(error) => lost(error),
            },
        }
    }

    /// Does what the other core asks for. Time passes for a node only while it is polled.
    fn listen(&mut self) {
        self.node.step();
        while let Ok(said) = self.from.try_recv() {
            match said {
                Said::Made(round, reference) => {
                    let won = self.go(1 - self.number, round, &reference);
                    self.to.send(Said::Won(round, won)).expect("the other core listens");
                }
                Said::Won(round, won) => self.theirs[round] = Some(won),
                Said::Over => self.other_is_over = true,
            }
        }
    }

    /// All rounds. Returns how many of those that only one can win this core has won of its own.
    fn run(&mut self, rounds: usize) -> usize {
        let mut ours = Vec::new();
        for round in 0..rounds {
            let made = bytes(2 * round + self.number);
            let reference = self.patiently(|| self.memory.put(&made)).expect("put");
            self.to.send(Said::Made(round, reference)).expect("the other core listens");
            // Now and then the other core is sure to be first, so that each wins some.
            let end = Instant::now() + PATIENCE;
            while round % 4 == 3 && self.theirs[round].is_none() {
                assert!(Instant::now() < end, "round {round}: nobody answers");
                self.listen();
            }
            ours.push(self.go(self.number, round, &reference));
            self.listen();
        }
        let end = Instant::now() + PATIENCE;
        while self.theirs.iter().any(Option::is_none) {
            assert!(Instant::now() < end, "the other core does not answer");
            self.listen();
        }
        self.to.send(Said::Over).expect("the other core listens");
        while !self.other_is_over {
            assert!(Instant::now() < end, "the other core does not end");
            self.listen();
        }
        let mut won = 0;
        for (round, (ours, theirs)) in ours.into_iter().zip(&self.theirs).enumerate() {
            if !matches!(Race::of(round), Race::Drop) {
                let theirs = theirs.expect("awaited");
                assert!(ours != theirs, "round {round}: won by both or none: {ours}");
                won += usize::from(ours);
            }
        }
        won
    }

    /// Waits until the memory node has nothing left.
    fn await_nothing(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut text = String::new();
            for page in 0..2 {
                let mut out = [0; 1024];
                let reply = self.node.statistics_page(self.memory.peer(), page, &mut out);
                let bytes = reply.expect("it answers").body_bytes;
                text += std::str::from_utf8(&out[..bytes]).expect("text");
            }
            let none = |name| text.lines().any(|line| line == format!("{name}_in_use 0"));
            if ["references", "regions", "frames", "pins"].into_iter().all(none) {
                return;
            }
            assert!(Instant::now() < end, "{text}");
        }
    }
}

#[test]
fn references_go_to_one_of_two_cores_that_go_for_them_at_once() {
    let socket = std::env::temp_dir().join(format!("dmrpc-cores-{}.sock", std::process::id()));
    let path = socket.display();
    let at = |role| format!("net_memif0,role={role},id=0,socket={path},socket-abstract=no");
    let serving = start(&at("server"));
    let config = EalConfig { no_huge: true, memory_mib: 256, ..EalConfig::default() };
    let eal = Eal::start(&config).expect("DPDK starts");
    let name = eal.add_vdev(&at("client")).expect("a link");
    let config = PortConfig { queues: 2, ..PortConfig::default() };
    let port = Port::open(&eal, &name, &config).expect("a port of two queue pairs");

    let rounds = std::env::var("STRESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let (to_second, from_first) = mpsc::channel();
    let (to_first, from_second) = mpsc::channel();
    let run = |number: usize, to, from| {
        let node = node(&port, number as u16);
        let peer = node.connect(SERVER.parse().expect("an address")).expect("it serves");
        let memory = node.memory(peer);
        let theirs = vec![None; rounds];
        let mut core = Core { number, node: &node, memory, to, from, theirs, other_is_over: false };
        let won = core.run(rounds);
        if number == 0 {
            core.await_nothing();
        }
        node.disconnect(peer);
        node.step();
        let races = (0..rounds).filter(|round| !matches!(Race::of(*round), Race::Drop)).count();
        assert!((1..races).contains(&won), "core {number} won {won} of {races}");
        won
    };
    let won = thread::scope(|scope| {
        let second = scope.spawn(|| run(1, to_first, from_first));
        let first = run(0, to_second, from_second);
        [first, second.join().expect("the other core's part")]
    });
    println!("of {rounds} rounds each, the makers won {won:?}");
    drop(serving);
    let _ = std::fs::remove_file(socket);
}

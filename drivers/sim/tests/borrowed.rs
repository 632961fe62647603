//! Answers that are sent from the pool itself: a device reads them late and keeps them as long as
//! it likes, and they stay as they were read, whoever writes meanwhile, and however calls end.

use dmrpc_host as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::host::{
    Admission, Body, Closed, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent,
    SessionId, Side, Sink, Source,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::memory::{Loan, Plain};
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::memory_op::{
    RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step, emit_steps,
};
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_sim::borrowing::{Borrowing, Keeping};
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::random::Random;
use dmrpc_sim::storage;

const DATAGRAM_BYTES: usize = 1458;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
const POOL_BYTES: u64 = 16 << 20;
const PAGE: usize = 4096;
const PAGES: usize = 64;
const REGION_BYTES: usize = PAGES * PAGE;
const SLOTS: u16 = 16;
const READS: usize = 4;
/// Where writes come from.
const WRITTEN: u64 = 100;

const QUICK: Keeping =
    Keeping { read_after_max: 0, return_after_max: 0, lose_one_in: 0, spoil_one_in: 0 };
const FOR_EVER: Keeping = Keeping { return_after_max: u64::MAX / 4, ..QUICK };

/// A program with a buffer for each read, and one for what it writes.
#[derive(Default)]
struct Program {
    reads: Vec<Vec<u8>>,
    written: Vec<u8>,
    /// Whether the endpoint is told where bytes belong.
    tells_places: bool,
    /// What the first call returned in its parameters.
    region: u64,
    ended: Vec<u64>,
}

impl Host for Program {
    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        self.reads[sink.0 as usize][offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    fn place(&mut self, sink: Sink, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        let read = self.tells_places.then(|| &mut self.reads[sink.0 as usize])?;
        Some(&mut read[offset as usize..][..bytes as usize])
    }
    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        assert_eq!(source.0, WRITTEN);
        out.copy_from_slice(&self.written[offset as usize..][..out.len()]);
    }
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let response = completion.result.expect("an answer");
        assert_eq!(response.status, Status::OK, "every operation works");
        if self.region == 0
            && let Some(name) = response.arguments.parameters().first_chunk()
        {
            self.region = u64::from_le_bytes(*name);
        }
        self.ended.push(completion.token);
    }
}

/// A memory node, and what it lent.
struct Watched {
    node: MemoryNode<'static, Plain<'static>>,
    /// Sources that are lent now, or were and are not released.
    lent: Vec<Source>,
    loans: u64,
    closed: bool,
}

impl Host for Watched {
    fn admit(&mut self, head: &RequestHead<'_>, bytes: u32) -> Admission {
        self.node.admit(head, bytes)
    }
    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        self.node.absorb(sink, offset, bytes);
    }
    fn abandon(&mut self, sink: Sink) {
        self.node.abandon(sink);
    }
    fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        self.node.request(now, head, body, reply)
    }
    fn cancelled(&mut self, call: PendingCall) {
        self.node.cancelled(call);
    }
    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        self.node.supply(source, offset, out);
    }
    fn lend(&mut self, source: Source, offset: u32, least: u32, most: u32) -> Option<Loan> {
        let loan = self.node.lend(source, offset, least, most)?;
        self.loans += 1;
        if !self.lent.contains(&source) {
            self.lent.push(source);
        }
        Some(loan)
    }
    fn release(&mut self, source: Source) {
        self.lent.retain(|lent| *lent != source);
        self.node.release(source);
    }
    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        self.node.completed(now, completion);
    }
    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        self.closed |= matches!(event, SessionEvent::Closed(Closed::LeaseExpired));
        self.node.session(now, side, session, event);
    }
}

struct World {
    client: Endpoint<'static>,
    client_device: MemoryDevice,
    program: Program,
    server: Endpoint<'static>,
    server_device: Borrowing<MemoryDevice>,
    watched: Watched,
    session: SessionId,
    now: Instant,
}

fn endpoint(incarnation: u64, encrypt: bool) -> Endpoint<'static> {
    let config = Config {
        slots_per_session: SLOTS,
        key: encrypt.then(|| Key::new(&[7; 32]).expect("long enough")),
        encrypt,
        ..Config::new(incarnation, DATAGRAM_BYTES)
    };
    let size = StorageSize::new(1, 1, SLOTS.into());
    storage::endpoint(config, size, Instant::ZERO).expect("a configuration that works")
}

impl World {
    fn new(keeping: Keeping, seed: u64) -> Self {
        Self::with_encryption(keeping, seed, false)
    }

    /// A region of pages that are all ones is there.
    fn with_encryption(keeping: Keeping, seed: u64, encrypt: bool) -> Self {
        let pool = vec![0; POOL_BYTES as usize / 8].leak();
        let config = StoreConfig::for_pool_bytes(POOL_BYTES);
        let store = Store::format(Plain::lasting(pool), &config).expect("a pool");
        let identity = Identity { memory_node: 1, incarnation: 1, key: RefKey([3; 16]) };
        let holders = vec![SessionHolder::default()].leak();
        let transfers = vec![Transfer::default(); usize::from(SLOTS)].leak();
        let node = MemoryNode::new(store, identity, Limits::NONE, holders, transfers);
        let (client_device, server_device) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
        let (mut client, server) = (endpoint(1, encrypt), endpoint(2, encrypt));
        let session = client.connect(Instant::ZERO, SERVER).expect("a session");
        let reads = vec![vec![0; REGION_BYTES]; READS];
        let mut world = Self {
            client,
            client_device,
            program: Program { reads, ..Program::default() },
            server,
            server_device: Borrowing::new(server_device, keeping, seed),
            watched: Watched { node, lent: Vec::new(), loans: 0, closed: false },
            session,
            now: Instant::ZERO,
        };
        while !world.client.is_up(session) {
            world.poll();
        }
        world.begin(Step::Alloc { length: REGION_BYTES as u64 }, 0, 0);
        world.finish();
        world.write(0, PAGES, 1);
        world.finish();
        world
    }

    fn poll(&mut self) {
        self.now = self.now + Duration::from_micros(2);
        self.client.poll(self.now, &mut self.client_device, &mut self.program);
        self.serve();
    }

    /// Polls the memory node alone.
    fn serve(&mut self) {
        self.now = self.now + Duration::from_micros(2);
        self.server.poll(self.now, &mut self.server_device, &mut self.watched);
        self.watched.node.reclaim(self.now, 16);
    }

    fn begin(&mut self, step: Step, token: u64, bytes: u32) {
        let mut encoded = [0; STEPS_MAX * STEP_BYTES];
        let parameters = emit_steps(&[step], &mut encoded);
        let writes = matches!(step, Step::Write { .. });
        let call = Call {
            parameters,
            source: writes.then_some((Source(token), bytes)),
            sink: (bytes > 0 && !writes).then_some((Sink(token), bytes)),
            token,
            ..Call::new(Method::MEMORY)
        };
        self.client.call(self.now, self.session, &call).expect("a slot");
    }

    fn region(&self) -> RegionOperand {
        RegionOperand::Named(RegionName(self.program.region))
    }

    fn read(&mut self, lane: usize) {
        let (region, length) = (self.region(), REGION_BYTES as u64);
        self.program.reads[lane].fill(0);
        self.begin(Step::Read { region, offset: 0, length }, lane as u64, length as u32);
    }

    /// Fills `pages` pages from number `page` on with `value`.
    fn write(&mut self, page: usize, pages: usize, value: u8) {
        let (region, offset) = (self.region(), (page * PAGE) as u64);
        self.program.written = vec![value; pages * PAGE];
        self.begin(Step::Write { region, offset }, WRITTEN, (pages * PAGE) as u32);
    }

    fn finish(&mut self) -> u64 {
        for _ in 0..10_000_000 {
            if let Some(token) = self.program.ended.pop() {
                return token;
            }
            self.poll();
        }
        panic!("a call never ended");
    }

    fn audit(&self) {
        let store = self.watched.node.store();
        let mut scratch = vec![0; store.check_scratch_bytes()];
        store.check(&mut scratch).expect("a sound store");
        assert_eq!(self.client.counters().bad_checksum, 0, "bytes changed under a device");
    }

    /// Lets the device give back all that it has.
    fn give_back(&mut self) {
        self.server_device.keep(QUICK);
        for _ in 0..1_000 {
            // The client may have to say that it has an answer.
            if self.watched.closed { self.serve() } else { self.poll() }
        }
        assert_eq!(self.server_device.loans(), 0);
        assert_eq!(self.watched.lent, [], "everything lent is released");
    }
}

/// Reads while others write: each page of an answer is as it was at one time, and nothing that a
/// device has not read yet changes. Some of what is sent gets lost, so that pages are lent again.
#[test]
fn pages_stay_as_they_were_while_a_device_has_them() {
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let keeping = Keeping {
            read_after_max: random.below(40),
            return_after_max: random.below(4_000),
            lose_one_in: if random.below(3) == 0 { 0 } else { 20 + random.below(300) },
            ..QUICK
        };
        let mut world = World::new(keeping, seed);
        let mut value = 1;
        for lane in 0..READS {
            world.read(lane);
        }
        for _ in 0..40 {
            let (page, pages) = (random.below(60) as usize, 1 + random.below(4) as usize);
            value += 1;
            world.write(page, pages, value);
            let mut reads = Vec::new();
            loop {
                match world.finish() {
                    WRITTEN => break,
                    lane => reads.push(lane as usize),
                }
            }
            for lane in reads {
                for page in world.program.reads[lane].chunks(PAGE) {
                    assert!((1..=value).contains(&page[0]), "seed {seed}: bytes never written");
                    assert!(page.iter().all(|byte| *byte == page[0]), "seed {seed}: a torn page");
                }
                world.read(lane);
            }
        }
        for _ in 0..READS {
            world.finish();
        }
        assert!(world.watched.loans > 300, "seed {seed}: {} loans", world.watched.loans);
        world.give_back();
        world.audit();
    }
}

/// Bytes that change on the way are noticed and come again, also where they are copied to their
/// place while they are checked.
#[test]
fn what_was_spoilt_comes_again() {
    for (seed, tells_places) in (0..12).zip([false, true].into_iter().cycle()) {
        let keeping = Keeping { spoil_one_in: 20, lose_one_in: 100, ..QUICK };
        let mut world = World::new(keeping, seed);
        world.program.tells_places = tells_places;
        for page in 0..PAGES {
            world.write(page, 1, page as u8);
            world.finish();
        }
        for _ in 0..10 {
            (0..READS).for_each(|lane| world.read(lane));
            for _ in 0..READS {
                let lane = world.finish() as usize;
                for (number, page) in world.program.reads[lane].chunks(PAGE).enumerate() {
                    let right = page.iter().all(|byte| *byte == number as u8);
                    assert!(right, "seed {seed}: page {number} is wrong");
                }
            }
        }
        assert!(world.client.counters().bad_checksum > 10, "seed {seed}: hardly any was spoilt");
        world.give_back();
    }
}

#[test]
fn an_answer_is_kept_until_the_device_has_let_go() {
    let mut world = World::new(FOR_EVER, 1);
    world.read(0);
    world.finish();
    for _ in 0..10_000 {
        world.poll();
    }
    assert_eq!(world.watched.lent.len(), 1, "acknowledged, and with the device");
    assert!(world.server_device.loans() > 0);
    // Its slot is used again meanwhile.
    for _ in 0..2 * SLOTS {
        world.read(0);
        world.finish();
    }
    assert!(world.program.reads[0].iter().all(|byte| *byte == 1));
    world.give_back();
    world.audit();
}

/// No more than 32 answers are lent at a time; others are copied.
#[test]
fn a_device_that_gives_nothing_back_holds_nobody_up() {
    let mut world = World::new(FOR_EVER, 2);
    for round in 0..100 {
        world.write(round % PAGES, 1, round as u8);
        world.finish();
        world.read(0);
        world.finish();
        assert_eq!(world.program.reads[0][round % PAGES * PAGE], round as u8);
    }
    assert_eq!(world.watched.lent.len(), 33, "the last was copied, and its slot still keeps it");
    world.give_back();
    world.audit();
}

#[test]
fn the_death_of_the_peer_leaves_what_is_lent_alone() {
    let mut world = World::new(FOR_EVER, 3);
    world.read(0);
    while world.server_device.loans() < 20 {
        world.poll();
    }
    // The client is not heard of any more: its lease ends, and its memory comes home.
    for _ in 0..200 {
        world.now = world.now + Duration::from_millis(100);
        world.serve();
    }
    assert!(world.watched.closed, "the lease is over");
    assert_eq!(world.watched.lent.len(), 1, "the device still has pages of its region");
    world.give_back();
    world.audit();
}

#[test]
fn devices_may_go_while_they_have_something() {
    let mut world = World::new(FOR_EVER, 4);
    world.read(0);
    world.finish();
    let World { server, server_device, watched, .. } = world;
    assert!(server_device.loans() > 0);
    drop(server_device);
    storage::give_back(server.into_storage());
    let store = watched.node.store();
    store.check(&mut vec![0; store.check_scratch_bytes()]).expect("a sound store");
}

/// What is encrypted is not what lies in the pool.
#[test]
fn packets_of_encrypted_sessions_are_copied() {
    let mut world = World::with_encryption(QUICK, 5, true);
    world.read(0);
    world.finish();
    assert!(world.program.reads[0].iter().all(|byte| *byte == 1));
    assert_eq!((world.watched.loans, world.server_device.loans()), (0, 0));
}

#[test]
fn a_device_that_copies_is_never_lent_anything() {
    let (mut a, _) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
    use dmrpc_core::device::Tx;
    let (_, mut tx) = a.split();
    assert!(!tx.borrows(SERVER) && tx.returned().is_none());
}

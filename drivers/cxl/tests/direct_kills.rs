//! Processes are killed with SIGKILL in the middle of a small direct call: before each word of the
//! line that the call is written into, and of what follows. What is there in part is no call: its
//! server executes nothing of it, others are served all the while, and the next process in the
//! dead one's place goes on in its rings.
//!
//! The victim is this test's own program, started again with an order in its environment.

use dmrpc_host as _;

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration as StdDuration;

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::{
    Admission, Body, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent, SessionId,
    Side, Sink, Source,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::memory::Memory;
use dmrpc_core::time::Instant;
use dmrpc_core::wire::direct::DIRECT_HEADER_BYTES;
use dmrpc_core::wire::message::{Method, REQUEST_HEADER_BYTES, Status};
use dmrpc_cxl::device::address_of;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolMemory, RingDevice};
use dmrpc_sim::storage;

/// The order to a victim: the pool's path, its incarnation, the body's byte, and the store before
/// which it dies.
const ORDER: &str = "DMRPC_DIRECT_KILL_ORDER";
const SERVER: u32 = 1;
const VICTIM: u32 = 2;
const BYSTANDER: u32 = 3;
const ECHO: Call<'static> = Call::new(Method(1));
/// With its header, a call of so many bytes is more than a line and less than two.
const BODY_BYTES: usize = 64;
/// The bodies of calls that the victim makes before, and how many they are.
const EARLIER: u8 = 0xFE;
const WARM_UP: usize = 12;
/// The bodies of those who go on.
const OTHERS: u8 = 0xFF;
const PATIENCE: StdDuration = StdDuration::from_secs(20);

/// Ends this process as an operator or the kernel would.
fn kill_this_process() -> ! {
    let pid = std::process::id().to_string();
    let _ = Command::new("kill").args(["-KILL", &pid]).status();
    loop {
        std::thread::sleep(StdDuration::from_secs(1));
    }
}

/// A pool that is written a word at a time, until the process dies before one of them.
struct Deadly {
    memory: PoolMemory,
    /// Stores that are still done; `None` is without end.
    left: Cell<Option<u32>>,
    stores: Cell<u32>,
}

impl Deadly {
    fn before_store(&self) {
        self.stores.set(self.stores.get() + 1);
        match self.left.get() {
            None => {}
            Some(0) => kill_this_process(),
            Some(left) => self.left.set(Some(left - 1)),
        }
    }
}

impl Memory for Deadly {
    fn len(&self) -> u64 {
        self.memory.len()
    }
    fn shared(&self) -> bool {
        true
    }
    fn load_u32(&self, offset: u64) -> u32 {
        self.memory.load_u32(offset)
    }
    fn load_u64(&self, offset: u64) -> u64 {
        self.memory.load_u64(offset)
    }
    fn store_u32(&self, offset: u64, value: u32) {
        self.before_store();
        self.memory.store_u32(offset, value);
    }
    fn store_u64(&self, offset: u64, value: u64) {
        self.before_store();
        self.memory.store_u64(offset, value);
    }
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.before_store();
        self.memory.compare_exchange_u64(offset, current, new)
    }
    fn read(&self, offset: u64, target: &mut [u8]) {
        self.memory.read(offset, target);
    }
    fn write(&self, offset: u64, source: &[u8]) {
        for (word, bytes) in source.chunks(8).enumerate() {
            self.before_store();
            self.memory.write(offset + 8 * word as u64, bytes);
        }
    }
    fn copy(&self, source: u64, target: u64, len: u64) {
        self.before_store();
        self.memory.copy(source, target, len);
    }
    fn fill_zero(&self, offset: u64, len: u64) {
        self.before_store();
        self.memory.fill_zero(offset, len);
    }
    fn flush(&self, offset: u64, len: u64) {
        self.memory.flush(offset, len);
    }
    fn fence(&self) {
        self.memory.fence();
    }
}

/// Echoes whole bodies, and remembers the first byte of each.
#[derive(Default)]
struct Service {
    executed: Vec<u8>,
    ended: Vec<Result<u8, String>>,
}

/// The byte that a body consists of.
fn byte_of(body: Body<'_>) -> u8 {
    let Body::Whole(bytes) = body else { panic!("only short bodies are sent") };
    assert_eq!(bytes.len(), BODY_BYTES, "a part of a body");
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "half of a body: {bytes:?}");
    bytes[0]
}

impl Host for Service {
    fn admit(&mut self, _: &RequestHead<'_>, _: u32) -> Admission {
        Admission::Busy
    }
    fn absorb(&mut self, _: Sink, _: u32, _: &[u8]) {}
    fn abandon(&mut self, _: Sink) {}
    fn request(
        &mut self,
        _: Instant,
        _: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let byte = byte_of(body);
        self.executed.push(byte);
        reply.body(&[byte; BODY_BYTES]);
        Outcome::Replied
    }
    fn cancelled(&mut self, _: PendingCall) {}
    fn supply(&mut self, _: Source, _: u32, _: &mut [u8]) {}
    fn release(&mut self, _: Source) {}
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        self.ended.push(match completion.result {
            Ok(response) if response.status == Status::OK => Ok(byte_of(response.body)),
            Ok(response) => Err(format!("{:?}", response.status)),
            Err(error) => Err(error.to_string()),
        });
    }
    fn session(&mut self, _: Instant, _: Side, _: SessionId, _: SessionEvent) {}
}

struct Node<M> {
    endpoint: Endpoint<'static>,
    device: RingDevice<M>,
    host: Service,
    start: std::time::Instant,
}

impl<M: Memory> Node<M> {
    fn new(memory: M, pool: &Pool, index: u32, incarnation: u64) -> Self {
        let device = RingDevice::new(memory, pool.geometry(), index).expect("it has rings");
        let datagram_bytes = device.capabilities().datagram_bytes_max;
        let config = Config::new(incarnation, datagram_bytes).through_memory(8).for_device(&device);
        let size = StorageSize::new(1, 4, config.slots_per_session.into());
        let (start, now) = (std::time::Instant::now(), Instant::from_nanos(1_000_000_000));
        let endpoint = Endpoint::new(config, storage::take(size), now).expect("it works");
        Self { endpoint, device, host: Service::default(), start }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(1_000_000_000 + self.start.elapsed().as_nanos() as u64)
    }

    fn poll(&mut self) {
        let now = self.now();
        self.endpoint.poll(now, &mut self.device, &mut self.host);
    }

    /// Opens a session with the server; `others` is polled meanwhile.
    fn connect(&mut self, mut others: impl FnMut()) -> SessionId {
        let session = self.endpoint.connect(self.now(), address_of(SERVER)).expect("room");
        while !self.endpoint.is_up(session) {
            self.poll();
            others();
            assert!(self.start.elapsed() < PATIENCE, "no session");
        }
        session
    }

    /// Begins a call, which leaves at once.
    fn begin(&mut self, session: SessionId, byte: u8) {
        let body = [byte; BODY_BYTES];
        let (now, call) = (self.now(), Call { body: &body, ..ECHO });
        self.endpoint.call_now(|| now, &mut self.device, session, &call).expect("a free slot");
    }

    /// Makes a call, to its end.
    fn call(&mut self, session: SessionId, byte: u8, mut others: impl FnMut()) {
        self.begin(session, byte);
        let start = std::time::Instant::now();
        while self.host.ended.is_empty() {
            self.poll();
            others();
            assert!(start.elapsed() < PATIENCE, "no answer");
        }
        assert_eq!(std::mem::take(&mut self.host.ended), [Ok(byte)]);
    }
}

/// With an order, the victim; without one there is nothing to be killed.
#[test]
fn victim() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let words: Vec<&str> = order.split('|').collect();
    let [path, incarnation, byte, at] = words[..] else { panic!("order {order}") };
    let number = |text: &str| text.parse::<u32>().expect("a number");
    let mapping = Mapping::open(path.as_ref()).expect("the pool");
    let pool = Pool::open(mapping, Mode::Coherent).expect("a pool");
    let memory = pool.memory().clone();
    let deadly = Deadly { memory, left: Cell::new(None), stores: Cell::new(0) };
    let mut node = Node::new(&deadly, &pool, VICTIM, number(incarnation).into());
    let session = node.connect(|| {});
    let byte = number(byte) as u8;
    // Round the ring and more: in each place is another call's line.
    for _ in 0..WARM_UP {
        node.call(session, EARLIER, || {});
    }
    deadly.stores.set(0);
    deadly.left.set(Some(number(at)));
    node.begin(session, byte);
    deadly.left.set(None);
    println!("\nstores {}", deadly.stores.get());
    kill_this_process();
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs a victim that dies before store `at`, while `others` goes on; how many stores its call took
/// if it lived to say so.
fn die(path: &str, round: u8, at: u32, mut others: impl FnMut()) -> Option<u32> {
    let order = format!("{path}|{}|{round}|{at}", 100 + u32::from(round));
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "victim", "--nocapture"]).env(ORDER, order);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test");
    let end = std::time::Instant::now() + 2 * PATIENCE;
    let status = loop {
        others();
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        assert!(std::time::Instant::now() < end, "a victim that does not die");
    };
    let mut error = String::new();
    let _ = child.stderr.take().expect("piped").read_to_string(&mut error);
    assert_eq!(status.signal(), Some(9), "{error}");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let told: Vec<String> = lines.filter(|line| line.starts_with("stores ")).collect();
    told.first().map(|line| line["stores ".len()..].parse().expect("a number"))
}

#[test]
fn a_call_that_was_written_in_part_is_none() {
    let path = Scratch(format!("/dev/shm/dmrpc-direct-kills-{}", std::process::id()).into());
    let (mapping, _) = Mapping::create(&path.0, 64 << 20).expect("64 MiB");
    let config = PoolConfig { ring_slots: 8, datagram_bytes: 1500, ..PoolConfig::default() };
    let pool = Pool::format(mapping, Mode::Coherent, &config, (1, [7; 2]), Overwrite::Unused)
        .expect("a pool");
    let mut server = Node::new(pool.memory().clone(), &pool, SERVER, 1);
    let mut bystander = Node::new(pool.memory().clone(), &pool, BYSTANDER, 2);
    let session = bystander.connect(|| server.poll());
    let name = path.0.to_str().expect("a plain name").to_owned();
    let (mut points, mut unmade) = (0, 0);
    for at in 0..100u8 {
        let survived = die(&name, at, at.into(), || {
            bystander.call(session, OTHERS, || server.poll());
        });
        bystander.call(session, OTHERS, || server.poll());
        let executed = std::mem::take(&mut server.host.executed);
        let of_victim: Vec<u8> = executed.into_iter().filter(|byte| *byte != OTHERS).collect();
        let (before, call) = of_victim.split_at(WARM_UP);
        assert_eq!(before, [EARLIER; WARM_UP]);
        assert!(call.is_empty() || call == [at], "{call:?} before store {at}");
        if call.is_empty() {
            assert_eq!(unmade, at, "made by an earlier store");
            unmade = at + 1;
        }
        if let Some(stores) = survived {
            assert_eq!(stores, u32::from(at), "it died at each");
            points = stores;
            break;
        }
    }
    assert!(points > 0, "no victim lived to the end of its call");
    // The headers, the body, and the word that says that they are there.
    let words = (DIRECT_HEADER_BYTES + REQUEST_HEADER_BYTES + BODY_BYTES) / 8 + 1;
    assert_eq!(usize::from(unmade), words, "a call is one when its last word is there");
    assert!(points as usize >= words, "{points} stores");
}

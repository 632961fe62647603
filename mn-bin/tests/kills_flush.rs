//! Processes that use a pool in flush mode are killed with SIGKILL at named points of what they do
//! there, and so is the memory node; others go on, and what the dead held comes back in full.
//!
//! The victim is this test's own program, started again with an order in its environment.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmrpc_cn::memory::{ALL_RIGHTS, Cause};
use dmrpc_cn::{
    CallError, CallOptions, Error, Finished, Memory, Method, Node, NodeConfig, OperationError, Ref,
    Ticket,
};
use dmrpc_core::store::PAGE_BYTES;
use dmrpc_cxl::device::address_of;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolDevice};

/// The order to a victim: the pool's path, the operation, the point, a reference in hexadecimal.
const ORDER: &str = "DMRPC_FLUSH_KILL_ORDER";
const SURVIVOR: u32 = 1;
const VICTIM: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(20);
/// Pages of what is worked on: their places are told by two answers.
const PAGES: usize = 70;
const BYTES: usize = PAGES * PAGE_BYTES as usize;
const SHORT: usize = 3 * PAGE_BYTES as usize;

/// What a victim does when it dies, with the points at which it does. `asked`: its first message
/// has left, and no answer was taken in. `told`: so many answers were, and nothing was done with
/// the last. `further`: what follows from that was done, too.
const BEGUN: [(&str, &[&str]); 9] = [
    ("put", &["asked", "told 1", "further 1", "told 2", "further 2", "told 3"]),
    ("put short", &["asked", "told 1", "further 1", "told 2"]),
    ("read_ref", &["asked", "told 1", "further 1", "told 2", "further 2"]),
    ("take", &["asked", "told 1", "further 1", "told 2", "further 2", "told 3"]),
    ("take short", &["asked", "told 1", "further 1"]),
    ("create_ref", &["asked", "told 1"]),
    ("map_ref", &["asked", "told 1"]),
    ("claim_ref", &["asked", "told 1"]),
    ("free", &["asked", "told 1"]),
];

/// The same for what is done between messages.
const BETWEEN: [&str; 7] = [
    "written",
    "writing",
    "view given out",
    "view written",
    "view's next page",
    "slices held",
    "left with a view",
];

type Pooled = Node<PoolDevice>;

fn open(path: &Path) -> Arc<Pool> {
    Arc::new(Pool::open(Mapping::open(path).expect("a file"), Mode::Flush).expect("a pool"))
}

/// A node that is participant `index`, as soon as the slot's last user was recovered.
fn node(pool: &Arc<Pool>, index: u32) -> Pooled {
    let end = Instant::now() + PATIENCE;
    let place = loop {
        match pool.attach(Some(index), 1) {
            Ok(place) => break place,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let device = PoolDevice::new(Arc::clone(pool), place).expect("rings");
    let local = device.local_addr();
    let config = NodeConfig { datagram_bytes: 4400, ..NodeConfig::default() };
    let node = Node::new(device, local, &config).expect("a node");
    node.share_pool(pool, index).expect("the store is there");
    node
}

fn memory(node: &Pooled) -> Memory<'_, PoolDevice> {
    node.memory(node.connect(address_of(0)).expect("it serves"))
}

fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    (0..bytes).map(|at| (at as u64 * 31 + at as u64 / 251 + seed * 7) as u8).collect()
}

/// Ends this process as an operator or the kernel would: nothing of it runs any more.
fn kill_this_process() -> ! {
    let pid = std::process::id().to_string();
    let _ = Command::new("kill").args(["-KILL", &pid]).status();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Polls until so many answers have come since there were `before`.
fn await_answers(node: &Pooled, before: u64, answers: u64) {
    let end = Instant::now() + PATIENCE;
    while node.statistics().endpoint.calls_completed - before < answers {
        assert!(
            Instant::now() < end,
            "only {} answers",
            node.statistics().endpoint.calls_completed
        );
        node.poll();
    }
}

/// Begins an operation and dies at a point of it.
fn die_begun(node: &Pooled, operation: &str, point: &str, others: &Ref) -> ! {
    let memory = memory(node);
    let content = pattern(BYTES, 3);
    let region = memory.alloc(BYTES as u64).expect("room");
    memory.write(region, 0, &content).expect("room");
    let short = memory.put(&content[..SHORT]).expect("room");
    let begin = memory.start();
    // Nothing that was begun before is answered later.
    while node.statistics().calls_outstanding != 0 {
        node.poll();
    }
    let before = node.statistics().endpoint.calls_completed;
    let ticket: Result<Ticket, OperationError> = match operation {
        "put" => begin.put(&content),
        "put short" => begin.put(&content[..SHORT]),
        "read_ref" => begin.read_ref(others, 0, BYTES),
        "take" => begin.take(others),
        "take short" => begin.take(&short),
        "create_ref" => begin.create_ref(region, 0, BYTES as u64, ALL_RIGHTS),
        "map_ref" => begin.map_ref(others),
        "claim_ref" => begin.claim_ref(others),
        "free" => begin.free(region),
        other => panic!("no operation {other}"),
    };
    ticket.expect("room");
    match point.split_once(' ') {
        // One poll sends it.
        None => drop(node.poll()),
        Some((how, answers)) => {
            await_answers(node, before, answers.parse().expect("a number"));
            if how == "further" {
                node.poll();
            }
        }
    }
    kill_this_process()
}

/// Dies at a point of what it does without messages.
fn die_between(node: &Pooled, point: &str, others: &Ref) -> ! {
    let memory = memory(node);
    let content = pattern(BYTES, 3);
    let region = memory.alloc(BYTES as u64).expect("room");
    memory.write(region, 0, &content).expect("room");
    let page = |number: u64| number * PAGE_BYTES;
    match point {
        "written" => kill_this_process(),
        "writing" => {
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                kill_this_process()
            });
            loop {
                memory.write(region, 0, &content).expect("its own");
            }
        }
        "slices held" => {
            let slices = memory.slices(others).expect("a reference");
            assert!(slices.iter().flatten().eq(&pattern(BYTES, 1)));
            kill_this_process()
        }
        _ => {}
    }
    let mut view = memory.view(region).expect("mapped");
    let given = view.own(page(4)).expect("within").expect("own");
    if point != "view given out" {
        given.fill(0xEE);
    }
    match point {
        "view's next page" => view.make_own(page(9)).expect("own").fill(0xDD),
        "left with a view" => {
            node.disconnect_all();
            view.make_own(page(9)).expect("own").fill(0xDD);
        }
        "view given out" | "view written" => {}
        other => panic!("no point {other}"),
    }
    kill_this_process()
}

/// Serves calls, and dies in the second.
fn die_serving(node: &Pooled) {
    let served = Cell::new(0);
    println!("\nready");
    node.serve(|_, call| {
        let served = &served;
        async move {
            if served.replace(served.get() + 1) == 1 {
                kill_this_process();
            }
            let _ = call.echo();
        }
    })
    .run(|| false);
}

/// With an order, the victim; without one there is nothing to be killed.
#[test]
fn victim() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let words: Vec<&str> = order.split('|').collect();
    let [path, operation, point, others] = words[..] else { panic!("order {order}") };
    let bytes: Vec<u8> = (0..others.len() / 2)
        .map(|at| u8::from_str_radix(&others[2 * at..2 * at + 2], 16).expect("a byte"))
        .collect();
    let others = Ref::parse(bytes.as_slice().try_into().expect("its length")).expect("a reference");
    let pool = open(Path::new(path));
    let node = node(&pool, VICTIM);
    match operation {
        "between" => die_between(&node, point, &others),
        "serve" => die_serving(&node),
        _ => die_begun(&node, operation, point, &others),
    }
}

/// A pool in tmpfs with its memory node.
struct Served {
    path: PathBuf,
    node: Child,
}

impl Served {
    fn start(name: &str) -> Self {
        let name = format!("/dev/shm/dmrpc-kills-flush-{name}-{}", std::process::id());
        let path = PathBuf::from(name);
        let _ = std::fs::remove_file(&path);
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
        command.arg("--pool").arg(&path).args(["--pool-size", "64MiB", "--grace", "0s"]);
        command.args(["--coherence", "flush"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready"), "{line:?}");
        Self { path, node: child }
    }

    fn order(&self, operation: &str, point: &str, others: &Ref) -> Command {
        let hex: String = others.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let order = format!("{}|{operation}|{point}|{hex}", self.path.display());
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "victim", "--nocapture"]).env(ORDER, order);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the memory node has in use, by name.
fn in_use(memory: &Memory<'_, PoolDevice>, node: &Pooled) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for page in 0..4 {
        let mut out = [0; 2048];
        let reply = node.statistics_page(memory.peer(), page, &mut out).expect("it answers");
        let text = std::str::from_utf8(&out[..reply.body_bytes]).expect("text");
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let used = pairs.filter(|(name, _)| name.ends_with("_in_use"));
        all.extend(used.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))));
    }
    all
}

/// Waits until as much is in use as `expected` says.
fn await_in_use(
    (memory, node): (&Memory<'_, PoolDevice>, &Pooled),
    expected: &BTreeMap<String, u64>,
    context: &str,
) {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = in_use(memory, node);
        if found == *expected {
            return;
        }
        assert!(Instant::now() < end, "{context}: {found:?}, not {expected:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What goes on whatever happens to others: it finds its own bytes, and nobody else's.
fn round(memory: &Memory<'_, PoolDevice>, seed: u64) {
    let content = pattern(9 * PAGE_BYTES as usize + 5, seed);
    let reference = memory.put(&content).expect("goes on");
    let region = memory.map_ref(&reference).expect("goes on");
    memory.write(region, 77, b"mine").expect("goes on");
    let mut found = vec![0; content.len()];
    memory.take(&reference, &mut found).expect("goes on");
    assert!(found == content, "round {seed}");
    memory.read(region, 0, &mut found).expect("goes on");
    assert!(found[..77] == content[..77] && found[77..81] == *b"mine");
    assert!(found[81..] == content[81..], "round {seed}");
    memory.free(region).expect("goes on");
}

#[test]
fn processes_killed_at_named_points_leave_nothing_behind() {
    let served = Served::start("victims");
    let pool = open(&served.path);
    let node = node(&pool, SURVIVOR);
    let memory = memory(&node);
    let before = in_use(&memory, &node);
    assert!(before.len() >= 6 && before["frames_in_use"] == 0, "{before:?}");
    let begun = BEGUN.iter().flat_map(|(name, points)| points.iter().map(|at| (*name, *at)));
    let all = begun.chain(BETWEEN.iter().map(|point| ("between", *point)));
    let mut seed = 0;
    for (operation, point) in all {
        let context = format!("{operation}, {point}");
        let reference = memory.put(&pattern(BYTES, 1)).expect("room");
        let mut child = served.order(operation, point, &reference);
        let mut child =
            child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < end, "{context}: it lives");
            seed += 1;
            round(&memory, seed);
        };
        // Nothing else ends it: the point was hit.
        assert_eq!(status.signal(), Some(9), "{context}: {status}");
        round(&memory, seed + 1);
        // It may be the victim's, and gone with it.
        let _ = memory.drop_ref(&reference);
        await_in_use((&memory, &node), &before, &context);
    }
    assert!(seed > 30, "it did not go on meanwhile");
}

#[test]
fn a_call_of_a_service_that_is_killed_ends_in_time_and_in_a_word() {
    let served = Served::start("service");
    let pool = open(&served.path);
    let node = node(&pool, SURVIVOR);
    let memory = memory(&node);
    let reference = memory.put(b"there").expect("room");
    let mut child = served.order("serve", "", &reference);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    assert!(stdout.lines().map_while(Result::ok).any(|line| line == "ready"));
    let service = node.connect(address_of(VICTIM)).expect("it serves");
    let call = || {
        let begun = Instant::now();
        let ticket = node.start_call(service, Method(1), &[], None, CallOptions::default());
        let result = ticket.and_then(|ticket| {
            loop {
                if let Some(ended) = node.try_finish(ticket) {
                    break ended.map(drop);
                }
                node.step();
            }
        });
        // The deadline of calls is 1.5 s; the other ways to notice take ten.
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
        result
    };
    call().expect("the first is answered");
    let error = call().expect_err("killed by the second");
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(child.wait().expect("a child").signal(), Some(9));
    let error = call().expect_err("nobody there");
    let typed = matches!(
        error,
        Error::Suspected { .. }
            | Error::SessionLost { .. }
            | Error::Connecting { .. }
            | Error::Call { error: CallError::OutcomeUnknown | CallError::SessionLost, .. }
    );
    assert!(typed, "{error}");
    // Its memory node is as it was.
    round(&memory, 1);
}

/// Counts have one owner, so nothing is made or ended without it; but bytes are read and written.
#[test]
fn without_its_memory_node_a_pool_is_read_and_written_and_refuses_the_rest_in_time() {
    let mut served = Served::start("owner");
    let pool = open(&served.path);
    let node = node(&pool, SURVIVOR);
    let memory = memory(&node);
    let region = memory.alloc(BYTES as u64).expect("room");
    let content = pattern(BYTES, 5);
    memory.write(region, 0, &content).expect("room");
    served.node.kill().expect("a child");
    served.node.wait().expect("a child");
    let mut found = vec![0; BYTES];
    memory.read(region, 0, &mut found).expect("nobody is asked");
    assert!(found == content);
    memory.write(region, 9000, b"alone").expect("nobody is asked");
    memory.read(region, 9000, &mut found[..5]).expect("nobody is asked");
    assert_eq!(found[..5], *b"alone");
    for _ in 0..3 {
        let one = Instant::now();
        let tickets = [memory.start().put(&content), memory.start().alloc(1)];
        let error = memory.alloc(1).expect_err("nobody to ask").cause;
        let is_typed = |error: &Error| {
            matches!(error, Error::Suspected { .. } | Error::SessionLost { .. })
                || matches!(error, Error::Call { error: CallError::OutcomeUnknown, .. })
        };
        assert!(matches!(&error, Cause::Call(error) if is_typed(error)), "{error:?}");
        for ticket in tickets.into_iter().flatten() {
            let ended = loop {
                match node.try_finish(ticket) {
                    Some(ended) => break ended.map(Finished::checked),
                    None => node.step(),
                };
            };
            let error = ended.expect_err("nobody to ask");
            assert!(is_typed(&error), "{error}");
        }
        // The deadline of calls is 1.5 s, of which there are up to two in a row.
        assert!(one.elapsed() < Duration::from_secs(9), "{:?}", one.elapsed());
    }
}

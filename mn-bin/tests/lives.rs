//! Processes that die and come back: what a client sees of a memory node's next life, and what a
//! service leaves behind that is killed in the middle of a chain of calls.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddrV4, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dmrpc_cn::memory::{ALL_RIGHTS, Cause};
use dmrpc_cn::{
    Arg, CallError, CallOptions, Closed, ClusterDirectory, Error, IdleStrategy, Memory,
    MemoryError, Method, Node, NodeConfig, Status,
};
use dmrpc_udp::UdpDevice;

/// How long a busy machine may take for what is awaited.
const PATIENCE: Duration = Duration::from_secs(30);
/// The client's lease, by default: what is noticed before was not noticed by it.
const LEASE: Duration = Duration::from_secs(10);
/// The test whose services are processes of its own.
const CHAIN_TEST: &str = "a_service_killed_in_the_middle_of_a_chain_leaves_nothing";

/// A process that is killed in the end.
struct Process {
    child: Child,
    address: SocketAddrV4,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let line = line_with(&mut stdout, "ready ");
        Self { child, address: line.parse().expect("an address"), stdout }
    }

    fn memory_node(bind: &str) -> Self {
        Self::memory_node_with_lease(bind, "1s")
    }

    fn memory_node_with_lease(bind: &str, lease: &str) -> Self {
        Self::start(
            Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"))
                .args(["--bind", bind, "--pool-size", "32MiB", "--lease", lease, "--grace", "1s"])
                .stderr(Stdio::null()),
        )
    }

    /// A service of the last test below: that test again, as another process.
    fn service(name: &str, bind: &str, others: &[SocketAddrV4]) -> Self {
        let others = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Self::start(
            Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", CHAIN_TEST, "--nocapture"])
                .env("SERVICE", name)
                .env("SERVICE_BIND", bind)
                .env("SERVICE_OTHERS", others),
        )
    }

    fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What follows `start` in the first line that has it.
fn line_with(stdout: &mut BufReader<ChildStdout>, start: &str) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(stdout.read_line(&mut line).expect("text") > 0, "it ended without {start:?}");
        if let Some(at) = line.find(start) {
            return line[at + start.len()..].trim().to_owned();
        }
    }
}

fn node() -> Node<UdpDevice> {
    let config = NodeConfig { idle: IdleStrategy::Sleep, ..NodeConfig::default() };
    Node::open_udp(&config).expect("loopback")
}

/// Waits until the memory node has `expected` of what `name` counts.
fn await_count(memory: &Memory<'_, UdpDevice>, node: &Node<UdpDevice>, name: &str, expected: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut found = None;
        for page in 0..2 {
            let mut out = [0; 1024];
            let reply = node.statistics_page(memory.peer(), page, &mut out).expect("it answers");
            let text = std::str::from_utf8(&out[..reply.body_bytes]).expect("text");
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            found = found.or(lines.find(|line| line.0 == name).map(|line| line.1.to_owned()));
        }
        let found = found.expect(name).parse::<u64>().expect("a number");
        if found == expected {
            return;
        }
        assert!(Instant::now() < end, "{name} is {found}, not {expected}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_memory_node_that_was_killed_and_is_back_is_met_again() {
    let mut first = Process::memory_node("127.0.0.1:0");
    let address = first.address;
    let node = node();
    let peer = node.connect(address).expect("it runs");
    let memory = node.memory(peer);
    let region = memory.alloc(8192).expect("room");
    memory.write(region, 0, b"before").expect("writable");
    let reference = memory.create_ref(region, 0, 6, ALL_RIGHTS).expect("room");
    assert_eq!(node.next_loss(), None);
    let before = node.peer_incarnation(peer).expect("known");

    first.kill();
    let second = Process::memory_node(&address.to_string());
    // Of the call that finds out, nobody knows; of the loss, the next one says.
    let error = loop {
        match memory.write(region, 0, b"after").expect_err("gone").cause {
            Cause::Call(Error::Call { error: CallError::OutcomeUnknown, .. })
            | Cause::Call(Error::Suspected { .. }) => {
                node.step();
            }
            cause => break cause,
        }
    };
    let why = Closed::PeerRestarted;
    assert_eq!(error, Cause::Call(Error::SessionLost { address, why }));
    // The same handle goes on.
    let fresh = memory.alloc(4096).expect("the next life has room");
    memory.write(fresh, 0, b"again").expect("writable");
    let loss = node.next_loss().expect("one was lost");
    assert_eq!((loss.address, loss.why, loss.incarnation), (address, why, before));
    assert_eq!(loss.has_restarted(), Some(true));
    assert!(
        loss.incarnation_now > Some(before) && loss.incarnation_now == node.peer_incarnation(peer)
    );
    assert!(loss.took_region(&region) && !loss.took_region(&fresh));
    let kept = memory.create_ref(fresh, 0, 5, ALL_RIGHTS).expect("room");
    assert!(loss.took_ref(&reference) && !loss.took_ref(&kept));
    assert_eq!(node.next_loss(), None, "each is told once");
    // What is gone stays gone, and says so.
    let cause = memory.read(region, 0, &mut [0; 6]).expect_err("gone").cause;
    assert_eq!(cause, Cause::Call(Error::SessionLost { address, why }));
    let stale = memory.map_ref(&reference).expect_err("gone").memory();
    assert_eq!(stale, Some(MemoryError::StaleIncarnation { incarnation: before }));
    let mut bytes = [0; 5];
    memory.take(&kept, &mut bytes).expect("alive");
    assert_eq!(&bytes, b"again");
    memory.free(fresh).expect("ours");
    await_count(&memory, &node, "frames_in_use", 0);
    node.disconnect(peer);
    assert!(memory.alloc(1).is_err(), "a peer that was disconnected stays so");
    drop(second);
}

/// The calls that were begun before are answered by errors, those that wait for a session wait.
#[test]
fn nobody_at_the_address_is_an_error_in_time() {
    let mut first = Process::memory_node("127.0.0.1:0");
    let address = first.address;
    let node = node();
    let memory = node.memory(node.connect(address).expect("it runs"));
    first.kill();
    // A UDP socket in its place that never answers: the lease would take 10 s.
    let start = Instant::now();
    let error = memory.alloc(4096).expect_err("it is gone");
    assert!(start.elapsed() < LEASE, "{error}");
    while !matches!(memory.alloc(1).expect_err("gone").cause, Cause::Call(Error::Suspected { .. }))
    {
        assert!(start.elapsed() < LEASE, "never suspected");
    }
    let _second = Process::memory_node(&address.to_string());
    while memory.alloc(4096).is_err() {
        assert!(start.elapsed() < PATIENCE, "it does not come back");
        node.step();
    }
    assert_eq!(node.next_loss().expect("one").has_restarted(), Some(true));
}

/// Passes datagrams on between one client and `server`, but for the first goodbye.
fn without_the_first_goodbye(server: SocketAddrV4, lost: &'static AtomicU32) -> SocketAddrV4 {
    const KIND_BYE: u8 = 13;
    let front = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let back = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    back.connect(server).expect("an address");
    let address = front.local_addr().expect("bound").to_string();
    let (answers, client) = (back.try_clone().expect("a socket"), front.try_clone());
    let client = client.expect("a socket");
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        let (mut length, from) = front.recv_from(&mut buffer).expect("a hello");
        client.connect(from).expect("an address");
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(length) = answers.recv(&mut buffer) {
                let _ = client.send(&buffer[..length]);
            }
        });
        loop {
            if buffer[1] != KIND_BYE || lost.fetch_add(1, Ordering::Relaxed) > 0 {
                let _ = back.send(&buffer[..length]);
            }
            let Ok(more) = front.recv(&mut buffer) else { return };
            length = more;
        }
    });
    address.parse().expect("an address")
}

/// Nothing else ends the session within the test: the lease is longer.
#[test]
fn a_goodbye_that_is_lost_is_said_again() {
    static LOST: AtomicU32 = AtomicU32::new(0);
    let server = Process::memory_node_with_lease("127.0.0.1:0", "600s");
    let (watcher, leaving) = (node(), node());
    let watched = watcher.memory(watcher.connect(server.address).expect("it runs"));
    let way = without_the_first_goodbye(server.address, &LOST);
    let memory = leaving.memory(leaving.connect(way).expect("it runs"));
    memory.alloc(4096).expect("room");
    await_count(&watched, &watcher, "holders_in_use", 2);
    let begin = Instant::now();
    leaving.disconnect_all();
    assert!(begin.elapsed() < LEASE, "it waits for nobody: {:?}", begin.elapsed());
    drop(leaving);
    await_count(&watched, &watcher, "holders_in_use", 1);
    assert!(LOST.load(Ordering::Relaxed) >= 2, "it was said once only");
}

/// Where a service of this file is bound, and whom it knows.
fn service_node() -> (Node<UdpDevice>, Vec<SocketAddrV4>) {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let bind = variable("SERVICE_BIND").parse().expect("an address");
    let others = variable("SERVICE_OTHERS");
    let others = others.split(',').filter_map(|text| text.parse().ok()).collect();
    let config = NodeConfig { idle: IdleStrategy::Sleep, ..NodeConfig::at(bind) };
    let node = Node::open_udp(&config).expect("loopback");
    println!("\nready {}", node.local_addr());
    (node, others)
}

/// Claims the reference that it gets, changes a copy, and has the next service look at that.
fn serve_in_the_middle() {
    let (node, others) = service_node();
    node.set_directory(ClusterDirectory::from_iter([others[0]]));
    let next = others[1];
    node.serve(|context, call| async move {
        let Some(reference) = call.refs().next() else { return };
        let Ok(memory) = context.memory_of(&reference).await else { return };
        let Ok(mine) = memory.claim_ref(&reference).await.map(|mine| memory.own_ref(mine)) else {
            return;
        };
        let Ok(copy) = memory.map_ref(&mine).await.map(|copy| memory.own(copy)) else { return };
        let _ = memory.write(*copy, 0, b"changed").await;
        let made = memory.create_ref(*copy, 0, copy.length, ALL_RIGHTS).await;
        let Ok(made) = made.map(|made| memory.own_ref(made)) else { return };
        let Ok(peer) = context.peer(next).await else { return };
        let args = [Arg::Ref(*made)];
        let options = context.options();
        let _ = context.node().call_async(peer, Method(2), &args, &mut [], options).await;
        drop((made, copy, mine));
        let _ = call.reply(Status::OK, &[]);
    })
    .run(|| false);
}

/// Says when it is asked, and answers when it is told to.
fn serve_at_the_end() {
    let (node, _) = service_node();
    node.serve(|_, call| async move {
        println!("\nholding 1");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("a line");
        let _ = call.reply(Status::OK, &[]);
    })
    .run(|| false);
}

#[test]
fn a_service_killed_in_the_middle_of_a_chain_leaves_nothing() {
    match std::env::var("SERVICE").as_deref() {
        Ok("middle") => return serve_in_the_middle(),
        Ok(_) => return serve_at_the_end(),
        Err(_) => {}
    }
    let memory_node = Process::memory_node("127.0.0.1:0");
    let mut last = Process::service("end", "127.0.0.1:0", &[]);
    let others = [memory_node.address, last.address];
    let mut middle = Process::service("middle", "127.0.0.1:0", &others);
    let node = node();
    let memory = node.memory(node.connect(memory_node.address).expect("it runs"));
    let service = node.connect(middle.address).expect("it runs");
    let picture = memory.put(&[7; 20_000]).expect("room");

    let args = [Arg::Ref(picture)];
    let begun = Instant::now();
    // Long enough for the chain to be there when it is cut.
    let deadline = Some(dmrpc_cn::Duration::from_secs(5));
    let options = CallOptions { deadline, ..CallOptions::default() };
    let call = node.start_call(service, Method(1), &args, None, options).expect("begun");
    // It travels with the next poll; the rest is between the others.
    node.step();
    line_with(&mut last.stdout, "holding ");
    middle.kill();
    // The caller is not left hanging: its deadline holds whatever happens to the service.
    let error = node.block_on(node.ended(call)).expect_err("killed");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert!(
        matches!(
            error,
            Error::Call { error: CallError::OutcomeUnknown | CallError::DeadlineExceeded, .. }
        ),
        "{error}"
    );
    // What it had claimed, mapped and made is nobody's: it comes back within lease and grace.
    for name in ["regions_in_use", "references_in_use", "pins_in_use", "frames_in_use"] {
        await_count(&memory, &node, name, 0);
    }
    let gone = memory.map_ref(&picture).expect_err("claimed by the dead").memory();
    assert!(
        matches!(
            gone,
            Some(MemoryError::Consumed | MemoryError::Expired | MemoryError::StaleReference)
        ),
        "{gone:?}"
    );
    // The last service is not hung either, and the next life of the middle one is met by itself.
    let stdin = last.child.stdin.as_mut().expect("piped");
    stdin.write_all(b"go\ngo\n").expect("it runs");
    let _again = Process::service("middle", &middle.address.to_string(), &others);
    let picture = memory.put(&[8; 20_000]).expect("room");
    let reply = loop {
        match node.call(service, Method(1), &[Arg::Ref(picture)], &mut []) {
            Ok(reply) => break reply,
            Err(Error::Suspected { .. } | Error::Connecting { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < 2 * PATIENCE, "the chain does not work again");
        node.step();
    };
    assert_eq!(reply.status, Status::OK);
    await_count(&memory, &node, "frames_in_use", 0);
}

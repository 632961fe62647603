//! A process that panics says what happened before, call by call, with the traces that its callers
//! know.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdout, Command, Stdio};

use dmrpc_cn::{
    Arg, CallOptions, Duration, IdleStrategy, Method, Node, NodeConfig, Status, SyncCall, TraceId,
};
use dmrpc_host::events;
use dmrpc_udp::UdpDevice;

/// The role of a process that this test starts: what it passes requests on to, or nothing.
const SERVICE: &str = "DMRPC_PANICKING_SERVICE";

const TEST: &str = "a_panic_tells_the_last_events_with_the_traces_of_calls";

/// What the fatal request's body is.
const FATAL: &[u8] = b"the end";

fn node() -> Node<UdpDevice> {
    let any = "127.0.0.1:0".parse().expect("an address");
    let config = NodeConfig { idle: IdleStrategy::Sleep, ..NodeConfig::at(any) };
    Node::open_udp(&config).expect("loopback")
}

/// Echoes until it is asked for what it cannot do, or passes requests on and cannot go on without
/// an answer.
fn serve(next: Option<SocketAddrV4>) {
    let node = node();
    node.remember(events::free_ring());
    events::dump_on_panic();
    println!("\nready {}", node.local_addr());
    let Some(next) = next else {
        let handler = |call: SyncCall<'_, '_>| {
            assert_ne!(call.body(), FATAL, "the last service cannot go on");
            call.echo().expect("an answer like the request");
        };
        return node.serve_sync(handler).run(|| false);
    };
    node.serve(|context, call| async move {
        let peer = context.peer(next).await.expect("it runs");
        let args: Vec<_> = call.args().collect();
        let options = context.options();
        let answer = context.node().call_async(peer, Method(1), &args, &mut [0; 16], options).await;
        let status = answer.expect("an answer").status;
        assert_eq!(status, Status::OK, "the first service cannot go on");
        call.reply(Status::OK, &[]).expect("an answer");
    })
    .run(|| false);
}

/// A service in a process of its own.
struct Service {
    child: Child,
    address: SocketAddrV4,
    said: BufReader<ChildStdout>,
}

impl Service {
    fn start(next: Option<SocketAddrV4>) -> Self {
        let next = next.map(|next| next.to_string()).unwrap_or_default();
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", TEST, "--nocapture"])
            .env(SERVICE, next)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(said.read_line(&mut line).expect("text") > 0, "it ended early");
            if let Some(address) = line.trim_end().strip_prefix("ready ") {
                break address.parse().expect("an address");
            }
        };
        Self { child, address, said }
    }

    /// What it says in dying.
    fn last_words(mut self) -> String {
        let (mut dump, mut rest) = (String::new(), String::new());
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut dump).expect("text");
        self.said.read_to_string(&mut rest).expect("text");
        assert!(!self.child.wait().expect("a child").success(), "it panicked");
        dump
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_panic_tells_the_last_events_with_the_traces_of_calls() {
    if let Ok(next) = std::env::var(SERVICE) {
        return serve(next.parse().ok());
    }
    let last = Service::start(None);
    let first = Service::start(Some(last.address));
    let node = node();
    let peer = node.connect(first.address).expect("it runs");
    let traces = [TraceId(0xA11_CE00), TraceId(0xB0B << 64 | 7), TraceId(0xDEAD)];
    for (trace, body) in traces.into_iter().zip([&b"one"[..], b"two", FATAL]) {
        let deadline = Some(Duration::from_secs(2));
        let options = CallOptions { trace, deadline, ..CallOptions::default() };
        let answer = node.call_with(peer, Method(1), &[Arg::Inline(body)], &mut [0; 16], options);
        assert_eq!(answer.is_ok_and(|answer| answer.status == Status::OK), body != FATAL);
    }
    // The service that called and the one that was called have the same traces, in the same order.
    for (service, why) in [(last, "the last service"), (first, "the first service")] {
        let dump = service.last_words();
        assert!(dump.contains(why), "{dump}");
        let requests = dump.lines().filter(|line| line.contains(" request  "));
        let found: Vec<_> = requests.filter_map(|line| line.split(" trace ").nth(1)).collect();
        assert_eq!(found, traces.map(|trace| format!("{:032x}", trace.0)), "{dump}");
    }
}

//! What a 32 B call through the library costs, both ends together: two nodes of one thread over a
//! wire in memory, a service that echoes, the payload check on.
//!
//! `call_cost --calls N [--in-flight K] [--sync]` prints one line:
//! `calls=N in_flight=K seconds=S calls_per_s=R`. With `--sync` the service's handler never waits.
//!
//! For instructions a call, run it under `valgrind --tool=callgrind` with two values of N and
//! divide the difference of the totals by that of the calls: what happens once cancels out.

use dmrpc_host as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::task::{Context, Poll, Waker};

use dmrpc_cn::{Arg, BufferClass, CallOptions, Method, Node, NodeConfig, Peer, Status};
use dmrpc_core::device::{Capabilities, Device};
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::Wait;
use dmrpc_sim::memory::{MemoryDevice, pair};

const BYTES: usize = 32;
const DATAGRAM_BYTES: usize = 1472;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
const ECHO: Method = Method(1);
/// What the clock moves on by when it is read.
const STEP: Duration = Duration::from_nanos(50);

/// One end of the wire; its loop never sleeps.
struct Wire(MemoryDevice);

impl Device for Wire {
    type Rx<'a> = <MemoryDevice as Device>::Rx<'a>;
    type Tx<'a> = <MemoryDevice as Device>::Tx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    #[inline]
    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        self.0.split()
    }
}

impl Wait for Wire {
    fn wait(&self, _: std::time::Duration) -> bool {
        true
    }
}

fn node(device: MemoryDevice, address: SocketAddrV4) -> Node<Wire> {
    let none = BufferClass { count: 0, bytes: 0 };
    let config = NodeConfig {
        client_sessions: 2,
        server_sessions: 2,
        slots: 64,
        calls: 512,
        tasks: 128,
        buffers: [none, none, BufferClass { count: 256, bytes: 4096 }],
        ..NodeConfig::at(address)
    };
    // Timers follow the number of polls, not the time that they take under callgrind.
    let clock = Clock::steps(STEP);
    Node::with_clock(Wire(device), address, &config, clock).expect("legal numbers")
}

/// Makes `calls` calls with `in_flight` at a time.
fn run(client: &Node<Wire>, peer: Peer, serve: impl Fn(), (calls, in_flight): (u64, u64)) {
    let body = [0x5A; BYTES];
    let (mut begun, mut ended) = (0, 0);
    while ended < calls {
        while begun < calls.min(ended + in_flight) {
            let reply = client.buffer(BYTES).expect("as many as calls");
            let args = [Arg::Inline(&body)];
            let options = CallOptions::default();
            let ticket = client.start_call(peer, ECHO, &args, Some(reply), options);
            ticket.expect("as many slots as calls");
            begun += 1;
        }
        client.step();
        serve();
        client.step();
        while let Some(ticket) = client.next_ended() {
            let finished = client.try_finish(ticket).expect("ended").expect("answered");
            assert_eq!(finished.reply.status, Status::OK);
            assert_eq!(finished.buffer.as_deref(), Some(&body[..]));
            ended += 1;
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    args.next().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("{name} {text}: a number is wanted");
            std::process::exit(2)
        })
    })
}

/// Serves, and runs `work` with a step of the service.
fn with_service(server: &Node<Wire>, is_sync: bool, work: impl FnOnce(&dyn Fn())) {
    if is_sync {
        let service = server.serve_sync(|call| {
            let _ = call.echo();
        });
        // It answers while it is polled.
        return work(&|| {
            service.step();
        });
    }
    let service = server.serve(|_, incoming| async move {
        let _ = incoming.echo();
    });
    work(&|| {
        service.step();
        // What has just come in is answered.
        service.step();
    });
}

fn main() {
    let (calls, in_flight) = (number("--calls", 2_000_000), number("--in-flight", 32));
    let (a, b) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
    let (client, server) = (node(a, CLIENT), node(b, SERVER));
    let is_sync = std::env::args().any(|arg| arg == "--sync");
    with_service(&server, is_sync, |serve| measure(&client, serve, (calls, in_flight)));
}

fn measure(client: &Node<Wire>, serve: &dyn Fn(), (calls, in_flight): (u64, u64)) {
    let mut connect = std::pin::pin!(client.connect_async(SERVER));
    let mut context = Context::from_waker(Waker::noop());
    let peer = loop {
        if let Poll::Ready(peer) = connect.as_mut().poll(&mut context) {
            break peer.expect("a session");
        }
        client.step();
        serve();
    };
    let start = std::time::Instant::now();
    run(client, peer, serve, (calls, in_flight));
    let seconds = start.elapsed().as_secs_f64();
    let rate = calls as f64 / seconds;
    println!("calls={calls} in_flight={in_flight} seconds={seconds:.6} calls_per_s={rate:.0}");
}

//! What a 32 B RPC costs, both ends together: two endpoints of one thread over a wire in memory,
//! a service that echoes, the payload check on.
//!
//! `rpc_cost --calls N [--in-flight K]` prints one line:
//! `calls=N in_flight=K seconds=S calls_per_s=R`. For instructions a call, run it under
//! `valgrind --tool=callgrind` with two values of N and divide the difference of the totals by
//! that of the calls: what happens once cancels out.

use dmrpc_host as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{
    Admission, Body, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent, SessionId,
    Side, Sink, Source,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

const BYTES: usize = 32;
const DATAGRAM_BYTES: usize = 1472;
/// The clock's step between polls, in nanoseconds: about what a poll takes.
const STEP_NS: u64 = 200;

/// Echoes requests, and counts answers.
#[derive(Default)]
struct Echo {
    completed: u64,
    wrong: u64,
}

impl Host for Echo {
    fn admit(&mut self, _: &RequestHead<'_>, _: u32) -> Admission {
        Admission::Busy
    }
    fn absorb(&mut self, _: Sink, _: u32, _: &[u8]) {}
    fn abandon(&mut self, _: Sink) {}
    #[inline(always)]
    fn request(
        &mut self,
        _: Instant,
        _: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if let Body::Whole(bytes) = body {
            reply.body(bytes);
        }
        Outcome::Replied
    }
    fn cancelled(&mut self, _: PendingCall) {}
    fn supply(&mut self, _: Source, _: u32, _: &mut [u8]) {}
    fn release(&mut self, _: Source) {}
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        self.completed += 1;
        let right = matches!(completion.result, Ok(response) if response.status == Status::OK
            && matches!(response.body, Body::Whole(bytes) if bytes.len() == BYTES));
        if !right {
            self.wrong += 1;
        }
    }
    fn session(&mut self, _: Instant, _: Side, _: SessionId, _: SessionEvent) {}
}

struct Node {
    endpoint: Endpoint<'static>,
    device: MemoryDevice,
    host: Echo,
}

impl Node {
    fn new(incarnation: u64, device: MemoryDevice) -> Self {
        let config = Config { slots_per_session: 64, ..Config::new(incarnation, DATAGRAM_BYTES) };
        let size = StorageSize::new(1, 1, config.slots_per_session.into());
        let endpoint = Endpoint::new(config, storage::take(size), Instant::ZERO);
        Self { endpoint: endpoint.expect("the defaults work"), device, host: Echo::default() }
    }

    fn poll(&mut self, now: Instant) {
        self.endpoint.poll(now, &mut self.device, &mut self.host);
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

fn main() {
    let (calls, in_flight) = (number("--calls", 5_000_000), number("--in-flight", 32));
    let address = |last| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 4000);
    let (a, b) = pair(address(1), address(2), DATAGRAM_BYTES, 8);
    let (mut client, mut server) = (Node::new(1, a), Node::new(2, b));
    let mut nanos = 0;
    let mut tick = || {
        nanos += STEP_NS;
        Instant::from_nanos(nanos)
    };
    let session = client.endpoint.connect(tick(), address(2)).expect("a session");
    while !client.endpoint.is_up(session) {
        client.poll(tick());
        server.poll(tick());
    }
    let body = [0x5A; BYTES];
    let started = std::time::Instant::now();
    let mut made = 0;
    while client.host.completed < calls {
        let now = tick();
        while made < calls && made - client.host.completed < in_flight {
            let call = Call { body: &body, token: made, ..Call::new(Method(1)) };
            if client.endpoint.call(now, session, &call).is_err() {
                break;
            }
            made += 1;
        }
        client.poll(now);
        server.poll(tick());
        client.poll(tick());
    }
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(client.host.wrong, 0, "every answer is right");
    let rate = calls as f64 / seconds;
    println!("calls={calls} in_flight={in_flight} seconds={seconds:.6} calls_per_s={rate:.0}");
}

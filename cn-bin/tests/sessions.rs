//! Thousands of sessions of one node with another.

mod common;

use common::{Server, config};
use dmrpc_cn::{
    Arg, Closed, ConnectError, Context, IncomingCall, Method, Node, NodeConfig, SESSIONS_MAX,
};
use dmrpc_udp::UdpDevice;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SESSIONS: usize = 5_000;
/// How long a busy machine may take for what is awaited.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn thousands_of_sessions_are_opened_used_and_closed() {
    let served = NodeConfig {
        server_sessions: SESSIONS,
        sessions_per_address: Some(SESSIONS),
        slots: 2,
        ..config()
    };
    let server = Server::node_with(served, |node, stop| {
        let handler = async |_: Context<'_, UdpDevice>, call: IncomingCall<'_, UdpDevice>| {
            call.echo().expect("an answer like the request");
        };
        node.serve(handler).run(|| stop.load(Ordering::Relaxed));
    });
    // One more than the server has.
    let config = NodeConfig { client_sessions: SESSIONS + 1, slots: 2, ..config() };
    let node = Node::open_udp(&config).expect("loopback");
    let peers: Vec<_> =
        (0..SESSIONS).map(|_| node.connect(server.address).expect("there is room")).collect();
    let refused = node.connect(server.address).expect_err("there is no more room");
    let ConnectError::Refused { why, .. } = refused else { panic!("{refused}") };
    assert_eq!(why, Closed::AddressFull { bound: SESSIONS as u32 });

    let mut answer = [0; 8];
    // All of them, in an order that is not that of their making.
    for number in (0..SESSIONS).map(|number| number * 1_001 % SESSIONS) {
        let body = (number as u64).to_le_bytes();
        node.expect_call(peers[(number + 8) % SESSIONS]);
        let reply = node.call(peers[number], Method(1), &[Arg::Inline(&body)], &mut answer);
        assert_eq!(reply.expect("an echo").body_bytes, body.len());
        assert_eq!(answer, body);
    }

    // Places that are given back are used again, and at the server, too.
    for peer in &peers[..SESSIONS / 2] {
        node.disconnect(*peer);
    }
    let until = Instant::now() + PATIENCE;
    for _ in 0..SESSIONS / 2 {
        while let Err(error) = node.connect(server.address) {
            assert!(Instant::now() < until, "goodbyes were said: {error}");
        }
    }
}

#[test]
fn more_sessions_than_there_may_be_are_refused_by_name() {
    let wrong = SESSIONS_MAX + 1;
    for (config, what) in [
        (NodeConfig { client_sessions: wrong, ..config() }, "client sessions"),
        (NodeConfig { server_sessions: wrong, ..config() }, "server sessions"),
    ] {
        let Err(error) = Node::open_udp(&config) else { panic!("{wrong} {what} are too many") };
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("65537") && text.contains("65536"), "{text}");
    }
}

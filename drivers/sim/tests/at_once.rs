//! Calls that leave at once, and looks that do nothing but look.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::endpoint::host::{Body, Completion, Outcome, Reply, RequestHead, SessionId};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::control::Features;
use dmrpc_core::wire::message::Method;
use dmrpc_host as _;
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 2);
const DATAGRAM_BYTES: usize = 1472;

/// Echoes, and remembers in which order tokens came back.
#[derive(Default)]
struct Echo {
    requests: u32,
    ended: Vec<u64>,
}

impl Host for Echo {
    fn request(
        &mut self,
        _: Instant,
        _: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        self.requests += 1;
        if let Body::Whole(bytes) = body {
            reply.body(bytes);
        }
        Outcome::Replied
    }
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let response = completion.result.expect("an answer");
        assert!(matches!(response.body, Body::Whole(b"hello")));
        self.ended.push(completion.token);
    }
}

struct End {
    endpoint: Endpoint<'static>,
    device: MemoryDevice,
    host: Echo,
}

impl End {
    fn poll(&mut self, now: Instant) {
        self.endpoint.poll(now, &mut self.device, &mut self.host);
    }

    /// Looks at `now`; says whether there was anything, and that the time was asked for only then.
    fn look(&mut self, now: Instant) -> bool {
        let mut asked = false;
        let clock = || {
            asked = true;
            now
        };
        let found = self.endpoint.look(clock, &mut self.device, &mut self.host);
        assert_eq!(asked, found.is_some());
        found.is_some_and(|(at, polled)| at == now && !polled.is_idle())
    }

    fn call_now(&mut self, now: Instant, session: SessionId, token: u64) {
        let call = Call { body: b"hello", token, ..Call::new(Method(1)) };
        let begun = self.endpoint.call_now(|| now, &mut self.device, session, &call);
        begun.expect("a free slot");
    }

    /// Throws away what has come in; returns how many datagrams that was.
    fn lose(&mut self) -> usize {
        let (mut rx, _) = self.device.split();
        rx.receive()
    }
}

/// Two ends and an open session, at a time when nothing is under way.
fn ends(config: impl Fn(Config) -> Config) -> (End, End, SessionId, Instant) {
    let (a, b) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 1);
    let end = |incarnation, device| {
        let config = config(Config::new(incarnation, DATAGRAM_BYTES));
        let size = StorageSize::new(1, 1, config.slots_per_session.into());
        let endpoint = Endpoint::new(config, storage::take(size), Instant::ZERO);
        End { endpoint: endpoint.expect("legal"), device, host: Echo::default() }
    };
    let (mut client, mut server) = (end(1, a), end(2, b));
    let mut now = Instant::ZERO;
    let session = client.endpoint.connect(now, SERVER).expect("a free session");
    while !client.endpoint.is_up(session) {
        now = now + Duration::from_micros(1);
        client.poll(now);
        server.poll(now);
    }
    client.poll(now);
    server.poll(now);
    (client, server, session, now)
}

#[test]
fn a_lone_call_needs_one_look_at_each_end() {
    for checks in [true, false] {
        let (mut client, mut server, session, now) = ends(|mut config| {
            config.features.set(Features::PAYLOAD_CHECK, checks);
            config
        });
        for token in 0..200 {
            assert!(!server.look(now) && !client.look(now), "nothing is under way");
            client.call_now(now, session, token);
            assert!(server.look(now), "it has left");
            assert!(client.look(now), "so has the answer");
            assert_eq!(client.host.ended.last(), Some(&token));
        }
        let (sent, answered) = (client.endpoint.counters(), server.endpoint.counters());
        assert_eq!((sent.calls_started, sent.calls_completed), (200, 200));
        // Beside the handshake's, which are not of messages.
        assert_eq!((sent.packets_sent, answered.packets_sent), (200, 200));
        assert_eq!((sent.packets_resent, answered.duplicates), (0, 0));
    }
}

#[test]
fn what_was_ready_before_leaves_before() {
    let (mut client, mut server, session, now) = ends(|config| config);
    let call = Call { body: b"hello", token: 1, ..Call::new(Method(1)) };
    client.endpoint.call(now, session, &call).expect("a free slot");
    client.call_now(now, session, 2);
    assert!(!server.look(now), "both wait for the client's poll");
    assert!(client.look(now), "which a look makes, for there is something to send");
    assert!(server.look(now));
    assert!(client.look(now));
    assert_eq!(client.host.ended, [1, 2]);
}

#[test]
fn a_call_that_left_at_once_is_repeated_when_it_is_lost() {
    let (mut client, mut server, session, mut now) = ends(|config| config);
    client.call_now(now, session, 7);
    assert_eq!(server.lose(), 1);
    let start = now;
    while client.host.ended.is_empty() {
        now = now + Duration::from_micros(20);
        client.poll(now);
        server.poll(now);
        assert!(now.since(start) < Duration::from_millis(100), "its timer runs");
    }
    assert_eq!((client.host.ended.as_slice(), server.host.requests), (&[7][..], 1));
    assert_eq!(client.endpoint.counters().packets_resent, 1);
}

#[test]
fn a_call_that_finds_the_device_full_leaves_with_a_poll() {
    let (mut client, mut server, session, now) = ends(|config| config);
    // Nonsense fills the wire.
    let (_, mut tx) = client.device.split();
    while let Some(bytes) = tx.push(SERVER, 8) {
        bytes.fill(0);
        tx.flush();
    }
    client.call_now(now, session, 3);
    assert!(server.lose() > 0);
    while server.lose() > 0 {}
    assert_eq!(server.host.requests, 0);
    assert!(client.look(now), "it is still to be sent");
    assert!(server.look(now) && client.look(now));
    assert_eq!(client.host.ended, [3]);
}

#[test]
fn a_look_leaves_timers_alone_and_a_poll_serves_them() {
    let (mut client, mut server, session, now) = ends(|config| config);
    client.call_now(now, session, 9);
    assert_eq!(server.lose(), 1);
    let later = now + Duration::from_millis(50);
    for _ in 0..100 {
        assert!(!client.look(later), "nothing came");
    }
    client.poll(later);
    assert!(server.look(later), "the repetition");
}

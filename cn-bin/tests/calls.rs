//! Calls between nodes over loopback.

mod common;

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration as StdDuration, Instant as StdInstant};

use common::{Server, config, node, pattern};
use dmrpc_cn::{
    Arg, CallError, CallOptions, Closed, ConnectError, Context, Duration, Error, IdleStrategy,
    IncomingCall, Method, Node, NodeConfig, Ref, Rights, Status,
};
use dmrpc_udp::UdpDevice;

/// How long a busy machine may take for what is awaited.
const PATIENCE: StdDuration = StdDuration::from_secs(20);
const SIZES: [usize; 9] = [0, 1, 64, 700, 768, 5_000, 9_000, 100_000, 8 << 20];

fn some_ref(number: u64) -> Ref {
    Ref {
        memory_node: 3,
        incarnation: 1,
        index: 2,
        generation: number,
        offset: 0,
        length: 10,
        rights: Rights::MAP,
        tag: 77,
    }
}

#[test]
fn echo_of_every_size() {
    let (server, node) = (Server::echo(), node());
    let peer = node.connect(server.address).expect("it runs");
    let mut answer = vec![0; 8 << 20];
    for size in SIZES {
        let body = pattern(size, 1);
        let args = [Arg::Inline(&body)];
        let reply = node.call(peer, Method(1), &args, &mut answer).expect("an echo");
        assert_eq!((reply.status, reply.body_bytes), (Status::OK, size));
        assert!(answer[..size] == body[..], "{size} bytes differ");
    }
    // Everything came home.
    let statistics = node.statistics();
    assert_eq!(statistics.calls_outstanding, 0);
    assert_eq!(statistics.buffers_free, 128 + 16 + 4);
    assert_eq!(statistics.of(dmrpc_cn::Operation::Call).done, SIZES.len() as u64);
}

/// One configuration opens a node again and again on one port, and nobody says goodbye.
#[test]
fn each_opening_of_a_node_has_its_own_answers() {
    let server = Server::echo();
    let bind = node().local_addr();
    let config = NodeConfig { bind, ..config() };
    for life in 0..3 {
        let node = Node::open_udp(&config).expect("the port is free again");
        let peer = node.connect(server.address).expect("it runs");
        for number in 0..20 {
            let body = pattern(100, life * 100 + number);
            let mut answer = [0; 100];
            node.call(peer, Method(1), &[Arg::Inline(&body)], &mut answer).expect("an echo");
            assert!(answer[..] == body[..], "call {number} of life {life} has its own answer");
        }
    }
}

#[test]
fn calls_from_buffers_are_sent_from_where_they_lie() {
    let (server, node) = (Server::echo(), node());
    let peer = node.connect(server.address).expect("it runs");
    for size in SIZES {
        let expected = pattern(size, 7);
        let mut body = node.buffer(size).expect("one is free");
        body.copy_from_slice(&expected);
        let reply = node.buffer(size).expect("another is free");
        let options = CallOptions::default();
        let ticket = node.start_call_from(peer, Method(1), body, Some(reply), options);
        let ticket = ticket.expect("begun");
        let finished = loop {
            node.step();
            if let Some(finished) = node.try_finish(ticket) {
                break finished.expect("an echo");
            }
        };
        let found = finished.buffer.as_deref().expect("its buffer");
        assert!(finished.reply.status == Status::OK && found == expected, "{size} bytes differ");
    }
    let (body, free) = (node.buffer(1).expect("free"), node.statistics().buffers_free);
    node.disconnect(peer);
    node.step();
    let refused = node.start_call_from(peer, Method(1), body, None, CallOptions::default());
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(node.statistics().buffers_free, free + 1, "the buffer came home");
}

/// Their polls are looks, most of them, and their blocking calls leave at once.
#[test]
fn loops_that_never_pause() {
    let busy = || NodeConfig { idle: IdleStrategy::Busy, ..NodeConfig::default() };
    let serve = |node: &Node<UdpDevice>, stop: &std::sync::atomic::AtomicBool| {
        node.serve_sync(|call| {
            if call.method() == Method(1) {
                call.echo().expect("an echo")
            }
        })
        .run(|| stop.load(Ordering::Relaxed));
    };
    let (server, silence) = (Server::node_with(busy(), serve), Server::node(silent));
    let node = Node::open_udp(&busy()).expect("loopback");
    let (peer, nobody) = (node.connect(server.address), node.connect(silence.address));
    let (peer, nobody) = (peer.expect("it runs"), nobody.expect("it runs"));
    let mut answer = [0; 300];
    for size in 0..300 {
        let body = pattern(size, size);
        let reply = node.call(peer, Method(1), &[Arg::Inline(&body)], &mut answer);
        assert_eq!(reply.expect("an echo").body_bytes, size);
        assert!(answer[..size] == body[..], "{size} bytes differ");
    }
    let reply = node.call(peer, Method(2), &[], &mut []).expect("an answer");
    assert_eq!(reply.status, Status::NESTED_FAILED);
    // Timers are served though nothing comes.
    let options =
        CallOptions { deadline: Some(Duration::from_millis(30)), ..CallOptions::default() };
    let error = node.call_with(nobody, Method(1), &[], &mut [], options).expect_err("silence");
    assert!(error.is_outcome_unknown(), "{error}");
    let statistics = node.statistics();
    assert_eq!(statistics.of(dmrpc_cn::Operation::Call).done, 301);
    assert_eq!(statistics.calls_outstanding, 0);
    assert!(statistics.polls.sent >= 302, "{:?}", statistics.polls);
    assert!(statistics.polls.empty < statistics.polls.polls);
}

#[test]
fn several_arguments_keep_their_order() {
    let (server, node) = (Server::echo(), node());
    let peer = node.connect(server.address).expect("it runs");
    let (long, mut answer) = (pattern(20_000, 2), vec![0; 30_000]);
    let args = [
        Arg::Inline(b"first"),
        Arg::Ref(some_ref(1)),
        Arg::Inline(&long),
        Arg::Ref(some_ref(2)),
        Arg::Inline(b""),
    ];
    let reply = node.call(peer, Method(1), &args, &mut answer).expect("an echo");
    assert_eq!(reply.results().len(), 5);
    assert_eq!(reply.refs().collect::<Vec<_>>(), [some_ref(1), some_ref(2)]);
    assert_eq!(&answer[..5], b"first");
    assert!(answer[5..reply.body_bytes] == long[..]);
    let nine = [Arg::Inline(b"x"); 9];
    let error = node.call(peer, Method(1), &nine, &mut answer).expect_err("too many");
    assert_eq!(error, Error::TooManyArgs { given: 9 });
    // References travel in the head, which has room for eight of them and a little more.
    let refs = [Arg::Ref(some_ref(5)); 8];
    let reply = node.call(peer, Method(1), &refs, &mut answer).expect("an echo");
    assert_eq!(reply.refs().count(), 8);
}

#[test]
fn many_calls_in_flight() {
    let (server, node) = (Server::echo(), node());
    let peer = node.connect(server.address).expect("it runs");
    let mut answered = 0;
    let mut begun = 0;
    let mut room_errors = 0;
    while answered < 500 {
        while begun < 500 {
            let body = pattern(100 + begun % 3 * 6_000, begun);
            let buffer = node.buffer(20_000).expect("there are many");
            let args = [Arg::Inline(&body)];
            match node.start_call(peer, Method(1), &args, Some(buffer), CallOptions::default()) {
                Ok(_) => begun += 1,
                Err(error) => {
                    assert!(error.is_room(), "{error}");
                    room_errors += 1;
                    break;
                }
            }
        }
        node.step();
        while let Some(ticket) = node.next_ended() {
            let finished = node.try_finish(ticket).expect("ended").expect("answered");
            let buffer = finished.buffer.expect("given");
            assert_eq!(buffer.len(), finished.reply.body_bytes);
            assert!((0..500).any(|seed| seed % 3 == (buffer.len() - 100) / 6_000
                && pattern(buffer.len(), seed) == buffer[..]));
            assert_eq!(node.try_finish(ticket).expect("known").err(), Some(Error::StaleTicket));
            answered += 1;
        }
    }
    assert!(room_errors > 0, "slots are a limit");
    assert_eq!(node.statistics().calls_outstanding, 0);
    assert_eq!(node.statistics().buffers_free, 128 + 16 + 4);
}

#[test]
fn answers_longer_than_the_room() {
    let (server, node) = (Server::echo(), node());
    let peer = node.connect(server.address).expect("it runs");
    for size in [100, 5_000, 100_000] {
        let body = pattern(size, 3);
        let mut room = vec![0; size - 1];
        let error = node.call(peer, Method(1), &[Arg::Inline(&body)], &mut room);
        let bytes = size as u32;
        match error.expect_err("no room") {
            Error::Call { error, .. } => {
                assert_eq!(error, CallError::AnswerTooLarge { bytes, room: bytes - 1 });
            }
            other => panic!("{other}"),
        }
    }
    // The session lives on.
    node.call(peer, Method(1), &[], &mut []).expect("an empty echo");
}

#[test]
fn nobody_there() {
    let node = node();
    let address = "127.0.0.1:9".parse().expect("an address");
    let start = StdInstant::now();
    let error = node.connect(address).expect_err("nobody listens");
    assert_eq!(error, ConnectError::Refused { address, why: Closed::Unreachable });
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn a_node_without_a_service_says_so() {
    let server = Server::node(|node, stop| {
        while !stop.load(Ordering::Relaxed) {
            node.step();
        }
    });
    let node = node();
    let peer = node.connect(server.address).expect("it runs");
    let body = pattern(50_000, 1);
    for args in [&[][..], &[Arg::Inline(&body)]] {
        let reply = node.call(peer, Method(1), args, &mut []).expect("an answer");
        assert_eq!(reply.status, Status::UNKNOWN_METHOD);
    }
}

/// Answers method 1 by calling back method 2 at the address in the body; method 2 by echoing.
async fn call_back(context: Context<'_, UdpDevice>, call: IncomingCall<'_, UdpDevice>) {
    if call.method() == Method(2) {
        assert_eq!((call.depth(), context.trace().0), (1, 99));
        return call.echo().expect("an echo");
    }
    let address = std::str::from_utf8(call.body()).expect("text").parse().expect("an address");
    let peer = context.peer(address).await.expect("the caller serves, too");
    let mut answer = [0; 100];
    let args = [Arg::Inline(b"hello "), Arg::Inline(call.body())];
    let reply = context.call(peer, Method(2), &args, &mut answer).await.expect("an echo");
    let results = [Arg::Inline(&answer[..reply.body_bytes])];
    call.reply(Status(Status::APPLICATION_FIRST), &results).expect("short");
}

#[test]
fn a_calls_b_calls_a() {
    let server = Server::node(|node, stop| {
        node.serve(call_back).run(|| stop.load(Ordering::Relaxed));
    });
    let node = node();
    let service = node.serve(call_back);
    let me = node.local_addr().to_string();
    service.block_on(async {
        let peer = node.connect_async(server.address).await.expect("it runs");
        for _ in 0..50 {
            let mut answer = [0; 100];
            let options = CallOptions { trace: dmrpc_cn::TraceId(99), ..CallOptions::default() };
            let args = [Arg::Inline(me.as_bytes())];
            let reply = node.call_async(peer, Method(1), &args, &mut answer, options).await;
            let reply = reply.expect("an answer");
            assert_eq!(reply.status, Status(Status::APPLICATION_FIRST));
            assert_eq!(&answer[..reply.body_bytes], format!("hello {me}").as_bytes());
        }
    });
    assert_eq!(node.statistics().served.requests, 50);
}

#[test]
fn depth_is_limited() {
    let (server, node) = (Server::echo(), node());
    let peer = node.connect(server.address).expect("it runs");
    let options = CallOptions { depth: 8, ..CallOptions::default() };
    let error = node.call_with(peer, Method(1), &[], &mut [], options).expect_err("too deep");
    assert_eq!(error, Error::TooDeep { depth: 8 });
    let options = CallOptions { depth: 7, ..CallOptions::default() };
    node.call_with(peer, Method(1), &[], &mut [], options).expect("just deep enough");
}

/// Never answers method 1; says by method 2 how many requests it has dropped.
fn silent(node: &Node<UdpDevice>, stop: &std::sync::atomic::AtomicBool) {
    struct Dropped<'a>(&'a std::cell::Cell<u32>);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = std::cell::Cell::new(0_u32);
    let service = node.serve(|_, call| {
        let dropped = &dropped;
        async move {
            if call.method() == Method(2) {
                let count = dropped.get().to_le_bytes();
                return call.reply(Status::OK, &[Arg::Inline(&count)]).expect("short");
            }
            let _dropped = Dropped(dropped);
            std::future::pending::<()>().await;
            drop(call);
        }
    });
    service.run(|| stop.load(Ordering::Relaxed));
}

fn count_dropped(node: &Node<UdpDevice>, peer: dmrpc_cn::Peer) -> u32 {
    let mut count = [0; 4];
    node.call(peer, Method(2), &[], &mut count).expect("an answer");
    u32::from_le_bytes(count)
}

#[test]
fn deadlines_and_cancellation_reach_the_handler() {
    let (server, node) = (Server::node(silent), node());
    let peer = node.connect(server.address).expect("it runs");
    let options =
        CallOptions { deadline: Some(Duration::from_millis(30)), ..CallOptions::default() };
    let error = node.call_with(peer, Method(1), &[], &mut [], options).expect_err("silence");
    assert!(error.is_outcome_unknown(), "{error}");

    let ticket = node.start_call(peer, Method(1), &[], None, CallOptions::default());
    let ticket = ticket.expect("room");
    while node.statistics().endpoint.packets_sent < 2 {
        node.step();
    }
    node.give_up(ticket);
    let start = StdInstant::now();
    while count_dropped(&node, peer) < 2 {
        assert!(start.elapsed() < PATIENCE, "of both requests, one is still held");
    }
    while node.statistics().calls_outstanding > 0 {
        assert!(start.elapsed() < PATIENCE, "{} calls", node.statistics().calls_outstanding);
        node.step();
    }
}

#[test]
fn a_lost_session_is_typed_and_the_next_works() {
    let (server, node) = (Server::echo(), node());
    let peer = node.connect(server.address).expect("it runs");
    node.disconnect(peer);
    let error = node.call(peer, Method(1), &[], &mut []).expect_err("gone");
    assert_eq!(error, Error::SessionLost { address: server.address, why: Closed::Bye });
    let again = node.connect(server.address).expect("it runs");
    node.call(again, Method(1), &[], &mut []).expect("an echo");
    let error = node.call(peer, Method(1), &[], &mut []).expect_err("stale");
    // Its place may be another session's by now, or still be saying goodbye.
    let lost = Error::SessionLost { address: server.address, why: Closed::Bye };
    assert!(error == Error::StalePeer || error == lost, "{error}");
}

#[test]
fn more_requests_than_tasks_are_answered_in_the_end() {
    let small = NodeConfig { tasks: 2, ..config() };
    let server = Server::node_with(small, |node, stop| {
        let service = node.serve(|_, call| async move { call.echo().expect("an echo") });
        service.run(|| stop.load(Ordering::Relaxed));
    });
    let node = node();
    let peer = node.connect(server.address).expect("it runs");
    let start = |_| node.start_call(peer, Method(1), &[], None, CallOptions::default());
    let tickets: Vec<_> = (0..9).map(start).map(|ticket| ticket.expect("room")).collect();
    for ticket in tickets {
        node.block_on(node.ended(ticket)).expect("answered");
    }
    drop(server);
}

#[test]
fn a_service_that_ends_answers_its_requests() {
    let server = Server::node(|node, stop| {
        let service = node.serve(|_, call| async move {
            std::future::pending::<()>().await;
            drop(call);
        });
        while node.statistics().served.requests == 0 {
            service.step();
        }
        drop(service);
        while !stop.load(Ordering::Relaxed) {
            node.step();
        }
    });
    let node = node();
    let peer = node.connect(server.address).expect("it runs");
    let reply = node.call(peer, Method(1), &[], &mut []).expect("an answer");
    assert_eq!(reply.status, Status::NESTED_FAILED);
}

#[test]
fn whoever_waits_for_a_session_is_told_though_its_place_has_another() {
    // Two wait for the same session. When nobody answers, the first tries again at once, in the
    // one place that there is, before the second has looked.
    let node = Node::open_udp(&NodeConfig { client_sessions: 1, ..config() }).expect("loopback");
    let nobody = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
    let mut stubborn = pin!(async {
        node.peer_async(nobody).await.expect_err("nobody");
        node.peer_async(nobody).await.expect_err("still nobody")
    });
    let mut patient = pin!(node.peer_async(nobody));
    let (mut first, mut second) = (None, None);
    node.block_on(poll_fn(|context| {
        if first.is_none()
            && let Poll::Ready(error) = stubborn.as_mut().poll(context)
        {
            first = Some(error);
        }
        if second.is_none()
            && let Poll::Ready(result) = patient.as_mut().poll(context)
        {
            second = Some(result.expect_err("nobody"));
        }
        if first.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }));
    assert_eq!(second, Some(ConnectError::Ended), "it waits for ever");
}

#[test]
fn doubt_is_told_though_the_session_has_a_successor() {
    let silent = Server::node(|node, stop| {
        let service = node.serve(|_, call| async move {
            std::future::pending::<()>().await;
            drop(call);
        });
        service.run(|| stop.load(Ordering::Relaxed));
    });
    let echo = Server::echo();
    // One place for a session, so that the next one takes it.
    let node = Node::open_udp(&NodeConfig { client_sessions: 1, ..config() }).expect("loopback");
    let peer = node.connect(silent.address).expect("it runs");
    let options = CallOptions { deadline: Some(Duration::from_secs(30)), ..CallOptions::default() };
    let ticket = node.start_call(peer, Method(1), &[], None, options).expect("begun");
    let begin = StdInstant::now();
    while begin.elapsed().as_millis() < 50 {
        node.step();
    }
    node.disconnect(peer);
    node.connect(echo.address).expect("it runs");
    let error = node.try_finish(ticket).expect("ended").expect_err("no answer");
    assert!(error.is_outcome_unknown(), "{error}");
    assert!(error.to_string().contains(&silent.address.to_string()), "{error}");
}

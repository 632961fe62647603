//! Handlers that never wait: what holds for `async` ones holds for them.
//!
//! Two nodes of one thread over a wire in memory, so that a poll is a poll.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use dmrpc_cn::{
    Arg, Buffer, BufferClass, CallOptions, Duration, Error, Instant, Method, Node, NodeConfig,
    Peer, Ref, Rights, Statistics, Status, TraceId,
};
use dmrpc_core::device::{Capabilities, Device};
use dmrpc_host::idle::Wait;
use dmrpc_sim::memory::{MemoryDevice, pair};

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
const DATAGRAM_BYTES: usize = 1472;
const BUFFERS: usize = 16;

struct Wire(MemoryDevice);

impl Device for Wire {
    type Rx<'a> = <MemoryDevice as Device>::Rx<'a>;
    type Tx<'a> = <MemoryDevice as Device>::Tx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        self.0.split()
    }
}

impl Wait for Wire {
    fn wait(&self, _: std::time::Duration) -> bool {
        true
    }
}

fn config(address: SocketAddrV4) -> NodeConfig {
    let none = BufferClass { count: 0, bytes: 0 };
    NodeConfig {
        slots: 16,
        tasks: 2,
        buffers: [none, none, BufferClass { count: BUFFERS, bytes: 256 << 10 }],
        ..NodeConfig::at(address)
    }
}

/// A client, a server, and a session between them once the server is polled.
struct Two {
    client: Node<Wire>,
    server: Node<Wire>,
}

impl Two {
    fn new() -> Self {
        let (a, b) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 64);
        let node = |device, address| Node::new(Wire(device), address, &config(address));
        let client = node(a, CLIENT).expect("legal numbers");
        let server = node(b, SERVER).expect("legal numbers");
        Self { client, server }
    }

    fn connect(&self) -> Peer {
        let mut connect = std::pin::pin!(self.client.connect_async(SERVER));
        let mut context = TaskContext::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(peer) = connect.as_mut().poll(&mut context) {
                return peer.expect("a session");
            }
            self.client.poll();
            self.server.poll();
        }
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// An answer: its status, references and body.
type Answer = (Status, Vec<Ref>, Vec<u8>);

/// Begins a call with room for any answer.
fn begin(
    client: &Node<Wire>,
    peer: Peer,
    method: u16,
    args: &[Arg<'_>],
    options: CallOptions,
) -> dmrpc_cn::Ticket {
    let reply: Buffer<'_> = client.buffer(256 << 10).expect("one is free");
    client.start_call(peer, Method(method), args, Some(reply), options).expect("room")
}

/// Takes the end of a call, polling both ends and whatever `serve` does.
fn end(client: &Node<Wire>, ticket: dmrpc_cn::Ticket, serve: impl Fn()) -> Answer {
    loop {
        if let Some(finished) = client.try_finish(ticket) {
            let finished = finished.expect("answered");
            let body = finished.buffer.as_deref().unwrap_or_default().to_vec();
            return (finished.reply.status, finished.reply.refs().collect(), body);
        }
        client.poll();
        serve();
    }
}

fn some_ref() -> Ref {
    Ref {
        memory_node: 3,
        incarnation: 1,
        index: 2,
        generation: 9,
        offset: 0,
        length: 10,
        rights: Rights::MAP,
        tag: 77,
    }
}

/// What a handler was told of a request: method, depth, trace, deadline, bytes of its arguments.
type Told = (u16, u8, u128, Option<Instant>, Vec<usize>);

fn lengths<'a>(args: impl Iterator<Item = Arg<'a>>) -> Vec<usize> {
    args.map(|arg| if let Arg::Inline(bytes) = arg { bytes.len() } else { usize::MAX }).collect()
}

/// Makes the same calls of an `async` echo and of one that never waits: what the handlers were
/// told, what came back, and what the server counted.
fn same_calls(is_sync: bool) -> (Vec<Told>, Vec<Answer>, Statistics) {
    let two = Two::new();
    let told: Rc<RefCell<Vec<Told>>> = Rc::default();
    let noted = Rc::clone(&told);
    let calls = |serve: &dyn Fn()| {
        let peer = two.connect();
        let long = pattern(100_000);
        let sizes = [0, 1, 32, 700, 740, 768, 1_300, 1_400, 5_000, 100_000];
        let mut answers = Vec::new();
        let mut call = |args: &[Arg<'_>]| {
            let number = answers.len() as u16;
            let trace = TraceId(1 << 70 | u128::from(number));
            let depth = (number % 4) as u8;
            let deadline = Some(Duration::from_millis(5_000 + u64::from(number)));
            let ticket =
                begin(&two.client, peer, number, args, CallOptions { deadline, trace, depth });
            answers.push(end(&two.client, ticket, serve));
        };
        sizes.iter().for_each(|size| call(&[Arg::Inline(&long[..*size])]));
        call(&[]);
        call(&[Arg::Inline(b"one"), Arg::Ref(some_ref()), Arg::Inline(b""), Arg::Inline(b"two")]);
        call(&[Arg::Inline(&long[..2_000]), Arg::Ref(some_ref()), Arg::Inline(&long)]);
        answers
    };
    let answers = if is_sync {
        let service = two.server.serve_sync(move |call| {
            let about = (call.method().0, call.depth(), call.trace().0, call.deadline());
            let lengths = lengths(call.args());
            assert_eq!(call.arg(0), call.args().next());
            noted.borrow_mut().push((about.0, about.1, about.2, about.3, lengths));
            call.echo().expect("an answer like the request");
        });
        calls(&|| {
            service.step();
        })
    } else {
        let service = two.server.serve(|context, call| {
            let noted = &noted;
            async move {
                let about = (call.method().0, call.depth(), context.trace().0, context.deadline());
                let lengths = lengths(call.args());
                noted.borrow_mut().push((about.0, about.1, about.2, about.3, lengths));
                call.echo().expect("an answer like the request");
            }
        });
        calls(&|| {
            service.step();
        })
    };
    // Buffers that answers lay in come home with the next use of their slot, or soon after.
    for _ in 0..100_000 {
        two.client.poll();
        two.server.poll();
        if two.server.statistics().buffers_free == BUFFERS {
            break;
        }
    }
    let told = told.take();
    (told, answers, two.server.statistics())
}

#[test]
fn the_same_as_async_handlers() {
    let (told_async, answers_async, statistics_async) = same_calls(false);
    let (told, answers, statistics) = same_calls(true);
    assert_eq!(answers, answers_async);
    assert_eq!(told.len(), told_async.len());
    for (told, before) in told.iter().zip(&told_async) {
        assert_eq!((told.0, told.1, told.2, &told.4), (before.0, before.1, before.2, &before.4));
        // Two runs do not begin at the same time; the span is the call's, whatever the clock says.
        assert!(told.3.is_some() && before.3.is_some());
    }
    let (served, expected) = (statistics.served, statistics_async.served);
    assert_eq!(served.requests, expected.requests);
    assert_eq!((served.bytes_in, served.bytes_out), (expected.bytes_in, expected.bytes_out));
    assert_eq!((served.steps, served.busy, served.unknown), (expected.steps, 0, 0));
    assert!(served.step_ns > 0 && served.step_ns_max <= served.step_ns);
    assert_eq!(statistics.buffers_free, BUFFERS);
    assert_eq!(statistics_async.buffers_free, BUFFERS);
}

#[test]
fn the_deadline_is_what_is_left_of_the_callers() {
    let two = Two::new();
    let found: Rc<RefCell<Option<Instant>>> = Rc::default();
    let noted = Rc::clone(&found);
    let service = two.server.serve_sync(move |call| {
        *noted.borrow_mut() = call.deadline();
        call.echo().expect("short");
    });
    let peer = two.connect();
    let deadline = Some(Duration::from_millis(1_234));
    let options = CallOptions { deadline, ..CallOptions::default() };
    let before = two.server.now();
    let ticket = begin(&two.client, peer, 1, &[], options);
    end(&two.client, ticket, || {
        service.step();
    });
    let span = found.take().expect("told").since(before);
    assert!(span >= Duration::from_millis(1_234), "{span:?}");
    assert!(span < Duration::from_millis(11_234), "{span:?}");
}

#[test]
fn answered_in_the_poll_that_brings_the_request() {
    let two = Two::new();
    let service = two.server.serve_sync(|call| call.echo().expect("short"));
    let peer = two.connect();
    let ticket = begin(&two.client, peer, 1, &[Arg::Inline(b"hello")], CallOptions::default());
    two.client.poll();
    assert!(two.server.poll(), "the request is there");
    two.client.poll();
    let finished = two.client.try_finish(ticket).expect("ended").expect("answered");
    assert_eq!(finished.buffer.as_deref(), Some(&b"hello"[..]));
    drop(service);
}

#[test]
fn every_way_to_answer() {
    let two = Two::new();
    let service = two.server.serve_sync(|call| match call.method().0 {
        1 => call.reply(Status(Status::APPLICATION_FIRST), &[]).expect("short"),
        2 => {
            let results = [Arg::Inline(b"a"), Arg::Ref(some_ref()), Arg::Inline(b"b")];
            call.reply(Status::OK, &results).expect("short");
        }
        3 => call.reply_with(Status::OK, 100_000, |out| out.fill(7)).expect("a buffer is free"),
        4 => call.reply_with(Status::OK, 0, |_| ()).expect("short"),
        5 => {
            let nine = [Arg::Inline(b"x"); 9];
            let error = call.reply(Status::OK, &nine).expect_err("too many");
            assert_eq!(error, Error::TooManyArgs { given: 9 });
        }
        6 => {
            let error = call.reply_with(Status::OK, 1 << 20, |_| ()).expect_err("no such buffer");
            assert!(matches!(error, Error::NoBuffer { bytes: 1_048_576, .. }), "{error}");
        }
        _ => drop(call),
    });
    let peer = two.connect();
    let call = |method, args: &[Arg<'_>]| {
        let ticket = begin(&two.client, peer, method, args, CallOptions::default());
        end(&two.client, ticket, || {
            service.step();
        })
    };
    assert_eq!(call(1, &[]), (Status(Status::APPLICATION_FIRST), vec![], vec![]));
    assert_eq!(call(2, &[]), (Status::OK, vec![some_ref()], b"ab".to_vec()));
    // Short requests and ones in a buffer.
    let long = pattern(50_000);
    for args in [&[][..], &[Arg::Inline(&long)]] {
        assert_eq!(call(3, args), (Status::OK, vec![], vec![7; 100_000]));
        assert_eq!(call(4, args), (Status::OK, vec![], vec![]));
        for method in [5, 6, 7] {
            assert_eq!(call(method, args), (Status::NESTED_FAILED, vec![], vec![]));
        }
    }
    call(1, &[]);
    for _ in 0..100_000 {
        two.client.poll();
        two.server.poll();
    }
    assert_eq!(two.server.statistics().buffers_free, BUFFERS);
}

#[test]
fn what_is_left_to_others() {
    let long = pattern(50_000);
    let bodies = [&b"short"[..], &long];
    // To the service's `async` handler, which is told the same.
    let two = Two::new();
    let service = two.server.serve(|_, call| async move {
        assert_eq!(call.method(), Method(2));
        call.echo().expect("an echo");
    });
    let service = service.with_sync(|call| {
        if call.method() == Method(2) { call.defer() } else { call.echo().expect("an echo") }
    });
    let peer = two.connect();
    for body in bodies {
        for method in [1, 2] {
            let args = [Arg::Inline(body)];
            let ticket = begin(&two.client, peer, method, &args, CallOptions::default());
            let answer = end(&two.client, ticket, || {
                service.step();
            });
            assert_eq!(answer, (Status::OK, vec![], body.to_vec()));
        }
    }
    let served = two.server.statistics().served;
    assert_eq!((served.requests, served.busy), (4, 0));
    drop(service);

    // To nobody.
    let two = Two::new();
    let service = two.server.serve_sync(|call| call.defer());
    let peer = two.connect();
    for body in bodies {
        let ticket = begin(&two.client, peer, 1, &[Arg::Inline(body)], CallOptions::default());
        let answer = end(&two.client, ticket, || {
            service.step();
        });
        assert_eq!(answer, (Status::UNKNOWN_METHOD, vec![], vec![]));
    }
    assert_eq!(two.server.statistics().served.unknown, 2);
}

#[test]
fn no_task_is_needed() {
    let two = Two::new();
    // Method 2 holds one of the two tasks for ever.
    let service = two.server.serve(|_, call| async move {
        std::future::pending::<()>().await;
        drop(call);
    });
    let service = service.with_sync(|call| {
        if call.method() == Method(2) { call.defer() } else { call.echo().expect("short") }
    });
    let peer = two.connect();
    let step = || {
        two.client.poll();
        service.step();
    };
    let held: Vec<_> =
        (0..3).map(|_| begin(&two.client, peer, 2, &[], CallOptions::default())).collect();
    while two.server.statistics().served.busy == 0 {
        step();
    }
    assert_eq!(two.server.statistics().served.requests, 2, "as many as tasks, the third is not in");
    let ticket = begin(&two.client, peer, 1, &[Arg::Inline(b"now")], CallOptions::default());
    let answer = end(&two.client, ticket, || {
        service.step();
    });
    assert_eq!(answer, (Status::OK, vec![], b"now".to_vec()));
    held.into_iter().for_each(|ticket| two.client.give_up(ticket));
}

#[test]
fn a_panic_answers_and_goes_on_from_the_poll() {
    let two = Two::new();
    let service = two.server.serve_sync(|call| match call.method().0 {
        1 => panic!("as asked"),
        2 => {
            let _ = call.reply_with(Status::OK, 100_000, |_| panic!("while answering"));
        }
        _ => call.echo().expect("short"),
    });
    let peer = two.connect();
    let long = pattern(50_000);
    for (method, what) in [(1, "as asked"), (2, "while answering")] {
        for body in [&b"short"[..], &long] {
            let args = [Arg::Inline(body)];
            let ticket = begin(&two.client, peer, method, &args, CallOptions::default());
            let panics = RefCell::new(Vec::new());
            let answer = end(&two.client, ticket, || {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| service.step())) {
                    panics.borrow_mut().push(*panic.downcast_ref::<&str>().expect("a message"));
                }
            });
            assert_eq!(answer, (Status::NESTED_FAILED, vec![], vec![]));
            assert_eq!(panics.take(), [what]);
            // The node serves on.
            let ticket = begin(&two.client, peer, 3, &args, CallOptions::default());
            let answer = end(&two.client, ticket, || {
                service.step();
            });
            assert_eq!(answer, (Status::OK, vec![], body.to_vec()));
        }
    }
    for _ in 0..100_000 {
        two.client.poll();
        two.server.poll();
    }
    assert_eq!(two.server.statistics().buffers_free, BUFFERS);
}

#[test]
fn it_serves_while_the_node_waits_and_ends_with_its_service() {
    let (two, asked) = (Two::new(), Rc::new(RefCell::new(0)));
    let count = Rc::clone(&asked);
    let service = two.server.serve_sync(move |call| {
        *count.borrow_mut() += 1;
        call.echo().expect("short");
    });
    let peer = two.connect();
    let ticket = begin(&two.client, peer, 1, &[], CallOptions::default());
    // No method of the service's: any poll does.
    let answer = end(&two.client, ticket, || {
        two.server.poll();
    });
    assert_eq!((answer.0, *asked.borrow()), (Status::OK, 1));
    drop(service);
    assert_eq!(Rc::strong_count(&asked), 1, "the handler is gone");
    let ticket = begin(&two.client, peer, 1, &[], CallOptions::default());
    let answer = end(&two.client, ticket, || {
        two.server.poll();
    });
    assert_eq!((answer.0, *asked.borrow()), (Status::UNKNOWN_METHOD, 1));
}

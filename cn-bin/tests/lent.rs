//! Requests and answers that are sent from a node's buffers themselves: a device reads them late
//! and keeps them as long as it likes, and meanwhile nobody gets these buffers, however calls end.

use dmrpc_host as _;
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use dmrpc_cn::{
    Buffer, BufferClass, CallOptions, Duration, Error, Method, Node, NodeConfig, Peer, Service,
    Status, Ticket,
};
use dmrpc_core::device::{Capabilities, Device};
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::Wait;
use dmrpc_sim::borrowing::{Borrowing, BorrowingTx, Keeping};
use dmrpc_sim::memory::{MemoryDevice, pair};

const DATAGRAM_BYTES: usize = 1458;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
const ECHO: Method = Method(1);
const BODY_BYTES: usize = 40_000;
const BUFFERS: usize = 8;
/// What the clock moves on by when it is read.
const STEP: Duration = Duration::from_micros(5);

const QUICK: Keeping =
    Keeping { read_after_max: 0, return_after_max: 0, lose_one_in: 0, spoil_one_in: 0 };
/// Bytes are read at once, and loans are not given back.
const KEPT: Keeping = Keeping { return_after_max: u64::MAX / 4, ..QUICK };
/// Bytes are not read, either.
const UNREAD: Keeping = Keeping { read_after_max: u64::MAX / 4, ..KEPT };

/// A device whose keeping can be changed while a node has it.
struct Wire {
    device: Borrowing<MemoryDevice>,
    change: Rc<Cell<Option<Keeping>>>,
}

impl Device for Wire {
    type Rx<'a> = <MemoryDevice as Device>::Rx<'a>;
    type Tx<'a> = BorrowingTx<'a, MemoryDevice>;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn borrows(&self) -> bool {
        self.device.borrows()
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        if let Some(keeping) = self.change.take() {
            self.device.keep(keeping);
        }
        self.device.split()
    }
}

impl Wait for Wire {
    fn wait(&self, _: std::time::Duration) -> bool {
        true
    }
}

/// A node, and a way to say how long its device keeps loans.
struct End {
    node: Node<Wire>,
    change: Rc<Cell<Option<Keeping>>>,
}

impl End {
    fn new(device: MemoryDevice, address: SocketAddrV4, keeping: Keeping) -> Self {
        let none = BufferClass { count: 0, bytes: 0 };
        let config = NodeConfig {
            tasks: 4,
            buffers: [none, none, BufferClass { count: BUFFERS, bytes: 64 << 10 }],
            ..NodeConfig::at(address)
        };
        let change = Rc::new(Cell::new(None));
        let device = Borrowing::new(device, keeping, u64::from(address.ip().octets()[3]));
        let wire = Wire { device, change: Rc::clone(&change) };
        let clock = Clock::steps(STEP);
        let node = Node::with_clock(wire, address, &config, clock).expect("legal numbers");
        Self { node, change }
    }

    fn keep(&self, keeping: Keeping) {
        self.change.set(Some(keeping));
    }

    /// Loans that the device has.
    fn loans(&self) -> usize {
        self.node.with_device(|wire| wire.device.loans())
    }

    fn free(&self) -> usize {
        self.node.statistics().buffers_free
    }
}

/// A client whose device keeps loans as told, and an echo whose device does so, too.
fn two(keeping: Keeping) -> (End, End) {
    let (a, b) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 64);
    (End::new(a, CLIENT, keeping), End::new(b, SERVER, keeping))
}

/// Serves an echo at `server` while `work` runs, which is given a way to let both ends poll.
fn with_echo<R>(client: &End, server: &End, work: impl FnOnce(&dyn Fn()) -> R) -> R {
    let service: Service<'_, _, _, _> = server.node.serve(|_, call| async move {
        call.echo().expect("a buffer has it already");
    });
    work(&|| {
        client.node.poll();
        service.step();
    })
}

fn connect(client: &End, poll: &dyn Fn()) -> Peer {
    let mut connect = std::pin::pin!(client.node.connect_async(SERVER));
    let mut context = TaskContext::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(peer) = connect.as_mut().poll(&mut context) {
            return peer.expect("a session");
        }
        poll();
    }
}

/// Polls until `done`, so many times at most.
fn until(poll: &dyn Fn(), what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200_000 {
        if done() {
            return;
        }
        poll();
    }
    panic!("in vain: {what}");
}

/// Bytes that tell where they are, and in what.
fn fill(number: usize, out: &mut [u8]) {
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = (at * 31 + at / 251 + number * 7) as u8;
    }
}

fn is_filled(number: usize, bytes: &[u8]) -> bool {
    let mut expected = vec![0; BODY_BYTES];
    fill(number, &mut expected);
    bytes == expected
}

/// Begins a call of the echo with body `number`; `None` if no buffers are free.
fn begin(client: &End, peer: Peer, number: usize, options: CallOptions) -> Option<Ticket> {
    let take = || client.node.buffer(BODY_BYTES);
    let (mut body, reply): (Buffer<'_>, Buffer<'_>) = match take().and_then(|a| Ok((a, take()?))) {
        Ok(both) => both,
        Err(error) if error.is_room() => return None,
        Err(error) => panic!("{error}"),
    };
    fill(number, &mut body);
    Some(client.node.start_call_from(peer, ECHO, body, Some(reply), options).expect("room"))
}

#[test]
fn bytes_are_those_of_their_call_however_late_they_are_read() {
    let keeping = Keeping { read_after_max: 6, return_after_max: 40, lose_one_in: 200, ..QUICK };
    let (client, server) = two(keeping);
    let mut most = (0, 0);
    with_echo(&client, &server, |poll| {
        let peer = connect(&client, poll);
        let (mut begun, mut ended) = (0, 0);
        let mut tickets = Vec::new();
        while ended < 300 {
            // Buffers are written again as soon as they can be had.
            while begun < 300
                && tickets.len() < 3
                && let Some(ticket) = begin(&client, peer, begun, CallOptions::default())
            {
                tickets.push((begun, ticket));
                begun += 1;
            }
            poll();
            most = (most.0.max(client.loans()), most.1.max(server.loans()));
            tickets.retain(|(number, ticket)| {
                let Some(finished) = client.node.try_finish(*ticket) else { return true };
                let finished = finished.expect("an answer");
                assert_eq!(finished.reply.status, Status::OK);
                assert!(is_filled(*number, finished.buffer.as_deref().unwrap_or_default()));
                ended += 1;
                false
            });
        }
        client.node.disconnect(peer);
        let all_free = || client.free() == BUFFERS && server.free() == BUFFERS;
        until(poll, "the last loan comes back", all_free);
    });
    assert!(most.0 > 0 && most.1 > 0, "both ends lend");
    for end in [&client, &server] {
        let counters = end.node.statistics().endpoint;
        assert_eq!(
            (counters.bad_checksum, counters.malformed),
            (0, 0),
            "nothing changed meanwhile"
        );
    }
}

#[test]
fn a_call_that_ends_leaves_its_buffer_to_the_device() {
    let (client, server) = two(KEPT);
    with_echo(&client, &server, |poll| {
        let peer = connect(&client, poll);
        let ticket = begin(&client, peer, 1, CallOptions::default()).expect("room");
        let mut answer = None;
        until(poll, "an answer", || {
            answer = client.node.try_finish(ticket);
            answer.is_some()
        });
        let finished = answer.and_then(Result::ok).expect("an answer");
        assert!(client.loans() > 0);
        assert_eq!(client.free(), BUFFERS - 2, "the request's and the answer's");
        drop(finished);
        assert_eq!(client.free(), BUFFERS - 1, "the device has the request's");
        // Nobody else has it, either.
        let others: Vec<_> = (0..BUFFERS - 1).map(|_| client.node.buffer(BODY_BYTES)).collect();
        assert!(others.iter().all(Result::is_ok));
        assert!(matches!(client.node.buffer(BODY_BYTES), Err(Error::NoBuffer { .. })));
        drop(others);
        client.keep(QUICK);
        until(poll, "it comes back", || client.free() == BUFFERS);
        assert_eq!(client.loans(), 0);
    });
}

/// What becomes of a call whose request the device has not sent when it ends.
fn unsent(end: impl Fn(&End, Peer, Ticket, &dyn Fn())) {
    let (client, server) = two(QUICK);
    with_echo(&client, &server, |poll| {
        let peer = connect(&client, poll);
        client.keep(UNREAD);
        let deadline = Some(Duration::from_millis(20));
        let options = CallOptions { deadline, ..CallOptions::default() };
        let ticket = begin(&client, peer, 1, options).expect("room");
        until(poll, "packets", || client.loans() > 0);
        end(&client, peer, ticket, poll);
        assert_eq!(client.free(), BUFFERS - 1, "the device has the request's");
        let mut others: Vec<_> =
            (1..BUFFERS).map(|_| client.node.buffer(BODY_BYTES).expect("free")).collect();
        others.iter_mut().for_each(|other| other.fill(0xFF));
        drop(others);
        // It leaves now, as it was.
        client.keep(QUICK);
        until(poll, "the buffer comes back", || client.free() == BUFFERS);
        (0..100).for_each(|_| poll());
    });
    assert_eq!(server.node.statistics().endpoint.bad_checksum, 0, "what came late was right");
}

fn wait(client: &End, ticket: Ticket, poll: &dyn Fn()) {
    until(poll, "its end", || match client.node.try_finish(ticket) {
        Some(finished) => {
            assert!(finished.is_err(), "nothing was sent");
            true
        }
        None => false,
    });
}

#[test]
fn a_call_that_times_out_leaves_its_buffer_to_the_device() {
    unsent(|client, _, ticket, poll| wait(client, ticket, poll));
}

#[test]
fn a_call_that_is_given_up_leaves_its_buffer_to_the_device() {
    unsent(|client, _, ticket, poll| {
        client.node.give_up(ticket);
        until(poll, "its end", || client.node.statistics().calls_outstanding == 0);
    });
}

#[test]
fn a_session_that_ends_leaves_its_buffers_to_the_device() {
    unsent(|client, peer, ticket, poll| {
        client.node.disconnect(peer);
        wait(client, ticket, poll);
    });
}

/// Where the buffers of a node are, all of which must be free.
fn places(end: &End) -> Vec<usize> {
    let all: Vec<_> = (0..BUFFERS).map(|_| end.node.buffer(BODY_BYTES).expect("free")).collect();
    all.iter().map(|buffer| buffer.as_ptr().addr()).collect()
}

#[test]
fn a_node_that_ends_leaves_its_buffers_to_the_device() {
    let (client, server) = two(UNREAD);
    let before = places(&client);
    with_echo(&client, &server, |poll| {
        // Handshakes are not lent.
        let peer = connect(&client, poll);
        begin(&client, peer, 1, CallOptions::default()).expect("room");
        until(poll, "packets", || client.loans() > 0);
    });
    drop(client);
    let next = two(QUICK);
    let after = [places(&next.0), places(&next.1)].concat();
    assert!(
        after.iter().all(|place| !before.contains(place)),
        "what it may still send is nobody's"
    );
}

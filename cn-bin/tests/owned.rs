//! What handlers hold is given back, whatever becomes of them: their callers give up in the middle
//! of each operation, many times, while the service lives on.

mod common;

use std::net::SocketAddrV4;
use std::sync::atomic::Ordering;
use std::time::Instant;

use common::{Server, node};
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{
    Arg, CallOptions, Context, Duration, IncomingCall, Method, Node, Peer, Ref, Status, Ticket,
};
use dmrpc_udp::UdpDevice;

/// Waits until the memory node has `expected` of what `name` counts.
fn await_count(node: &Node<UdpDevice>, memory_node: Peer, name: &str, expected: u64) {
    let end = Instant::now() + std::time::Duration::from_secs(8);
    loop {
        let mut found = None;
        for page in 0..2 {
            let mut out = [0; 1024];
            let reply = node.statistics_page(memory_node, page, &mut out).expect("it answers");
            let text = std::str::from_utf8(&out[..reply.body_bytes]).expect("text");
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            found = found.or(lines.find(|line| line.0 == name).map(|line| line.1.to_owned()));
        }
        let found = found.expect(name).parse::<u64>().expect("a number");
        if found == expected {
            return;
        }
        assert!(Instant::now() < end, "{name} is {found}, not {expected}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Begins something as soon as there is a slot for it: some are held by calls in doubt.
fn begun<E: std::fmt::Debug>(
    node: &Node<UdpDevice>,
    start: impl Fn() -> Result<Ticket, E>,
) -> Ticket {
    let end = Instant::now() + std::time::Duration::from_secs(8);
    loop {
        match start() {
            Ok(ticket) => return ticket,
            Err(error) => assert!(Instant::now() < end, "{error:?}"),
        }
        node.step();
    }
}

/// Waits after so many steps of its work for an answer that never comes.
const STEPS: u16 = 4;
/// Works without a pause, so that its caller gives up while an operation is under way.
const BUSY: Method = Method(STEPS);
/// Fails in the middle of its work.
const FAILS: Method = Method(STEPS + 1);

type Call<'n> = IncomingCall<'n, UdpDevice>;

async fn pause(method: Method, step: u16) {
    if method.0 == step {
        std::future::pending::<()>().await;
    }
}

/// Maps the argument, changes it, makes a reference to the result and one of its own.
async fn work(
    context: Context<'_, UdpDevice>,
    method: Method,
    argument: &Ref,
    memory_node: Peer,
) -> Result<(), Box<dyn std::error::Error>> {
    let memory = context.memory(memory_node);
    pause(method, 0).await;
    let copy = memory.own(memory.map_ref(argument).await?);
    pause(method, 1).await;
    memory.write(*copy, 0, b"changed").await?;
    let made = memory.own_ref(memory.create_ref(*copy, 0, copy.length, ALL_RIGHTS).await?);
    pause(method, 2).await;
    let own = memory.own_ref(memory.put(&[7; 5000]).await?);
    pause(method, 3).await;
    if method == FAILS {
        memory.read(*copy, copy.length, &mut [0; 1]).await?;
    }
    assert_ne!(*made, *own);
    Ok(())
}

fn serve(node: &Node<UdpDevice>, memory_node: SocketAddrV4, stop: impl Fn() -> bool) {
    let memory_node = node.connect(memory_node).expect("it runs");
    let service = node.serve(move |context: Context<'_, UdpDevice>, call: Call<'_>| async move {
        let Some(argument) = call.refs().next() else { return };
        let mut result = work(context, call.method(), &argument, memory_node).await;
        while call.method() == BUSY && result.is_ok() {
            result = work(context, BUSY, &argument, memory_node).await;
        }
        let status = if result.is_ok() { Status::OK } else { Status::NESTED_FAILED };
        call.reply(status, &[]).expect("a status fits");
    });
    service.run(stop);
}

#[test]
fn handlers_that_end_anywhere_leave_nothing_with_the_service() {
    let memory_node = Server::memory_node();
    let address = memory_node.address;
    let service =
        Server::node(move |node, stop| serve(node, address, || stop.load(Ordering::Relaxed)));
    let node = node();
    let peer = node.connect(service.address).expect("it runs");
    let memory = node.memory(node.connect(address).expect("it runs"));
    let argument = memory.put(&[1; 20_000]).expect("room");
    let frames = 5;
    for round in 0..10 {
        let deadline = Some(Duration::from_millis(5 + round));
        let options = CallOptions { deadline, ..CallOptions::default() };
        let args = [Arg::Ref(argument)];
        let begin =
            |method| begun(&node, || node.start_call(peer, Method(method), &args, None, options));
        let calls: Vec<_> = (0..=STEPS).chain([STEPS, STEPS]).map(begin).collect();
        for call in calls {
            // The service's own calls are under the same deadline: they may fail first, and it
            // may just have time to say so.
            if let Ok(answer) = node.block_on(node.ended(call)) {
                assert_eq!(answer.reply.status, Status::NESTED_FAILED);
            }
        }
    }
    let reply = node.call(peer, FAILS, &[Arg::Ref(argument)], &mut []).expect("it answers");
    assert_eq!(reply.status, Status::NESTED_FAILED);
    // All that is left is the argument, whose owner is here.
    let watched = memory.peer();
    for (name, expected) in
        [("regions_in_use", 0), ("references_in_use", 1), ("frames_in_use", frames)]
    {
        await_count(&node, watched, name, expected);
    }
}

/// Operations that are given up under way give back what they made.
#[test]
fn tickets_that_are_given_up_leave_nothing() {
    let (memory_node, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(memory_node.address).expect("it runs"));
    for _ in 0..50 {
        let region = begun(&node, || memory.start().alloc(4096));
        let reference = begun(&node, || memory.start().put(&[1; 100]));
        node.step();
        node.give_up(region);
        node.give_up(reference);
    }
    // Guards on this side of the calls, too.
    let region = memory.own(memory.alloc(4096).expect("room"));
    let reference = memory.own_ref(memory.create_ref(*region, 0, 4096, ALL_RIGHTS).expect("room"));
    let kept = memory.own_ref(memory.put(b"kept").expect("room")).keep();
    drop((region, reference));
    await_count(&node, memory.peer(), "regions_in_use", 0);
    await_count(&node, memory.peer(), "references_in_use", 1);
    memory.drop_ref(&kept).expect("still there");
}

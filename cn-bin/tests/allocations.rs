//! Nothing is allocated after a node was opened.

mod common;

use common::{Server, node, pattern};
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Arg, CallOptions, Method, Node, Rights};
use dmrpc_conformance::{CountingAllocator, allocations_of_this_thread};
use dmrpc_udp::UdpDevice;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Every operation, blocking, pipelined and awaited, and the service at work.
fn everything(
    node: &Node<UdpDevice>,
    addresses: (std::net::SocketAddrV4, std::net::SocketAddrV4),
    bytes: &[u8],
    out: &mut [u8],
) {
    let peer = node.connect(addresses.0).expect("it runs");
    let memory = node.memory(peer);
    let region = memory.alloc(1 << 20).expect("room");
    memory.write(region, 10, bytes).expect("writable");
    memory.read(region, 10, out).expect("readable");
    let reference = memory.create_ref(region, 0, 5_000, ALL_RIGHTS).expect("room");
    let mapped = memory.map_ref(&reference).expect("mappable");
    memory.free(mapped).expect("ours");
    memory.narrow(&reference, 0, 1, Rights::MAP).expect("within");
    memory.read_ref(&reference, 0, &mut out[..100]).expect("readable");
    memory.detach(&reference).expect("ours");
    let claimed = memory.claim_ref(&reference).expect("detached");
    memory.drop_ref(&claimed).expect("ours");
    let put = memory.put(bytes).expect("room");
    memory.take(&put, out).expect("ours");
    assert!(memory.free(dmrpc_cn::Region { length: 5, ..region }).is_ok());
    assert!(memory.free(region).is_err());

    let region = memory.alloc(1 << 20).expect("room");
    let start = memory.start();
    start.write(region, 0, bytes).expect("begun");
    start.read(region, 0, bytes.len()).expect("begun");
    start.free(region).expect("begun");
    let mut ended = 0;
    while ended < 3 {
        node.step();
        while let Some(ticket) = node.next_ended() {
            node.try_finish(ticket).expect("ended").expect("answered").checked().expect("done");
            ended += 1;
        }
    }

    let echo = node.connect(addresses.1).expect("it runs");
    node.call(echo, Method(1), &[Arg::Inline(bytes)], out).expect("an echo");
    let me = node.local_addr();
    let service = node.serve(|_, call| async move { call.echo().expect("an echo") });
    let before = allocations_of_this_thread();
    service.block_on(async {
        let peer = node.peer_async(me).await.expect("ourselves");
        let args = [Arg::Inline(bytes)];
        let options = CallOptions::default();
        node.call_async(peer, Method(1), &args, out, options).await.expect("an echo");
        node.call_async(peer, Method(1), &[], &mut [], options).await.expect("an echo");
        let memory = node.memory(node.peer_at(addresses.0).expect("open")).asynchronous();
        let put = memory.put(bytes).await.expect("room");
        memory.take(&put, out).await.expect("ours");
    });
    assert_eq!(allocations_of_this_thread() - before, 0, "the service allocated");
    drop(service);
    let service = node.serve_sync(|call| call.echo().expect("an echo"));
    let before = allocations_of_this_thread();
    node.call(node.peer_at(me).expect("open"), Method(1), &[Arg::Inline(bytes)], out)
        .expect("an echo");
    assert_eq!(allocations_of_this_thread() - before, 0, "a handler that never waits allocated");
    drop(service);
    for address in [addresses.0, addresses.1, me] {
        node.disconnect(node.peer_at(address).expect("open"));
    }
    let _ = node.statistics();
}

#[test]
fn nothing_allocates_after_start() {
    let (memory_node, echo) = (Server::memory_node(), Server::echo());
    let node = node();
    let bytes = pattern(50_000, 3);
    let mut out = vec![0; 50_000];
    let addresses = (memory_node.address, echo.address);
    for _ in 0..3 {
        let before = allocations_of_this_thread();
        everything(&node, addresses, &bytes, &mut out);
        // Starting a service allocates the places for its futures: one each, and their table.
        let places = 2 * (node.config().tasks as u64 + 1);
        assert_eq!(allocations_of_this_thread() - before, places);
    }
}

//! Operations from threads that are not the node's own.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Server, node, pattern};
use dmrpc_cn::handle::RemoteError;
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Arg, CallOptions, MemoryError, Method, Rights, Status};

#[test]
fn threads_share_a_node() {
    let (memory_node, echo, node) = (Server::memory_node(), Server::echo(), node());
    let memory = node.connect(memory_node.address).expect("it runs");
    let service = node.connect(echo.address).expect("it runs");
    let handles: Vec<_> = (0..4).map(|_| node.handle().expect("room")).collect();
    let running = AtomicUsize::new(handles.len());
    std::thread::scope(|scope| {
        for (number, mut handle) in handles.into_iter().enumerate() {
            let running = &running;
            scope.spawn(move || {
                for round in 0..20 {
                    let bytes = pattern(1 + round * 1_500, number);
                    let args = [Arg::Inline(b"ab"), Arg::Inline(&bytes)];
                    let (reply, body) =
                        handle.call(service, Method(1), &args, 64 << 10).expect("an echo");
                    assert_eq!((reply.results().len(), &body[..2]), (2, &b"ab"[..]));
                    assert!(body[2..] == bytes[..]);
                    let reference = handle.put(memory, bytes.clone()).expect("room");
                    let region = handle.map_ref(memory, &reference).expect("mappable");
                    assert!(handle.read(region, 0, bytes.len()).expect("readable") == bytes);
                    handle.write(region, 0, b"x").expect("writable");
                    let other = handle.create_ref(region, 0, 1, ALL_RIGHTS).expect("room");
                    assert_eq!(handle.take(memory, &other), Ok(b"x".to_vec()));
                    handle.free(region).expect("ours");
                    assert!(handle.take(memory, &reference).expect("ours") == bytes);
                    match handle.drop_ref(memory, &reference) {
                        Err(RemoteError::Memory(error)) => {
                            let stale = [
                                MemoryError::StaleReference,
                                MemoryError::Consumed,
                                MemoryError::Dropped,
                            ];
                            assert!(stale.contains(&error.memory().expect("typed")), "{error}");
                        }
                        other => panic!("{other:?}"),
                    }
                }
                let region = handle.alloc(memory, 10).expect("room");
                handle.free(region).expect("ours");
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while running.load(Ordering::Relaxed) > 0 {
            node.step();
        }
    });
    assert_eq!(node.statistics().calls_outstanding, 0);
}

/// Every operation that a node has, from a thread that is not its own.
#[test]
fn handles_lack_nothing() {
    let (memory_node, node) = (Server::memory_node(), node());
    let memory = node.connect(memory_node.address).expect("it runs");
    let mut handle = node.handle().expect("room");
    let thread = std::thread::spawn(move || {
        let bytes = pattern(9 << 20, 1);
        let region = handle.alloc(memory, bytes.len() as u64).expect("room");
        handle.write(region, 0, &bytes).expect("writable");
        let length = region.length;
        let first = handle.create_ref(region, 0, length, ALL_RIGHTS).expect("room");
        // More than one message carries.
        let found = handle.read_ref(memory, &first, 5, bytes.len() - 5).expect("readable");
        assert!(found == bytes[5..]);
        let narrow = handle.narrow(memory, &first, 100, 10, Rights::MAP).expect("within");
        let found = handle.read_ref(memory, &narrow, 1, 9).expect("readable");
        assert_eq!(found, &bytes[101..110]);
        let claimed = handle.claim_ref(memory, &first).expect("ours");
        assert!(handle.read_ref(memory, &first, 0, 1).is_err(), "claimed");
        handle.detach(memory, &claimed).expect("ours");
        let taken = handle.take_and_write(memory, &claimed, 1, b"xy".to_vec()).expect("detached");
        let found = handle.read(taken, 0, 4).expect("readable");
        assert_eq!(found, [bytes[0], b'x', b'y', bytes[3]]);
        let again = handle.create_ref(region, 0, 3, ALL_RIGHTS).expect("room");
        let last = handle.take_region(memory, &again).expect("ours");
        assert_eq!(handle.read(last, 0, 3).expect("readable"), &bytes[..3]);
        for region in [region, taken, last] {
            handle.free(region).expect("ours");
        }
        let deadline = Some(dmrpc_cn::Duration::from_millis(200));
        let options = CallOptions { deadline, ..CallOptions::default() };
        // A memory node knows no other methods than its own.
        let answer = handle.call_with(memory, Method(77), &[], 0, options);
        assert_eq!(answer.expect("an answer").0.status, Status::UNKNOWN_METHOD);
    });
    while !thread.is_finished() {
        node.step();
    }
    thread.join().expect("no panic");
    assert_eq!(node.statistics().calls_outstanding, 0);
}

#[test]
fn a_node_that_is_gone_is_noticed() {
    let node = node();
    let peer = node.connect(Server::echo().address);
    let mut handle = node.handle().expect("room");
    drop(node);
    let peer = peer.expect("it ran");
    assert_eq!(handle.call(peer, Method(1), &[], 0), Err(RemoteError::NodeGone));
}

#[test]
fn a_handle_wakes_a_sleeping_node() {
    let (echo, node) = (Server::echo(), node());
    let peer = node.connect(echo.address).expect("it runs");
    let mut handle = node.handle().expect("room");
    let thread = std::thread::spawn(move || {
        let mut spans: Vec<Duration> = (0..21)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(3));
                let start = Instant::now();
                handle.call(peer, Method(1), &[], 0).expect("an echo");
                start.elapsed()
            })
            .collect();
        spans.sort_unstable();
        spans[10]
    });
    while !thread.is_finished() {
        node.step();
    }
    // Half of those that waited for the end of a sleep of 50 ms would have taken nearly as long,
    // whatever keeps a busy machine from one or another.
    let median = thread.join().expect("no panic");
    assert!(median < Duration::from_millis(25), "{median:?}");
    assert!(node.statistics().sleeps > 0);
}

//! A pool in flush mode: `read_ref`, `put` and `take` that are begun, by the node's own thread or
//! through a handle, and how many messages each takes.

mod common;

use common::flush::{PAGE, Shared, packets};
use common::pattern;
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Finished, MemoryError, Node, OperationError, Ref, Region, Ticket};
use dmrpc_cxl::PoolDevice;

type Pooled = Node<PoolDevice>;

fn finished(node: &Pooled, ticket: Ticket) -> Result<Finished<'_>, OperationError> {
    loop {
        match node.try_finish(ticket) {
            Some(ended) => return ended.expect("an answer").checked(),
            None => node.poll(),
        };
    }
}

fn reference(node: &Pooled, ticket: Ticket) -> Ref {
    finished(node, ticket).and_then(Finished::reference).expect("room")
}

fn bytes(node: &Pooled, ticket: Ticket) -> Vec<u8> {
    let found = finished(node, ticket).and_then(Finished::bytes_read).expect("a reference");
    found.expect("a buffer").to_vec()
}

fn calls(node: &Pooled) -> u64 {
    node.statistics().endpoint.calls_started
}

#[test]
fn what_is_begun_moves_bytes_through_the_pool() {
    let shared = Shared::new();
    let (one, two) = (shared.node(1), shared.node(2));
    let (writer, reader) = (shared.memory(&one), shared.memory(&two));
    for (round, length) in [1, 60, 4096, 4097, 30 * PAGE + 17, 63 * PAGE + 1, 200 * PAGE + 5]
        .into_iter()
        .enumerate()
        .cycle()
        .take(21)
    {
        let kept = [pattern(length, round), pattern(length, round + 50), pattern(length, 9)];
        // Several at a time.
        let puts: Vec<_> =
            kept.iter().map(|kept| writer.start().put(kept).expect("room")).collect();
        let made: Vec<_> = puts.into_iter().map(|ticket| reference(&one, ticket)).collect();
        let last = length.min(33);
        let offset = (length - last) as u64;
        let begin = |made: &Ref| {
            let all = reader.start().read_ref(made, 0, length).expect("room");
            (all, reader.start().read_ref(made, offset, last).expect("room"))
        };
        let reads: Vec<_> = made.iter().map(begin).collect();
        for ((all, end), kept) in reads.into_iter().zip(&kept) {
            assert!(bytes(&two, all) == *kept, "{length} bytes");
            assert_eq!(bytes(&two, end), kept[length - last..]);
        }
        let takes: Vec<_> =
            made.iter().map(|made| reader.start().take(made).expect("room")).collect();
        for (take, kept) in takes.into_iter().zip(&kept) {
            assert!(bytes(&two, take) == *kept, "{length} bytes");
        }
        let again = reader.start().read_ref(&made[0], 0, length).expect("room");
        let error = finished(&two, again).expect_err("taken");
        let gone = [MemoryError::Dropped, MemoryError::Consumed, MemoryError::StaleReference];
        assert!(gone.iter().any(|gone| error.memory() == Some(*gone)), "{error}");
    }
    // In messages it takes a packet a page: 3 * 3 * 3 * 294 for all of them.
    for node in [&one, &two] {
        let count = packets(node);
        assert!(count < 1600, "{count} packets");
        assert_eq!(node.statistics().calls_outstanding, 0);
    }
}

#[test]
fn small_ones_take_two_messages_of_which_reads_await_one() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let mut found = [0; 100];
    for begun in [false, true] {
        let before = calls(&node);
        let made = match begun {
            false => memory.put(&[7; 100]).expect("room"),
            true => reference(&node, memory.start().put(&[7; 100]).expect("room")),
        };
        assert_eq!(calls(&node) - before, 2, "put: a region and its place; a reference of it");
        let before = calls(&node);
        match begun {
            false => memory.read_ref(&made, 3, &mut found[..50]).expect("there"),
            true => drop(bytes(&node, memory.start().read_ref(&made, 3, 50).expect("room"))),
        }
        assert_eq!(calls(&node) - before, 2, "read_ref: a mapping and its place; its end");
        let before = calls(&node);
        match begun {
            false => drop(memory.take(&made, &mut found).expect("there")),
            true => drop(bytes(&node, memory.start().take(&made).expect("room"))),
        }
        assert_eq!(calls(&node) - before, 2, "take: the same");
    }
}

#[test]
fn what_is_refused_is_refused_in_the_same_words() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let made = memory.put(&pattern(5000, 1)).expect("room");
    let refused = |ticket: Ticket| finished(&node, ticket).expect_err("refused").memory();
    let (end, size) = (5001, 5000);
    let beyond = memory.start().read_ref(&made, 4000, 1001).expect("room");
    assert_eq!(refused(beyond), Some(MemoryError::OutOfRange { end, size }));
    let forged = Ref { length: 6000, ..made };
    for ticket in [memory.start().read_ref(&forged, 0, 10), memory.start().take(&forged)] {
        assert_eq!(refused(ticket.expect("room")), Some(MemoryError::Forged));
    }
    let narrow =
        memory.narrow(&made, 0, 9, ALL_RIGHTS - dmrpc_core::wire::reference::Rights::CONSUME);
    let take = memory.start().take(&narrow.expect("within")).expect("room");
    assert!(matches!(refused(take), Some(MemoryError::MissingRights { .. })));
    // Nothing of it ended: it is there, and ours.
    memory.drop_ref(&made).expect("its own");
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let content = pattern(100 * PAGE, 3);
    let made = memory.put(&content).expect("room");
    let buffers = node.statistics().buffers_free;
    for polls in 0..40 {
        let put = memory.start().put(&content).expect("room");
        let read = memory.start().read_ref(&made, 0, content.len()).expect("room");
        for _ in 0..polls * polls {
            node.poll();
        }
        node.give_up(put);
        node.give_up(read);
        while node.statistics().calls_outstanding != 0 {
            node.poll();
        }
        assert_eq!(node.statistics().buffers_free, buffers, "after {polls} times {polls} polls");
    }
    memory.drop_ref(&made).expect("its own");
}

#[test]
fn a_session_that_ends_ends_what_is_under_way() {
    let shared = Shared::new();
    let node = shared.node(1);
    let content = pattern(100 * PAGE, 3);
    let buffers = node.statistics().buffers_free;
    for polls in 0..20 {
        let memory = shared.memory(&node);
        let made = memory.put(&content).expect("room");
        let tickets = [
            memory.start().put(&content).expect("room"),
            memory.start().read_ref(&made, 0, content.len()).expect("room"),
            memory.start().take(&made).expect("room"),
        ];
        for _ in 0..polls * polls {
            node.poll();
        }
        node.disconnect(memory.peer());
        for ticket in tickets {
            // At once, well or not.
            drop(node.try_finish(ticket).expect("it has ended"));
        }
        assert_eq!(node.statistics().buffers_free, buffers);
        assert_eq!(node.statistics().calls_outstanding, 0);
    }
    whole_pool_is_free(&shared, &node);
}

fn whole_pool_is_free(shared: &Shared, node: &Pooled) {
    let memory = shared.memory(node);
    let region: Region = memory.alloc(40 << 20).expect("all was given back");
    memory.free(region).expect("its own");
}

#[test]
fn handles_move_bytes_through_the_pool() {
    const BYTES: usize = 90 * PAGE + 17;
    let shared = Shared::new();
    let node = shared.node(1);
    let peer = shared.memory(&node).peer();
    let mut handles: Vec<_> = (0..3).map(|_| node.handle().expect("room")).collect();
    std::thread::scope(|scope| {
        let work = |(number, handle): (usize, &mut dmrpc_cn::handle::Handle)| {
            for round in 0..10 {
                let content = pattern(BYTES, 10 * number + round);
                let made = handle.put(peer, content.clone()).expect("room");
                assert_eq!(
                    handle.read_ref(peer, &made, 9000, 77).expect("there"),
                    content[9000..9077]
                );
                assert!(handle.take(peer, &made).expect("there") == content);
                handle.read_ref(peer, &made, 0, 1).expect_err("taken");
            }
        };
        let threads: Vec<_> =
            handles.iter_mut().enumerate().map(|one| scope.spawn(move || work(one))).collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            node.step();
        }
    });
    let count = packets(&node);
    assert!(count < 30 * 40, "{count} packets");
}

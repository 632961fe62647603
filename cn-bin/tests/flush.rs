//! A pool in flush mode: compute nodes read and write pages themselves, the memory node does the
//! rest.

mod common;

use common::flush::{PAGE, Shared, packets};
use common::pattern;
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::statistics::Operation;
use dmrpc_cn::{MemoryError, Node};
use dmrpc_cxl::PoolDevice;

#[test]
fn reads_and_writes_take_no_message_once_places_are_known() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc(300 * PAGE as u64).expect("room");
    let bytes = pattern(300 * PAGE, 1);
    memory.write(region, 0, &bytes).expect("room");
    let calls = |node: &Node<PoolDevice>| node.statistics().endpoint.calls_started;
    let before = calls(&node);
    let mut found = vec![0; bytes.len()];
    memory.read(region, 0, &mut found).expect("within");
    assert!(found == bytes);
    for page in (0..300).rev() {
        memory.write(region, page * PAGE as u64 + 9, &[page as u8; 77]).expect("own");
        memory.read(region, page * PAGE as u64 + 50, &mut found[..10]).expect("within");
        assert_eq!(found[..10], [page as u8; 10]);
    }
    assert_eq!(calls(&node), before, "the memory node was asked");
}

#[test]
fn what_is_referred_to_stays_and_what_is_freed_is_used_again() {
    let shared = Shared::new();
    let (one, two) = (shared.node(1), shared.node(2));
    let (one, two) = (shared.memory(&one), shared.memory(&two));
    for round in 0..30 {
        let bytes = pattern(70 * PAGE + 123, round);
        let region = one.alloc(bytes.len() as u64).expect("room");
        one.write(region, 0, &bytes).expect("room");
        let reference =
            one.create_ref(region, 100, bytes.len() as u64 - 100, ALL_RIGHTS).expect("room");
        // The pen is gone: this is a copy.
        one.write(region, 0, &pattern(3 * PAGE, round + 1)).expect("room");
        let mapped = two.map_ref(&reference).expect("room");
        let mut found = vec![0; bytes.len() - 100];
        two.read(mapped, 0, &mut found).expect("within");
        assert!(found == bytes[100..], "round {round}");
        two.write(mapped, 5000, b"mine").expect("room");
        two.read(mapped, 4999, &mut found[..6]).expect("within");
        assert_eq!(found[..6], [&bytes[5099..5100], b"mine", &bytes[5104..5105]].concat());
        one.read_ref(&reference, 0, &mut found).expect("a reference");
        assert!(found == bytes[100..], "round {round}");
        one.drop_ref(&reference).expect("its own");
        one.free(region).expect("its own");
        two.free(mapped).expect("its own");
    }
}

#[test]
fn operations_of_all_kinds_mix() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc(10 * PAGE as u64).expect("room");
    memory.write(region, 0, &pattern(10 * PAGE, 1)).expect("room");
    // Begun, and not finished: what follows comes after it.
    let ticket = memory.start().write(region, 40, b"by message").expect("a slot");
    let mut found = [0; 10];
    memory.read(region, 40, &mut found).expect("within");
    assert_eq!(&found, b"by message");
    while node.try_finish(ticket).is_none() {
        node.poll();
    }
    memory.write(region, 43, b"by pen!").expect("within");
    memory.read(region, 40, &mut found).expect("within");
    assert_eq!(&found, b"by by pen!");
    // What is refused is refused in the same words.
    let error = memory.read(region, 10 * PAGE as u64 - 1, &mut found).expect_err("beyond");
    let (end, size) = (10 * PAGE as u64 + 9, 10 * PAGE as u64);
    assert_eq!(error.memory(), Some(MemoryError::OutOfRange { end, size }));
    memory.free(region).expect("its own");
    let error = memory.write(region, 0, b"x").expect_err("freed");
    assert_eq!(error.memory(), Some(MemoryError::UnknownRegion));
    let reference = memory.put(&pattern(5000, 2)).expect("room");
    let mut all = vec![0; 5000];
    assert_eq!(memory.take(&reference, &mut all).expect("its own"), 5000);
    assert!(all == pattern(5000, 2));
}

#[test]
fn what_moves_bytes_moves_them_through_the_pool() {
    const BYTES: usize = 100 * PAGE + 17;
    let shared = Shared::new();
    let (one, two) = (shared.node(1), shared.node(2));
    let (writer, reader) = (shared.memory(&one), shared.memory(&two));
    for round in 0..20 {
        let bytes = pattern(BYTES, round);
        let reference = writer.put(&bytes).expect("room");
        let mut found = vec![0; BYTES];
        reader.read_ref(&reference, 0, &mut found).expect("a reference");
        assert!(found == bytes, "round {round}");
        reader.read_ref(&reference, 5000, &mut found[..9]).expect("a reference");
        assert_eq!(found[..9], bytes[5000..5009]);
        found.fill(0);
        assert_eq!(reader.take(&reference, &mut found).expect("a reference"), BYTES);
        assert!(found == bytes, "round {round}");
        let error = reader.read_ref(&reference, 0, &mut found).expect_err("taken");
        assert!(error.memory().is_some(), "{error}");
        assert_eq!(error.operation, Operation::ReadRef);
    }
    for node in [&one, &two] {
        // In messages it takes a packet a page.
        let count = packets(node);
        assert!(count < 20 * 40, "{count} packets");
    }
}

#[test]
fn begun_reads_and_writes_move_bytes_through_the_pool_in_order() {
    const PAGES: usize = 20;
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc((PAGES * PAGE) as u64).expect("room");
    let mut expected = vec![0; PAGES * PAGE];
    let mut reads = Vec::new();
    for round in 0..200_usize {
        let at = round * 7919 % (PAGES * PAGE - 5000);
        let bytes = pattern(5000, round);
        let write = memory.start().write(region, at as u64, &bytes).expect("room");
        expected[at..at + 5000].copy_from_slice(&bytes);
        // Sees that write, and none of the later ones.
        let from = at.saturating_sub(100);
        let read = memory.start().read(region, from as u64, 300).expect("room");
        reads.push((write, read, expected[from..from + 300].to_vec()));
        if round % 50 == 0 {
            // A message about the region comes between.
            memory
                .drop_ref(&memory.create_ref(region, 0, 9000, ALL_RIGHTS).expect("room"))
                .expect("own");
        }
        if reads.len() == 8 {
            for (write, read, expected) in reads.drain(..) {
                while node.try_finish(write).is_none_or(|ended| ended.is_err()) {
                    node.poll();
                }
                let found = loop {
                    if let Some(ended) = node.try_finish(read) {
                        break ended.expect("it is read").bytes_read().expect("its bytes");
                    }
                    node.poll();
                };
                assert_eq!(&found.expect("a buffer")[..], expected, "round {round}");
            }
        }
    }
    let count = packets(&node);
    assert!(count < 200, "{count} packets");
}

#[test]
fn futures_move_bytes_through_the_pool() {
    const BYTES: usize = 30 * PAGE + 17;
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node).asynchronous();
    node.block_on(async {
        for round in 0..20 {
            let bytes = pattern(BYTES, round);
            let reference = memory.put(&bytes).await.expect("room");
            let mut found = vec![0; BYTES];
            memory.read_ref(&reference, 0, &mut found).await.expect("a reference");
            assert!(found == bytes);
            found.fill(0);
            assert_eq!(memory.take(&reference, &mut found).await.expect("a reference"), BYTES);
            assert!(found == bytes);
        }
    });
    let count = packets(&node);
    assert!(count < 20 * 40, "{count} packets");
}

#[test]
fn slices_stay_while_others_write_and_their_sessions_end() {
    const BYTES: usize = 70 * PAGE + 123;
    let shared = Shared::new();
    let (one, two) = (shared.node(1), shared.node(2));
    let writer = shared.memory(&one);
    let mut held = Vec::new();
    for round in 0..12 {
        let bytes = pattern(BYTES, round);
        let region = writer.alloc(BYTES as u64).expect("room");
        writer.write(region, 0, &bytes).expect("room");
        let reference = writer.create_ref(region, 0, BYTES as u64, ALL_RIGHTS).expect("room");
        let peer = two.connect(shared.server.address).expect("it serves");
        let slices = two.memory(peer).slices(&reference).expect("here");
        assert!(slices.runs() < 5, "{slices:?}");
        // The writer goes on, in frames of its own; the reader's own session ends.
        writer.write(region, 0, &pattern(BYTES, round + 100)).expect("room");
        writer.drop_ref(&reference).expect("its own");
        writer.free(region).expect("its own");
        two.disconnect(peer);
        held.push((slices, bytes));
    }
    // Even this ends no mapping that slices are made of.
    two.disconnect_all();
    assert_eq!(two.peer_at(shared.server.address), None);
    for (slices, bytes) in held {
        assert!(slices.iter().flatten().eq(&bytes));
        assert_eq!(slices.bytes(), BYTES as u64);
    }
    // All comes home.
    two.poll();
    let peer = two.connect(shared.server.address).expect("it serves");
    let most = (40 << 20) / PAGE as u64 * PAGE as u64;
    let memory = two.memory(peer);
    let region = memory.alloc(most).expect("all was given back");
    memory.free(region).expect("its own");
    // What was never written is zeros.
    let region = memory.alloc(3 * PAGE as u64).expect("room");
    let reference = memory.create_ref(region, 0, 3 * PAGE as u64, ALL_RIGHTS).expect("room");
    let slices = memory.slices(&reference).expect("here");
    assert!(slices.contiguous().expect("zeros").iter().all(|byte| *byte == 0));
}

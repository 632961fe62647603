//! Views of a pool in flush mode: pages that this process has the pen for, written where they are.

mod common;

use common::flush::{PAGE, Shared};
use common::pattern;
use dmrpc_cn::memory::{ALL_RIGHTS, Cause};
use dmrpc_cn::{Error, MemoryError, OperationError};

fn viewed<T>(result: Result<T, OperationError>) {
    assert_eq!(result.map(drop).expect_err("reserved").cause, Cause::Call(Error::Viewed));
}

#[test]
fn a_view_writes_in_place_and_copies_what_others_see() {
    let shared = Shared::new();
    let (one, two) = (shared.node(1), shared.node(2));
    let (one, two) = (shared.memory(&one), shared.memory(&two));
    let bytes = pattern(20 * PAGE - 30, 1);
    let region = one.alloc(bytes.len() as u64).expect("room");
    one.write(region, 0, &bytes[..10 * PAGE]).expect("room");
    let mut view = one.view(region).expect("mapped");
    // Its own already: no copy. Never written: not own.
    let page = view.own(3 * PAGE as u64 + 96).expect("within").expect("own");
    assert_eq!(page.len(), PAGE - 96);
    assert!(*page == bytes[3 * PAGE + 96..4 * PAGE]);
    page[..4].copy_from_slice(b"here");
    assert!(view.own(15 * PAGE as u64).expect("within").is_none());
    assert!(view.make_own(15 * PAGE as u64).expect("room").iter().all(|byte| *byte == 0));
    assert_eq!(view.make_own(19 * PAGE as u64).expect("room").len(), PAGE - 30);
    let (end, size) = (20 * PAGE as u64 - 29, 20 * PAGE as u64 - 30);
    let beyond = view.own(20 * PAGE as u64 - 30).expect_err("beyond the region");
    assert_eq!(beyond.memory(), Some(MemoryError::OutOfRange { end, size }));
    drop(view);
    let mut found = [0; 4];
    one.read(region, 3 * PAGE as u64 + 96, &mut found).expect("within");
    assert_eq!(&found, b"here");
    // Once referred to, nothing is own, and what is made own is a copy.
    let reference = one.create_ref(region, 0, bytes.len() as u64, ALL_RIGHTS).expect("room");
    let slices = two.slices(&reference).expect("a reference");
    let before: Vec<u8> = slices.iter().flatten().copied().collect();
    assert_eq!(before[3 * PAGE + 96..][..4], *b"here");
    let mut view = one.view(region).expect("mapped");
    assert!(view.own(3 * PAGE as u64).expect("within").is_none());
    view.make_own(3 * PAGE as u64).expect("room").fill(9);
    assert!(view.own(4 * PAGE as u64).expect("within").is_none(), "page by page");
    view.make_own(5 * PAGE as u64).expect("room").fill(8);
    drop(view);
    assert!(slices.iter().flatten().eq(&before));
    let mut pages = vec![0; 3 * PAGE];
    one.read(region, 3 * PAGE as u64, &mut pages).expect("within");
    assert!(pages[..PAGE].iter().all(|byte| *byte == 9));
    assert!(pages[PAGE..2 * PAGE] == before[4 * PAGE..5 * PAGE]);
    assert!(pages[2 * PAGE..].iter().all(|byte| *byte == 8));
}

#[test]
fn a_view_has_its_region_to_itself() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc(3 * PAGE as u64).expect("room");
    let buffers = node.statistics().buffers_free;
    // What is under way comes first.
    memory.start().create_ref(region, 0, 9, ALL_RIGHTS).expect("room");
    let mut view = memory.view(region).expect("mapped");
    view.make_own(0).expect("room")[0] = 1;
    viewed(memory.free(region));
    viewed(memory.write(region, 0, b"x"));
    viewed(memory.write(region, 0, b""));
    viewed(memory.read(region, 0, &mut [0]));
    viewed(memory.create_ref(region, 0, 1, ALL_RIGHTS));
    viewed(memory.view(region));
    viewed(memory.visit(region, 0, 1, |_, _| {}));
    viewed(memory.start().write(region, 0, &[7; 3 * PAGE]));
    viewed(memory.start().read(region, 0, 3 * PAGE));
    viewed(memory.start().free(region));
    assert_eq!(node.statistics().buffers_free, buffers);
    assert_eq!(view.own(0).expect("there").expect("own")[0], 1);
    drop(view);
    memory.free(region).expect("its own");
    let gone = memory.view(region).expect_err("freed");
    assert_eq!(gone.memory(), Some(MemoryError::UnknownRegion));
}

#[test]
fn the_end_of_its_session_takes_no_page_from_a_view() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc(2 * PAGE as u64).expect("room");
    let mut view = memory.view(region).expect("mapped");
    view.make_own(0).expect("room").fill(1);
    for all in [false, true] {
        match all {
            false => node.disconnect(memory.peer()),
            true => node.disconnect_all(),
        }
        assert_eq!(node.peer_at(shared.server.address), None, "the program has left it");
        // Others fill all that is free.
        let other = shared.memory(&node);
        let filler = other.alloc(30 << 20).expect("room");
        other.write(filler, 0, &pattern(8 << 20, 1)).expect("room");
        other.write(filler, 8 << 20, &pattern(8 << 20, 2)).expect("room");
        assert!(view.own(0).expect("there").expect("own").iter().all(|byte| *byte == 1));
        view.make_own(PAGE as u64).expect("even now").fill(2);
        other.free(filler).expect("its own");
    }
    drop(view);
    node.poll();
    let over = memory.view(region).expect_err("over").cause;
    assert!(matches!(over, Cause::Call(Error::SessionLost { .. } | Error::StalePeer)), "{over:?}");
    let other = shared.memory(&node);
    let all = other.alloc(40 << 20).expect("all was given back");
    other.free(all).expect("its own");
}

/// A view that nobody drops keeps its region, and what it wrote does not come later.
#[test]
fn a_view_that_is_forgotten_is_written_back_with_its_node() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc(PAGE as u64).expect("room");
    let mut view = memory.view(region).expect("mapped");
    view.make_own(0).expect("room").fill(1);
    std::mem::forget(view);
    viewed(memory.free(region));
    node.disconnect_all();
    drop(node);
    // The memory node gives the place to the next, whose pages are its own.
    let node = shared.node(2);
    let memory = shared.memory(&node);
    let region = memory.alloc(9).expect("room");
    let mut view = memory.view(region).expect("mapped");
    assert!(view.make_own(0).expect("room").iter().all(|byte| *byte == 0));
}

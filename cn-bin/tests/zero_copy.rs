//! Slices and views of a pool that compute nodes map, and their refusal where they do not.

mod common;

use std::sync::Arc;

use common::{Server, config, node, pattern};
use dmrpc_cn::memory::{ALL_RIGHTS, Cause};
use dmrpc_cn::{Error, Memory, MemoryError, Node, NodeConfig};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolDevice};

const PAGE: usize = 4096;

/// A pool with its memory node, for tests in one process.
struct Shared {
    pool: Arc<Pool>,
    server: Server,
}

impl Shared {
    fn new() -> Self {
        let mapping = Mapping::memfd("dmrpc-zero-copy", 64 << 20).expect("memory");
        let config = PoolConfig { participants: 4, ring_participants: 4, ..PoolConfig::default() };
        let identity = (5, [6, 7]);
        let pool = Pool::format(mapping, Mode::Coherent, &config, identity, Overwrite::Unused);
        let pool = Arc::new(pool.expect("room"));
        let server = Server::pool_node(&pool);
        Self { pool, server }
    }

    /// Participant `index`, as a node of its own.
    fn node(&self, index: u32) -> Node<PoolDevice> {
        let participant = self.pool.attach(Some(index), 1).expect("free");
        let device = PoolDevice::new(Arc::clone(&self.pool), participant).expect("rings");
        let local = device.local_addr();
        let config = NodeConfig { datagram_bytes: 4400, ..config() };
        let node = Node::new(device, local, &config).expect("a node");
        node.share_pool(&self.pool, index).expect("the store is there");
        node
    }

    fn memory<'n>(&self, node: &'n Node<PoolDevice>) -> Memory<'n, PoolDevice> {
        node.memory(node.connect(self.server.address).expect("it serves"))
    }
}

fn all(slices: &dmrpc_cn::zero_copy::Slices<'_, PoolDevice>) -> Vec<u8> {
    slices.iter().flatten().copied().collect()
}

#[test]
fn slices_stay_as_they_are_whatever_others_do() {
    let shared = Shared::new();
    let (one, two) = (shared.node(1), shared.node(2));
    let (one, two) = (shared.memory(&one), shared.memory(&two));
    let bytes = pattern(150 * PAGE + 77, 1);
    let reference = one.put(&bytes).expect("room");
    let slices = two.slices(&reference).expect("a reference");
    assert_eq!(slices.bytes(), bytes.len() as u64);
    assert!(all(&slices) == bytes);
    // Written at once into a fresh pool: it lies together but for what the caches begin with.
    assert!(slices.runs() <= 4, "{} runs of 151 pages", slices.runs());
    // The one who made it writes to a mapping, takes it, ends it, and fills the pool's free frames.
    let region = one.map_ref(&reference).expect("room");
    one.write(region, 0, &pattern(bytes.len(), 2)).expect("room");
    one.free(region).expect("its own");
    let region = one.take_and_write(&reference, 5, &pattern(3 * PAGE, 3)).expect("its own");
    one.free(region).expect("its own");
    for seed in 4..12 {
        let filled = one.alloc(6 << 20).expect("room");
        one.write(filled, 0, &pattern(6 << 20, seed)).expect("room");
        assert!(all(&slices) == bytes, "round {seed}");
        one.free(filled).expect("its own");
    }
    // The session is over, and the slices are still there.
    two_is_gone_but_slices_stay(&shared, &bytes);
    drop(slices);
    let again = two.slices(&reference).expect_err("it was taken");
    let gone = [MemoryError::Dropped, MemoryError::StaleReference].map(Some);
    assert!(gone.contains(&again.memory()), "{again}");
}

fn two_is_gone_but_slices_stay(shared: &Shared, bytes: &[u8]) {
    let node = shared.node(3);
    let memory = shared.memory(&node);
    let reference = memory.put(bytes).expect("room");
    let slices = memory.slices(&reference).expect("a reference");
    node.disconnect(memory.peer());
    assert!(all(&slices) == bytes);
}

#[test]
fn what_was_never_written_is_zeros() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc(1 << 20).expect("room");
    memory.write(region, 300_000, b"island").expect("room");
    let reference = memory.create_ref(region, 10, 900_000, ALL_RIGHTS).expect("room");
    let slices = memory.slices(&reference).expect("a reference");
    let mut expected = vec![0; 900_000];
    expected[299_990..299_996].copy_from_slice(b"island");
    assert!(all(&slices) == expected);
    assert_eq!(slices.runs(), 3);
    assert_eq!(slices.contiguous(), None);
    let island = memory.narrow(&reference, 299_990, 6, ALL_RIGHTS).expect("within");
    assert_eq!(memory.slices(&island).expect("a reference").contiguous(), Some(&b"island"[..]));
}

#[test]
fn freed_frames_come_back_together() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    // More than the pool has, one after the other: what is written is recycled.
    for seed in 0..20 {
        let bytes = pattern(8 << 20, seed);
        let reference = memory.put(&bytes).expect("room");
        let slices = memory.slices(&reference).expect("a reference");
        assert!(all(&slices) == bytes);
        let runs = slices.runs();
        assert!(runs <= 2048 / 16, "round {seed}: {runs} runs of 2048 pages");
        drop(slices);
        memory.drop_ref(&reference).expect("its own");
    }
}

#[test]
fn a_view_writes_in_place_and_copies_what_others_see() {
    let shared = Shared::new();
    let (one, two) = (shared.node(1), shared.node(2));
    let (one, two) = (shared.memory(&one), shared.memory(&two));
    let bytes = pattern(20 * PAGE, 1);
    let region = one.alloc(bytes.len() as u64).expect("room");
    one.write(region, 0, &bytes[..10 * PAGE]).expect("room");
    let mut view = one.view(region).expect("mapped");
    // Its own already: no copy. Never written: not own.
    let page = view.own(3 * PAGE as u64 + 96).expect("within").expect("own");
    assert_eq!(page.len(), PAGE - 96);
    page[..4].copy_from_slice(b"here");
    assert!(view.own(15 * PAGE as u64).expect("within").is_none());
    assert!(view.make_own(15 * PAGE as u64).expect("room").iter().all(|byte| *byte == 0));
    assert!(view.own(20 * PAGE as u64).is_err(), "beyond the region");
    drop(view);
    let mut found = [0; 4];
    one.read(region, 3 * PAGE as u64 + 96, &mut found).expect("within");
    assert_eq!(&found, b"here");
    // Once referred to, nothing is own, and what is made own is a copy.
    let reference = one.create_ref(region, 0, bytes.len() as u64, ALL_RIGHTS).expect("room");
    let slices = two.slices(&reference).expect("a reference");
    let before = all(&slices);
    let mut view = one.view(region).expect("mapped");
    assert!(view.own(3 * PAGE as u64).expect("within").is_none());
    view.make_own(3 * PAGE as u64).expect("room").fill(9);
    assert!(view.own(4 * PAGE as u64).expect("within").is_none(), "page by page");
    drop(view);
    assert!(all(&slices) == before);
    let mut page = vec![0; PAGE];
    one.read(region, 3 * PAGE as u64, &mut page).expect("within");
    assert!(page.iter().all(|byte| *byte == 9));
}

#[test]
fn a_view_has_its_region_to_itself() {
    let shared = Shared::new();
    let node = shared.node(1);
    let memory = shared.memory(&node);
    let region = memory.alloc(PAGE as u64).expect("room");
    let mut view = memory.view(region).expect("mapped");
    let own = view.make_own(0).expect("room");
    own[0] = 1;
    let viewed = |result: Result<(), dmrpc_cn::OperationError>| {
        assert_eq!(result.expect_err("reserved").cause, Cause::Call(Error::Viewed));
    };
    viewed(memory.free(region));
    viewed(memory.write(region, 0, b"x"));
    viewed(memory.read(region, 0, &mut [0]));
    viewed(memory.create_ref(region, 0, 1, ALL_RIGHTS).map(drop));
    viewed(memory.view(region).map(drop));
    assert!(memory.start().write(region, 0, b"x").is_err());
    // The session ends: what the view sees stays until it is dropped.
    node.disconnect(memory.peer());
    let other = shared.memory(&node);
    let filler = other.alloc(4 << 20).expect("room");
    other.write(filler, 0, &pattern(4 << 20, 1)).expect("room");
    assert_eq!(view.own(0).expect("still there").expect("still own")[0], 1);
    drop(view);
    other.free(filler).expect("its own");
    let over = memory.view(region).expect_err("over").cause;
    assert!(matches!(over, Cause::Call(Error::SessionLost { .. })), "{over:?}");
    let over = memory.read(region, 0, &mut [0]).expect_err("over").cause;
    assert!(matches!(over, Cause::Call(Error::SessionLost { .. })), "{over:?}");
}

#[test]
fn over_a_network_there_are_no_slices_and_no_views() {
    let server = Server::memory_node();
    let node = node();
    let memory = node.memory(node.connect(server.address).expect("it serves"));
    let reference = memory.put(b"far away").expect("room");
    let error = memory.slices(&reference).expect_err("a copy is all there is");
    assert_eq!(error.cause, Cause::NotMapped);
    assert!(error.to_string().contains("this process does not map that memory"), "{error}");
    let region = memory.map_ref(&reference).expect("room");
    assert_eq!(memory.view(region).expect_err("the same").cause, Cause::NotMapped);
}

//! A pool in flush mode: compute nodes read and write pages themselves, the memory node does the
//! rest.

mod common;

use std::sync::Arc;

use common::{Server, config, pattern};
use dmrpc_cn::memory::{ALL_RIGHTS, Cause};
use dmrpc_cn::{Memory, MemoryError, Node, NodeConfig};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolDevice};

const PAGE: usize = 4096;

struct Shared {
    pool: Arc<Pool>,
    server: Server,
}

impl Shared {
    fn new() -> Self {
        let mapping = Mapping::memfd("dmrpc-flush", 64 << 20).expect("memory");
        let config = PoolConfig { participants: 4, ring_participants: 4, ..PoolConfig::default() };
        let identity = (5, [6, 7]);
        let pool = Pool::format(mapping, Mode::Flush, &config, identity, Overwrite::Unused);
        let pool = Arc::new(pool.expect("room"));
        let server = Server::pool_node(&pool);
        Self { pool, server }
    }

    fn node(&self, index: u32) -> Node<PoolDevice> {
        let participant = self.pool.attach(Some(index), 1).expect("free");
        let device = PoolDevice::new(Arc::clone(&self.pool), participant).expect("rings");
        let local = device.local_addr();
        let node = Node::new(device, local, &NodeConfig { datagram_bytes: 4400, ..config() });
        let node = node.expect("a node");
        node.share_pool(&self.pool, index).expect("a pool");
        node
    }

    fn memory<'n>(&self, node: &'n Node<PoolDevice>) -> Memory<'n, PoolDevice> {
        node.memory(node.connect(self.server.address).expect("it serves"))
    }
}

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
    assert_eq!(memory.slices(&reference).expect_err("not here").cause, Cause::NotMapped);
    let mut all = vec![0; 5000];
    assert_eq!(memory.take(&reference, &mut all).expect("its own"), 5000);
    assert!(all == pattern(5000, 2));
}

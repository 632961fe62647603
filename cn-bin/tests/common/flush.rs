//! What tests of flush mode share.

use std::sync::Arc;

use dmrpc_cn::{Memory, Node, NodeConfig};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolDevice};

use super::{Server, config};

pub(crate) const PAGE: usize = 4096;

/// A pool in flush mode with its memory node, for tests in one process.
pub(crate) struct Shared {
    pub(crate) pool: Arc<Pool>,
    pub(crate) server: Server,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let mapping = Mapping::memfd("dmrpc-flush", 64 << 20).expect("memory");
        let config = PoolConfig { participants: 4, ring_participants: 4, ..PoolConfig::default() };
        let identity = (5, [6, 7]);
        let pool = Pool::format(mapping, Mode::Flush, &config, identity, Overwrite::Unused);
        let pool = Arc::new(pool.expect("room"));
        let server = Server::pool_node(&pool);
        Self { pool, server }
    }

    /// Participant `index`, as a node of its own.
    pub(crate) fn node(&self, index: u32) -> Node<PoolDevice> {
        let participant = self.pool.attach(Some(index), 1).expect("free");
        let device = PoolDevice::new(Arc::clone(&self.pool), participant).expect("rings");
        let local = device.local_addr();
        let node = Node::new(device, local, &NodeConfig { datagram_bytes: 4400, ..config() });
        let node = node.expect("a node");
        node.share_pool(&self.pool, index).expect("a pool");
        node
    }

    pub(crate) fn memory<'n>(&self, node: &'n Node<PoolDevice>) -> Memory<'n, PoolDevice> {
        node.memory(node.connect(self.server.address).expect("it serves"))
    }
}

/// Packets that went to and from the memory node: at most a page's worth of bytes each.
pub(crate) fn packets(node: &Node<PoolDevice>) -> u64 {
    let endpoint = node.statistics().endpoint;
    endpoint.packets_sent + endpoint.datagrams_received
}

//! Memory of a pool that this process maps: operations run here, not at the memory node.
//!
//! The page store in the pool is one that several processes share. This process is a participant
//! of it, and runs the same service on it that a memory node runs; what a session is there is this
//! node here. Only calls that concern the store come here: everything else travels.

use std::net::SocketAddrV4;
use std::sync::Arc;

use dmrpc_core::endpoint::Host;
use dmrpc_core::endpoint::here::{Asked, Heads, ask};
use dmrpc_core::endpoint::host::{CallError, SessionEvent, SessionId, Side};
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder};
use dmrpc_core::store::{FormatError, Limits, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::reference::RefKey;
use dmrpc_cxl::{Pool, PoolMemory, device};

use crate::call::Spec;
use crate::pending::Reply;

/// Where the memory node of a pool is reached: it is the pool's participant 0.
pub(crate) const POOL_ADDRESS: SocketAddrV4 = device::address_of(0);

/// The one session of the service: this node's.
const OWN: SessionId = SessionId { index: 0, generation: 0 };

/// A participant's store, and the service on it.
pub(crate) struct LocalMemory {
    service: MemoryNode<'static, PoolMemory>,
    heads: Box<Heads>,
    /// Keeps the mapping and the participant's place.
    _pool: Arc<Pool>,
}

impl LocalMemory {
    /// Becomes participant `index` of the store in `pool`.
    pub(crate) fn attach(pool: &Arc<Pool>, index: u32, now: Instant) -> Result<Self, FormatError> {
        let store = Store::attach(pool.store_memory(), index)?;
        let geometry = pool.geometry();
        let mut key = [0; 16];
        for (bytes, word) in key.as_chunks_mut::<8>().0.iter_mut().zip(geometry.key) {
            *bytes = word.to_le_bytes();
        }
        let incarnation = geometry.incarnation;
        let identity = Identity { memory_node: 0, incarnation, key: RefKey(key) };
        // One holder for as long as the process lives: not worth a way to give it back.
        let sessions = Box::leak(Box::new([SessionHolder::EMPTY]));
        let mut service = MemoryNode::new(store, identity, Limits::NONE, sessions, &mut []);
        service.session(now, Side::Server, OWN, SessionEvent::Accepted { incarnation });
        Ok(Self { service, heads: Box::default(), _pool: Arc::clone(pool) })
    }

    /// Runs an operation; `None` if it has to wait for memory that is being freed.
    pub(crate) fn run(
        &mut self,
        spec: &Spec<'_>,
        body: &[u8],
        room: &mut [u8],
    ) -> Option<Result<Reply, CallError>> {
        let Spec { method, arguments, parameters, .. } = *spec;
        let asked = Asked { method, arguments, parameters, body, session: OWN };
        // The service does nothing by time.
        let answer = ask(&mut self.service, Instant::ZERO, &asked, room, &mut self.heads)?;
        Some(answer.map(|answer| Reply::of(answer.status, &answer.arguments, answer.body_bytes)))
    }
}

impl Drop for LocalMemory {
    fn drop(&mut self) {
        let gone = SessionEvent::Closed(dmrpc_core::endpoint::host::Closed::Bye);
        self.service.session(Instant::ZERO, Side::Server, OWN, gone);
    }
}

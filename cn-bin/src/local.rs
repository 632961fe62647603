//! Memory of a pool that this process maps: operations run here, not at the memory node.
//!
//! The page store in the pool is one that several processes share. This process is a participant
//! of it, and runs the same service on it that a memory node runs; what a session is there is this
//! node here. Only calls that concern the store come here: everything else travels.

use std::net::SocketAddrV4;
use std::sync::Arc;

use dmrpc_core::endpoint::Host;
use dmrpc_core::endpoint::here::{Asked, Heads, ask};
use dmrpc_core::endpoint::host::{CallError, Closed, SessionEvent, SessionId, Side};
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder};
use dmrpc_core::store::{FormatError, Limits, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::reference::RefKey;
use dmrpc_cxl::{Pool, PoolMemory, device};

use crate::call::Spec;
use crate::pending::Reply;

/// Where the memory node of a pool is reached: it is the pool's participant 0.
pub(crate) const POOL_ADDRESS: SocketAddrV4 = device::address_of(0);

/// A participant's store, and the service on it.
pub(crate) struct LocalMemory {
    service: MemoryNode<'static, PoolMemory>,
    heads: Box<Heads>,
    /// The sessions of this node that the service knows, by index.
    sessions: Box<[Option<SessionId>]>,
    /// Keeps the mapping and the participant's place.
    _pool: Arc<Pool>,
}

impl LocalMemory {
    /// Becomes participant `index` of the store in `pool`.
    pub(crate) fn attach(
        pool: &Arc<Pool>,
        index: u32,
        sessions: usize,
    ) -> Result<Self, FormatError> {
        let store = Store::attach(pool.store_memory(), index)?;
        let geometry = pool.geometry();
        let mut key = [0; 16];
        for (bytes, word) in key.as_chunks_mut::<8>().0.iter_mut().zip(geometry.key) {
            *bytes = word.to_le_bytes();
        }
        let incarnation = geometry.incarnation;
        let identity = Identity { memory_node: 0, incarnation, key: RefKey(key) };
        // Some bytes for as long as the process lives: not worth a way to give them back.
        let holders = Box::leak(vec![SessionHolder::EMPTY; sessions].into_boxed_slice());
        let service = MemoryNode::new(store, identity, Limits::NONE, holders, &mut []);
        let sessions = vec![None; sessions].into();
        Ok(Self { service, heads: Box::default(), sessions, _pool: Arc::clone(pool) })
    }

    /// Runs an operation; `None` if it has to wait for memory that is being freed.
    pub(crate) fn run(
        &mut self,
        spec: &Spec<'_>,
        body: &[u8],
        room: &mut [u8],
    ) -> Option<Result<Reply, CallError>> {
        let Spec { method, arguments, parameters, .. } = *spec;
        let session = spec.peer.session;
        if self.sessions[session.index as usize] != Some(session) {
            self.end(session.index);
            self.sessions[session.index as usize] = Some(session);
            let begun = SessionEvent::Accepted { incarnation: 0 };
            self.service.session(Instant::ZERO, Side::Server, session, begun);
        }
        let asked = Asked { method, arguments, parameters, body, session };
        // The service does nothing by time.
        let answer = ask(&mut self.service, Instant::ZERO, &asked, room, &mut self.heads)?;
        Some(answer.map(|answer| Reply::of(answer.status, &answer.arguments, answer.body_bytes)))
    }

    /// Gives back what was held in the name of a session.
    pub(crate) fn end(&mut self, index: u32) {
        if let Some(session) = self.sessions[index as usize].take() {
            let gone = SessionEvent::Closed(Closed::Bye);
            self.service.session(Instant::ZERO, Side::Server, session, gone);
        }
    }
}

impl Drop for LocalMemory {
    fn drop(&mut self) {
        (0..self.sessions.len() as u32).for_each(|index| self.end(index));
    }
}

//! Memory of a pool that this process maps: operations run here, not at the memory node.
//!
//! The page store in the pool is one that several processes share. This process is a participant
//! of it, and runs the same service on it that a memory node runs; what a session is there is a
//! line here. Only calls that concern the store come here: everything else travels.

use std::net::SocketAddrV4;
use std::sync::Arc;

use dmrpc_core::endpoint::Host;
use dmrpc_core::endpoint::here::{Asked, Heads, ask};
use dmrpc_core::endpoint::host::{CallError, Closed, SessionEvent, SessionId, Side};
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder};
use dmrpc_core::store::{FormatError, HolderId, Limits, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::memory_op::{MemoryError, RegionName};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_cxl::{Direct, Participant, Pool, PoolMemory, device};

use crate::call::Spec;
use crate::pending::Reply;

/// Where the memory node of a pool is reached through it: it is the pool's participant 0.
pub(crate) const POOL_ADDRESS: SocketAddrV4 = device::address_of(0);

/// After so many operations, at most, free records that are too many go back to the pool.
const BALANCE_EVERY: u32 = 64;

/// A participant's store, and the service on it.
pub(crate) struct LocalMemory {
    service: MemoryNode<'static, PoolMemory>,
    /// Operations until what is too much goes back.
    until_balance: u32,
    heads: Box<Heads>,
    /// In whose names the service holds memory, by the index of the line.
    sessions: Box<[Option<SessionId>]>,
    /// Regions that only a view may touch, and the sessions that they are of.
    viewed: Vec<(SessionId, RegionName)>,
    /// Holders of sessions that ended while there was a view of a region of theirs.
    leaving: Vec<(SessionId, HolderId)>,
    /// Keeps the mapping, and the participant's place unless a device does.
    pool: Arc<Pool>,
    _place: Option<Participant>,
}

impl LocalMemory {
    /// Becomes participant `index` of the store in `pool`. A `place` that is given is kept.
    pub(crate) fn attach(
        pool: &Arc<Pool>,
        index: u32,
        sessions: usize,
        place: Option<Participant>,
    ) -> Result<Self, FormatError> {
        let store = Store::attach(pool.store_memory(), index)?;
        let geometry = pool.geometry();
        let mut key = [0; 16];
        for (bytes, word) in key.as_chunks_mut::<8>().0.iter_mut().zip(geometry.key) {
            *bytes = word.to_le_bytes();
        }
        let incarnation = geometry.incarnation;
        let memory_node = geometry.memory_node as u32;
        let identity = Identity { memory_node, incarnation, key: RefKey(key) };
        // Some bytes for as long as the process lives: not worth a way to give them back.
        let holders = Box::leak(vec![SessionHolder::EMPTY; sessions].into_boxed_slice());
        let service = MemoryNode::new(store, identity, Limits::NONE, holders, &mut []);
        let sessions = vec![None; sessions].into();
        let (heads, viewed, leaving) = (Box::default(), Vec::new(), Vec::new());
        let pool = Arc::clone(pool);
        let until_balance = BALANCE_EVERY;
        Ok(Self { service, until_balance, heads, sessions, viewed, leaving, pool, _place: place })
    }

    /// The service, for what only those ask who map the memory.
    pub(crate) fn service(&mut self) -> &mut MemoryNode<'static, PoolMemory> {
        &mut self.service
    }

    /// The store in the pool.
    pub(crate) fn store(&self) -> &Store<PoolMemory> {
        self.service.store()
    }

    /// The store's bytes where they are.
    pub(crate) fn direct(&self) -> Direct {
        self.pool.store_direct()
    }

    /// As [`MemoryNode::own_place`].
    pub(crate) fn own_place(
        &self,
        holder: HolderId,
        region: RegionName,
        offset: u64,
    ) -> Result<(Option<u64>, u64), Option<MemoryError>> {
        self.service.own_place(holder, region, offset)
    }

    /// Reserves a region for a view; who holds it. The error is none if there is a view already.
    pub(crate) fn reserve(
        &mut self,
        session: SessionId,
        region: RegionName,
    ) -> Result<HolderId, Option<MemoryError>> {
        if self.is_viewed(session, region) {
            return Err(None);
        }
        self.begin(session);
        let unknown = Some(MemoryError::UnknownRegion);
        let holder = self.service.holder(session).map_err(|error| error.or(unknown))?;
        // There is such a region, and it is the session's.
        self.service.own_place(holder, region, 0).map_err(|error| error.or(unknown))?;
        self.viewed.push((session, region));
        Ok(holder)
    }

    /// Whether a view has a region to itself.
    pub(crate) fn is_viewed(&self, session: SessionId, region: RegionName) -> bool {
        !self.viewed.is_empty() && self.viewed.contains(&(session, region))
    }

    /// Ends a view, and what had to wait for that.
    pub(crate) fn let_go(&mut self, session: SessionId, region: RegionName) {
        self.viewed.retain(|viewed| *viewed != (session, region));
        if self.viewed.iter().all(|(of, _)| *of != session)
            && let Some(position) = self.leaving.iter().position(|(of, _)| *of == session)
        {
            let (_, holder) = self.leaving.swap_remove(position);
            self.service.leave(holder, Instant::ZERO);
        }
    }

    /// Makes the session known to the service.
    fn begin(&mut self, session: SessionId) {
        if self.sessions[session.index as usize] != Some(session) {
            self.end(session.index);
            self.sessions[session.index as usize] = Some(session);
            let begun = SessionEvent::Accepted { incarnation: 0, peer: POOL_ADDRESS };
            self.service.session(Instant::ZERO, Side::Server, session, begun);
        }
    }

    /// Runs an operation; `None` if it has to wait for memory that is being freed.
    pub(crate) fn run(
        &mut self,
        spec: &Spec<'_>,
        body: &[u8],
        room: &mut [u8],
    ) -> Option<Result<Reply, CallError>> {
        let Spec { method, arguments, parameters, .. } = *spec;
        let session = spec.peer.as_holder();
        self.begin(session);
        self.until_balance -= 1;
        if self.until_balance == 0 {
            self.balance();
        }
        let asked = Asked { method, arguments, parameters, body, session };
        // The service does nothing by time.
        let answer = ask(&mut self.service, Instant::ZERO, &asked, room, &mut self.heads)?;
        Some(answer.map(|answer| Reply::of(answer.status, &answer.arguments, answer.body_bytes)))
    }

    /// Gives free records that are too many back to the pool. Who takes references that others make
    /// frees more than it uses, and would have all of them in the end.
    #[cold]
    #[inline(never)]
    fn balance(&mut self) {
        self.until_balance = BALANCE_EVERY;
        self.service.reclaim(Instant::ZERO, 0);
    }

    /// Gives back what was held in the name of a session, as soon as no view is left of it.
    pub(crate) fn end(&mut self, index: u32) {
        if let Some(session) = self.sessions[index as usize].take() {
            if self.viewed.iter().any(|(of, _)| *of == session)
                && let Some(holder) = self.service.take_holder(index)
            {
                self.leaving.push((session, holder));
            }
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

//! A session that is lost is followed by another, and a node says goodbye before it ends.

use std::time::{Duration as StdDuration, Instant as StdInstant};

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::StartError;

use crate::call::Spec;
use crate::error::Error;
use crate::node::{Core, Node};
use crate::peers::{Loss, Next, Peer};
use crate::state::State;

/// How long a node that ends repeats its goodbyes: enough for two repetitions.
const FAREWELL: StdDuration = StdDuration::from_millis(50);

impl<D: Device> Node<D> {
    /// The next session that was lost, each told once: as soon as another has been opened in its
    /// place, or could not be. Calls under way in it ended as [`Error::Call`], calls on its
    /// regions end as [`Error::SessionLost`]; all others go on with the same [`Peer`].
    pub fn next_loss(&self) -> Option<Loss> {
        self.state.borrow_mut().peers.next_loss()
    }

    /// Asks for sessions in place of those that were lost.
    #[cold]
    pub(crate) fn reopen_lost(&self, core: &mut Core<D>, state: &mut State) {
        state.peers.has_bereft = false;
        // Each is asked for here once; after that, when it is needed.
        let mut first = 0;
        while let Some(peer) = state.peers.bereft(first) {
            first = peer.line.0 as usize + 1;
            self.reopen(core, state, peer);
        }
    }

    /// Asks for a session in place of the one that the line of `peer` lost. Returns whether there
    /// was room for one.
    fn reopen(&self, core: &mut Core<D>, state: &mut State, peer: Peer) -> bool {
        let Some(line) = state.peers.get(peer) else { return false };
        let (now, address) = (self.now(), line.address);
        let session = core.endpoint.with(|endpoint| endpoint.connect(now, address));
        state.peers.reopen(peer, session);
        session.is_some()
    }

    /// The peer to make a call with that could not begin because of `error`: that with the session
    /// that followed. What concerns a region is over with the region's session.
    ///
    /// # Errors
    /// Why the call cannot begin.
    #[cold]
    pub(crate) fn renewed(
        &self,
        core: &mut Core<D>,
        state: &mut State,
        spec: &Spec<'_>,
        error: StartError,
    ) -> Result<Peer, Error> {
        let over = matches!(error, StartError::UnknownSession | StartError::Connecting);
        if over && spec.region.is_none() {
            match state.peers.next(spec.peer, self.now()) {
                Next::Session(peer) => return Ok(peer),
                Next::Opening(address) => return Err(Error::Connecting { address }),
                Next::Open(address) if self.reopen(core, state, spec.peer) => {
                    return Err(Error::Connecting { address });
                }
                Next::Open(_) | Next::Nothing => {}
            }
        }
        Err(self.start_error(state, spec, error))
    }

    /// Repeats goodbyes until each was heard, for at most 50 ms: one that is lost would leave the
    /// other end waiting for the lease.
    pub(crate) fn farewell(&self) {
        let start = StdInstant::now();
        let is_leaving = || self.core.borrow().endpoint.get().client_sessions().next().is_some();
        let mut is_over = false;
        while is_leaving() && !is_over {
            // Looked at before the poll: what is due by then is said again, however long this
            // thread was kept waiting.
            is_over = start.elapsed() >= FAREWELL;
            self.poll();
            std::thread::yield_now();
        }
    }
}

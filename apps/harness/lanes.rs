//! The places of several sessions, which take turns: what many reads or writes in flight move
//! about in.

use dmrpc_cn::memory::Cause;
use dmrpc_cn::{OperationError, Peer, Ticket};

use crate::client::{Client, wait_up};
use crate::error::AppError;
use crate::places::Places;

/// The places of each session.
pub struct Lanes<'c> {
    /// The node that the sessions are of.
    pub client: &'c Client,
    lanes: Vec<Places>,
    /// The session whose turn it is.
    next: usize,
}

impl<'c> Lanes<'c> {
    /// Allocates places of `bytes` bytes in each of the sessions `peers`.
    ///
    /// # Errors
    /// The memory node does not have that much.
    pub fn new(
        client: &'c Client,
        peers: &[Peer],
        seed: u64,
        bytes: usize,
    ) -> Result<Self, AppError> {
        let lanes = peers.iter().map(|&peer| Places::new(client, peer, seed, bytes));
        Ok(Self { client, lanes: lanes.collect::<Result<_, _>>()?, next: 0 })
    }

    /// Has each session in turn try to begin an operation, until one can. `None`: there is no room
    /// in any of them.
    ///
    /// # Errors
    /// What `begin` says.
    pub fn begin<T>(
        &mut self,
        mut begin: impl FnMut(&'c Client, usize, &mut Places) -> Result<Option<T>, AppError>,
    ) -> Result<Option<T>, AppError> {
        for _ in 0..self.lanes.len() {
            let lane = self.next;
            self.next = (lane + 1) % self.lanes.len();
            if let Some(begun) = begin(self.client, lane, &mut self.lanes[lane])? {
                return Ok(Some(begun));
            }
        }
        Ok(None)
    }

    /// The places of session `lane`.
    pub fn places(&mut self, lane: usize) -> &mut Places {
        &mut self.lanes[lane]
    }

    /// Waits until all servers are heard of.
    pub fn wait_up(&self) {
        self.lanes.iter().for_each(|places| wait_up(self.client, places.region().peer));
    }
}

/// What could not begin for want of room, `None` here, will later.
///
/// # Errors
/// It will not.
pub fn room(begun: Result<Ticket, OperationError>) -> Result<Option<Ticket>, AppError> {
    match begun {
        Ok(ticket) => Ok(Some(ticket)),
        Err(error) if matches!(error.cause, Cause::Call(error) if error.is_room()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

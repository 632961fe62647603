//! A node that sleeps past its lease, and what it had sent before that comes too late.

use dmrpc_core::endpoint::Counters;
use dmrpc_core::time::Duration;

use super::World;
use super::incidents::{Todo, nearly};
use crate::net::address;

/// Packets that were refused as of no session, or of a call that is over.
fn refused(counters: &Counters) -> u64 {
    counters.unknown_session + counters.stale
}

impl World<'_> {
    /// A node's packets are held back, and now it does not run for `span`.
    pub(super) fn stop(&mut self, index: usize, span: Duration) {
        if self.away.contains(&index) {
            self.cluster.network().hold_from(None);
            return;
        }
        self.oracle.borrow_mut().paused.insert(index);
        self.cluster.pause(index, span);
        self.later(nearly(span), Todo::Release(index));
        self.later(span, Todo::Resume(index));
    }

    /// What was held back of a node's packets comes. Where its lease has expired, each request must
    /// be refused, and no byte of the pool may change.
    pub(super) fn release(&mut self, index: usize) {
        let held = self.cluster.network().hold_from(None);
        if self.away.contains(&index) {
            return;
        }
        let cn = self.cn(index);
        for server in 0..self.plan.memory_nodes {
            let late: Vec<_> = held.iter().filter(|held| held.to == address(server)).collect();
            let expired = cn.session_with(server).is_some_and(|session| {
                self.oracle.borrow().has_expired_while_paused(server, index, session)
            });
            if self.away.contains(&server) || !self.cluster.settle(server) {
                continue;
            }
            let before = self.pool_hash(server);
            for packet in late {
                let from = address(index);
                let seen = self.cluster.hand_over(server, from, packet.bytes.clone());
                let [was, is] = seen.expect("it has just polled");
                assert_eq!(is.datagrams_received, was.datagrams_received + 1);
                if expired && packet.request {
                    assert_eq!(is.requests_executed, was.requests_executed, "a zombie's request");
                    assert_eq!(refused(&is), refused(&was) + 1, "not refused: {is:?}");
                    self.oracle.borrow_mut().count("zombie fenced");
                }
            }
            if expired {
                assert_eq!(self.pool_hash(server), before, "a zombie changed memory");
            }
        }
    }

    fn pool_hash(&mut self, server: usize) -> u64 {
        self.cluster.node(server).actor.memory().expect("a memory node").pool_hash()
    }
}

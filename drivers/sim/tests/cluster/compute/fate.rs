//! What a node's life is like, and the points at which its process may end.

use dmrpc_core::time::Duration;

use super::Cn;

/// What a compute node's life is like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Temper {
    /// See [`Handle::tight`](super::Handle::tight).
    pub(crate) tight: bool,
    /// Nodes die.
    pub(crate) mortal: bool,
    /// See [`Handle::hasty`](super::Handle::hasty).
    pub(crate) hasty: u32,
    /// See [`Handle::harsh`](super::Handle::harsh).
    pub(crate) harsh: bool,
    /// See [`Handle::hostile`](super::Handle::hostile).
    pub(crate) hostile: bool,
    /// It makes no calls to other compute nodes.
    pub(crate) alone: bool,
    /// Sessions may have little of something at a memory node.
    pub(crate) limited: bool,
    /// See [`Handle::long_bytes`](super::Handle::long_bytes).
    pub(crate) long_bytes: usize,
}

/// How often a node dies at a point where it may, parts in a million.
const DEATH_AT_A_POINT: u32 = 20_000;

impl Cn {
    fn dies(&self, point: &'static str) -> bool {
        let mut oracle = self.oracle.borrow_mut();
        if self.hostile || oracle.deaths_left == 0 || oracle.dying.is_some() {
            return false;
        }
        if !self.random.borrow_mut().happens(DEATH_AT_A_POINT) {
            return false;
        }
        oracle.deaths_left -= 1;
        oracle.dying = Some((self.index, point));
        true
    }

    /// A point at which the node's process may end: then this never returns.
    pub(crate) async fn may_die(&self, point: &'static str) {
        if self.dies(point) {
            std::future::pending::<()>().await;
        }
    }

    /// The same while a call is under way.
    pub(crate) async fn may_die_in(&self, token: u64, point: &'static str) {
        if self.oracle.borrow().deaths_left == 0 {
            return;
        }
        let span = Duration::from_nanos(self.random.borrow_mut().within(1_000..=100_000));
        self.sleep(span).await;
        if self.state.borrow().started.contains_key(&token) {
            self.may_die(point).await;
        }
    }

    /// The node may die a moment later, whatever it does then.
    pub(crate) fn may_die_soon(&self, point: &'static str) {
        if self.oracle.borrow().deaths_left == 0 {
            return;
        }
        let (cn, span) = (self.clone(), self.random.borrow_mut().within(1_000..=100_000));
        self.spawn(async move {
            cn.sleep(Duration::from_nanos(span)).await;
            cn.may_die(point).await;
        });
    }
}

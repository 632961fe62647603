//! What programs wait for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use dmrpc_core::time::Instant;

use super::{Cn, Finish};

/// The end of a call, to come.
pub(crate) struct Waiting {
    pub(super) cn: Cn,
    pub(crate) token: u64,
}

impl Future for Waiting {
    type Output = Finish;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Finish> {
        match self.cn.state.borrow_mut().finished.remove(&self.token) {
            Some(finish) => Poll::Ready(finish),
            None => Poll::Pending,
        }
    }
}

/// A point in time, to come.
pub(crate) struct Sleep {
    pub(super) cn: Cn,
    pub(super) until: Instant,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.cn.state.borrow().now >= self.until { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Cn {
    /// What is under way, for a person.
    pub(crate) fn describe(&self) -> String {
        let state = self.state.borrow();
        let wanted = state.wanted.iter().take(3);
        let wanted: Vec<_> =
            wanted.map(|(token, wanted)| (token, wanted.to, wanted.method)).collect();
        format!(
            "compute node {}: {} programs, wanted {wanted:?} of {}, started {:?}, {} sources, {} \
             places, {:?}",
            self.index,
            self.running.get(),
            state.wanted.len(),
            state.started,
            state.sources.len(),
            state.places.len(),
            state.sessions
        )
    }
}

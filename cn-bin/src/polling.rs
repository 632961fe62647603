//! A node's poll loop: what one turn of it does.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::Polled;
use dmrpc_core::time::Instant;
use dmrpc_core::trace::Traced;
use dmrpc_host::idle::{IdleStrategy, Wait};

use crate::hosting::{PollHost, UserBytes};
use crate::node::{Core, Node, Rest};
use crate::state::State;
use crate::storage::OwnedEndpoint;

/// So many looks in vain are made before a poll looks at timers, too. A look takes some tens of
/// nanoseconds, or a system call.
const LOOKS_A_POLL: u32 = 16;

impl<D: Device> Node<D> {
    /// Takes in what has arrived, serves timers and sends what is ready: a bounded amount of work,
    /// without waiting. Returns whether there was any.
    pub fn poll(&self) -> bool {
        self.poll_with(None).0
    }

    /// Polls once; returns whether there was work, the time, and when to poll again in any case.
    #[inline(never)]
    pub(crate) fn poll_with(&self, user: Option<&mut UserBytes<'_>>) -> (bool, Instant, Instant) {
        if self.chores.get() {
            self.do_chores();
        }
        let mut core = self.core.borrow_mut();
        let mut state = self.state.borrow_mut();
        let Core { endpoint, device, .. } = &mut *core;
        let now = self.clock.now();
        let host = PollHost { state: &mut state, user };
        let polled = match self.ring.get() {
            None => {
                let mut host = host;
                endpoint.with(|endpoint| endpoint.poll(now, device, &mut host))
            }
            Some(ring) => poll_traced(endpoint, now, device, Traced::new(host, ring)),
        };
        self.after_poll(&mut core, &mut state, now, &polled)
    }

    /// The same in a loop that never pauses: most polls there find nothing, and they are so short
    /// that the next one is there soon. Only some look at the clock and at timers.
    #[inline]
    fn spin_with(&self, user: Option<&mut UserBytes<'_>>) -> bool {
        let found = {
            let mut core = self.core.borrow_mut();
            let Core { endpoint, device, polls, looks, .. } = &mut *core;
            let is_due = *looks >= LOOKS_A_POLL || !polls.is_resting();
            if is_due || self.ring.get().is_some() || self.chores.get() {
                *looks = 0;
                drop(core);
                return self.poll_with(user).0;
            }
            let mut state = self.state.borrow_mut();
            let mut host = PollHost { state: &mut state, user };
            let clock = || self.clock.now();
            let looked = endpoint.with(|endpoint| endpoint.look(clock, device, &mut host));
            let Some((now, polled)) = &looked else {
                *looks += 1;
                polls.count_empty();
                return false;
            };
            *looks = 0;
            self.after_poll(&mut core, &mut state, *now, polled)
        };
        found.0
    }

    /// What follows the endpoint's part of a poll that began at `now`.
    #[inline]
    fn after_poll(
        &self,
        core: &mut Core<D>,
        state: &mut State,
        now: Instant,
        polled: &Polled,
    ) -> (bool, Instant, Instant) {
        self.burst_at.set(None);
        if state.sync.has_run() {
            self.end_sync(state, now);
        }
        let worked = !polled.is_idle();
        core.polls.count(now, *polled, worked);
        if state.peers.has_bereft {
            self.reopen_lost(core, state);
        }
        if !state.given_up.is_empty() {
            self.chores.set(true);
        }
        let Core { endpoint, idle, .. } = core;
        // Only who is about to pause asks for how long.
        let again_at = if worked || idle.is_busy() { now } else { endpoint.get().poll_at(now) };
        (worked, now, again_at)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn do_chores(&self) {
        loop {
            let left = self.pens.borrow_mut().as_mut().and_then(|pens| pens.views.next_left());
            let Some(peer) = left else { break };
            self.say_goodbye(peer);
        }
        let is_left = self.unmap_lent() | self.go_on_staged() | self.give_back();
        self.chores.set(is_left);
    }

    /// Counts the steps of handlers that ran in a poll that began at `start`, and lets the panic of
    /// one go on, whose caller has its answer.
    #[inline(never)]
    fn end_sync(&self, state: &mut State, start: Instant) {
        let span_ns = self.clock.now().since(start).as_nanos();
        let State { sync, served, .. } = state;
        if let Some(panic) = sync.end_poll(served, span_ns) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A poll whose requests, calls and sessions are remembered: apart, so that the usual poll is as
/// if it were not here.
#[inline(never)]
fn poll_traced<D: Device>(
    endpoint: &mut OwnedEndpoint,
    now: Instant,
    device: &mut D,
    mut host: Traced<'_, PollHost<'_, '_>>,
) -> Polled {
    endpoint.with(|endpoint| endpoint.poll(now, device, &mut host))
}

impl<D: Device + Wait> Node<D> {
    /// Polls, and idles as configured if there was nothing to do. Returns whether there was work.
    pub fn step(&self) -> bool {
        self.step_with(None, false)
    }

    /// As [`Node::step`]; with `busy`, something else found work, so that the node doesn't idle.
    #[inline]
    pub(crate) fn step_with(&self, user: Option<&mut UserBytes<'_>>, busy: bool) -> bool {
        if self.config.idle == IdleStrategy::Busy && self.rest.get().is_none() {
            return self.spin_with(user);
        }
        let lends = user.is_some();
        let (worked, now, again_at) = self.poll_with(user);
        let Some(rest) = self.rest.get() else {
            let mut core = self.core.borrow_mut();
            let Core { idle, device, .. } = &mut *core;
            idle.after_poll(worked || busy, now, again_at, device);
            return worked;
        };
        let lent_before = self.lends.replace(self.lends.get() || lends);
        let worked = self.serve_desks() || worked;
        self.lends.set(lent_before);
        let mut core = self.core.borrow_mut();
        let Core { idle, device, .. } = &mut *core;
        if let Some(bell) = self.desks.borrow().bell() {
            rest(idle, device, bell, Rest { worked: worked || busy, now, again_at });
        }
        worked
    }
}

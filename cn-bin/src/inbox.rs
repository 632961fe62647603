//! Requests that wait for a handler, or are with one.

use std::collections::VecDeque;

use dmrpc_core::endpoint::host::{PendingCall, RequestHead};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::{ARGS_MAX, Method, TraceId};

use crate::pending::ArgList;

/// A request as its handler sees it.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) depth: u8,
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: TraceId,
    pub(crate) arguments: ArgList,
    /// The body, if it came in one packet.
    pub(crate) body: Box<[u8]>,
    pub(crate) body_bytes: usize,
    /// The buffer with the body, if it came in several.
    pub(crate) absorbed: Option<u16>,
}

/// One place for a request. Its number is that of the task that serves it.
struct Slot {
    call: Option<PendingCall>,
    cancelled: bool,
    /// Whether the task that serves it has not ended.
    running: bool,
    /// Here while nobody has it.
    request: Option<Box<Request>>,
}

/// All requests at a node.
pub(crate) struct Inbox {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    queue: VecDeque<u16>,
    /// Whether a handler is there.
    pub(crate) open: bool,
}

impl Inbox {
    /// For `count` requests with bodies of up to `packet_bytes` bytes in one packet.
    pub(crate) fn new(count: usize, packet_bytes: usize) -> Self {
        let slot = |_| Slot {
            call: None,
            cancelled: false,
            running: false,
            request: Some(Box::new(Request {
                method: Method(0),
                depth: 0,
                deadline: None,
                trace: TraceId(0),
                arguments: ArgList::new(),
                body: vec![0; packet_bytes].into_boxed_slice(),
                body_bytes: 0,
                absorbed: None,
            })),
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: (0..count as u16).rev().collect(),
            queue: VecDeque::with_capacity(count),
            open: false,
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether there is no request, waiting or served, and no task.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Puts a request into a free place, for `fill` to add the body.
    pub(crate) fn put(&mut self, head: &RequestHead<'_>, fill: impl FnOnce(&mut Request)) -> bool {
        let Some(&index) = self.free.last() else { return false };
        let slot = &mut self.slots[usize::from(index)];
        let Some(request) = slot.request.as_deref_mut() else { return false };
        self.free.pop();
        slot.call = Some(head.call);
        slot.cancelled = false;
        (request.method, request.depth) = (head.method, head.depth);
        (request.deadline, request.trace) = (head.deadline, head.trace);
        request.arguments.clear();
        request.arguments.extend(head.arguments.iter().take(ARGS_MAX));
        fill(request);
        self.queue.push_back(index);
        true
    }

    /// Takes the oldest request that nobody serves yet.
    pub(crate) fn take(&mut self) -> Option<(u16, PendingCall, Box<Request>)> {
        let index = self.queue.pop_front()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.running = true;
        Some((index, slot.call?, slot.request.take()?))
    }

    /// Takes back what a handler had. Its place is free once its task has ended, too.
    pub(crate) fn put_back(&mut self, index: u16, request: Box<Request>) {
        let slot = &mut self.slots[usize::from(index)];
        slot.request = Some(request);
        slot.call = None;
        if !slot.running {
            self.free.push(index);
        }
    }

    /// A task has ended. Its place is free once the request is back, too.
    pub(crate) fn task_ended(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        slot.running = false;
        if slot.request.is_some() {
            self.free.push(index);
        }
    }

    /// Notes that the caller does not want the answer; returns whose request it was.
    pub(crate) fn cancel(&mut self, call: PendingCall) -> Option<u16> {
        let index = self.slots.iter().position(|slot| slot.call == Some(call))?;
        self.slots[index].cancelled = true;
        Some(index as u16)
    }

    pub(crate) fn is_cancelled(&self, index: u16) -> bool {
        self.slots[usize::from(index)].cancelled
    }
}

//! What a node keeps beside the endpoint.

use crate::buffers::Pool;
use crate::config::NodeConfig;
use crate::inbox::Inbox;
use crate::memory::Unwanted;
use crate::order::Order;
use crate::peers::Peers;
use crate::pending::{PendingTable, Place, Ticket};
use crate::replies::Replies;
use crate::statistics::{Makes, Operation, OperationCount, ServedCount};
use crate::sync_call::SyncService;

/// Which tasks are to be polled: a bit for each.
pub(crate) struct Flags {
    words: Box<[u64]>,
}

impl Flags {
    fn new(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(64)].into_boxed_slice() }
    }

    #[inline]
    pub(crate) fn set(&mut self, index: u16) {
        self.words[usize::from(index) / 64] |= 1 << (index % 64);
    }

    /// Clears the bit and returns what it was.
    #[inline]
    pub(crate) fn take(&mut self, index: u16) -> bool {
        let word = &mut self.words[usize::from(index) / 64];
        let bit = 1 << (index % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    /// Takes the first bit that is set, among the first `count`.
    #[inline]
    pub(crate) fn take_first(&mut self, count: usize) -> Option<u16> {
        for (number, word) in self.words.iter_mut().enumerate() {
            if *word != 0 {
                let index = number * 64 + word.trailing_zeros() as usize;
                if index >= count {
                    return None;
                }
                *word &= *word - 1;
                return Some(index as u16);
            }
        }
        None
    }

    /// Sets the bits of `bits` in the `number`-th word.
    pub(crate) fn set_word(&mut self, number: usize, bits: u64) {
        self.words[number] |= bits;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

/// What a node keeps beside the endpoint: everything that a poll may touch.
pub(crate) struct State {
    pub(crate) pool: Pool,
    pub(crate) pending: PendingTable,
    pub(crate) replies: Replies,
    pub(crate) peers: Peers,
    pub(crate) order: Box<Order>,
    pub(crate) inbox: Inbox,
    pub(crate) sync: SyncService,
    /// Tasks that can go on. The root task's bit is the last.
    pub(crate) ready: Flags,
    /// Tasks that wait for room of any kind, or for a session; and whether there are any.
    waiting: Flags,
    anyone_waits: bool,
    pub(crate) operations: [OperationCount; Operation::ALL.len()],
    pub(crate) served: ServedCount,
    /// What guards have left, to be given back.
    pub(crate) unwanted: Vec<Unwanted>,
    /// Calls that have made something after they were given up.
    pub(crate) given_up: Vec<Ticket>,
}

impl State {
    /// For datagrams of so many bytes; with `lends`, buffers are lent to the device.
    pub(crate) fn new(config: &NodeConfig, datagram_bytes: usize, lends: bool) -> Self {
        Self {
            pool: Pool::new(config.buffers, lends),
            pending: PendingTable::new(config.calls),
            replies: Replies::new(config.calls),
            peers: Peers::new(config.client_sessions),
            order: Box::new(Order::new()),
            inbox: Inbox::new(config.tasks, datagram_bytes),
            sync: SyncService::default(),
            ready: Flags::new(config.tasks + 1),
            waiting: Flags::new(config.tasks + 1),
            anyone_waits: false,
            operations: [OperationCount::default(); Operation::ALL.len()],
            served: ServedCount::default(),
            unwanted: Vec::with_capacity(config.calls),
            given_up: Vec::with_capacity(config.calls),
        }
    }

    /// Gives a buffer back that is not with a guard.
    #[inline]
    pub(crate) fn release_buffer(&mut self, index: u16) {
        self.pool.release(index);
        self.wake_waiting();
    }

    /// Lets the task of a call that has ended go on.
    pub(crate) fn wake(&mut self, ticket: Ticket, task: u16) {
        self.ready.set(task);
        if let Some(waker) = self.pending.get(ticket).and_then(|entry| entry.waker.take()) {
            waker.wake();
        }
    }

    /// Notes that a task waits for room, or for a session.
    pub(crate) fn wait(&mut self, task: u16) {
        self.waiting.set(task);
        self.anyone_waits = true;
    }

    /// Lets the tasks that wait for room look again.
    #[inline]
    pub(crate) fn wake_waiting(&mut self) {
        if self.anyone_waits {
            self.wake_all_waiting();
        }
    }

    #[cold]
    fn wake_all_waiting(&mut self) {
        self.anyone_waits = false;
        for (number, word) in self.waiting.words.iter_mut().enumerate() {
            self.ready.words[number] |= std::mem::take(word);
        }
    }

    /// A call has ended that nobody wants to know of. What it has made is to be given back.
    pub(crate) fn abandon(&mut self, ticket: Ticket) {
        let made = self.pending.get(ticket).is_some_and(|entry| {
            entry.operation.makes() != Makes::Nothing && entry.reply.is_some()
        });
        if made {
            self.given_up.push(ticket);
        } else {
            self.drop_call(ticket);
        }
    }

    /// Frees a call's entry, and the buffer that nobody took.
    pub(crate) fn drop_call(&mut self, ticket: Ticket) {
        if let Some(entry) = self.pending.get(ticket) {
            if let Place::Buffer(index) = std::mem::replace(&mut entry.place, Place::Nowhere) {
                self.pool.release(index);
            }
            if let Some(reply) = entry.reply.take() {
                self.replies.put(reply);
            }
            self.pending.free(ticket);
            self.wake_waiting();
        }
    }
}

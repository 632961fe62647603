//! Queue pairs of several ports as one driver of frames.

use std::cell::Cell;

use dmrpc_core::device::RECEIVE_QUEUE;
use dmrpc_core::memory::Loan;
use dmrpc_core::port::{FrameCapabilities, FrameDevice, FrameRx, FrameTx};

use crate::error::DpdkError;
use crate::macs::Macs;
use crate::queue::{
    BURST_MAX, QueuePair, ReceiveStats, Receiver, SEND_QUEUE, SendQueue, SendStats, Target,
};

/// Most links: a bit for each.
const LINKS_MAX: usize = 64;
/// Most frames of one hand-over to a device: the kernel sends so many of AF_XDP's at a call, and
/// the rest only at the next one.
const SEND_BURST_MAX: usize = 32;
/// Receives between two looks at links that nothing was sent over or heard from.
const RECEIVES_A_LOOK: u32 = 64;

/// Queue pairs of several ports as one driver of frames. A frame goes to the link that its
/// receiver was heard from, else to all.
///
/// One link keeps frames queued that it does not take now. Of several, one that takes none must
/// not hold up the others: what it does not take is dropped and counted.
pub struct Links {
    receive: Receive,
    send: Send,
    between: Between,
    frame_bytes_max: usize,
    /// Dropped last: the right to use the queue pairs.
    pairs: Vec<QueuePair>,
}

/// What both halves look at.
struct Between {
    macs: Macs,
    /// Links that something was sent over or came from, a bit each: looked at every time.
    active: Cell<u64>,
}

struct Receive {
    receivers: Vec<Receiver>,
    /// The link that the burst came from.
    current: usize,
    looks: u32,
}

struct Send {
    targets: Vec<Target>,
    queue: SendQueue,
    /// Frames that left since the last flush before it: with those queued, no more than the queue
    /// holds.
    early: usize,
}

impl Send {
    fn borrows(&self) -> bool {
        self.targets.iter().all(|target| target.port.borrows())
    }
}

impl Links {
    /// One driver of `pairs`.
    ///
    /// # Errors
    /// [`DpdkError::NoPorts`]: there is none, or there are more than 64.
    pub fn new(pairs: Vec<QueuePair>) -> Result<Self, DpdkError> {
        let Some(first) = pairs.first().filter(|_| pairs.len() <= LINKS_MAX) else {
            return Err(DpdkError::NoPorts);
        };
        let queue = SendQueue::new(first);
        let least = pairs.iter().map(|pair| pair.port().frame_bytes_max()).min();
        let receivers = pairs.iter().map(Receiver::new).collect();
        Ok(Self {
            receive: Receive { receivers, current: 0, looks: 0 },
            send: Send { targets: pairs.iter().map(Target::new).collect(), queue, early: 0 },
            between: Between { macs: Macs::new(), active: Cell::new(0) },
            frame_bytes_max: least.unwrap_or(0),
            pairs,
        })
    }

    /// Looks after all links. Returns how many are up.
    pub(crate) fn look_after(&self) -> usize {
        self.pairs.iter().filter(|pair| pair.port().look_after()).count()
    }

    /// The queue pairs.
    pub fn pairs(&self) -> &[QueuePair] {
        &self.pairs
    }

    /// Frames that each link holds for us.
    pub(crate) fn receive_queue(&self) -> usize {
        let queues = self.pairs.iter().map(|pair| pair.port().receive_queue());
        queues.min().unwrap_or(RECEIVE_QUEUE)
    }

    /// What was counted on the way in, over all links.
    pub fn receive_stats(&self) -> ReceiveStats {
        let mut sum = ReceiveStats::default();
        for ReceiveStats { looks, bursts, packets, scattered, bad_checksums } in
            self.receive.receivers.iter().map(|receiver| receiver.stats)
        {
            sum.looks += looks;
            sum.bursts += bursts;
            sum.packets += packets;
            sum.scattered += scattered;
            sum.bad_checksums += bad_checksums;
        }
        sum
    }

    /// What was counted on the way out, over all links.
    pub fn send_stats(&self) -> SendStats {
        let mut sum = SendStats::default();
        for SendStats { bursts, packets, blocked } in
            self.send.targets.iter().map(|target| target.stats)
        {
            sum.bursts += bursts;
            sum.packets += packets;
            sum.blocked += blocked;
        }
        sum
    }

    /// Frames dropped because one of several links took no more.
    pub fn dropped(&self) -> u64 {
        self.send.targets.iter().map(|target| target.dropped).sum()
    }
}

impl FrameDevice for Links {
    type Rx<'a> = LinksRx<'a>;
    type Tx<'a> = LinksTx<'a>;

    fn capabilities(&self) -> FrameCapabilities {
        FrameCapabilities { frame_bytes_max: self.frame_bytes_max, burst_max: BURST_MAX }
    }

    fn borrows(&self) -> bool {
        self.send.borrows()
    }

    #[inline]
    fn split(&mut self) -> (LinksRx<'_>, LinksTx<'_>) {
        let between = &self.between;
        (LinksRx { state: &mut self.receive, between }, LinksTx { state: &mut self.send, between })
    }
}

/// The receiving half of [`Links`].
pub struct LinksRx<'a> {
    state: &'a mut Receive,
    between: &'a Between,
}

impl FrameRx for LinksRx<'_> {
    #[inline]
    fn receive(&mut self) -> usize {
        match &mut self.state.receivers[..] {
            [only] => only.receive(),
            _ => self.receive_in_turns(),
        }
    }

    #[inline]
    fn frame(&self, index: usize) -> &[u8] {
        self.state.receivers[self.state.current].frame(index)
    }
}

impl LinksRx<'_> {
    /// A burst of the next link that has one.
    fn receive_in_turns(&mut self) -> usize {
        let Self { state, between } = self;
        let count = state.receivers.len();
        state.receivers[state.current].release();
        state.looks = state.looks.wrapping_add(1);
        let all = state.looks.is_multiple_of(RECEIVES_A_LOOK);
        let active = if all { u64::MAX } else { between.active.get() };
        for _ in 0..count {
            state.current = if state.current + 1 == count { 0 } else { state.current + 1 };
            if active & 1 << state.current == 0 {
                continue;
            }
            let receiver = &mut state.receivers[state.current];
            let frames = receiver.receive();
            if frames > 0 {
                between.active.set(between.active.get() | 1 << state.current);
                for index in 0..frames {
                    // The sender's address follows the receiver's.
                    if let Some(mac) = receiver.frame(index).get(6..).and_then(<[u8]>::first_chunk)
                    {
                        between.macs.learn(*mac, state.current);
                    }
                }
                return frames;
            }
        }
        0
    }
}

/// The sending half of [`Links`].
pub struct LinksTx<'a> {
    state: &'a mut Send,
    between: &'a Between,
}

impl FrameTx for LinksTx<'_> {
    #[inline]
    fn push(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.make_room()?.push(bytes)
    }

    #[inline]
    fn borrows(&self) -> bool {
        self.state.borrows()
    }

    #[inline]
    fn push_borrowed(&mut self, bytes: usize, loan: &Loan, ticket: u8) -> Option<&mut [u8]> {
        self.make_room()?.push_borrowed(bytes, loan, ticket)
    }

    #[inline]
    fn returned(&mut self) -> Option<(u8, u32)> {
        let Send { targets, queue, .. } = &mut *self.state;
        queue.returned(targets)
    }

    #[inline]
    fn flush(&mut self) {
        let Send { targets, queue, early } = &mut *self.state;
        *early = 0;
        if queue.len() == 0 {
            return;
        }
        match &mut targets[..] {
            [only] => {
                let sent = send_all(queue, only, 0, queue.len());
                queue.forget(sent);
            }
            _ => self.flush_to_many(),
        }
    }
}

/// Hands the queued frames from `from` up to `to` to a device. Returns how many it took.
#[inline]
fn send_all(queue: &mut SendQueue, target: &mut Target, from: usize, to: usize) -> usize {
    let mut next = from;
    while next < to {
        let burst = (to - next).min(SEND_BURST_MAX);
        let sent = queue.send(target, next, next + burst);
        next += sent;
        if sent < burst {
            break;
        }
    }
    next - from
}

impl LinksTx<'_> {
    /// The queue, if there is room in it.
    #[inline(always)]
    fn make_room(&mut self) -> Option<&mut SendQueue> {
        // A full hand-over leaves at once: its bytes are still in the cache, and the other end can
        // begin with them. Several links need to look at the receiver's address first.
        let Send { targets, queue, early } = &mut *self.state;
        if *early + queue.len() >= SEND_QUEUE {
            return None;
        }
        if queue.len() == SEND_BURST_MAX
            && let [only] = &mut targets[..]
        {
            let sent = send_all(queue, only, 0, SEND_BURST_MAX);
            queue.forget(sent);
            *early += sent;
        }
        Some(queue)
    }

    /// Hands runs of frames for one link to it.
    fn flush_to_many(&mut self) {
        let Send { targets, queue, .. } = &mut *self.state;
        let count = queue.len();
        let mut links = [None; SEND_QUEUE];
        for (index, link) in links[..count].iter_mut().enumerate() {
            *link = self.between.macs.find(queue.destination(index));
        }
        let mut from = 0;
        while from < count {
            let Some(link) = links[from] else {
                for target in &mut *targets {
                    queue.send_copy(target, from);
                }
                self.between.active.set(u64::MAX);
                queue.discard(from, from + 1);
                from += 1;
                continue;
            };
            let run = links[from..count].iter().take_while(|next| **next == Some(link)).count();
            let sent = send_all(queue, &mut targets[link], from, from + run);
            if sent < run {
                targets[link].dropped += (run - sent) as u64;
                queue.discard(from + sent, from + run);
            }
            self.between.active.set(self.between.active.get() | 1 << link);
            from += run;
        }
        queue.forget(count);
    }
}

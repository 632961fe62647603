//! A queue pair: bursts of packets in and out.
//!
//! Everything that touches a packet buffer is here. A buffer belongs to this module from receive
//! to the next receive, and from allocation to the device's taking it.

use std::ptr;
use std::slice;
use std::sync::Arc;

use dmrpc_core::memory::Loan;
use dpdk_sys as dpdk;

use crate::gate::Pass;
use crate::loans::Loans;
use crate::port::Port;

/// Most packets that one receive hands over.
pub const BURST_MAX: usize = 64;
/// Most packets queued between two flushes.
pub const SEND_QUEUE: usize = 128;
/// Empty buffers that are taken from the pool at a time.
const REFILL: usize = 32;

/// Room in front of each packet, in bytes.
pub(crate) fn headroom() -> u16 {
    // SAFETY: returns a constant.
    unsafe { dpdk::shim_headroom() }
}

/// What was counted on the way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveStats {
    /// Looks for packets.
    pub looks: u64,
    /// Those that found some.
    pub bursts: u64,
    /// Packets received.
    pub packets: u64,
    /// Packets dropped because they lay in several buffers and had no room in one.
    pub scattered: u64,
    /// Packets dropped because the device found a checksum of IPv4's or UDP's that is wrong.
    pub bad_checksums: u64,
}

/// What was counted on the way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendStats {
    /// Hand-overs of packets to the device.
    pub bursts: u64,
    /// Packets that the device took.
    pub packets: u64,
    /// Hand-overs that the device did not take whole.
    pub blocked: u64,
}

/// A queue pair of a port: the right to use it. Comes back to the port when dropped.
#[derive(Debug)]
pub struct QueuePair {
    port: Arc<Port>,
    queue: u16,
}

impl QueuePair {
    pub(crate) fn new(port: Arc<Port>, queue: u16) -> Self {
        Self { port, queue }
    }

    /// The port.
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.port.give_back(self.queue);
    }
}

/// The receiving half of a queue pair.
pub(crate) struct Receiver {
    port: Arc<Port>,
    queue: u16,
    /// The burst: `received` packets, valid until the next receive.
    received: usize,
    mbufs: [*mut dpdk::rte_mbuf; BURST_MAX],
    frames: [dpdk::shim_frame; BURST_MAX],
    pass: Pass,
    pub(crate) stats: ReceiveStats,
}

// SAFETY: the pointers are to buffers that only this receiver has; the thread that has it may
// change as long as there is one at a time.
unsafe impl Send for Receiver {}

impl Receiver {
    /// The receiving half of `pair`. One at a time, for as long as `pair` is kept.
    pub(crate) fn new(pair: &QueuePair) -> Self {
        let none = dpdk::shim_frame { data: ptr::null_mut(), bytes: 0, whole: 0, bad: 0 };
        Self {
            port: Arc::clone(&pair.port),
            queue: pair.queue,
            received: 0,
            mbufs: [ptr::null_mut(); BURST_MAX],
            frames: [none; BURST_MAX],
            pass: Pass::new(),
            stats: ReceiveStats::default(),
        }
    }

    /// Gives the buffers of the burst back.
    #[inline]
    pub(crate) fn release(&mut self) {
        if self.received == 0 {
            return;
        }
        // SAFETY: the first `received` pointers are to buffers that are ours since the receive that
        // set the number; it is reset, so that they are given back once.
        unsafe { dpdk::rte_pktmbuf_free_bulk(self.mbufs.as_mut_ptr(), self.received as u32) };
        self.received = 0;
    }

    /// Takes in a burst, after giving the previous one back.
    #[inline]
    pub(crate) fn receive(&mut self) -> usize {
        self.release();
        let (id, queue) = (self.port.id(), self.queue);
        let (mbufs, frames) = (self.mbufs.as_mut_ptr(), self.frames.as_mut_ptr());
        // SAFETY: both arrays have room for as many as are asked for; the queue is set up and only
        // ours, and a port that is stopped receives nothing.
        let burst = || unsafe { dpdk::shim_receive(id, queue, mbufs, frames, BURST_MAX as u16) };
        let count = self.pass.through(burst);
        self.stats.looks += 1;
        if count == 0 {
            return 0;
        }
        self.received = usize::from(count);
        if self.frames[..self.received].iter().any(|frame| frame.whole == 0 || frame.bad != 0) {
            self.sort_out();
        }
        self.stats.bursts += 1;
        self.stats.packets += self.received as u64;
        self.received
    }

    /// Makes packets of several buffers one piece, and drops those that do not fit one, or whose
    /// checksums are wrong.
    #[cold]
    fn sort_out(&mut self) {
        let mut kept = 0;
        for index in 0..self.received {
            let (mut mbuf, mut frame) = (self.mbufs[index], self.frames[index]);
            let bad = frame.bad != 0;
            // SAFETY: `mbuf` is a packet of this burst, and only ours.
            let whole =
                frame.whole != 0 || unsafe { dpdk::shim_linearize(mbuf, &raw mut frame) } != 0;
            if whole && !bad {
                (self.mbufs[kept], self.frames[kept]) = (mbuf, frame);
                kept += 1;
            } else {
                self.stats.scattered += u64::from(!whole && !bad);
                self.stats.bad_checksums += u64::from(bad);
                // SAFETY: `mbuf` is a packet of this burst, and is not kept.
                unsafe { dpdk::rte_pktmbuf_free_bulk(&raw mut mbuf, 1) };
            }
        }
        self.received = kept;
    }

    /// Packet `index` of the burst.
    ///
    /// # Panics
    /// If there is none of that number.
    #[inline]
    pub(crate) fn frame(&self, index: usize) -> &[u8] {
        let frame = &self.frames[..self.received][index];
        // SAFETY: the bytes are those of a packet of the burst, which is ours until the next
        // receive, which needs this borrowed mutably.
        unsafe { slice::from_raw_parts(frame.data, frame.bytes as usize) }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.release();
    }
}

/// The sending half of a queue pair: where packets go.
pub(crate) struct Target {
    pub(crate) port: Arc<Port>,
    queue: u16,
    pub(crate) stats: SendStats,
    /// Packets dropped because the device took no more.
    pub(crate) dropped: u64,
    pass: Pass,
}

impl Target {
    /// The sending half of `pair`. One at a time, for as long as `pair` is kept.
    pub(crate) fn new(pair: &QueuePair) -> Self {
        let port = Arc::clone(&pair.port);
        let stats = SendStats::default();
        Self { port, queue: pair.queue, stats, dropped: 0, pass: Pass::new() }
    }

    /// Hands packets that lie at `mbufs` to the device, `count` of them, with as many lengths at
    /// `bytes`. Returns how many it took: those are its own.
    ///
    /// # Safety
    /// The packets are the caller's, and both pointers are to as many.
    #[inline]
    unsafe fn hand_over(
        &self,
        mbufs: *mut *mut dpdk::rte_mbuf,
        bytes: *const u32,
        count: u16,
    ) -> usize {
        let sums_up = self.port.sums_up().into();
        // SAFETY: as promised by the caller; the queue is set up and only ours.
        let burst =
            || unsafe { dpdk::shim_send(self.port.id(), self.queue, mbufs, bytes, count, sums_up) };
        self.pass.through(burst).into()
    }
}

/// Packets being filled in, and empty buffers to come.
pub(crate) struct SendQueue {
    /// Whose pool the buffers are from.
    port: Arc<Port>,
    queue: u16,
    /// Queued packets: the first `count`.
    mbufs: [*mut dpdk::rte_mbuf; SEND_QUEUE],
    data: [*mut u8; SEND_QUEUE],
    bytes: [u32; SEND_QUEUE],
    count: usize,
    /// Empty buffers: the first `spare_count`.
    spare: [*mut dpdk::rte_mbuf; REFILL],
    spare_data: [*mut u8; REFILL],
    spare_count: usize,
    loans: Loans,
}

// SAFETY: as for `Receiver`.
unsafe impl Send for SendQueue {}

impl SendQueue {
    /// A queue with buffers from the pool of `pair`.
    pub(crate) fn new(pair: &QueuePair) -> Self {
        Self {
            port: Arc::clone(&pair.port),
            queue: pair.queue,
            mbufs: [ptr::null_mut(); SEND_QUEUE],
            data: [ptr::null_mut(); SEND_QUEUE],
            bytes: [0; SEND_QUEUE],
            count: 0,
            spare: [ptr::null_mut(); REFILL],
            spare_data: [ptr::null_mut(); REFILL],
            spare_count: 0,
            loans: Loans::new(Arc::clone(&pair.port), pair.queue),
        }
    }

    /// Queues a packet that ends with the bytes of `loan`, and returns the `bytes` bytes before;
    /// `None` without room.
    ///
    /// # Panics
    /// If it is longer than the port's longest frame, or `bytes` is odd.
    #[inline]
    pub(crate) fn push_borrowed(
        &mut self,
        bytes: usize,
        loan: &Loan,
        ticket: u8,
    ) -> Option<&mut [u8]> {
        let (most, whole) = (self.port.frame_bytes_max(), bytes + loan.bytes());
        assert!(whole <= most, "a frame of {whole} bytes, at most {most}");
        assert!(bytes.is_multiple_of(2), "{bytes} bytes before a loan: an even number is wanted");
        if self.count == SEND_QUEUE || (self.spare_count == 0 && !self.refill()) {
            return None;
        }
        self.spare_count -= 1;
        let piece = self.spare[self.spare_count];
        if self.spare_count == 0 && !self.refill() {
            (self.spare[0], self.spare_count) = (piece, 1);
            return None;
        }
        self.spare_count -= 1;
        let head = self.spare[self.spare_count];
        let data = self.spare_data[self.spare_count];
        let account = self.loans.lent(ticket);
        // SAFETY: two empty buffers of ours; the bytes stay where and as they are until they are
        // given back, and the account lives as long as the port, which outlives its packets.
        unsafe {
            let (address, length) = (loan.address().as_ptr(), loan.bytes() as u16);
            dpdk::shim_lend(head, piece, address, length, account.as_ptr());
        }
        self.mbufs[self.count] = head;
        self.data[self.count] = data;
        self.bytes[self.count] = bytes as u32;
        self.count += 1;
        // SAFETY: an empty buffer of ours with room for the port's longest frame, initialised when
        // the pool was made.
        Some(unsafe { slice::from_raw_parts_mut(data, bytes) })
    }

    /// Loans that came back, of one ticket: which, and how many. Asks `targets` now and then for
    /// what they have sent and not given back.
    #[inline]
    pub(crate) fn returned(&mut self, targets: &[Target]) -> Option<(u8, u32)> {
        let returned = self.loans.returned();
        if returned.is_none() && self.loans.is_time_to_ask() {
            for target in targets {
                // SAFETY: a queue that is set up and only ours. Ports that keep nothing say that
                // they cannot do it, and all of them that there was nothing.
                let ask =
                    || unsafe { dpdk::rte_eth_tx_done_cleanup(target.port.id(), target.queue, 0) };
                target.pass.through(ask);
            }
        }
        returned
    }

    /// Packets queued.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Queues a packet of `bytes` bytes; `None` without room.
    ///
    /// # Panics
    /// If that is longer than the port's longest frame.
    #[inline]
    pub(crate) fn push(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let most = self.port.frame_bytes_max();
        assert!(bytes <= most, "a frame of {bytes} bytes, at most {most}");
        if self.count == SEND_QUEUE || (self.spare_count == 0 && !self.refill()) {
            return None;
        }
        self.spare_count -= 1;
        let data = self.spare_data[self.spare_count];
        self.mbufs[self.count] = self.spare[self.spare_count];
        self.data[self.count] = data;
        self.bytes[self.count] = bytes as u32;
        self.count += 1;
        // SAFETY: an empty buffer of ours with room for the port's longest frame, initialised when
        // the pool was made.
        Some(unsafe { slice::from_raw_parts_mut(data, bytes) })
    }

    #[cold]
    fn refill(&mut self) -> bool {
        let pool = self.port.pool(self.queue).as_ptr();
        let (spare, data) = (self.spare.as_mut_ptr(), self.spare_data.as_mut_ptr());
        // SAFETY: both arrays have room for as many as are asked for; the pool lives as long as
        // the port, which is kept here.
        let got = unsafe { dpdk::shim_allocate(pool, spare, data, REFILL as u16) } != 0;
        self.spare_count = if got { REFILL } else { 0 };
        got
    }

    /// The first bytes of queued packet `index`: the destination's hardware address.
    ///
    /// # Panics
    /// If there is none of that number, or it is shorter.
    #[inline]
    pub(crate) fn destination(&self, index: usize) -> [u8; 6] {
        assert!(index < self.count && self.bytes[index] >= 6);
        // SAFETY: a queued packet of at least six bytes, which is ours.
        unsafe { self.data[index].cast::<[u8; 6]>().read() }
    }

    /// Hands the queued packets from `from` up to `to` to the device of `target`. Returns how many
    /// it took: those are gone.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub(crate) fn send(&mut self, target: &mut Target, from: usize, to: usize) -> usize {
        assert!(from <= to && to <= self.count);
        // SAFETY: the range is of packets that are queued and ours; those that the device took are
        // its own, which the caller hears.
        let taken = unsafe {
            let (mbufs, bytes) = (self.mbufs.as_mut_ptr().add(from), self.bytes.as_ptr().add(from));
            target.hand_over(mbufs, bytes, (to - from) as u16)
        };
        target.stats.bursts += 1;
        target.stats.packets += taken as u64;
        target.stats.blocked += u64::from(taken < to - from);
        taken
    }

    /// Sends a copy of queued packet `index` to the device of `target`, if both have room.
    ///
    /// # Panics
    /// If there is none of that number.
    pub(crate) fn send_copy(&mut self, target: &mut Target, index: usize) {
        assert!(index < self.count);
        let pool = self.port.pool(self.queue).as_ptr();
        // SAFETY: the packet is queued and ours; the copy is new and is either taken by the device
        // or given back.
        unsafe {
            let mut copy = dpdk::shim_copy(self.mbufs[index], self.bytes[index], pool);
            if copy.is_null() {
                return;
            }
            let bytes = self.bytes[index];
            let taken = target.hand_over(&raw mut copy, &raw const bytes, 1);
            if taken == 0 {
                dpdk::rte_pktmbuf_free_bulk(&raw mut copy, 1);
            }
            target.stats.bursts += 1;
            target.stats.packets += taken as u64;
        }
    }

    /// Forgets packets up to `sent`, which a device took; the others move up.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub(crate) fn forget(&mut self, sent: usize) {
        assert!(sent <= self.count);
        if sent < self.count && sent > 0 {
            self.mbufs.copy_within(sent..self.count, 0);
            self.data.copy_within(sent..self.count, 0);
            self.bytes.copy_within(sent..self.count, 0);
        }
        self.count -= sent;
    }

    /// Gives the packets from `from` up to `to` back unsent. They have to be forgotten then.
    pub(crate) fn discard(&mut self, from: usize, to: usize) {
        assert!(from <= to && to <= self.count);
        // SAFETY: the range is of packets that are queued and ours; the caller forgets them.
        unsafe {
            let first = self.mbufs.as_mut_ptr().add(from);
            dpdk::rte_pktmbuf_free_bulk(first, (to - from) as u32);
        }
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        self.discard(0, self.count);
        // SAFETY: the first `spare_count` pointers are to empty buffers of ours.
        unsafe { dpdk::rte_pktmbuf_free_bulk(self.spare.as_mut_ptr(), self.spare_count as u32) };
    }
}

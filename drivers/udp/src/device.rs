//! The device: a socket, a row of receive buffers and a ring of send buffers.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};

use crate::memory::Slots;
use crate::sys::{self, Datagram};
use crate::{BURST_MAX, UdpConfig, UdpError, UdpStats};

#[cfg(test)]
mod tests;

/// A kernel UDP socket as a device.
pub struct UdpDevice {
    socket: OwnedFd,
    local: SocketAddrV4,
    socket_buffer_bytes: (usize, usize),
    datagram_bytes_max: usize,
    receive: Receive,
    send: Send,
}

/// State of the receiving half.
struct Receive {
    slots: Slots,
    /// What lies in each slot.
    datagrams: [Datagram; BURST_MAX],
    /// Slots of the burst, in order of arrival; slots with datagrams that were dropped are absent.
    burst: [u8; BURST_MAX],
    burst_count: usize,
    /// Whether the next receive expects several datagrams and asks for all with one call.
    many: bool,
    /// Whether the last receive found something.
    found: bool,
    stats: UdpStats,
}

/// State of the sending half: a ring of slots, `count` of them queued from `head` on.
struct Send {
    slots: Slots,
    datagrams: Box<[Datagram]>,
    head: usize,
    count: usize,
    stats: UdpStats,
}

impl UdpDevice {
    /// Opens and binds the socket and allocates all buffers.
    ///
    /// # Errors
    /// [`UdpError`]: a setting out of range, or the address cannot be bound.
    pub fn open(config: UdpConfig) -> Result<Self, UdpError> {
        config.check()?;
        let address = config.bind;
        let os = |call| move |source| UdpError::Os { call, address, source };
        let socket = sys::open_socket().map_err(os("socket"))?;
        let fd = socket.as_fd();
        let wanted = i32::try_from(config.socket_buffer_bytes).expect("checked above");
        for (force, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            // Without the privilege for the first, the kernel grants what its limit allows.
            if !sys::set_option(fd, force, wanted) {
                sys::set_option(fd, plain, wanted);
            }
        }
        sys::bind(fd, address).map_err(|source| UdpError::from_bind(address, source))?;
        let local = sys::local_address(fd).map_err(os("getsockname"))?;
        let granted = |option| sys::option_value(fd, option);
        let socket_buffer_bytes = (granted(libc::SO_RCVBUF), granted(libc::SO_SNDBUF));
        Ok(Self {
            socket,
            local,
            socket_buffer_bytes,
            datagram_bytes_max: config.datagram_bytes_max,
            receive: Receive::new(config.datagram_bytes_max),
            send: Send::new(config.send_queue_max, config.datagram_bytes_max),
        })
    }

    /// The address the socket is bound to, with the port that the kernel chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.local
    }

    /// What the kernel granted for its receive and its send buffer, in bytes of kernel memory.
    ///
    /// A datagram takes more of it than it has bytes: 768 for an empty one, up to about twice its
    /// length for a long one.
    pub fn socket_buffer_bytes(&self) -> (usize, usize) {
        self.socket_buffer_bytes
    }

    /// Counters since [`UdpDevice::open`]. Costs one system call.
    pub fn stats(&self) -> UdpStats {
        let send = &self.send.stats;
        UdpStats {
            received_overflow: sys::kernel_drops(self.socket.as_fd()).into(),
            sent_datagrams: send.sent_datagrams,
            sent_bytes: send.sent_bytes,
            send_dropped: send.send_dropped,
            send_blocked: send.send_blocked,
            send_calls: send.send_calls,
            ..self.receive.stats
        }
    }

    /// Blocks until a datagram is there, `timeout` is over or a signal came. Returns whether a
    /// datagram is there.
    pub fn wait(&self, timeout: Duration) -> bool {
        sys::wait_readable(self.socket.as_fd(), timeout)
    }

    /// Datagrams queued that the kernel has not taken yet.
    pub fn send_queued(&self) -> usize {
        self.send.count
    }
}

impl AsFd for UdpDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Device for UdpDevice {
    type Rx<'a> = UdpRx<'a>;
    type Tx<'a> = UdpTx<'a>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: self.datagram_bytes_max, burst_max: BURST_MAX }
    }

    fn split(&mut self) -> (UdpRx<'_>, UdpTx<'_>) {
        let socket = self.socket.as_fd();
        let bytes_max = self.datagram_bytes_max;
        (
            UdpRx { socket, bytes_max, state: &mut self.receive },
            UdpTx { socket, bytes_max, state: &mut self.send },
        )
    }
}

impl Receive {
    fn new(bytes_max: usize) -> Self {
        Self {
            slots: Slots::new(BURST_MAX, bytes_max),
            datagrams: [Datagram::NONE; BURST_MAX],
            burst: [0; BURST_MAX],
            burst_count: 0,
            many: false,
            found: false,
            stats: UdpStats::default(),
        }
    }

    /// Makes a burst of the first `count` slots, without those that hold a truncated datagram.
    fn accept(&mut self, count: usize, bytes_max: usize) {
        for slot in 0..count {
            let bytes = self.datagrams[slot].bytes;
            if bytes > bytes_max {
                self.stats.received_truncated += 1;
                continue;
            }
            self.stats.received_datagrams += 1;
            self.stats.received_bytes += bytes as u64;
            self.burst[self.burst_count] = slot as u8;
            self.burst_count += 1;
        }
    }

    /// Chooses the system call of the next receive from what this one found.
    ///
    /// A `recvmmsg` that finds one datagram asks the socket a second time in vain, so a lone
    /// datagram, which is what a round trip waits for, is better served by `recvfrom`.
    fn adapt(&mut self, count: usize) {
        self.many = if self.many { count > 1 } else { self.found && count > 0 };
        self.found = count > 0;
    }
}

/// The receiving half of a [`UdpDevice`].
pub struct UdpRx<'a> {
    socket: BorrowedFd<'a>,
    bytes_max: usize,
    state: &'a mut Receive,
}

impl Rx for UdpRx<'_> {
    #[inline]
    fn receive(&mut self) -> usize {
        let state = &mut *self.state;
        state.burst_count = 0;
        state.stats.receive_calls += 1;
        let result = if state.many {
            let stride_bytes = state.slots.stride_bytes();
            sys::receive_many(
                self.socket,
                state.slots.all_mut(),
                stride_bytes,
                self.bytes_max,
                &mut state.datagrams,
            )
        } else {
            sys::receive_one(self.socket, state.slots.get_mut(0, self.bytes_max)).map(|datagram| {
                state.datagrams[0] = datagram;
                1
            })
        };
        let count = result.unwrap_or_else(|errno| {
            match errno {
                libc::EAGAIN | libc::EINTR => state.stats.receive_calls_empty += 1,
                _ => state.stats.receive_errors += 1,
            }
            0
        });
        state.accept(count, self.bytes_max);
        state.adapt(count);
        state.burst_count
    }

    #[inline]
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let state = &*self.state;
        let slot = usize::from(state.burst[..state.burst_count][index]);
        let Datagram { peer, bytes } = state.datagrams[slot];
        (peer, state.slots.get(slot, bytes))
    }
}

impl Send {
    fn new(queue_max: usize, bytes_max: usize) -> Self {
        Self {
            slots: Slots::new(queue_max, bytes_max),
            datagrams: vec![Datagram::NONE; queue_max].into_boxed_slice(),
            head: 0,
            count: 0,
            stats: UdpStats::default(),
        }
    }

    /// The slot `distance` places after the head.
    fn slot(&self, distance: usize) -> usize {
        let slot = self.head + distance;
        if slot < self.datagrams.len() { slot } else { slot - self.datagrams.len() }
    }

    /// The queued datagrams from the head on that lie in neighbouring slots, at most a burst.
    fn run(&self) -> &[Datagram] {
        let end = (self.head + self.count.min(BURST_MAX)).min(self.datagrams.len());
        &self.datagrams[self.head..end]
    }

    /// Takes `count` datagrams off the head of the queue.
    fn advance(&mut self, count: usize) {
        self.count -= count;
        // An empty queue starts over, so that a lone datagram always uses the same warm buffer.
        self.head = if self.count == 0 { 0 } else { self.slot(count) };
    }

    /// Records that the kernel took `count` datagrams.
    fn sent(&mut self, count: usize) {
        let bytes: usize = self.run()[..count].iter().map(|datagram| datagram.bytes).sum();
        self.stats.sent_datagrams += count as u64;
        self.stats.sent_bytes += bytes as u64;
        self.advance(count);
    }

    /// Records that the kernel did not take the datagram at the head. Returns whether to go on.
    fn refused(&mut self, errno: i32) -> bool {
        match errno {
            libc::EINTR => true,
            libc::EAGAIN => {
                self.stats.send_blocked += 1;
                false
            }
            _ => {
                self.stats.send_dropped += 1;
                self.advance(1);
                true
            }
        }
    }

    fn flush(&mut self, socket: BorrowedFd<'_>) {
        while self.count > 0 {
            self.stats.send_calls += 1;
            let run = self.run();
            let result = if let [datagram] = run {
                let bytes = self.slots.get(self.head, datagram.bytes);
                sys::send_one(socket, datagram.peer, bytes).map(|()| 1)
            } else {
                let memory = self.slots.starting_at(self.head);
                sys::send_many(socket, memory, self.slots.stride_bytes(), run)
            };
            match result {
                Ok(count) => self.sent(count),
                Err(errno) if self.refused(errno) => {}
                Err(_) => return,
            }
        }
    }
}

/// The sending half of a [`UdpDevice`].
pub struct UdpTx<'a> {
    socket: BorrowedFd<'a>,
    bytes_max: usize,
    state: &'a mut Send,
}

impl Tx for UdpTx<'_> {
    #[inline]
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        assert!(bytes <= self.bytes_max, "datagram of {bytes} bytes, at most {}", self.bytes_max);
        let state = &mut *self.state;
        if state.count == state.datagrams.len() {
            return None;
        }
        let slot = state.slot(state.count);
        state.count += 1;
        state.datagrams[slot] = Datagram { peer, bytes };
        Some(state.slots.get_mut(slot, bytes))
    }

    #[inline]
    fn flush(&mut self) {
        self.state.flush(self.socket);
    }
}

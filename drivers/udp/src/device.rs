//! The device: a socket, a row of receive buffers and a ring of send buffers.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};

use crate::memory::Slots;
use crate::sys;
use crate::transfer::{self, Arrival, Datagram, Refusal, TRAIN_BYTES_MAX};
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
    /// What the last call put into each of the first `arrival_count` slots.
    arrivals: [Arrival; BURST_MAX],
    arrival_count: usize,
    /// Where the next datagram starts that has not been in a burst: slot and byte in it.
    next: (usize, usize),
    burst: [Packet; BURST_MAX],
    burst_count: usize,
    /// Whether the next receive expects several arrivals and asks for all with one call.
    many: bool,
    /// Whether the last receive found something.
    found: bool,
    trains: Trains,
    stats: UdpStats,
}

/// Whether the socket hands over trains whole.
///
/// A train needs `recvmsg`, which costs about 130 ns more than `recvfrom`, empty or not. So they
/// stay off until a burst shows that there is bulk to gain from, and on from then on: a train that
/// waits in the socket while they are switched off would come without its datagrams' length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trains {
    Forbidden,
    Off,
    On,
}

/// Arrivals with one call that show that there is bulk.
const BULK_ARRIVALS: usize = 4;

/// The headers of IPv4, without options, and of UDP.
const HEADERS_BYTES: usize = 28;

/// Where a datagram of the burst lies.
#[derive(Clone, Copy)]
struct Packet {
    slot: usize,
    start: usize,
    bytes: usize,
}

/// State of the sending half: a ring of slots, `count` of them queued from `head` on.
struct Send {
    slots: Slots,
    datagrams: Box<[Datagram]>,
    head: usize,
    count: usize,
    /// Longest datagram that the kernel is known to take in trains; 0 for none.
    train_datagram_bytes_max: usize,
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
            if !sys::set_option(fd, libc::SOL_SOCKET, force, wanted) {
                sys::set_option(fd, libc::SOL_SOCKET, plain, wanted);
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
            receive: Receive::new(config.datagram_bytes_max, config.trains),
            send: Send::new(config.send_queue_max, config.datagram_bytes_max, config.trains),
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
            UdpTx { socket, local: *self.local.ip(), bytes_max, state: &mut self.send },
        )
    }
}

impl Receive {
    fn new(bytes_max: usize, trains: bool) -> Self {
        let slot_bytes = if trains { TRAIN_BYTES_MAX } else { bytes_max };
        Self {
            slots: Slots::new(BURST_MAX, slot_bytes),
            arrivals: [Arrival::NONE; BURST_MAX],
            arrival_count: 0,
            next: (0, 0),
            burst: [Packet { slot: 0, start: 0, bytes: 0 }; BURST_MAX],
            burst_count: 0,
            many: false,
            found: false,
            trains: if trains { Trains::Off } else { Trains::Forbidden },
            stats: UdpStats::default(),
        }
    }

    /// Receives into the slots, whose datagrams have all been in bursts.
    fn arrive(&mut self, socket: BorrowedFd<'_>) {
        self.stats.receive_calls += 1;
        let slot_bytes = self.slots.slot_bytes();
        let result = if self.many {
            let stride_bytes = self.slots.stride_bytes();
            let memory = self.slots.all_mut();
            transfer::receive_many(socket, memory, stride_bytes, slot_bytes, &mut self.arrivals)
        } else {
            let slot = self.slots.get_mut(0, slot_bytes);
            let result = if self.trains == Trains::On {
                transfer::receive_train(socket, slot)
            } else {
                transfer::receive_one(socket, slot)
            };
            result.map(|arrival| {
                self.arrivals[0] = arrival;
                1
            })
        };
        self.next = (0, 0);
        self.arrival_count = result.unwrap_or_else(|errno| {
            match errno {
                libc::EAGAIN | libc::EINTR => self.stats.receive_calls_empty += 1,
                _ => self.stats.receive_errors += 1,
            }
            0
        });
        self.adapt(self.arrival_count);
        if self.arrival_count >= BULK_ARRIVALS && self.trains == Trains::Off {
            let on = sys::set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
            self.trains = if on { Trains::On } else { Trains::Forbidden };
        }
    }

    /// Makes a burst of the next datagrams in the slots, without those that are too long.
    fn fill_burst(&mut self, bytes_max: usize) {
        let (mut slot, mut start) = self.next;
        while slot < self.arrival_count && self.burst_count < BURST_MAX {
            let arrival = self.arrivals[slot];
            let bytes = arrival.datagram_bytes.min(arrival.bytes - start);
            if bytes > bytes_max {
                self.stats.received_truncated += 1;
            } else {
                self.stats.received_datagrams += 1;
                self.stats.received_bytes += bytes as u64;
                self.burst[self.burst_count] = Packet { slot, start, bytes };
                self.burst_count += 1;
            }
            start += bytes;
            if start == arrival.bytes {
                (slot, start) = (slot + 1, 0);
            }
        }
        self.next = (slot, start);
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
        if state.next.0 == state.arrival_count {
            state.arrive(self.socket);
        }
        state.fill_burst(self.bytes_max);
        state.burst_count
    }

    #[inline]
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let state = &*self.state;
        let Packet { slot, start, bytes } = state.burst[..state.burst_count][index];
        (state.arrivals[slot].peer, &state.slots.starting_at(slot)[start..start + bytes])
    }
}

impl Send {
    fn new(queue_max: usize, bytes_max: usize, trains: bool) -> Self {
        Self {
            slots: Slots::new(queue_max, bytes_max),
            datagrams: vec![Datagram::NONE; queue_max].into_boxed_slice(),
            head: 0,
            count: 0,
            train_datagram_bytes_max: if trains { bytes_max } else { 0 },
            stats: UdpStats::default(),
        }
    }

    /// The slot `distance` places after the head.
    fn slot(&self, distance: usize) -> usize {
        let slot = self.head + distance;
        if slot < self.datagrams.len() { slot } else { slot - self.datagrams.len() }
    }

    /// The queued datagrams from the head on that lie in neighbouring slots.
    fn run(&self) -> &[Datagram] {
        let end = (self.head + self.count).min(self.datagrams.len());
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

    /// Sends the datagram at the head by itself.
    fn send_head(&self, socket: BorrowedFd<'_>) -> Result<usize, i32> {
        let Datagram { peer, bytes } = self.datagrams[self.head];
        transfer::send_one(socket, peer, self.slots.get(self.head, bytes)).map(|()| 1)
    }

    /// Sends what lies in neighbouring slots.
    fn send_run(&mut self, socket: BorrowedFd<'_>) -> Result<usize, i32> {
        let (memory, stride_bytes) = (self.slots.starting_at(self.head), self.slots.stride_bytes());
        let run = self.run();
        let train_bytes_max = self.train_datagram_bytes_max;
        match transfer::send_many(socket, memory, stride_bytes, run, train_bytes_max) {
            Err(Refusal {
                errno: libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP,
                in_train: true,
            }) => {
                // Datagrams too long for the path are not taken in trains, nor is any by a device
                // that cannot compute checksums. It may be the peer's address too, though.
                self.stats.send_calls += 1;
                let result = self.send_head(socket);
                if result.is_ok() {
                    self.train_datagram_bytes_max = self.datagrams[self.head].bytes - 1;
                }
                result
            }
            result => result.map_err(|refusal| refusal.errno),
        }
    }

    fn flush(&mut self, socket: BorrowedFd<'_>) {
        while self.count > 0 {
            self.stats.send_calls += 1;
            let result =
                if self.count == 1 { self.send_head(socket) } else { self.send_run(socket) };
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
    local: Ipv4Addr,
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

    /// What the kernel says of the way: system calls.
    fn path_bytes(&self, peer: SocketAddrV4) -> Option<usize> {
        let bytes = sys::path_mtu(self.local, peer)?.saturating_sub(HEADERS_BYTES);
        Some(bytes.min(self.bytes_max))
    }
}

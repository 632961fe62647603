//! The system calls that move datagrams, each behind a safe function.
//!
//! Neighbouring datagrams of one length to one peer can be handed over as one *train*: the kernel
//! takes them through its layers once, and apart where the network or the receiver wants them
//! apart (UDP GSO). A receiver that asks for it gets a train as it came (UDP GRO).

use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, cmsghdr, iovec, mmsghdr, msghdr, sockaddr_in};

use crate::sys::{EMPTY_NAME, NAME_BYTES, from_sockaddr, last_errno, to_sockaddr};
use crate::{BURST_MAX, DATAGRAM_BYTES_LIMIT};

/// Most datagrams that one call of [`send_many`] looks at, and most in a train: the kernel's limit.
pub(crate) const TRAIN_MAX: usize = 64;

/// Bytes that one receive call can put into a slot, so that every train fits.
pub(crate) const TRAIN_BYTES_MAX: usize = 65_536;

/// A datagram to send: the other end, and its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    pub(crate) peer: SocketAddrV4,
    pub(crate) bytes: usize,
}

impl Datagram {
    pub(crate) const NONE: Self =
        Self { peer: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), bytes: 0 };
}

/// What one receive call put into a slot: a datagram, or a train of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) peer: SocketAddrV4,
    /// Bytes in all. More than the slot has if a datagram was cut off.
    pub(crate) bytes: usize,
    /// Bytes of each datagram; the last may have fewer.
    pub(crate) datagram_bytes: usize,
}

impl Arrival {
    pub(crate) const NONE: Self =
        Self { peer: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), bytes: 0, datagram_bytes: 0 };
}

/// Why a send stopped at its first datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: c_int,
    /// Whether that datagram was in a train.
    pub(crate) in_train: bool,
}

const EMPTY_VECTOR: iovec = iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// A control message with an integer, laid out as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control {
    header: cmsghdr,
    value: c_int,
    padding: c_int,
}

impl Control {
    const EMPTY: Self =
        Self { header: cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 }, value: 0, padding: 0 };

    /// Tells the kernel to cut what is sent into datagrams of `datagram_bytes`, which it wants as
    /// an integer of 16 bits.
    fn segment(datagram_bytes: usize) -> Self {
        let wide = u16::try_from(datagram_bytes).expect("no datagram is longer than 64 KiB");
        let [low, high] = wide.to_ne_bytes();
        Self {
            header: cmsghdr {
                cmsg_len: mem::size_of::<cmsghdr>() + mem::size_of::<u16>(),
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            value: c_int::from_ne_bytes([low, high, 0, 0]),
            padding: 0,
        }
    }

    /// The length of the datagrams of a received train, if this came with one.
    fn datagram_bytes(&self, control_bytes: usize) -> Option<usize> {
        let is_train = control_bytes >= mem::size_of::<cmsghdr>() + mem::size_of::<c_int>()
            && self.header.cmsg_level == libc::SOL_UDP
            && self.header.cmsg_type == libc::UDP_GRO;
        if is_train { usize::try_from(self.value).ok().filter(|bytes| *bytes > 0) } else { None }
    }
}

fn arrival(name: &sockaddr_in, header: &msghdr, control: &Control, bytes: usize) -> Arrival {
    let datagram_bytes = control.datagram_bytes(header.msg_controllen).unwrap_or(bytes);
    Arrival { peer: from_sockaddr(name), bytes, datagram_bytes }
}

/// Points `header` at its name, its vectors and, unless `control` is null, its control message.
fn point(
    header: &mut msghdr,
    name: *mut sockaddr_in,
    vectors: (*mut iovec, usize),
    control: *mut Control,
) {
    header.msg_name = name.cast();
    header.msg_namelen = NAME_BYTES;
    (header.msg_iov, header.msg_iovlen) = vectors;
    header.msg_control = control.cast();
    header.msg_controllen = if control.is_null() { 0 } else { mem::size_of::<Control>() };
}

/// Receives one datagram, from a socket that does not hand over trains.
pub(crate) fn receive_one(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Arrival, c_int> {
    let mut name = EMPTY_NAME;
    let mut name_bytes = NAME_BYTES;
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, `name_bytes` to `name`.
    let received = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
            (&raw mut name).cast(),
            &raw mut name_bytes,
        )
    };
    match usize::try_from(received) {
        Ok(bytes) => Ok(Arrival { peer: from_sockaddr(&name), bytes, datagram_bytes: bytes }),
        Err(_) => Err(last_errno()),
    }
}

/// Receives one datagram or train.
pub(crate) fn receive_train(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Arrival, c_int> {
    let mut name = EMPTY_NAME;
    let mut control = Control::EMPTY;
    let mut vector = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an msghdr of zeros is valid: no name, no vector, no control data.
    let mut header: msghdr = unsafe { mem::zeroed() };
    point(&mut header, &raw mut name, (&raw mut vector, 1), &raw mut control);
    // SAFETY: the header names a live sockaddr_in, a live control message and one live vector
    // over all of `buffer`.
    let received = unsafe {
        libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
    };
    match usize::try_from(received) {
        Ok(bytes) => Ok(arrival(&name, &header, &control, bytes)),
        Err(_) => Err(last_errno()),
    }
}

/// Receives up to [`BURST_MAX`] datagrams or trains, one into the first `bytes_max` bytes of each
/// `stride_bytes` of `memory`. Writes what came to `arrivals` and returns how many.
pub(crate) fn receive_many(
    fd: BorrowedFd<'_>,
    memory: &mut [u8],
    stride_bytes: usize,
    bytes_max: usize,
    arrivals: &mut [Arrival; BURST_MAX],
) -> Result<usize, c_int> {
    assert!(bytes_max <= stride_bytes);
    let mut names = [EMPTY_NAME; BURST_MAX];
    let mut controls = [Control::EMPTY; BURST_MAX];
    let mut vectors = [EMPTY_VECTOR; BURST_MAX];
    let mut count = 0;
    // SAFETY: an mmsghdr of zeros is valid: no name, no vector, no control data.
    let mut headers: [mmsghdr; BURST_MAX] = unsafe { mem::zeroed() };
    for (slot, chunk) in memory.chunks_exact_mut(stride_bytes).take(BURST_MAX).enumerate() {
        vectors[slot] = iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: bytes_max };
        let (vector, control) = (&raw mut vectors[slot], &raw mut controls[slot]);
        point(&mut headers[slot].msg_hdr, &raw mut names[slot], (vector, 1), control);
        count += 1;
    }
    // SAFETY: each of the `count` headers names a live sockaddr_in, a live control message and one
    // live vector over `bytes_max` bytes of `memory`, which is borrowed mutably all the while.
    let received = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| last_errno())?;
    for slot in 0..received {
        let header = &headers[slot];
        let bytes = header.msg_len as usize;
        arrivals[slot] = arrival(&names[slot], &header.msg_hdr, &controls[slot], bytes);
    }
    Ok(received)
}

/// Sends one datagram.
pub(crate) fn send_one(fd: BorrowedFd<'_>, peer: SocketAddrV4, bytes: &[u8]) -> Result<(), c_int> {
    let name = to_sockaddr(peer);
    // SAFETY: `bytes` and `name` are live and of the lengths passed; the kernel only reads them.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            (&raw const name).cast(),
            NAME_BYTES,
        )
    };
    if sent < 0 { Err(last_errno()) } else { Ok(()) }
}

/// How many datagrams, from the first of `datagrams` on, make a train of datagrams of at most
/// `bytes_max` bytes each. At least 1.
pub(crate) fn train(datagrams: &[Datagram], bytes_max: usize) -> usize {
    let first = datagrams[0];
    if first.bytes == 0 || first.bytes > bytes_max {
        return 1;
    }
    let mut total_bytes = 0;
    let mut before_bytes = first.bytes;
    // Only the last may be shorter, and none may be empty.
    let fits = |datagram: &&Datagram| {
        total_bytes += datagram.bytes;
        let fits = datagram.peer == first.peer
            && (1..=first.bytes).contains(&datagram.bytes)
            && before_bytes == first.bytes
            && total_bytes <= DATAGRAM_BYTES_LIMIT;
        before_bytes = datagram.bytes;
        fits
    };
    datagrams.iter().take(TRAIN_MAX).take_while(fits).count()
}

/// Sends up to [`TRAIN_MAX`] datagrams, those in trains whose length is at most
/// `train_datagram_bytes_max`: `datagrams[i]` lies at `i * stride_bytes` of `memory`. Returns how
/// many of them, from the first on, the kernel took.
pub(crate) fn send_many(
    fd: BorrowedFd<'_>,
    memory: &[u8],
    stride_bytes: usize,
    datagrams: &[Datagram],
    train_datagram_bytes_max: usize,
) -> Result<usize, Refusal> {
    let datagrams = &datagrams[..datagrams.len().min(TRAIN_MAX)];
    let mut names = [EMPTY_NAME; BURST_MAX];
    let mut controls = [Control::EMPTY; BURST_MAX];
    let mut vectors = [EMPTY_VECTOR; TRAIN_MAX];
    let mut trains = [0; BURST_MAX];
    for (slot, datagram) in datagrams.iter().enumerate() {
        let bytes = &memory[slot * stride_bytes..][..datagram.bytes];
        vectors[slot] = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    }
    // SAFETY: an mmsghdr of zeros is valid: no name, no vector, no control data.
    let mut headers: [mmsghdr; BURST_MAX] = unsafe { mem::zeroed() };
    let (mut start, mut count) = (0, 0);
    while start < datagrams.len() && count < BURST_MAX {
        let length = train(&datagrams[start..], train_datagram_bytes_max);
        names[count] = to_sockaddr(datagrams[start].peer);
        let mut control = ptr::null_mut();
        if length > 1 {
            controls[count] = Control::segment(datagrams[start].bytes);
            control = &raw mut controls[count];
        }
        let run = (vectors[start..start + length].as_mut_ptr(), length);
        point(&mut headers[count].msg_hdr, &raw mut names[count], run, control);
        trains[count] = length;
        start += length;
        count += 1;
    }
    // SAFETY: each of the `count` headers names a live sockaddr_in, a live control message or
    // none, and as many live vectors over bytes of `memory` as it says; the kernel only reads
    // those bytes although the vectors' pointers are mutable.
    let sent = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    match usize::try_from(sent) {
        Ok(sent) => Ok(trains[..sent].iter().sum()),
        Err(_) => Err(Refusal { errno: last_errno(), in_train: trains[0] > 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(lengths: &[usize]) -> Vec<Datagram> {
        let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        lengths.iter().map(|&bytes| Datagram { peer, bytes }).collect()
    }

    #[test]
    fn trains_end_where_they_must() {
        assert_eq!(train(&lengths(&[100]), 1000), 1);
        assert_eq!(train(&lengths(&[100, 100, 100]), 1000), 3);
        assert_eq!(train(&lengths(&[100, 100, 50, 50]), 1000), 3);
        assert_eq!(train(&lengths(&[100, 101]), 1000), 1);
        assert_eq!(train(&lengths(&[100, 100, 0, 100]), 1000), 2);
        assert_eq!(train(&lengths(&[0, 0]), 1000), 1);
        assert_eq!(train(&lengths(&[100, 100]), 99), 1);
        assert_eq!(train(&lengths(&[9000; 10]), 9000), 7);
        assert_eq!(train(&lengths(&[1; 100]), 9000), TRAIN_MAX);
        let mut two_peers = lengths(&[100, 100, 100]);
        two_peers[1].peer.set_port(2);
        assert_eq!(train(&two_peers, 1000), 1);
    }
}

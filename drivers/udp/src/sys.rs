//! The system calls, each behind a safe function. All `unsafe` of this crate is here.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_void, iovec, mmsghdr, sockaddr_in, socklen_t};

use crate::BURST_MAX;

/// `SO_MEMINFO` and the place of the drop counter in what it returns (linux/sock_diag.h).
const SO_MEMINFO: c_int = 55;
const MEMINFO_WORDS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// A datagram that came, or goes: the other end, and its length.
///
/// A received datagram may be longer than its buffer; then only its start was kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    pub(crate) peer: SocketAddrV4,
    pub(crate) bytes: usize,
}

impl Datagram {
    pub(crate) const NONE: Self =
        Self { peer: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), bytes: 0 };
}

/// The error number a failed call left.
fn last_errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn to_sockaddr(peer: SocketAddrV4) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: peer.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*peer.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn from_sockaddr(name: &sockaddr_in) -> SocketAddrV4 {
    let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
    SocketAddrV4::new(ip, u16::from_be(name.sin_port))
}

const EMPTY_NAME: sockaddr_in = sockaddr_in {
    sin_family: 0,
    sin_port: 0,
    sin_addr: libc::in_addr { s_addr: 0 },
    sin_zero: [0; 8],
};
const NAME_BYTES: socklen_t = mem::size_of::<sockaddr_in>() as socklen_t;
const EMPTY_VECTOR: iovec = iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// Opens a non-blocking UDP socket.
pub(crate) fn open_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed; a descriptor that is not -1 is new and ours alone.
    unsafe {
        match libc::socket(libc::AF_INET, kind, 0) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Binds the socket.
pub(crate) fn bind(fd: BorrowedFd<'_>, address: SocketAddrV4) -> io::Result<()> {
    let name = to_sockaddr(address);
    // SAFETY: `name` is a live sockaddr_in of the length passed.
    match unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), NAME_BYTES) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The address the socket is bound to.
pub(crate) fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddrV4> {
    let mut name = EMPTY_NAME;
    let mut name_bytes = NAME_BYTES;
    // SAFETY: the kernel writes at most `name_bytes` bytes, the size of `name`.
    match unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut name).cast(), &raw mut name_bytes) }
    {
        0 => Ok(from_sockaddr(&name)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an integer option of level `SOL_SOCKET`. Returns whether the kernel accepted it.
pub(crate) fn set_option(fd: BorrowedFd<'_>, option: c_int, value: c_int) -> bool {
    // SAFETY: `value` is a live integer of the length passed.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            mem::size_of::<c_int>() as socklen_t,
        ) == 0
    }
}

/// Reads an option of level `SOL_SOCKET` into `words`. Returns whether the kernel knew it.
fn get_option(fd: BorrowedFd<'_>, option: c_int, words: &mut [u32]) -> bool {
    let mut bytes = mem::size_of_val(words) as socklen_t;
    let target: *mut c_void = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `bytes` bytes, the size of `words`.
    unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, target, &raw mut bytes) == 0
    }
}

/// Reads an integer option of level `SOL_SOCKET`; 0 if the kernel does not know it.
pub(crate) fn option_value(fd: BorrowedFd<'_>, option: c_int) -> usize {
    let mut words = [0; 1];
    if get_option(fd, option, &mut words) { words[0] as usize } else { 0 }
}

/// How many datagrams the kernel dropped at this socket because its buffer was full (modulo 2^32).
pub(crate) fn kernel_drops(fd: BorrowedFd<'_>) -> u32 {
    let mut words = [0; MEMINFO_WORDS];
    get_option(fd, SO_MEMINFO, &mut words);
    words[MEMINFO_DROPS]
}

/// Receives one datagram.
pub(crate) fn receive_one(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Datagram, c_int> {
    let mut name = EMPTY_NAME;
    let mut name_bytes = NAME_BYTES;
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer` and `name_bytes` to `name`.
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
        Ok(bytes) => Ok(Datagram { peer: from_sockaddr(&name), bytes }),
        Err(_) => Err(last_errno()),
    }
}

/// Receives up to [`BURST_MAX`] datagrams, one into the first `bytes_max` bytes of each
/// `stride_bytes` of `memory`. Writes what came to `datagrams` and returns how many.
pub(crate) fn receive_many(
    fd: BorrowedFd<'_>,
    memory: &mut [u8],
    stride_bytes: usize,
    bytes_max: usize,
    datagrams: &mut [Datagram; BURST_MAX],
) -> Result<usize, c_int> {
    assert!(bytes_max <= stride_bytes);
    let mut names = [EMPTY_NAME; BURST_MAX];
    let mut vectors = [EMPTY_VECTOR; BURST_MAX];
    let mut count = 0;
    // SAFETY: an mmsghdr of zeros is valid: no name, no vector, no control data.
    let mut headers: [mmsghdr; BURST_MAX] = unsafe { mem::zeroed() };
    for (slot, chunk) in memory.chunks_exact_mut(stride_bytes).take(BURST_MAX).enumerate() {
        vectors[slot] = iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: bytes_max };
        let header = &mut headers[slot].msg_hdr;
        header.msg_name = (&raw mut names[slot]).cast();
        header.msg_namelen = NAME_BYTES;
        header.msg_iov = &raw mut vectors[slot];
        header.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: each of the `count` headers names a live sockaddr_in and one live vector over
    // `bytes_max` bytes of `memory`, which is borrowed mutably for the whole call.
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
    for (slot, datagram) in datagrams.iter_mut().enumerate().take(received) {
        let bytes = headers[slot].msg_len as usize;
        *datagram = Datagram { peer: from_sockaddr(&names[slot]), bytes };
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

/// Sends up to [`BURST_MAX`] datagrams: `datagrams[i]` lies at `i * stride_bytes` of `memory`.
/// Returns how many of them, from the first on, the kernel took.
pub(crate) fn send_many(
    fd: BorrowedFd<'_>,
    memory: &[u8],
    stride_bytes: usize,
    datagrams: &[Datagram],
) -> Result<usize, c_int> {
    let mut names = [EMPTY_NAME; BURST_MAX];
    let mut vectors = [EMPTY_VECTOR; BURST_MAX];
    let mut count = 0;
    // SAFETY: an mmsghdr of zeros is valid: no name, no vector, no control data.
    let mut headers: [mmsghdr; BURST_MAX] = unsafe { mem::zeroed() };
    for (slot, datagram) in datagrams.iter().take(BURST_MAX).enumerate() {
        let bytes = &memory[slot * stride_bytes..][..datagram.bytes];
        names[slot] = to_sockaddr(datagram.peer);
        vectors[slot] = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let header = &mut headers[slot].msg_hdr;
        header.msg_name = (&raw mut names[slot]).cast();
        header.msg_namelen = NAME_BYTES;
        header.msg_iov = &raw mut vectors[slot];
        header.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: each of the `count` headers names a live sockaddr_in and one live vector over bytes
    // of `memory`, which the kernel only reads although the vector's pointer is mutable.
    let sent = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| last_errno())
}

/// Blocks until the socket is readable, `timeout` is over, or a signal came. Returns whether it is
/// readable.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one live pollfd and one live timespec are passed; no signal mask.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, ptr::null()) > 0 }
}

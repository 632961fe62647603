//! The system calls that open, set up and wait on a socket, each behind a safe function.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_void, sockaddr_in, socklen_t};

/// `SO_MEMINFO` and the place of the drop counter in what it returns (linux/sock_diag.h).
const SO_MEMINFO: c_int = 55;
const MEMINFO_WORDS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// The error number a failed call left.
pub(crate) fn last_errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

pub(crate) fn to_sockaddr(peer: SocketAddrV4) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: peer.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*peer.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

pub(crate) fn from_sockaddr(name: &sockaddr_in) -> SocketAddrV4 {
    let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
    SocketAddrV4::new(ip, u16::from_be(name.sin_port))
}

pub(crate) const EMPTY_NAME: sockaddr_in = sockaddr_in {
    sin_family: 0,
    sin_port: 0,
    sin_addr: libc::in_addr { s_addr: 0 },
    sin_zero: [0; 8],
};
pub(crate) const NAME_BYTES: socklen_t = mem::size_of::<sockaddr_in>() as socklen_t;

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

/// Sets an integer option of level `level`. Returns whether the kernel accepted it.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> bool {
    // SAFETY: `value` is a live integer of the length passed.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of::<c_int>() as socklen_t,
        ) == 0
    }
}

/// Reads an option of level `level` into `words`. Returns whether the kernel knew it.
fn get_option(fd: BorrowedFd<'_>, level: c_int, option: c_int, words: &mut [u32]) -> bool {
    let mut bytes = mem::size_of_val(words) as socklen_t;
    let target: *mut c_void = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `bytes` bytes, the size of `words`.
    unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, target, &raw mut bytes) == 0 }
}

/// Reads an integer option of level `SOL_SOCKET`; 0 if the kernel does not know it.
pub(crate) fn option_value(fd: BorrowedFd<'_>, option: c_int) -> usize {
    let mut words = [0; 1];
    if get_option(fd, libc::SOL_SOCKET, option, &mut words) { words[0] as usize } else { 0 }
}

/// How many datagrams the kernel dropped at this socket because its buffer was full (modulo 2^32).
pub(crate) fn kernel_drops(fd: BorrowedFd<'_>) -> u32 {
    let mut words = [0; MEMINFO_WORDS];
    get_option(fd, libc::SOL_SOCKET, SO_MEMINFO, &mut words);
    words[MEMINFO_DROPS]
}

/// Largest IPv4 packet, in bytes, that the way from `local` to `peer` takes in one piece, as far as
/// the kernel knows: the least of the interface's MTU, the route's, and what a router has said.
pub(crate) fn path_mtu(local: Ipv4Addr, peer: SocketAddrV4) -> Option<usize> {
    // Only a connected socket has a way, and the device's own has many.
    let socket = open_socket().ok()?;
    let fd = socket.as_fd();
    bind(fd, SocketAddrV4::new(local, 0)).ok()?;
    let name = to_sockaddr(peer);
    // SAFETY: `name` is a live sockaddr_in of the length passed.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const name).cast(), NAME_BYTES) } != 0 {
        return None;
    }
    let mut words = [0; 1];
    get_option(fd, libc::IPPROTO_IP, libc::IP_MTU, &mut words).then_some(words[0] as usize)
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

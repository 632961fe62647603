//! The system calls that the standard library lacks, each behind a safe function.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use libc::{c_int, cpu_set_t, pid_t};

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Advises the system to put huge pages under memory that nothing has touched yet. Whether it does
/// changes nothing but the time that accesses take.
pub(crate) fn ask_for_huge_pages<T>(memory: &mut [T]) {
    // SAFETY: a system call that reads a constant.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Ok(page) = usize::try_from(page) else { return };
    let range = memory.as_mut_ptr_range();
    let first = range.start.cast::<u8>();
    let skipped = first.align_offset(page);
    let bytes = mem::size_of_val(memory).saturating_sub(skipped) / page * page;
    if bytes > 0 {
        // SAFETY: whole pages within `memory`, which is borrowed mutably; the advice changes
        // neither their contents nor what may be done with them. An error is only no help.
        unsafe { libc::madvise(first.add(skipped).cast(), bytes, libc::MADV_HUGEPAGE) };
    }
}

/// The cores that the calling thread may run on.
pub(crate) fn thread_affinity() -> io::Result<cpu_set_t> {
    // SAFETY: a set of zeros is the valid empty set.
    let mut set: cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most the size passed to the live set.
    check(unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &raw mut set) })?;
    Ok(set)
}

/// Whether `core` is in `set`.
pub(crate) fn core_is_set(set: &cpu_set_t, core: usize) -> bool {
    assert!(core < libc::CPU_SETSIZE as usize);
    // SAFETY: `core` is within the set, as was just checked.
    unsafe { libc::CPU_ISSET(core, set) }
}

/// Lets the calling thread run on `core` only.
pub(crate) fn set_thread_affinity(core: usize) -> io::Result<()> {
    assert!(core < libc::CPU_SETSIZE as usize);
    // SAFETY: a set of zeros is the valid empty set.
    let mut set: cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `core` is within the set, as was just checked; the kernel only reads the live set.
    check(unsafe {
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, mem::size_of_val(&set), &raw const set)
    })
}

/// Runs `handler` on `signal`. With `once`, the signal's next arrival has its default effect again.
///
/// The handler must do nothing but store to atomics.
pub(crate) fn handle_signal(
    signal: c_int,
    handler: extern "C" fn(c_int),
    once: bool,
) -> io::Result<()> {
    // SAFETY: zeros are a valid sigaction: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = if once { libc::SA_RESETHAND } else { 0 };
    // SAFETY: `action` is live, and its handler takes what a handler without SA_SIGINFO is given.
    check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })
}

/// Gives `signal` its default effect.
pub(crate) fn default_signal(signal: c_int) -> io::Result<()> {
    disposition(signal, libc::SIG_DFL)
}

/// Has `signal` ignored.
pub(crate) fn ignore_signal(signal: c_int) -> io::Result<()> {
    disposition(signal, libc::SIG_IGN)
}

fn disposition(signal: c_int, action: libc::sighandler_t) -> io::Result<()> {
    assert!(matches!(action, libc::SIG_DFL | libc::SIG_IGN), "no handler to be called");
    // SAFETY: no memory is passed, and as was just checked nothing of ours will be called.
    let before = unsafe { libc::signal(signal, action) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread a network namespace of its own. Threads and processes that it makes
/// later are in it too.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Puts the calling thread into the network namespace that `file` is of.
pub(crate) fn enter_network(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Starts the process of `command` in the network namespace that `file` is of, which has to stay
/// open until it was started.
pub(crate) fn start_in_network(command: &mut Command, file: BorrowedFd<'_>) {
    let fd = file.as_raw_fd();
    // SAFETY: between fork and exec it makes one system call, to which no memory is passed.
    unsafe { command.pre_exec(move || check(libc::setns(fd, libc::CLONE_NEWNET))) };
}

/// Sends `signal` to the process `pid`, which must be a child not yet waited for, or oneself.
pub(crate) fn send_signal(pid: u32, signal: c_int) -> io::Result<()> {
    let pid = pid_t::try_from(pid).expect("a process id is positive");
    assert!(pid > 0, "no process groups");
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid, signal) })
}

/// Has the kernel send SIGKILL to the calling process when the thread that made it ends.
pub(crate) fn kill_on_parent_death() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

/// Makes the process that `command` starts die with the thread that starts it.
pub(crate) fn bind_to_parent(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        kill_on_parent_death()?;
        // The parent may have died before the call above.
        if std::os::unix::process::parent_id() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec `prepare` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// Blocks until one of `files` is readable, `timeout` is over, or a signal came. Returns whether
/// one is readable.
pub(crate) fn wait_readable<const N: usize>(files: [BorrowedFd<'_>; N], timeout: Duration) -> bool {
    let mut polls =
        files.map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: as many live pollfds as is said and a live timespec are passed; no signal mask.
    unsafe { libc::ppoll(polls.as_mut_ptr(), N as libc::nfds_t, &raw const time, ptr::null()) > 0 }
}

/// Opens a counter that is readable while it is not zero.
pub(crate) fn open_event() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a descriptor that is not negative is new and ours alone.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

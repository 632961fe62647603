//! The process's defmt logger: each thread gathers a message and puts it into its own ring whole.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::clock::Clock;
use crate::spsc::{self, Consumer, Producer};

use super::{FRAME_BYTES_MAX, RING_BYTES};

/// Bytes before each message in a ring: its length, 2, and its time in nanoseconds, 8.
pub(super) const HEADER_BYTES: usize = 10;

static ENABLED: AtomicBool = AtomicBool::new(false);
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// What each thread's clock is a copy of.
static CLOCK: OnceLock<Mutex<Clock>> = OnceLock::new();
/// Rings that the printer has not taken over yet.
static NEW_RINGS: Mutex<Vec<Consumer<u8>>> = Mutex::new(Vec::new());

thread_local! {
    static THREAD: RefCell<Option<ThreadLog>> = const { RefCell::new(None) };
    /// How deep in log statements this thread is: one may occur while another's arguments are
    /// formatted.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A thread's side of logging.
struct ThreadLog {
    ring: Producer<u8>,
    clock: Clock,
    frame: [u8; FRAME_BYTES_MAX],
    frame_bytes: usize,
    /// Whether the message is spoilt: too long, or another one inside it.
    spoilt: bool,
}

pub(super) fn enable(clock: Clock) {
    CLOCK.get_or_init(|| Mutex::new(clock));
    ENABLED.store(true, Ordering::Release);
}

pub(super) fn disable() {
    ENABLED.store(false, Ordering::Release);
}

pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Rings made since the last call.
pub(super) fn take_new_rings() -> Vec<Consumer<u8>> {
    std::mem::take(&mut *NEW_RINGS.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(super) fn attach_thread() {
    with_thread(|_| {});
}

/// Does `act` with this thread's side, made if need be. Does nothing if logging is off, or where
/// the thread is ending.
fn with_thread(act: impl FnOnce(&mut ThreadLog)) {
    if !ENABLED.load(Ordering::Acquire) {
        return;
    }
    let _ = THREAD.try_with(|thread| {
        let Ok(mut thread) = thread.try_borrow_mut() else { return };
        match &mut *thread {
            Some(log) => act(log),
            empty => {
                if let Some(log) = ThreadLog::new() {
                    act(empty.insert(log));
                }
            }
        }
    });
}

impl ThreadLog {
    #[cold]
    fn new() -> Option<Self> {
        let clock = CLOCK.get()?.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (ring, consumer) = spsc::ring(RING_BYTES);
        NEW_RINGS.lock().unwrap_or_else(PoisonError::into_inner).push(consumer);
        Some(Self { ring, clock, frame: [0; FRAME_BYTES_MAX], frame_bytes: 0, spoilt: false })
    }

    fn begin(&mut self, depth: u32) {
        if depth == 0 {
            self.frame_bytes = 0;
            self.spoilt = false;
        } else {
            self.spoilt = true;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self.frame.get_mut(self.frame_bytes..self.frame_bytes + bytes.len()) {
            Some(target) => target.copy_from_slice(bytes),
            None => {
                self.spoilt = true;
                return;
            }
        }
        self.frame_bytes += bytes.len();
    }

    fn end(&mut self) {
        let frame = &self.frame[..self.frame_bytes];
        let length = (frame.len() as u16).to_le_bytes();
        let time = self.clock.now().as_nanos().to_le_bytes();
        if self.spoilt || !self.ring.push_all(&[&length, &time, frame]) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[defmt::global_logger]
struct Logger;

// SAFETY: a thread is an execution context of its own. Acquiring is thread-safe, because it and
// everything after it touch what is the thread's own only; it does not panic when it is nested,
// which spoils the message instead.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        let depth = DEPTH.get();
        with_thread(|log| log.begin(depth));
        DEPTH.set(depth + 1);
    }

    unsafe fn flush() {}

    unsafe fn release() {
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        if depth == 0 {
            with_thread(ThreadLog::end);
        }
    }

    unsafe fn write(bytes: &[u8]) {
        with_thread(|log| log.write(bytes));
    }
}

/// Messages carry their time beside them, so defmt's own is empty.
///
/// Defined here because without it a test that is not linked for logging would not link at all.
#[unsafe(export_name = "_defmt_timestamp")]
fn timestamp(_: defmt::Formatter<'_>) {}

/// What `defmt::panic!` and `defmt::unwrap!` end in, after logging the reason.
#[defmt::panic_handler]
fn panic() -> ! {
    panic!("see the last message of the log")
}

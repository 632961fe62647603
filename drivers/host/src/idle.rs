//! What a poll loop does while there is nothing to do.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use dmrpc_core::time::Instant;

use crate::sys;

mod sleeper;

use sleeper::Sleeper;

/// Empty polls in a row before a yielding loop gives its core away, and a sleeping one sleeps.
///
/// A poll of a socket takes a few tenths of a microsecond: this is a few round trips.
const EMPTY_POLLS_MAX: u32 = 200;

/// Longest sleep, whatever the deadline: flags that signals set are looked at this often.
const SLEEP_MAX: StdDuration = StdDuration::from_millis(50);

/// What to do when polls find nothing. On the command line: `--idle busy|yield|sleep`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Poll on: the lowest latency, a whole core.
    #[default]
    Busy,
    /// After some empty polls, offer the core to other threads before each further one.
    Yield,
    /// After some empty polls, block until the device has something or a timer is due.
    Sleep,
}

/// The text is not the name of an idle strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIdleStrategy {
    /// The text.
    pub text: String,
}

impl fmt::Display for UnknownIdleStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not an idle strategy: give busy, yield or sleep", self.text)
    }
}

impl std::error::Error for UnknownIdleStrategy {}

impl FromStr for IdleStrategy {
    type Err = UnknownIdleStrategy;

    fn from_str(text: &str) -> Result<Self, UnknownIdleStrategy> {
        match text {
            "busy" => Ok(Self::Busy),
            "yield" => Ok(Self::Yield),
            "sleep" => Ok(Self::Sleep),
            _ => Err(UnknownIdleStrategy { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for IdleStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Busy => "busy",
            Self::Yield => "yield",
            Self::Sleep => "sleep",
        })
    }
}

/// Something that a poll loop can sleep on.
///
/// Everything with a file descriptor that turns readable when there is work is one: a UDP device,
/// or a pair of such a device and a [`Doorbell`], as [`WaitBoth`].
pub trait Wait {
    /// Says that the loop will call [`Wait::wait`] unless its next poll finds something.
    ///
    /// Who hands over work between that poll and the wait, or during it, must end the wait.
    fn announce(&self) {}

    /// Takes an announcement back: the poll after it found something.
    fn retract(&self) {}

    /// Blocks until there may be something to do, or `timeout` is over. Returns whether there may
    /// be something.
    fn wait(&self, timeout: StdDuration) -> bool;

    /// As [`Wait::wait`], with a bell that ends the wait, too. A device without a file descriptor,
    /// which naps, naps for a millisecond at most: the poll after it looks whether somebody rang.
    fn wait_with(&self, _doorbell: &Doorbell, timeout: StdDuration) -> bool {
        self.wait(timeout.min(BELL_LOOK))
    }
}

/// Longest wait during which a bell is not heard.
const BELL_LOOK: StdDuration = StdDuration::from_millis(1);

impl<T: AsFd> Wait for T {
    fn wait(&self, timeout: StdDuration) -> bool {
        sys::wait_readable([self.as_fd()], timeout)
    }

    fn wait_with(&self, doorbell: &Doorbell, timeout: StdDuration) -> bool {
        sys::wait_readable([self.as_fd(), doorbell.0.event.as_fd()], timeout)
    }
}

/// An idle strategy at work in one poll loop.
#[derive(Clone, Debug)]
pub struct Idle {
    strategy: IdleStrategy,
    empty_polls: u32,
    sleeps: u64,
}

impl Idle {
    /// Starts as after a poll that found something.
    pub fn new(strategy: IdleStrategy) -> Self {
        Self { strategy, empty_polls: 0, sleeps: 0 }
    }

    /// How often the loop slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Whether it never pauses: then no deadline need be known.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.strategy == IdleStrategy::Busy
    }

    /// To be called after every poll. `worked` tells whether the poll did anything; `now` is the
    /// time of the poll, `deadline` when the endpoint next wants to be polled in any case: no sleep
    /// outlasts it.
    #[inline]
    pub fn after_poll<W: Wait>(&mut self, worked: bool, now: Instant, deadline: Instant, wait: &W) {
        if self.strategy == IdleStrategy::Busy {
            return;
        }
        if worked {
            if self.empty_polls >= EMPTY_POLLS_MAX {
                wait.retract();
            }
            self.empty_polls = 0;
            return;
        }
        self.empty_polls = self.empty_polls.saturating_add(1);
        if self.empty_polls >= EMPTY_POLLS_MAX {
            self.pause(now, deadline, wait);
        }
    }

    #[cold]
    fn pause<W: Wait>(&mut self, now: Instant, deadline: Instant, wait: &W) {
        match self.strategy {
            IdleStrategy::Busy => {}
            IdleStrategy::Yield => std::thread::yield_now(),
            // One more poll after the announcement sees what was handed over before it.
            IdleStrategy::Sleep if self.empty_polls == EMPTY_POLLS_MAX => wait.announce(),
            IdleStrategy::Sleep => {
                let timeout = StdDuration::from_nanos(deadline.since(now).as_nanos());
                if !timeout.is_zero() {
                    self.sleeps += 1;
                    wait.wait(timeout.min(SLEEP_MAX));
                }
                // What woke the loop may be followed by more, but a timeout was not.
                self.empty_polls = EMPTY_POLLS_MAX - 1;
            }
        }
    }
}

/// Wakes a sleeping poll loop from other threads, at no system call while it is awake.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    /// An eventfd: readable once somebody wrote to it.
    event: File,
    sleeper: Sleeper,
}

impl Doorbell {
    /// Makes a bell.
    ///
    /// # Errors
    /// If the system is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let event = File::from(sys::open_event()?);
        Ok(Self(Arc::new(Bell { event, sleeper: Sleeper::new() })))
    }

    /// Wakes the loop if it sleeps or is about to. To be called after work was put where the
    /// loop's next poll sees it.
    pub fn ring(&self) {
        if self.0.sleeper.must_be_woken() {
            // It fails only if the counter is full, and then the bell rings anyway.
            let _ = (&self.0.event).write(&1_u64.to_ne_bytes());
        }
    }

    fn announce(&self) {
        self.0.sleeper.announce();
    }

    fn retract(&self) {
        self.0.sleeper.retract();
    }

    /// After a wait: silences the bell.
    fn silence(&self) {
        self.retract();
        // It fails if nobody rang.
        let _ = (&self.0.event).read(&mut [0; 8]);
    }
}

/// A device and a bell: the loop sleeps until either has something.
#[derive(Clone, Copy, Debug)]
pub struct WaitBoth<'a, D> {
    /// The device.
    pub device: &'a D,
    /// Rung by the threads that hand over work.
    pub doorbell: &'a Doorbell,
}

impl<D: Wait> Wait for WaitBoth<'_, D> {
    fn announce(&self) {
        self.doorbell.announce();
    }

    fn retract(&self) {
        self.doorbell.retract();
    }

    fn wait(&self, timeout: StdDuration) -> bool {
        let ready = self.device.wait_with(self.doorbell, timeout);
        self.doorbell.silence();
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmrpc_core::time::Duration;
    use std::cell::Cell;
    use std::net::UdpSocket;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn socket() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").expect("loopback")
    }

    #[test]
    fn names() {
        for strategy in [IdleStrategy::Busy, IdleStrategy::Yield, IdleStrategy::Sleep] {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        let error = "lazy".parse::<IdleStrategy>().expect_err("unknown").to_string();
        assert_eq!(error, "'lazy' is not an idle strategy: give busy, yield or sleep");
    }

    /// A device that naps, as pools do.
    struct Napping;

    impl Wait for Napping {
        fn wait(&self, timeout: StdDuration) -> bool {
            std::thread::sleep(timeout);
            false
        }
    }

    #[test]
    fn a_bell_beside_a_device_that_naps_is_looked_for_soon() {
        let bell = Doorbell::new().expect("a descriptor");
        let both = WaitBoth { device: &Napping, doorbell: &bell };
        let start = std::time::Instant::now();
        assert!(!both.wait(StdDuration::from_secs(60)));
        assert!(start.elapsed() < StdDuration::from_secs(5), "it slept through");
    }

    /// Polls until `idle` slept once; returns how long that took in all.
    fn sleep_once<W: Wait>(idle: &mut Idle, span: Duration, wait: &W) -> StdDuration {
        let start = std::time::Instant::now();
        let before = idle.sleeps();
        for _ in 0..2 * EMPTY_POLLS_MAX {
            idle.after_poll(false, Instant::ZERO, Instant::ZERO + span, wait);
            if idle.sleeps() > before {
                break;
            }
        }
        assert_eq!(idle.sleeps(), before + 1);
        start.elapsed()
    }

    #[test]
    fn sleep_ends_at_the_deadline() {
        let mut idle = Idle::new(IdleStrategy::Sleep);
        let took = sleep_once(&mut idle, Duration::from_millis(10), &socket());
        assert!(took >= StdDuration::from_millis(10), "{took:?}");
        let took = sleep_once(&mut idle, Duration::from_secs(3600), &socket());
        let awake = StdDuration::from_secs(60);
        assert!((SLEEP_MAX..awake).contains(&took), "{took:?}");
    }

    #[test]
    fn a_deadline_that_has_passed_does_not_sleep() {
        let (mut idle, wait) = (Idle::new(IdleStrategy::Sleep), socket());
        for _ in 0..10 * EMPTY_POLLS_MAX {
            idle.after_poll(false, Instant::from_nanos(5), Instant::from_nanos(5), &wait);
        }
        assert_eq!(idle.sleeps(), 0);
    }

    #[test]
    fn work_keeps_the_loop_awake() {
        let (mut idle, wait) = (Idle::new(IdleStrategy::Sleep), socket());
        for i in 0..10 * EMPTY_POLLS_MAX {
            idle.after_poll(i % EMPTY_POLLS_MAX == 0, Instant::ZERO, Instant::FAR_FUTURE, &wait);
        }
        assert_eq!(idle.sleeps(), 0);
    }

    /// A wait that counts how often nothing but its timeout ended it although a bell had been rung
    /// before that: on a busy machine any wait may take long, but none may miss a bell.
    struct Judged<'a> {
        both: WaitBoth<'a, UdpSocket>,
        start: std::time::Instant,
        /// Bells rung, and when the last of them had been, in nanoseconds from the start.
        rung: &'a [AtomicU64; 2],
        /// Bells whose work was done.
        done: Cell<u64>,
        missed: Cell<u32>,
    }

    impl Wait for Judged<'_> {
        fn announce(&self) {
            self.both.announce();
        }

        fn retract(&self) {
            self.both.retract();
        }

        fn wait(&self, timeout: StdDuration) -> bool {
            let end = self.start.elapsed() + timeout;
            let ready = self.both.wait(timeout);
            let [rung, at] = [0, 1].map(|word| self.rung[word].load(Ordering::SeqCst));
            if !ready && rung > self.done.get() && u128::from(at) < end.as_nanos() {
                self.missed.set(self.missed.get() + 1);
            }
            ready
        }
    }

    #[test]
    fn no_hand_over_is_slept_through() {
        let bell = Doorbell::new().expect("descriptors");
        let (work, rung) = (Arc::new(AtomicU64::new(0)), Arc::new([0, 0].map(AtomicU64::new)));
        let start = std::time::Instant::now();
        const ROUNDS: u64 = 300;
        let producer = {
            let (bell, work, rung) = (bell.clone(), work.clone(), rung.clone());
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    while work.load(Ordering::Acquire) != round * 2 {
                        std::thread::yield_now();
                    }
                    if round % 3 == 0 {
                        std::thread::sleep(StdDuration::from_micros(300));
                    }
                    work.store(round * 2 + 1, Ordering::Release);
                    bell.ring();
                    rung[1].store(start.elapsed().as_nanos() as u64, Ordering::SeqCst);
                    rung[0].store(round + 1, Ordering::SeqCst);
                }
            })
        };
        let (mut idle, device) = (Idle::new(IdleStrategy::Sleep), socket());
        let wait = Judged {
            both: WaitBoth { device: &device, doorbell: &bell },
            start,
            rung: &rung,
            done: Cell::new(0),
            missed: Cell::new(0),
        };
        let mut done = 0;
        while done < ROUNDS {
            let worked = work.load(Ordering::Acquire) == done * 2 + 1;
            if worked {
                done += 1;
                wait.done.set(done);
                work.store(done * 2, Ordering::Release);
            }
            idle.after_poll(worked, Instant::ZERO, Instant::FAR_FUTURE, &wait);
        }
        producer.join().expect("no panic");
        assert!(idle.sleeps() > 0);
        assert_eq!(wait.missed.get(), 0, "hand-overs were slept through");
    }
}

//! Control by delay, after Swift: Kumar et al., "Swift: Delay is Simple and Effective for
//! Congestion Control in the Datacenter", SIGCOMM 2020 (sections 3.1 and 3.2).
//!
//! Below the target the window grows by one packet a window; above, it shrinks by a part of the
//! excess, at most by half, once a round trip. Two things differ, because the receiver measures.
//! The target lies above the least delay seen, not above a constant, since what a round trip takes
//! ranges from 2 us over shared memory to 100 us through a kernel. And there is no pacing below
//! one packet: so many senders are kept apart by the receiver's shares.

use super::Controller;
use crate::time::{Duration, Instant};
use crate::wire::control::WINDOW_PACKETS_MAX;

/// The window counts in such parts of a packet.
const PARTS: u32 = 256;
/// Above the least delay by at least this, a queue is too long.
const QUEUE_NS: u64 = 50_000;
/// The least delay is forgotten after this: routes change.
const LEAST_FOR: Duration = Duration::from_secs(10);
/// The largest window, in packets.
const WINDOW_MAX: u32 = WINDOW_PACKETS_MAX as u32;

/// The state of one session.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Swift {
    window_parts: u32,
    least_ns: u64,
    least_until: Instant,
    /// Not to shrink again before.
    shrunk_until: Instant,
}

impl Swift {
    /// A window as large as can be: a lone message starts at full rate.
    pub(super) const NEW: Self = Self {
        window_parts: WINDOW_MAX * PARTS,
        least_ns: u64::MAX,
        least_until: Instant::ZERO,
        shrunk_until: Instant::ZERO,
    };

    fn target_ns(&self) -> u64 {
        self.least_ns + self.least_ns.max(QUEUE_NS)
    }
}

impl Controller for Swift {
    fn on_delay(&mut self, now: Instant, delay: Duration) {
        let delay_ns = delay.as_nanos().max(1);
        if delay_ns < self.least_ns || now >= self.least_until {
            self.least_ns = delay_ns;
            self.least_until = now + LEAST_FOR;
        }
        let target_ns = self.target_ns();
        if delay_ns <= target_ns {
            self.window_parts = (self.window_parts + PARTS).min(WINDOW_MAX * PARTS);
        } else if now >= self.shrunk_until {
            // 0.8 of the excess, as the paper has it, and half of the window at most.
            let parts = u64::from(self.window_parts);
            let cut = parts * 4 / 5 * (delay_ns - target_ns) / delay_ns;
            self.window_parts = (parts - cut.min(parts / 2)).max(u64::from(PARTS)) as u32;
            self.shrunk_until = now + delay;
        }
    }

    fn window(&self) -> u32 {
        self.window_parts / PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: fn(u64) -> Duration = Duration::from_micros;

    #[test]
    fn a_queue_shrinks_the_window_and_its_end_lets_it_grow() {
        let mut swift = Swift::NEW;
        let mut now = Instant::ZERO;
        let mut feel = |swift: &mut Swift, delay: Duration, times: u32| {
            for _ in 0..times {
                now = now + delay;
                swift.on_delay(now, delay);
            }
            swift.window()
        };
        assert_eq!(feel(&mut swift, US(10), 5), WINDOW_MAX);
        assert_eq!(feel(&mut swift, US(60), 5), WINDOW_MAX, "as long as a queue may be");
        let cut = feel(&mut swift, US(120), 1);
        assert!((WINDOW_MAX / 2..WINDOW_MAX).contains(&cut), "{cut}");
        assert_eq!(feel(&mut swift, US(500), 50), 1, "never nothing");
        assert_eq!(feel(&mut swift, US(10), 20), 21, "a packet at a time");
    }

    /// Two senders at one queue with these rules, one of which begins with all of it, come to
    /// share it.
    #[test]
    fn two_sessions_come_to_share() {
        let mut windows = [Swift::NEW; 2];
        windows[1].window_parts = PARTS;
        let mut now = Instant::ZERO;
        for _ in 0..5_000 {
            // A microsecond a packet under way, beyond the way itself.
            let under_way: u32 = windows.iter().map(Swift::window).sum();
            let delay = US(10 + u64::from(under_way));
            now = now + delay;
            for swift in &mut windows {
                swift.least_ns = 10_000;
                swift.least_until = Instant::FAR_FUTURE;
                swift.on_delay(now, delay);
            }
        }
        let [a, b] = windows.map(|swift| f64::from(swift.window_parts));
        assert!(a / b < 1.2 && b / a < 1.2, "{a} and {b}");
    }
}

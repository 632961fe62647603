//! Yardsticks: what the bare device allows, with the same datagrams and no protocol.
//!
//! [`respond`] is one side, [`RawClient`] the other, both over any
//! [`Device`]; [`socket`] has the same round trip over a socket without even a
//! device. All of them poll busily: run the two sides on two cores.

use std::fmt;
use std::net::SocketAddrV4;

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::time::{Duration, Instant};
use hdrhistogram::Histogram;

use crate::clock::Clock;

pub mod socket;

/// Shortest datagram of a yardstick, in bytes: its header.
pub const BYTES_MIN: usize = 8;

/// An answer that takes longer is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// As many losses with nothing in between mean that nobody answers.
const LOSSES_MAX: u64 = 10;

/// The header of a datagram. A request says how many bytes its answer has, 0 for none, and
/// carries a number; an answer carries the number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    answer_bytes: u32,
    number: u32,
}

/// Asks for the count of requests without an answer so far, and starts it anew.
const ANSWER_IS_COUNT: u32 = u32::MAX;

impl Header {
    fn emit(self, buffer: &mut [u8]) {
        buffer[..4].copy_from_slice(&self.answer_bytes.to_le_bytes());
        buffer[4..8].copy_from_slice(&self.number.to_le_bytes());
    }

    fn numbered(self, number: u32) -> Self {
        Self { number, ..self }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (answer_bytes, rest) = bytes.split_first_chunk()?;
        let (number, _) = rest.split_first_chunk()?;
        let answer_bytes = u32::from_le_bytes(*answer_bytes);
        Some(Self { answer_bytes, number: u32::from_le_bytes(*number) })
    }

    /// The answer to this request: how many bytes, and its header. `None` if it wants none.
    fn answer(self, count: &mut u32, bytes_max: usize) -> Option<(usize, Self)> {
        match self.answer_bytes {
            0 => {
                *count += 1;
                None
            }
            ANSWER_IS_COUNT => {
                let header = Self { answer_bytes: std::mem::take(count), number: self.number };
                Some((BYTES_MIN, header))
            }
            bytes => {
                let bytes = (bytes as usize).clamp(BYTES_MIN, bytes_max);
                Some((bytes, Self { answer_bytes: 0, number: self.number }))
            }
        }
    }
}

/// Why a yardstick could not be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawError {
    /// Nobody answers.
    NoAnswer {
        /// Who should.
        peer: SocketAddrV4,
    },
    /// A datagram of this size is not possible.
    Size {
        /// The size asked for, in bytes.
        bytes: usize,
        /// The largest that the device takes, in bytes.
        bytes_max: usize,
    },
}

impl fmt::Display for RawError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer { peer } => write!(
                f,
                "no answer from {peer}: {LOSSES_MAX} requests in a row were lost; start the \
                 responder there"
            ),
            Self::Size { bytes, bytes_max } => write!(
                f,
                "a datagram of {bytes} bytes cannot be measured: give {BYTES_MIN} to {bytes_max}"
            ),
        }
    }
}

impl std::error::Error for RawError {}

/// What a yardstick measured.
#[derive(Clone, Debug)]
pub struct RawResult {
    /// Times of round trips, in nanoseconds. Empty for a one-way yardstick.
    pub histogram: Histogram<u64>,
    /// Answers that came, or datagrams that arrived one way.
    pub count: u64,
    /// Datagrams that were lost.
    pub lost: u64,
    /// From the first datagram to the last.
    pub elapsed: Duration,
}

impl RawResult {
    fn new() -> Self {
        // A minute at three digits: more than any timeout here.
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("legal bounds");
        Self { histogram, count: 0, lost: 0, elapsed: Duration::ZERO }
    }

    fn record(&mut self, span: Duration) {
        self.count += 1;
        self.histogram.saturating_record(span.as_nanos());
    }

    /// Operations a second.
    pub fn ops_per_s(&self) -> f64 {
        self.count as f64 * 1e9 / self.elapsed.as_nanos().max(1) as f64
    }
}

/// Answers requests until `stop` says so, which is asked after every poll.
pub fn respond<D: Device>(device: &mut D, mut stop: impl FnMut() -> bool) {
    let bytes_max = device.capabilities().datagram_bytes_max;
    let mut count = 0;
    while !stop() {
        let (mut rx, mut tx) = device.split();
        let burst = rx.receive();
        for index in 0..burst {
            let (peer, bytes) = rx.packet(index);
            let answer = Header::parse(bytes).and_then(|h| h.answer(&mut count, bytes_max));
            let Some((bytes, header)) = answer else { continue };
            queue(&mut tx, peer, bytes, header);
        }
        if burst > 0 {
            tx.flush();
        }
    }
}

/// Queues a datagram, after a flush if there is no room. Returns whether there was room then.
fn queue<T: Tx>(tx: &mut T, peer: SocketAddrV4, bytes: usize, header: Header) -> bool {
    if let Some(buffer) = tx.push(peer, bytes) {
        header.emit(buffer);
        return true;
    }
    tx.flush();
    match tx.push(peer, bytes) {
        Some(buffer) => header.emit(buffer),
        None => return false,
    }
    true
}

/// The measuring side.
#[derive(Debug)]
pub struct RawClient<'a, D> {
    device: &'a mut D,
    peer: SocketAddrV4,
    clock: Clock,
    next_number: u32,
}

/// Requests in flight: the number of the oldest that may still be answered, and how many are.
#[derive(Clone, Copy, Debug)]
struct Flight {
    base: u32,
    count: u32,
}

impl<'a, D: Device> RawClient<'a, D> {
    /// A client that measures against the responder at `peer`.
    pub fn new(device: &'a mut D, peer: SocketAddrV4) -> Self {
        Self { device, peer, clock: Clock::new(), next_number: 0 }
    }

    fn check(&self, bytes: usize) -> Result<(), RawError> {
        let bytes_max = self.device.capabilities().datagram_bytes_max;
        if !(BYTES_MIN..=bytes_max).contains(&bytes) {
            return Err(RawError::Size { bytes, bytes_max });
        }
        Ok(())
    }

    /// `raw_rtt`: `count` round trips, one after the other.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn rtt(
        &mut self,
        request_bytes: usize,
        answer_bytes: usize,
        count: u64,
    ) -> Result<RawResult, RawError> {
        self.echo(request_bytes, answer_bytes, 1, count)
    }

    /// `raw_echo`: `count` round trips, `window` of them at a time.
    ///
    /// # Errors
    /// [`RawError`].
    ///
    /// # Panics
    /// If `window` is 0.
    pub fn echo(
        &mut self,
        request_bytes: usize,
        answer_bytes: usize,
        window: u32,
        count: u64,
    ) -> Result<RawResult, RawError> {
        assert!(window > 0);
        self.check(request_bytes)?;
        self.check(answer_bytes)?;
        let mut result = RawResult::new();
        let mut sent_at = vec![Instant::ZERO; window as usize];
        let mut flight = Flight { base: self.next_number, count: 0 };
        let mut losses = 0;
        let start = self.clock.now();
        let mut progress = start;
        while result.count < count {
            let (mut rx, mut tx) = self.device.split();
            let header = Header { answer_bytes: answer_bytes as u32, number: 0 };
            let mut queued = 0;
            while flight.count < window
                && queue(&mut tx, self.peer, request_bytes, header.numbered(self.next_number))
            {
                sent_at[(self.next_number % window) as usize] = self.clock.now();
                self.next_number = self.next_number.wrapping_add(1);
                flight.count += 1;
                queued += 1;
            }
            if queued > 0 {
                tx.flush();
            }
            let burst = rx.receive();
            let now = self.clock.now();
            for index in 0..burst {
                let Some(header) = Header::parse(rx.packet(index).1) else { continue };
                let age = header.number.wrapping_sub(flight.base);
                if age < self.next_number.wrapping_sub(flight.base) && flight.count > 0 {
                    result.record(now.since(sent_at[(header.number % window) as usize]));
                    flight.count -= 1;
                    losses = 0;
                    progress = now;
                }
            }
            if now.since(progress) > ANSWER_TIMEOUT {
                result.lost += u64::from(flight.count);
                losses += 1;
                if losses == LOSSES_MAX {
                    return Err(RawError::NoAnswer { peer: self.peer });
                }
                flight = Flight { base: self.next_number, count: 0 };
                progress = now;
            }
        }
        result.elapsed = self.clock.now().since(start);
        Ok(result)
    }

    /// `raw_oneway`: sends for `span` as fast as the device takes, and counts what arrived.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn oneway(&mut self, bytes: usize, span: Duration) -> Result<RawResult, RawError> {
        self.check(bytes)?;
        self.count_of_arrived()?;
        let mut result = RawResult::new();
        let header = Header { answer_bytes: 0, number: 0 };
        let mut sent = 0;
        let start = self.clock.now();
        while self.clock.now().since(start) < span {
            let (_, mut tx) = self.device.split();
            for _ in 0..32 {
                sent += u64::from(queue(&mut tx, self.peer, bytes, header));
            }
            tx.flush();
        }
        result.elapsed = self.clock.now().since(start);
        result.count = u64::from(self.count_of_arrived()?);
        result.lost = sent.saturating_sub(result.count);
        Ok(result)
    }

    /// Asks the responder how many one-way datagrams arrived since it was last asked.
    fn count_of_arrived(&mut self) -> Result<u32, RawError> {
        for _ in 0..LOSSES_MAX {
            let number = self.next_number;
            self.next_number = self.next_number.wrapping_add(1);
            let (mut rx, mut tx) = self.device.split();
            let header = Header { answer_bytes: ANSWER_IS_COUNT, number };
            queue(&mut tx, self.peer, BYTES_MIN, header);
            tx.flush();
            let start = self.clock.now();
            while self.clock.now().since(start) < ANSWER_TIMEOUT {
                tx.flush();
                for index in 0..rx.receive() {
                    match Header::parse(rx.packet(index).1) {
                        Some(header) if header.number == number => return Ok(header.answer_bytes),
                        _ => {}
                    }
                }
            }
        }
        Err(RawError::NoAnswer { peer: self.peer })
    }
}

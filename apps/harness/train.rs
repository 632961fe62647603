//! The bare device with messages of several datagrams: a *train* one way, a train back, no protocol
//! between. What a long `read`, `write` or `rpc` would cost if nothing had to be acknowledged.

use std::net::SocketAddrV4;

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;
use dmrpc_host::raw::RawError;

use crate::block::{Block, Tally};
use crate::frames::Frames;

/// A train that takes longer is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// So many losses in a row mean that nobody answers.
const LOSSES_MAX: u32 = 10;

/// First bytes of each datagram.
const HEADER_BYTES: usize = 16;

/// What every datagram of a train says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Number of the round trip.
    number: u32,
    /// Datagrams in this train.
    count: u16,
    /// Datagrams in the answer.
    answer_count: u16,
    /// Length of the answer's full datagrams, in bytes.
    answer_full_bytes: u32,
    /// Length of the answer's last datagram, in bytes.
    answer_last_bytes: u32,
}

impl Header {
    fn emit(self, buffer: &mut [u8]) {
        buffer[..4].copy_from_slice(&self.number.to_le_bytes());
        buffer[4..6].copy_from_slice(&self.count.to_le_bytes());
        buffer[6..8].copy_from_slice(&self.answer_count.to_le_bytes());
        buffer[8..12].copy_from_slice(&self.answer_full_bytes.to_le_bytes());
        buffer[12..16].copy_from_slice(&self.answer_last_bytes.to_le_bytes());
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        Some(Self {
            number: u32_at(0),
            count: u16_at(4),
            answer_count: u16_at(6),
            answer_full_bytes: u32_at(8),
            answer_last_bytes: u32_at(12),
        })
    }

    /// The train that answers this one, if its lengths make sense.
    fn answer(self, bytes_max: usize) -> Option<Frames> {
        let full_bytes = self.answer_full_bytes as usize;
        let last_bytes = self.answer_last_bytes as usize;
        let legal = HEADER_BYTES..=bytes_max;
        let possible = legal.contains(&full_bytes) && legal.contains(&last_bytes);
        (possible && self.answer_count > 0).then_some(Frames {
            count: self.answer_count.into(),
            full_bytes,
            last_bytes,
        })
    }
}

/// Sends a train, flushing as often as the device's queue needs.
fn send<T: Tx>(tx: &mut T, peer: SocketAddrV4, frames: Frames, header: Header) {
    for index in 0..frames.count {
        let bytes = frames.bytes(index);
        let mut tries = 0;
        loop {
            if let Some(buffer) = tx.push(peer, bytes) {
                header.emit(buffer);
                break;
            }
            tx.flush();
            tries += 1;
            // The kernel does not take it: the other end sees a loss.
            if tries > 1000 {
                return;
            }
        }
    }
    tx.flush();
}

/// Answers trains until `stop` says so, which is asked after every poll.
pub fn respond<D: Device>(device: &mut D, mut stop: impl FnMut() -> bool) {
    let bytes_max = device.capabilities().datagram_bytes_max;
    let (mut number, mut arrived) = (0, 0);
    while !stop() {
        let (mut rx, mut tx) = device.split();
        for index in 0..rx.receive() {
            let (peer, bytes) = rx.packet(index);
            let Some(header) = Header::parse(bytes) else { continue };
            if header.number != number {
                (number, arrived) = (header.number, 0);
            }
            arrived += 1;
            if arrived != header.count {
                continue;
            }
            if let Some(frames) = header.answer(bytes_max) {
                send(&mut tx, peer, frames, header);
            }
        }
    }
}

/// The measuring side.
#[derive(Debug)]
pub struct TrainClient<D> {
    device: D,
    peer: SocketAddrV4,
    number: u32,
}

impl<D: Device> TrainClient<D> {
    /// A client that measures against the responder at `peer`.
    pub fn new(device: D, peer: SocketAddrV4) -> Self {
        Self { device, peer, number: 0 }
    }

    /// A block of round trips, one after the other.
    ///
    /// # Errors
    /// [`RawError::NoAnswer`].
    pub fn rtt(
        &mut self,
        clock: &Clock,
        block: &mut Block,
        request: Frames,
        answer: Frames,
    ) -> Result<Tally, RawError> {
        let mut tally = Tally::new();
        let mut losses = 0;
        while block.more(clock, tally.count) {
            self.number = self.number.wrapping_add(1);
            let header = Header {
                number: self.number,
                count: request.count as u16,
                answer_count: answer.count as u16,
                answer_full_bytes: answer.full_bytes as u32,
                answer_last_bytes: answer.last_bytes as u32,
            };
            let start = clock.now();
            {
                let (_, mut tx) = self.device.split();
                send(&mut tx, self.peer, request, header);
            }
            if self.wait(clock, answer.count) {
                tally.record(clock.now().since(start));
                losses = 0;
            } else {
                tally.errors += 1;
                losses += 1;
                if losses == LOSSES_MAX {
                    return Err(RawError::NoAnswer { peer: self.peer });
                }
            }
        }
        Ok(tally)
    }

    /// Waits for the whole answer. Returns whether it came.
    fn wait(&mut self, clock: &Clock, count: usize) -> bool {
        let start = clock.now();
        let mut arrived = 0;
        loop {
            let (mut rx, mut tx) = self.device.split();
            for index in 0..rx.receive() {
                let header = Header::parse(rx.packet(index).1);
                arrived += usize::from(header.is_some_and(|header| header.number == self.number));
            }
            if arrived == count {
                return true;
            }
            tx.flush();
            if clock.now().since(start) > ANSWER_TIMEOUT {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Budget;
    use dmrpc_udp::{UdpConfig, UdpDevice};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn trains_of_all_lengths_come_back() {
        let open = || UdpDevice::open(UdpConfig::LOOPBACK).expect("loopback");
        let (mut server, client) = (open(), open());
        let peer = server.local_addr();
        let stop = AtomicBool::new(false);
        let clock = Clock::new();
        std::thread::scope(|scope| {
            scope.spawn(|| respond(&mut server, || stop.load(Ordering::Relaxed)));
            let mut client = TrainClient::new(client, peer);
            for (request, answer) in [(16, 16), (100, 100_000), (1 << 20, 16), (50_000, 50_000)] {
                let (request, answer) = (Frames::of(request, 9000), Frames::of(answer, 9000));
                let mut block = Block::start(&clock, Budget::Count(5));
                let tally = client.rtt(&clock, &mut block, request, answer).expect("it answers");
                assert_eq!((tally.count, tally.histogram.len()), (5, 5));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

//! The bare socket: `sendto` and `recvfrom`, one datagram at a time, busy polling.
//!
//! What a round trip through the UDP device and the protocol is compared with.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use dmrpc_core::time::Instant;

use super::{ANSWER_TIMEOUT, BYTES_MIN, Header, LOSSES_MAX, RawError, RawResult};
use crate::clock::Clock;

/// Largest datagram here: the largest of UDP over IPv4.
const BYTES_MAX: usize = 65_507;

/// A socket with its buffer.
#[derive(Debug)]
pub struct RawSocket {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl RawSocket {
    /// Binds `address`.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(address: SocketAddrV4) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, buffer: vec![0; BYTES_MAX] })
    }

    /// The address bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddrV4> {
        match self.socket.local_addr()? {
            SocketAddr::V4(address) => Ok(address),
            SocketAddr::V6(_) => Err(io::Error::other("bound to IPv4, named as IPv6")),
        }
    }

    /// Receives a datagram of a yardstick, if one is there.
    fn receive(&mut self) -> Option<(Header, SocketAddr)> {
        let (bytes, peer) = self.socket.recv_from(&mut self.buffer).ok()?;
        Some((Header::parse(&self.buffer[..bytes])?, peer))
    }

    /// Sends `bytes` bytes. What the kernel does not take is lost, which the client notices.
    fn send(&mut self, header: Header, bytes: usize, peer: SocketAddr) {
        header.emit(&mut self.buffer);
        let _ = self.socket.send_to(&self.buffer[..bytes], peer);
    }

    /// Answers requests until `stop` says so, which is asked after every poll.
    pub fn respond(&mut self, mut stop: impl FnMut() -> bool) {
        let mut count = 0;
        while !stop() {
            let Some((request, peer)) = self.receive() else { continue };
            if let Some((bytes, header)) = request.answer(&mut count, BYTES_MAX) {
                self.send(header, bytes, peer);
            }
        }
    }

    /// `raw_rtt`: `count` round trips to the responder at `peer`, one after the other.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn rtt(
        &mut self,
        clock: &Clock,
        peer: SocketAddrV4,
        request_bytes: usize,
        answer_bytes: usize,
        count: u64,
    ) -> Result<RawResult, RawError> {
        for bytes in [request_bytes, answer_bytes] {
            if !(BYTES_MIN..=BYTES_MAX).contains(&bytes) {
                return Err(RawError::Size { bytes, bytes_max: BYTES_MAX });
            }
        }
        let mut result = RawResult::new();
        let mut losses = 0;
        let mut number = clock.now().as_nanos() as u32;
        let start = clock.now();
        while result.count < count {
            number = number.wrapping_add(1);
            let sent_at = clock.now();
            let header = Header { answer_bytes: answer_bytes as u32, number };
            self.send(header, request_bytes, peer.into());
            match self.wait_for(clock, number, sent_at) {
                Some(now) => {
                    result.record(now.since(sent_at));
                    losses = 0;
                }
                None => {
                    result.lost += 1;
                    losses += 1;
                    if losses == LOSSES_MAX {
                        return Err(RawError::NoAnswer { peer });
                    }
                }
            }
        }
        result.elapsed = clock.now().since(start);
        Ok(result)
    }

    /// Waits for the answer with `number`. `None` if it is lost.
    fn wait_for(&mut self, clock: &Clock, number: u32, sent_at: Instant) -> Option<Instant> {
        loop {
            let received = self.receive();
            let now = clock.now();
            match received {
                Some((header, _)) if header.number == number => return Some(now),
                _ if now.since(sent_at) > ANSWER_TIMEOUT => return None,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

    #[test]
    fn round_trips() {
        let mut responder = RawSocket::bind(LOOPBACK).expect("loopback");
        let peer = responder.local_addr().expect("bound");
        let stop = AtomicBool::new(false);
        let clock = Clock::new();
        std::thread::scope(|scope| {
            scope.spawn(|| responder.respond(|| stop.load(Ordering::Relaxed)));
            let mut client = RawSocket::bind(LOOPBACK).expect("loopback");
            for (request, answer) in [(8, 8), (64, 4096), (65_507, 65_507)] {
                let result = client.rtt(&clock, peer, request, answer, 50).expect("it answers");
                assert_eq!((result.count, result.histogram.len()), (50, 50));
                assert!(result.histogram.min() > 100);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn nobody_there_and_wrong_sizes() {
        let clock = Clock::new();
        let mut client = RawSocket::bind(LOOPBACK).expect("loopback");
        let silent = RawSocket::bind(LOOPBACK).expect("loopback");
        let peer = silent.local_addr().expect("bound");
        let error = client.rtt(&clock, peer, 64, 64, 1).expect_err("nobody answers");
        assert_eq!(error, RawError::NoAnswer { peer });
        let error = client.rtt(&clock, peer, 7, 64, 1).expect_err("too short").to_string();
        assert!(error.contains("7 bytes"), "{error}");
    }
}

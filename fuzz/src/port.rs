//! The Ethernet port with any frames: nothing panics, what it takes for a datagram lies within its
//! frame, and it sends no more than it was given reason to.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::port::{
    EthernetPort, FrameCapabilities, FrameDevice, FrameRx, FrameTx, PortAddress,
};
use dmrpc_core::time::Instant;

use crate::bytes::Choices;

const FRAME_BYTES: usize = 1514;
const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7400);

#[derive(Default)]
struct Wire {
    /// Shared with the target, which is the other end.
    incoming: Rc<RefCell<Vec<Vec<u8>>>>,
    receiving: Vec<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

struct WireRx<'a>(&'a RefCell<Vec<Vec<u8>>>, &'a mut Vec<Vec<u8>>);
struct WireTx<'a>(&'a mut Vec<Vec<u8>>);

impl FrameDevice for Wire {
    type Rx<'a> = WireRx<'a>;
    type Tx<'a> = WireTx<'a>;

    fn capabilities(&self) -> FrameCapabilities {
        FrameCapabilities { frame_bytes_max: FRAME_BYTES, burst_max: 32 }
    }

    fn split(&mut self) -> (WireRx<'_>, WireTx<'_>) {
        (WireRx(&self.incoming, &mut self.receiving), WireTx(&mut self.outgoing))
    }
}

impl FrameRx for WireRx<'_> {
    fn receive(&mut self) -> usize {
        let mut incoming = self.0.borrow_mut();
        let burst = incoming.len().min(32);
        *self.1 = incoming.drain(..burst).collect();
        burst
    }

    fn frame(&self, index: usize) -> &[u8] {
        &self.1[index]
    }
}

impl FrameTx for WireTx<'_> {
    fn push(&mut self, bytes: usize) -> Option<&mut [u8]> {
        assert!(bytes <= FRAME_BYTES, "a frame of {bytes} bytes");
        if self.0.len() >= 64 {
            return None;
        }
        self.0.push(vec![0xA5; bytes]);
        self.0.last_mut().map(|frame| &mut frame[..])
    }

    fn flush(&mut self) {}
}

/// A frame that gets further than noise: `kind` picks the headers, the rest is the input's.
fn dressed(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60 + rest.len());
    frame.extend(if kind & 8 == 0 { HARDWARE } else { [0xFF; 6] });
    frame.extend([2, 0, 0, 0, 0, 2]);
    let ip = |protocol: u8, length: usize| {
        let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        header[2..4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
        let words =
            header.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
        let sum: u32 = words.sum();
        let check = !((sum & 0xFFFF) + (sum >> 16)) as u16;
        header[10..12].copy_from_slice(&check.to_be_bytes());
        header
    };
    match kind % 4 {
        0 => frame.extend(rest),
        1 => {
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(rest);
        }
        2 => {
            frame.extend([8, 0]);
            frame.extend(ip(1, rest.len()));
            frame.extend(rest);
        }
        _ => {
            frame.extend([8, 0]);
            frame.extend(ip(17, 8 + rest.len()));
            frame.extend([0, 9]);
            frame.extend(OURS.port().to_be_bytes());
            frame.extend(((8 + rest.len()) as u16).to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(rest);
        }
    }
    frame.truncate(FRAME_BYTES);
    frame
}

/// Runs the frames and datagrams that `data` stands for.
pub fn run(data: &[u8]) {
    let mut data = Choices::new(data);
    let wire = Wire::default();
    let incoming = Rc::clone(&wire.incoming);
    let address = PortAddress {
        hardware: HARDWARE,
        address: OURS,
        prefix_bits: 24,
        gateway: Some(Ipv4Addr::new(10, 0, 0, 254)),
    };
    let mut now = Instant::from_nanos(1_000);
    let mut port = EthernetPort::new(wire, address, 7, now);
    let (mut received, mut reasons) = (0, 0);
    for _ in 0..64 {
        if data.is_empty() {
            break;
        }
        let what = data.u8();
        match what % 4 {
            0 => {
                let peer = Ipv4Addr::new(10, 0, 0, data.u8());
                let (_, mut tx) = port.split();
                if let Some(buffer) = tx.push(SocketAddrV4::new(peer, 9), usize::from(what)) {
                    buffer.fill(what);
                }
                tx.flush();
                reasons += 1;
            }
            1 => {
                now = now + dmrpc_core::time::Duration::from_millis(u64::from(what));
                port.maintain(now);
                reasons += 1;
            }
            _ => {
                let length = usize::from(data.u8()) * 6;
                let frame = dressed(what >> 2, data.take(length));
                incoming.borrow_mut().push(frame);
                let (mut rx, mut tx) = port.split();
                let burst = rx.receive();
                received += burst;
                for index in 0..burst {
                    let (peer, datagram) = rx.packet(index);
                    assert!(datagram.len() <= FRAME_BYTES);
                    if let Some(buffer) = tx.push(peer, datagram.len()) {
                        buffer.copy_from_slice(datagram);
                    }
                }
                tx.flush();
                reasons += 2;
            }
        }
        port.maintain(now);
        reasons += 1;
    }
    let sent = port.driver().outgoing.len();
    // An answer, a question and an echo for each reason, at most.
    assert!(sent <= 3 * reasons, "{sent} frames for {received} datagrams and {reasons} reasons");
    let counters = port.counters();
    assert!(counters.slow_full <= counters.slow);
}

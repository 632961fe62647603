//! Datagrams of every size through the rings, each answered with its bytes inverted.

use std::time::{Duration, Instant};

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_cxl::device::address_of;
use dmrpc_cxl::{Participant, RingDevice};

use crate::{Failure, ensure};

/// How long the other side may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Says that no more datagrams come.
const LAST: u64 = u64::MAX;

fn content(number: u64, bytes: &mut [u8]) {
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = (number as usize * 31 + position * 7) as u8;
    }
    bytes[..8].copy_from_slice(&number.to_le_bytes());
}

fn send(device: &mut RingDevice, to: u32, bytes: &[u8]) -> Result<(), Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        let (_, mut tx) = device.split();
        if let Some(buffer) = tx.push(address_of(to), bytes.len()) {
            buffer.copy_from_slice(bytes);
            tx.flush();
            return Ok(());
        }
        ensure(Instant::now() < end, "a ring stayed full")?;
        std::thread::yield_now();
    }
}

/// Asks `peer` `count` times, each time as many bytes as fit or fewer.
pub(crate) fn ask(device: &mut RingDevice, peer: u32, count: u64) -> Result<(), Failure> {
    let bytes_max = device.capabilities().datagram_bytes_max;
    let mut bytes = vec![0; bytes_max];
    for number in 0..count {
        let length = 8 + (number as usize * 97) % (bytes_max - 7);
        content(number, &mut bytes[..length]);
        send(device, peer, &bytes[..length])?;
        let end = Instant::now() + PATIENCE;
        loop {
            let (mut rx, _) = device.split();
            if rx.receive() > 0 {
                let (from, answer) = rx.packet(0);
                ensure(from == address_of(peer), "an answer of somebody else")?;
                let inverted = answer.iter().zip(&bytes[..length]).all(|(a, b)| *a == !*b);
                ensure(answer.len() == length && inverted, "an answer with wrong bytes")?;
                break;
            }
            ensure(Instant::now() < end, "no answer")?;
            std::thread::yield_now();
        }
    }
    send(device, peer, &LAST.to_le_bytes())
}

/// Answers until the other side says that it was the last; how many there were.
pub(crate) fn answer(device: &mut RingDevice, own: &mut Participant) -> Result<u64, Failure> {
    let mut count = 0;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        own.beat();
        let (mut rx, mut tx) = device.split();
        for index in 0..rx.receive() {
            let (from, bytes) = rx.packet(index);
            if bytes == LAST.to_le_bytes() {
                return Ok(count);
            }
            if let Some(buffer) = tx.push(from, bytes.len()) {
                buffer.iter_mut().zip(bytes).for_each(|(to, byte)| *to = !byte);
            }
            count += 1;
        }
        tx.flush();
        std::thread::yield_now();
    }
    Err("nobody asked until the end".into())
}

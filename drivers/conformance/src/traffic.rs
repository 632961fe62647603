//! Sending and receiving with patience, and payloads that tell if they were damaged.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use dmrpc_core::device::{Device, Rx, Tx};

use crate::Harness;

/// How long something that must come is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Empty polls after which nothing more is expected.
const QUIET_POLLS: usize = 200;

/// A datagram that came: from whom, and its bytes.
pub(crate) type Came = (SocketAddrV4, Vec<u8>);

/// Byte `position` of the payload with number `seed`.
pub(crate) fn pattern(seed: usize, position: usize) -> u8 {
    // Neighbouring bytes and neighbouring payloads differ, and no period is a power of two.
    ((seed * 7919 + position * 31 + position / 251) % 253) as u8
}

/// A payload with number `seed`.
pub(crate) fn payload(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|position| pattern(seed, position)).collect()
}

/// Waits until `step` returns something.
///
/// # Panics
/// With `what` if that takes too long.
pub(crate) fn until<H: Harness, T>(
    harness: &mut H,
    what: &str,
    mut step: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = step() {
            return value;
        }
        assert!(Instant::now() < end, "no {what} within {PATIENCE:?}");
        harness.settle();
    }
}

/// Queues `bytes` to `peer`, flushing and waiting for room if there is none.
pub(crate) fn queue<H: Harness>(
    harness: &mut H,
    device: &mut H::Device,
    peer: SocketAddrV4,
    bytes: &[u8],
) {
    until(harness, "room to send", || {
        let (_, mut tx) = device.split();
        if let Some(buffer) = tx.push(peer, bytes.len()) {
            assert_eq!(buffer.len(), bytes.len(), "length of the buffer to fill");
            buffer.copy_from_slice(bytes);
            return Some(());
        }
        tx.flush();
        None
    });
}

/// Hands over what is queued.
pub(crate) fn flush<D: Device>(device: &mut D) {
    device.split().1.flush();
}

/// Sends one datagram.
pub(crate) fn send<H: Harness>(
    harness: &mut H,
    device: &mut H::Device,
    peer: SocketAddrV4,
    bytes: &[u8],
) {
    queue(harness, device, peer, bytes);
    flush(device);
}

/// One receive. Returns all that came with it.
pub(crate) fn receive<D: Device>(device: &mut D) -> Vec<Came> {
    let burst_max = device.capabilities().burst_max;
    let (mut rx, _) = device.split();
    let count = rx.receive();
    assert!(count <= burst_max, "a burst of {count}, at most {burst_max} are stated");
    (0..count)
        .map(|index| {
            let (peer, bytes) = rx.packet(index);
            (peer, bytes.to_vec())
        })
        .collect()
}

/// Receives until `count` datagrams have come.
pub(crate) fn collect<H: Harness>(
    harness: &mut H,
    device: &mut H::Device,
    count: usize,
) -> Vec<Came> {
    let mut all = Vec::new();
    let what = format!("burst of {count} datagrams");
    until(harness, &what, || {
        device.split().1.flush();
        all.extend(receive(device));
        (all.len() >= count).then_some(())
    });
    assert_eq!(all.len(), count, "datagrams received");
    all
}

/// Checks that nothing more comes.
pub(crate) fn quiet<H: Harness>(harness: &mut H, device: &mut H::Device) {
    for _ in 0..QUIET_POLLS {
        let came = receive(device);
        assert!(came.is_empty(), "{} datagrams that nobody sent", came.len());
        harness.settle();
    }
}

/// Checks that what came is what `peer` sent.
pub(crate) fn expect(came: &Came, peer: SocketAddrV4, bytes: &[u8]) {
    assert_eq!(came.0, peer, "address of the sender");
    assert_eq!(came.1.len(), bytes.len(), "length of the datagram");
    let wrong = came.1.iter().zip(bytes).position(|(a, b)| a != b);
    assert_eq!(wrong, None, "first wrong byte of {}", bytes.len());
}

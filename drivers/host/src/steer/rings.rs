//! Frames on their way from one lane to another: copied into buffers that go round.

use crate::spsc::{Consumer, Producer, ring};

/// A frame in a buffer.
#[derive(Debug)]
pub(super) struct Parcel {
    buffer: Box<[u8]>,
    bytes: usize,
}

impl Parcel {
    pub(super) fn frame(&self) -> &[u8] {
        &self.buffer[..self.bytes]
    }
}

/// Where one lane puts frames for another.
pub(super) struct Outgoing {
    full: Producer<Parcel>,
    empty: Consumer<Box<[u8]>>,
}

/// Where the other finds them.
pub(super) struct Incoming {
    full: Consumer<Parcel>,
    empty: Producer<Box<[u8]>>,
}

/// A way from one lane to another for so many frames of so many bytes.
pub(super) fn way(frames: usize, frame_bytes_max: usize) -> (Outgoing, Incoming) {
    let (full, full_end) = ring(frames);
    let (mut empty, empty_end) = ring(frames);
    for _ in 0..frames {
        let pushed = empty.push(vec![0; frame_bytes_max].into_boxed_slice());
        debug_assert!(pushed.is_ok(), "there is room for all");
    }
    (Outgoing { full, empty: empty_end }, Incoming { full: full_end, empty })
}

impl Outgoing {
    /// Hands over a copy of a frame. False if there is no room, now or ever.
    pub(super) fn hand_over(&mut self, frame: &[u8]) -> bool {
        let Some(mut buffer) = self.empty.pop() else { return false };
        let fits = frame.len() <= buffer.len();
        if fits {
            buffer[..frame.len()].copy_from_slice(frame);
        }
        // There are as many buffers as places. One that is too short comes back as an empty frame.
        let bytes = if fits { frame.len() } else { 0 };
        self.full.push(Parcel { buffer, bytes }).is_ok() && fits
    }
}

impl Incoming {
    pub(super) fn take(&mut self) -> Option<Parcel> {
        self.full.pop()
    }

    pub(super) fn give_back(&mut self, parcel: Parcel) {
        // There are as many places as buffers.
        let _ = self.empty.push(parcel.buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_in_order_and_buffers_go_round() {
        let (mut outgoing, mut incoming) = way(4, 100);
        for round in 0..50u8 {
            for number in 0..4 {
                assert!(outgoing.hand_over(&[round, number]));
            }
            assert!(!outgoing.hand_over(&[9]), "no room");
            for number in 0..4 {
                let parcel = incoming.take().expect("four");
                assert_eq!(parcel.frame(), [round, number]);
                incoming.give_back(parcel);
            }
            assert!(incoming.take().is_none());
        }
        assert!(!outgoing.hand_over(&[0; 101]), "too long");
        assert_eq!(incoming.take().expect("an empty one").frame(), b"");
    }
}

//! A switch with as many plugs as anybody wants, each a driver of raw frames.

use std::cell::RefCell;
use std::rc::Rc;

use dmrpc_core::port::{FrameCapabilities, FrameDevice, FrameRx, FrameTx};

/// Frames that wait in one plug, on either side.
pub(crate) const QUEUE_FRAMES: usize = 64;
const FRAME_BYTES_MAX: usize = 1514;
const BURST: usize = 32;

/// Frames in a ring of buffers that are made once.
struct Queue {
    frames: Vec<(usize, [u8; FRAME_BYTES_MAX])>,
    first: usize,
    count: usize,
}

impl Queue {
    fn new() -> Self {
        Self { frames: vec![(0, [0; FRAME_BYTES_MAX]); QUEUE_FRAMES], first: 0, count: 0 }
    }

    fn push(&mut self, bytes: usize) -> Option<&mut [u8]> {
        if self.count == QUEUE_FRAMES {
            return None;
        }
        let at = (self.first + self.count) % QUEUE_FRAMES;
        self.count += 1;
        let (length, buffer) = &mut self.frames[at];
        *length = bytes;
        Some(&mut buffer[..bytes])
    }

    fn pop_into(&mut self, burst: &mut (usize, [u8; FRAME_BYTES_MAX])) -> bool {
        if self.count == 0 {
            return false;
        }
        *burst = self.frames[self.first];
        self.first = (self.first + 1) % QUEUE_FRAMES;
        self.count -= 1;
        true
    }
}

/// Who is at a plug, and what waits there.
type Station = ([u8; 6], Queue);

#[derive(Clone)]
pub(crate) struct Switch(Rc<RefCell<Vec<Station>>>);

impl Switch {
    pub(crate) fn new() -> Self {
        Self(Rc::default())
    }

    pub(crate) fn plug(&self, hardware: [u8; 6]) -> Plug {
        self.0.borrow_mut().push((hardware, Queue::new()));
        Plug {
            switch: self.clone(),
            number: self.0.borrow().len() - 1,
            burst: vec![(0, [0; FRAME_BYTES_MAX]); BURST],
            outgoing: Queue::new(),
        }
    }

    /// Brings a frame to whom it is for, or to everybody else.
    fn deliver(&self, from: usize, frame: &[u8]) {
        let group = frame[0] & 1 != 0;
        for (number, (hardware, queue)) in self.0.borrow_mut().iter_mut().enumerate() {
            if number != from
                && (group || *hardware == frame[..6])
                && let Some(buffer) = queue.push(frame.len())
            {
                buffer.copy_from_slice(frame);
            }
        }
    }
}

pub(crate) struct Plug {
    switch: Switch,
    number: usize,
    burst: Vec<(usize, [u8; FRAME_BYTES_MAX])>,
    outgoing: Queue,
}

pub(crate) struct PlugRx<'a> {
    switch: &'a Switch,
    number: usize,
    burst: &'a mut Vec<(usize, [u8; FRAME_BYTES_MAX])>,
}

pub(crate) struct PlugTx<'a> {
    switch: &'a Switch,
    number: usize,
    outgoing: &'a mut Queue,
}

impl FrameDevice for Plug {
    type Rx<'a> = PlugRx<'a>;
    type Tx<'a> = PlugTx<'a>;

    fn capabilities(&self) -> FrameCapabilities {
        FrameCapabilities { frame_bytes_max: FRAME_BYTES_MAX, burst_max: BURST }
    }

    fn split(&mut self) -> (PlugRx<'_>, PlugTx<'_>) {
        let (switch, number) = (&self.switch, self.number);
        let rx = PlugRx { switch, number, burst: &mut self.burst };
        (rx, PlugTx { switch, number, outgoing: &mut self.outgoing })
    }
}

impl FrameRx for PlugRx<'_> {
    fn receive(&mut self) -> usize {
        let queue = &mut self.switch.0.borrow_mut()[self.number].1;
        self.burst.iter_mut().map_while(|frame| queue.pop_into(frame).then_some(())).count()
    }

    fn frame(&self, index: usize) -> &[u8] {
        let (bytes, frame) = &self.burst[index];
        &frame[..*bytes]
    }
}

impl FrameTx for PlugTx<'_> {
    fn push(&mut self, bytes: usize) -> Option<&mut [u8]> {
        assert!(bytes <= FRAME_BYTES_MAX, "{bytes} bytes do not fit a frame");
        self.outgoing.push(bytes)
    }

    fn flush(&mut self) {
        let mut frame = (0, [0; FRAME_BYTES_MAX]);
        while self.outgoing.pop_into(&mut frame) {
            self.switch.deliver(self.number, &frame.1[..frame.0]);
        }
    }
}

//! The sending half of a device over rings.

use std::net::SocketAddrV4;

use dmrpc_core::device::Tx;
use dmrpc_core::memory::Memory;
use dmrpc_core::wire::direct::DIRECT_HEADER_BYTES;

use super::{NOBODY, REFUSALS_MAX, RingStats, participant_at};
use crate::ring::{Producer, Rings};

/// What is known of a receiver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    producer: Producer,
    /// Pushes that found the ring full since one did not.
    refusals: u32,
    /// Whether the receiver was told that this participant sends to it.
    joined: bool,
}

impl Peer {
    /// A receiver that nothing was sent to yet.
    pub(super) fn new(producer: Producer) -> Self {
        Self { producer, refusals: 0, joined: false }
    }
}

/// The datagram that is being written: its receiver, if there is one, and its length.
#[derive(Clone, Copy, Debug)]
struct Staged {
    peer: u32,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Send {
    peers: Box<[Peer]>,
    /// Peers that something was written for since the last flush, a bit each.
    touched: u64,
    buffer: Box<[u8]>,
    staged: Option<Staged>,
    pub(super) stats: RingStats,
}

impl Send {
    pub(super) fn new(peers: Box<[Peer]>, datagram_bytes: usize) -> Self {
        let buffer = vec![0; datagram_bytes].into();
        Self { peers, touched: 0, buffer, staged: None, stats: RingStats::default() }
    }

    /// Puts the datagram that was written last into its ring.
    #[inline(always)]
    fn commit(&mut self, rings: &Rings, memory: &impl Memory, own: u32) {
        if let Some(Staged { peer, bytes }) = self.staged.take()
            && let Some(to) = self.peers.get_mut(peer as usize)
        {
            to.producer.put(rings, memory, &self.buffer[..bytes]);
            self.has_put(rings, memory, own, peer);
        }
    }

    /// The same where another follows, which is not the path of a lone datagram.
    #[inline(never)]
    fn commit_early(&mut self, rings: &Rings, memory: &impl Memory, own: u32) {
        self.commit(rings, memory, own);
    }

    /// Puts a datagram of two parts for participant `peer`. Returns false if its ring is full.
    #[inline(always)]
    fn put<const N: usize>(
        &mut self,
        rings: &Rings,
        memory: &impl Memory,
        (own, peer): (u32, u32),
        header: &[u8; N],
        message: &[u8],
    ) -> bool {
        if let Some(to) = self.peers.get_mut(peer as usize)
            && to.producer.has_room(rings, memory)
        {
            to.refusals = 0;
            to.producer.put_parts(rings, memory, header, message);
            self.touched |= 1 << peer;
            self.has_put(rings, memory, own, peer);
            return true;
        }
        // True if it was dropped.
        self.admit(rings, memory, peer) == Some(false)
    }

    /// Something was put into the ring to participant `peer`.
    #[inline(always)]
    fn has_put(&mut self, rings: &Rings, memory: &impl Memory, own: u32, peer: u32) {
        self.stats.sent += 1;
        let to = &mut self.peers[peer as usize];
        if !to.joined {
            to.joined = true;
            rings.join(memory, own, peer);
        }
    }

    /// Whether a datagram can be put for participant `index`; `None` to try again later.
    #[inline(always)]
    fn admit(&mut self, rings: &Rings, memory: &impl Memory, index: u32) -> Option<bool> {
        let Some(peer) = self.peers.get_mut(index as usize) else {
            self.stats.dropped_nobody += 1;
            return Some(false);
        };
        if peer.producer.has_room(rings, memory) {
            peer.refusals = 0;
            self.touched |= 1 << index;
            return Some(true);
        }
        if peer.refusals < REFUSALS_MAX {
            peer.refusals += 1;
            return None;
        }
        self.stats.dropped_full += 1;
        Some(false)
    }
}

/// The sending half of a [`RingDevice`](super::RingDevice).
#[derive(Debug)]
pub struct RingTx<'a, M> {
    pub(super) memory: &'a M,
    pub(super) rings: &'a Rings,
    pub(super) own: u32,
    pub(super) state: &'a mut Send,
}

impl<M: Memory> Tx for RingTx<'_, M> {
    const CAN_BE_LOSSLESS: bool = true;

    #[inline]
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        let bytes_max = self.state.buffer.len();
        assert!(bytes <= bytes_max, "a datagram of {bytes} bytes, at most {bytes_max}");
        let (state, rings) = (&mut *self.state, self.rings);
        if state.staged.is_some() {
            state.commit_early(rings, self.memory, self.own);
        }
        let peer = participant_at(peer).unwrap_or(NOBODY);
        let admitted = state.admit(rings, self.memory, peer)?;
        state.staged = admitted.then_some(Staged { peer, bytes });
        Some(&mut state.buffer[..bytes])
    }

    #[inline(always)]
    fn put(
        &mut self,
        peer: SocketAddrV4,
        header: &[u8; DIRECT_HEADER_BYTES],
        message: &[u8],
    ) -> bool {
        let (state, rings) = (&mut *self.state, self.rings);
        let (bytes, bytes_max) = (header.len() + message.len(), state.buffer.len());
        assert!(bytes <= bytes_max, "a datagram of {bytes} bytes, at most {bytes_max}");
        if state.staged.is_some() {
            state.commit_early(rings, self.memory, self.own);
        }
        let index = participant_at(peer).unwrap_or(NOBODY);
        state.put(rings, self.memory, (self.own, index), header, message)
    }

    /// Most polls send nothing: those cost one comparison.
    #[inline(always)]
    fn flush(&mut self) {
        if self.state.touched != 0 {
            self.flush_touched();
        }
    }
}

impl<M: Memory> RingTx<'_, M> {
    /// Puts what was written last into its ring, and rings where that is wanted.
    #[inline]
    fn flush_touched(&mut self) {
        let state = &mut *self.state;
        state.commit(self.rings, self.memory, self.own);
        while state.touched != 0 {
            let index = state.touched.trailing_zeros();
            state.touched &= state.touched - 1;
            self.rings.ring_bell(self.memory, self.own, index);
        }
    }
}

//! A device that sends from memory that it was lent, and keeps it as long as it likes.
//!
//! What was lent is read late, as a device does that fetches bytes by itself: a loan is held for a
//! drawn number of flushes, then copied into a datagram of the device below, or lost, and given
//! back a drawn number of flushes after that.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use dmrpc_core::device::{Capabilities, Device, Tx};
use dmrpc_core::memory::Loan;

use crate::random::Random;

/// Datagrams that wait to be sent.
const WAITING_MAX: usize = 256;

/// How long loans are kept, and what is lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keeping {
    /// Flushes until a datagram's bytes are read, at most.
    pub read_after_max: u64,
    /// Flushes until a loan is given back after that, at most.
    pub return_after_max: u64,
    /// Of so many datagrams one is lost; 0 for none.
    pub lose_one_in: u64,
    /// Of so many datagrams one has a bit flipped; 0 for none.
    pub spoil_one_in: u64,
}

/// A datagram whose bytes have not been read yet.
struct Waiting {
    peer: SocketAddrV4,
    head: Vec<u8>,
    loan: Loan,
    ticket: u8,
    due: u64,
}

struct Kept {
    keeping: Keeping,
    random: Random,
    flushes: u64,
    waiting: VecDeque<Waiting>,
    /// Tickets to be given back, and when.
    sent: Vec<(u64, u8)>,
}

/// `D`, which sends from memory that it was lent.
pub struct Borrowing<D> {
    device: D,
    kept: Kept,
}

impl<D> Borrowing<D> {
    /// A device above `device`.
    pub fn new(device: D, keeping: Keeping, seed: u64) -> Self {
        let random = Random::new(seed);
        let (waiting, sent) = (VecDeque::new(), Vec::new());
        Self { device, kept: Kept { keeping, random, flushes: 0, waiting, sent } }
    }

    /// Loans that it has.
    pub fn loans(&self) -> usize {
        self.kept.waiting.len() + self.kept.sent.len()
    }

    /// From now on loans are kept so long.
    pub fn keep(&mut self, keeping: Keeping) {
        self.kept.keeping = keeping;
        let now = self.kept.flushes;
        for datagram in &mut self.kept.waiting {
            datagram.due = datagram.due.min(now + keeping.read_after_max);
        }
        for (due, _) in &mut self.kept.sent {
            *due = (*due).min(now + keeping.return_after_max);
        }
    }
}

impl<D: Device> Device for Borrowing<D> {
    type Rx<'a>
        = D::Rx<'a>
    where
        Self: 'a;
    type Tx<'a>
        = BorrowingTx<'a, D>
    where
        Self: 'a;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn receive_queue(&self) -> usize {
        self.device.receive_queue()
    }

    fn borrows(&self) -> bool {
        true
    }

    fn split(&mut self) -> (D::Rx<'_>, BorrowingTx<'_, D>) {
        let (rx, tx) = self.device.split();
        (rx, BorrowingTx { tx, kept: &mut self.kept })
    }
}

/// The sending half of a [`Borrowing`] device.
pub struct BorrowingTx<'a, D: Device + 'a> {
    tx: D::Tx<'a>,
    kept: &'a mut Kept,
}

impl<D: Device> BorrowingTx<'_, D> {
    /// Sends a datagram whose time has come. Returns false if there is no room.
    fn send(&mut self, datagram: &Waiting) -> bool {
        let Kept { keeping, random, .. } = &mut *self.kept;
        if keeping.lose_one_in > 0 && random.below(keeping.lose_one_in) == 0 {
            return true;
        }
        let head = datagram.head.len();
        let Some(out) = self.tx.push(datagram.peer, head + datagram.loan.bytes()) else {
            return false;
        };
        out[..head].copy_from_slice(&datagram.head);
        datagram.loan.copy_to(&mut out[head..]);
        if keeping.spoil_one_in > 0 && random.below(keeping.spoil_one_in) == 0 {
            let bit = random.below(8 * out.len() as u64);
            out[bit as usize / 8] ^= 1 << (bit % 8);
        }
        true
    }
}

impl<D: Device> Tx for BorrowingTx<'_, D> {
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        self.tx.push(peer, bytes)
    }

    fn flush(&mut self) {
        self.kept.flushes += 1;
        let now = self.kept.flushes;
        for _ in 0..self.kept.waiting.len() {
            let Some(datagram) = self.kept.waiting.pop_front() else { break };
            if datagram.due > now || !self.send(&datagram) {
                self.kept.waiting.push_back(datagram);
                continue;
            }
            let Kept { keeping, random, sent, .. } = &mut *self.kept;
            sent.push((now + random.below(keeping.return_after_max + 1), datagram.ticket));
        }
        self.tx.flush();
    }

    fn path_bytes(&self, peer: SocketAddrV4) -> Option<usize> {
        self.tx.path_bytes(peer)
    }

    fn borrows(&self, _: SocketAddrV4) -> bool {
        true
    }

    fn push_borrowed(
        &mut self,
        peer: SocketAddrV4,
        bytes: usize,
        loan: &Loan,
        ticket: u8,
    ) -> Option<&mut [u8]> {
        let Kept { keeping, random, flushes, waiting, .. } = &mut *self.kept;
        if waiting.len() == WAITING_MAX {
            return None;
        }
        let due = *flushes + random.below(keeping.read_after_max + 1);
        waiting.push_back(Waiting { peer, head: vec![0; bytes], loan: *loan, ticket, due });
        waiting.back_mut().map(|datagram| &mut datagram.head[..])
    }

    fn returned(&mut self) -> Option<(u8, u32)> {
        let Kept { flushes, sent, .. } = &mut *self.kept;
        let at = sent.iter().position(|(due, _)| due <= flushes)?;
        let (_, ticket) = sent.swap_remove(at);
        Some((ticket, 1))
    }
}

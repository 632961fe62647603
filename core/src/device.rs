//! The driver seam: how packets enter and leave the core.
//!
//! A device moves *datagrams*: the payload of one UDP packet and the IPv4 address and port of the
//! other end. It works in bursts and comes apart into a receiving and a sending half that are
//! borrowed independently, so that a packet can be answered while it still lies in its receive
//! buffer: nothing is copied on the way in, and the response is built where the device will send
//! it from.
//!
//! Drivers that hand over raw Ethernet frames are wrapped by the core's Ethernet port, which
//! turns frames into datagrams and answers ARP and ICMP.

use core::net::SocketAddrV4;

use crate::memory::Loan;
use crate::wire::direct::DIRECT_HEADER_BYTES;

/// What a device can do. Fixed for the life of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest datagram (UDP payload), in bytes, that the device sends and receives whole.
    pub datagram_bytes_max: usize,
    /// Most datagrams that one [`Rx::receive`] hands over.
    pub burst_max: usize,
}

/// [`Device::receive_queue`] of a device that says nothing else, in datagrams.
pub const RECEIVE_QUEUE: usize = 128;

/// A device: one queue pair, owned by one endpoint on one core.
pub trait Device {
    /// The receiving half.
    type Rx<'a>: Rx
    where
        Self: 'a;
    /// The sending half.
    type Tx<'a>: Tx
    where
        Self: 'a;

    /// What this device can do.
    fn capabilities(&self) -> Capabilities;

    /// Datagrams that may come in between two receives without a loss, as far as the driver knows:
    /// what an endpoint may have under way to it.
    fn receive_queue(&self) -> usize {
        RECEIVE_QUEUE
    }

    /// Whether what arrives is what was sent, bit for bit, as far as the driver knows: payloads
    /// need no checksum then. No network is like that.
    fn keeps_bytes(&self) -> bool {
        false
    }

    /// Whether there is nothing between the two ends but memory: a full queue holds its sender up,
    /// nothing is lost, and what takes long is an end that is busy elsewhere. Control by delay has
    /// nothing to control there.
    fn is_memory(&self) -> bool {
        false
    }

    /// Whether what is sent arrives, in the order in which it was sent, unless its receiver ends or
    /// stands still: nobody needs to wait for a loss then. Only of devices that keep bytes.
    fn is_lossless(&self) -> bool {
        false
    }

    /// Whether [`Tx::flush`] takes no system call, so that it need not be put off until there is
    /// more to hand over.
    fn flushes_cheaply(&self) -> bool {
        false
    }

    /// Whether datagrams may end with bytes that are sent from where they lie, to whom
    /// [`Tx::borrows`] says. Such bytes are of memory that stays for ever: who would lend is to
    /// know that before it takes its memory.
    fn borrows(&self) -> bool {
        false
    }

    /// Both halves, borrowed side by side for one poll.
    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>);

    /// Lets `work` use both halves. A device that is one of several kinds finds out which it is
    /// here, once, rather than at each packet.
    #[inline(always)]
    fn lend<W: Work>(&mut self, work: W) -> W::Output {
        let (rx, tx) = self.split();
        work.run(rx, tx)
    }
}

/// What is done with both halves of a [`Device`] of whatever kind.
pub trait Work {
    /// What it comes to.
    type Output;

    /// Does it.
    fn run<R: Rx, T: Tx>(self, rx: R, tx: T) -> Self::Output;
}

/// The receiving half of a [`Device`]. Buffers are the device's from receive to release.
pub trait Rx {
    /// Takes in a burst: at most [`Capabilities::burst_max`] datagrams. Returns how many.
    ///
    /// Releases the buffers of the previous burst. Never blocks.
    fn receive(&mut self) -> usize;

    /// Datagram `index` of the burst: who sent it, and its bytes.
    ///
    /// # Panics
    /// If `index` is not below what the last [`Rx::receive`] returned.
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]);
}

/// The sending half of a [`Device`].
pub trait Tx {
    /// Whether a device of this kind may be lossless ([`Device::is_lossless`]). Where none can be,
    /// no usual packet is asked whether its header is the short one.
    const CAN_BE_LOSSLESS: bool = false;

    /// Queues a datagram of exactly `bytes` bytes to `peer` and returns the buffer to fill.
    ///
    /// The buffer's contents are unspecified before the caller has written all of it. `None` means
    /// that the device has no room now: nothing was queued, and the caller tries again in a later
    /// poll. A datagram queued is not a datagram delivered.
    ///
    /// # Panics
    /// If `bytes` exceeds [`Capabilities::datagram_bytes_max`].
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]>;

    /// Queues a datagram of `header` and `message`, for devices that need not keep it whole before
    /// they hand it over. Returns false if there is no room now, as [`Tx::push`] does.
    ///
    /// # Panics
    /// As [`Tx::push`].
    #[inline]
    fn put(
        &mut self,
        peer: SocketAddrV4,
        header: &[u8; DIRECT_HEADER_BYTES],
        message: &[u8],
    ) -> bool {
        let Some(datagram) = self.push(peer, DIRECT_HEADER_BYTES + message.len()) else {
            return false;
        };
        let (front, rest) = datagram.split_at_mut(DIRECT_HEADER_BYTES);
        front.copy_from_slice(header);
        rest.copy_from_slice(message);
        true
    }

    /// Hands all queued datagrams to the medium. Never blocks: what the medium does not take stays
    /// queued, or is dropped and counted, as the driver documents.
    fn flush(&mut self);

    /// Largest datagram, in bytes, that the way to `peer` takes in one piece, if the device knows
    /// it to be less than what it sends itself. Asked when a session is opened, not a packet.
    fn path_bytes(&self, peer: SocketAddrV4) -> Option<usize> {
        let _ = peer;
        None
    }

    /// Whether datagrams to `peer` can end with bytes that are sent from where they lie.
    #[inline(always)]
    fn borrows(&self, peer: SocketAddrV4) -> bool {
        let _ = peer;
        false
    }

    /// As [`Tx::push`], of a datagram that ends with the bytes of `loan`: returns the `bytes` bytes
    /// before. What was queued so is given back by [`Tx::returned`] under the name `ticket`, once,
    /// whatever becomes of the datagram. Only for peers that the device borrows for, and `bytes` is
    /// even: devices sum up checksums a word at a time, piece by piece.
    fn push_borrowed(
        &mut self,
        peer: SocketAddrV4,
        bytes: usize,
        loan: &Loan,
        ticket: u8,
    ) -> Option<&mut [u8]> {
        let _ = (peer, bytes, loan, ticket);
        None
    }

    /// Loans that the device has no more use for since it was last asked: their ticket, and how
    /// many. To be asked until there are none.
    #[inline(always)]
    fn returned(&mut self) -> Option<(u8, u32)> {
        None
    }
}

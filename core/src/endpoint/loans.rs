//! What devices have of the host's bytes: sources that packets were sent from without copying.
//!
//! A source is released when its message is over *and* its device has given back all of it.

use super::Endpoint;
use super::host::{Host, Source};
use super::transmit::Io;
use super::turn::PacketOf;
use crate::device::Tx;
use crate::memory::Loan;
use crate::wire::packet::HEADER_BYTES;

/// Sources that may be lent at a time; others are copied. Half of the pins of the smallest pool: a
/// device that gives nothing back does not use them up.
const SOURCES_MAX: usize = 32;

/// Shorter payloads are copied: that is less work than a loan.
const LENT_BYTES_MIN: u32 = 512;

/// One source of which a device has, or had, something.
#[derive(Clone, Copy, Debug)]
struct Entry {
    source: Source,
    /// Loans that the device has not given back.
    out: u32,
    /// The message is over: the last loan that comes back releases the source.
    over: bool,
}

/// Bytes of a source that lie together, of which packets of a turn are parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Where in the source it begins.
    from: u32,
    loan: Loan,
}

impl Stretch {
    /// The `bytes` bytes from `offset` of `source`: of `stretch` if it has them, else of another
    /// that takes its place, of `most` bytes at most. `None` if the host has to supply them.
    #[inline]
    pub(super) fn part<H: Host>(
        stretch: &mut Option<Self>,
        host: &mut H,
        source: Source,
        (offset, bytes, most): (u32, u32, u32),
    ) -> Option<Loan> {
        if bytes < LENT_BYTES_MIN {
            return None;
        }
        if let Some(Self { from, loan }) = stretch
            && let Some(at) = offset.checked_sub(*from)
            && let Some(part) = loan.part(at, bytes)
        {
            return Some(part);
        }
        let loan = host.lend(source, offset, bytes, most)?;
        *stretch = Some(Self { from: offset, loan });
        loan.part(0, bytes)
    }
}

/// All that is lent.
#[derive(Debug)]
pub(super) struct Loans {
    entries: [Entry; SOURCES_MAX],
    /// Entries in use, a bit each.
    used: u32,
    /// The one that was asked for last.
    last: usize,
}

impl Loans {
    pub(super) const NONE: Self = Self {
        entries: [Entry { source: Source(0), out: 0, over: false }; SOURCES_MAX],
        used: 0,
        last: 0,
    };

    /// Whether nothing is lent, nor was of a message that is not over.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn is_of(&self, index: usize, source: Source) -> bool {
        let entry = &self.entries[index];
        self.used & 1 << index != 0 && entry.source == source && !entry.over
    }

    fn find(&self, source: Source) -> Option<usize> {
        if self.is_of(self.last, source) {
            return Some(self.last);
        }
        (0..SOURCES_MAX).find(|index| self.is_of(*index, source))
    }

    /// The number that loans of `source` have; `None` if too many sources are lent already.
    #[inline]
    pub(super) fn ticket(&mut self, source: Source) -> Option<u8> {
        if !self.is_of(self.last, source) {
            self.last = match self.find(source) {
                Some(index) => index,
                None => {
                    let index = self.used.trailing_ones() as usize;
                    *self.entries.get_mut(index)? = Entry { source, out: 0, over: false };
                    self.used |= 1 << index;
                    index
                }
            };
        }
        Some(self.last as u8)
    }

    /// The device has one more of `ticket`.
    #[inline]
    fn lent(&mut self, ticket: u8) {
        self.entries[usize::from(ticket)].out += 1;
    }

    /// Seals and queues a packet whose payload is `loan`, of `ticket`. Returns whether there was
    /// room.
    #[inline]
    pub(super) fn send<T: Tx>(
        &mut self,
        tx: &mut T,
        packet: &PacketOf<'_>,
        (ticket, loan): (u8, Loan),
    ) -> bool {
        let Some(datagram) = tx.push_borrowed(packet.peer, HEADER_BYTES, &loan, ticket) else {
            return false;
        };
        let header = datagram.first_chunk_mut().expect("room for a header");
        loan.look(|payload| packet.put(header, payload));
        packet.finish(header);
        self.lent(ticket);
        true
    }

    /// The message that `source` belongs to is over. Returns whether it may be released now.
    #[inline]
    pub(super) fn end(&mut self, source: Source) -> bool {
        self.is_empty() || self.end_lent(source)
    }

    #[inline(never)]
    fn end_lent(&mut self, source: Source) -> bool {
        let Some(index) = self.find(source) else { return true };
        let entry = &mut self.entries[index];
        entry.over = true;
        if entry.out == 0 {
            self.used &= !(1 << index);
        }
        entry.out == 0
    }

    /// The device has given back `count` loans of `ticket`. Returns the source if it is to be
    /// released now.
    ///
    /// # Panics
    /// If it never had as many: whoever releases too early lets bytes change under a device.
    pub(super) fn returned(&mut self, ticket: u8, count: u32) -> Option<Source> {
        let index = usize::from(ticket);
        assert!(self.used & 1 << index != 0, "loan {ticket} was never made");
        let entry = &mut self.entries[index];
        assert!(count <= entry.out, "{count} loans of {ticket} came back, {} were out", entry.out);
        entry.out -= count;
        if entry.out > 0 || !entry.over {
            return None;
        }
        self.used &= !(1 << index);
        Some(entry.source)
    }
}

impl Endpoint<'_> {
    /// Takes back what the device has no more use for.
    #[inline(never)]
    pub(super) fn take_back<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>) {
        while let Some((ticket, count)) = io.tx.returned() {
            if let Some(source) = self.loans.returned(ticket, count) {
                io.host.release(source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_released_once_by_whichever_comes_last() {
        let mut loans = Loans::NONE;
        assert!(loans.end(Source(7)), "never lent");
        let ticket = loans.ticket(Source(7)).expect("room");
        assert_eq!(loans.ticket(Source(7)), Some(ticket));
        loans.lent(ticket);
        loans.lent(ticket);
        assert_eq!(loans.returned(ticket, 1), None);
        assert!(!loans.end(Source(7)), "the device has one");
        assert_eq!(loans.returned(ticket, 1), Some(Source(7)));
        assert!(loans.is_empty());

        let ticket = loans.ticket(Source(8)).expect("room");
        loans.lent(ticket);
        assert_eq!(loans.returned(ticket, 1), None, "its message is not over");
        assert!(loans.end(Source(8)));
        assert!(loans.is_empty());
    }

    #[test]
    fn a_name_that_is_used_again_is_another_source() {
        let mut loans = Loans::NONE;
        let first = loans.ticket(Source(7)).expect("room");
        loans.lent(first);
        assert!(!loans.end(Source(7)));
        let second = loans.ticket(Source(7)).expect("room");
        assert_ne!(first, second);
        loans.lent(second);
        assert_eq!(loans.returned(first, 1), Some(Source(7)));
        assert_eq!(loans.returned(second, 1), None);
    }

    #[test]
    fn no_more_sources_are_lent_than_there_is_room_for() {
        let mut loans = Loans::NONE;
        let tickets = (0..100).filter_map(|number| loans.ticket(Source(number))).count();
        assert_eq!(tickets, SOURCES_MAX);
        assert!(loans.end(Source(99)), "that one was copied");
        assert!(loans.end(Source(3)));
        assert_eq!(loans.ticket(Source(99)), Some(3));
    }

    #[test]
    #[should_panic(expected = "came back")]
    fn what_was_not_lent_does_not_come_back() {
        let mut loans = Loans::NONE;
        let ticket = loans.ticket(Source(1)).expect("room");
        loans.returned(ticket, 1);
    }
}

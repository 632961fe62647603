//! What a queue pair's device has of others' memory: bytes that packets are sent from.

use std::sync::Arc;

use dpdk_sys as dpdk;

use crate::account::Account;
use crate::error::DpdkError;
use crate::kind::Kind;
use crate::port::Port;
use crate::sys;

/// Names that loans can have.
pub(crate) const TICKETS: usize = 64;
/// Looks for loans without any after which a port is asked to give back what it has sent.
const LOOKS_A_CLEANUP: u32 = 64;

/// Whether packets may end with bytes that are sent from where they lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopyTransmit {
    /// Where it was found to be faster.
    #[default]
    Auto,
    /// Yes, or the port is refused.
    On,
    /// No.
    Off,
}

/// Whether packets of a port may end with bytes that are sent from where they lie.
pub(crate) fn borrows(
    name: &str,
    kind: &Kind,
    info: &dpdk::rte_eth_dev_info,
    asked: ZeroCopyTransmit,
) -> Result<bool, DpdkError> {
    let can = kind.copies_what_it_sends() && info.tx_offload_capa & sys::several_pieces() != 0;
    match asked {
        ZeroCopyTransmit::On if !can => {
            Err(DpdkError::CopiesOnly { port: name.to_owned(), driver: kind.to_string() })
        }
        ZeroCopyTransmit::On => Ok(true),
        ZeroCopyTransmit::Auto => Ok(can && kind.pays_to_borrow()),
        ZeroCopyTransmit::Off => Ok(false),
    }
}

/// Loans that are put on an account at a time, so that not each of them costs an atomic addition.
const CHARGE: u16 = 64;
/// Most loans of a ticket that may be out: an account counts to less than 65,535.
const OUT_MAX: u16 = u16::MAX - 2 * CHARGE;

/// What the device has of others' memory, by ticket.
pub(crate) struct Loans {
    port: Arc<Port>,
    queue: u16,
    /// Loans that are out as far as our user knows.
    known: [u16; TICKETS],
    /// Loans that are on the account and not made yet.
    credit: [u16; TICKETS],
    /// Tickets of which something is out, a bit each.
    out: u64,
    /// Looks in a row that found nothing.
    looks: u32,
}

impl Loans {
    /// Nothing is lent yet by queue pair `queue` of `port`.
    pub(crate) fn new(port: Arc<Port>, queue: u16) -> Self {
        // What is on the accounts was not used by who had the queue pair before: if any of it were
        // out, the port would not borrow any more.
        let credit = std::array::from_fn(|ticket| port.accounts(queue)[ticket].charged());
        Self { port, queue, known: [0; TICKETS], credit, out: 0, looks: 0 }
    }

    /// One more loan of `ticket`: returns the account that it is on.
    ///
    /// # Panics
    /// If more are out than can be counted.
    #[inline]
    pub(crate) fn lent(&mut self, ticket: u8) -> &Account {
        let index = usize::from(ticket);
        let account = &self.port.accounts(self.queue)[index];
        if self.credit[index] == 0 {
            assert!(self.known[index] < OUT_MAX, "{} loans of {ticket} are out", self.known[index]);
            account.charge(CHARGE);
            self.credit[index] = CHARGE;
        }
        self.credit[index] -= 1;
        self.known[index] += 1;
        self.out |= 1 << index;
        account
    }

    /// Loans that came back, of one ticket: which, and how many.
    #[inline]
    pub(crate) fn returned(&mut self) -> Option<(u8, u32)> {
        let mut out = self.out;
        while out != 0 {
            let index = out.trailing_zeros() as usize;
            out &= out - 1;
            let now = self.port.accounts(self.queue)[index].charged() - self.credit[index];
            let count = self.known[index] - now;
            if count == 0 {
                continue;
            }
            self.known[index] = now;
            if now == 0 {
                self.out &= !(1 << index);
            }
            self.looks = 0;
            return Some((index as u8, count.into()));
        }
        None
    }

    /// Whether so many looks have found nothing, though something is out, that the device may be
    /// idle and keep what it has sent.
    #[inline]
    pub(crate) fn is_time_to_ask(&mut self) -> bool {
        self.looks += u32::from(self.out != 0);
        let idle = self.looks >= LOOKS_A_CLEANUP;
        if idle {
            self.looks = 0;
        }
        idle
    }
}

impl Drop for Loans {
    fn drop(&mut self) {
        // What came back since the last look is no reason.
        while self.returned().is_some() {}
        // What comes back later would be counted for the next user of the queue.
        if self.out != 0 {
            self.port.stop_borrowing();
        }
    }
}

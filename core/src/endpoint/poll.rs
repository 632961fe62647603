//! What a poll does, in which order: what others wait for first.

use super::host::{Host, SessionId};
use super::transmit::Io;
use super::{Call, Endpoint, Polled, StartError};
use crate::device::{Device, Rx, Tx, Work};
use crate::endpoint::host::CallId;
use crate::time::Instant;

/// Packets of a burst that name no session here and are answered by a reset. A flood of such is not
/// worth an answer each; whoever is not answered asks again.
const RESETS_A_BURST: u8 = 8;

/// One poll, for a device of any kind.
struct Poll<'a, 'm, H> {
    endpoint: &'a mut Endpoint<'m>,
    now: Instant,
    host: &'a mut H,
}

impl<H: Host> Work for Poll<'_, '_, H> {
    type Output = Polled;

    #[inline(always)]
    fn run<R: Rx, T: Tx>(self, mut rx: R, mut tx: T) -> Polled {
        self.endpoint.poll_halves(self.now, &mut rx, &mut tx, self.host)
    }
}

/// One look, for a device of any kind.
struct Look<'a, 'm, C, H> {
    endpoint: &'a mut Endpoint<'m>,
    clock: C,
    host: &'a mut H,
}

impl<C: FnOnce() -> Instant, H: Host> Work for Look<'_, '_, C, H> {
    type Output = Option<(Instant, Polled)>;

    #[inline(always)]
    fn run<R: Rx, T: Tx>(self, mut rx: R, mut tx: T) -> Self::Output {
        let Self { endpoint, clock, host } = self;
        if endpoint.has_more_than_packets() {
            let now = clock();
            return Some((now, endpoint.poll_halves(now, &mut rx, &mut tx, host)));
        }
        let received = rx.receive();
        if received == 0 {
            return None;
        }
        let now = clock();
        let mut io = Io { tx: &mut tx, host };
        Some((now, endpoint.take_in(now, &rx, received, &mut io, 0)))
    }
}

/// A call that leaves at once, for a device of any kind.
struct Leave<'a, 'c, 'm, C> {
    endpoint: &'a mut Endpoint<'m>,
    clock: C,
    session: SessionId,
    call: &'a Call<'c>,
}

impl<C: FnOnce() -> Instant> Work for Leave<'_, '_, '_, C> {
    type Output = Result<CallId, StartError>;

    #[inline(always)]
    fn run<R: Rx, T: Tx>(self, _: R, mut tx: T) -> Self::Output {
        let Self { endpoint, clock, session, call } = self;
        endpoint.begin_call(clock, session, call, Some(&mut tx))
    }
}

impl Endpoint<'_> {
    /// Does a bounded amount of work and returns: sends what was begun since the last poll, takes
    /// in one burst, serves the timers that are due, and sends what is ready then, at most a few
    /// bursts of it.
    #[inline]
    pub fn poll<D: Device, H: Host>(
        &mut self,
        now: Instant,
        device: &mut D,
        host: &mut H,
    ) -> Polled {
        device.lend(Poll { endpoint: self, now, host })
    }

    /// As [`Endpoint::poll`] if there is a packet or something to send, at the time that `clock`
    /// tells then. Else returns `None` at once, without asking the time: for loops that do nothing
    /// but look, and poll now and then for the timers. The shorter a look in vain, the sooner the
    /// next one finds what has come meanwhile.
    #[inline]
    pub fn look<D: Device, H: Host>(
        &mut self,
        clock: impl FnOnce() -> Instant,
        device: &mut D,
        host: &mut H,
    ) -> Option<(Instant, Polled)> {
        device.lend(Look { endpoint: self, clock, host })
    }

    /// As [`Endpoint::call`], for one call that is waited for: if it is one packet and nothing else
    /// is ready to be sent, it leaves at once, and what there is to note of it is noted afterwards,
    /// with the time that `clock` tells then.
    ///
    /// # Errors
    /// As [`Endpoint::call`].
    ///
    /// # Panics
    /// As [`Endpoint::call`].
    #[inline]
    pub fn call_now<D: Device>(
        &mut self,
        clock: impl FnOnce() -> Instant,
        device: &mut D,
        session: SessionId,
        call: &Call<'_>,
    ) -> Result<CallId, StartError> {
        device.lend(Leave { endpoint: self, clock, session, call })
    }

    /// Whether a poll has to do other things than to take in packets, timers left aside.
    #[inline(always)]
    fn has_more_than_packets(&self) -> bool {
        !self.ready.is_empty() || !self.loans.is_empty()
    }

    #[inline(always)]
    fn poll_halves<R: Rx, T: Tx, H: Host>(
        &mut self,
        now: Instant,
        rx: &mut R,
        tx: &mut T,
        host: &mut H,
    ) -> Polled {
        let mut io = Io { tx, host };
        let mut sent = 0;
        if !self.ready.is_empty() {
            // Before the look for packets, which on some devices is a system call.
            sent = self.transmit_ready(&mut io);
            io.tx.flush();
        }
        if !self.loans.is_empty() {
            self.take_back(&mut io);
        }
        let received = rx.receive();
        self.take_in(now, &*rx, received, &mut io, sent)
    }

    /// Takes in a burst, then looks at everything else.
    #[inline(always)]
    fn take_in<R: Rx, T: Tx, H: Host>(
        &mut self,
        now: Instant,
        rx: &R,
        received: usize,
        io: &mut Io<'_, T, H>,
        mut sent: u32,
    ) -> Polled {
        if self.ahead {
            self.expect_packets(rx, received);
        }
        self.resets_left = RESETS_A_BURST;
        for index in 0..received {
            let (peer, datagram) = rx.packet(index);
            self.packet(now, io, peer, datagram);
        }
        // Answers leave before anything else is looked at.
        io.tx.flush();
        let fired = self.serve_timers(now, io);
        if fired != 0 || !self.ready.is_empty() {
            sent += self.transmit_ready(io);
            io.tx.flush();
        }
        self.counters.datagrams_received += received as u64;
        Polled { received: received as u32, fired, sent }
    }
}

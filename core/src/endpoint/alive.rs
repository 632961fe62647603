//! Who shows that they are alive, and since when that is known.
//!
//! Networks repeat packets, and deliver some very late: what a node had sent can go on arriving
//! long after its death.
//!
//! - **A client's lease** counts from something that no late packet can show. Each pong says what
//!   the server's clock was, and each ping says it again, as the newest pong told it. So a ping
//!   shows that its client was alive at that time of the server's own clock or later, however long
//!   it was under way and however often it comes. A client asks at least every [`prove_every`],
//!   whatever else is heard. Who dies is known to have been alive up to two pings before, so a
//!   lease may be over by that much sooner than a lease after the last packet.
//! - **A server is alive** to its client by what was not there before: pongs newer than all
//!   others, answers of calls under way, packets of them that were missing. What acknowledges a
//!   request is none of that, for the request may be executed for long.
//! - **A client is suspected** by its server by the last packet that is not known to be old. That
//!   has no effect but to be told.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::host::{Host, SessionEvent, SessionId, Side};
use super::table::{CallState, ClientState};
use super::transmit::{Io, Seal, send, session_flags};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::packet::{Header, Kind};

/// A tick of the clock in pings and pongs is 2 to the power of this nanoseconds: 65.5 us. They are
/// compared as numbers of 32 bits that wrap, so nothing is mistaken within 39 hours.
const TICK_SHIFT: u32 = 16;
/// Pings in a lease that has other traffic, at least: enough for clocks that run ten times apart,
/// since a ping shows what was true at the one before it.
const PROOFS_A_LEASE: u64 = 24;
/// The least time between two pings of a busy session, whatever lease the server claims to have.
const PROVE_EVERY_MIN: Duration = Duration::from_millis(10);

/// The longest that a client whose lease is `lease` goes without a ping in its session at `index`:
/// up to an eighth sooner in some than in others, so that the pings of thousands that were kept
/// waiting together do not come together ever after.
pub(super) fn prove_every(lease: Duration, index: usize) -> Duration {
    let longest = lease.as_nanos() / PROOFS_A_LEASE;
    let sooner = longest / 2048 * u64::from((index as u8).reverse_bits());
    Duration::from_nanos(longest - sooner).max(PROVE_EVERY_MIN)
}

/// What a pong that leaves at `now` says of the clock; never zero, which says nothing.
fn stamp(now: Instant) -> u32 {
    ((now.as_nanos() >> TICK_SHIFT) as u32).max(1)
}

/// When the clock was what `echoed` says; `None` if it says nothing, or a time to come.
fn time_of(echoed: u32, now: Instant) -> Option<Instant> {
    let age = stamp(now).wrapping_sub(echoed);
    if echoed == 0 || age > i32::MAX as u32 {
        return None;
    }
    let ticks = (now.as_nanos() >> TICK_SHIFT).saturating_sub(age.into());
    Some(Instant::from_nanos(ticks << TICK_SHIFT))
}

impl Endpoint<'_> {
    pub(super) fn on_ping<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        let Some(index) = self.server_session_of(peer, header) else {
            return self.reset(io, peer, header);
        };
        let session = &mut self.server_sessions[index];
        // In the first ping of a session there is nothing to say again, and it shows nothing.
        match time_of(header.message, now) {
            Some(alive) if alive >= session.proved => {
                session.proved = alive;
                session.last_heard = now;
            }
            None if header.message == 0 => session.last_heard = now,
            _ => self.counters.stale += 1,
        }
        self.pong(now, io, index, header);
    }

    /// Answers a ping, or confirms that a slot's answer was released.
    pub(super) fn pong<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        asked: &Header,
    ) {
        let session = &self.server_sessions[index];
        let mut pong = Header::new(Kind::Pong, session.remote.index, session.remote.generation);
        pong.flags = session_flags(session.features);
        pong.slot = asked.slot;
        pong.request = asked.request;
        pong.message = stamp(now);
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        send(io.tx, seal, session.peer, pong, 0, |_| {});
    }

    pub(super) fn on_pong<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        let Some(index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return;
        };
        let session = &mut self.client_sessions[index];
        let newer = header.message.wrapping_sub(session.server_clock) as i32 > 0;
        if newer || session.server_clock == 0 {
            session.server_clock = header.message;
            session.ponged = now;
            session.last_heard = now;
            if session.state == ClientState::Suspected {
                session.state = ClientState::Up;
                let id = SessionId { index: index as u32, generation: session.generation };
                io.tell(now, Side::Client, id, SessionEvent::Recovered);
            }
        }
        let slots = self.client_sessions[index].slots;
        // A pong that names a request confirms that the request's answer was released.
        if header.request != 0
            && let Some(slot) = self.client_slots.find(index, header.slot, slots)
            && self.client_slots[slot].request == header.request
            && self.client_slots[slot].state == CallState::Free
        {
            self.end_doubt(now, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 1 << TICK_SHIFT;

    #[test]
    fn a_clock_said_again_is_never_later_than_it_was() {
        // The last ones are about where the ticks wrap, and one of them is left out.
        for nanos in [TICK, 5 * TICK + 7, (1 << 47) + 1, (1 << 48) - 1, (1 << 48) + TICK + 3] {
            for later in [0, 1, TICK - 1, TICK, 1_000 * TICK + 9, (1 << 46) + 5] {
                let (then, now) = (Instant::from_nanos(nanos), Instant::from_nanos(nanos + later));
                let told = time_of(stamp(then), now).expect("a time that was");
                assert!(
                    told <= then && then.since(told).as_nanos() < 2 * TICK,
                    "{then:?} {told:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_and_the_future_are_no_time() {
        let now = Instant::from_nanos(100 * TICK);
        assert_eq!(time_of(0, now), None);
        assert_eq!(time_of(101, now), None);
        assert_eq!(time_of(99, now), Some(Instant::from_nanos(99 * TICK)));
    }

    #[test]
    fn a_lease_has_room_for_many_pings_and_a_claimed_one_of_nothing_floods_nobody() {
        let lease = Duration::from_secs(10);
        for index in [0, 1, 255, 20_000] {
            assert!(prove_every(lease, index).as_nanos() * 20 < lease.as_nanos());
            assert!(prove_every(lease, index).as_nanos() * 28 > lease.as_nanos());
            assert_eq!(prove_every(Duration::ZERO, index), PROVE_EVERY_MIN);
        }
        assert_ne!(prove_every(lease, 7), prove_every(lease, 8), "they come apart again");
    }
}

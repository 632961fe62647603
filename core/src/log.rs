//! What the core says to people: a compact frame for each event, by defmt, where the feature
//! `defmt` is on. Only what is rare is logged; what is frequent is counted.

use crate::endpoint::host::{Closed, SessionEvent, SessionId, Side};

/// A session came, went, or fell silent.
#[cold]
pub(crate) fn session(side: Side, session: SessionId, event: SessionEvent) {
    let side = match side {
        Side::Client => "to server",
        Side::Server => "of client",
    };
    let event = match event {
        SessionEvent::Connected { .. } => "connected",
        SessionEvent::Accepted { .. } => "accepted",
        SessionEvent::Suspected => "suspected: nothing heard for a while",
        SessionEvent::Recovered => "recovered",
        SessionEvent::Closed(why) => match why {
            Closed::Bye => "closed",
            Closed::LeaseExpired => "closed: its lease expired",
            Closed::PeerRestarted => "closed: the peer does not know it, so it has restarted",
            Closed::NoSessions => "refused: the server has no session left",
            Closed::AddressFull { .. } => "refused: this address has all sessions it may have",
            Closed::StaleIncarnation => "refused: the server knows a later life of this client",
            Closed::Unreachable => "closed: nobody answered the handshake",
            Closed::NotAuthenticated => "refused: the two ends do not have the same key",
            Closed::Encryption => "refused: one end encrypts and the other does not",
            Closed::Superseded => "closed: a later life of the client took over",
        },
    };
    write(side, session, event);
}

#[cfg(all(feature = "defmt", not(test)))]
fn write(side: &str, session: SessionId, event: &str) {
    let SessionId { index, generation } = session;
    defmt::info!("session {=u32}.{=u32} {=str}: {=str}", index, generation, side, event);
}

/// Without the feature nothing is logged, and the optimiser removes what leads here.
#[cfg(any(not(feature = "defmt"), test))]
fn write(_side: &str, _session: SessionId, _event: &str) {}

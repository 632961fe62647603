//! Why a call has no answer, and why there is no session.

use std::fmt;
use std::net::SocketAddrV4;

use dmrpc_core::endpoint::host::{CallError, Closed};
use dmrpc_core::wire::message::{ARGS_MAX, DEPTH_MAX, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX, Method};

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The session is over: regions and references that it owned are, too. If it was lost, calls
    /// that do not concern its regions go on in another; see [`Node::next_loss`](crate::Node).
    SessionLost {
        /// The peer.
        address: SocketAddrV4,
        /// Why it ended.
        why: Closed,
    },
    /// The session is being opened: after another was lost, or for the first time. Nothing was
    /// sent. Calls that wait wait for it.
    Connecting {
        /// The peer.
        address: SocketAddrV4,
    },
    /// The handle is not of this node's, or of a session that ended long ago.
    StalePeer,
    /// Nothing was heard from the peer for a while. Nothing was sent.
    Suspected {
        /// The peer.
        address: SocketAddrV4,
    },
    /// The call was sent, or waited to be, and failed.
    Call {
        /// The peer.
        address: SocketAddrV4,
        /// What it was asked for.
        method: Method,
        /// Why it failed.
        error: CallError,
    },
    /// All slots of the session that calls of this depth may use are in use. Nothing was sent.
    NoSlot {
        /// The peer.
        address: SocketAddrV4,
        /// Slots of the session.
        slots: u16,
    },
    /// All entries for outstanding calls are in use. Nothing was sent.
    NoCall {
        /// How many there are: `NodeConfig::calls`.
        limit: usize,
    },
    /// No buffer of that length is free. Nothing was sent.
    NoBuffer {
        /// Bytes needed.
        bytes: usize,
        /// Bytes of the longest buffer that the node has.
        bytes_max: usize,
    },
    /// Calls within calls go too deep. Nothing was sent.
    TooDeep {
        /// The depth asked for.
        depth: u8,
    },
    /// More arguments than a message holds. Nothing was sent.
    TooManyArgs {
        /// How many were given.
        given: usize,
    },
    /// Arguments that do not fit a message's head. Nothing was sent.
    HeadTooLarge {
        /// Their length in bytes.
        bytes: usize,
    },
    /// More bytes than a message holds. Nothing was sent.
    MessageTooLarge {
        /// Their number.
        bytes: usize,
    },
    /// The ticket was finished or given up before.
    StaleTicket,
    /// Bytes of the read came in a poll without its visitor, and are lost.
    NotVisited,
    /// A view has the region to itself. Nothing was done.
    Viewed,
}

impl Error {
    /// Whether the call may have been executed though its answer is not here.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Call { error: CallError::OutcomeUnknown, .. })
    }

    /// Whether the call was not begun for want of room, which comes back when others end, or of a
    /// session that is being opened.
    pub fn is_room(&self) -> bool {
        matches!(self, Self::NoSlot { .. } | Self::NoCall { .. } | Self::Connecting { .. })
            || matches!(self, Self::NoBuffer { bytes, bytes_max } if bytes <= bytes_max)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SessionLost { address, why } => write!(
                f,
                "the session with {address} is over ({}), and with it the regions and references \
                 it owned: make them again",
                closed_text(*why)
            ),
            Self::Connecting { address } => {
                write!(f, "the session with {address} is being opened: try again")
            }
            Self::StalePeer => f.write_str(
                "the peer handle is of an earlier session: use that of the last connect",
            ),
            Self::Suspected { address } => {
                write!(f, "nothing heard from {address} for a while: check that it runs, try again")
            }
            Self::Call { address, method, error } => {
                write!(f, "call of method {:#06x} to {address}: {error}", method.0)
            }
            Self::NoSlot { address, slots } => write!(
                f,
                "the slots of the session with {address} are in use: it has {slots}, of which 7 \
                 are kept for calls within calls; finish calls first, or configure more slots"
            ),
            Self::NoCall { limit } => {
                write!(f, "all {limit} calls are outstanding: finish some, or configure more")
            }
            Self::NoBuffer { bytes, bytes_max } => write!(
                f,
                "no buffer of {bytes} bytes is free: the longest has {bytes_max} bytes; drop \
                 buffers first, or configure more"
            ),
            Self::TooDeep { depth } => {
                write!(f, "a call at depth {depth}: calls nest at most {} deep", DEPTH_MAX - 1)
            }
            Self::TooManyArgs { given } => {
                write!(f, "{given} arguments: a message holds at most {ARGS_MAX}")
            }
            Self::HeadTooLarge { bytes } => {
                write!(f, "a head of {bytes} bytes: at most {HEAD_BYTES_MAX} fit")
            }
            Self::MessageTooLarge { bytes } => {
                write!(f, "a message of {bytes} bytes: at most {MESSAGE_BYTES_MAX} are carried")
            }
            Self::NotVisited => f.write_str(
                "the node was polled without the read's visitor: use step_visiting until it ends",
            ),
            Self::Viewed => f.write_str("a view has the region to itself: drop the view first"),
            Self::StaleTicket => f.write_str("the ticket was finished before: finish each once"),
        }
    }
}

impl std::error::Error for Error {}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No answer, or an answer that says no.
    Refused {
        /// The peer.
        address: SocketAddrV4,
        /// Why.
        why: Closed,
    },
    /// Nobody can be reached at such an address: it names no machine, or no port.
    NoAddress {
        /// The address given.
        address: SocketAddrV4,
    },
    /// The session ended, and its place has another, before anybody asked what became of it.
    Ended,
    /// This node has no session left.
    NoSession {
        /// How many there are: `NodeConfig::client_sessions`.
        limit: usize,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { address, why: Closed::Unreachable } => write!(
                f,
                "nobody answers at {address}: check the address, and that the process there runs"
            ),
            Self::Refused { address, why: Closed::NoSessions } => write!(
                f,
                "{address} has no session left: start it with room for more, or end other clients"
            ),
            Self::Refused { address, why: Closed::AddressFull { bound } } => write!(
                f,
                "{address} gives an address at most {bound} sessions, and this one has {bound}: \
                 end some, or start it with more --sessions-per-address"
            ),
            Self::Refused { address, why } => {
                write!(f, "no session with {address}: {}", closed_text(*why))
            }
            Self::NoAddress { address } => write!(
                f,
                "nobody can be reached at {address}: give the address of one machine, such as \
                 127.0.0.1, and the port"
            ),
            Self::Ended => f.write_str("the session ended while it was being opened: try again"),
            Self::NoSession { limit } => write!(
                f,
                "all {limit} sessions of this node are in use: disconnect some, or configure more"
            ),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Says why a session ended.
pub(crate) fn closed_text(why: Closed) -> &'static str {
    match why {
        Closed::Bye => "ended by one of the two",
        Closed::LeaseExpired => "silence for longer than the lease",
        Closed::PeerRestarted => "the peer does not know it: it has restarted",
        Closed::NoSessions => "the peer has no session left",
        Closed::AddressFull { .. } => "this address has all the sessions that the peer gives one",
        Closed::StaleIncarnation => "the peer knows a later life of this node",
        Closed::Unreachable => "no answer",
        Closed::NotAuthenticated => "the two ends do not have the same key",
        Closed::Encryption => "one end encrypts and the other does not: use --encrypt on both",
        Closed::Superseded => "a later life of this node has taken over",
    }
}

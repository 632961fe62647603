//! What room a caller has for the body of an answer.

use super::host::Sink;
use super::table::ClientSession;
use crate::wire::control::PAYLOAD_BYTES_MIN;
use crate::wire::message::HEAD_BYTES_MAX;

/// Bodies of answers that fit a packet in every session, in bytes.
const ROOM_OF_A_PACKET: u32 = PAYLOAD_BYTES_MIN - HEAD_BYTES_MAX as u32;

/// What room a caller has for the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// None.
    Nothing,
    /// For no more than fits one packet. One of several is longer, and is never taken in, so none
    /// is kept under way, and it need not be known where the room is.
    Packet,
    /// For several packets.
    Packets,
}

impl Room {
    /// Of `sink`, in `session`. Its packets' size is looked at only where it matters, for it is
    /// far behind what a usual call touches.
    #[inline(always)]
    pub(super) fn of(sink: Option<(Sink, u32)>, session: &ClientSession) -> Self {
        match sink {
            None => Self::Nothing,
            Some((_, room)) if room <= ROOM_OF_A_PACKET => Self::Packet,
            Some((_, room))
                if room.saturating_add(HEAD_BYTES_MAX as u32) <= session.payload_bytes =>
            {
                Self::Packet
            }
            Some(_) => Self::Packets,
        }
    }
}

//! Encryption of a session's packets: AES-128-GCM (NIST SP 800-38D), by the crate `aes-gcm` or by
//! what the program brings ([`PacketKey`]).
//!
//! ```text
//!  0 as in every header, the kind with its highest bit set    } in clear, and
//! 16 the packet's number u64                                  } authenticated
//! 24 the rest of the header, then the payload                   encrypted
//!    authentication tag, 16 bytes                               at the end
//! ```
//!
//! Pings and goodbyes have the whole header in clear, and nothing else: a server that does not
//! know the session, and so has no key, must be able to say what its answer answers.
//!
//! - **Keys.** One for each session, direction and *epoch*, from the session's secret bytes, which
//!   both ends' nonces are in. A restart, or a session opened again, has other keys.
//! - **Nonces.** The number of the packet, which each packet that leaves takes anew: a packet that
//!   is sent again is another packet. So no nonce is used twice under a key, whatever the protocol
//!   above repeats.
//! - **Epochs.** After 2^32 packets the next key is used. The receiver follows as soon as a packet
//!   of the next epoch opens; it never goes back.
//! - **Replays.** The receiver remembers the last [`REPLAY_PACKETS`] numbers, and opens no packet
//!   twice, nor one that is older.

mod key;
mod seen;
mod table;

pub use key::{PacketKey, PortableKey};
pub use seen::REPLAY_PACKETS;
pub use table::{CipherRoom, CipherTable, Ciphers};

use core::cell::RefCell;

use super::auth::cmac;
use super::host::Side;
use crate::wire::bytes::{put, u64_at};
use crate::wire::packet::{CHECK_AT, HEADER_BYTES, Kind, SEAL_BYTES, SEALED, TAG_AT};
use seen::Seen;

/// Packets of an epoch, as a power of two.
const EPOCH_SHIFT: u32 = 32;
/// The epoch of a goodbye to a session that never began here: its packet is always the same.
const FAREWELL: u32 = u32::MAX;

/// What one session encrypts and decrypts with.
#[derive(Clone)]
pub struct SessionCipher<K = PortableKey>(Option<Halves<K>>);

impl<K> SessionCipher<K> {
    /// That of no session.
    pub const EMPTY: Self = Self(None);
}

impl<K> core::fmt::Debug for SessionCipher<K> {
    /// Keys are not for logs.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SessionCipher(..)")
    }
}

#[derive(Clone)]
struct Halves<K> {
    secret: [u8; 16],
    side: Side,
    /// Sealing counts, and is done while much of the endpoint is borrowed.
    outgoing: RefCell<Outgoing<K>>,
    incoming: Incoming<K>,
}

#[derive(Clone)]
struct Outgoing<K> {
    cipher: K,
    epoch: u32,
    /// Number of the next packet.
    next: u64,
}

#[derive(Clone)]
struct Incoming<K> {
    cipher: K,
    epoch: u32,
    seen: Seen,
}

/// Why a packet is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// Too short to be one, or too long for the room.
    Length,
    /// Its number was there before.
    Again,
    /// Its number is older than the receiver's memory, or its epoch is over or far off.
    Old,
    /// It was not sealed with the session's key, or was changed.
    Forged,
}

/// The key of an epoch, for packets that `from` sends.
fn cipher<K: PacketKey>(secret: &[u8; 16], from: Side, epoch: u32) -> K {
    let direction = match from {
        Side::Client => b"c",
        Side::Server => b"s",
    };
    let key = cmac(secret, &[b"dmrpc encryption", direction, &epoch.to_le_bytes()]);
    K::new(&key)
}

/// Bytes in front that are not encrypted, of a packet of this kind.
fn clear_bytes(kind: u8) -> usize {
    if kind == Kind::Ping as u8 || kind == Kind::Bye as u8 { HEADER_BYTES } else { TAG_AT + 8 }
}

fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    }
}

fn epoch_of(number: u64) -> u32 {
    (number >> EPOCH_SHIFT) as u32
}

fn nonce(number: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// For the client's goodbye to a session that it does not use: one packet, however often it is
/// said. Packets of a use of the session have other keys.
pub(super) fn farewell(secret: [u8; 16]) -> impl Ciphers {
    let cipher: PortableKey = cipher(&secret, Side::Client, FAREWELL);
    let next = u64::from(FAREWELL) << EPOCH_SHIFT;
    let outgoing = RefCell::new(Outgoing { cipher: cipher.clone(), epoch: FAREWELL, next });
    let incoming = Incoming { cipher, epoch: 0, seen: Seen::NONE };
    let halves = Halves { secret, side: Side::Client, outgoing, incoming };
    CipherTable::new([SessionCipher(Some(halves))])
}

impl<K: PacketKey> SessionCipher<K> {
    /// That of a session with these secret bytes, of which this end is `side`.
    pub(super) fn new(secret: [u8; 16], side: Side) -> Self {
        let outgoing = Outgoing { cipher: cipher(&secret, side, 0), epoch: 0, next: 0 };
        let incoming =
            Incoming { cipher: cipher(&secret, other(side), 0), epoch: 0, seen: Seen::NONE };
        Self(Some(Halves { secret, side, outgoing: RefCell::new(outgoing), incoming }))
    }

    /// Encrypts a finished packet in place, and puts its number and tag in. The last
    /// [`SEAL_BYTES`] bytes of `datagram` are for the tag.
    ///
    /// # Panics
    /// If it is not a session's, or `datagram` has no room for header and tag.
    pub(super) fn seal(&self, datagram: &mut [u8]) {
        let halves = self.0.as_ref().expect("a session that is open");
        let mut outgoing = halves.outgoing.borrow_mut();
        let number = outgoing.next;
        outgoing.next += 1;
        if epoch_of(number) != outgoing.epoch {
            outgoing.epoch = epoch_of(number);
            outgoing.cipher = cipher(&halves.secret, halves.side, outgoing.epoch);
        }
        let end = datagram.len() - SEAL_BYTES;
        let (packet, place) = datagram.split_at_mut(end);
        let header = packet.first_chunk_mut::<HEADER_BYTES>().expect("room for a header");
        let clear_bytes = clear_bytes(header[1]);
        header[1] |= SEALED;
        put(header, TAG_AT, number.to_le_bytes());
        // The tag covers what the checksum did.
        put(header, CHECK_AT, [0; 4]);
        let (clear, rest) = packet.split_at_mut(clear_bytes);
        place.copy_from_slice(&outgoing.cipher.seal(&nonce(number), clear, rest));
    }

    /// Decrypts a packet to the front of `room`, its header with the kind as it came and without
    /// number. Returns its length, and whether it is a goodbye to a session that was never used.
    pub(super) fn open(
        &mut self,
        datagram: &[u8],
        room: &mut [u8],
    ) -> Result<(usize, bool), Unopened> {
        let length = datagram.len().checked_sub(SEAL_BYTES).ok_or(Unopened::Length)?;
        if !(HEADER_BYTES..=room.len()).contains(&length) {
            return Err(Unopened::Length);
        }
        let halves = self.0.as_mut().ok_or(Unopened::Forged)?;
        let Incoming { cipher: current, epoch, seen } = &mut halves.incoming;
        let number = u64_at(datagram, TAG_AT);
        let named = epoch_of(number);
        let follows = named == epoch.wrapping_add(1);
        if named != *epoch && !follows && named != FAREWELL {
            return Err(Unopened::Old);
        }
        if named != FAREWELL {
            seen.look(number)?;
        }
        let (packet, tag) = datagram.split_last_chunk().expect("longer than its seal");
        let (clear, sealed) = packet.split_at(clear_bytes(datagram[1] & !SEALED));
        let opened = &mut room[..length];
        let (front, rest) = opened.split_at_mut(clear.len());
        front.copy_from_slice(clear);
        let mut open = |cipher: &K| match cipher.open(&nonce(number), clear, (sealed, tag), rest) {
            true => Ok(()),
            false => Err(Unopened::Forged),
        };
        if named == *epoch {
            open(current)?;
        } else {
            let next = cipher(&halves.secret, other(halves.side), named);
            open(&next)?;
            if follows {
                (*current, *epoch) = (next, named);
            }
        }
        if named != FAREWELL {
            seen.note(number);
        }
        put(opened, TAG_AT, [0; 8]);
        Ok((length, named == FAREWELL))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    const SECRET: [u8; 16] = [7; 16];

    fn ends() -> (SessionCipher, SessionCipher) {
        (SessionCipher::new(SECRET, Side::Client), SessionCipher::new(SECRET, Side::Server))
    }

    /// A packet with room for its tag, as it is before it is sealed.
    fn packet(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xA5; HEADER_BYTES];
        (bytes[0], bytes[1]) = (1, kind as u8);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&[0; SEAL_BYTES]);
        bytes
    }

    fn sealed(cipher: &SessionCipher, payload: &[u8]) -> Vec<u8> {
        let mut bytes = packet(Kind::Request, payload);
        cipher.seal(&mut bytes);
        bytes
    }

    fn open(cipher: &mut SessionCipher, bytes: &[u8]) -> Result<Vec<u8>, Unopened> {
        let mut room = vec![0; 2000];
        cipher.open(bytes, &mut room).map(|(length, _)| room[..length].to_vec())
    }

    /// Lets a sender go on from `number`.
    fn skip_to(cipher: &mut SessionCipher, number: u64) {
        cipher.0.as_mut().expect("one of a session").outgoing.get_mut().next = number;
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_cannot_be_read(
            payload in proptest::collection::vec(any::<u8>(), 16..1500)
        ) {
            let (client, mut server) = ends();
            let bytes = sealed(&client, &payload);
            prop_assert_eq!(bytes[1], SEALED | Kind::Request as u8);
            prop_assert!(bytes.windows(16).all(|window| window != &payload[..16]));
            prop_assert!(bytes[24..].windows(16).all(|window| window != [0xA5; 16]));
            let opened = open(&mut server, &bytes).expect("its own");
            prop_assert_eq!(&opened[HEADER_BYTES..], &payload[..]);
            // The header is as it was, but for its mark, its number and its checksum.
            prop_assert_eq!(&opened[2..16], &[0xA5; 14][..]);
            prop_assert_eq!(&opened[24..44], &[0xA5; 20][..]);
        }

        #[test]
        fn any_changed_bit_is_noticed_and_changes_nothing(
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            bit in any::<prop::sample::Index>(),
        ) {
            let (client, mut server) = ends();
            let bytes = sealed(&client, &payload);
            let mut changed = bytes.clone();
            let bit = bit.index(bytes.len() * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(open(&mut server, &changed).is_err());
            prop_assert!(open(&mut server, &bytes).is_ok());
        }

        #[test]
        fn noise_is_not_opened(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&mut ends().1, &noise).is_err());
        }
    }

    #[test]
    fn replays_reflections_and_other_sessions_are_refused() {
        let (client, mut server) = ends();
        let bytes = sealed(&client, b"once");
        assert!(open(&mut server, &bytes).is_ok());
        assert_eq!(open(&mut server, &bytes), Err(Unopened::Again));
        let mut client = client;
        assert_eq!(open(&mut client, &bytes), Err(Unopened::Forged), "a reflection");
        let mut other = SessionCipher::new([8; 16], Side::Server);
        assert_eq!(open(&mut other, &bytes), Err(Unopened::Forged));
        assert_eq!(
            open(&mut SessionCipher::<PortableKey>::EMPTY.clone(), &bytes),
            Err(Unopened::Forged)
        );
        // Late, but not too late; then too late.
        let late = [sealed(&client, b"late"), sealed(&client, b"too late")];
        for _ in 0..REPLAY_PACKETS - 1 {
            let bytes = sealed(&client, b"on time");
            assert!(open(&mut server, &bytes).is_ok());
        }
        assert!(open(&mut server, &late[0]).is_ok());
        for _ in 0..128 {
            let bytes = sealed(&client, b"on time");
            assert!(open(&mut server, &bytes).is_ok());
        }
        assert_eq!(open(&mut server, &late[1]), Err(Unopened::Old));
    }

    #[test]
    fn the_same_packet_never_looks_the_same() {
        let (client, _) = ends();
        let sent: BTreeSet<_> = (0..1000).map(|_| sealed(&client, b"again")).collect();
        assert_eq!(sent.len(), 1000);
        let numbers: BTreeSet<_> = sent.iter().map(|bytes| u64_at(bytes, TAG_AT)).collect();
        assert_eq!(numbers.len(), 1000);
    }

    #[test]
    fn epochs_follow_each_other_and_do_not_return() {
        let (mut client, mut server) = ends();
        let early = sealed(&client, b"early");
        skip_to(&mut client, (1 << EPOCH_SHIFT) - 2);
        for _ in 0..4 {
            let bytes = sealed(&client, b"on");
            assert_eq!(open(&mut server, &bytes).expect("in order")[HEADER_BYTES..], *b"on");
        }
        assert_eq!(open(&mut server, &early), Err(Unopened::Old));
        // What claims to be of the next epoch does not make the receiver follow.
        let mut forged = sealed(&client, b"on");
        forged[TAG_AT + 4] = 2;
        assert_eq!(open(&mut server, &forged), Err(Unopened::Forged));
        let bytes = sealed(&client, b"on");
        assert!(open(&mut server, &bytes).is_ok());
        skip_to(&mut client, 9 << EPOCH_SHIFT);
        let far = sealed(&client, b"far");
        assert_eq!(open(&mut server, &far), Err(Unopened::Old));
    }

    /// Said twice it is the same packet, so the same nonce is no second use of it; and its key is
    /// none of the session's.
    #[test]
    fn a_farewell_is_one_packet() {
        let (_, mut server) = ends();
        let say = || {
            let mut bytes = packet(Kind::Bye, &[]);
            farewell(SECRET).seal(0, &mut bytes);
            bytes
        };
        assert_eq!(say(), say());
        let mut room = [0; 100];
        assert_eq!(server.open(&say(), &mut room), Ok((HEADER_BYTES, true)));
        let mut changed = say();
        changed[24] ^= 1;
        assert_eq!(server.open(&changed, &mut room), Err(Unopened::Forged));
    }

    #[test]
    fn pings_are_read_by_all_and_changed_by_none() {
        let (client, mut server) = ends();
        let mut bytes = packet(Kind::Ping, &[]);
        client.seal(&mut bytes);
        assert_eq!(bytes[24..44], [0xA5; 20]);
        for at in 24..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(open(&mut server, &changed), Err(Unopened::Forged), "byte {at}");
        }
        assert!(open(&mut server, &bytes).is_ok());
    }
}

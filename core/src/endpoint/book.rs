//! Whose sessions a server has: what a hello is looked up in.
//!
//! A tree over the sessions themselves, in the order of address, port and the client's index, so
//! that one structure answers all that a hello asks: whether this very session is open, whether
//! its client is known, and how many sessions its address has. It is a treap (Seidel and Aragon,
//! "Randomized Search Trees", 1996): a node's rank above others is a keyed hash of its index, so
//! nobody outside can make the tree deep. With `n` sessions a hello costs about `2 ln n` steps,
//! some 24 with 65,536, and so does a session that comes or goes. Packets of open sessions never
//! come here.

use core::net::SocketAddrV4;

use super::host::SessionId;
use super::table::ServerSession;

/// No session.
const NONE: u32 = u32::MAX;

/// What the book keeps in a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Entries that come before, below this one; of a free session the next free one.
    left: u32,
    /// Entries that come after, below this one.
    right: u32,
    /// Entries below this one, and it.
    size: u32,
}

impl Entry {
    pub(super) const NONE: Self = Self { left: NONE, right: NONE, size: 1 };
}

/// What entries are sorted by: address, port, the client's index.
type Key = u128;

fn key(peer: SocketAddrV4, index: u32) -> Key {
    Key::from(peer.ip().to_bits()) << 48 | Key::from(peer.port()) << 32 | Key::from(index)
}

/// The roots of the tree and of the list of free sessions.
pub(super) struct Book {
    root: u32,
    free: u32,
    secret: u64,
}

impl Book {
    /// A book in which all `sessions` are free, to be used in the order of their indices.
    pub(super) fn new(sessions: &mut [ServerSession], secret: u64) -> Self {
        let mut free = NONE;
        for (index, session) in sessions.iter_mut().enumerate().rev() {
            session.entry = Entry { left: free, ..Entry::NONE };
            free = index as u32;
        }
        Self { root: NONE, free, secret }
    }

    /// A session that is not open.
    pub(super) fn take(&mut self, sessions: &[ServerSession]) -> Option<usize> {
        let index = self.free as usize;
        self.free = sessions.get(index)?.entry.left;
        Some(index)
    }

    /// Enters a session that was taken, under its peer and its name there.
    pub(super) fn enter(&mut self, sessions: &mut [ServerSession], index: usize) {
        sessions[index].entry = Entry::NONE;
        let at = key_of(sessions, index as u32);
        let (before, after) = split(sessions, self.root, at);
        let before = self.join(sessions, before, index as u32);
        self.root = self.join(sessions, before, after);
    }

    /// Strikes a session that ends. It is free then, unless its generations are used up: names of
    /// sessions are never used twice.
    pub(super) fn strike(&mut self, sessions: &mut [ServerSession], index: usize) {
        let at = key_of(sessions, index as u32);
        let (before, rest) = split(sessions, self.root, at);
        let (_, after) = split(sessions, rest, at + 1);
        self.root = self.join(sessions, before, after);
        if sessions[index].generation < u32::MAX {
            sessions[index].entry.left = self.free;
            self.free = index as u32;
        }
    }

    /// The open session that its client, at `peer`, has at `index`.
    pub(super) fn find(
        &self,
        sessions: &[ServerSession],
        peer: SocketAddrV4,
        index: u32,
    ) -> Option<usize> {
        let found = self.first_from(sessions, key(peer, index))?;
        (sessions[found].peer == peer && sessions[found].remote.index == index).then_some(found)
    }

    /// An open session of the client at `peer`, if it has one.
    pub(super) fn any_of(&self, sessions: &[ServerSession], peer: SocketAddrV4) -> Option<usize> {
        let found = self.first_from(sessions, key(peer, 0))?;
        (sessions[found].peer == peer).then_some(found)
    }

    /// Open sessions of the address of `peer`, whatever their ports.
    pub(super) fn count_of(&self, sessions: &[ServerSession], peer: SocketAddrV4) -> u32 {
        let first = Key::from(peer.ip().to_bits()) << 48;
        self.before(sessions, first + (1 << 48)) - self.before(sessions, first)
    }

    /// The first entry that is not before `at`.
    fn first_from(&self, sessions: &[ServerSession], at: Key) -> Option<usize> {
        let (mut node, mut found) = (self.root, None);
        while node != NONE {
            let entry = sessions[node as usize].entry;
            if key_of(sessions, node) < at {
                node = entry.right;
            } else {
                found = Some(node as usize);
                node = entry.left;
            }
        }
        found
    }

    /// Entries before `at`.
    fn before(&self, sessions: &[ServerSession], at: Key) -> u32 {
        let (mut node, mut count) = (self.root, 0);
        while node != NONE {
            let entry = sessions[node as usize].entry;
            if key_of(sessions, node) < at {
                count += size(sessions, entry.left) + 1;
                node = entry.right;
            } else {
                node = entry.left;
            }
        }
        count
    }

    /// One tree of two, of which all of `left` comes before all of `right`.
    fn join(&self, sessions: &mut [ServerSession], left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return left.min(right);
        }
        if self.rank(left) > self.rank(right) {
            let below = sessions[left as usize].entry.right;
            sessions[left as usize].entry.right = self.join(sessions, below, right);
            resize(sessions, left);
            left
        } else {
            let below = sessions[right as usize].entry.left;
            sessions[right as usize].entry.left = self.join(sessions, left, below);
            resize(sessions, right);
            right
        }
    }

    /// How far up in the tree a session belongs: a random permutation that is nobody else's
    /// (the mixer is that of splitmix64).
    fn rank(&self, index: u32) -> u64 {
        let mut mixed = u64::from(index) ^ self.secret;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}

fn key_of(sessions: &[ServerSession], index: u32) -> Key {
    let ServerSession { peer, remote: SessionId { index, .. }, .. } = sessions[index as usize];
    key(peer, index)
}

fn size(sessions: &[ServerSession], node: u32) -> u32 {
    sessions.get(node as usize).map_or(0, |session| session.entry.size)
}

fn resize(sessions: &mut [ServerSession], node: u32) {
    let Entry { left, right, .. } = sessions[node as usize].entry;
    sessions[node as usize].entry.size = 1 + size(sessions, left) + size(sessions, right);
}

/// Two trees of one: what comes before `at`, and the rest.
fn split(sessions: &mut [ServerSession], node: u32, at: Key) -> (u32, u32) {
    if node == NONE {
        return (NONE, NONE);
    }
    if key_of(sessions, node) < at {
        let (left, right) = split(sessions, sessions[node as usize].entry.right, at);
        sessions[node as usize].entry.right = left;
        resize(sessions, node);
        (node, right)
    } else {
        let (left, right) = split(sessions, sessions[node as usize].entry.left, at);
        sessions[node as usize].entry.left = right;
        resize(sessions, node);
        (left, node)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn peer(address: u8, port: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, address].into(), port.into())
    }

    /// Steps to the deepest entry.
    fn depth(sessions: &[ServerSession], node: u32) -> u32 {
        match sessions.get(node as usize) {
            None => 0,
            Some(session) => {
                let Entry { left, right, .. } = session.entry;
                1 + depth(sessions, left).max(depth(sessions, right))
            }
        }
    }

    proptest! {
        /// Beside a map of all sessions: found, counted and used again as they should be.
        #[test]
        fn it_says_what_a_map_says(
            steps in proptest::collection::vec((0..3_u8, 0..3_u8, 0..6_u32), 1..200), secret: u64,
        ) {
            let mut sessions = vec![ServerSession::EMPTY; 20];
            let mut book = Book::new(&mut sessions, secret);
            let mut map = BTreeMap::new();
            for (address, port, index) in steps {
                let who = peer(address, port);
                match map.remove(&(who, index)) {
                    Some(place) => {
                        prop_assert_eq!(book.find(&sessions, who, index), Some(place));
                        book.strike(&mut sessions, place);
                    }
                    None => if let Some(place) = book.take(&sessions) {
                        sessions[place].peer = who;
                        sessions[place].remote.index = index;
                        book.enter(&mut sessions, place);
                        prop_assert_eq!(map.insert((who, index), place), None);
                    } else {
                        prop_assert_eq!(map.len(), sessions.len());
                    }
                }
                let of_who = map.keys().any(|(other, _)| *other == who);
                let found = book.any_of(&sessions, who);
                prop_assert_eq!(found.is_some(), of_who);
                prop_assert!(found.is_none_or(|place| sessions[place].peer == who));
                for address in 0..3 {
                    let count = map.keys().filter(|(other, _)| other.ip() == peer(address, 9).ip());
                    prop_assert_eq!(
                        book.count_of(&sessions, peer(address, 9)) as usize, count.count()
                    );
                }
                let places: Vec<_> = map.values().collect();
                prop_assert_eq!(size(&sessions, book.root) as usize, places.len());
            }
        }
    }

    #[test]
    fn sessions_in_order_make_no_deep_tree() {
        let mut sessions = vec![ServerSession::EMPTY; 20_000];
        let mut book = Book::new(&mut sessions, 0x1234_5678_9ABC_DEF0);
        for index in 0..sessions.len() as u32 {
            let place = book.take(&sessions).expect("room");
            sessions[place].peer = peer(1, 1);
            sessions[place].remote.index = index;
            book.enter(&mut sessions, place);
        }
        let depth = depth(&sessions, book.root);
        assert!(depth <= 50, "{depth} steps; about 4.3 ln n, or 43, are usual at worst");
    }

    #[test]
    fn used_up_generations_are_not_used_again() {
        let mut sessions = vec![ServerSession::EMPTY; 2];
        let mut book = Book::new(&mut sessions, 1);
        let mut takes = |generation| {
            let place = book.take(&sessions)?;
            sessions[place].generation = generation;
            book.enter(&mut sessions, place);
            book.strike(&mut sessions, place);
            Some(place)
        };
        assert_eq!(takes(u32::MAX - 1), Some(0));
        assert_eq!(takes(u32::MAX), Some(0));
        assert_eq!(takes(u32::MAX), Some(1));
        assert_eq!(takes(1), None);
    }
}

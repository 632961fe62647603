//! A pool with two participants and something of everything in it.

use std::panic::panic_any;
use std::sync::Once;

use dmrpc_core::memory::{Atomic, Counted};
use dmrpc_core::store::{
    Config, EntryId, Error, HolderId, Layout, Limits, PAGE_BYTES, RegionId, Store,
};
use dmrpc_core::time::Instant;

use crate::store_common::{assert_all_home, audit, settle};

pub(crate) type Pool<'m> = Counted<Atomic<'m>>;

/// What a death unwinds with.
pub(crate) struct Died;

/// Bytes of the regions: two levels of nodes.
pub(crate) const LEN: u64 = 70 * PAGE_BYTES;

pub(crate) const CONFIG: Config = Config {
    frames: 420,
    nodes: 160,
    versions: 40,
    regions: 40,
    entries: 40,
    holders: 8,
    pins: 8,
    stages: 6,
    detached_max: 4,
    holds_max: 1 << 20,
    grace_ns: 1_000,
    participants: 2,
};

pub(crate) fn words() -> Vec<u64> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Died>() {
                report(info);
            }
        }));
    });
    let bytes = Layout::new(&CONFIG).expect("legal").bytes();
    vec![0xDEAD_BEEF_DEAD_BEEF; bytes.div_ceil(8) as usize]
}

pub(crate) fn pool(words: &mut [u64]) -> Pool<'_> {
    Counted::new(Atomic::new(words), || panic_any(Died))
}

/// Two participants, and what they have.
pub(crate) struct Scene<'m> {
    pub(crate) memory: &'m Pool<'m>,
    /// Participant 0.
    pub(crate) node: Store<&'m Pool<'m>>,
    pub(crate) node_holder: HolderId,
    pub(crate) node_region: RegionId,
    /// Of the first half of the node's region, before it was written to again.
    pub(crate) node_entry: EntryId,
    /// The same, for others to claim.
    pub(crate) node_spare: EntryId,
    /// A reference that belongs to nobody.
    pub(crate) nobodys: EntryId,
    /// Participant 1.
    pub(crate) user: Store<&'m Pool<'m>>,
    pub(crate) user_holder: HolderId,
    pub(crate) user_region: RegionId,
    pub(crate) user_entry: EntryId,
    /// A region of the user that was mapped from the node's reference.
    pub(crate) mapped: RegionId,
    /// A region of the user of which few pages were written.
    pub(crate) sparse: RegionId,
    /// Whether the user died before.
    pub(crate) user_died: bool,
    /// Whether the user was recovered.
    pub(crate) user_left: bool,
}

impl<'m> Scene<'m> {
    pub(crate) fn new(memory: &'m Pool<'m>) -> Self {
        Self::build(memory).expect("there is room for the scene")
    }

    fn build(memory: &'m Pool<'m>) -> Result<Self, Error> {
        let mut node = Store::format(memory, &CONFIG).expect("it fits");
        let mut user = Store::attach(memory, 1).expect("it is free");
        let node_holder = node.holder_join(Limits::NONE)?;
        let node_region = node.alloc(node_holder, LEN)?;
        node.write(node_holder, node_region, 0, &vec![1; LEN as usize])?;
        let node_entry = node.create_ref(node_holder, node_region, 0, LEN)?;
        let node_spare = node.create_ref(node_holder, node_region, 0, LEN)?;
        let nobodys = node.create_ref(node_holder, node_region, 0, LEN)?;
        node.detach(node_holder, nobodys)?;
        node.write(node_holder, node_region, 0, &vec![2; 8 << 12])?;
        let user_holder = user.holder_join(Limits::NONE)?;
        let user_region = user.alloc(user_holder, LEN)?;
        user.write(user_holder, user_region, 0, &vec![3; 20 << 12])?;
        let user_entry = user.create_ref(user_holder, user_region, 0, LEN)?;
        user.write(user_holder, user_region, 0, &vec![4; 2 << 12])?;
        let mapped = user.map_ref(user_holder, node_entry, 0, LEN, true)?;
        let sparse = user.alloc(user_holder, LEN)?;
        user.write(user_holder, sparse, 0, &[5; 10])?;
        Ok(Self {
            memory,
            node,
            node_holder,
            node_region,
            node_entry,
            node_spare,
            nobodys,
            user,
            user_holder,
            user_region,
            user_entry,
            mapped,
            sparse,
            user_died: false,
            user_left: false,
        })
    }

    /// The survivor uses what the dead one was at, while it is not recovered yet.
    pub(crate) fn others_go_on(&mut self, node_lives: bool) {
        let (store, holder) = if node_lives {
            (&mut self.node, self.node_holder)
        } else {
            (&mut self.user, self.user_holder)
        };
        for id in [self.node_entry, self.node_spare, self.user_entry] {
            let region = match store.map_ref(holder, id, 0, PAGE_BYTES, true) {
                Ok(region) => region,
                Err(Error::Consumed | Error::Dropped | Error::Stale { .. }) => continue,
                Err(Error::Expired) => continue,
                Err(error) => panic!("the others have to wait: {error}"),
            };
            store.write(holder, region, 10, &[6; 100]).expect("there is room");
            store.free(holder, region).expect("it is live");
        }
        let own = store.alloc(holder, PAGE_BYTES).expect("there is room");
        store.write(holder, own, 0, &[7; 4096]).expect("promised");
        let entry = store.create_ref(holder, own, 0, 10).expect("there is room");
        store.drop_ref(holder, entry).expect("it is live");
        store.free(holder, own).expect("it is live");
        store.reclaim(Instant::ZERO, 3);
    }

    pub(crate) fn recover_user(&mut self) {
        assert_eq!(self.node.recover(1, Instant::ZERO), Ok(true));
        self.user_left = true;
    }

    pub(crate) fn recover_reclaimer(&mut self) {
        self.node = Store::open(self.memory).expect("it is there");
        if self.user_died {
            self.recover_user();
        }
    }

    /// Audits, and compares what must be as it was.
    pub(crate) fn verify(&mut self, context: &str) {
        let mut scratch = vec![0; self.node.check_scratch_bytes()];
        self.node.check(&mut scratch).unwrap_or_else(|fault| panic!("{context}: {fault}"));
        let mut bytes = vec![0; LEN as usize];
        self.node.read_ref(self.node_entry, 0, &mut bytes).expect("it is the node's");
        assert!(bytes.iter().all(|byte| *byte == 1), "{context}: a reference changed");
        let read = self.node.read_ref(self.user_entry, 0, &mut bytes);
        if read.is_ok() {
            let (written, rest) = bytes.split_at(20 << 12);
            assert!(written.iter().all(|byte| *byte == 3), "{context}: the user's changed");
            assert!(rest.iter().all(|byte| *byte == 0), "{context}: the user's changed");
        }
        self.node
            .read(self.node_holder, self.node_region, 8 << 12, &mut bytes[..4096])
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(bytes[..4096].iter().all(|byte| *byte == 1), "{context}: a region changed");
    }

    /// Ends everything; all must come home.
    pub(crate) fn wind_up(&mut self, context: &str) {
        if !self.user_left {
            let _ = self.node.recover(1, Instant::ZERO);
        }
        let later = Instant::from_nanos(10_000);
        settle(&mut self.node, later);
        audit(&self.node);
        // What belongs to nobody outlives everybody.
        let claimed = self.node.claim_ref(self.node_holder, self.nobodys);
        if let Ok(claimed) = claimed {
            self.node.drop_ref(self.node_holder, claimed).expect("it was claimed");
        }
        if let Ok(claimed) = self.node.claim_ref(self.node_holder, self.user_entry) {
            self.node.drop_ref(self.node_holder, claimed).expect("it was claimed");
        }
        let left: Vec<HolderId> = self.node.holders_of(0).collect();
        for holder in left {
            self.node.holder_leave(holder, later).expect("it is live");
        }
        settle(&mut self.node, Instant::from_nanos(20_000));
        audit(&self.node);
        let stats = self.node.stats();
        assert_eq!(stats.holders.in_use, 0, "{context}: {stats:?}");
        assert_eq!(stats.frames.in_use, 0, "{context}: {stats:?}");
        assert_all_home(&self.node);
    }
}

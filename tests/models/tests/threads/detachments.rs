//! The accounts of detached references, which the cores of a memory node share.

use dmrpc_core::store::{EntryId, HolderId};
use dmrpc_models::{fails, holds};
use loom::sync::Arc;
use loom::thread;

use crate::detached::{DetachedAccount, Detachment, Detachments};
use crate::sync::{Without, leave_out_in_turns};

/// Bits of a holder's index in its identifier.
const INDEX_BITS: u32 = 24;

fn holder(index: u64) -> HolderId {
    HolderId::from_raw(index | 7 << INDEX_BITS)
}

fn life(generation: u64) -> EntryId {
    EntryId { index: 0, generation }
}

type Tables = ([Detachment; 1], [DetachedAccount; 2]);

/// Each holder may have one: whether it has none.
fn has_none(tables: &Tables, of: u64, detached: Option<u64>) -> bool {
    Detachments::new(1, &tables.0, &tables.1).may_add(holder(of), |_| detached)
}

/// A reference is made at one core and taken at another, which cannot know whether it was told of
/// yet. The same place is another's then.
fn hand_over(without: Without) -> impl Fn() + Send + Sync + 'static {
    move || {
        leave_out_in_turns(without);
        let tables: Arc<Tables> = Arc::new(Tables::default());
        let theirs = Arc::clone(&tables);
        let maker = thread::spawn(move || {
            Detachments::new(1, &theirs.0, &theirs.1).add(holder(0), life(1));
        });
        let mut other = Detachments::new(1, &tables.0, &tables.1);
        other.remove(life(1));
        other.add(holder(1), life(2));
        maker.join().expect("it panics nowhere");
        assert!(has_none(&tables, 0, Some(2)), "its only one was taken");
        let mut accounts = Detachments::new(1, &tables.0, &tables.1);
        assert!(!accounts.may_add(holder(1), |_| Some(2)), "it has one");
        accounts.remove(life(2));
        assert!(has_none(&tables, 1, None));
    }
}

/// Two cores take what a third one has made: one as its taker, one as it looks again at what is
/// over; the taker then makes another reference in that place.
fn two_ends(without: Without) -> impl Fn() + Send + Sync + 'static {
    move || {
        leave_out_in_turns(without);
        let tables: Arc<Tables> = Arc::new(Tables::default());
        Detachments::new(1, &tables.0, &tables.1).add(holder(0), life(1));
        let theirs = Arc::clone(&tables);
        let looks = thread::spawn(move || {
            let mut accounts = Detachments::new(1, &theirs.0, &theirs.1);
            accounts.remove(life(1));
        });
        let mut taker = Detachments::new(1, &tables.0, &tables.1);
        taker.remove(life(1));
        // By the same holder: only the life tells the two apart.
        taker.add(holder(0), life(2));
        looks.join().expect("it panics nowhere");
        assert!(!has_none(&tables, 0, Some(2)), "the second one counts");
        taker.remove(life(2));
        assert!(has_none(&tables, 0, None), "and once");
    }
}

#[test]
fn each_detached_reference_is_counted_once() {
    assert!(holds(3, hand_over(Without::Nothing)));
    assert!(holds(3, two_ends(Without::Nothing)));
    assert!(holds(3, quick(Without::Nothing)));
}

/// Whoever empties a place takes from an account what its maker has put there.
#[test]
fn counting_rests_on_acquire_and_release() {
    assert!(fails(3, quick(Without::Acquire)));
    assert!(fails(3, quick(Without::Release)));
}

/// One makes a reference, another takes it.
fn quick(without: Without) -> impl Fn() + Send + Sync + 'static {
    move || {
        leave_out_in_turns(without);
        let tables: Arc<Tables> = Arc::new(Tables::default());
        let theirs = Arc::clone(&tables);
        let maker = thread::spawn(move || {
            Detachments::new(1, &theirs.0, &theirs.1).add(holder(0), life(1));
        });
        Detachments::new(1, &tables.0, &tables.1).remove(life(1));
        maker.join().expect("it panics nowhere");
        assert!(has_none(&tables, 0, None), "the place says what is over");
    }
}

//! Accounts of detached references, by one thread.

use super::detached::{DetachedAccount, Detachment, Detachments};
use crate::store::{EntryId, HolderId};

/// All that was made is there still.
const ALL: fn(u32) -> Option<u64> = |_| Some(1);

fn holder(index: u64, generation: u64) -> HolderId {
    HolderId::from_raw(index | generation << 24)
}

fn entry(index: u32) -> EntryId {
    EntryId { index, generation: 1 }
}

fn tables() -> ([Detachment; 8], [DetachedAccount; 4]) {
    Default::default()
}

#[test]
fn what_is_taken_through_another_core_counts_at_once() {
    let (references, holders) = tables();
    let mut made_at = Detachments::new(1, &references, &holders);
    let mut taken_at = Detachments::new(1, &references, &holders);
    let a = holder(2, 7);
    for _ in 0..3 {
        made_at.add(a, entry(5));
        assert!(!made_at.may_add(a, ALL));
        assert!(!taken_at.may_add(a, ALL), "one quota for all cores");
        taken_at.remove(entry(5));
        assert!(made_at.may_add(a, ALL));
    }
}

#[test]
fn each_holder_has_its_own_account() {
    let (references, holders) = tables();
    let mut accounts = Detachments::new(2, &references, &holders);
    let [a, b] = [holder(1, 5), holder(2, 5)];
    for index in 0..2 {
        assert!(accounts.may_add(a, ALL));
        accounts.add(a, entry(index));
    }
    assert!(!accounts.may_add(a, ALL), "it has its two");
    assert!(accounts.may_add(b, ALL));
    // Another generation of that place is another reference.
    accounts.remove(EntryId { index: 0, generation: 2 });
    assert!(!accounts.may_add(a, ALL));
    accounts.remove(entry(0));
    accounts.remove(entry(0));
    assert!(accounts.may_add(a, ALL));
    accounts.add(a, entry(0));
    assert!(accounts.may_add(holder(1, 6), ALL), "a later holder starts anew");
}

#[test]
fn what_was_taken_elsewhere_is_noticed() {
    let (references, holders) = tables();
    let mut accounts = Detachments::new(1, &references, &holders);
    let a = holder(3, 1);
    accounts.add(a, entry(7));
    assert!(!accounts.may_add(a, ALL));
    assert!(accounts.may_add(a, |_| None));
    accounts.add(a, entry(7));
    accounts.add(a, EntryId { index: 7, generation: 2 });
    assert_eq!(accounts.count(a), 1, "the place has one reference at a time");
}

#[test]
fn a_reference_that_was_told_of_late_does_not_count() {
    let (references, holders) = tables();
    let mut accounts = Detachments::new(2, &references, &holders);
    let [a, b] = [holder(1, 5), holder(2, 5)];
    accounts.add(b, EntryId { index: 4, generation: 9 });
    // Its place has been another's since.
    accounts.add(a, EntryId { index: 4, generation: 8 });
    assert_eq!((accounts.count(a), accounts.count(b)), (0, 1));
    accounts.remove(EntryId { index: 4, generation: 8 });
    assert_eq!(accounts.count(b), 1);
    accounts.remove(EntryId { index: 4, generation: 9 });
    assert_eq!(accounts.count(b), 0);
}

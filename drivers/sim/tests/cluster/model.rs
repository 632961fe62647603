//! What must be true: the plain model that every answer is compared with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use dmrpc_core::wire::memory_op::MemoryError;
use dmrpc_core::wire::reference::Ref;

/// The bytes of a region or reference: what they are, and what they may be as well because the
/// outcome of a write was never told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    bytes: Vec<u8>,
    doubts: Vec<(usize, Rc<[u8]>)>,
}

impl Content {
    pub(crate) fn zeros(length: usize) -> Self {
        Self { bytes: vec![0; length], doubts: Vec::new() }
    }

    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, doubts: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The same bytes from `offset` on.
    pub(crate) fn part(&self, offset: usize, length: usize) -> Self {
        let end = offset + length;
        let cut = |(at, bytes): &(usize, Rc<[u8]>)| {
            let (from, to) = (offset.max(*at), end.min(at + bytes.len()));
            (from < to).then(|| (from - offset, bytes[from - at..to - at].into()))
        };
        Self {
            bytes: self.bytes[offset..end].to_vec(),
            doubts: self.doubts.iter().filter_map(cut).collect(),
        }
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// A write that may have happened, or may still happen.
    pub(crate) fn doubt(&mut self, offset: usize, bytes: &[u8]) {
        self.doubts.push((offset, bytes.into()));
    }

    /// Whether `got` may be read at `offset`.
    pub(crate) fn check(&self, offset: usize, got: &[u8], what: &str) {
        let expected = &self.bytes[offset..offset + got.len()];
        if expected == got {
            return;
        }
        for (at, (want, have)) in expected.iter().zip(got).enumerate() {
            let place = offset + at;
            let doubtful = |(from, bytes): &(usize, Rc<[u8]>)| {
                place.checked_sub(*from).and_then(|i| bytes.get(i)) == Some(have)
            };
            assert!(
                want == have || self.doubts.iter().any(doubtful),
                "{what}: byte {place} of {} is {have:#x} and should be {want:#x}",
                self.len()
            );
        }
    }
}

/// How a reference's entry may come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndKind {
    Dropped,
    Consumed,
    Expired,
}

/// An attempt to end an entry, between two ticks. One without a second tick may happen still.
#[derive(Clone, Copy, Debug)]
struct Ending {
    kind: EndKind,
    done: Option<u64>,
    withdrawn: bool,
}

/// One life of an entry of a memory node's reference table.
pub(crate) type EntryKey = (usize, u32, u64);

pub(crate) fn key_of(node: usize, reference: &Ref) -> EntryKey {
    (node, reference.index, reference.generation)
}

/// An owner that is gone.
const NOBODY: usize = usize::MAX;

/// What is known of an entry.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The compute node that owns it; `None` if it was detached.
    pub(crate) owner: Option<usize>,
    /// The reference that was made with it: to all of it, with the right to drop it.
    pub(crate) master: Ref,
    endings: Vec<Ending>,
    /// It was detached, or may have been, or may still be.
    pub(crate) detach_doubtful: bool,
}

/// A reference's bytes, and what they stand for.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) node: usize,
    pub(crate) wire: Ref,
    pub(crate) content: Rc<Content>,
}

impl Reference {
    pub(crate) fn key(&self) -> EntryKey {
        key_of(self.node, &self.wire)
    }
}

/// A region that others may try to touch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForeignRegion {
    pub(crate) node: usize,
    pub(crate) owner: usize,
    pub(crate) name: u64,
    pub(crate) ending: bool,
}

/// A call between compute nodes.
#[derive(Clone, Copy, Debug, Default)]
struct WorkRecord {
    executions: u32,
    ended: bool,
    /// Its caller was told that it was not executed.
    barred: bool,
}

/// What all nodes of a run know together.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    ticks: u64,
    pub(crate) entries: BTreeMap<EntryKey, Entry>,
    /// References that anybody may use, and how many bytes they stand for.
    pub(crate) board: Vec<Reference>,
    pub(crate) regions: Vec<ForeignRegion>,
    /// References that travel in calls, by the number in the call's parameters.
    pub(crate) passed: Vec<Reference>,
    works: Vec<WorkRecord>,
    /// Calls whose outcome was never told.
    pub(crate) unknown: u64,
    /// What was done and how often.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

pub(crate) type SharedOracle = Rc<RefCell<Oracle>>;

impl Oracle {
    pub(crate) fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn new_entry(&mut self, node: usize, owner: usize, master: Ref) {
        let entry =
            Entry { owner: Some(owner), master, endings: Vec::new(), detach_doubtful: false };
        let before = self.entries.insert(key_of(node, &master), entry);
        assert!(before.is_none(), "an entry's generation is used once: {master:?}");
    }

    /// Somebody tries to end an entry. Returns a number for [`Oracle::finish_ending`].
    pub(crate) fn begin_ending(&mut self, key: EntryKey, kind: EndKind) -> usize {
        self.tick();
        let entry = self.entries.get_mut(&key).expect("an entry that was made");
        entry.endings.push(Ending { kind, done: None, withdrawn: false });
        entry.endings.len() - 1
    }

    /// The attempt is over: it happened, or certainly did not.
    pub(crate) fn finish_ending(&mut self, key: EntryKey, number: usize, happened: bool) {
        let tick = self.tick();
        let ending = &mut self.entries.get_mut(&key).expect("an entry that was made").endings;
        if happened {
            let other = ending.iter().any(|ending| ending.done.is_some());
            assert!(!other, "{key:?} ends once: {ending:?}");
            ending[number].done = Some(tick);
        } else {
            ending[number].withdrawn = true;
        }
    }

    /// Whether an operation on an entry, issued at `issued`, may have found it there.
    pub(crate) fn may_work(&self, key: EntryKey, issued: u64) -> bool {
        let endings = &self.entries[&key].endings;
        !endings.iter().any(|ending| ending.done.is_some_and(|done| done < issued))
    }

    /// Whether an operation on an entry may be answered with `error` by now. `mine` is an ending
    /// that the same operation attempts itself.
    pub(crate) fn may_fail(&self, key: EntryKey, error: MemoryError, mine: Option<usize>) -> bool {
        let endings = self.entries[&key].endings.iter().enumerate();
        let mut others = endings.filter(|(at, ending)| Some(*at) != mine && !ending.withdrawn);
        match error {
            MemoryError::Consumed => others.any(|(_, ending)| ending.kind == EndKind::Consumed),
            MemoryError::Dropped => others.any(|(_, ending)| ending.kind == EndKind::Dropped),
            MemoryError::Expired => others.any(|(_, ending)| ending.kind == EndKind::Expired),
            // The slot may have been used again since.
            MemoryError::StaleReference => others.next().is_some(),
            _ => false,
        }
    }

    /// Whether an entry has ended for sure.
    pub(crate) fn has_ended(&self, key: EntryKey) -> bool {
        self.entries[&key].endings.iter().any(|ending| ending.done.is_some())
    }

    /// A compute node is gone: what it owned expires some time.
    pub(crate) fn owner_is_gone(&mut self, owner: usize) {
        for entry in self.entries.values_mut() {
            let owned = entry.owner == Some(owner) || entry.detach_doubtful;
            if entry.owner == Some(owner) {
                entry.owner = Some(NOBODY);
            }
            if owned && !entry.endings.iter().any(|end| end.done.is_some()) {
                entry.endings.push(Ending { kind: EndKind::Expired, done: None, withdrawn: false });
            }
        }
        for region in &mut self.regions {
            region.ending |= region.owner == owner;
        }
    }

    pub(crate) fn begin_work(&mut self) -> u32 {
        self.works.push(WorkRecord::default());
        self.works.len() as u32 - 1
    }

    pub(crate) fn execute_work(&mut self, id: u32) {
        let record = &mut self.works[id as usize];
        record.executions += 1;
        assert_eq!(record.executions, 1, "call {id} is executed at most once");
        assert!(!record.barred, "call {id} is executed after its caller was told that it was not");
    }

    /// A call has ended; `executed` if its answer came from the service.
    pub(crate) fn end_work(&mut self, id: u32, executed: Option<bool>) {
        let record = &mut self.works[id as usize];
        assert!(!record.ended, "call {id} ends once");
        record.ended = true;
        record.barred = executed == Some(false);
        if let Some(executed) = executed {
            assert_eq!(record.executions, u32::from(executed), "call {id}: what its end says");
        }
    }

    /// Passes a reference in a call: its number there.
    pub(crate) fn pass(&mut self, reference: Reference) -> u32 {
        self.passed.push(reference);
        self.passed.len() as u32 - 1
    }
}

//! What must be true: the plain model that every answer is compared with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dmrpc_core::endpoint::host::SessionId;
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

/// One life of an entry of the reference table of one life of a memory node.
pub(crate) type EntryKey = (usize, u64, u32, u64);

pub(crate) fn key_of(node: usize, reference: &Ref) -> EntryKey {
    (node, reference.incarnation, reference.index, reference.generation)
}

/// A session of a compute node with a memory node: memory node, compute node, the latter's name.
type Holding = (usize, usize, SessionId);

/// Between two incarnations of a memory node: more than a forged one is off.
const LIVES_APART: u64 = 1_000;

/// An owner that is gone.
const NOBODY: usize = usize::MAX;

/// What is known of an entry.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The compute node that owns it; `None` if it was detached.
    pub(crate) owner: Option<usize>,
    /// The session in which it owns it.
    session: SessionId,
    /// The reference that was made with it: to all of it, with the right to drop it.
    pub(crate) master: Ref,
    endings: Vec<Ending>,
    /// It was detached, or may have been, or may still be.
    pub(crate) detach_doubtful: bool,
}

impl Entry {
    /// Its owner's session is over: it expires some time, if it is still there.
    fn may_expire(&mut self) {
        let over = |end: &Ending| end.done.is_some() || end.kind == EndKind::Expired;
        if !self.endings.iter().any(over) {
            self.endings.push(Ending { kind: EndKind::Expired, done: None, withdrawn: false });
        }
    }
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
    pub(crate) session: SessionId,
    pub(crate) incarnation: u64,
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
    /// Which life each memory node is in.
    pub(crate) incarnations: Vec<u64>,
    /// When lives of memory nodes ended, in ticks.
    died: BTreeMap<(usize, u64), u64>,
    /// Sessions with memory nodes that ended at either end.
    lost: BTreeSet<Holding>,
    /// Ticks of each node's clock to 1,000 of the network's.
    pub(crate) clocks: BTreeMap<usize, u64>,
    /// Nodes that do not run now, and sessions with such that a memory node ended meanwhile.
    pub(crate) paused: BTreeSet<usize>,
    zombies: BTreeSet<Holding>,
    /// A compute node that has come to a point where it is to die.
    pub(crate) dying: Option<(usize, &'static str)>,
    /// Deaths at named points still to come.
    pub(crate) deaths_left: u32,
    /// Operations begun by programs.
    pub(crate) operations: u64,
    /// Calls whose outcome was never told.
    pub(crate) unknown: u64,
    /// What was done and how often.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

pub(crate) type SharedOracle = Rc<RefCell<Oracle>>;

impl Oracle {
    /// What is known when memory nodes have these incarnations, and so many deaths are to come.
    pub(crate) fn new(incarnations: Vec<u64>, deaths_left: u32) -> SharedOracle {
        Rc::new(RefCell::new(Self { incarnations, deaths_left, ..Self::default() }))
    }

    pub(crate) fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn new_entry(
        &mut self,
        node: usize,
        (owner, session): (usize, SessionId),
        master: Ref,
    ) {
        let mut entry = Entry {
            owner: Some(owner),
            session,
            master,
            endings: Vec::new(),
            detach_doubtful: false,
        };
        if self.lost.contains(&(node, owner, session)) {
            entry.may_expire();
        }
        let before = self.entries.insert(key_of(node, &master), entry);
        assert!(before.is_none(), "an entry's generation is used once: {master:?}");
    }

    /// Takes note of a region.
    pub(crate) fn new_region(
        &mut self,
        node: usize,
        (owner, session): (usize, SessionId),
        incarnation: u64,
        name: u64,
    ) -> usize {
        let dead = self.incarnations[node] != incarnation;
        let ending = dead || self.lost.contains(&(node, owner, session));
        self.regions.push(ForeignRegion { node, owner, session, incarnation, name, ending });
        self.regions.len() - 1
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
        let died = self.died.get(&(key.0, key.1));
        died.is_none_or(|died| issued <= *died)
            && !endings.iter().any(|ending| ending.done.is_some_and(|done| done < issued))
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
            MemoryError::StaleIncarnation { incarnation } => {
                incarnation == key.1 && self.is_of_dead_node(key)
            }
            // Its owner's session is over, and the owner came back in another.
            MemoryError::NotOwner => others.any(|(_, ending)| ending.kind == EndKind::Expired),
            _ => false,
        }
    }

    /// Whether an entry has ended for sure.
    pub(crate) fn has_ended(&self, key: EntryKey) -> bool {
        self.is_of_dead_node(key)
            || self.entries[&key].endings.iter().any(|ending| ending.done.is_some())
    }

    /// A compute node is gone: what it owned expires some time.
    pub(crate) fn owner_is_gone(&mut self, owner: usize) {
        for entry in self.entries.values_mut() {
            let owned = entry.owner == Some(owner) || entry.detach_doubtful;
            if entry.owner == Some(owner) {
                entry.owner = Some(NOBODY);
            }
            if owned {
                entry.may_expire();
            }
        }
        for region in &mut self.regions {
            region.ending |= region.owner == owner;
        }
    }

    /// A session with a memory node is over, at one of its ends at least.
    pub(crate) fn session_is_gone(&mut self, node: usize, owner: usize, session: SessionId) {
        if !self.lost.insert((node, owner, session)) {
            return;
        }
        let incarnation = self.incarnations[node];
        let first = (node, incarnation, 0, 0);
        for (_, entry) in self.entries.range_mut(first..=(node, incarnation, u32::MAX, u64::MAX)) {
            let owned = entry.owner == Some(owner) || entry.detach_doubtful;
            if owned && entry.session == session {
                entry.may_expire();
            }
        }
        for region in &mut self.regions {
            let its = region.node == node && region.owner == owner && region.session == session;
            region.ending |= its;
        }
    }

    /// Whether any session has been lost.
    pub(crate) fn has_lost_sessions(&self) -> bool {
        !self.lost.is_empty()
    }

    /// A memory node's lease for a node that does not run has expired.
    pub(crate) fn expired_while_paused(&mut self, node: usize, owner: usize, session: SessionId) {
        if self.paused.contains(&owner) {
            self.zombies.insert((node, owner, session));
        }
    }

    /// Whether a memory node has ended a session of a node that does not run.
    pub(crate) fn has_expired_while_paused(
        &self,
        node: usize,
        owner: usize,
        session: SessionId,
    ) -> bool {
        self.zombies.contains(&(node, owner, session))
    }

    /// `node` has taken `peer`'s silence for long, by its own clock.
    pub(crate) fn gave_up(&mut self, node: usize, peer: usize) {
        let rate = |index: usize| self.clocks.get(&index).copied().unwrap_or(1_000);
        if rate(node) >= 2 * rate(peer) {
            self.count("clocks apart");
        }
    }

    /// A memory node has died; its next life has the next incarnation.
    pub(crate) fn memory_node_is_gone(&mut self, node: usize) {
        let tick = self.tick();
        self.died.insert((node, self.incarnations[node]), tick);
        self.incarnations[node] += LIVES_APART;
        for region in &mut self.regions {
            region.ending |= region.node == node;
        }
    }

    /// Whether an entry's memory node has died since it was made.
    pub(crate) fn is_of_dead_node(&self, key: EntryKey) -> bool {
        self.died.contains_key(&(key.0, key.1))
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

//! The audit: walks everything and compares. For tests and for doubt, not for the fast path.

use core::fmt;

use super::dead::Item;
use super::entry::Word;
use super::records::{
    STATE_BITS, STATE_FREE, Table, WORD, entry, holder, pin, region, stage, stamp, version as field,
};
use super::{Memory, Resource, Store};

/// What the audit found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The scratch memory is too small.
    Scratch {
        /// Bytes handed in.
        bytes: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// Free, used and retired slots do not add up to the high-water mark.
    Sum {
        /// Of which table.
        what: Resource,
        /// Slots found free.
        free: u64,
        /// Slots that should be in use.
        used: u64,
        /// The high-water mark.
        high: u64,
    },
    /// Something is reached, or listed, though it is free.
    Dangling {
        /// What.
        what: Resource,
        /// Which.
        index: u32,
    },
    /// Something is neither free nor reached.
    Leaked {
        /// What.
        what: Resource,
        /// Which.
        index: u32,
    },
    /// Something superseded for good is still reached, or something listed twice.
    Twice {
        /// What.
        what: Resource,
        /// Which.
        index: u32,
    },
    /// A stamp contradicts the version in whose tree it is.
    Stamp {
        /// What.
        what: Resource,
        /// Which.
        index: u32,
    },
    /// A version's count is not the number of its holders or children.
    Count {
        /// Which version.
        version: u32,
        /// Holders and children counted.
        counted: (u32, u32),
        /// Both together as the version has them.
        stored: u32,
    },
    /// A version's list of children is not those that name it as their parent.
    Children {
        /// Which version.
        version: u32,
        /// Children that name it.
        counted: u32,
    },
    /// A holder's count is not the number of regions or references that name it.
    Owned {
        /// Of what.
        what: Resource,
        /// Which holder.
        holder: u32,
        /// Those that name it.
        counted: u64,
        /// Those that it counts.
        stored: u64,
    },
    /// Promises of regions and staged writes do not add up to the table's.
    Promised {
        /// Of what.
        what: Resource,
        /// Promises counted.
        counted: u64,
        /// Promises as the table has them.
        stored: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store contradicts itself: {self:?}")
    }
}

impl core::error::Error for Fault {}

/// The bits of a state in a record's word.
const STATES: u64 = (1 << STATE_BITS) - 1;

/// Marks of one frame or node, a byte each.
const REACHED: u8 = 1;
const LISTED: u8 = 2;
const GARBAGE: u8 = 4;

/// The scratch memory: a byte a frame, a byte a node, two counters a version.
struct Marks<'s> {
    frames: &'s mut [u8],
    nodes: &'s mut [u8],
    versions: &'s mut [u8],
}

impl Marks<'_> {
    fn of(&mut self, item: Item) -> &mut u8 {
        match item {
            Item::Frame(index) => &mut self.frames[index as usize],
            Item::Node(index) => &mut self.nodes[index as usize],
        }
    }

    /// Adds 1 to a version's counter of holders (0) or children (1).
    fn count(&mut self, version: u32, which: usize) {
        let at = version as usize * 8 + which * 4;
        let value = self.counted(version, which) + 1;
        self.versions[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn counted(&self, version: u32, which: usize) -> u32 {
        let at = version as usize * 8 + which * 4;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.versions[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }
}

fn name(item: Item) -> (Resource, u32) {
    match item {
        Item::Frame(index) => (Resource::Frames, index),
        Item::Node(index) => (Resource::Nodes, index),
    }
}

impl<M: Memory> Store<M> {
    /// Bytes of scratch memory that [`Store::check`] needs now.
    pub fn check_scratch_bytes(&self) -> usize {
        let high = |table| self.high(table) as usize;
        high(self.lay.frames) + high(self.lay.nodes) + 8 * high(self.lay.versions)
    }

    /// Audits the whole store: every frame and node is free, reached from a version or a staged
    /// write, or waiting to be freed, exactly once; every version's count is the number of its
    /// regions, references, pins and children; promises add up.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self, scratch: &mut [u8]) -> core::result::Result<(), Fault> {
        let needed = self.check_scratch_bytes();
        if scratch.len() < needed {
            return Err(Fault::Scratch { bytes: scratch.len(), needed });
        }
        let scratch = &mut scratch[..needed];
        scratch.fill(0);
        let (frames, rest) = scratch.split_at_mut(self.high(self.lay.frames) as usize);
        let (nodes, versions) = rest.split_at_mut(self.high(self.lay.nodes) as usize);
        let mut marks = Marks { frames, nodes, versions };
        self.check_sums()?;
        self.check_promises()?;
        self.mark_stages(&mut marks)?;
        for version in self.live_versions() {
            self.mark_version(&mut marks, version)?;
        }
        for version in self.live_versions() {
            self.check_lists(&mut marks, version)?;
        }
        self.check_leaks(&marks)?;
        self.check_counts(&mut marks)
    }

    fn live_versions(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.high(self.lay.versions)).filter(|version| self.is_version(*version))
    }

    /// Indices of the records of a table that are live, or on their way out.
    fn live_records(&self, table: Table) -> impl Iterator<Item = u32> + '_ {
        let states = if table.id == self.lay.entries.id { entry::STATE } else { STATES };
        (0..self.high(table))
            .filter(move |index| self.mem.load_u64(table.at(*index) + WORD) & states != STATE_FREE)
    }

    /// Every table: in use + free + retired = ever used.
    fn check_sums(&self) -> core::result::Result<(), Fault> {
        let records = [
            (self.lay.regions, Resource::Regions),
            (self.lay.entries, Resource::Entries),
            (self.lay.holders, Resource::Holders),
            (self.lay.pins, Resource::Pins),
            (self.lay.stages, Resource::Stages),
        ];
        for (table, what) in records {
            self.check_sum(table, what, self.live_records(table).count() as u64)?;
        }
        let live = self.live_versions().count() as u64;
        self.check_sum(self.lay.versions, Resource::Versions, live)?;
        for (table, what) in
            [(self.lay.frames, Resource::Frames), (self.lay.nodes, Resource::Nodes)]
        {
            let is_used = |i: &u32| !stamp::is_free(self.mem.load_u64(table.at(*i)));
            let live = (0..self.high(table)).filter(is_used).count() as u64;
            self.check_sum(table, what, live)?;
        }
        Ok(())
    }

    fn check_sum(
        &self,
        table: Table,
        what: Resource,
        live: u64,
    ) -> core::result::Result<(), Fault> {
        let high = u64::from(self.high(table));
        let usage = self.usage(table);
        let mut free = self.visit_stack(table, |_| {});
        for who in 0..self.lay.config.participants {
            let area = self.lay.participant(who);
            free += self.visit_cache(area, table, |_| {});
            free += self.fresh(area, table).len() as u64;
        }
        let used = usage.in_use;
        if used != live || free + used + usage.retired != high {
            return Err(Fault::Sum { what, free, used, high });
        }
        Ok(())
    }

    fn check_promises(&self) -> core::result::Result<(), Fault> {
        let tables = [
            (self.lay.frames, Resource::Frames, region::FRAMES, stage::FRAMES),
            (self.lay.nodes, Resource::Nodes, region::NODES, stage::NODES),
        ];
        for (table, what, in_region, in_stage) in tables {
            let (regions, stages) = (self.lay.regions, self.lay.stages);
            let of = |table: Table, field| {
                move |index| u64::from(self.mem.load_u32(table.at(index) + field))
            };
            let counted = self.live_records(regions).map(of(regions, in_region)).sum::<u64>()
                + self.live_records(stages).map(of(stages, in_stage)).sum::<u64>();
            let stored = self.usage(table).reserved;
            if counted != stored {
                return Err(Fault::Promised { what, counted, stored });
            }
        }
        Ok(())
    }

    /// Marks what a tree reaches and checks each stamp: up to the version's number, and up to
    /// its threshold below whatever is not its own.
    fn mark_tree(
        &self,
        marks: &mut Marks<'_>,
        link: u32,
        level: u32,
        (threshold, newest): (u64, u64),
    ) -> core::result::Result<(), Fault> {
        let Some(index) = link.checked_sub(1) else { return Ok(()) };
        let item = if level == 0 { Item::Frame(index) } else { Item::Node(index) };
        let (what, _) = name(item);
        let found = match item {
            Item::Frame(frame) => self.frame_stamp(frame),
            Item::Node(node) => self.node_stamp(node),
        };
        if stamp::is_free(found) {
            return Err(Fault::Dangling { what, index });
        }
        if found > newest {
            return Err(Fault::Stamp { what, index });
        }
        *marks.of(item) |= REACHED;
        if level > 0 {
            for position in 0..64 {
                let link = self.mem.load_u32(self.node_at(index) + 4 * position);
                let newest = if found <= threshold { threshold } else { newest };
                self.mark_tree(marks, link, level - 1, (threshold, newest))?;
            }
        }
        Ok(())
    }

    fn mark_version(&self, marks: &mut Marks<'_>, version: u32) -> core::result::Result<(), Fault> {
        let at = self.version_at(version);
        let number = self.mem.load_u64(at + field::NUMBER);
        let depth = self.mem.load_u32(at + field::DEPTH);
        let threshold = self.mem.load_u64(at + field::THRESHOLD);
        self.mark_tree(marks, self.mem.load_u32(at + field::ROOT), depth, (threshold, number))
    }

    fn mark_stages(&self, marks: &mut Marks<'_>) -> core::result::Result<(), Fault> {
        for index in self.live_records(self.lay.stages) {
            let at = self.lay.stages.at(index);
            let root = self.mem.load_u32(at + stage::ROOT);
            self.mark_tree(marks, root, self.stage_depth(at), (0, stamp::STAGED))?;
        }
        Ok(())
    }

    /// A version's lists: superseded things are their parent's still, or waiting to be freed.
    fn check_lists(&self, marks: &mut Marks<'_>, version: u32) -> core::result::Result<(), Fault> {
        let at = self.version_at(version);
        let threshold = self.mem.load_u64(at + field::THRESHOLD);
        let mut fault = None;
        for list in [field::DEAD, field::PENDING] {
            let marks = core::cell::RefCell::new(&mut *marks);
            self.for_each_item(
                at + list,
                |chunk| *marks.borrow_mut().of(Item::Node(chunk)) |= LISTED,
                |item| {
                    let (what, index) = name(item);
                    let found = match item {
                        Item::Frame(frame) => self.frame_stamp(frame),
                        Item::Node(node) => self.node_stamp(node),
                    };
                    let mut marks = marks.borrow_mut();
                    let mark = marks.of(item);
                    if stamp::is_free(found) {
                        fault = Some(Fault::Dangling { what, index });
                    } else if found > threshold {
                        if *mark & (REACHED | GARBAGE) != 0 {
                            fault = Some(Fault::Twice { what, index });
                        } else if list == field::DEAD {
                            fault = Some(Fault::Stamp { what, index });
                        }
                        *mark |= GARBAGE;
                    } else if *mark & REACHED == 0 {
                        fault = Some(Fault::Leaked { what, index });
                    }
                },
            );
        }
        fault.map_or(Ok(()), Err)
    }

    fn check_leaks(&self, marks: &Marks<'_>) -> core::result::Result<(), Fault> {
        let tables = [
            (self.lay.frames, Resource::Frames, &*marks.frames),
            (self.lay.nodes, Resource::Nodes, &*marks.nodes),
        ];
        for (table, what, marks) in tables {
            for (index, mark) in (0u32..).zip(marks) {
                let is_free = stamp::is_free(self.mem.load_u64(table.at(index)));
                if is_free != (*mark == 0) {
                    return Err(match is_free {
                        true => Fault::Dangling { what, index },
                        false => Fault::Leaked { what, index },
                    });
                }
            }
        }
        Ok(())
    }

    /// Every hold and child is counted, each by one region, reference, pin or version.
    fn check_counts(&self, marks: &mut Marks<'_>) -> core::result::Result<(), Fault> {
        let holders = [
            (self.lay.regions, region::VERSION),
            (self.lay.entries, entry::VERSION),
            (self.lay.pins, pin::VERSION),
        ];
        for (table, version) in holders {
            for index in self.live_records(table) {
                marks.count(self.mem.load_u32(table.at(index) + version), 0);
            }
        }
        for version in self.live_versions() {
            let parent = self.mem.load_u32(self.version_at(version) + field::PARENT);
            if let Some(parent) = parent.checked_sub(1) {
                marks.count(parent, 1);
            }
        }
        for version in self.live_versions() {
            let count = self.count(version);
            let counted = (marks.counted(version, 0), marks.counted(version, 1));
            let stored = count.holds();
            if counted.0 + counted.1 != stored {
                return Err(Fault::Count { version, counted, stored });
            }
            let forked = count.has(super::records::count::FORKED);
            if (counted.1 != 0) != forked && counted.1 != 0 {
                return Err(Fault::Children { version, counted: counted.1 });
            }
        }
        self.check_owners()
    }

    /// Every holder's counts are those of what names it as the owner.
    fn check_owners(&self) -> core::result::Result<(), Fault> {
        for index in self.live_records(self.lay.holders) {
            let at = self.lay.holders.at(index);
            let owned = |table: Table, owner: u64| {
                let is_owner = |record: &u32| self.mem.load_u32(table.at(*record) + owner) == index;
                self.live_records(table).filter(is_owner).count() as u64
            };
            let entries = self.lay.entries;
            let is_owner = |record: &u32| {
                Word(self.mem.load_u64(entries.at(*record) + WORD)).holder() == Some(index)
            };
            let references = self.live_records(entries).filter(is_owner).count() as u64;
            let count = |field| u64::from(self.mem.load_u32(at + field));
            let kinds = [
                (
                    Resource::Regions,
                    owned(self.lay.regions, region::HOLDER),
                    count(holder::REGION_COUNT),
                ),
                (Resource::Entries, references, self.entries_of(at)),
            ];
            for (what, counted, stored) in kinds {
                if counted != stored {
                    return Err(Fault::Owned { what, holder: index, counted, stored });
                }
            }
        }
        Ok(())
    }
}

//! The audit: walks everything and compares. For tests and for doubt, not for the fast path.

use core::fmt;

use super::dead::Item;
use super::records::{
    STATE_BITS, STATE_FREE, STATE_LEAVING, STATE_LIVE, Table, WORD, entry, holder, pin, region,
    stage, stamp, version as field,
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
        /// Holders and children as the version has them.
        stored: (u32, u32),
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
        let high = |table| self.control(table, Table::HIGH) as usize;
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
        let (frames, rest) =
            scratch.split_at_mut(self.control(self.lay.frames, Table::HIGH) as usize);
        let (nodes, versions) =
            rest.split_at_mut(self.control(self.lay.nodes, Table::HIGH) as usize);
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
        (0..self.control(self.lay.versions, Table::HIGH)).filter(|version| {
            self.mem.load_u32(self.version_at(*version) + field::FLAGS) & field::IN_USE != 0
        })
    }

    /// Indices of the records of a table that are live, or on their way out.
    fn live_records(&self, table: Table) -> impl Iterator<Item = u32> + '_ {
        let states = [STATE_LIVE, STATE_LEAVING];
        (0..self.control(table, Table::HIGH)).filter(move |index| {
            let state = self.mem.load_u64(table.at(*index) + WORD) & ((1 << STATE_BITS) - 1);
            debug_assert!(state == STATE_FREE || states.contains(&state));
            states.contains(&state)
        })
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
            let live = self.live_records(table).count() as u64;
            let next = |index: u32| self.mem.load_u32(table.at(index) + super::records::LINK);
            self.check_sum(table, what, live, next)?;
        }
        let live = self.live_versions().count() as u64;
        self.check_sum(self.lay.versions, Resource::Versions, live, |i| self.version_link(i))?;
        for (table, what) in
            [(self.lay.frames, Resource::Frames), (self.lay.nodes, Resource::Nodes)]
        {
            let high = self.control(table, Table::HIGH);
            let is_used = |i: &u32| self.mem.load_u64(table.at(*i)) & stamp::FREE == 0;
            let live = (0..high).filter(is_used).count() as u64;
            self.check_sum(table, what, live, |i| self.mem.load_u64(table.at(i)) as u32)?;
        }
        Ok(())
    }

    fn check_sum(
        &self,
        table: Table,
        what: Resource,
        live: u64,
        next: impl Fn(u32) -> u32,
    ) -> core::result::Result<(), Fault> {
        let high = u64::from(self.control(table, Table::HIGH));
        let retired = u64::from(self.control(table, Table::RETIRED));
        let used = u64::from(self.control(table, Table::USED));
        let mut link = self.control(table, Table::FREE);
        let mut free = 0;
        while link != 0 && free <= high {
            free += 1;
            link = next(link - 1);
        }
        if used != live || free + used + retired != high {
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
            let stored = u64::from(self.control(table, Table::RESERVED));
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
        if found & stamp::FREE != 0 {
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
            let root = self.mem.load_u32(self.lay.stages.at(index) + stage::ROOT);
            self.mark_tree(marks, root, 2, (0, stamp::STAGED))?;
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
                    if found & stamp::FREE != 0 {
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
                let is_free = self.mem.load_u64(table.at(index)) & stamp::FREE != 0;
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
            let stored = (count.holders(), count.children());
            if counted != stored {
                return Err(Fault::Count { version, counted, stored });
            }
        }
        self.check_owners()
    }

    /// Every holder's counts are those of what names it as the owner.
    fn check_owners(&self) -> core::result::Result<(), Fault> {
        for index in self.live_records(self.lay.holders) {
            let at = self.lay.holders.at(index);
            let owns = |table: Table, owner: u64, value: u32| {
                let is_owner = |record: &u32| self.mem.load_u32(table.at(*record) + owner) == value;
                self.live_records(table).filter(is_owner).count() as u64
            };
            let kinds = [
                (Resource::Regions, holder::REGION_COUNT, self.lay.regions, region::HOLDER, index),
                (Resource::Entries, holder::ENTRY_COUNT, self.lay.entries, entry::OWNER, index + 1),
            ];
            for (what, count, table, owner, value) in kinds {
                let counted = owns(table, owner, value);
                let stored = u64::from(self.mem.load_u32(at + count));
                if counted != stored {
                    return Err(Fault::Owned { what, holder: index, counted, stored });
                }
            }
        }
        Ok(())
    }
}

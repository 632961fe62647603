//! Formatting and opening a pool, and the participants that share it.

use core::cell::Cell;

use super::error::{FormatError, Resource};
use super::layout::{Config, Layout};
use super::records::{SUPERBLOCK_BYTES, participant as field, superblock};
use super::redo::{Progress, phase};
use super::{Memory, Store};

/// Says that a pool begins with a store of this format: "dmrpc" and the format's version.
const MAGIC: u64 = u64::from_be_bytes(*b"dmrpc\0\0\x04");

/// The participant that reclaims, and recovers others.
pub(super) const RECLAIMER: u32 = 0;

type Result<T> = core::result::Result<T, FormatError>;

impl<M: Memory> Store<M> {
    /// Makes an empty store in a pool, whatever was there before, and is its participant 0.
    /// Touches the first pages; where memory is shared, the tables as well, which are about a
    /// hundredth of the pool.
    ///
    /// # Errors
    /// [`FormatError::TooSmall`], [`FormatError::Limit`].
    pub fn format(mem: M, config: &Config) -> Result<Self> {
        let lay = Layout::new(config)?;
        check_size(&mem, lay.bytes())?;
        check_owners(&mem, config)?;
        // Others may not look at anything before it is known to be free.
        let cleared = if mem.shared() { lay.node_base } else { lay.holders.base };
        mem.store_u64(superblock::MAGIC, 0);
        mem.fill_zero(0, cleared);
        for (position, value) in config_words(config).into_iter().enumerate() {
            mem.store_u64(superblock::CONFIG + 8 * position as u64, value);
        }
        let store = Self::handle(mem, lay, 0, 0);
        for table in [store.lay.frames, store.lay.nodes] {
            let free = u64::from(table.limit) - store.lay.slack(table);
            let at = if store.mem.shared() {
                table.credit()
            } else {
                store.cache(table) + field::CREDIT
            };
            store.mem.store_u64(at, free);
        }
        store.mem.store_u64(store.area + field::STATE, 1 << field::STATE_BITS | field::ATTACHED);
        store.mem.fence();
        store.mem.store_u64(superblock::MAGIC, MAGIC);
        Ok(store)
    }

    /// Opens the store that is in a pool already, as participant 0, whose earlier life is over.
    /// Where memory is shared, what it left half done is finished or undone; other memory must
    /// have been left between two operations.
    ///
    /// # Errors
    /// [`FormatError::Foreign`], [`FormatError::TooSmall`], [`FormatError::Limit`].
    pub fn open(mem: M) -> Result<Self> {
        let lay = read_layout(&mem)?;
        let mut store = Self::handle(mem, lay, RECLAIMER, 0);
        if store.mem.shared() {
            store.recover_self();
        }
        store.begin_incarnation();
        Ok(store)
    }

    /// Joins the store that is in a pool already as a participant of its own: another core of
    /// the process, or another process. Nobody else may be this participant.
    ///
    /// # Errors
    /// As [`Store::open`]; [`FormatError::NoParticipant`]; [`FormatError::Attached`] until
    /// [`Store::recover`] has ended its earlier life.
    pub fn attach(mem: M, participant: u32) -> Result<Self> {
        let lay = read_layout(&mem)?;
        let participants = lay.config.participants;
        if participant >= participants || !mem.shared() {
            return Err(FormatError::NoParticipant { participant, participants });
        }
        let at = lay.participant(participant) + field::STATE;
        let state = mem.load_u64(at);
        let incarnation = (state >> field::STATE_BITS) + 1;
        let new = incarnation << field::STATE_BITS | field::ATTACHED;
        if state & ((1 << field::STATE_BITS) - 1) != field::FREE
            || mem.compare_exchange_u64(at, state, new).is_err()
        {
            return Err(FormatError::Attached { participant });
        }
        let progress = Progress(mem.load_u64(lay.participant(participant) + field::PROGRESS));
        Ok(Self::handle(mem, lay, participant, progress.sequence()))
    }

    fn handle(mem: M, lay: Layout, me: u32, sequence: u64) -> Self {
        let area = lay.participant(me);
        Self {
            mem,
            lay,
            me,
            area,
            caches: area,
            sequence: Cell::new(sequence),
            open: Cell::new(false),
            logged: Cell::new(0),
            corrupt: Cell::new(false),
            turn: 0,
            spent: 0,
        }
    }

    /// Goes on after the operation that the participant's earlier life ran last.
    pub(super) fn resume_sequence(&mut self) {
        let progress = Progress(self.mem.load_u64(self.area + field::PROGRESS));
        debug_assert_eq!(progress.phase(), phase::IDLE);
        self.sequence.set(progress.sequence());
    }

    fn begin_incarnation(&mut self) {
        let at = self.area + field::STATE;
        let incarnation = (self.mem.load_u64(at) >> field::STATE_BITS) + 1;
        self.mem.store_u64(at, incarnation << field::STATE_BITS | field::ATTACHED);
    }

    /// Which life of its participant this handle is.
    pub fn incarnation(&self) -> u64 {
        self.mem.load_u64(self.area + field::STATE) >> field::STATE_BITS
    }

    /// The incarnation of a participant, and whether somebody is it now, or died as it.
    ///
    /// # Errors
    /// [`FormatError::NoParticipant`].
    pub fn participant_state(&self, participant: u32) -> Result<(u64, bool)> {
        self.check_participant(participant)?;
        let state = self.mem.load_u64(self.lay.participant(participant) + field::STATE);
        let attached = state & ((1 << field::STATE_BITS) - 1) == field::ATTACHED;
        Ok((state >> field::STATE_BITS, attached))
    }

    pub(super) fn check_participant(&self, participant: u32) -> Result<()> {
        let participants = self.lay.config.participants;
        if participant < participants {
            return Ok(());
        }
        Err(FormatError::NoParticipant { participant, participants })
    }
}

pub(super) fn read_layout(mem: &impl Memory) -> Result<Layout> {
    check_size(mem, SUPERBLOCK_BYTES)?;
    let found = mem.load_u64(superblock::MAGIC);
    if found != MAGIC {
        return Err(FormatError::Foreign { found, expected: MAGIC });
    }
    let word = |position: u64| mem.load_u64(superblock::CONFIG + 8 * position);
    let part = |position: u64| u32::try_from(word(position)).unwrap_or(u32::MAX);
    let config = Config {
        frames: part(0),
        nodes: part(1),
        versions: part(2),
        regions: part(3),
        entries: part(4),
        holders: part(5),
        pins: part(6),
        stages: part(7),
        detached_max: part(8),
        holds_max: part(9),
        grace_ns: word(10),
        participants: part(11),
    };
    let lay = Layout::new(&config)?;
    check_size(mem, lay.bytes())?;
    Ok(lay)
}

fn check_size(mem: &impl Memory, needed: u64) -> Result<()> {
    let bytes = mem.len();
    if bytes >= needed { Ok(()) } else { Err(FormatError::TooSmall { bytes, needed }) }
}

fn config_words(config: &Config) -> [u64; 12] {
    [
        config.frames.into(),
        config.nodes.into(),
        config.versions.into(),
        config.regions.into(),
        config.entries.into(),
        config.holders.into(),
        config.pins.into(),
        config.stages.into(),
        config.detached_max.into(),
        config.holds_max.into(),
        config.grace_ns,
        config.participants.into(),
    ]
}

/// Whether a configuration asks for more participants than memory of one owner can have.
fn check_owners(mem: &impl Memory, config: &Config) -> Result<()> {
    if mem.shared() || config.participants == 1 {
        return Ok(());
    }
    let wanted = config.participants.into();
    Err(FormatError::Limit { what: Resource::Participants, wanted, max: 1 })
}

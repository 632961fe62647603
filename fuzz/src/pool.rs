//! Pools whose superblock, participants' table and rings hold what the input says: whoever opens
//! one, joins it, watches it or receives from it refuses what cannot be, and goes on.

use std::cell::OnceCell;
use std::path::PathBuf;

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::memory::Memory;
use dmrpc_core::time::{Duration, Instant};
use dmrpc_cxl::device::{RingDevice, address_of};
use dmrpc_cxl::participants::{Event, Participant, Watch};
use dmrpc_cxl::pool::{Overwrite, Pool, PoolConfig};
use dmrpc_cxl::process::ProcessId;
use dmrpc_cxl::{Geometry, Mapping, Mode};

use crate::bytes::Choices;

const POOL_BYTES: u64 = 64 << 10;
const SUPERBLOCK_BYTES: u64 = 4096;
/// Bytes of the superblock that its checksum covers, and where that is.
const CHECKED_BYTES: usize = 128;
const SLOT_BYTES: u64 = 128;
/// Most acts of one run: each may ask the system about a process.
const ACTS_MAX: usize = 64;

const CONFIG: PoolConfig = PoolConfig {
    participants: 4,
    ring_participants: 2,
    ring_slots: 2,
    datagram_bytes: 64,
    memory_node: 0,
};

thread_local! {
    /// The memory of all pools of a thread.
    static MEMORY: OnceCell<Mapping> = const { OnceCell::new() };
}

/// The memory, zeroed, mapped once more.
fn blank() -> Mapping {
    let path: PathBuf = MEMORY.with(|memory| {
        let made = || Mapping::memfd("fuzz", POOL_BYTES).expect("64 KiB");
        memory.get_or_init(made).path().to_owned()
    });
    let mapping = Mapping::open(&path).expect("it is there");
    mapping.memory(0, POOL_BYTES).fill_zero(0, POOL_BYTES);
    mapping
}

fn formatted(mode: Mode) -> Pool {
    Pool::format(blank(), mode, &CONFIG, (1, [2, 3]), Overwrite::Unused).expect("blank memory")
}

/// Does what `data` says.
pub fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mode = choices.pick(&[Mode::Coherent, Mode::Flush]);
    let pool = formatted(mode);
    if choices.below(2) == 0 {
        superblock(&pool, mode, &mut choices);
    } else {
        participants(&pool, &mut choices);
    }
}

/// A word that may mean something in a pool.
fn word(choices: &mut Choices<'_>) -> u64 {
    let own = ProcessId::own();
    match choices.below(8) {
        0 => 0,
        1 => own.host,
        2 => own.start,
        // A slot's first word: a process, a life, a state.
        3 => u64::from(own.pid) << 32 | u64::from(choices.u16()),
        4 => u64::from(choices.u32()) << 32 | u64::from(choices.u16()),
        5 => choices.u8().into(),
        6 => 1 << choices.below(64),
        _ => choices.u64(),
    }
}

/// Other words in the superblock, under a checksum that is right or not.
fn superblock(pool: &Pool, mode: Mode, choices: &mut Choices<'_>) {
    let memory = pool.memory();
    for _ in 0..1 + choices.below(4) {
        let at = 8 * choices.below(20) as u64;
        let value = match choices.below(3) {
            0 => memory.load_u64(at) ^ 1 << choices.below(64),
            1 => memory.load_u64(at).wrapping_add(u64::from(choices.u16())),
            _ => word(choices),
        };
        memory.store_u64(at, value);
    }
    if choices.below(4) != 0 {
        let mut covered = [0; CHECKED_BYTES];
        memory.read(0, &mut covered);
        let check = Crc32c::detect().of(&covered);
        memory.store_u64(CHECKED_BYTES as u64, check.into());
    }
    let again = Mapping::open(pool.mapping().path()).expect("it is there");
    let Ok(opened) = Pool::open(again, mode) else { return };
    possible(opened.geometry());
    participants(&opened, choices);
}

/// What a pool that was opened says of itself can be.
fn possible(found: &Geometry) {
    assert!(found.pool_bytes <= POOL_BYTES, "no larger than its memory");
    let table = found.participants.checked_mul(SLOT_BYTES).expect("no overflow");
    assert!(found.participants_offset >= SUPERBLOCK_BYTES);
    assert!(found.participants_offset + table <= found.rings_offset);
    assert!(found.ring_participants <= found.participants);
    let rings = found.ring_participants.pow(2).checked_mul(found.ring_stride);
    assert!(found.rings_offset + rings.expect("no overflow") <= found.store_offset);
    assert_eq!(found.store_offset + found.store_bytes, found.pool_bytes);
}

struct Scene<'p> {
    pool: &'p Pool,
    slots: u32,
    present: Vec<Participant>,
    watch: Watch,
    own: u32,
    now: u64,
    /// Words of the table were written by nobody who may.
    is_poked: bool,
}

/// Participants come, go, watch and are looked at, while words of the table change.
fn participants(pool: &Pool, choices: &mut Choices<'_>) {
    let Ok(own) = pool.attach(Some(0), 1) else { return };
    let watch = pool.watch(&own, Duration::from_millis(1));
    let slots = pool.geometry().participants as u32;
    let own_index = own.index();
    let mut scene =
        Scene { pool, slots, present: vec![own], watch, own: own_index, now: 0, is_poked: false };
    for _ in 0..ACTS_MAX {
        if choices.is_empty() {
            break;
        }
        scene.act(choices);
    }
}

impl Scene<'_> {
    fn act(&mut self, choices: &mut Choices<'_>) {
        // One more than there are.
        let index = choices.u8() as u32 % (self.slots + 1);
        match choices.below(8) {
            0 => self.join(Some(index)),
            1 => self.join(None),
            2 if self.present.len() > 1 => {
                self.present.swap_remove(1 + index as usize % (self.present.len() - 1));
            }
            3 => drop(self.watch.confirm_lost(index)),
            4 => self.watch.release(index),
            5 => self.poke(choices),
            6 => self.datagrams(choices),
            _ => self.look(),
        }
        for participant in &mut self.present {
            participant.beat();
            // A watch gives up nobody whose process is there.
            assert!(self.is_poked || participant.is_attached(), "{participant:?}");
        }
    }

    fn join(&mut self, index: Option<u32>) {
        if let Ok(participant) = self.pool.attach(index, self.now) {
            let new = participant.index();
            assert!(new < self.slots && index.is_none_or(|index| index == new));
            let taken = self.present.iter().any(|other| other.index() == new);
            assert!(self.is_poked || !taken, "a slot that somebody has");
            self.present.push(participant);
        }
    }

    fn look(&mut self) {
        self.now += 2_000_000;
        let Some(event) = self.watch.look(Instant::from_nanos(self.now)) else { return };
        let (Event::Joined { index, .. }
        | Event::Left { index }
        | Event::Died { index, .. }
        | Event::Replaced { index, .. }
        | Event::Silent { index }
        | Event::Heard { index }) = event;
        assert!(index < self.slots && index != self.own, "{event:?}");
        let died = matches!(event, Event::Died { .. } | Event::Silent { .. });
        assert!(self.is_poked || !died, "{event:?} of those who are all here");
    }

    fn poke(&mut self, choices: &mut Choices<'_>) {
        self.is_poked = true;
        let geometry = self.pool.geometry();
        // The table, and the rings behind it.
        let words = (geometry.store_offset - geometry.participants_offset) / 8;
        let near = geometry.participants * SLOT_BYTES / 8;
        let among = if choices.below(4) == 0 { words } else { near };
        let at = geometry.participants_offset + 8 * (u64::from(choices.u16()) % among);
        self.pool.memory().store_u64(at, word(choices));
    }

    /// One end sends through a ring, the other receives what is there.
    fn datagrams(&mut self, choices: &mut Choices<'_>) {
        let geometry = self.pool.geometry();
        let open = |index| RingDevice::new(self.pool.memory().clone(), geometry, index);
        let (Ok(mut sender), Ok(mut receiver)) = (open(0), open(1)) else { return };
        let bytes_max = sender.capabilities().datagram_bytes_max;
        let bytes = choices.u16() as usize % (bytes_max + 1);
        let (_, mut tx) = sender.split();
        for _ in 0..3 {
            if let Some(room) = tx.push(address_of(1), bytes) {
                room.fill(7);
            }
            tx.flush();
        }
        drop(tx);
        if choices.below(2) == 0 {
            self.poke(choices);
        }
        for _ in 0..3 {
            let (mut rx, _) = receiver.split();
            let received = rx.receive();
            for index in 0..received {
                let (_, datagram) = rx.packet(index);
                assert!(datagram.len() <= bytes_max);
                let sent = datagram.iter().all(|byte| *byte == 7) && datagram.len() == bytes;
                assert!(self.is_poked || sent, "another datagram than was sent");
            }
        }
    }
}

//! What bad pools get, and who may do what to whose.

use dmrpc_host as _;

use std::path::PathBuf;

use dmrpc_core::memory::Memory;
use dmrpc_core::time::{Duration, Instant};
use dmrpc_cxl::participants::Event;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{AttachError, Geometry, MapError, Mapping, Mode, Pool, PoolConfig, PoolError};

const BYTES: u64 = 32 << 20;
/// Of a participant's slot in the table.
const SLOT_BYTES: u64 = 128;

/// A path in tmpfs that is removed at the end.
struct Path(PathBuf);

impl Path {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/dmrpc-cxl-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn format(path: &Path, mode: Mode, overwrite: Overwrite) -> Result<Pool, PoolError> {
    let (mapping, _) = Mapping::create(&path.0, BYTES).expect("32 MiB of tmpfs");
    let config = PoolConfig { ring_participants: 4, ..PoolConfig::default() };
    Pool::format(mapping, mode, &config, (5, [7; 2]), overwrite)
}

fn open(path: &Path, mode: Mode) -> Result<Pool, PoolError> {
    Pool::open(Mapping::open(&path.0).expect("it is there"), mode)
}

/// All bytes of the file: to see that a refusal wrote none.
fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(&path.0).expect("it is there")
}

#[test]
fn a_pool_is_found_again() {
    let path = Path::new("again");
    let made = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let found = open(&path, Mode::Coherent).expect("a pool");
    assert_eq!(made.geometry(), found.geometry());
    made.store_memory().store_u64(0, 99);
    assert_eq!(found.store_memory().load_u64(0), 99);
    assert_eq!(found.store_memory().len(), found.geometry().store_bytes);
    // Nobody uses it, so it may be made anew.
    drop((made, found));
    let anew = format(&path, Mode::Flush, Overwrite::Unused).expect("unused");
    assert_eq!(anew.store_memory().load_u64(0), 0, "no store of an older pool is found");
}

#[test]
fn bad_pools_are_refused_and_nothing_is_written() {
    let path = Path::new("bad");
    drop(Mapping::create(&path.0, BYTES).expect("tmpfs"));
    assert!(matches!(open(&path, Mode::Coherent), Err(PoolError::Blank { .. })));
    assert!(bytes(&path).iter().all(|byte| *byte == 0));

    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let error = open(&path, Mode::Flush).expect_err("another mode");
    assert!(error.to_string().contains("is in coherent mode, not in flush mode"), "{error}");

    let spoil = |offset: u64, mask: u64| {
        let memory = pool.memory();
        memory.store_u64(offset, memory.load_u64(offset) ^ mask);
    };
    for (offset, mask, part) in [
        (0, 0xFFFF << 48 | 1, "something that is not a pool"),
        (0, 1, "format version 3"),
        (40, 1, "superblock is damaged"),
    ] {
        spoil(offset, mask);
        let before = bytes(&path);
        for error in [
            open(&path, Mode::Coherent).expect_err("spoilt"),
            format(&path, Mode::Coherent, Overwrite::Unused).expect_err("not overwritten"),
        ] {
            let text = error.to_string();
            assert!(text.contains(part) && text.lines().count() == 1, "{text}");
        }
        assert!(bytes(&path) == before, "a refusal wrote into the pool");
        spoil(offset, mask);
    }
    assert!(open(&path, Mode::Coherent).is_ok());
    spoil(40, 1);
    assert!(format(&path, Mode::Coherent, Overwrite::Anything).is_ok(), "by force");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let path = Path::new("size");
    let (small, is_new) = Mapping::create(&path.0, 1 << 20).expect("tmpfs");
    assert!(is_new);
    let config = PoolConfig::default();
    let error = Pool::format(small, Mode::Coherent, &config, (1, [7; 2]), Overwrite::Unused);
    assert!(matches!(error, Err(PoolError::TooSmall { bytes: 0x10_0000, .. })), "{error:?}");
    let error = Mapping::create(&path.0, BYTES).expect_err("another size");
    assert!(matches!(error, MapError::Size { found: 0x10_0000, .. }), "{error}");
    let odd = Path::new("odd");
    let error = Mapping::create(&odd.0, 4097).expect_err("no whole pages");
    assert!(matches!(error, MapError::Alignment { unit: 4096, .. }), "{error}");
    assert!(!odd.0.exists(), "nothing is left of a file that was not to be");
    let error = Mapping::open("/etc/passwd".as_ref()).expect_err("a disk");
    assert!(matches!(error, MapError::Unsuitable { .. } | MapError::Open { .. }), "{error}");
    let error = Mapping::open("/dev/null".as_ref()).expect_err("no dax");
    assert!(matches!(error, MapError::Unknown { .. }), "{error}");
    let error = Mapping::open(&odd.0).expect_err("nothing");
    assert!(matches!(error, MapError::Open { .. }), "{error}");
}

#[test]
fn a_pool_that_became_shorter_is_refused() {
    let path = Path::new("shorter");
    drop(format(&path, Mode::Coherent, Overwrite::Unused).expect("room"));
    let file = std::fs::OpenOptions::new().write(true).open(&path.0).expect("it is there");
    file.set_len(BYTES / 2).expect("tmpfs");
    let error = open(&path, Mode::Coherent).expect_err("half is gone");
    assert!(matches!(error, PoolError::TooSmall { needed: BYTES, .. }), "{error}");
}

/// What the kernel says of how the mappings of a file are placed; `None` without NUMA.
fn placement(path: &Path) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/numa_maps").ok()?;
    let name = path.0.to_str().expect("a plain name");
    let lines: Vec<_> = maps.lines().filter(|line| line.contains(name)).collect();
    Some(lines.join("\n"))
}

/// A new pool's pages are taken from the node that was named, not moved there if the kernel finds
/// any: nothing is reserved before the kernel was told.
#[test]
fn a_new_pool_is_bound_before_its_memory_is_reserved() {
    const NO_NODE: u32 = 1023;
    // More than any machine has: to reserve it would be another error.
    const TOO_MUCH: u64 = 16 << 40;
    let path = Path::new("numa");
    let error = Mapping::create_on(&path.0, TOO_MUCH, Some(NO_NODE)).expect_err("no such node");
    assert!(matches!(error, MapError::Node { node: NO_NODE, .. }), "{error}");
    assert!(!path.0.exists(), "nothing is left of it");
    let made = Mapping::create_on(&path.0, BYTES, Some(0));
    let Some(before) = placement(&path) else { return };
    let (mapping, is_new) = made.expect("there always is node 0");
    assert!(is_new && before.contains("bind"), "{before}");
    mapping.touch();
    let after = placement(&path).expect("it is mapped");
    assert!(after.contains("N0="), "{after}");
    let (again, is_new) = Mapping::create_on(&path.0, BYTES, Some(0)).expect("it is there");
    assert!(!is_new);
    drop(again);
}

#[test]
fn numbers_out_of_range_are_named() {
    let with = |change: fn(&mut PoolConfig), mode| {
        let mut config = PoolConfig::default();
        change(&mut config);
        let mapping = Mapping::memfd("numbers", BYTES).expect("memory");
        let made = Pool::format(mapping, mode, &config, (1, [7; 2]), Overwrite::Unused);
        made.expect_err("out of range").to_string()
    };
    let text = with(|config| config.participants = 1, Mode::Coherent);
    assert_eq!(text, "1 participants are not possible: give 2 to 1024");
    let text = with(|config| config.ring_participants = 65, Mode::Coherent);
    assert_eq!(text, "65 participants with rings are not possible: give 0 to 64");
    let text = with(|config| config.ring_slots = 48, Mode::Coherent);
    assert_eq!(text, "48 datagrams in a ring are not possible: give a power of two");
    let text = with(|config| config.datagram_bytes = 10, Mode::Coherent);
    assert_eq!(text, "10 bytes of a datagram are not possible: give 64 to 65507");
    let text = with(|config| config.ring_participants = 9, Mode::Flush);
    assert!(text.ends_with("give at most 8"), "{text}");
}

#[test]
fn a_pool_in_use_is_not_formatted() {
    let path = Path::new("in-use");
    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let node = pool.attach(Some(0), 7).expect("the memory node");
    let before = bytes(&path);
    for overwrite in [Overwrite::Unused, Overwrite::Anything] {
        let error = format(&path, Mode::Coherent, overwrite).expect_err("in use");
        let own = std::process::id();
        assert!(
            matches!(error, PoolError::InUse { pid, elsewhere: false, .. } if pid == own),
            "{error}"
        );
    }
    assert!(bytes(&path) == before, "a refusal wrote into the pool");
    drop(node);
    assert!(format(&path, Mode::Coherent, Overwrite::Unused).is_ok());
}

/// Those who mapped a pool go on with it, whatever became of its first page or its length.
#[test]
fn a_pool_that_was_spoilt_or_became_shorter_is_not_formatted_while_it_is_used() {
    let path = Path::new("spoilt");
    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let user = pool.attach(Some(3), 7).expect("free");
    let formatted = |bytes: u64, overwrite| {
        let (mapping, _) = Mapping::create(&path.0, bytes).expect("tmpfs");
        let config = PoolConfig { ring_participants: 4, ..PoolConfig::default() };
        Pool::format(mapping, Mode::Coherent, &config, (5, [7; 2]), overwrite)
    };
    for (offset, mask) in [(0, 1), (40, 1)] {
        let memory = pool.memory();
        memory.store_u64(offset, memory.load_u64(offset) ^ mask);
        let before = bytes(&path);
        let error = formatted(BYTES, Overwrite::Anything).expect_err("in use");
        assert!(matches!(error, PoolError::InUse { participant: 3, .. }), "{error}");
        assert!(bytes(&path) == before, "a refusal wrote into the pool");
        memory.store_u64(offset, memory.load_u64(offset) ^ mask);
    }
    let file = std::fs::OpenOptions::new().write(true).open(&path.0).expect("it is there");
    let shorter = BYTES - (1 << 20);
    file.set_len(shorter).expect("tmpfs");
    for overwrite in [Overwrite::Unused, Overwrite::Anything] {
        let error = formatted(shorter, overwrite).expect_err("in use");
        assert!(matches!(error, PoolError::InUse { participant: 3, .. }), "{error}");
    }
    drop(user);
    formatted(shorter, Overwrite::Unused).expect("nobody uses it");
}

/// What a participant held is in the store: it comes back before its slot is another's.
#[test]
fn a_slot_is_not_taken_over_before_the_memory_node_has_recovered_it() {
    let path = Path::new("over");
    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let node = pool.attach(Some(0), 1).expect("the memory node");
    let mut watch = pool.watch(&node, Duration::from_secs(10));
    pool.store_memory().store_u64(0, 1);
    assert!(pool.has_store());
    drop(pool.attach(Some(2), 1).expect("free"));
    pool.free_left();
    let error = pool.take_over(2, 2).expect_err("not recovered");
    assert!(matches!(error, AttachError::Taken { index: 2, gone: true, .. }), "{error}");
    assert_eq!(watch.look(Instant::ZERO), Some(Event::Left { index: 2 }));
    watch.release(2);
    assert_eq!(pool.take_over(2, 2).expect("recovered").life(), 2);
}

/// A slot that changed hands without its memory node: that its earlier user ended is noticed.
#[test]
fn an_end_behind_the_memory_nodes_back_is_noticed() {
    let path = Path::new("back");
    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let node = pool.attach(Some(0), 1).expect("the memory node");
    let mut watch = pool.watch(&node, Duration::from_secs(10));
    let [one, two] = [2, 3].map(|index| pool.attach(Some(index), 1).expect("free"));
    let pid = std::process::id();
    assert_eq!(watch.look(Instant::ZERO), Some(Event::Joined { index: 2, pid }));
    assert_eq!(watch.look(Instant::ZERO), Some(Event::Joined { index: 3, pid }));
    drop(one);
    drop(two);
    // There is no store yet, so slots can be taken over.
    let next = pool.take_over(2, 2).expect("it left");
    pool.free_left();
    let events: Vec<_> = std::iter::from_fn(|| watch.look(Instant::ZERO)).collect();
    assert_eq!(events, [Event::Replaced { index: 2, pid }, Event::Died { index: 3, pid }]);
    assert!(next.is_attached());
    let error = pool.attach(Some(3), 2).expect_err("not before it was recovered");
    assert!(matches!(error, AttachError::Taken { index: 3, gone: true, .. }), "{error}");
    watch.release(2);
    watch.release(3);
    assert!(next.is_attached(), "its slot is not the earlier one's");
    assert_eq!(pool.attach(Some(3), 2).expect("free").life(), 2);
}

/// What lies behind the table of participants looks like a slot by chance: it is none.
#[test]
fn no_slot_behind_the_last_one_is_released() {
    let path = Path::new("behind");
    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let node = pool.attach(Some(0), 1).expect("the memory node");
    let mut watch = pool.watch(&node, Duration::from_secs(10));
    drop(pool.attach(Some(1), 1).expect("free"));
    let Geometry { participants, participants_offset, .. } = *pool.geometry();
    let slot = |index: u64| participants_offset + index * SLOT_BYTES;
    let left = pool.memory().load_u64(slot(1));
    pool.memory().store_u64(slot(participants), left);
    watch.release(participants as u32);
    assert_eq!(pool.memory().load_u64(slot(participants)), left);
    watch.release(1);
    assert_ne!(pool.memory().load_u64(slot(1)), left);
}

/// Whom a memory node that died had declared dead is recovered by the next one.
#[test]
fn a_verdict_outlives_the_memory_node() {
    let path = Path::new("verdict");
    let mut pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    pool.declare_coherent_hosts();
    let node = pool.attach(Some(0), 1).expect("the memory node");
    let far = pool.attach(Some(5), 1).expect("free");
    make_foreign(&pool, 5);
    let lease = Duration::from_secs(10);
    let mut watch = pool.watch(&node, lease);
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    while watch.look(at(0)).is_some() {}
    assert_eq!(watch.look(at(11)), Some(Event::Silent { index: 5 }));
    assert!(watch.confirm_lost(5));
    // It dies before it has noticed that.
    let mut watch = pool.watch(&node, lease);
    assert!(matches!(watch.look(at(12)), Some(Event::Died { index: 5, .. })));
    std::mem::forget(far);
}

#[test]
fn slots_are_taken_once() {
    let path = Path::new("slots");
    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let first = pool.attach(None, 1).expect("a slot");
    let second = pool.attach(None, 2).expect("another");
    assert_eq!((first.index(), second.index()), (1, 2));
    assert_eq!((first.life(), first.incarnation()), (1, 1));
    let error = pool.attach(Some(1), 3).expect_err("taken");
    assert!(matches!(error, AttachError::Taken { index: 1, gone: false, .. }), "{error}");
    let error = pool.attach(Some(64), 3).expect_err("no such");
    assert_eq!(error, AttachError::NoSlot { index: 64, slots: 64 });
    let all: Vec<_> = (3..64).map(|_| pool.attach(None, 4).expect("free")).collect();
    assert_eq!(pool.attach(None, 5).map(|_| ()), Err(AttachError::Full { slots: 64 }));
    // One that left has to be cleaned up behind first.
    drop(second);
    assert_eq!(pool.attach(None, 5).map(|_| ()), Err(AttachError::Full { slots: 64 }));
    let node = pool.attach(Some(0), 6).expect("the memory node");
    let mut watch = pool.watch(&node, Duration::from_secs(10));
    let events: Vec<_> = std::iter::from_fn(|| watch.look(Instant::ZERO)).collect();
    assert!(events.contains(&Event::Left { index: 2 }));
    assert_eq!(events.len(), 63, "{events:?}");
    watch.release(2);
    assert_eq!(watch.look(Instant::ZERO), None);
    let again = pool.attach(None, 7).expect("free again");
    assert_eq!((again.index(), again.life()), (2, 2));
    drop(again);
    assert_eq!(pool.take_over(2, 8).expect("it left").life(), 3);
    assert!(first.is_attached() && all.iter().all(|one| one.is_attached()));
}

#[test]
fn flush_mode_wants_to_be_told_the_slot() {
    let path = Path::new("told");
    let pool = format(&path, Mode::Flush, Overwrite::Unused).expect("room");
    assert_eq!(pool.attach(None, 1).map(|_| ()), Err(AttachError::SlotNeeded));
    let mut one = pool.attach(Some(3), 1).expect("free");
    one.beat();
    assert_eq!(one.index(), 3);
}

/// A participant of another host: its slot says so.
fn make_foreign(pool: &Pool, index: u32) {
    let host = pool.geometry().participants_offset + 128 * u64::from(index) + 16;
    pool.memory().store_u64(host, 0xF0F0);
}

#[test]
fn another_host_is_refused_in_coherent_mode_unless_that_was_declared() {
    let path = Path::new("hosts");
    let mut pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let far = pool.attach(Some(5), 1).expect("free");
    make_foreign(&pool, 5);
    let error = pool.attach(None, 1).expect_err("another host's");
    assert_eq!(error, AttachError::OtherHost { index: 5, host: 0xF0F0 });
    assert!(error.to_string().contains("--coherent-hosts"), "{error}");
    let error = pool.attach(Some(2), 1).expect_err("another host's");
    assert_eq!(error, AttachError::OtherHost { index: 5, host: 0xF0F0 });
    pool.declare_coherent_hosts();
    pool.attach(None, 1).expect("it was declared");
    drop(far);
    let path = Path::new("hosts-flush");
    let pool = format(&path, Mode::Flush, Overwrite::Unused).expect("room");
    let _far = pool.attach(Some(5), 1).expect("free");
    make_foreign(&pool, 5);
    pool.attach(Some(1), 1).expect("nothing there relies on coherence");
}

#[test]
fn a_host_that_is_silent_is_not_dead_before_somebody_confirms_it() {
    let path = Path::new("silent");
    let pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    let node = pool.attach(Some(0), 1).expect("the memory node");
    let mut far = pool.attach(Some(5), 1).expect("free");
    make_foreign(&pool, 5);
    let mut watch = pool.watch(&node, Duration::from_secs(10));
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    assert!(matches!(watch.look(at(0)), Some(Event::Joined { index: 5, .. })));
    assert_eq!(watch.look(at(9)), None);
    assert!(!watch.confirm_lost(5), "it was heard of within the lease");
    assert_eq!(watch.look(at(10)), Some(Event::Silent { index: 5 }));
    assert_eq!(watch.look(at(1000)), None, "said once");
    far.beat();
    assert_eq!(watch.look(at(1001)), Some(Event::Heard { index: 5 }));
    assert_eq!(watch.look(at(1011)), Some(Event::Silent { index: 5 }));
    let error = format(&path, Mode::Coherent, Overwrite::Unused).expect_err("may live");
    assert!(matches!(error, PoolError::InUse { .. }), "{error}");
    assert!(far.is_attached());
    assert!(watch.confirm_lost(5));
    assert!(!far.is_attached(), "it can see that it was given up");
    assert!(matches!(watch.look(at(1012)), Some(Event::Died { index: 5, .. })));
    assert_eq!(watch.look(at(1013)), None);
    watch.release(5);
    assert_eq!(pool.attach(Some(5), 2).expect("free").life(), 2);
}

#[test]
fn a_dead_formatter_and_its_pool_are_no_obstacle() {
    let path = Path::new("forced");
    let mut pool = format(&path, Mode::Coherent, Overwrite::Unused).expect("room");
    pool.declare_coherent_hosts();
    let far = pool.attach(Some(2), 1).expect("free");
    make_foreign(&pool, 2);
    let taken = pool.take_over(2, 9).expect_err("it may live");
    assert!(matches!(taken, AttachError::Taken { index: 2, gone: false, .. }), "{taken}");
    let error = format(&path, Mode::Coherent, Overwrite::Unused).expect_err("may live");
    assert!(matches!(error, PoolError::InUse { elsewhere: true, .. }), "{error}");
    assert!(format(&path, Mode::Coherent, Overwrite::Anything).is_ok(), "by force");
    std::mem::forget(far);
}

//! What a session of one endpoint gets beside others that ask for more.

use dmrpc_core::endpoint::Config;
use dmrpc_core::time::{Duration, Instant};
use dmrpc_sim::link::{Fabric, FabricConfig};

use super::bulk::{World, jain};

const MIB: u32 = 1 << 20;
/// The server's device takes this much ahead: some rings do.
const DEVICE_BYTES: u64 = 64 << 10;
/// How long a measurement runs.
const SPAN: Duration = Duration::from_millis(6);

/// Calls that a session always has under way, and how many bytes each answer has.
#[derive(Clone, Copy)]
struct Load {
    calls: u64,
    bytes: u32,
}

/// What a session had of it.
#[derive(Clone, Copy, Default)]
struct Got {
    /// Of long answers: what has arrived at its client's host, ended or not.
    bytes: u64,
    p99: Duration,
}

/// One server; a client with a session for each load, each client a host of its own or all one.
fn measure(loads: &[Load], one_client: bool) -> Vec<Got> {
    let fabric = FabricConfig { device_bytes: DEVICE_BYTES, ..FabricConfig::FAST };
    let client = |index: usize| if one_client { 1 } else { index + 1 };
    let links: Vec<_> = (0..loads.len()).map(|index| (client(index), 0)).collect();
    let hosts = client(loads.len() - 1) + 1;
    let adjust = |config: &mut Config| config.slots_per_session = 64;
    let mut world = World::linked(Fabric::new(7, fabric), hosts, &links, adjust);
    // A call's token: its session, and its number there.
    let token = |session: usize, call: u64| (session as u64) << 32 | call;
    let start = world.fabric.now();
    let mut begun = vec![vec![start; 64]; loads.len()];
    let mut took = vec![Vec::new(); loads.len()];
    for (session, load) in loads.iter().enumerate() {
        (0..load.calls).for_each(|call| world.read(session, load.bytes, token(session, call)));
    }
    let end: Instant = start + SPAN;
    while world.step(end) {
        for ended in world.ended() {
            let (session, call) = ((ended.token >> 32) as usize, ended.token as u32);
            let since = &mut begun[session][call as usize];
            took[session].push(ended.at.since(*since));
            *since = ended.at;
            world.read(session, loads[session].bytes, ended.token);
        }
    }
    let of = |(session, mut took): (usize, Vec<Duration>)| {
        took.sort();
        let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or(SPAN);
        Got { bytes: world.nodes[client(session)].host.absorbed, p99 }
    };
    took.into_iter().enumerate().map(of).collect()
}

const LONE: Load = Load { calls: 1, bytes: 32 };

/// Beside eight sessions that read as much as they can, one that makes a small call at a time
/// waits for what is in the device already and for a turn of each of the others, not more.
#[test]
fn a_lone_small_caller_beside_bulk() {
    let alone = measure(&[LONE], false)[0].p99;
    let mut loads = [Load { calls: 16, bytes: MIB }; 9];
    loads[0] = LONE;
    let beside = measure(&loads, false)[0].p99;
    println!("a lone small call, p99: {alone:?} alone, {beside:?} beside eight times bulk");
    // 64 KiB, and eight times eight packets, at 100 Gbit/s.
    let (device, turns) = (Duration::from_micros(6), Duration::from_micros(8));
    assert!(beside <= alone + device + turns + Duration::from_micros(2), "{beside:?}");
}

/// Beside a session of the same client with sixty small calls at a time.
#[test]
fn a_lone_small_caller_beside_sixty() {
    let alone = measure(&[LONE], true)[0].p99;
    let sixty = Load { calls: 60, bytes: 600 };
    let beside = measure(&[LONE, sixty], true)[0].p99;
    println!("a lone small call, p99: {alone:?} alone, {beside:?} beside sixty at a time");
    assert!(beside <= alone + Duration::from_micros(5), "{beside:?}");
}

/// Sessions that want all they can get have the same, however many calls each of them makes.
#[test]
fn shares_are_equal_whoever_asks_for_more() {
    let loads = [1, 1, 2, 4, 16, 60].map(|calls| Load { calls, bytes: MIB / 4 });
    let got = measure(&loads, false);
    let bytes: Vec<_> = got.iter().map(|got| got.bytes as f64).collect();
    let index = jain(&bytes);
    println!("1, 1, 2, 4, 16 and 60 reads of 256 KiB at a time: Jain {index:.4} of {bytes:?}");
    assert!(index >= 0.95, "Jain's index {index:.4}: {bytes:?}");
}

/// Sixteen servers answer one client: a session with sixty long answers at a time has as much of
/// the client's link as each of fifteen with one.
#[test]
fn what_comes_in_is_shared_by_session() {
    let mut world = World::linked(
        Fabric::new(7, FabricConfig::FAST),
        17,
        &std::array::from_fn::<_, 16, _>(|server| (0, server + 1)),
        |config| config.slots_per_session = 64,
    );
    let (bytes, end) = (MIB, world.fabric.now() + Duration::from_millis(60));
    for session in 0..16 {
        let calls = if session == 0 { 60 } else { 1 };
        (0..calls).for_each(|_| world.read(session, bytes, session as u64));
    }
    let mut got = [0.0; 16];
    while world.step(end) {
        for ended in world.ended() {
            got[ended.token as usize] += ended.bytes as f64;
            world.read(ended.token as usize, bytes, ended.token);
        }
    }
    let (least, most) = got.iter().fold((f64::MAX, 0.0f64), |(a, b), x| (a.min(*x), b.max(*x)));
    let index = jain(&got);
    println!("60 answers at a time beside 15 sessions with one: Jain {index:.4}, {got:?}");
    assert!(least >= 0.9 * most, "{got:?}");
    assert!(index >= 0.99, "Jain's index {index:.4}");
}

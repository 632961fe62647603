//! The life of calls, one situation at a time.

use dmrpc_host as _;

mod common;

use common::actor::Plan;
use common::{DATAGRAM_BYTES, End, STOPPED, Work, World, address};
use dmrpc_core::endpoint::host::CallError;
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::message::Status;
use dmrpc_sim::cluster::Clock;
use dmrpc_sim::faults::Faults;

const OK: End = End::Answered(Status::OK);
const MS: fn(u64) -> Duration = Duration::from_millis;

fn connected(faults: Faults, nodes: usize) -> World {
    let mut world = World::new(3, Faults::NONE, nodes);
    for node in 0..nodes {
        world.peer(node).wanted.extend((0..nodes).filter(|other| *other != node));
    }
    run(&mut world, MS(5));
    world.cluster.network().set_faults(faults);
    world
}

fn run(world: &mut World, span: Duration) {
    let limit = world.cluster.network().now() + span;
    while world.cluster.step(limit) {}
}

fn end(world: &World, id: u64) -> Option<End> {
    world.oracle.borrow().end_of(id)
}

fn executions(world: &World, id: u64) -> u32 {
    world.oracle.borrow().calls[&id].executions
}

fn cut(world: &World, from: usize, to: usize, cut: bool) {
    world.cluster.network().set_cut(address(from), address(to), cut);
}

fn to(to: usize) -> Plan {
    Plan { to, ..Plan::default() }
}

#[test]
fn a_late_answer_arrives() {
    let mut world = connected(Faults::NONE, 2);
    let work = |delay_us, answer_bytes| Work { delay_us, answer_bytes, ..Work::default() };
    let small = world.peer(0).plan(Plan { work: work(50_000, 10), ..to(1) });
    let large = Plan { work: work(3_000_000, 300_000), body_bytes: 40_000, room: 300_000, ..to(1) };
    let large = world.peer(0).plan(large);
    world.finish(5);
    assert_eq!((end(&world, small), end(&world, large)), (Some(OK), Some(OK)));
    world.settle();
}

#[test]
fn cycles_do_not_deadlock_on_slots() {
    let mut world = World::with(5, Faults::NONE, 2, |_, config| {
        config.slots_per_session = 8;
        Clock::TRUE
    });
    for node in 0..2 {
        for _ in 0..100 {
            // There and back, as deep as calls go: eight hops.
            let mut route = [0; 8];
            for (hop, place) in route.iter_mut().take(7).enumerate() {
                *place = if hop % 2 == 0 { node as u8 + 1 } else { 2 - node as u8 };
            }
            let work = Work { route, answer_bytes: 2_000, ..Work::default() };
            world.peer(node).plan(Plan { work, room: 2_000, ..to(1 - node) });
        }
    }
    world.finish(30);
    let oracle = world.oracle.borrow();
    assert_eq!(oracle.answered_ok(), 2 * 100 * 8);
    drop(oracle);
    world.settle();
}

#[test]
fn deadlines_are_honest() {
    // Sent, and nothing came back: nobody knows.
    let mut world = connected(Faults::NONE, 2);
    cut(&world, 1, 0, true);
    let unknown = world.peer(0).plan(Plan { deadline: Some(MS(20)), ..to(1) });
    // Nothing arrives: nobody knows either.
    cut(&world, 0, 1, true);
    let lost = world.peer(0).plan(Plan { deadline: Some(MS(20)), ..to(1) });
    run(&mut world, MS(30));
    for id in [unknown, lost] {
        assert_eq!(end(&world, id), Some(End::Failed(CallError::OutcomeUnknown)));
    }
    cut(&world, 1, 0, false);
    cut(&world, 0, 1, false);
    // Refused until the end: certainly not executed.
    world.peer(1).busy = 1_000_000;
    let busy = world.peer(0).plan(Plan { deadline: Some(MS(40)), ..to(1) });
    run(&mut world, MS(60));
    // Refused last, but the last attempt may be under way when time is up.
    assert!(matches!(
        end(&world, busy),
        Some(End::Failed(CallError::Busy | CallError::OutcomeUnknown))
    ));
    assert_eq!(executions(&world, busy), 0);
    world.settle();
}

#[test]
fn a_server_without_room_is_busy_and_then_not() {
    let mut world = connected(Faults::NONE, 2);
    world.peer(1).places_max = 0;
    let never = world.peer(0).plan(Plan { body_bytes: 9_000, deadline: Some(MS(30)), ..to(1) });
    let later = world.peer(0).plan(Plan { body_bytes: 9_000, ..to(1) });
    run(&mut world, MS(50));
    assert_eq!(end(&world, never), Some(End::Failed(CallError::Busy)));
    assert_eq!(end(&world, later), None);
    world.peer(1).places_max = 1;
    world.finish(1);
    assert_eq!(end(&world, later), Some(OK));
    world.settle();
}

#[test]
fn refusals_come_to_an_end_without_a_deadline() {
    let mut world = connected(Faults::NONE, 2);
    world.peer(1).busy = 1_000_000;
    let id = world.peer(0).plan(to(1));
    world.finish(120);
    assert_eq!(end(&world, id), Some(End::Failed(CallError::Busy)));
    world.settle();
}

/// Seed 231 of the simulated clusters: a wait was shifted by as many bits as there had been
/// timeouts, where the refusal was for order's sake.
#[test]
fn a_refusal_after_many_timeouts_is_waited_out() {
    let mut world = World::with(3, Faults::NONE, 2, |_, config| {
        config.retransmit_after = Duration::from_micros(500);
        config.retransmit_max = MS(1);
        Clock::TRUE
    });
    world.peer(0).wanted.insert(1);
    run(&mut world, MS(5));
    world.peer(1).places_max = 0;
    cut(&world, 0, 1, true);
    let first = world.peer(0).plan(Plan { body_bytes: 9_000, ..to(1) });
    let second = world.peer(0).plan(Plan { after: Some(first), ..to(1) });
    run(&mut world, MS(300));
    assert!(world.cluster.node(0).endpoint.counters().packets_resent > 2 * 64);
    cut(&world, 0, 1, false);
    run(&mut world, MS(50));
    assert!(world.cluster.node(1).endpoint.counters().requests_refused > 1);
    assert_eq!((end(&world, first), end(&world, second)), (None, None));
    world.peer(1).places_max = 1;
    world.finish(5);
    assert_eq!((end(&world, first), end(&world, second)), (Some(OK), Some(OK)));
    world.settle();
}

#[test]
fn cancelled_in_every_state() {
    // Before it is sent.
    let mut world = connected(Faults::NONE, 2);
    let unsent = world.peer(0).plan(Plan { cancel_after: Some(Duration::ZERO), ..to(1) });
    // While the service works on it.
    let work = Work { delay_us: 60_000_000, ..Work::default() };
    let working = world.peer(0).plan(Plan { work, cancel_after: Some(MS(3)), ..to(1) });
    run(&mut world, MS(20));
    assert_eq!(end(&world, working), Some(End::Answered(STOPPED)));
    assert!(end(&world, unsent).is_some());
    // While it is refused.
    world.peer(1).busy = 1_000_000;
    let refused = world.peer(0).plan(Plan { cancel_after: Some(MS(3)), ..to(1) });
    run(&mut world, MS(400));
    world.peer(1).busy = 0;
    assert_eq!(end(&world, refused), Some(End::Answered(Status::CANCELLED)));
    // While it is lost, in one packet and in many.
    cut(&world, 0, 1, true);
    let lost = [0, 5_000].map(|body_bytes| {
        world.peer(0).plan(Plan { body_bytes, cancel_after: Some(MS(1)), ..to(1) })
    });
    run(&mut world, MS(3));
    cut(&world, 0, 1, false);
    run(&mut world, MS(100));
    for id in lost {
        assert_eq!(end(&world, id), Some(End::Answered(Status::CANCELLED)));
    }
    world.settle();
}

#[test]
fn cancelled_while_the_answer_comes_in() {
    for micros in (0..3_000).step_by(50) {
        let faults = Faults { loss: 300_000, ..Faults::NONE };
        let mut world = connected(faults, 2);
        let cancel_after = Some(Duration::from_micros(micros));
        let work = Work { answer_bytes: 400_000, ..Work::default() };
        let id = world.peer(0).plan(Plan { work, room: 400_000, cancel_after, ..to(1) });
        world.finish(20);
        assert!(matches!(end(&world, id), Some(End::Answered(Status::OK | Status::CANCELLED))));
        world.cluster.network().set_faults(Faults::NONE);
        world.settle();
    }
}

#[test]
fn an_answer_too_large_is_refused_and_released() {
    // No room, for part of a packet in any session, in this one, for a packet, for several.
    for room in [0, 1, 256, 257, 600, 700, DATAGRAM_BYTES as u32, 50_000] {
        let mut world = connected(Faults::NONE, 2);
        let work = Work { answer_bytes: 100_000, ..Work::default() };
        let id = world.peer(0).plan(Plan { work, room, ..to(1) });
        // In the same slot after one that has been told where its answer goes.
        world.finish(1);
        let after = Work { answer_bytes: 3_000, ..Work::default() };
        let next = world.peer(0).plan(Plan { work: after, room: 3_000, ..to(1) });
        world.finish(1);
        let again = world.peer(0).plan(Plan { work, room, ..to(1) });
        world.finish(1);
        let error = CallError::AnswerTooLarge { bytes: 100_000, room };
        assert_eq!(end(&world, id), Some(End::Failed(error)));
        assert_eq!(end(&world, next), Some(OK));
        assert_eq!(end(&world, again), Some(End::Failed(error)));
        world.settle();
    }
}

/// The server holds an answer that the slot's next call would release; that call never gets there.
#[test]
fn a_failed_call_releases_what_the_one_before_left() {
    let mut world = World::with(9, Faults::NONE, 2, |_, config| {
        config.slots_per_session = 1;
        config.release_after = Duration::from_millis(2);
        Clock::TRUE
    });
    let work = Work { answer_bytes: 4_000, ..Work::default() };
    world.peer(0).plan(Plan { work, room: 4_000, ..to(1) });
    let done = world.oracle.clone();
    assert!(world.cluster.run(MS(50), |_| done.borrow().open() == 0));
    assert_eq!(world.peer(1).held(), 1);
    cut(&world, 0, 1, true);
    let now = world.cluster.now(0);
    let lost = world.peer(0).plan(Plan { deadline: Some(MS(1)), at: now, ..to(1) });
    run(&mut world, MS(10));
    assert_eq!(end(&world, lost), Some(End::Failed(CallError::OutcomeUnknown)));
    cut(&world, 0, 1, false);
    run(&mut world, MS(100));
    assert_eq!(world.peer(1).held(), 0, "the answer's bytes were released");
    world.settle();
}

/// What is under way of a call that has failed does not execute after those that follow it.
#[test]
fn nothing_overtakes_what_it_must_follow() {
    for seed in 0..40 {
        let faults = Faults {
            loss: 250_000,
            replay: 200_000,
            replay_after_max: MS(100),
            delay_max: MS(2),
            ..Faults::NONE
        };
        let mut world = World::new(seed, Faults::NONE, 2);
        world.peer(0).wanted.insert(1);
        run(&mut world, MS(5));
        world.cluster.network().set_faults(faults);
        let mut last = None;
        for place in 1..60 {
            let work = Work { chain: 1, place, answer_bytes: 0, ..Work::default() };
            let plan = Plan {
                work,
                body_bytes: if place % 3 == 0 { 4_000 } else { 64 },
                after: last,
                deadline: (place % 5 == 0).then_some(MS(3)),
                cancel_after: (place % 7 == 0).then_some(MS(1)),
                ..to(1)
            };
            last = Some(world.peer(0).plan(plan));
        }
        world.peer(1).places_max = 2;
        world.peer(1).busy = 100_000;
        world.finish(30);
        world.cluster.network().set_faults(Faults::NONE);
        world.settle();
    }
}

/// A window smaller than the packets that go unasked must not wait for timers.
#[test]
fn small_windows_do_not_stall() {
    for window in [1, 2, 3, 7, 8, 9, 32, 256] {
        let mut world = World::with(9, Faults::NONE, 2, |_, config| {
            config.window_packets = window;
            Clock::TRUE
        });
        let work = Work { answer_bytes: 200_000, ..Work::default() };
        world.peer(0).plan(Plan { work, body_bytes: 200_000, room: 200_000, ..to(1) });
        world.finish(1);
        let took = world.cluster.network().now().since(Instant::ZERO);
        assert!(took < MS(5), "window {window} took {took:?}");
        world.settle();
    }
}

#[test]
fn heavy_loss_duplication_and_replay() {
    let faults = Faults {
        loss: 300_000,
        duplicate: 500_000,
        replay: 100_000,
        replay_after_max: Duration::from_secs(5),
        delay_max: MS(3),
        ..Faults::NONE
    };
    let mut world = connected(faults, 3);
    for node in 0..3 {
        for call in 0..300 {
            let answer_bytes = if call % 20 == 0 { 30_000 } else { 100 };
            let work = Work { answer_bytes, delay_us: call % 3 * 200, ..Work::default() };
            let body_bytes = if call % 10 == 0 { 20_000 } else { 32 };
            world.peer(node).plan(Plan {
                work,
                body_bytes,
                room: answer_bytes,
                ..to((node + 1) % 3)
            });
        }
    }
    world.finish(60);
    assert_eq!(world.oracle.borrow().answered_ok(), 900);
    world.cluster.network().set_faults(Faults::NONE);
    world.settle();
}

/// A repeated request makes its answer ready to be sent again; if the next request comes in the
/// same burst and is answered later, nothing may leave under that one's number meanwhile.
#[test]
fn a_repeated_answer_does_not_leave_as_the_next() {
    for seed in 0..20 {
        let mut world = World::with(seed, Faults::NONE, 2, |_, config| {
            config.slots_per_session = 1;
            Clock::TRUE
        });
        world.peer(0).wanted.insert(1);
        run(&mut world, MS(5));
        let delay_max = Duration::from_micros(40);
        let faults = Faults { duplicate: 1_000_000, delay_max, ..Faults::NONE };
        world.cluster.network().set_faults(faults);
        for call in 0..100 {
            let delay_us = call % 2 * 200;
            let work = Work { answer_bytes: 100 + call, delay_us, ..Work::default() };
            world.peer(0).plan(Plan { work, ..to(1) });
            if call % 10 == 0 {
                // What has arrived meanwhile comes in one burst.
                world.cluster.pause(1, Duration::from_micros(60));
            }
        }
        while world.oracle.borrow().open() > 0 {
            run(&mut world, Duration::from_micros(150));
            world.cluster.pause(1, Duration::from_micros(100));
        }
        world.settle();
    }
}

/// Requests that must follow another that is over, or come to a slot whose last answer is held, and
/// answers to long requests, are looked at as closely as others: what is corrupt of them is dropped
/// and comes again, and what is not is executed once, in its order.
#[test]
fn calls_that_are_almost_usual_are_checked_as_others_are() {
    for seed in 0..20 {
        let mut world = World::with(seed, Faults::NONE, 2, |_, config| {
            config.slots_per_session = 2;
            Clock::TRUE
        });
        world.peer(0).wanted.insert(1);
        run(&mut world, MS(5));
        let delay_max = Duration::from_micros(20);
        world.cluster.network().set_faults(Faults { corrupt: 100_000, delay_max, ..Faults::NONE });
        let mut last = None;
        for place in 1..80 {
            let answer_bytes = if place % 2 == 0 { 4_096 } else { 0 };
            let work = Work { chain: 1, place, answer_bytes, ..Work::default() };
            let body_bytes = if place % 4 == 1 { 4_096 } else { 64 };
            let plan = Plan { work, body_bytes, room: answer_bytes, after: last, ..to(1) };
            last = Some(world.peer(0).plan(plan));
        }
        world.finish(30);
        for node in 0..2 {
            assert_ne!(world.cluster.node(node).endpoint.counters().bad_checksum, 0);
        }
        world.cluster.network().set_faults(Faults::NONE);
        world.settle();
    }
}

/// Calls in a row, most of them long, with as many under way as a session has slots, of which the
/// service has places for only a few. Returns how long they took.
fn row_of_calls(seed: u64, faults: &Faults, ordered: bool, places: usize) -> Duration {
    let mut world = connected(Faults::NONE, 2);
    world.cluster.network().set_faults(faults.clone());
    world.peer(1).places_max = places;
    let started = world.cluster.network().now();
    let mut last = None;
    for place in 1..=96 {
        // As a client does that verifies what it wrote: one packet behind a long one, now and then.
        let body_bytes = match (place + seed) % 8 {
            0 => 32,
            4 => 1_000,
            _ => 1 << 20,
        };
        let chain = u32::from(ordered);
        let work = Work { chain, place: place as u32, ..Work::default() };
        last = Some(world.peer(0).plan(Plan { work, body_bytes, after: last, ..to(1) }));
        last = last.filter(|_| ordered);
    }
    world.finish(120);
    let took = world.cluster.network().now().since(started);
    assert_eq!(world.oracle.borrow().answered_ok(), 96);
    world.cluster.network().set_faults(Faults::NONE);
    world.settle();
    took
}

/// That calls must follow each other costs little: one that comes too early waits in its slot, or
/// comes again as soon as what it must follow is there, not when some timer runs out. What is
/// lost at the end of a message still waits for a timer, and in a row all others wait with it.
#[test]
fn rows_of_long_calls_flow() {
    for seed in 0..2 {
        let free = row_of_calls(seed, &Faults::NONE, false, 64).as_nanos();
        let ordered = row_of_calls(seed, &Faults::NONE, true, 64).as_nanos();
        assert!(ordered < 2 * free, "{ordered} ns in order, {free} ns else");
        for (loss, places, times) in [(1_000, 64, 10), (10_000, 64, 50), (0, 3, 4), (1_000, 3, 15)]
        {
            let faults = Faults { loss, delay_max: Duration::from_micros(6), ..Faults::NONE };
            let took = row_of_calls(seed, &faults, true, places).as_nanos();
            assert!(
                took < times * ordered,
                "{took} ns with loss {loss} and {places} places, {ordered} ns without"
            );
        }
    }
}

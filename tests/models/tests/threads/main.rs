//! Models of what threads of one process share: the real files, compiled with loom's types.

mod detachments;
mod sync;

#[allow(dead_code, unreachable_pub, reason = "models use a part of it")]
#[path = "../../../../core/src/service/detached.rs"]
mod detached;
#[allow(dead_code, unreachable_pub, reason = "models use a part of it")]
#[path = "../../../../drivers/host/src/steer/owners.rs"]
mod owners;
#[path = "../../../../drivers/host/src/idle/sleeper.rs"]
mod sleeper;
#[allow(dead_code, unreachable_pub, reason = "models use a part of it")]
#[path = "../../../../drivers/host/src/spsc.rs"]
mod spsc;
#[path = "../../../../cn-bin/src/future/woken.rs"]
mod woken;

/// What the accounts of detached references are about.
mod store {
    pub(crate) use dmrpc_core::store::{EntryId, HolderId};
}

use std::sync::Arc;

use dmrpc_models::{fails, holds};
use loom::thread;

use owners::{Key, Owners};
use sleeper::Sleeper;
use spsc::ring;
use sync::{AtomicU64, Ordering, Without, leave_out};
use woken::Woken;

/// Three items, one by one and two at once, through a ring of two places.
fn ring_model(without: Without) -> impl Fn() + Send + Sync + 'static {
    move || {
        leave_out(without);
        let (mut producer, mut consumer) = ring::<u64>(2);
        let sender = thread::spawn(move || {
            assert_eq!(producer.push(1), Ok(()));
            let put = producer.push_all(&[&[2], &[3]]);
            if put { 3 } else { 1 + u64::from(producer.push(2).is_ok()) }
        });
        let mut taken = 0;
        for _ in 0..2 {
            if let Some(item) = consumer.pop() {
                taken += 1;
                assert_eq!(item, taken);
            }
        }
        let put = sender.join().expect("it panics nowhere");
        while let Some(item) = consumer.pop() {
            taken += 1;
            assert_eq!(item, taken);
        }
        assert_eq!(taken, put, "what was put is there");
    }
}

#[test]
fn rings_between_threads_lose_nothing() {
    assert!(holds(3, ring_model(Without::Nothing)));
}

#[test]
fn rings_between_threads_rest_on_acquire_and_release() {
    assert!(fails(3, ring_model(Without::Acquire)));
    assert!(fails(3, ring_model(Without::Release)));
}

/// A loop that sleeps until it is woken, and a thread that has work for it.
fn sleeper_model(without: Without) -> impl Fn() + Send + Sync + 'static {
    move || {
        leave_out(without);
        let shared = Arc::new((Sleeper::new(), AtomicU64::new(0)));
        let theirs = Arc::clone(&shared);
        let worker = thread::spawn(move || {
            let (sleeper, work) = &*theirs;
            work.store(1, Ordering::Relaxed);
            sleeper.must_be_woken()
        });
        let (sleeper, work) = &*shared;
        sleeper.announce();
        let sees_work = work.load(Ordering::Relaxed) == 1;
        let is_woken = worker.join().expect("it panics nowhere");
        assert!(sees_work || is_woken, "it sleeps for ever");
        sleeper.retract();
    }
}

#[test]
fn no_loop_sleeps_over_its_work() {
    assert!(holds(3, sleeper_model(Without::Nothing)));
}

#[test]
fn sleeping_rests_on_fences() {
    assert!(fails(3, sleeper_model(Without::Fences)));
}

/// Two threads wake tasks whose words share one; what they put before is seen.
fn woken_model(without: Without) -> impl Fn() + Send + Sync + 'static {
    move || {
        leave_out(without);
        let woken = Woken::new(2);
        let results = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let threads = [0, 1].map(|task: u16| {
            let (woken, results) = (woken.clone(), Arc::clone(&results));
            thread::spawn(move || {
                results[usize::from(task)].store(7, Ordering::Relaxed);
                woken.wake(task);
            })
        });
        let mut seen = 0;
        let mut collect = || {
            woken.collect(|_, bits| {
                assert_eq!(seen & bits, 0, "woken twice");
                seen |= bits;
                for (task, result) in results.iter().enumerate() {
                    let is_there = result.load(Ordering::Relaxed) == 7;
                    assert!(bits >> task & 1 == 0 || is_there, "woken for nothing");
                }
            });
            seen
        };
        collect();
        for thread in threads {
            thread.join().expect("it panics nowhere");
        }
        assert_eq!(collect(), 3, "both are woken");
    }
}

#[test]
fn each_task_is_woken_once_and_finds_its_result() {
    assert!(holds(3, woken_model(Without::Nothing)));
}

#[test]
fn waking_rests_on_acquire_and_release() {
    assert!(fails(3, woken_model(Without::Acquire)));
    assert!(fails(3, woken_model(Without::Release)));
}

/// Three threads ask whose two peers are, in different orders, in a table of two places.
#[test]
fn all_agree_on_the_owner_of_a_peer() {
    let model = || {
        leave_out(Without::Nothing);
        let owners: Arc<Owners<2>> = Arc::new(Owners::new(3));
        let peers = [Key::new([10, 0, 0, 1], [0, 7]), Key::new([10, 0, 0, 2], [0, 8])];
        let threads = [1, 2].map(|lane| {
            let owners = Arc::clone(&owners);
            thread::spawn(move || {
                let (first, second) = (peers[lane - 1], peers[2 - lane]);
                let answers = (owners.find(first, lane), owners.find(second, lane));
                if lane == 1 { answers } else { (answers.1, answers.0) }
            })
        });
        let ours = (owners.find(peers[0], 0), owners.find(peers[1], 0));
        for thread in threads {
            assert_eq!(thread.join().expect("it panics nowhere"), ours);
        }
    };
    assert!(holds(3, model));
}

//! A participant dies before store number k of an operation, for every k; the survivors go on,
//! the dead one is recovered, and every count, byte and frame is where it belongs.

mod scene;
#[path = "../store_common/mod.rs"]
mod store_common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dmrpc_core::store::{Error, PAGE_BYTES, Store};
use dmrpc_core::time::Instant;
use scene::{Died, LEN, Scene, pool, words};
use store_common::audit;

/// What a participant does when it dies.
type Act = fn(&mut Scene<'_>) -> Result<(), Error>;

/// Who dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The participant that only uses the pool.
    User,
    /// The one that reclaims and recovers.
    Reclaimer,
}

/// Runs `act` once for every store in it, dying before that store. Returns how many there were.
fn die_everywhere(name: &str, who: Who, prepare: Act, act: Act) -> u64 {
    for k in 0.. {
        let mut deaths = 0;
        for meanwhile in [false, true] {
            let mut words = words();
            let memory = pool(&mut words);
            let mut scene = Scene::new(&memory);
            prepare(&mut scene).unwrap_or_else(|error| panic!("{name}: {error}"));
            memory.die_at_store(Some(k));
            let result = catch_unwind(AssertUnwindSafe(|| act(&mut scene)));
            memory.die_at_store(None);
            match result {
                Ok(result) => result.unwrap_or_else(|error| panic!("{name}: {error}")),
                Err(payload) => {
                    assert!(payload.is::<Died>(), "{name}, store {k}: not the death asked for");
                    deaths += 1;
                }
            }
            if meanwhile && !scene.user_died {
                scene.others_go_on(who == Who::User);
            }
            match who {
                Who::User => scene.recover_user(),
                Who::Reclaimer => scene.recover_reclaimer(),
            }
            let context = format!("{name}, store {k}, meanwhile {meanwhile}");
            scene.verify(&context);
            scene.wind_up(&context);
        }
        match deaths {
            0 => return k,
            2 => {}
            _ => panic!("{name}, store {k}: it died once only"),
        }
    }
    unreachable!("an operation without end")
}

/// Runs `act` of the user with every death; there must be some.
fn user(name: &str, act: Act) {
    let stores = die_everywhere(name, Who::User, |_| Ok(()), act);
    assert!(stores > 0, "{name} stores nothing");
}

#[test]
fn while_it_makes_and_frees_regions() {
    user("alloc", |s| s.user.alloc(s.user_holder, LEN).map(drop));
    user("free", |s| s.user.free(s.user_holder, s.user_region));
    user("free of a mapping", |s| s.user.free(s.user_holder, s.mapped));
    user("free of what is promised", |s| {
        let region = s.user.alloc(s.user_holder, LEN)?;
        s.user.free(s.user_holder, region)
    });
}

#[test]
fn while_it_writes() {
    user("write to an absent page", |s| s.user.write(s.user_holder, s.sparse, 3, &[7; 10]));
    user("write in place", |s| s.user.write(s.user_holder, s.user_region, 3, &[7; 10]));
    user("first write to what is shared", |s| s.user.write(s.user_holder, s.mapped, 3, &[7; 10]));
    user("writes after the first", |s| {
        s.user.write(s.user_holder, s.mapped, 3, &[7; 10])?;
        s.user.write(s.user_holder, s.mapped, 5 * PAGE_BYTES, &[8; 10_000])?;
        s.user.write(s.user_holder, s.mapped, 64 * PAGE_BYTES - 1, &[8; 2])
    });
    user("write after create_ref", |s| {
        s.user.create_ref(s.user_holder, s.user_region, 0, LEN)?;
        s.user.write(s.user_holder, s.user_region, 100, &[8; 10_000])
    });
}

#[test]
fn while_it_makes_maps_and_ends_references() {
    user("create_ref", |s| s.user.create_ref(s.user_holder, s.user_region, 0, LEN).map(drop));
    user("map_ref of its own", |s| {
        s.user.map_ref(s.user_holder, s.user_entry, 0, 10, true).map(drop)
    });
    user("map_ref of another's", |s| {
        s.user.map_ref(s.user_holder, s.node_entry, 0, 10, true).map(drop)
    });
    user("drop_ref", |s| s.user.drop_ref(s.user_holder, s.user_entry));
    user("detach", |s| s.user.detach(s.user_holder, s.user_entry));
    user("claim_ref of another's", |s| s.user.claim_ref(s.user_holder, s.node_spare).map(drop));
    user("claim_ref of its own", |s| s.user.claim_ref(s.user_holder, s.user_entry).map(drop));
    user("claim_ref of nobody's", |s| s.user.claim_ref(s.user_holder, s.nobodys).map(drop));
    user("claim_ref and drop_ref", |s| {
        let claimed = s.user.claim_ref(s.user_holder, s.node_spare)?;
        s.user.drop_ref(s.user_holder, claimed)
    });
}

#[test]
fn while_it_pins() {
    user("pin", |s| s.user.pin(s.user_holder, s.user_region, 0, LEN).map(drop));
    user("pin_ref", |s| s.user.pin_ref(s.node_entry, 0, LEN).map(drop));
    user("unpin", |s| {
        let pin = s.user.pin_ref(s.node_entry, 0, LEN)?;
        s.user.unpin(pin)
    });
}

#[test]
fn while_it_stages_a_write() {
    user("stage_begin and stage_write", |s| {
        let stage = s.user.stage_begin(s.user_holder, s.mapped, 5, 2 * PAGE_BYTES)?;
        s.user.stage_write(s.user_holder, stage, 0, &[4; 2 << 12])
    });
    user("stage_commit over shared and absent pages", |s| {
        for region in [s.mapped, s.sparse] {
            let stage = s.user.stage_begin(s.user_holder, region, 5, 2 * PAGE_BYTES)?;
            s.user.stage_write(s.user_holder, stage, 0, &[4; 2 << 12])?;
            s.user.stage_commit(s.user_holder, stage)?;
        }
        Ok(())
    });
    user("stage_abort", |s| {
        let stage = s.user.stage_begin(s.user_holder, s.sparse, 5, 2 * PAGE_BYTES)?;
        s.user.stage_write(s.user_holder, stage, 0, &[4; 100])?;
        s.user.stage_abort(s.user_holder, stage)
    });
}

/// The reclaimer's own holders leave, too, wherever it dies.
#[test]
fn while_it_lets_its_own_leave() {
    let join_and_leave: Act = |s| {
        let holder = s.node.holder_join(dmrpc_core::store::Limits::NONE)?;
        let region = s.node.alloc(holder, LEN)?;
        s.node.create_ref(holder, region, 0, LEN)?;
        s.node.holder_leave(holder, Instant::ZERO)
    };
    let stores = die_everywhere("holder_leave", Who::Reclaimer, |_| Ok(()), join_and_leave);
    assert!(stores > 0, "it stores nothing");
}

#[test]
fn while_it_comes_and_goes() {
    user("holder_join", |s| s.user.holder_join(dmrpc_core::store::Limits::NONE).map(drop));
    user("holder_leave", |s| s.user.holder_leave(s.user_holder, Instant::ZERO));
}

#[test]
fn while_its_cache_is_filled_and_emptied() {
    user("many references made and dropped", |s| {
        let mut entries = Vec::new();
        for _ in 0..8 {
            entries.push(s.user.create_ref(s.user_holder, s.user_region, 0, 1)?);
        }
        for entry in entries {
            s.user.drop_ref(s.user_holder, entry)?;
        }
        s.user.reclaim(Instant::ZERO, 1);
        Ok(())
    });
    user("credit borrowed and returned", |s| {
        let region = s.user.alloc(s.user_holder, 60 * PAGE_BYTES)?;
        s.user.free(s.user_holder, region)?;
        s.user.reclaim(Instant::ZERO, 1);
        Ok(())
    });
}

/// Work of every kind for the reclaimer: versions to walk, merge and sort, holders to sweep.
fn make_work(s: &mut Scene<'_>) -> Result<(), Error> {
    s.user.write(s.user_holder, s.mapped, 3, &[7; 10])?;
    s.user.write(s.user_holder, s.user_region, PAGE_BYTES, &[6; 9_000])?;
    let second = s.user.create_ref(s.user_holder, s.user_region, 0, LEN)?;
    s.user.write(s.user_holder, s.user_region, 9 * PAGE_BYTES, &[5; 9_000])?;
    s.user.drop_ref(s.user_holder, second)?;
    s.user.drop_ref(s.user_holder, s.user_entry)?;
    let stage = s.user.stage_begin(s.user_holder, s.sparse, 5, 2 * PAGE_BYTES)?;
    s.user.stage_write(s.user_holder, stage, 0, &[4; 100])?;
    s.user.free(s.user_holder, s.mapped)?;
    let leaving = s.user.holder_join(dmrpc_core::store::Limits::NONE)?;
    let region = s.user.map_ref(leaving, s.node_entry, 0, LEN, true)?;
    s.user.write(leaving, region, 0, &[1; 100])?;
    s.user.create_ref(leaving, region, 0, 100)?;
    s.user.stage_begin(leaving, region, 5, 2 * PAGE_BYTES)?;
    s.user.holder_leave(leaving, Instant::ZERO)?;
    // Several that left meanwhile have an order, and staged writes to be aborted.
    for _ in 0..2 {
        let leaving = s.user.holder_join(dmrpc_core::store::Limits::NONE)?;
        let region = s.user.alloc(leaving, 1)?;
        s.user.create_ref(leaving, region, 0, 1)?;
        s.user.stage_begin(leaving, region, 0, 1)?;
        s.user.holder_leave(leaving, Instant::ZERO)?;
    }
    Ok(())
}

#[test]
fn while_it_reclaims() {
    let reclaim: Act = |s| {
        while s.node.reclaim(Instant::ZERO, 64) == 64 {}
        while s.node.reclaim(Instant::from_nanos(2_000), 64) == 64 {}
        Ok(())
    };
    let stores = die_everywhere("reclaim", Who::Reclaimer, make_work, reclaim);
    assert!(stores > 300, "only {stores} stores");
}

#[test]
fn while_it_uses_the_store_itself() {
    let act: Act = |s| {
        let holder = s.node_holder;
        s.node.write(holder, s.node_region, 9, &[9; 5_000])?;
        let entry = s.node.create_ref(holder, s.node_region, 0, LEN)?;
        s.node.write(holder, s.node_region, 9, &[8; 5_000])?;
        s.node.drop_ref(holder, entry)
    };
    // What the dying one writes is its own affair; the rest is as it was.
    die_everywhere("the reclaimer's own work", Who::Reclaimer, |_| Ok(()), act);
}

#[test]
fn while_it_recovers_another() {
    // The user died in the middle of a first write, at several places.
    let prepare: Act = |s| {
        make_work(s)?;
        s.memory.die_at_store(Some(40));
        let write = || s.user.write(s.user_holder, s.user_region, 0, &[3; 10_000]);
        assert!(catch_unwind(AssertUnwindSafe(write)).is_err(), "it should have died");
        s.user_died = true;
        Ok(())
    };
    let recover: Act = |s| {
        s.user_left = s.node.recover(1, Instant::ZERO) == Ok(true);
        Ok(())
    };
    let stores = die_everywhere("recover", Who::Reclaimer, prepare, recover);
    assert!(stores > 30, "only {stores} stores");
}

#[test]
fn a_pool_is_opened_again_between_two_operations() {
    let mut words = words();
    let memory = pool(&mut words);
    let mut scene = Scene::new(&memory);
    scene.recover_reclaimer();
    audit(&scene.node);
    let again = Store::open(&memory).expect("it is there");
    assert_eq!(again.incarnation(), 3);
}

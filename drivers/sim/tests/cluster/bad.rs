//! Operations that must be refused: each with its own typed error, and without effect.

use dmrpc_core::wire::memory_op::{
    MemoryError, RegionName, RegionOperand, Resource, STEP_BYTES, Step,
};
use dmrpc_core::wire::reference::{Ref, Rights};

use crate::client::{End, FIRST, Region, Request};
use crate::compute::Cn;
use crate::model::Reference;
use crate::program::{Hands, any_bytes};

/// One bad operation.
pub(crate) async fn operation(hands: &mut Hands) {
    let cn = hands.cn.clone();
    cn.count("bad operation");
    let node = cn.below(cn.memory_nodes);
    match cn.below(8) {
        0 => bad_steps(&cn, node).await,
        1 => bad_alloc(&cn, node).await,
        2 => foreign_region(&cn).await,
        3 => {
            if !hands.regions.is_empty() {
                let region = hands.regions.swap_remove(cn.below(hands.regions.len()));
                freed_region(&cn, region).await;
            }
        }
        4 => {
            if !hands.regions.is_empty() {
                bad_range(&cn, &hands.regions[cn.below(hands.regions.len())]).await;
            }
        }
        5 | 6 => {
            if let Some(reference) = hands.any_reference() {
                forged(&cn, &reference).await;
            }
        }
        _ => {
            if let Some(reference) = hands.any_reference() {
                bad_use(&cn, &reference).await;
            }
        }
    }
}

/// Sees to it that a request is refused, with an error for which `expected` holds.
async fn refused(cn: &Cn, request: Request<'_>, expected: impl Fn(MemoryError) -> bool) {
    let steps = format!("{:?}", request.steps);
    check(cn, cn.memory(request).end().await, &steps, expected);
}

fn check(cn: &Cn, end: End, what: &str, expected: impl Fn(MemoryError) -> bool) {
    match end {
        End::Done(results) => panic!("{what} made {results:?}"),
        End::Refused(error, _) => {
            // Without a holder nothing else is looked at.
            let holders = Resource::Holders;
            let no_holder =
                matches!(error, MemoryError::Exhausted { resource, .. } if resource == holders);
            let over_quota = cn.limited && matches!(error, MemoryError::Quota { .. });
            let right = expected(error) || cn.tight && no_holder || over_quota;
            assert!(right, "{what} was refused: {error} ({error:?})");
        }
        End::Not | End::Unknown => {}
    }
}

async fn bad_steps(cn: &Cn, node: usize) {
    let mut steps = vec![0; STEP_BYTES * cn.below(6)];
    let alloc = Step::Alloc { length: 1 }.to_bytes();
    let made = RegionOperand::MadeBy(0);
    let write = Step::Write { region: made, offset: 0 }.to_bytes();
    match cn.below(4) {
        // Steps of an operation that does not exist; none at all; too many.
        0 => {}
        // A region that no earlier step made.
        1 => steps = write.to_vec(),
        // Two bodies.
        2 => steps = [alloc, write, write].concat(),
        // Half a step.
        _ => steps = alloc[..16].to_vec(),
    }
    let body = any_bytes(cn, 1 + cn.below(4_000));
    let call = cn.memory_raw(Request { body, ..Request::new(node, &[]) }, steps);
    check(cn, call.end().await, "steps without sense", |error| error == MemoryError::Malformed);
}

async fn bad_alloc(cn: &Cn, node: usize) {
    let steps = [Step::Alloc { length: 0 }];
    refused(cn, Request::new(node, &steps), |error| error == MemoryError::ZeroLength).await;
    let length = u64::MAX - cn.below(10_000) as u64;
    let steps = [Step::Alloc { length }];
    let expected = |error| matches!(error, MemoryError::TooLong { length: of, .. } if of == length);
    refused(cn, Request::new(node, &steps), expected).await;
    let steps = [Step::Alloc { length: 1 << 40 }];
    let expected = |error| matches!(error, MemoryError::Exhausted { .. });
    refused(cn, Request::new(node, &steps), expected).await;
}

/// Another node's region.
async fn foreign_region(cn: &Cn) {
    let (foreign, number) = {
        let oracle = cn.oracle.borrow();
        if oracle.regions.is_empty() {
            return;
        }
        let number = cn.below(oracle.regions.len());
        (oracle.regions[number], number)
    };
    // The names of an earlier life of the memory node mean something else in this one.
    let session = cn.session_with(foreign.node);
    let lives = cn.oracle.borrow().incarnations[foreign.node] == foreign.incarnation;
    if foreign.owner == cn.index || session.is_none() || !lives {
        return;
    }
    let region = RegionOperand::Named(RegionName(foreign.name));
    let steps = [match cn.below(4) {
        0 => Step::Free { region },
        1 => Step::Read { region, offset: 0, length: 1 },
        2 => Step::Write { region, offset: 0 },
        _ => Step::CreateRef { region, offset: 0, length: 1, rights: Rights::all() },
    }];
    let long = if cn.below(2) == 0 { 10 } else { 5_000 };
    let body = if matches!(steps[0], Step::Write { .. }) { any_bytes(cn, long) } else { [].into() };
    let request = Request { body, room: 1, session, ..Request::new(foreign.node, &steps) };
    refused(cn, request, |error| match error {
        MemoryError::NotYours => true,
        MemoryError::UnknownRegion => cn.oracle.borrow().regions[number].ending,
        _ => false,
    })
    .await;
}

async fn freed_region(cn: &Cn, region: Region) {
    let (node, named, session) = (region.node, region.named(), Some(region.session));
    // Unless it is known to be freed, nothing follows.
    let unknown = cn.oracle.borrow().unknown;
    cn.free(region).await;
    if cn.oracle.borrow().unknown != unknown {
        return;
    }
    let steps = [match cn.below(3) {
        0 => Step::Free { region: named },
        1 => Step::Read { region: named, offset: 0, length: 1 },
        _ => Step::Write { region: named, offset: 0 },
    }];
    let long = if cn.below(2) == 0 { 10 } else { 5_000 };
    let body = if matches!(steps[0], Step::Write { .. }) { any_bytes(cn, long) } else { [].into() };
    let request = Request { body, room: 1, session, ..Request::new(node, &steps) };
    refused(cn, request, |error| error == MemoryError::UnknownRegion).await;
}

/// A region of an earlier session, in the one after it.
pub(crate) async fn lost_region(cn: &Cn, region: &Region) {
    let Some(session) = cn.session_with(region.node) else { return };
    let incarnation = cn.oracle.borrow().incarnations[region.node];
    if region.incarnation != incarnation {
        return;
    }
    cn.count("region of a lost session");
    let named = region.named();
    let steps = [match cn.below(3) {
        0 => Step::Free { region: named },
        1 => Step::Read { region: named, offset: 0, length: 1 },
        _ => Step::CreateRef { region: named, offset: 0, length: 1, rights: Rights::all() },
    }];
    let request = Request { room: 1, session: Some(session), ..Request::new(region.node, &steps) };
    let gone = |error| matches!(error, MemoryError::NotYours | MemoryError::UnknownRegion);
    refused(cn, request, gone).await;
}

async fn bad_range(cn: &Cn, region: &Region) {
    let named = region.named();
    let size = region.content.len() as u64;
    let over = 1 + cn.below(5_000) as u64;
    let (offset, length) = match cn.below(3) {
        0 => (cn.below(size as usize + 1) as u64, 0),
        1 => (size - size.min(over) / 2, over + over / 2),
        _ => (u64::MAX - cn.below(100) as u64, 101 + cn.below(100) as u64),
    };
    let body = any_bytes(cn, length as usize);
    let (room, end) = (length as usize, offset.checked_add(length));
    let expected = |error| match (length, end) {
        (0, _) => error == MemoryError::ZeroLength,
        (_, Some(end)) => error == MemoryError::OutOfRange { end, size },
        (_, None) => matches!(error, MemoryError::OutOfRange { end: u64::MAX, .. }),
    };
    let rights = Rights::all();
    let steps = [Step::Read { region: named, offset, length }];
    refused(cn, Request { room, ..Request::about(region, &steps) }, expected).await;
    let steps = [Step::Write { region: named, offset }];
    refused(cn, Request { body, ..Request::about(region, &steps) }, expected).await;
    let steps = [Step::CreateRef { region: named, offset, length, rights }];
    refused(cn, Request::about(region, &steps), expected).await;
}

/// A reference with a bit of it changed.
async fn forged(cn: &Cn, reference: &Reference) {
    let mut wire = reference.wire;
    let flip: u32 = 1 << cn.below(8);
    let mut node = reference.node;
    let expected = match cn.below(8) {
        0 => {
            wire.memory_node ^= flip;
            MemoryError::WrongNode { memory_node: wire.memory_node }
        }
        1 => {
            wire.incarnation ^= u64::from(flip);
            let incarnation = reference.wire.incarnation ^ u64::from(flip);
            MemoryError::StaleIncarnation { incarnation }
        }
        2 => {
            wire.index ^= flip;
            MemoryError::Forged
        }
        3 => {
            wire.generation ^= u64::from(flip);
            MemoryError::Forged
        }
        4 => {
            wire.length += u64::from(flip);
            MemoryError::Forged
        }
        5 => {
            wire.rights ^= [Rights::MAP, Rights::CONSUME, Rights::NARROW][cn.below(3)];
            MemoryError::Forged
        }
        6 if cn.memory_nodes > 1 => {
            node = (node + 1) % cn.memory_nodes;
            MemoryError::WrongNode { memory_node: wire.memory_node }
        }
        _ => {
            wire.tag ^= u64::from(flip);
            MemoryError::Forged
        }
    };
    let steps = [match cn.below(5) {
        0 => Step::MapRef { reference: FIRST },
        1 => Step::ReadRef { reference: FIRST, offset: 0, length: 1 },
        2 => Step::ClaimRef { reference: FIRST },
        3 => Step::DropRef { reference: FIRST },
        _ => Step::Narrow { reference: FIRST, offset: 0, length: 1, rights: Rights::MAP },
    }];
    let refs: [Ref; 1] = [wire];
    let request = Request { refs: &refs, room: 1, ..Request::new(node, &steps) };
    refused(cn, request, |error| {
        let dead = matches!(error, MemoryError::StaleIncarnation { .. })
            && cn.oracle.borrow().is_of_dead_node(reference.key());
        error == expected || dead
    })
    .await;
}

/// A genuine reference put to a use that it does not allow.
async fn bad_use(cn: &Cn, reference: &Reference) {
    let key = reference.key();
    let size = reference.wire.length;
    let rights = reference.wire.rights;
    let owner = cn.oracle.borrow().entries[&key].owner;
    let lacking = Rights::all() - rights;
    let (step, expected) = match cn.below(4) {
        0 if owner.is_some_and(|owner| owner != cn.index) => {
            (Step::DropRef { reference: FIRST }, MemoryError::NotOwner)
        }
        1 if owner.is_some_and(|owner| owner != cn.index) => {
            (Step::Detach { reference: FIRST }, MemoryError::NotOwner)
        }
        2 if rights.contains(Rights::MAP) => (
            Step::ReadRef { reference: FIRST, offset: size, length: 1 },
            MemoryError::OutOfRange { end: size + 1, size },
        ),
        _ => match lacking {
            Rights::MAP => {
                (Step::MapRef { reference: FIRST }, MemoryError::MissingRights { rights: lacking })
            }
            Rights::CONSUME => (
                Step::ClaimRef { reference: FIRST },
                MemoryError::MissingRights { rights: lacking },
            ),
            Rights::NARROW => (
                Step::Narrow { reference: FIRST, offset: 0, length: 1, rights: Rights::empty() },
                MemoryError::MissingRights { rights: lacking },
            ),
            _ => return,
        },
    };
    let steps = [step];
    let refs = [reference.wire];
    let request = Request { refs: &refs, room: 1, ..Request::new(reference.node, &steps) };
    refused(cn, request, |error| {
        error == expected || cn.oracle.borrow().may_fail(key, error, None)
    })
    .await;
}

//! What must be refused, each with its own error, and changes nothing.

use dmrpc_apps::client::Client;
use dmrpc_apps::error::AppError;
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{MemoryError, Peer, Ref, Region, Rights};

use crate::checks::Checks;

/// The region's length in bytes.
const BYTES: u64 = 10_000;

pub(crate) fn run(
    checks: &mut Checks<'_, '_>,
    client: &Client,
    (owner, other): (Peer, Peer),
    pool_bytes: u64,
) -> Result<(), AppError> {
    checks.heading("what must be refused")?;
    let (memory, stranger) = (client.memory(owner), client.memory(other));
    let region = memory.alloc(BYTES)?;
    memory.write(region, 0, &[7; BYTES as usize])?;
    let reference = memory.create_ref(region, 0, BYTES, ALL_RIGHTS)?;

    ranges(checks, client, region)?;
    regions(checks, client, region, other)?;
    references(checks, client, (owner, other), &reference)?;

    let too_much = stranger.alloc(pool_bytes * 2);
    checks.fails("alloc of twice the pool", too_much, "exhausted", |error| {
        matches!(error, MemoryError::Exhausted { .. } | MemoryError::Quota { .. })
    })?;
    let mut found = [0; BYTES as usize];
    memory.read(region, 0, &mut found)?;
    checks.holds("after all that the region is as it was", found.iter().all(|byte| *byte == 7))?;
    memory.drop_ref(&reference)?;
    Ok(memory.free(region)?)
}

/// Ranges that make no sense.
fn ranges(checks: &mut Checks<'_, '_>, client: &Client, region: Region) -> Result<(), AppError> {
    let memory = client.memory(region.peer);
    let out_of_range = |error| matches!(error, MemoryError::OutOfRange { .. });
    let zero = |error| matches!(error, MemoryError::ZeroLength);
    checks.fails("alloc of no bytes", memory.alloc(0), "zero length", zero)?;
    let result = memory.read(region, 0, &mut []);
    checks.fails("read of no bytes", result, "zero length", zero)?;
    let result = memory.create_ref(region, 0, 0, ALL_RIGHTS);
    checks.fails("create_ref to no bytes", result, "zero length", zero)?;
    let result = memory.read(region, BYTES - 3, &mut [0; 4]);
    checks.fails("read past the end", result, "out of range", out_of_range)?;
    let result = memory.write(region, BYTES, &[1]);
    checks.fails("write behind the end", result, "out of range", out_of_range)?;
    let result = memory.read(region, u64::MAX, &mut [0; 4]);
    checks.fails("read whose end overflows", result, "out of range", out_of_range)?;
    let result = memory.create_ref(region, 1, BYTES, ALL_RIGHTS);
    checks.fails("create_ref past the end", result, "out of range", out_of_range)
}

/// Regions that are not there or not one's own.
fn regions(
    checks: &mut Checks<'_, '_>,
    client: &Client,
    region: Region,
    other: Peer,
) -> Result<(), AppError> {
    let (memory, stranger) = (client.memory(region.peer), client.memory(other));
    let gone = memory.alloc(BYTES)?;
    memory.free(gone)?;
    let unknown = |error| matches!(error, MemoryError::UnknownRegion);
    let result = memory.read(gone, 0, &mut [0; 4]);
    checks.fails("read of a freed region", result, "unknown region", unknown)?;
    checks.fails("free of a freed region", memory.free(gone), "unknown region", unknown)?;
    let foreign = Region { peer: other, ..region };
    let not_mine = |error| matches!(error, MemoryError::NotYours | MemoryError::UnknownRegion);
    let result = stranger.write(foreign, 0, &[1]);
    checks.fails("write to another session's region", result, "not yours", not_mine)?;
    checks.fails("free of another session's region", stranger.free(foreign), "not yours", not_mine)
}

/// References that are forged, stale, consumed or too weak.
fn references(
    checks: &mut Checks<'_, '_>,
    client: &Client,
    (owner, other): (Peer, Peer),
    reference: &Ref,
) -> Result<(), AppError> {
    let (memory, stranger) = (client.memory(owner), client.memory(other));
    let forged = |error| matches!(error, MemoryError::Forged);
    let changed = Ref { tag: reference.tag ^ 1, ..*reference };
    checks.fails("a reference with another tag", stranger.map_ref(&changed), "forged", forged)?;
    let longer = Ref { length: reference.length + 1, ..*reference };
    checks.fails("a reference made longer", stranger.map_ref(&longer), "forged", forged)?;
    let elsewhere = Ref { memory_node: reference.memory_node + 1, ..*reference };
    let result = stranger.map_ref(&elsewhere);
    checks.fails("a reference to another memory node", result, "wrong node", |error| {
        matches!(error, MemoryError::WrongNode { .. })
    })?;
    let earlier = Ref { incarnation: reference.incarnation - 1, ..*reference };
    let result = stranger.map_ref(&earlier);
    checks.fails("a reference of an earlier life", result, "stale incarnation", |error| {
        matches!(error, MemoryError::StaleIncarnation { .. } | MemoryError::Forged)
    })?;
    let weak = memory.narrow(reference, 0, 10, Rights::MAP)?;
    checks.fails("claim_ref without the right", stranger.claim_ref(&weak), "missing", |error| {
        matches!(error, MemoryError::MissingRights { .. })
    })?;
    checks.fails(
        "drop_ref by who is not its owner",
        stranger.drop_ref(reference),
        "no",
        |error| matches!(error, MemoryError::NotOwner),
    )?;
    let once = memory.put(&[1; 100])?;
    let claimed = stranger.claim_ref(&once)?;
    checks.fails("claim_ref a second time", memory.claim_ref(&once), "consumed", |error| {
        matches!(error, MemoryError::Consumed)
    })?;
    stranger.drop_ref(&claimed)?;
    checks.fails("map_ref of a dropped reference", stranger.map_ref(&claimed), "gone", |error| {
        matches!(error, MemoryError::Dropped | MemoryError::StaleReference)
    })
}

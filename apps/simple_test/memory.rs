//! Memory operations, each verified by reading.

use dmrpc_apps::client::{Client, ECHO};
use dmrpc_apps::error::AppError;
use dmrpc_apps::pattern;
use dmrpc_choice::AnyDevice;
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Arg, Peer, Ref, Region, Rights};

use crate::checks::Checks;

/// The region's length: several pages, the last of them not whole.
const BYTES: usize = 1_000_001;
/// An offset within a page.
const OFFSET: u64 = 5_003;
/// Names of patterns.
const FIRST: u64 = 1;
const SECOND: u64 = 2;

type Memory<'n> = dmrpc_cn::Memory<'n, AnyDevice>;

fn content(name: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    pattern::fill(name, &mut content);
    content
}

/// Reads and compares.
fn expect(
    memory: Memory<'_>,
    region: Region,
    offset: u64,
    expected: &[u8],
) -> Result<(), AppError> {
    let mut found = vec![0xEE; expected.len()];
    memory.read(region, offset, &mut found)?;
    same("read", &found, expected)
}

fn same(op: &'static str, found: &[u8], expected: &[u8]) -> Result<(), AppError> {
    let difference = found.iter().zip(expected).position(|(found, right)| found != right);
    match difference {
        None if found.len() == expected.len() => Ok(()),
        at => Err(AppError::WrongBytes {
            op,
            bytes: expected.len(),
            at: at.unwrap_or(found.len().min(expected.len())),
        }),
    }
}

pub(crate) fn run(
    checks: &mut Checks<'_, '_>,
    client: &Client,
    (owner, other): (Peer, Peer),
    echo: Peer,
) -> Result<(), AppError> {
    checks.heading("memory operations")?;
    let memory = client.memory(owner);
    let region = checks
        .works("alloc", "a region of 1,000,001 bytes", BYTES, || memory.alloc(BYTES as u64))?;
    checks.works("read", "which reads as zeros", BYTES, || {
        expect(memory, region, 0, &vec![0; BYTES])
    })?;
    let mut model = content(FIRST, BYTES);
    checks.works("write", "all of it", BYTES, || memory.write(region, 0, &model))?;
    checks.works("read", "what was written", BYTES, || expect(memory, region, 0, &model))?;
    let part = content(SECOND, 10_000);
    model[OFFSET as usize..][..part.len()].copy_from_slice(&part);
    checks.works("write", "a part, across pages, at an odd offset", part.len(), || {
        memory.write(region, OFFSET, &part)
    })?;
    checks.works("read", "the part and what is round it", BYTES, || {
        expect(memory, region, 0, &model)
    })?;
    references(checks, client, region, &model, other)?;
    compound(checks, client, memory, echo, &model)?;
    checks.works("free", "the region", BYTES, || memory.free(region))
}

/// References: what they refer to stays as it was.
fn references(
    checks: &mut Checks<'_, '_>,
    client: &Client,
    region: Region,
    model: &[u8],
    other: Peer,
) -> Result<(), AppError> {
    let (memory, receiver) = (client.memory(region.peer), client.memory(other));
    let reference = checks.works("create_ref", "to all of the region", BYTES, || {
        memory.create_ref(region, 0, BYTES as u64, ALL_RIGHTS)
    })?;
    let mut mine = model.to_vec();
    mine[0] ^= 0xFF;
    checks
        .works("write", "to the region, after that", 1, || memory.write(region, 0, &mine[..1]))?;
    let mapped =
        checks.works("map_ref", "by another session", BYTES, || receiver.map_ref(&reference))?;
    checks.works("read", "there: what was at the time of create_ref", BYTES, || {
        expect(receiver, mapped, 0, model)
    })?;
    checks.works("write", "there: one byte of a shared page", 1, || {
        receiver.write(mapped, 4096, &[0xAA])
    })?;
    checks.works("read", "the owner's region: not changed by that", BYTES, || {
        expect(memory, region, 0, &mine)
    })?;
    checks.works("read", "the mapping: changed, the page's rest kept", 4096, || {
        let mut expected = model[4096..8192].to_vec();
        expected[0] = 0xAA;
        expect(receiver, mapped, 4096, &expected)
    })?;
    checks.works("free", "the mapping", BYTES, || receiver.free(mapped))?;
    let part = checks.works("narrow", "to 100 bytes from 5,000 on, for reading", 100, || {
        receiver.narrow(&reference, 5_000, 100, Rights::MAP)
    })?;
    checks.works("read_ref", "of the part, without mapping", 100, || {
        let mut found = [0; 100];
        receiver.read_ref(&part, 0, &mut found)?;
        same("read_ref", &found, &model[5_000..5_100])
    })?;
    let claimed = checks.works("claim_ref", "by another session: it owns it now", BYTES, || {
        receiver.claim_ref(&reference)
    })?;
    checks.works("drop_ref", "by its new owner", BYTES, || receiver.drop_ref(&claimed))
}

/// Several steps in one round trip, and references that travel or outlive their owner.
fn compound(
    checks: &mut Checks<'_, '_>,
    client: &Client,
    memory: Memory<'_>,
    echo: Peer,
    model: &[u8],
) -> Result<(), AppError> {
    let bytes = &model[..50_000];
    let reference =
        checks.works("put", "50,000 bytes in one round trip", bytes.len(), || memory.put(bytes))?;
    checks.works("rpc", "the reference there and back", 64, || travel(client, echo, reference))?;
    checks.works("detach", "it, to outlive its session", 0, || memory.detach(&reference))?;
    let mut found = vec![0; bytes.len()];
    checks.works("take", "it back in one round trip", bytes.len(), || {
        let length = memory.take(&reference, &mut found)?;
        same("take", &found[..length], bytes)
    })
}

/// A reference in a call comes back as it went.
fn travel(client: &Client, echo: Peer, reference: Ref) -> Result<(), AppError> {
    let reply = client.call(echo, ECHO, &[Arg::Ref(reference)], &mut [])?;
    match reply.refs().next() {
        Some(back) if back == reference => Ok(()),
        _ => Err(AppError::WrongBytes { op: "rpc", bytes: 64, at: 0 }),
    }
}

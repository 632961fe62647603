//! One operation, many times, for counting instructions: only `measured_*` is to be counted.
//!
//! `valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*measured_*' \
//!  store_bench --op create_ref --size 64GiB --iterations 1000`

use std::hint::black_box;

use dmrpc_core::memory::Plain;
use dmrpc_core::store::{EntryId, HolderId, PAGE_BYTES, RegionId, Result, Store};
use dmrpc_core::time::Instant;

use crate::{Options, Random, new_store};

type Pool<'m> = Store<Plain<'m>>;

#[inline(never)]
fn measured_create_ref(
    store: &mut Pool<'_>,
    holder: HolderId,
    region: RegionId,
    len: u64,
) -> Result<EntryId> {
    store.create_ref(holder, region, 0, len)
}

#[inline(never)]
fn measured_map_ref(
    store: &mut Pool<'_>,
    holder: HolderId,
    entry: EntryId,
    len: u64,
) -> Result<RegionId> {
    store.map_ref(holder, entry, 0, len, true)
}

#[inline(never)]
fn measured_drop_ref(store: &mut Pool<'_>, holder: HolderId, entry: EntryId) -> Result<()> {
    store.drop_ref(holder, entry)
}

#[inline(never)]
fn measured_alloc(store: &mut Pool<'_>, holder: HolderId, len: u64) -> Result<RegionId> {
    store.alloc(holder, len)
}

#[inline(never)]
fn measured_free(store: &mut Pool<'_>, holder: HolderId, region: RegionId) -> Result<()> {
    store.free(holder, region)
}

#[inline(never)]
fn measured_write(
    store: &mut Pool<'_>,
    holder: HolderId,
    region: RegionId,
    offset: u64,
    source: &[u8],
) -> Result<()> {
    store.write(holder, region, offset, source)
}

#[inline(never)]
fn measured_read(
    store: &Pool<'_>,
    holder: HolderId,
    region: RegionId,
    offset: u64,
    target: &mut [u8],
) -> Result<()> {
    store.read(holder, region, offset, target)
}

#[inline(never)]
fn measured_read_ref(
    store: &Pool<'_>,
    entry: EntryId,
    offset: u64,
    target: &mut [u8],
) -> Result<()> {
    store.read_ref(entry, offset, target)
}

/// Runs the operation that the options name.
pub(crate) fn run(options: &Options) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (mut mapping, config) = new_store(options.size * options.among_regions + (1 << 30))?;
    let mut store = Store::format(mapping.memory(), &config)?;
    let holder = store.holder_join(dmrpc_core::store::Limits::NONE)?;
    let (size, bytes) = (options.size, vec![1; options.bytes as usize]);
    let mut random = Random(1);
    let mut regions = Vec::new();
    for _ in 0..options.among_regions {
        let region = store.alloc(holder, size)?;
        // Sparse regions stay sparse: a few hundred pages, the ones that are used below.
        for page in pages(size, &mut Random(7)).take(options.pages as usize) {
            store.write(holder, region, page * PAGE_BYTES, &bytes)?;
        }
        regions.push(region);
    }
    let mut entries = Vec::new();
    if options.op == "read_ref" || options.among_refs > 1 {
        for n in 0..options.among_refs {
            let region = regions[n as usize % regions.len()];
            entries.push(store.create_ref(holder, region, 0, size)?);
        }
    }
    let mut picks: Vec<u64> = pages(size, &mut Random(7)).take(options.pages as usize).collect();
    picks.rotate_left(1);
    let mut target = vec![0; bytes.len()];
    for _ in 0..options.iterations {
        let region = regions[random.below(regions.len() as u64) as usize];
        let offset = picks[random.below(picks.len() as u64) as usize] * PAGE_BYTES;
        match options.op.as_str() {
            "read" => measured_read(&store, holder, region, offset, &mut target)?,
            "write" => measured_write(&mut store, holder, region, offset, &bytes)?,
            "read_ref" => {
                let entry = entries[random.below(entries.len() as u64) as usize];
                measured_read_ref(&store, entry, offset, &mut target)?;
            }
            "map_ref" if !entries.is_empty() => {
                let entry = entries[random.below(entries.len() as u64) as usize];
                let mapped = measured_map_ref(&mut store, holder, entry, size)?;
                store.free(holder, mapped)?;
            }
            "alloc" | "free" => {
                let region = measured_alloc(&mut store, holder, size)?;
                measured_free(&mut store, holder, region)?;
            }
            "create_ref" | "drop_ref" => {
                let entry = measured_create_ref(&mut store, holder, region, size)?;
                measured_drop_ref(&mut store, holder, entry)?;
            }
            "map_ref" => {
                let entry = store.create_ref(holder, region, 0, size)?;
                let mapped = measured_map_ref(&mut store, holder, entry, size)?;
                store.free(holder, mapped)?;
                store.drop_ref(holder, entry)?;
            }
            "cow_write" => {
                let entry = store.create_ref(holder, region, 0, size)?;
                measured_write(&mut store, holder, region, offset, &bytes)?;
                store.drop_ref(holder, entry)?;
            }
            other => return Err(format!("no operation {other}; see the source for those").into()),
        }
        while store.reclaim(Instant::ZERO, 64) == 64 {}
        black_box(&target);
    }
    Ok(())
}

/// Distinct-looking random pages of a region.
fn pages(size: u64, random: &mut Random) -> impl Iterator<Item = u64> + '_ {
    let pages = (size / PAGE_BYTES).max(1);
    std::iter::repeat_with(move || random.below(pages))
}

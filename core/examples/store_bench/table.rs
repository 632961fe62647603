//! The table of times: each block measures the yardsticks and then each operation, so that the
//! ratios compare what ran side by side; medians over the blocks, quartiles of the ratios.

use std::hint::black_box;
use std::time::Instant as Clock;

use dmrpc_core::memory::{Memory, Plain};
use dmrpc_core::store::{EntryId, HolderId, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_core::time::Instant;

use crate::{Random, new_store};

type Pool<'m> = Store<Plain<'m>>;
type Failure = Box<dyn std::error::Error>;

/// Blocks, and operations of each kind in one.
const BLOCKS: usize = 21;
const SAMPLES: usize = 400;
/// References that are alive at a time in the rows of first writes, so that recycled frames
/// come back cold.
const RING: usize = 4_096;
/// Bytes of the area of the yardsticks: more than any cache.
const AREA: u64 = 1 << 30;

/// Nanoseconds of one call, less what the clock itself takes.
fn time(clock_ns: f64, f: impl FnOnce()) -> f64 {
    let start = Clock::now();
    f();
    (start.elapsed().as_nanos() as f64 - clock_ns).max(0.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What reading the clock twice takes, in nanoseconds.
fn clock_ns() -> f64 {
    median((0..2_000).map(|_| time(0.0, || {})).collect())
}

/// Yardsticks of one block, in nanoseconds.
#[derive(Clone, Copy)]
struct Yard {
    clock: f64,
    load: f64,
    /// 4,096 bytes from a cold place to a warm one.
    copy_4096: f64,
    /// 4,096 bytes to a cold place.
    write_4096: f64,
    /// 64 bytes to a cold place.
    write_64: f64,
}

impl Yard {
    /// Measures on memory that holds nothing else and is larger than any cache.
    fn measure(memory: &Plain<'_>, random: &mut Random) -> Self {
        let clock = clock_ns();
        let bytes = vec![3; 4096];
        let mut any = |len: u64| random.below(AREA / len) * len;
        let load = median(
            (0..SAMPLES)
                .map(|_| {
                    let at = any(64);
                    time(clock, || {
                        black_box(memory.load_u64(at));
                    })
                })
                .collect(),
        );
        let mut warm = vec![0; 4096];
        let copy_4096 = median(
            (0..SAMPLES)
                .map(|_| {
                    let from = any(4096);
                    time(clock, || memory.read(from, black_box(&mut warm)))
                })
                .collect(),
        );
        let mut write = |len: usize| {
            median(
                (0..SAMPLES)
                    .map(|_| {
                        let to = any(4096);
                        time(clock, || memory.write(to, black_box(&bytes[..len])))
                    })
                    .collect(),
            )
        };
        let (write_4096, write_64) = (write(4096), write(64));
        Self { clock, load, copy_4096, write_4096, write_64 }
    }
}

/// A store with one region of `size` bytes, all of it written.
struct Bench<'m> {
    store: Pool<'m>,
    holder: HolderId,
    region: RegionId,
    size: u64,
    ring: std::collections::VecDeque<EntryId>,
}

impl<'m> Bench<'m> {
    fn new(mut store: Pool<'m>, size: u64) -> Result<Self, Failure> {
        let holder = store.holder_join(Limits::NONE)?;
        let region = store.alloc(holder, size)?;
        let chunk = vec![1; size.min(1 << 20) as usize];
        for at in (0..size).step_by(chunk.len()) {
            store.write(holder, region, at, &chunk)?;
        }
        let ring = std::collections::VecDeque::new();
        Ok(Self { store, holder, region, size, ring })
    }

    fn settle(&mut self) {
        while self.store.reclaim(Instant::ZERO, 64) == 64 {}
    }

    /// Nanoseconds of a write after a `create_ref`.
    fn first_write(&mut self, clock: f64, page: u64, bytes: &[u8]) -> Result<f64, Failure> {
        let entry = self.store.create_ref(self.holder, self.region, 0, self.size)?;
        self.ring.push_back(entry);
        let mut result = Ok(());
        let ns = time(clock, || {
            result = self.store.write(self.holder, self.region, page * PAGE_BYTES, bytes);
        });
        result?;
        if self.ring.len() > RING
            && let Some(oldest) = self.ring.pop_front()
        {
            self.store.drop_ref(self.holder, oldest)?;
            self.settle();
        }
        Ok(ns)
    }

    fn drop_all(&mut self) -> Result<(), Failure> {
        for entry in std::mem::take(&mut self.ring) {
            self.store.drop_ref(self.holder, entry)?;
        }
        self.settle();
        Ok(())
    }

    /// Nanoseconds of a write to a page of its own.
    fn later_write(&mut self, clock: f64, page: u64, bytes: &[u8]) -> Result<f64, Failure> {
        let mut result = Ok(());
        let ns = time(clock, || {
            result = self.store.write(self.holder, self.region, page * PAGE_BYTES, bytes);
        });
        result?;
        Ok(ns)
    }
}

/// One row: what was measured, and what it may cost by the yardsticks of its block.
struct Row {
    name: String,
    ns: Vec<f64>,
    ratio: Vec<f64>,
}

impl Row {
    fn new(name: String) -> Self {
        Self { name, ns: Vec::new(), ratio: Vec::new() }
    }

    fn add(&mut self, ns: f64, bar: f64) {
        self.ns.push(ns);
        self.ratio.push(ns / bar);
    }

    fn print(mut self) {
        self.ratio.sort_by(f64::total_cmp);
        let quarter = self.ratio.len() / 4;
        let (low, high) = (self.ratio[quarter], self.ratio[self.ratio.len() - 1 - quarter]);
        let middle = self.ratio[self.ratio.len() / 2];
        let (name, ns) = (self.name, median(self.ns));
        println!("{name:<34} {ns:>8.0} ns  {middle:>5.2} of the bar ({low:.2} to {high:.2})");
    }
}

/// First and later writes, random pages.
fn writes(size: u64, label: &str) -> Result<(), Failure> {
    let (mut mapping, config) = new_store(size + (2 << 30))?;
    let (mut yard_mapping, _) = new_store(AREA)?;
    let yard_memory = yard_mapping.memory();
    yard_memory.fill_zero(0, AREA);
    let mut bench = Bench::new(Store::format(mapping.memory(), &config)?, size)?;
    let (pages, bytes) = (size / PAGE_BYTES, vec![9; 4096]);
    let mut random = Random(3);
    let mut rows: Vec<Row> = ["first write of 4096 B", "first write of 64 B"]
        .iter()
        .chain(&["later write of 4096 B", "later write of 64 B"])
        .map(|name| Row::new(format!("{label}: {name}")))
        .collect();
    for len in [4096, 64] {
        for _ in 0..RING {
            bench.first_write(0.0, random.below(pages), &bytes[..len])?;
        }
    }
    let mut yards = Vec::new();
    for _ in 0..BLOCKS {
        let yard = Yard::measure(&yard_memory, &mut random);
        for (row, len) in [(0, 4096), (1, 64)] {
            let mut ns = Vec::new();
            for _ in 0..SAMPLES {
                ns.push(bench.first_write(yard.clock, random.below(pages), &bytes[..len])?);
            }
            rows[row].add(median(ns), yard.copy_4096 + 4.0 * yard.load);
        }
        yards.push(yard);
    }
    bench.drop_all()?;
    for yard in &mut yards {
        *yard = Yard::measure(&yard_memory, &mut random);
        for (row, len, copy) in [(2, 4096, yard.write_4096), (3, 64, yard.write_64)] {
            let mut ns = Vec::new();
            for _ in 0..SAMPLES {
                ns.push(bench.later_write(yard.clock, random.below(pages), &bytes[..len])?);
            }
            rows[row].add(median(ns), 1.3 * copy + yard.load);
        }
    }
    let of = |f: fn(&Yard) -> f64| median(yards.iter().map(f).collect());
    println!(
        "{label}: cold load {:.0} ns; memcpy of 4096 B from cold {:.0} ns, to cold {:.0} ns; \
         of 64 B to cold {:.0} ns",
        of(|yard| yard.load),
        of(|yard| yard.copy_4096),
        of(|yard| yard.write_4096),
        of(|yard| yard.write_64),
    );
    rows.into_iter().for_each(Row::print);
    Ok(())
}

/// Nanoseconds a call of `create_ref`, `map_ref` and their opposites, by region size.
fn references() -> Result<(), Failure> {
    println!(
        "{:<10} {:>10} {:>10} {:>10} {:>10}",
        "region", "create_ref", "map_ref", "free", "drop"
    );
    for (label, size) in [
        ("4 KiB", 4 << 10),
        ("1 MiB", 1 << 20),
        ("1 GiB", 1 << 30),
        ("16 GiB", 16 << 30),
        ("64 GiB", 64u64 << 30),
    ] {
        let (mut mapping, config) = new_store(size)?;
        let mut store = Store::format(mapping.memory(), &config)?;
        let holder = store.holder_join(Limits::NONE)?;
        let region = store.alloc(holder, size)?;
        for page in 0..64u64 {
            let offset = page * (size / 64) / PAGE_BYTES * PAGE_BYTES;
            store.write(holder, region, offset, &[1])?;
        }
        let batch = 1_000;
        let mut columns = [const { Vec::new() }; 4];
        for _ in 0..BLOCKS {
            let start = Clock::now();
            let entries: Vec<_> = (0..batch)
                .map(|_| store.create_ref(holder, region, 0, size))
                .collect::<Result<_, _>>()?;
            columns[0].push(start.elapsed());
            let start = Clock::now();
            let mapped: Vec<_> = entries
                .iter()
                .map(|entry| store.map_ref(holder, *entry, 0, size, true))
                .collect::<Result<_, _>>()?;
            columns[1].push(start.elapsed());
            let start = Clock::now();
            mapped.iter().try_for_each(|mapped| store.free(holder, *mapped))?;
            columns[2].push(start.elapsed());
            let start = Clock::now();
            entries.iter().try_for_each(|entry| store.drop_ref(holder, *entry))?;
            columns[3].push(start.elapsed());
        }
        let [create, map, free, end] = columns.map(|times| {
            median(times.iter().map(|t| t.as_nanos() as f64 / f64::from(batch)).collect())
        });
        println!("{label:<10} {create:>7.0} ns {map:>7.0} ns {free:>7.0} ns {end:>7.0} ns");
    }
    Ok(())
}

/// Reads of 64 bytes at random places: one region or reference, and many.
fn among_many() -> Result<(), Failure> {
    let size = 64 << 10;
    let (mut mapping, config) = new_store(1 << 30)?;
    let mut store = Store::format(mapping.memory(), &config)?;
    let holder = store.holder_join(Limits::NONE)?;
    let mut regions = Vec::new();
    for _ in 0..1_000 {
        let region = store.alloc(holder, size)?;
        store.write(holder, region, 0, &vec![1; size as usize])?;
        regions.push(region);
    }
    let entries: Vec<_> = (0..100_000)
        .map(|n| store.create_ref(holder, regions[n % 1_000], 0, size))
        .collect::<Result<_, _>>()?;
    let mut random = Random(5);
    let mut target = [0; 64];
    for (regions_used, entries_used) in [(1, 1), (1_000, 100_000)] {
        let (mut by_region, mut by_reference) = (Vec::new(), Vec::new());
        for _ in 0..BLOCKS {
            let start = Clock::now();
            for _ in 0..10_000 {
                let region = regions[random.below(regions_used) as usize];
                store.read(holder, region, random.below(size - 64), &mut target)?;
            }
            by_region.push(start.elapsed().as_nanos() as f64 / 10_000.0);
            let start = Clock::now();
            for _ in 0..10_000 {
                let entry = entries[random.below(entries_used) as usize];
                store.read_ref(entry, random.below(size - 64), &mut target)?;
            }
            by_reference.push(start.elapsed().as_nanos() as f64 / 10_000.0);
        }
        let (region, entry) = (median(by_region), median(by_reference));
        println!("read 64 B in one of {regions_used} regions: {region:.0} ns");
        println!("read 64 B in one of {entries_used} references: {entry:.0} ns");
    }
    Ok(())
}

/// Prints all of it.
pub(crate) fn run() -> Result<(), Failure> {
    references()?;
    for (size, label) in [(32 << 10, "32 KiB"), (1 << 20, "1 MiB"), (1 << 30, "1 GiB")] {
        writes(size, label)?;
    }
    among_many()
}

//! Nothing allocates after start: a client, a memory node and the wire between them, through all
//! operations, under an allocator that counts.

use dmrpc_host as _;

mod pair;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use dmrpc_core::endpoint::host::SessionId;
use dmrpc_core::store::Config;
use dmrpc_core::wire::memory_op::{MemoryError, RefOperand, Step, put, take};
use dmrpc_core::wire::message::Method;
use dmrpc_core::wire::reference::Rights;
use pair::{FIRST, MADE, Pair, Refused, named};

thread_local! {
    /// Allocations of this thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system allocator's work; only a number of this thread's is counted,
// which needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Every operation, at several sizes, and some that are refused.
fn all_operations(pair: &mut Pair, session: SessionId) {
    for bytes in [1, 100, 4096, 5_000, 300_000] {
        let length = bytes as u64;
        let region = pair.alloc(session, length);
        pair.fill(session, region, 0, 7, bytes);
        assert!(pair.read(session, region, 0, bytes).iter().all(|byte| *byte == 7));
        let reference = pair.create_ref(session, region, length);
        let copy = pair.map_ref(session, reference);
        pair.fill(session, copy, 0, 8, bytes);
        assert!(pair.read(session, region, 0, bytes).iter().all(|byte| *byte == 7));

        let rights = Rights::MAP;
        let narrow = [Step::Narrow { reference: FIRST, offset: 0, length: 1, rights }];
        let slice = pair.must(session, &narrow, &[reference]).refs[0].expect("a reference");
        let read = [Step::ReadRef { reference: FIRST, offset: 0, length: 1 }];
        assert_eq!(pair.must(session, &read, &[slice]).bytes, 1);
        pair.must(session, &[Step::Detach { reference: FIRST }], &[reference]);
        let claim = [Step::ClaimRef { reference: FIRST }];
        let claimed = pair.must(session, &claim, &[reference]).refs[0].expect("a reference");
        let refused = pair.run(session, &read, &[reference], 0);
        assert_eq!(refused, Err(Refused::Memory(MemoryError::Consumed)));
        pair.must(session, &[Step::DropRef { reference: FIRST }], &[claimed]);

        let put = pair.run(session, &put(length, Rights::all()), &[], bytes).expect("room");
        let put = put.refs[0].expect("a reference");
        assert_eq!(pair.must(session, &take(length), &[put]).bytes, bytes);
        let compound = [
            Step::Alloc { length },
            Step::CreateRef { region: MADE, offset: 0, length, rights },
            Step::DropRef { reference: RefOperand::MadeBy(1) },
            Step::Free { region: MADE },
        ];
        pair.must(session, &compound, &[]);
        for offset in [length, u64::MAX] {
            let steps = [Step::Write { region: named(region), offset }];
            assert!(pair.run(session, &steps, &[], bytes).is_err());
        }
        pair.free(session, copy);
        pair.free(session, region);
    }
    for page in 0..5u16 {
        pair.call_raw(session, Method::STATISTICS, &page.to_le_bytes(), &[], 0).expect("a page");
    }
    let other = pair.connect();
    pair.alloc(other, 10_000);
}

#[test]
fn nothing_allocates_after_start() {
    let mut pair = Pair::new(Config::for_pool_bytes(8 << 20));
    let session = pair.connect();
    let before = allocations();
    all_operations(&mut pair, session);
    let after = allocations();
    let calls = pair.client.counters().calls_completed;
    assert_eq!(after - before, 0, "allocations in {calls} calls");
    assert!(calls > 90, "{calls} calls");
    // The count counts.
    drop(Box::new([1; 100].map(std::hint::black_box)));
    assert_eq!(allocations() - after, 1);
}

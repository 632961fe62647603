//! What a random sequence is made of.

use dmrpc_core::store::PAGE_BYTES;
use proptest::prelude::*;

/// One thing to do; the numbers choose among what there is at that moment.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Join,
    Leave(usize),
    Alloc { holder: usize, len: u64 },
    Free(usize),
    Write { region: usize, offset: u64, len: u64, seed: u8 },
    Read { region: usize, offset: u64, len: u64 },
    Create { region: usize, offset: u64, len: u64 },
    Map { holder: usize, entry: usize, offset: u64, len: u64, writable: bool },
    Claim { holder: usize, entry: usize },
    Detach(usize),
    Drop(usize),
    Foreign { holder: usize, region: usize, entry: usize },
    Pin { region: usize, offset: u64, len: u64 },
    PinRef { entry: usize, offset: u64, len: u64 },
    Unpin(usize),
    StageBegin { region: usize, offset: u64, len: u64, seed: u8 },
    StageWrite { stage: usize, pieces: u64 },
    StageEnd { stage: usize, commit: bool },
    Reclaim { budget: u32, time: u64 },
}

/// Any operation.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let n = 0usize..64;
    let len = prop_oneof![
        4 => 1..3 * PAGE_BYTES,
        2 => 1..20 * PAGE_BYTES,
        1 => 60 * PAGE_BYTES..100 * PAGE_BYTES,
        1 => Just(PAGE_BYTES)
    ];
    let off = prop_oneof![any::<u64>(), (0u64..100).prop_map(|page| page * PAGE_BYTES)];
    prop_oneof![
        1 => Just(Op::Join),
        1 => n.clone().prop_map(Op::Leave),
        5 => (n.clone(), len.clone()).prop_map(|(holder, len)| Op::Alloc { holder, len }),
        4 => n.clone().prop_map(Op::Free),
        20 => (n.clone(), off.clone(), len.clone(), any::<u8>())
            .prop_map(|(region, offset, len, seed)| Op::Write { region, offset, len, seed }),
        6 => (n.clone(), off.clone(), len.clone())
            .prop_map(|(region, offset, len)| Op::Read { region, offset, len }),
        8 => (n.clone(), off.clone(), len.clone())
            .prop_map(|(region, offset, len)| Op::Create { region, offset, len }),
        8 => (n.clone(), n.clone(), off.clone(), len.clone(), prop::bool::weighted(0.9)).prop_map(
            |(holder, entry, offset, len, writable)| {
                Op::Map { holder, entry, offset, len, writable }
            }
        ),
        3 => (n.clone(), n.clone()).prop_map(|(holder, entry)| Op::Claim { holder, entry }),
        1 => n.clone().prop_map(Op::Detach),
        5 => n.clone().prop_map(Op::Drop),
        2 => (n.clone(), n.clone(), n.clone())
            .prop_map(|(holder, region, entry)| Op::Foreign { holder, region, entry }),
        2 => (n.clone(), off.clone(), len.clone())
            .prop_map(|(region, offset, len)| Op::Pin { region, offset, len }),
        2 => (n.clone(), off.clone(), len.clone())
            .prop_map(|(entry, offset, len)| Op::PinRef { entry, offset, len }),
        4 => n.clone().prop_map(Op::Unpin),
        3 => (n.clone(), off, len, any::<u8>())
            .prop_map(|(region, offset, len, seed)| Op::StageBegin { region, offset, len, seed }),
        4 => (n.clone(), 1u64..20).prop_map(|(stage, pieces)| Op::StageWrite { stage, pieces }),
        4 => (n, prop::bool::weighted(0.8))
            .prop_map(|(stage, commit)| Op::StageEnd { stage, commit }),
        10 => (0u32..12, 0u64..300).prop_map(|(budget, time)| Op::Reclaim { budget, time }),
    ]
}

/// Operations that make chains and fans of versions of a few pages, and take them apart again
/// while reclamation is in the middle of something.
pub(crate) fn family_op() -> impl Strategy<Value = Op> {
    let n = 0usize..64;
    let page = (0u64..6).prop_map(|page| page * PAGE_BYTES);
    let whole = 6 * PAGE_BYTES;
    prop_oneof![
        1 => n.clone().prop_map(move |holder| Op::Alloc { holder, len: whole }),
        12 => (n.clone(), page.clone(), 1u64..100, any::<u8>())
            .prop_map(|(region, offset, len, seed)| Op::Write { region, offset, len, seed }),
        6 => n.clone().prop_map(move |region| Op::Create { region, offset: 0, len: whole }),
        7 => (n.clone(), n.clone()).prop_map(move |(holder, entry)| Op::Map {
            holder,
            entry,
            offset: 0,
            len: whole,
            writable: true
        }),
        5 => n.clone().prop_map(Op::Drop),
        4 => n.clone().prop_map(Op::Free),
        1 => n.clone().prop_map(move |region| Op::Pin { region, offset: 0, len: whole }),
        1 => n.prop_map(Op::Unpin),
        6 => (0u32..3).prop_map(|budget| Op::Reclaim { budget, time: 0 }),
    ]
}

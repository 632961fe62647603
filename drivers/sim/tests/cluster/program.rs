//! What compute nodes do: random programs of memory operations and calls.

use std::rc::Rc;

use dmrpc_core::time::Duration;
use dmrpc_core::wire::memory_op::{RegionOperand, Step};
use dmrpc_core::wire::reference::Rights;

use crate::client::{End, FIRST, MADE, Region, Request};
use crate::compute::Cn;
use crate::model::{EndKind, Reference};
use crate::serve::Mode;

/// Regions and references that one program keeps at most.
const KEEP_MAX: usize = 3;
/// References that everybody may use, at most.
const BOARD_MAX: usize = 12;

/// Random bytes.
pub(crate) fn any_bytes(cn: &Cn, length: usize) -> Rc<[u8]> {
    let mut random = cn.random.borrow_mut();
    let mut bytes = vec![0; length];
    for chunk in bytes.chunks_mut(8) {
        let word = random.draw().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    bytes.into()
}

/// A length in bytes: mostly pages, sometimes many packets.
fn any_length(cn: &Cn) -> usize {
    1 + match cn.below(100) {
        0..15 => cn.below(700),
        15..70 => cn.below(4 * 4096),
        70..96 => cn.below(64 << 10),
        _ => cn.below(256 << 10),
    }
}

/// A range within `length` bytes: any, whole pages, or all.
fn any_range(cn: &Cn, length: usize) -> (usize, usize) {
    let (mut offset, short) = (cn.below(length), cn.below(3) != 0);
    if cn.below(3) == 0 {
        offset &= !4095;
    }
    let rest = length - offset;
    match cn.below(10) {
        0 => (0, length),
        1..3 => (offset, 4096.min(rest)),
        _ => (offset, 1 + cn.below(if short { rest.min(5_000) } else { rest })),
    }
}

fn any_rights(cn: &Cn) -> Rights {
    // Whoever owns a reference can always end it, or tests could not clean up.
    let dropped = [Rights::empty(), Rights::CONSUME, Rights::NARROW, Rights::MAP][cn.below(4)];
    if cn.below(4) == 0 { Rights::all() - dropped } else { Rights::all() }
}

/// What a program has at hand.
pub(crate) struct Hands {
    pub(crate) cn: Cn,
    pub(crate) regions: Vec<Region>,
    /// References that the program owns.
    pub(crate) owned: Vec<Reference>,
}

/// Makes random operations, then gives all back.
pub(crate) async fn run(cn: Cn, operations: u32) {
    let mut hands = Hands { cn, regions: Vec::new(), owned: Vec::new() };
    for _ in 0..operations {
        hands.operation().await;
    }
    for region in std::mem::take(&mut hands.regions) {
        hands.cn.free(region).await;
    }
    for reference in std::mem::take(&mut hands.owned) {
        hands.cn.drop_ref(&reference).await;
    }
}

impl Hands {
    async fn operation(&mut self) {
        let cn = self.cn.clone();
        cn.oracle.borrow_mut().operations += 1;
        self.forget_lost().await;
        if !self.regions.is_empty() {
            cn.may_die("holding regions").await;
        }
        if !self.owned.is_empty() {
            cn.may_die("holding references").await;
        }
        match cn.below(100) {
            0..8 => self.alloc().await,
            8..26 => self.write().await,
            26..36 => self.read().await,
            36..46 => self.create_ref().await,
            46..54 => self.map_ref().await,
            54..60 => self.read_ref().await,
            60..64 => self.narrow().await,
            64..68 => self.hand_over().await,
            68..73 => self.put().await,
            73..78 => self.end_one().await,
            78..82 => self.compound().await,
            82..90 => self.call().await,
            90..98 => crate::bad::operation(self).await,
            _ => cn.sleep(Duration::from_micros(cn.below(2_000) as u64)).await,
        }
    }

    /// Forgets the regions of sessions that are over. Before that, tries whether one is of use in
    /// the session that came after.
    async fn forget_lost(&mut self) {
        let cn = self.cn.clone();
        let mut at = 0;
        while at < self.regions.len() {
            let region = &self.regions[at];
            if cn.session_with(region.node) == Some(region.session) {
                at += 1;
            } else {
                let lost = self.regions.swap_remove(at);
                crate::bad::lost_region(&cn, &lost).await;
            }
        }
    }

    fn any_node(&self) -> usize {
        self.cn.below(self.cn.memory_nodes)
    }

    fn any_region(&self) -> Option<usize> {
        (!self.regions.is_empty()).then(|| self.cn.below(self.regions.len()))
    }

    /// One of this program's references, or one that is everybody's.
    pub(crate) fn any_reference(&self) -> Option<Reference> {
        let board = self.cn.oracle.borrow().board.len();
        if board > 0 && (self.owned.is_empty() || self.cn.below(3) == 0) {
            let at = self.cn.below(board);
            return Some(self.cn.oracle.borrow().board[at].clone());
        }
        (!self.owned.is_empty()).then(|| self.owned[self.cn.below(self.owned.len())].clone())
    }

    /// One that may be mapped.
    fn any_mappable(&self) -> Option<Reference> {
        self.any_reference().filter(|reference| reference.wire.rights.contains(Rights::MAP))
    }

    async fn alloc(&mut self) {
        if self.regions.len() < KEEP_MAX {
            let length = any_length(&self.cn);
            let region = self.cn.alloc(self.any_node(), length).await;
            self.regions.extend(region);
        }
    }

    /// Some writes, each of which must come after the one before, and a read after them all.
    async fn write(&mut self) {
        let Some(at) = self.any_region() else { return self.alloc().await };
        let cn = self.cn.clone();
        let region = &mut self.regions[at];
        let mut calls = Vec::new();
        let mut after = None;
        for _ in 0..1 + cn.below(3) {
            let (offset, length) = any_range(&cn, region.content.len());
            let bytes = any_bytes(&cn, length);
            let call = cn.start_write(region, offset, bytes.clone(), after);
            if length > cn.long_bytes {
                cn.may_die_in(call.token(), "in a long write").await;
            }
            after = Some(call.token());
            calls.push((call, offset, bytes));
        }
        let (offset, length) = any_range(&cn, region.content.len());
        let read = (cn.below(2) == 0).then(|| cn.start_read(region, offset, length, after));
        for (call, offset, bytes) in calls {
            let end = call.end().await;
            cn.written(region, offset, &bytes, &end);
        }
        if let Some(read) = read {
            let end = read.end().await;
            cn.check_read(&region.content, offset, length, &end);
        }
    }

    /// A read, and a write right after it that the read must not see.
    async fn read(&mut self) {
        let Some(at) = self.any_region() else { return };
        let cn = self.cn.clone();
        let region = &mut self.regions[at];
        let (offset, length) = any_range(&cn, region.content.len());
        let read = cn.start_read(region, offset, length, None);
        let over = (cn.below(2) == 0).then(|| {
            let bytes = any_bytes(&cn, length);
            (cn.start_write(region, offset, bytes.clone(), Some(read.token())), bytes)
        });
        let end = read.end().await;
        // A read of which nothing is known may leave the order to chance.
        cn.check_read(&region.content, offset, length, &end);
        if let Some((call, bytes)) = over {
            let end = call.end().await;
            cn.written(region, offset, &bytes, &end);
        }
    }

    async fn create_ref(&mut self) {
        let Some(at) = self.any_region() else { return self.alloc().await };
        if self.owned.len() >= KEEP_MAX {
            return self.end_one().await;
        }
        let region = &self.regions[at];
        let (offset, length) = any_range(&self.cn, region.content.len());
        let rights = any_rights(&self.cn);
        let made = self.cn.create_ref(region, offset, length, rights).await;
        self.owned.extend(made);
    }

    async fn map_ref(&mut self) {
        if self.regions.len() >= KEEP_MAX {
            let at = self.cn.below(self.regions.len());
            return self.cn.free(self.regions.swap_remove(at)).await;
        }
        if let Some(reference) = self.any_mappable() {
            let region = self.cn.map_ref(&reference).await;
            self.regions.extend(region);
        }
    }

    async fn read_ref(&mut self) {
        if let Some(reference) = self.any_mappable() {
            let (offset, length) = any_range(&self.cn, reference.content.len());
            self.cn.read_ref(&reference, offset, length).await;
        }
    }

    /// A slice of a reference, and perhaps a slice of that.
    async fn narrow(&mut self) {
        let Some(mut reference) = self.any_mappable() else { return };
        for _ in 0..1 + self.cn.below(2) {
            if !reference.wire.rights.contains(Rights::NARROW) {
                break;
            }
            let (offset, length) = any_range(&self.cn, reference.content.len());
            let rights = reference.wire.rights - any_rights(&self.cn).complement();
            match self.cn.narrow(&reference, offset, length, rights).await {
                Some(slice) => reference = slice,
                None => return,
            }
        }
        if reference.wire.rights.contains(Rights::MAP) {
            let (offset, length) = any_range(&self.cn, reference.content.len());
            self.cn.read_ref(&reference, offset, length).await;
        }
    }

    /// Tells everybody of a reference, or gives it to whoever claims it first, or claims one.
    async fn hand_over(&mut self) {
        let cn = self.cn.clone();
        if let Some(reference) = self.claimable() {
            let claimed = cn.claim_ref(&reference).await;
            self.owned.extend(claimed);
            return;
        }
        let Some(reference) = self.owned.pop() else { return };
        // Whoever finds it must be able to end it.
        let claimable = reference.wire.rights.contains(Rights::CONSUME | Rights::DROP);
        if claimable && cn.below(2) == 0 && !cn.detach(&reference).await {
            return self.owned.push(reference);
        }
        let mut oracle = cn.oracle.borrow_mut();
        oracle.board.push(reference);
        if oracle.board.len() > BOARD_MAX {
            oracle.board.remove(0);
        }
    }

    /// One of everybody's references that nobody owns, or with luck one that somebody does.
    fn claimable(&self) -> Option<Reference> {
        if self.owned.len() >= KEEP_MAX || self.cn.below(2) == 0 {
            return None;
        }
        let reference = self.any_reference()?;
        let oracle = self.cn.oracle.borrow();
        let free = oracle.entries[&reference.key()].owner.is_none();
        let may = reference.wire.rights.contains(Rights::CONSUME | Rights::DROP);
        (may && free).then_some(reference)
    }

    async fn put(&mut self) {
        if self.owned.len() >= KEEP_MAX {
            return self.end_one().await;
        }
        let bytes = any_bytes(&self.cn, any_length(&self.cn));
        let made = self.cn.put(self.any_node(), bytes, any_rights(&self.cn)).await;
        self.owned.extend(made);
    }

    /// Ends one of the program's references, one way or another.
    async fn end_one(&mut self) {
        let Some(reference) = self.owned.pop() else { return };
        let takes = reference.wire.rights.contains(Rights::MAP | Rights::CONSUME);
        match self.cn.below(3) {
            0 if takes => self.cn.take(&reference).await,
            1 if takes => drop(self.cn.call_peer(&reference, Mode::Consume).await),
            _ => self.cn.drop_ref(&reference).await,
        }
    }

    /// Several steps in one request.
    async fn compound(&mut self) {
        let cn = self.cn.clone();
        match cn.below(3) {
            0 => alloc_write_read(&cn, self.any_node()).await,
            1 => {
                if let Some(reference) = self.any_mappable() {
                    let made = map_write_create_free(&cn, &reference).await;
                    self.owned.extend(made);
                }
            }
            _ => self.claim_and_map().await,
        }
    }

    /// Ownership moves with the first use.
    async fn claim_and_map(&mut self) {
        let Some(reference) = self.owned.pop() else { return };
        if !reference.wire.rights.contains(Rights::MAP | Rights::CONSUME) {
            return self.owned.push(reference);
        }
        self.cn.count("claim and map");
        let region = RegionOperand::MadeBy(1);
        let length = reference.content.len();
        let made = dmrpc_core::wire::memory_op::RefOperand::MadeBy(0);
        let steps = [
            Step::ClaimRef { reference: FIRST },
            Step::MapRef { reference: made },
            Step::Read { region, offset: 0, length: length as u64 },
            Step::Free { region },
        ];
        let ended = self.cn.end_ref(&reference, EndKind::Consumed, &steps, length).await;
        if let Some(results) = ended {
            reference.content.check(0, &results.body, "what was claimed and mapped");
            let content = reference.content.clone();
            self.owned.push(self.cn.own(reference.node, &results, content));
        }
    }

    /// A call to another compute node.
    async fn call(&mut self) {
        let Some(reference) = self.any_mappable() else { return };
        let mode = if self.cn.below(3) == 0 { Mode::Inspect } else { Mode::Transform };
        let Some(answer) = self.cn.call_peer(&reference, mode).await else { return };
        self.cn.read_ref(&answer, 0, answer.content.len()).await;
        if self.cn.below(2) == 0 && self.owned.len() < KEEP_MAX {
            let claimed = self.cn.claim_ref(&answer).await;
            self.owned.extend(claimed);
        }
    }
}

async fn alloc_write_read(cn: &Cn, node: usize) {
    cn.count("alloc, write, read, free");
    let length = any_length(cn).min(20_000);
    let bytes = any_bytes(cn, 1 + cn.below(length));
    let steps = [
        Step::Alloc { length: length as u64 },
        Step::Write { region: MADE, offset: 0 },
        Step::Read { region: MADE, offset: 0, length: length as u64 },
        Step::Free { region: MADE },
    ];
    let request = Request { body: bytes.clone(), room: length, ..Request::new(node, &steps) };
    if let End::Done(results) = cn.memory(request).end().await {
        assert_eq!(results.body.len(), length);
        assert_eq!(results.body[..bytes.len()], bytes[..]);
        assert!(results.body[bytes.len()..].iter().all(|byte| *byte == 0), "never written");
    }
}

/// A changed copy of what a reference stands for, in one round trip.
async fn map_write_create_free(cn: &Cn, reference: &Reference) -> Option<Reference> {
    cn.count("map, write, create_ref, free");
    let length = reference.content.len();
    let (offset, bytes) = any_range(cn, length);
    let bytes = any_bytes(cn, bytes);
    let rights = Rights::all();
    let steps = [
        Step::MapRef { reference: FIRST },
        Step::Write { region: MADE, offset: offset as u64 },
        Step::CreateRef { region: MADE, offset: 0, length: length as u64, rights },
        Step::Free { region: MADE },
    ];
    let refs = [reference.wire];
    let request =
        Request { refs: &refs, body: bytes.clone(), ..Request::new(reference.node, &steps) };
    let key = reference.key();
    let call = cn.memory(request);
    let issued = call.issued;
    match call.end().await {
        End::Done(results) => {
            assert!(cn.oracle.borrow().may_work(key, issued), "{key:?} had ended");
            let mut content = (*reference.content).clone();
            content.write(offset, &bytes);
            Some(cn.own(reference.node, &results, Rc::new(content)))
        }
        End::Refused(error, _) => {
            cn.check_refusal(key, error, None);
            None
        }
        End::Not | End::Unknown => None,
    }
}

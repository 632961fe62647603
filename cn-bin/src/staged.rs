//! `read_ref`, `put` and `take` that were begun, where the memory node owns all counts but this
//! process maps the pool: their bytes go through it, in as many stages as there are messages.
//!
//! The first message makes a region of this operation's own and tells where its pages are, the
//! bytes are moved, and one message ends it. Each poll takes those a step further whose message was
//! answered; many are under way at a time. What the memory node refuses is left to the plain
//! message, which is refused in the right words.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::{CallError, Source};
use dmrpc_core::pen::{PLACES_MAX, Question, Unknown};
use dmrpc_core::store::PAGE_BYTES;
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::{ArgEntry, Arguments, Method, Status};
use dmrpc_core::wire::reference::Ref;

use crate::call::{CallOptions, Finished, Outgoing, Spec, call_spec};
use crate::call_here::ended_here;
use crate::error::Error;
use crate::local::POOL_ADDRESS;
use crate::memory::{Making, Region, Request};
use crate::node::Node;
use crate::peers::Peer;
use crate::pending::{Begin, Interest, Place, Reply, Ticket};
use crate::pens::{ANSWER_BYTES, region_of};
use crate::statistics::Operation;

/// What an operation is.
#[derive(Clone, Copy)]
enum What {
    ReadRef(Ref),
    Put,
    Take(Ref),
}

/// What an operation does next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It makes its region.
    Make,
    /// It moves its bytes, as far as it knows where.
    Move,
    /// It asks where the next ones are.
    Ask(Unknown),
    /// It makes a reference of its region, or ends that which it took.
    Last,
    /// It lets go of its region.
    LetGo,
    /// It is done by the plain message.
    Plain,
}

/// An operation between its stages.
#[derive(Clone, Copy)]
pub(crate) struct Staged {
    what: What,
    stage: Stage,
    /// What its caller knows it by.
    ticket: Ticket,
    /// The message of this stage, once it has begun.
    message: Option<Ticket>,
    peer: Peer,
    options: CallOptions,
    end: Instant,
    offset: u64,
    length: u64,
    /// Bytes that have been moved.
    moved: u64,
    region: Option<Region>,
    /// The buffer that the bytes go to or come from.
    bytes: u16,
    /// Whether that is this operation's to give back: what is put, until a message has it.
    owns_bytes: bool,
    /// The buffer of answers, while none is awaited.
    answers: Option<u16>,
}

impl Staged {
    /// The operation as one message.
    fn plain(&self) -> Request {
        match &self.what {
            What::ReadRef(reference) => {
                Request::read_ref(self.peer, reference, self.offset, self.length as usize)
            }
            What::Put => Request::put(self.peer, self.length as usize),
            What::Take(reference) => Request::take(self.peer, reference),
        }
    }

    /// Whether the first message ends the reference, too.
    fn is_short(&self) -> bool {
        self.length <= Making::TOLD_BYTES
    }

    fn making(&self) -> Making {
        match &self.what {
            What::Put => Making::alloc(self.peer, self.length),
            What::Take(reference) if self.is_short() => Making::take(self.peer, reference),
            What::Take(reference) | What::ReadRef(reference) => {
                Making::map(self.peer, reference, (self.offset, self.length))
            }
        }
    }

    /// What follows when all bytes have been moved.
    fn after_bytes(&self) -> Stage {
        match self.what {
            What::Put => Stage::Last,
            What::Take(_) if !self.is_short() => Stage::Last,
            What::Take(_) | What::ReadRef(_) => Stage::LetGo,
        }
    }

    /// The next bytes of it to be moved: as many as one answer tells the places of.
    fn next_part(&self) -> std::ops::Range<usize> {
        let most = PLACES_MAX as u64 * PAGE_BYTES;
        self.moved as usize..(self.moved + most).min(self.length) as usize
    }
}

/// How an operation goes on.
#[allow(clippy::large_enum_variant, reason = "moved once an operation; boxing would allocate")]
enum Progress {
    /// At once.
    Further,
    /// When a message was answered, or there is room for it.
    Later,
    /// It has ended.
    Ended(Result<Reply, Error>),
}

impl<D: Device> Node<D> {
    /// Begins an operation whose bytes go through the pool; `None` to leave it to a message.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin_staged(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        (place, room): (Place, u32),
        interest: Interest,
    ) -> Option<Result<Ticket, Error>> {
        let what = match (spec.operation, spec.arguments, place) {
            (Operation::ReadRef, [ArgEntry::Ref(reference)], Place::Buffer(_)) => {
                What::ReadRef(*reference)
            }
            (Operation::Take, [ArgEntry::Ref(reference)], Place::Buffer(_)) => {
                What::Take(*reference)
            }
            (Operation::Put, [], Place::Nowhere) => What::Put,
            _ => return None,
        };
        let Spec { peer, method, operation, offset, length, options, .. } = *spec;
        let is_whole = matches!(what, What::Put) || length == u64::from(room);
        if length == 0 || !is_whole || !self.has_pens(peer) {
            return None;
        }
        let mut state = self.state.borrow_mut();
        let answers = state.pool.reserve(ANSWER_BYTES)?;
        let bytes = match (place, outgoing.source) {
            (Place::Buffer(index), _) => Some(index),
            (_, Some((source, _))) => Some(source.0 as u16),
            _ => state.pool.reserve(outgoing.inline.len()),
        };
        let Some(bytes) = bytes else {
            state.release_buffer(answers);
            return None;
        };
        if outgoing.source.is_none() {
            state.pool.bytes(bytes)[..outgoing.inline.len()].copy_from_slice(outgoing.inline);
        }
        let bytes_out = if matches!(what, What::Put) { length } else { 0 };
        let begin = Begin {
            peer,
            method,
            operation,
            interest,
            region: None,
            place,
            room,
            offset,
            length,
            bytes_out,
        };
        let limit = state.pending.count();
        let Some(ticket) = state.pending.begin(begin) else {
            state.release_buffer(answers);
            state.release_buffer(bytes);
            return Some(Err(Error::NoCall { limit }));
        };
        drop(state);
        let end = self.now_of_burst() + options.deadline.unwrap_or(self.config.deadline);
        let mut staged = Staged {
            what,
            stage: Stage::Make,
            ticket,
            message: None,
            peer,
            options: *options,
            end,
            offset,
            length,
            moved: 0,
            region: None,
            bytes,
            owns_bytes: matches!(what, What::Put),
            answers: Some(answers),
        };
        match self.begin_message(&mut staged) {
            Ok(()) => {
                if let Some(pens) = self.pens.borrow_mut().as_mut() {
                    pens.staged.push(staged);
                }
                self.chores.set(true);
                Some(Ok(ticket))
            }
            Err(error) => {
                let mut state = self.state.borrow_mut();
                state.pending.free(ticket);
                state.release_buffer(answers);
                state.release_buffer(bytes);
                Some(Err(error))
            }
        }
    }

    /// Takes all operations as far as they can go now. Returns whether any are left.
    pub(crate) fn go_on_staged(&self) -> bool {
        let take = || self.pens.borrow_mut().as_mut().map(|pens| std::mem::take(&mut pens.staged));
        let Some(mut staged) = take() else { return false };
        staged.retain_mut(|one| {
            loop {
                match self.go_on(one) {
                    Progress::Further => {}
                    Progress::Later => return true,
                    Progress::Ended(result) => {
                        self.end_staged(one, result);
                        return false;
                    }
                }
            }
        });
        let is_left = !staged.is_empty();
        if let Some(pens) = self.pens.borrow_mut().as_mut() {
            pens.staged = staged;
        }
        is_left
    }

    fn go_on(&self, staged: &mut Staged) -> Progress {
        if let Some(message) = staged.message {
            let Some(answer) = self.finish(message) else { return Progress::Later };
            staged.message = None;
            return match answer {
                Ok(finished) => self.take_in(staged, finished),
                Err(error) => Progress::Ended(Err(error)),
            };
        }
        if self.is_given_up(staged.ticket) && staged.stage != Stage::LetGo {
            // Nobody would have the name of what it makes.
            staged.stage = Stage::LetGo;
        }
        match staged.stage {
            Stage::Move => self.move_bytes(staged),
            Stage::LetGo => match staged.region {
                Some(region) if !self.memory(region.peer).begin_free(region) => Progress::Later,
                _ => {
                    let bytes = staged.length as usize;
                    Progress::Ended(Ok(Reply::of(Status::OK, &Arguments::NONE, bytes)))
                }
            },
            _ => match self.begin_message(staged) {
                Ok(()) => Progress::Later,
                Err(error) if error.is_room() && self.now() < staged.end => Progress::Later,
                Err(error) => Progress::Ended(Err(error)),
            },
        }
    }

    fn is_given_up(&self, ticket: Ticket) -> bool {
        let mut state = self.state.borrow_mut();
        state.pending.get(ticket).is_none_or(|entry| entry.interest == Interest::Abandoned)
    }

    /// Begins the message of the present stage.
    fn begin_message(&self, staged: &mut Staged) -> Result<(), Error> {
        let left = staged.end.since(self.now());
        let options = CallOptions { deadline: Some(left), ..staged.options };
        let nothing = Outgoing { inline: &[], source: None };
        let answers = |staged: &Staged| match staged.answers {
            Some(index) => (Place::Buffer(index), ANSWER_BYTES as u32),
            None => (Place::Nowhere, 0),
        };
        let begun = match (staged.stage, staged.region) {
            (Stage::Make, _) => {
                let making = staged.making();
                self.begin(&making.spec(&options), nothing, answers(staged), Interest::Asking)
            }
            (Stage::Ask(Unknown { offset, length }), Some(region)) => {
                let with_pen = matches!(staged.what, What::Put);
                let question = Question { region: region.name.0, offset, length, with_pen };
                let call = call_spec(region.peer, Method::PLACES, &[], &options);
                let spec = Spec { parameters: &question.to_bytes(), ..call };
                self.begin(&spec, nothing, answers(staged), Interest::Asking)
            }
            (Stage::Last, Some(region)) => {
                let request = match &staged.what {
                    What::Take(reference) => Request::end_mapped(reference, region),
                    What::ReadRef(_) | What::Put => Request::refer_and_free(region),
                };
                let spec = request.spec(&options);
                // It is counted as a whole.
                let spec = Spec { operation: Operation::Call, ..spec };
                self.begin(&spec, nothing, (Place::Nowhere, 0), Interest::Asking)
            }
            _ => return self.begin_plain(staged, &options),
        };
        staged.message = Some(begun?);
        if !matches!(staged.stage, Stage::Last) {
            // It is with the message.
            staged.answers = None;
        }
        Ok(())
    }

    /// Begins the operation as one message.
    fn begin_plain(&self, staged: &mut Staged, options: &CallOptions) -> Result<(), Error> {
        let request = staged.plain();
        let spec = Spec { operation: Operation::Call, ..request.spec(options) };
        let nothing = Outgoing { inline: &[], source: None };
        let index = staged.bytes;
        if matches!(staged.what, What::Put) {
            let source = Some((Source(index.into()), staged.length as u32));
            let outgoing = Outgoing { source, ..nothing };
            let begun = self.begin(&spec, outgoing, (Place::Nowhere, 0), Interest::Asking);
            staged.message = Some(begun?);
            staged.owns_bytes = false;
            return Ok(());
        }
        let room = staged.length as u32;
        let begun = self.begin(&spec, nothing, (Place::Buffer(index), room), Interest::Asking);
        staged.message = Some(begun?);
        // The buffer is with the message.
        self.set_place(staged.ticket, Place::Nowhere);
        Ok(())
    }

    fn set_place(&self, ticket: Ticket, place: Place) {
        if let Some(entry) = self.state.borrow_mut().pending.get(ticket) {
            entry.place = place;
        }
    }

    /// Takes in the answer of the present stage.
    fn take_in(&self, staged: &mut Staged, finished: Finished<'_>) -> Progress {
        let Finished { peer, reply, buffer, .. } = finished;
        match staged.stage {
            Stage::Make => {
                let range = (staged.offset, staged.making().length);
                let body = buffer.as_deref().unwrap_or(&[]);
                staged.region = self.learn_made(peer, range, &reply, body);
                staged.stage = if staged.region.is_some() { Stage::Move } else { Stage::Plain };
            }
            Stage::Ask(Unknown { offset, .. }) => {
                let region = staged.region.filter(|_| reply.status == Status::OK);
                let Some(Region { peer, name, .. }) = region else {
                    return self.start_over(staged);
                };
                let body = buffer.as_deref().unwrap_or(&[]);
                self.learn(region_of(peer, name), offset, &reply, body);
                staged.stage = Stage::Move;
            }
            Stage::Plain => {
                if let Some(buffer) = buffer {
                    let index = buffer.lend(&mut self.state.borrow_mut().pool).index;
                    self.set_place(staged.ticket, Place::Buffer(index));
                }
                return Progress::Ended(Ok(reply.clone()));
            }
            Stage::Last | Stage::Move | Stage::LetGo => {
                if reply.status != Status::OK {
                    // What it made is its session's, which frees it at its end at the latest.
                    if let Some(region) = staged.region {
                        self.memory(region.peer).begin_free(region);
                    }
                    return Progress::Ended(Ok(reply.clone()));
                }
                let mut whole = reply.clone();
                if matches!(staged.what, What::Take(_)) {
                    whole.body_bytes = staged.length as usize;
                }
                return Progress::Ended(Ok(whole));
            }
        }
        if let Some(buffer) = buffer {
            staged.answers = Some(buffer.lend(&mut self.state.borrow_mut().pool).index);
        }
        Progress::Further
    }

    /// Moves bytes for as long as it is known where their pages are.
    fn move_bytes(&self, staged: &mut Staged) -> Progress {
        let is_there = |region: &Region| self.state.borrow().peers.is_up(region.peer, POOL_ADDRESS);
        let Some(region) = staged.region.filter(is_there) else { return self.start_over(staged) };
        let of = region_of(region.peer, region.name);
        while staged.moved < staged.length {
            let part = staged.next_part();
            let offset = staged.offset + staged.moved;
            let (mut state, mut pens) = (self.state.borrow_mut(), self.pens.borrow_mut());
            let Some(pens) = pens.as_mut() else { return self.start_over(staged) };
            let bytes = &mut state.pool.bytes(staged.bytes)[part.clone()];
            let moved = match staged.what {
                What::Put => pens.pens.write(of, offset, bytes),
                What::ReadRef(_) | What::Take(_) => pens.pens.read(of, offset, bytes),
            };
            if let Err(unknown) = moved {
                staged.stage = Stage::Ask(unknown);
                return Progress::Further;
            }
            staged.moved += part.len() as u64;
        }
        staged.stage = staged.after_bytes();
        Progress::Further
    }

    /// The region is gone with its session: without it nothing has happened, unless the reference
    /// is gone, too.
    fn start_over(&self, staged: &mut Staged) -> Progress {
        if matches!(staged.what, What::Take(_)) && staged.is_short() {
            return Progress::Ended(Err(Error::StalePeer));
        }
        (staged.region, staged.stage) = (None, Stage::Plain);
        Progress::Further
    }

    /// Tells the caller what came of it, and gives back what it took.
    fn end_staged(&self, staged: &mut Staged, result: Result<Reply, Error>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if let Some(index) = staged.answers.take() {
            state.release_buffer(index);
        }
        if staged.owns_bytes {
            state.release_buffer(staged.bytes);
        }
        let Some(entry) = state.pending.get(staged.ticket) else { return };
        let (interest, operation) = (entry.interest, entry.operation);
        entry.address = Some(POOL_ADDRESS);
        let result = result.map_err(|error| match error {
            Error::Call { error, .. } => error,
            error if error.is_room() => CallError::Busy,
            _ => CallError::OutcomeUnknown,
        });
        let bytes_out = if matches!(staged.what, What::Put) { staged.length } else { 0 };
        ended_here(state, operation, staged.ticket, interest, result, bytes_out);
        match interest {
            Interest::Task(task) => state.wake(staged.ticket, task),
            Interest::Listed | Interest::Asking | Interest::Abandoned => {}
        }
        state.wake_waiting();
    }
}

//! Calls as programs ask for them, and how they end.

use std::rc::Rc;

use dmrpc_core::endpoint::host::{CallError, SessionId};
use dmrpc_core::time::Duration;
use dmrpc_core::wire::message::{ArgEntry, Method, Status};
use dmrpc_core::wire::reference::Ref;

/// A call that a program wants to make.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) to: usize,
    pub(crate) method: Method,
    pub(crate) args: Vec<ArgEntry>,
    pub(crate) parameters: Vec<u8>,
    pub(crate) body: Rc<[u8]>,
    pub(crate) room: u32,
    pub(crate) deadline: Option<Duration>,
    pub(crate) cancel_after: Option<Duration>,
    /// The token of the call to be executed before.
    pub(crate) after: Option<u64>,
    pub(crate) depth: u8,
    /// The session that it must be made in; if that is over, so is the call.
    pub(crate) session: Option<SessionId>,
}

impl Wanted {
    pub(crate) fn new(to: usize, method: Method) -> Self {
        Self {
            to,
            method,
            args: Vec::new(),
            parameters: Vec::new(),
            body: Rc::new([]),
            room: 0,
            deadline: None,
            cancel_after: None,
            after: None,
            depth: 0,
            session: None,
        }
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Finish {
    Answered { status: Status, refs: Vec<Ref>, parameters: Vec<u8>, body: Vec<u8> },
    Failed(CallError),
}

//! What the endpoint asks of a compute node.

use dmrpc_core::endpoint::host::{
    Admission, Body, Closed, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent,
    SessionId, Side, Sink, Source,
};
use dmrpc_core::time::{Duration, Instant};

use super::{Compute, Finish, Place, Started};
use crate::serve;

impl Compute {
    pub(crate) fn admit(&mut self, _: &RequestHead<'_>, body_bytes: u32) -> Admission {
        let mut state = self.cn.state.borrow_mut();
        state.next += 1;
        let place = Place { bytes: Vec::new(), room: body_bytes as usize, got: 0 };
        let number = state.next;
        state.places.insert(number, place);
        Admission::Accept(Sink(number))
    }

    pub(crate) fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        let mut state = self.cn.state.borrow_mut();
        let place = state.places.get_mut(&sink.0).expect("a sink of this node");
        place.bytes.resize(place.room, 0xEE);
        place.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        place.got += bytes.len();
    }

    pub(crate) fn abandon(&mut self, sink: Sink) {
        let place = self.cn.state.borrow_mut().places.remove(&sink.0);
        assert!(place.is_some(), "abandoned once");
    }

    pub(crate) fn request(
        &mut self,
        _: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        _: &mut Reply<'_>,
    ) -> Outcome {
        let body = match body {
            Body::Whole(bytes) => bytes.to_vec(),
            Body::Absorbed { sink, bytes } => {
                let place = self.cn.state.borrow_mut().places.remove(&sink.0);
                let place = place.expect("a sink of this node");
                assert_eq!((place.got, place.bytes.len()), (bytes as usize, bytes as usize));
                place.bytes
            }
        };
        let refs = head.arguments.refs().collect();
        let parameters = head.arguments.parameters().to_vec();
        let program = serve::serve(self.cn.clone(), head.call, head.depth, refs, parameters, body);
        self.cn.spawn(program);
        Outcome::Later
    }

    pub(crate) fn cancelled(&mut self, _: PendingCall) {
        // The program goes on and answers.
    }

    pub(crate) fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        let state = self.cn.state.borrow();
        out.copy_from_slice(&state.sources[&source.0][offset as usize..][..out.len()]);
    }

    pub(crate) fn release(&mut self, source: Source) {
        let source = self.cn.state.borrow_mut().sources.remove(&source.0);
        assert!(source.is_some(), "released once");
    }

    pub(crate) fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        let mut state = self.cn.state.borrow_mut();
        let Started { call, sink, at } =
            state.started.remove(&completion.token).expect("completed once");
        assert_eq!(call, completion.call);
        if let Some((calm, within)) = self.cn.answers_within.get() {
            let took = now.since(at.max(calm));
            assert!(took <= within, "{call:?} took {took:?} without faults, not {within:?}");
        }
        let place = sink.map(|sink| state.places.remove(&sink).expect("a sink of this node"));
        let finish = match completion.result {
            Ok(response) => Finish::Answered {
                status: response.status,
                refs: response.arguments.refs().collect(),
                parameters: response.arguments.parameters().to_vec(),
                body: match response.body {
                    Body::Whole(bytes) => bytes.to_vec(),
                    Body::Absorbed { bytes, .. } => {
                        let mut place = place.expect("a long answer went to the sink");
                        assert_eq!(place.got, bytes as usize, "each byte came once");
                        place.bytes.truncate(bytes as usize);
                        place.bytes
                    }
                },
            },
            Err(error) => Finish::Failed(error),
        };
        state.finished.insert(completion.token, finish);
        state.awake = true;
    }

    pub(crate) fn session(
        &mut self,
        now: Instant,
        side: Side,
        session: SessionId,
        event: SessionEvent,
    ) {
        if side != Side::Client {
            return;
        }
        let mut state = self.cn.state.borrow_mut();
        let hogged = state.hogged.iter().position(|hogged| *hogged == session);
        let why = match event {
            SessionEvent::Connected { incarnation } => {
                state.incarnations.insert(session, incarnation);
                return;
            }
            SessionEvent::Closed(why) => why,
            SessionEvent::Suspected => {
                let to = state.sessions.iter().find(|(_, open)| **open == session);
                if let Some((to, _)) = to {
                    self.cn.oracle.borrow_mut().gave_up(self.cn.index, *to);
                }
                return;
            }
            _ => return,
        };
        if let Some(at) = hogged {
            state.hogged.swap_remove(at);
            if why == Closed::NoSessions {
                self.cn.count("exhausted sessions");
            }
            return;
        }
        let to = state.sessions.iter().find(|(_, open)| **open == session).map(|(to, _)| *to);
        let Some(to) = to else { return };
        // A memory node that is alive does not lose a client that is, on a network that is not
        // silent for long.
        assert!(
            to >= self.cn.memory_nodes || why == Closed::Unreachable || self.cn.harsh,
            "node {} lost memory node {to}: {why:?}",
            self.cn.index
        );
        state.sessions.remove(&to);
        state.connect_at = state.connect_at.min(now + Duration::from_millis(5));
        if to < self.cn.memory_nodes && why != Closed::Unreachable && why != Closed::NoSessions {
            let mut oracle = self.cn.oracle.borrow_mut();
            oracle.session_is_gone(to, self.cn.index, session);
            if why == Closed::LeaseExpired {
                oracle.gave_up(self.cn.index, to);
                if oracle.paused.contains(&to) {
                    oracle.count("memory node paused past a lease");
                }
            }
        }
    }
}

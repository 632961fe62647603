//! What the endpoint asks of a node, and what it promises in doing so.

use super::*;

impl Host for Peer {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        let Some(work) = self.work(head) else { return Admission::Reject(Status::MALFORMED) };
        if self.places.values().filter(|place| !place.of_call).count() >= self.places_max {
            return Admission::Busy;
        }
        Admission::Accept(self.place(work.id, body_bytes, false))
    }

    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        let place = self.places.get_mut(&sink.0).expect("a sink of this host");
        if !self.lenient {
            check(place.seed, offset, bytes);
        }
        for seen in &mut place.seen[offset as usize..][..bytes.len()] {
            assert!(!*seen, "each byte comes once");
            *seen = true;
        }
        place.left -= bytes.len() as u32;
    }

    fn abandon(&mut self, sink: Sink) {
        self.places.remove(&sink.0).expect("a sink of this host, abandoned once");
    }

    fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let work = self.work(head);
        if self.lenient
            && let Body::Absorbed { sink, .. } = body
        {
            self.places.remove(&sink.0).expect("a sink of this host");
        }
        let Some(work) = work else { return Outcome::Replied };
        match body {
            _ if self.lenient => {}
            Body::Whole(bytes) => check(work.id, 0, bytes),
            Body::Absorbed { sink, bytes } => self.whole(sink, bytes),
        }
        if self.random.happens(self.busy) {
            return Outcome::Busy;
        }
        if !self.lenient {
            self.oracle.borrow_mut().executed(&work);
        }
        self.executed.push(work.id);
        let forwarded = work.route[0] != 0;
        if !forwarded && work.delay_us == 0 {
            self.answer(Status::OK, &work, reply);
            return Outcome::Replied;
        }
        let nested = forwarded.then(|| self.pass_on(head.call, &work, head.depth));
        let due = if forwarded {
            Instant::FAR_FUTURE
        } else {
            now + Duration::from_micros(work.delay_us.into())
        };
        let accepted = Accepted { work, due, nested, stopped: false, told: false };
        let before = self.accepted.insert(Self::key(head.call), (head.call, accepted));
        assert!(before.is_none(), "a request is accepted once");
        Outcome::Later
    }

    fn cancelled(&mut self, call: PendingCall) {
        let Some((_, accepted)) = self.accepted.get_mut(&Self::key(call)) else { return };
        assert!(!accepted.told, "told once");
        accepted.told = true;
        accepted.stopped = true;
        accepted.due = Instant::ZERO;
        if let Some(id) = accepted.nested {
            self.cancels.push((Instant::ZERO, id));
        }
    }

    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        let (seed, bytes) = self.sources[&source.0];
        assert!(offset as usize + out.len() <= bytes as usize, "within the source");
        fill(seed, offset, out);
    }

    fn release(&mut self, source: Source) {
        self.sources.remove(&source.0).expect("a source of this host, released once");
    }

    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        let made = self.made.remove(&completion.token).expect("a call of this host, ended once");
        assert_eq!(made.call, completion.call);
        let work = made.plan.work;
        let end = match completion.result {
            Ok(response) if self.lenient => End::Answered(response.status),
            Ok(response) => {
                let status = response.status;
                let bytes = match response.body {
                    Body::Whole(bytes) => {
                        check(work.answer_seed(), 0, bytes);
                        bytes.len() as u32
                    }
                    Body::Absorbed { sink, bytes } => {
                        assert_eq!(Some(sink), made.sink);
                        self.whole(sink, bytes);
                        bytes
                    }
                };
                if status == Status::OK {
                    assert_eq!(bytes, work.answer_bytes);
                    assert_eq!(response.arguments.parameters(), work.id.to_le_bytes());
                }
                End::Answered(status)
            }
            Err(error) => End::Failed(error),
        };
        if let Some(sink) = made.sink {
            self.places.remove(&sink.0);
        }
        if !self.lenient {
            self.oracle.borrow_mut().ended(work.id, end);
        }
        self.freed = true;
        if let Some(call) = made.plan.made_for
            && let Some((_, accepted)) = self.accepted.get_mut(&Self::key(call))
        {
            accepted.stopped |= end != End::Answered(Status::OK);
            accepted.due = now;
        }
    }

    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        self.events.push((now, side, event));
        self.freed = true;
        if side == Side::Server {
            return;
        }
        if let SessionEvent::Closed(why) = event {
            self.sessions.retain(|_, open| *open != session);
            if self.reconnect {
                let wait = if why == Closed::NoSessions { 20 } else { 1 };
                self.connect_at = self.connect_at.min(now + Duration::from_millis(wait));
            }
        }
    }
}

//! Heads of answers that a node lends to whoever finishes a call.
//!
//! A head has room for all results that a message can have, so it is large; it is moved by its
//! box, and boxes are used again.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;

use crate::pending::Reply;
use crate::state::State;

/// Boxes for heads. Nothing is allocated while no more are out than calls can be outstanding.
#[allow(clippy::vec_box, reason = "it is the boxes that are lent")]
pub(crate) struct Replies(Vec<Box<Reply>>);

impl Replies {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Box::new(Reply::EMPTY)).collect())
    }

    #[inline]
    pub(crate) fn take(&mut self) -> Box<Reply> {
        self.0.pop().unwrap_or_else(another)
    }

    #[inline]
    pub(crate) fn put(&mut self, reply: Box<Reply>) {
        if self.0.len() < self.0.capacity() {
            self.0.push(reply);
        }
    }
}

/// For callers that keep more finished calls than can be outstanding.
#[cold]
fn another() -> Box<Reply> {
    Box::new(Reply::EMPTY)
}

/// The head of an answer, lent by its node, which has it back when this is dropped. Dereferences
/// to the [`Reply`]; cloned from there, it can be kept.
pub struct LentReply<'n> {
    /// Here until dropped.
    reply: Option<Box<Reply>>,
    /// Whom it goes back to.
    home: Option<&'n RefCell<State>>,
}

impl<'n> LentReply<'n> {
    #[inline]
    pub(crate) fn new(reply: Box<Reply>, home: Option<&'n RefCell<State>>) -> Self {
        Self { reply: Some(reply), home }
    }
}

impl Deref for LentReply<'_> {
    type Target = Reply;

    #[inline]
    fn deref(&self) -> &Reply {
        self.reply.as_deref().expect("here until dropped")
    }
}

impl Drop for LentReply<'_> {
    #[inline]
    fn drop(&mut self) {
        if let (Some(reply), Some(home)) = (self.reply.take(), self.home) {
            home.borrow_mut().replies.put(reply);
        }
    }
}

impl fmt::Debug for LentReply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Reply::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_used_again_and_no_more_are_kept_than_there_were() {
        let mut replies = Replies::new(2);
        let (first, second, third) = (replies.take(), replies.take(), replies.take());
        let address: *const Reply = &*second;
        replies.put(first);
        replies.put(second);
        replies.put(third);
        assert_eq!(replies.0.len(), replies.0.capacity());
        assert!(std::ptr::eq(&*replies.take(), address));
    }
}

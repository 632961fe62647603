//! What lock-free code of this crate is made of: the standard library's. Models of that code
//! compile it with another module of this name (`tests/models/tests/threads`).

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

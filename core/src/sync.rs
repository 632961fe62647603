//! What threads share, so that models can have it from elsewhere.

pub(crate) use core::sync::atomic::{AtomicU64, Ordering};

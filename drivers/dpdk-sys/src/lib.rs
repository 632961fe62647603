//! The parts of the system's libdpdk that DmRPC's driver calls.
//!
//! Bindings are made by the build script from the headers that `pkg-config` finds; DPDK 22.11 and
//! its fixes are accepted. What DPDK only has as static inline functions is in `shim.c`, shaped
//! for bursts, so that a burst costs one call across the language border.
//!
//! Without the feature `system` the crate is empty.
#![allow(missing_docs, reason = "the names and contracts are DPDK's, documented there")]

#[cfg(feature = "system")]
#[allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "made by bindgen"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(feature = "system")]
pub use bindings::*;

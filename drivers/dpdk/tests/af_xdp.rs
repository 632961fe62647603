//! The suite that every driver passes, over `net_af_xdp` on veths, which shares packet buffers with
//! the kernel and has them on huge pages only. They are reserved here and given back.
#![cfg(feature = "dpdk")]

mod common;
#[path = "common/namespace.rs"]
mod namespace;

use namespace::Kind;

mod af_xdp {
    use super::*;
    conformance_in_namespace!(Kind::AfXdp);
}

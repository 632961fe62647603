//! See `dmrpc_fuzz::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmrpc_fuzz::wire::run(data));

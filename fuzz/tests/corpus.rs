//! Runs the committed corpus, and a little noise, through every target.

use std::fs;
use std::path::Path;

/// Runs a target on every file of its corpus.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("a file").path();
        eprintln!("{}", path.display());
        run(&fs::read(path).expect("an input"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
    // What no corpus foresees: the numbers of Knuth's generator (MMIX).
    let mut state = 1u64;
    for length in 0..400 {
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..length).map(|_| draw()).collect();
        run(&noise);
    }
}

#[test]
fn wire() {
    replay("wire", dmrpc_fuzz::wire::run);
}

#[test]
fn server() {
    replay("server", dmrpc_fuzz::server::run);
}

#[test]
fn client() {
    replay("client", dmrpc_fuzz::client::run);
}

#[test]
fn store() {
    replay("store", dmrpc_fuzz::store::run);
}

#[test]
fn port() {
    replay("port", dmrpc_fuzz::port::run);
}

#[test]
fn pool() {
    replay("pool", dmrpc_fuzz::pool::run);
}

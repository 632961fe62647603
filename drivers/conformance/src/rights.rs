//! Tests that need rights which not everybody has.

use std::fmt::Display;

/// Set where all tests are expected to have the rights that they need: skipping fails then.
const NO_SKIPPING: &str = "DMRPC_TEST_ROOT";

/// Whether `what` could be had, as `result` says. If not, says so: the test is to return, and
/// passes.
///
/// # Panics
/// If it could not be had, and `DMRPC_TEST_ROOT` says that this process has the rights.
pub fn may<T>(result: Result<T, impl Display>, what: &str) -> bool {
    let Err(error) = result else { return true };
    assert!(std::env::var_os(NO_SKIPPING).is_none(), "{NO_SKIPPING} is set, but {what}: {error}");
    eprintln!("skipped: {what} need root ({error})");
    false
}

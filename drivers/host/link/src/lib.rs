//! Links a Linux binary so that what it logs through defmt can be decoded.
//!
//! A binary crate that logs has `dmrpc-link` among its build dependencies and this build script:
//!
//! ```text
//! fn main() {
//!     dmrpc_link::logging_binary();
//! }
//! ```
//!
//! defmt stores each log text as the *name* of a symbol, and logs the symbol's address, 16 bits
//! wide. For that to work, the symbols have to lie in one section that starts near 0 and is not
//! loaded, and addresses have to be final when the binary is linked, which they are not in a
//! position-independent one.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::path::PathBuf;

/// Adds the section to the linker's own script; `INSERT` right after `SECTIONS` says "adds".
/// Texts are in order of their level with a mark at each change, as defmt expects.
const SCRIPT: &str = "\
SECTIONS
{
  .defmt 1 (INFO) :
  {
    . = 1;
    *(.defmt.prim.*);
    __DEFMT_MARKER_TRACE_START = .;
    *(.defmt.trace.*);
    __DEFMT_MARKER_TRACE_END = .;
    __DEFMT_MARKER_DEBUG_START = .;
    *(.defmt.debug.*);
    __DEFMT_MARKER_DEBUG_END = .;
    __DEFMT_MARKER_INFO_START = .;
    *(.defmt.info.*);
    __DEFMT_MARKER_INFO_END = .;
    __DEFMT_MARKER_WARN_START = .;
    *(.defmt.warn.*);
    __DEFMT_MARKER_WARN_END = .;
    __DEFMT_MARKER_ERROR_START = .;
    *(.defmt.error.*);
    __DEFMT_MARKER_ERROR_END = .;
    *(.defmt.*);
    __DEFMT_MARKER_END = .;
    KEEP(*(.defmt.end .defmt.end.*));
  }
}
INSERT AFTER .comment;
PROVIDE(_defmt_timestamp = __defmt_default_timestamp);
PROVIDE(_defmt_panic = __defmt_default_panic);
ASSERT(__DEFMT_MARKER_END < 65534, \"more than 65534 log texts in one binary\");
";

/// Tells cargo how to link the binaries, tests and examples of the calling build script's crate.
///
/// # Panics
/// If it is not called by a build script, or cannot write where cargo said.
pub fn logging_binary() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it for build scripts"));
    let script = out.join("dmrpc-defmt.x");
    fs::write(&script, SCRIPT).expect("cargo's output directory is writable");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-no-pie");
    println!("cargo::rustc-link-arg=-Wl,-T,{}", script.display());
}

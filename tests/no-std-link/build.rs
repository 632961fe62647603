//! Links without start files and without any library.

fn main() {
    for argument in ["-nostartfiles", "-nostdlib", "-nodefaultlibs", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

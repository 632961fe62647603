//! Links the binary for deferred logging.

fn main() {
    dmrpc_link::logging_binary();
}

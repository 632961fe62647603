//! Links the binary for logging.

fn main() {
    dmrpc_link::logging_binary();
}

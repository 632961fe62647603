//! Calls.

use dmrpc_apps::client::{Client, ECHO};
use dmrpc_apps::error::AppError;
use dmrpc_apps::pattern;
use dmrpc_cn::{Arg, Peer, Status};

use crate::checks::Checks;

/// Sizes of arguments: none, a part of a packet, several packets, the longest message.
const SIZES: [usize; 5] = [0, 1, 4096, 100_000, 8 << 20];

pub(crate) fn run(
    checks: &mut Checks<'_, '_>,
    client: &Client,
    echo: Peer,
) -> Result<(), AppError> {
    checks.heading("calls of an echo")?;
    for bytes in SIZES {
        let mut request = vec![0; bytes];
        pattern::fill(bytes as u64, &mut request);
        let mut answer = vec![0; bytes];
        let what = format!("{bytes} bytes there and back");
        checks.works("rpc", &what, bytes, || {
            let reply = client.call(echo, ECHO, &[Arg::Inline(&request)], &mut answer)?;
            if reply.status == Status::OK && reply.body_bytes == bytes && answer == request {
                return Ok(());
            }
            let at = pattern::first_difference(bytes as u64, &answer).unwrap_or(0);
            Err(AppError::WrongBytes { op: "rpc", bytes, at })
        })?;
    }
    let (first, second) = (b"two arguments".as_slice(), b"in one call".as_slice());
    let mut answer = [0; 64];
    checks.works("rpc", "two arguments keep their lengths", 24, || {
        let args = [Arg::Inline(first), Arg::Inline(second)];
        let reply = client.call(echo, ECHO, &args, &mut answer)?;
        let joined = [first, second].concat();
        if reply.results().len() == 2 && answer[..reply.body_bytes] == joined {
            return Ok(());
        }
        Err(AppError::WrongBytes { op: "rpc", bytes: joined.len(), at: 0 })
    })
}

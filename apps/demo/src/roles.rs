//! The two services: one that only passes requests on, one that works on the bytes.

use std::net::SocketAddrV4;

use dmrpc_choice::{AnyDevice, DriverArgs};
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Arg, Context, IncomingCall, Method, Peer, Status};
use dmrpc_host::metered::Metered;
use dmrpc_host::signals::{Signals, die_with_parent};

use crate::error::Error;
use crate::file::{band, invert};
use crate::network::open_node;
use crate::traffic::{Hop, MeteredNode};

/// Work on the file: a reference to it, or a [`Part`] and its bytes. The result is a reference, or
/// the part's bytes.
pub(crate) const PROCESS: Method = Method(1);
/// Tell what was exchanged with the service or memory behind this one.
pub(crate) const TRAFFIC: Method = Method(2);

/// Which part of a file travels by value.
pub(crate) struct Part {
    /// Where it begins in the file, in bytes.
    pub(crate) start: u64,
    /// Length of the whole file.
    pub(crate) file_bytes: u64,
}

impl Part {
    pub(crate) fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..].copy_from_slice(&self.file_bytes.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (start, file_bytes) = bytes.split_first_chunk()?;
        let (start, file_bytes) = (*start, file_bytes.try_into().ok()?);
        Some(Self { start: u64::from_le_bytes(start), file_bytes: u64::from_le_bytes(file_bytes) })
    }

    /// Inverts what of the file's band is in the part's bytes.
    fn invert(&self, bytes: &mut [u8]) {
        let band = band(self.file_bytes);
        let within = |at: u64| at.saturating_sub(self.start).min(bytes.len() as u64) as usize;
        let (start, end) = (within(band.start), within(band.end));
        invert(&mut bytes[start..end]);
    }
}

type Device = Metered<AnyDevice>;

/// Tells the producer where this node is.
fn announce(node: &MeteredNode) {
    dmrpc_host::cli::announce(format_args!("ready {}", node.local_addr()));
}

/// The forwarder: calls `next` with whatever it is called with.
pub(crate) fn forward(
    driver: &DriverArgs,
    bind: SocketAddrV4,
    next: Option<SocketAddrV4>,
) -> Result<(), Error> {
    let next = next.ok_or(Error::MissingAddress("--next"))?;
    let signals = start_child()?;
    let node = open_node(driver, bind)?;
    let peer = node.connect(next)?;
    announce(&node);
    let service = node.serve(|context: Context<'_, Device>, call: IncomingCall<'_, Device>| {
        async move {
            let answered = match call.method() {
                TRAFFIC => report(context, call, next),
                _ => pass_on(context, call, peer).await,
            };
            // An answer that cannot be given is given for us, as a failure.
            let _ = answered;
        }
    });
    service.run(|| signals.stop_requested());
    Ok(())
}

/// Calls the next service with the arguments as they came, and answers as it does.
async fn pass_on<'n>(
    context: Context<'n, Device>,
    call: IncomingCall<'n, Device>,
    peer: Peer,
) -> Result<(), dmrpc_cn::Error> {
    let node = context.node();
    let args: Vec<_> = call.args().collect();
    let room = call.body().len().max(64);
    let mut reply = node.buffer(room)?;
    reply.set_len(room);
    let answer = context.call(peer, call.method(), &args, &mut reply).await?;
    drop(args);
    let refs: Vec<_> = answer.refs().collect();
    if refs.is_empty() {
        reply.set_len(answer.body_bytes);
        return call.reply_buffer(answer.status, reply, &[]);
    }
    let results: Vec<_> = refs.into_iter().map(Arg::Ref).collect();
    call.reply(answer.status, &results)
}

/// The transformer: inverts a band of what it is called with.
pub(crate) fn transform(
    driver: &DriverArgs,
    bind: SocketAddrV4,
    memory_node: Option<SocketAddrV4>,
) -> Result<(), Error> {
    let memory_node = memory_node.ok_or(Error::MissingAddress("--memory-node"))?;
    let signals = start_child()?;
    let node = open_node(driver, bind)?;
    let peer = node.connect(memory_node)?;
    announce(&node);
    let service =
        node.serve(|context: Context<'_, Device>, call: IncomingCall<'_, Device>| async move {
            let answered = match call.method() {
                TRAFFIC => report(context, call, memory_node),
                _ => work(context, call, peer).await,
            };
            if let Err(error) = answered {
                dmrpc_host::cli::complain("transformer", error);
            }
        });
    service.run(|| signals.stop_requested());
    Ok(())
}

/// Inverts the band of the argument: in place, on a copy-on-write mapping, if it is a reference.
async fn work<'n>(
    context: Context<'n, Device>,
    call: IncomingCall<'n, Device>,
    memory_node: Peer,
) -> Result<(), dmrpc_cn::Error> {
    let node = context.node();
    let reference = match (call.arg(0), call.arg(1)) {
        (Some(Arg::Ref(reference)), _) => reference,
        (Some(Arg::Inline(part)), Some(Arg::Inline(bytes))) => {
            let Some(part) = Part::from_bytes(part) else {
                return call.reply(Status::MALFORMED, &[]);
            };
            let mut result = node.buffer(bytes.len())?;
            result.fill_from(bytes);
            part.invert(&mut result);
            return call.reply_buffer(Status::OK, result, &[]);
        }
        _ => return call.reply(Status::MALFORMED, &[]),
    };
    let memory = context.memory(memory_node);
    // What fails here, or is given up by the caller, leaves nothing behind.
    let changed = async {
        let region = memory.own(memory.map_ref(&reference).await?);
        let band = band(region.length);
        // One buffer's worth at a time: files may be larger than any buffer.
        const CHUNK_BYTES: u64 = 64 << 10;
        let mut bytes = [0; CHUNK_BYTES as usize];
        for start in band.clone().step_by(CHUNK_BYTES as usize) {
            let chunk = &mut bytes[..(band.end - start).min(CHUNK_BYTES) as usize];
            memory.read(*region, start, chunk).await?;
            invert(chunk);
            memory.write(*region, start, chunk).await?;
        }
        let result = memory.create_ref(*region, 0, region.length, ALL_RIGHTS).await?;
        Ok::<_, dmrpc_cn::OperationError>(memory.own_ref(result))
    };
    match changed.await {
        Ok(result) => {
            call.reply(Status::OK, &[Arg::Ref(*result)])?;
            // The caller takes it.
            let _taken = result.keep();
            Ok(())
        }
        Err(error) => {
            dmrpc_host::cli::complain("transformer", error);
            call.reply(Status::NESTED_FAILED, &[])
        }
    }
}

/// Answers what was exchanged with `peer` so far.
fn report<'n>(
    context: Context<'n, Device>,
    call: IncomingCall<'n, Device>,
    peer: SocketAddrV4,
) -> Result<(), dmrpc_cn::Error> {
    let hop = Hop::of(context.node(), peer).to_bytes();
    call.reply(Status::OK, &[Arg::Inline(&hop)])
}

/// A child ends with its parent, and when it is told to.
fn start_child() -> Result<Signals, Error> {
    // Without it the parent still stops its children; only a kill -9 of it would not.
    let _ = die_with_parent();
    Ok(Signals::install()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::expected;

    #[test]
    fn parts_together_are_the_whole() {
        for bytes in [1, 4095, 4096, 40_000, 100_001] {
            let original: Vec<u8> = (0..bytes).map(|at| (at % 253) as u8).collect();
            for part_bytes in [1, 4096, 10_000, 1 << 20] {
                let mut whole = original.clone();
                for (number, bytes) in whole.chunks_mut(part_bytes).enumerate() {
                    let start = (number * part_bytes) as u64;
                    let part = Part { start, file_bytes: original.len() as u64 };
                    Part::from_bytes(&part.to_bytes()).expect("16 bytes").invert(bytes);
                }
                assert_eq!(whole, expected(&original), "{bytes} in parts of {part_bytes}");
            }
        }
    }
}

//! `serve`: the echo and forward service.

use std::net::SocketAddrV4;

use dmrpc_choice::AnyDevice;
use dmrpc_cn::{
    Arg, BufferClass, ClusterDirectory, Context, IncomingCall, Instant, Node, NodeConfig, SyncCall,
};
use dmrpc_core::wire::message::DEPTH_MAX;
use dmrpc_host::events;
use dmrpc_host::log::{self, LogConfig};
use dmrpc_host::signals::Signals;

use super::error::CliError;
use super::options::{Options, Serve};
use super::report::Reporter;
use super::{Place, node_config};

/// Longest body of a message, in bytes.
const LARGE_BYTES: usize = dmrpc_cn::memory::MESSAGE_BODY_BYTES_MAX;

/// Serves until told to stop.
pub(crate) fn run(options: &Options, serve: &Serve, place: &Place) -> Result<(), CliError> {
    let max = LARGE_BYTES as u64;
    if !(1..=max).contains(&serve.answer_size.0) {
        return Err(CliError::AnswerSize { given: serve.answer_size.0, max });
    }
    // With fewer, services that forward to each other could wait for each other's slots.
    let min = DEPTH_MAX.into();
    if serve.forward_to.is_some() && serve.slots < min {
        return Err(CliError::FewSlots { given: serve.slots, min });
    }
    let config = NodeConfig {
        server_sessions: serve.sessions,
        sessions_per_address: serve.sessions_per_address.map(|most| most as usize),
        slots: serve.slots,
        tasks: 256,
        buffers: [
            BufferClass { count: 256, bytes: 16 << 10 },
            BufferClass { count: 64, bytes: 256 << 10 },
            BufferClass { count: 8, bytes: LARGE_BYTES },
        ],
        ..node_config(options, place)?
    };
    let signals = Signals::install()?;
    let node = super::open(options, place, &config)?;
    if let Some(cluster) = &place.cluster {
        node.set_directory(ClusterDirectory::new(cluster));
    }
    let ring = events::free_ring();
    events::dump_on_panic();
    node.remember(ring);
    let log = log::start(LogConfig { process: "cn".to_owned(), ..LogConfig::default() })?;
    log::attach_thread();
    let reporter =
        Reporter::start(options.json, place.core, node.now(), ring).map_err(CliError::Thread)?;
    // Threads inherit their parent's core, so only now.
    place.pin()?;
    let room = serve.answer_size.as_usize();
    defmt::info!("serving on port {=u16}", node.local_addr().port());
    dmrpc_host::cli::announce(format_args!("ready {}", node.local_addr()));
    let mut watch = Watch::new(&node, serve, reporter);
    let stop = || {
        watch.look(&node, signals);
        signals.stop_requested()
    };
    match serve.forward_to {
        None => node.serve_sync(echo).run(stop),
        Some(address) => {
            node.serve(|context, call| pass_on(context, call, address, room)).run(stop);
        }
    }
    drop(log);
    Ok(())
}

/// Answers a request by itself.
fn echo(call: SyncCall<'_, '_>) {
    if let Err(error) = call.echo() {
        defmt::warn!("no echo: {}", defmt::Display2Format(&error));
    }
}

/// Answers a request by what the service at `address` answers.
async fn pass_on(
    context: Context<'_, AnyDevice>,
    call: IncomingCall<'_, AnyDevice>,
    address: SocketAddrV4,
    room: usize,
) {
    // Dropped without a reply, the request is answered with `NESTED_FAILED`.
    if let Err(Failed) = forward(&context, call, address, room).await {
        defmt::warn!("not forwarded to port {=u16}", address.port());
    }
}

/// Said and counted where it happened.
struct Failed;

async fn forward(
    context: &Context<'_, AnyDevice>,
    call: IncomingCall<'_, AnyDevice>,
    address: SocketAddrV4,
    room: usize,
) -> Result<(), Failed> {
    let peer = context.peer(address).await.map_err(|error| {
        defmt::warn!("{}", defmt::Display2Format(&error));
        Failed
    })?;
    let said = |error: dmrpc_cn::Error| {
        defmt::warn!("{}", defmt::Display2Format(&error));
        Failed
    };
    let args: heapless::Vec<Arg<'_>, 8> = call.args().collect();
    let method = call.method();
    let answered = context.node().call_buffered(peer, method, &args, room, context.options()).await;
    drop(args);
    let (reply, buffer) = answered.map_err(said)?;
    call.pass_back(&reply, buffer).map_err(said)
}

/// What the poll loop looks after beside serving.
struct Watch {
    reporter: Reporter,
    interval: Option<dmrpc_cn::Duration>,
    next_report: Instant,
    slow_steps: u64,
}

impl Watch {
    fn new(node: &Node<AnyDevice>, serve: &Serve, reporter: Reporter) -> Self {
        let interval = serve.report.map(|span| span.0);
        let next_report = interval.map_or(Instant::FAR_FUTURE, |span| node.now() + span);
        Self { reporter, interval, next_report, slow_steps: 0 }
    }

    fn look(&mut self, node: &Node<AnyDevice>, signals: Signals) {
        if signals.take_dump_request() {
            self.reporter.publish(node.now(), node.statistics(), true);
        }
        if let Some(interval) = self.interval {
            let now = node.now();
            if now >= self.next_report {
                self.next_report = now + interval;
                self.reporter.publish(now, node.statistics(), false);
            }
        }
        let slow_steps = node.slow_steps();
        if slow_steps != self.slow_steps {
            self.slow_steps = slow_steps;
            defmt::warn!("a handler held the loop for more than 1 ms: {=u64} so far", slow_steps);
        }
    }
}

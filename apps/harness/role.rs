//! What a program does when it is itself started as a child: the other end of a measurement.

use std::io::Write;
use std::net::SocketAddrV4;

use clap::ValueEnum;
use dmrpc_choice::{AnyDevice, Driver};
use dmrpc_cn::{BufferClass, Node, NodeConfig};
use dmrpc_host::affinity::pin_to_core;
use dmrpc_host::key;
use dmrpc_host::raw::{self, socket::RawSocket};
use dmrpc_host::signals::Signals;

use crate::args::Args;
use crate::client::slots;
use crate::error::AppError;
use crate::train;

/// The other end of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A compute node that answers each call with its arguments.
    Echo,
    /// Answers over a socket with `sendto` and `recvfrom`.
    RawSocket,
    /// Answers over the device.
    RawDevice,
    /// Answers trains over the device.
    RawTrain,
}

impl Role {
    /// Plays the role until the process is asked to stop.
    ///
    /// # Errors
    /// The address cannot be bound, or the core is not there.
    pub fn play(self, args: &Args) -> Result<(), AppError> {
        let signals = Signals::install()?;
        let stop = || signals.stop_requested();
        match self {
            Self::Echo => echo(args, stop)?,
            Self::RawSocket => {
                pin(args)?;
                let bind = args.bind;
                let os = |source| AppError::Bind { address: bind, source };
                let mut socket = RawSocket::bind(bind).map_err(os)?;
                ready(socket.local_addr().map_err(os)?)?;
                socket.respond(stop);
            }
            Self::RawDevice => {
                let mut device = open_device(args)?;
                pin(args)?;
                ready(device.local_addr())?;
                raw::respond(&mut device, stop);
            }
            Self::RawTrain => {
                let mut device = open_device(args)?;
                pin(args)?;
                ready(device.local_addr())?;
                train::respond(&mut device, stop);
            }
        }
        Ok(())
    }
}

/// Pins this thread as the command line says. After the device was opened, whose own threads would
/// inherit the core.
fn pin(args: &Args) -> Result<(), AppError> {
    match args.cores.as_ref().and_then(|list| list.cores().first()) {
        Some(core) => Ok(pin_to_core(*core)?),
        None => Ok(()),
    }
}

/// Buffers of the echo, of each length: as many long calls as it takes in at a time.
const ECHO_BUFFERS: [BufferClass; 3] = [
    BufferClass { count: 128, bytes: 64 << 10 },
    BufferClass { count: 64, bytes: 1 << 20 },
    BufferClass { count: 32, bytes: 8 << 20 },
];

/// Serves as a compute node.
fn echo(args: &Args, stop: impl FnMut() -> bool) -> Result<(), AppError> {
    let usual = NodeConfig::at(args.bind);
    let config = NodeConfig {
        datagram_bytes: args.datagram_bytes(),
        server_sessions: args.sessions.unwrap_or(usual.server_sessions),
        sessions_per_address: args.sessions,
        slots: slots(args),
        tasks: 128,
        buffers: ECHO_BUFFERS,
        idle: args.idle,
        payload_check: !args.no_payload_check,
        key: key::load(args.key_file.as_deref())?,
        congestion: args.congestion,
        encrypt: args.encrypt,
        ..usual
    };
    let device = open_device(args)?;
    let local = device.local_addr();
    pin(args)?;
    let node = Node::new(device, local, &config)?;
    let service = node.serve_sync(|call| {
        // What cannot be answered answers for itself: the caller sees a failure.
        let _ = call.echo();
    });
    ready(node.local_addr())?;
    service.run(stop);
    Ok(())
}

/// Opens a device as the programs' nodes do, at `--bind`.
///
/// # Errors
/// The address cannot be bound.
pub fn open_device(args: &Args) -> Result<AnyDevice, AppError> {
    let driver = Driver::start(&args.driver, args.datagram_bytes(), 1)?;
    Ok(driver.device(0, args.bind)?)
}

/// Tells the parent where this child is.
fn ready(address: SocketAddrV4) -> Result<(), AppError> {
    let mut out = std::io::stdout();
    writeln!(out, "ready {address}").and_then(|()| out.flush()).map_err(AppError::Output)
}

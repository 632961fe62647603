//! What stands beside a row: the bare device with datagrams like those of one of its writes.

use dmrpc_apps::block::{Block, Tally};
use dmrpc_apps::error::AppError;
use dmrpc_apps::frames::Exchange;
use dmrpc_apps::interleave::Compare;
use dmrpc_apps::raw::Raw;
use dmrpc_apps::servers::Server;
use dmrpc_host::clock::Clock;

/// How the bare device is measured, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    /// The datagrams of a write and its answer, one exchange at a time.
    Rtt(Exchange),
    /// The same, many at a time: a datagram each.
    Echo(Exchange, usize),
    /// Full datagrams one way, where a write of `bytes` bytes takes several and many are under way.
    Oneway { bytes: usize, datagram: usize },
}

impl Bare {
    /// Beside writes of `bytes` bytes, `concurrency` at a time.
    pub(crate) fn of(bytes: usize, concurrency: usize, datagram_bytes_max: usize) -> Self {
        let exchange = Exchange::memory(bytes, 0);
        let (request, answer) = exchange.frames(datagram_bytes_max);
        match concurrency {
            1 => Self::Rtt(exchange),
            _ if (request.count, answer.count) == (1, 1) => Self::Echo(exchange, concurrency),
            _ => Self::Oneway { bytes, datagram: request.full_bytes },
        }
    }

    /// The name of its rows.
    pub(crate) fn op(&self) -> &'static str {
        match self {
            Self::Rtt(_) => "raw_rtt",
            Self::Echo(..) => "raw_echo",
            Self::Oneway { .. } => "raw_oneway",
        }
    }

    /// How operations compare with it. A pause of the machine spoils a mean, not a median.
    pub(crate) fn compare(&self) -> Compare {
        match *self {
            Self::Rtt(_) => Compare::Medians,
            Self::Echo(..) => Compare::Rates(1, 1),
            Self::Oneway { bytes, datagram } => Compare::Rates(bytes as u64, datagram as u64),
        }
    }

    /// The server that it needs to be running.
    pub(crate) fn server(&self, raw: &Raw<'_>) -> Server {
        match self {
            Self::Rtt(exchange) => raw.rtt_server(*exchange),
            Self::Echo(..) | Self::Oneway { .. } => Server::RawDevice,
        }
    }

    /// Datagrams of one of its operations, and the bytes of all of them.
    pub(crate) fn datagrams(&self, datagram_bytes_max: usize) -> (usize, usize) {
        match self {
            Self::Rtt(exchange) | Self::Echo(exchange, _) => {
                let (request, answer) = exchange.frames(datagram_bytes_max);
                (request.count + answer.count, request.total_bytes() + answer.total_bytes())
            }
            Self::Oneway { datagram, .. } => (1, *datagram),
        }
    }

    /// Measures a block.
    ///
    /// # Errors
    /// [`AppError::Raw`].
    pub(crate) fn measure(
        &self,
        raw: &mut Raw<'_>,
        clock: &Clock,
        block: &mut Block,
    ) -> Result<Tally, AppError> {
        match *self {
            Self::Rtt(exchange) => raw.rtt(clock, block, exchange),
            Self::Echo(exchange, concurrency) => raw.echo(clock, block, exchange, concurrency),
            Self::Oneway { datagram, .. } => raw.oneway(block, datagram),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_several_datagrams_is_not_echoed_as_one() {
        assert!(matches!(Bare::of(4_096, 1, 1_458), Bare::Rtt(_)));
        assert!(matches!(Bare::of(1_024, 16, 1_458), Bare::Echo(_, 16)));
        let bare = Bare::of(4_096, 16, 1_458);
        assert_eq!(bare, Bare::Oneway { bytes: 4_096, datagram: 1_458 });
        assert_eq!(bare.datagrams(1_458), (1, 1_458));
        assert!(matches!(Bare::of(4_096, 16, 8_192), Bare::Echo(_, 16)));
    }
}

//! Ending sessions of a client that is known to be gone.

use core::net::SocketAddrV4;

use super::host::Closed;
use super::{Endpoint, Io};
use crate::device::Device;
use crate::endpoint::host::Host;
use crate::time::Instant;

impl Endpoint<'_> {
    /// Ends all sessions in which `address` is the client, without a word to it: for whoever knows
    /// by other means than silence that it is gone. Returns how many there were.
    pub fn dismiss<D: Device, H: Host>(
        &mut self,
        now: Instant,
        device: &mut D,
        host: &mut H,
        address: SocketAddrV4,
    ) -> usize {
        let (_, mut tx) = device.split();
        let mut io = Io { tx: &mut tx, host };
        let mut ended = 0;
        for index in 0..self.server_sessions.len() {
            let session = &self.server_sessions[index];
            if session.open && session.peer == address {
                self.close_server(now, &mut io, index, Closed::Bye);
                ended += 1;
            }
        }
        ended
    }
}

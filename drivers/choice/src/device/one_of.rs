//! Devices that are one of several.

/// An enum of devices that is a device itself, and the enums of its halves. What each does is what
/// the one inside does. A `#[cfg]` comes before the doc comment of its variant.
macro_rules! one_of {
    (
        $(#[doc = $doc:literal])*
        $device:ident, $rx:ident, $tx:ident {
            $($(#[cfg($when:meta)])? $(#[doc = $what:literal])* $name:ident($inner:ty),)+
        }
    ) => {
        $(#[doc = $doc])*
        #[allow(
            clippy::large_enum_variant,
            reason = "there is one a poll loop, and it stays in its place"
        )]
        pub enum $device {
            $($(#[cfg($when)])? $(#[doc = $what])* $name($inner),)+
        }

        #[doc = concat!("The receiving half of a [`", stringify!($device), "`].")]
        pub enum $rx<'a> {
            $($(#[cfg($when)])? $(#[doc = $what])* $name(<$inner as Device>::Rx<'a>),)+
        }

        #[doc = concat!("The sending half of a [`", stringify!($device), "`].")]
        pub enum $tx<'a> {
            $($(#[cfg($when)])? $(#[doc = $what])* $name(<$inner as Device>::Tx<'a>),)+
        }

        impl Device for $device {
            type Rx<'a> = $rx<'a>;
            type Tx<'a> = $tx<'a>;

            fn capabilities(&self) -> Capabilities {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.capabilities(),)+
                }
            }

            fn receive_queue(&self) -> usize {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.receive_queue(),)+
                }
            }

            fn keeps_bytes(&self) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.keeps_bytes(),)+
                }
            }

            fn is_memory(&self) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.is_memory(),)+
                }
            }

            fn is_lossless(&self) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.is_lossless(),)+
                }
            }

            fn flushes_cheaply(&self) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.flushes_cheaply(),)+
                }
            }

            fn borrows(&self) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.borrows(),)+
                }
            }

            #[inline]
            fn split(&mut self) -> ($rx<'_>, $tx<'_>) {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => {
                        let (rx, tx) = device.split();
                        ($rx::$name(rx), $tx::$name(tx))
                    })+
                }
            }

            #[inline]
            fn lend<W: Work>(&mut self, work: W) -> W::Output {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => device.lend(work),)+
                }
            }
        }

        impl Rx for $rx<'_> {
            #[inline]
            fn receive(&mut self) -> usize {
                match self {
                    $($(#[cfg($when)])? Self::$name(rx) => rx.receive(),)+
                }
            }

            #[inline]
            fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
                match self {
                    $($(#[cfg($when)])? Self::$name(rx) => rx.packet(index),)+
                }
            }
        }

        impl Tx for $tx<'_> {
            #[inline]
            fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
                match self {
                    $($(#[cfg($when)])? Self::$name(tx) => tx.push(peer, bytes),)+
                }
            }

            #[inline]
            fn flush(&mut self) {
                match self {
                    $($(#[cfg($when)])? Self::$name(tx) => tx.flush(),)+
                }
            }

            fn path_bytes(&self, peer: SocketAddrV4) -> Option<usize> {
                match self {
                    $($(#[cfg($when)])? Self::$name(tx) => tx.path_bytes(peer),)+
                }
            }

            #[inline]
            fn borrows(&self, peer: SocketAddrV4) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(tx) => tx.borrows(peer),)+
                }
            }

            #[inline]
            fn push_borrowed(
                &mut self,
                peer: SocketAddrV4,
                bytes: usize,
                loan: &Loan,
                ticket: u8,
            ) -> Option<&mut [u8]> {
                match self {
                    $($(#[cfg($when)])? Self::$name(tx) => {
                        tx.push_borrowed(peer, bytes, loan, ticket)
                    })+
                }
            }

            #[inline]
            fn returned(&mut self) -> Option<(u8, u32)> {
                match self {
                    $($(#[cfg($when)])? Self::$name(tx) => tx.returned(),)+
                }
            }
        }

        impl Wait for $device {
            fn wait(&self, timeout: Duration) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => Wait::wait(device, timeout),)+
                }
            }

            fn wait_with(&self, doorbell: &Doorbell, timeout: Duration) -> bool {
                match self {
                    $($(#[cfg($when)])? Self::$name(device) => {
                        Wait::wait_with(device, doorbell, timeout)
                    })+
                }
            }
        }
    };
}
pub(super) use one_of;

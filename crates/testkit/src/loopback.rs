//! Addresses for servers of tests.

use std::net::{Ipv4Addr, SocketAddr};

/// An address of this machine that belongs to this process: nothing that another test starts can take a port there which a
/// server of this test has given up.
pub fn own_loopback() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // Process numbers have 22 bits; the mark keeps clear of 127.0.0.1, where everybody else listens.
    Ipv4Addr::new(127, 0x80 | high, middle, low)
}

/// A free port at [`own_loopback`], to listen on.
pub fn free_port() -> SocketAddr {
    (own_loopback(), 0).into()
}

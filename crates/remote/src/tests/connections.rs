//! Every TCP connection acknowledges at once what it read, whichever protocol it speaks.

use std::net::SocketAddr;

use super::harness::{F, Http, server};
use crate::connect::tests::asked;

/// Calls one after the other: between two of them the connection waits.
const CALLS: usize = 8;

fn address(url: &str) -> SocketAddr {
    url.rsplit('/').next().and_then(|place| place.parse().ok()).expect("an address")
}

#[test]
fn connections_of_grpc_acknowledge_at_once() {
    let fixture = server();
    let digest = fixture.put(b"a blob");
    let before = asked(address(&fixture.server().url()));
    for _ in 0..CALLS {
        assert_eq!(fixture.read(digest), Ok(b"a blob".to_vec()));
    }
    assert!(asked(address(&fixture.server().url())) > before + CALLS / 2, "some answers may come in one burst");
}

#[test]
fn connections_of_http_acknowledge_at_once() {
    let fixture = server();
    let http = Http::new(&fixture.server().url().replace("grpc://", "http://"), |_| {});
    for _ in 0..CALLS {
        assert_eq!(http.run(http.cache.result(&F.digest(b"key"))), Ok(None));
    }
    assert!(asked(address(&fixture.server().url())) > CALLS / 2, "some answers may come in one burst");
}

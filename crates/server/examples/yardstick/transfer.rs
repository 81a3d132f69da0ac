//! A blob up and down again: the least any client of this server needs for it.
//!
//! Up: a file is read and sent by one stream. Down: one stream on another connection is hashed and written to a file.
//! What is sent next is read while the last piece goes out, and what came is hashed while the next comes.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::proto::bytestream::ReadRequest;
use minibuild_reapi::transfer::{ByteStreamClient, WriteRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;

use crate::server::Server;

const F: DigestFunction = DigestFunction::Sha256;
/// Bytes of one message.
const PIECE: usize = 1 << 20;
/// Pieces that wait between the thread of the file and that of the connection.
const AHEAD: usize = 8;

/// Uploads `bytes` and downloads them.
pub async fn run(program: &str, bytes: u64) {
    let server = Server::start(program, 0);
    let (up, down) = (server.connect().await, server.connect().await);
    let (from, to) = (server.dir.path().join("up"), server.dir.path().join("down"));
    let digest = blocking({
        let from = from.clone();
        move || make(&from, bytes, 1)
    })
    .await;
    let before = server.cost();
    let started = Instant::now();
    upload(up, &from, &digest).await;
    tell("up", bytes, started);
    let between = server.cost();
    println!("  processor time of the server: {:.2} s", between.server - before.server);
    let started = Instant::now();
    download(down, &to, &digest).await;
    tell("down", bytes, started);
    let cost = server.cost();
    println!("  processor time of the server: {:.2} s", cost.server - between.server);
    println!("memory of the server: {} MiB at most", cost.peak_kib >> 10);
    assert_eq!(fs::metadata(&to).expect("there").len(), bytes);
}

fn tell(what: &str, bytes: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let mib = (bytes >> 20) as f64;
    println!("{what}: {mib:.0} MiB in {seconds:.2} s, {:.0} MiB/s", mib / seconds);
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

/// A file that does not compress, another one for each seed, and its digest.
pub fn make(path: &Path, bytes: u64, seed: u64) -> Digest {
    let (mut file, mut hasher) = (File::create(path).expect("a file"), F.hasher());
    let (mut state, mut piece) = (seed, Vec::with_capacity(PIECE));
    let mut left = usize::try_from(bytes).expect("not that large");
    while left > 0 {
        piece.clear();
        while piece.len() < PIECE {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            piece.extend((state ^ state >> 29).to_le_bytes());
        }
        piece.truncate(left);
        file.write_all(&piece).expect("written");
        hasher.update(&piece);
        left -= piece.len();
    }
    hasher.finish()
}

pub async fn upload(channel: Channel, from: &Path, digest: &Digest) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (from, blob) = (from.to_owned(), *digest);
    let reader = tokio::task::spawn_blocking(move || {
        let mut file = File::open(from).expect("there");
        let mut at = 0;
        loop {
            let length = PIECE.min(usize::try_from(blob.size - at).expect("a piece"));
            let mut data = vec![0; length];
            file.read_exact(&mut data).expect("reads");
            let next = at + length as u64;
            let message = WriteRequest {
                resource_name: if at == 0 { format!("uploads/yardstick/blobs/{blob}") } else { String::new() },
                write_offset: i64::try_from(at).expect("fits"),
                finish_write: next == blob.size,
                data: data.into(),
            };
            if sender.blocking_send(message).is_err() || next == blob.size {
                return;
            }
            at = next;
        }
    });
    let answer =
        ByteStreamClient::new(channel).write(Request::new(ReceiverStream::new(receiver))).await.expect("taken");
    assert_eq!(u64::try_from(answer.into_inner().committed_size), Ok(digest.size));
    reader.await.expect("no panic");
}

pub async fn download(channel: Channel, to: &Path, digest: &Digest) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(AHEAD);
    let to = to.to_owned();
    let writer = tokio::task::spawn_blocking(move || {
        let (mut file, mut hasher) = (File::create(to).expect("a file"), F.hasher());
        while let Some(piece) = receiver.blocking_recv() {
            hasher.update(&piece);
            file.write_all(&piece).expect("written");
        }
        hasher.finish()
    });
    let request = ReadRequest { resource_name: format!("blobs/{digest}"), ..Default::default() };
    let mut stream = ByteStreamClient::new(channel).read(Request::new(request)).await.expect("begins").into_inner();
    while let Some(message) = stream.message().await.expect("goes on") {
        sender.send(message.data).await.expect("is taken");
    }
    drop(sender);
    assert_eq!(writer.await.expect("no panic"), *digest);
}

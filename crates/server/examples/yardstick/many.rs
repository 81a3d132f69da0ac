//! Many blobs down, small and large: the least any client of this server needs for them.
//!
//! Small ones come in batches, large ones by a stream each; all is hashed and written to a file of its own. As many calls
//! are under way as the connections are told to carry.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::execution::BatchReadBlobsRequest;
use minibuild_reapi::transfer::CasClient;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::server::Server;
use crate::transfer::{download, make, upload};

const F: DigestFunction = DigestFunction::Sha256;
/// Blobs of one batch.
const BATCH: usize = 500;
/// Streams at once.
const STREAMS: usize = 16;

/// How many blobs of how many bytes.
#[derive(Clone, Copy)]
pub struct Kind {
    pub count: u64,
    pub bytes: u64,
}

/// Uploads them all, and downloads them over so many connections; prints seconds.
pub async fn run(program: &str, small: Kind, large: Kind, connections: u64) {
    let server = Server::start(program, 0);
    let up = server.connect().await;
    let from = server.dir.path().join("up");
    let small = fill(&up, &from, small, 1).await;
    let large = fill(&up, &from, large, 1 << 32).await;
    let mut channels = Vec::new();
    for _ in 0..connections.max(1) {
        channels.push(server.connect().await);
    }
    let to = Arc::new(server.dir.path().join("down"));
    fs::create_dir(&*to).expect("a directory");
    let bytes: u64 = small.iter().chain(&large).map(|digest| digest.size).sum();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, batch) in small.chunks(BATCH).enumerate() {
        let (channel, batch, to) = (channels[number % channels.len()].clone(), batch.to_vec(), Arc::clone(&to));
        tasks.spawn(async move { read_batch(channel, &batch, &to).await });
    }
    let turns = Arc::new(Semaphore::new(STREAMS));
    for (number, digest) in large.into_iter().enumerate() {
        let (channel, to, turns) = (channels[number % channels.len()].clone(), to.join(digest.hex()), turns.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire().await.expect("open");
            download(channel, &to, &digest).await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("read: {} MiB in {seconds:.3} s over {connections} connections", bytes >> 20);
}

/// Uploads blobs that differ from all others.
async fn fill(channel: &Channel, from: &Path, kind: Kind, seed: u64) -> Vec<Digest> {
    let mut digests = Vec::new();
    for number in 0..kind.count {
        let (path, bytes) = (from.to_owned(), kind.bytes);
        let made = tokio::task::spawn_blocking(move || make(&path, bytes, seed + number));
        let digest = made.await.expect("no panic");
        upload(channel.clone(), from, &digest).await;
        digests.push(digest);
    }
    digests
}

async fn read_batch(channel: Channel, batch: &[Digest], to: &Path) {
    let request = BatchReadBlobsRequest { digests: batch.iter().map(digest_message).collect(), ..Default::default() };
    let answer = CasClient::new(channel, 32 << 20).batch_read_blobs(tonic::Request::new(request)).await;
    let responses = answer.expect("answered").into_inner().responses;
    let to: PathBuf = to.to_owned();
    let write = move || {
        for blob in responses {
            let digest = F.digest(&blob.data);
            assert_eq!(Some(digest.hex()), blob.digest.map(|digest| digest.hash));
            File::create(to.join(digest.hex())).expect("a file").write_all(&blob.data).expect("written");
        }
    };
    tokio::task::spawn_blocking(write).await.expect("no panic");
}

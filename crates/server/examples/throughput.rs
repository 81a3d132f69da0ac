//! What the server costs: hits of the action cache, a large blob in and out, actions that do nothing, actions that sleep.
//!
//! `cargo run --release -p minibuild-server --example throughput [sleepers]`; one process plays server and client, so
//! rates are of both together.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::bytestream::{ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient};
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::{ActionMessage, CommandMessage};
use minibuild_server::{Listen, Server, ServerConfig};
use proto::action_cache_client::ActionCacheClient;
use proto::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::execution_client::ExecutionClient;
use tonic::transport::{Channel, Endpoint};

const F: DigestFunction = DigestFunction::Sha256;
const LARGE: usize = 256 << 20;
const AT_ONCE: usize = 100;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    if first.as_deref().is_some_and(|mode| mode == "__slot") {
        return minibuild_local::slot_main(args);
    }
    let sleepers = first.and_then(|text| text.to_str()?.parse().ok()).unwrap_or(200);
    let dir = tempfile::tempdir().expect("temp dir");
    let config = ServerConfig::new("127.0.0.1:0".parse().expect("an address"), dir.path().join("server"), 500);
    let server = Server::start(config).expect("starts");
    let Listen::Tcp(address) = server.address() else { return ExitCode::FAILURE };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(8 << 20).initial_connection_window_size(16 << 20);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let channel = endpoint.connect().await.expect("connects");
        large_blob(&channel).await;
        hits(&channel).await;
        actions(&channel, 1000, "true", 2).await;
        actions(&channel, 2000, "/bin/true", 16).await;
        actions(&channel, sleepers, "sleep 1", 500).await;
    });
    println!("{:?}", server.counters().actions);
    ExitCode::SUCCESS
}

fn rate(what: &str, count: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {count} in {seconds:.2} s, {:.0}/s", count as f64 / seconds);
}

async fn put(channel: &Channel, data: Vec<u8>) -> Digest {
    let digest = F.digest(&data);
    let blob =
        proto::batch_update_blobs_request::Request { digest: Some(digest_message(&digest)), data, compressor: 0 };
    let request = proto::BatchUpdateBlobsRequest { requests: vec![blob], ..Default::default() };
    let mut client = ContentAddressableStorageClient::new(channel.clone());
    client.batch_update_blobs(request).await.expect("stored");
    digest
}

async fn large_blob(channel: &Channel) {
    let bytes: Vec<u8> =
        (0..LARGE / 8).flat_map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let digest = F.digest(&bytes);
    let started = Instant::now();
    let messages: Vec<WriteRequest> = (0..LARGE)
        .step_by(1 << 20)
        .map(|at| WriteRequest {
            resource_name: format!("uploads/u/blobs/{digest}"),
            write_offset: at as i64,
            finish_write: at + (1 << 20) >= LARGE,
            data: bytes[at..(at + (1 << 20)).min(LARGE)].to_vec(),
        })
        .collect();
    let mut client = ByteStreamClient::new(channel.clone());
    client.write(iter(messages)).await.expect("written");
    rate("MiB written", LARGE >> 20, started);
    let started = Instant::now();
    let request = ReadRequest { resource_name: format!("blobs/{digest}"), ..Default::default() };
    let mut stream = client.read(request).await.expect("reads").into_inner();
    let mut hasher = F.hasher();
    while let Some(piece) = stream.message().await.expect("goes on") {
        hasher.update(&piece.data);
    }
    assert_eq!(hasher.finish(), digest);
    rate("MiB read and hashed", LARGE >> 20, started);
}

async fn hits(channel: &Channel) {
    const HITS: usize = 10_000;
    let output = put(channel, b"output".to_vec()).await;
    let action = F.digest(b"action");
    let file = proto::OutputFile { path: "out".into(), digest: Some(digest_message(&output)), ..Default::default() };
    let request = proto::UpdateActionResultRequest {
        action_digest: Some(digest_message(&action)),
        action_result: Some(proto::ActionResult { output_files: vec![file], ..Default::default() }),
        ..Default::default()
    };
    ActionCacheClient::new(channel.clone()).update_action_result(request).await.expect("taken");
    let started = Instant::now();
    let calls = iter(0..HITS).map(|_| {
        let mut client = ActionCacheClient::new(channel.clone());
        let request =
            proto::GetActionResultRequest { action_digest: Some(digest_message(&action)), ..Default::default() };
        async move { client.get_action_result(request).await.expect("a hit") }
    });
    let count = calls.buffer_unordered(AT_ONCE).count().await;
    rate("hits of the action cache", count, started);
}

async fn actions(channel: &Channel, count: usize, script: &str, at_once: usize) {
    let root = put(channel, Vec::new()).await;
    let mut actions = Vec::new();
    for n in 0..count {
        let salt = format!("{script}{n}");
        let environment = vec![("PATH", "/usr/bin:/bin")];
        let command = CommandMessage { arguments: script.split(' ').collect(), environment, ..Default::default() };
        let message = ActionMessage {
            command: put(channel, command.encode()).await,
            input_root: root,
            timeout: Some(Duration::from_secs(60)),
            do_not_cache: false,
            salt: salt.as_bytes(),
            platform: vec![],
        };
        actions.push(put(channel, message.encode()).await);
    }
    let started = Instant::now();
    let runs = iter(actions).map(|action| {
        let mut client = ExecutionClient::new(channel.clone());
        let request = proto::ExecuteRequest { action_digest: Some(digest_message(&action)), ..Default::default() };
        async move {
            let mut stream = client.execute(request).await.expect("begins").into_inner();
            let mut last = None;
            while let Some(operation) = stream.message().await.expect("goes on") {
                last = Some(operation);
            }
            assert!(last.is_some_and(|operation| operation.done));
        }
    });
    let count = runs.buffer_unordered(at_once).count().await;
    rate(&format!("actions `{script}`"), count, started);
}

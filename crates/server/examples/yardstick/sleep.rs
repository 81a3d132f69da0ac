//! Actions that only sleep: what beside the sleeping takes time is the server's.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::proto::longrunning::{Operation, operation};
use minibuild_reapi::{ActionMessage, CommandMessage, proto::Message as _};
use proto::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::execution_client::ExecutionClient;
use tonic::transport::Channel;

use crate::server::Server;

const F: DigestFunction = DigestFunction::Sha256;
const CONNECTIONS: usize = 4;

/// Executes `actions` distinct ones, all at once.
pub async fn run(program: &str, actions: u64, seconds: u64, workers: u64) {
    let server = Server::start(program, workers);
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(server.connect().await);
    }
    let digests = upload(&channels[0], actions, seconds).await;
    let before = server.cost();
    let started = Instant::now();
    let runs = digests.iter().enumerate().map(|(n, digest)| execute(channels[n % CONNECTIONS].clone(), *digest));
    let mut ends: Vec<Duration> =
        iter(runs).buffer_unordered(digests.len()).map(|()| started.elapsed()).collect().await;
    let took = started.elapsed().as_secs_f64();
    ends.sort_unstable();
    let cost = server.cost();
    let ideal = (actions.div_ceil(workers) * seconds) as f64;
    println!("{actions} actions of {seconds} s on {workers} workers: {took:.2} s, ideal {ideal:.0} s");
    for wave in ends.chunks(usize::try_from(workers).unwrap_or(usize::MAX)) {
        println!("  from {:.2} to {:.2} s", wave[0].as_secs_f64(), wave[wave.len() - 1].as_secs_f64());
    }
    let each = |seconds: f64| seconds * 1e3 / actions as f64;
    println!(
        "processor time: server {:.2} s, {:.2} ms an action; {} helpers {:.2} s, {:.2} ms an action",
        cost.server - before.server,
        each(cost.server - before.server),
        cost.processes,
        cost.helpers,
        each(cost.helpers),
    );
    println!("memory: server {} MiB at most, helpers {} MiB", cost.peak_kib >> 10, cost.helpers_kib >> 10);
}

async fn upload(channel: &Channel, actions: u64, seconds: u64) -> Vec<Digest> {
    let environment = vec![("PATH", "/usr/bin:/bin")];
    let seconds = seconds.to_string();
    let command = CommandMessage { arguments: vec!["sleep", &seconds], environment, ..Default::default() }.encode();
    let action = |n: u64| {
        let salt = n.to_le_bytes();
        let message = ActionMessage {
            command: F.digest(&command),
            input_root: F.empty(),
            timeout: None,
            do_not_cache: false,
            salt: &salt,
            platform: vec![],
        };
        message.encode()
    };
    let actions: Vec<Vec<u8>> = (0..actions).map(action).collect();
    let digests = actions.iter().map(|bytes| F.digest(bytes)).collect();
    let blob = |data: &Vec<u8>| proto::batch_update_blobs_request::Request {
        digest: Some(digest_message(&F.digest(data))),
        data: data.clone(),
        compressor: 0,
    };
    let requests = actions.iter().chain([&command]).map(blob).collect();
    let request = proto::BatchUpdateBlobsRequest { requests, ..Default::default() };
    ContentAddressableStorageClient::new(channel.clone()).batch_update_blobs(request).await.expect("stored");
    digests
}

async fn execute(channel: Channel, action: Digest) {
    let request = proto::ExecuteRequest { action_digest: Some(digest_message(&action)), ..Default::default() };
    let mut stream = ExecutionClient::new(channel).execute(request).await.expect("begins").into_inner();
    let mut last = None;
    while let Some(operation) = stream.message().await.expect("goes on") {
        last = Some(operation);
    }
    let Some(Operation { result: Some(operation::Result::Response(any)), .. }) = last else { panic!("no result") };
    let response = proto::ExecuteResponse::decode(&*any.value).expect("a response");
    assert_eq!(response.result.map(|result| result.exit_code), Some(0), "{:?}", response.status);
}

//! A server in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use minibuild_core::Digest;
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::bytestream::{ReadRequest, byte_stream_client::ByteStreamClient};
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::{ActionMessage, CommandMessage};
use minibuild_server::{Listen, Server, ServerConfig};
use proto::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::execution_client::ExecutionClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{F, is_alive};

struct Process {
    child: Child,
    address: String,
}

fn start(dir: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server-for-tests"));
    command.args(["serve", "127.0.0.1:0"]).arg(dir).arg("2");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("says where");
    let address = line.trim().strip_prefix("listening on grpc://").expect("one line").to_owned();
    Process { child, address }
}

fn connect(runtime: &Runtime, address: &str) -> Channel {
    let _inside = runtime.enter();
    Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
}

async fn put(channel: &Channel, data: Vec<u8>) -> Digest {
    let digest = F.digest(&data);
    let blob =
        proto::batch_update_blobs_request::Request { digest: Some(digest_message(&digest)), data, compressor: 0 };
    let request = proto::BatchUpdateBlobsRequest { requests: vec![blob], ..Default::default() };
    ContentAddressableStorageClient::new(channel.clone()).batch_update_blobs(request).await.expect("stored");
    digest
}

/// Begins an action and returns without waiting for its end.
async fn begin(channel: &Channel, script: &str) {
    let arguments = vec!["/bin/sh", "-c", script];
    let command = CommandMessage { arguments, environment: vec![("PATH", "/usr/bin:/bin")], ..Default::default() };
    let message = ActionMessage {
        command: put(channel, command.encode()).await,
        input_root: F.empty(),
        timeout: None,
        do_not_cache: false,
        salt: b"",
        platform: vec![],
    };
    let action = put(channel, message.encode()).await;
    let request = proto::ExecuteRequest { action_digest: Some(digest_message(&action)), ..Default::default() };
    ExecutionClient::new(channel.clone()).execute(request).await.expect("begins");
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_server_leaves_no_process_and_a_store_that_can_be_used() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, pids) = (dir.path().join("server"), dir.path().join("pids"));
    let runtime = Runtime::new().expect("threads");
    let mut process = start(&store);
    let channel = connect(&runtime, &process.address);
    let script =
        format!("setsid sleep 1000 & echo $! > {0}.tmp; echo $$ >> {0}.tmp; mv {0}.tmp {0}; wait", pids.display());
    let digest = runtime.block_on(async {
        begin(&channel, &script).await;
        put(&channel, b"kept".to_vec()).await
    });
    wait_for("the command", || pids.exists());
    let running = std::fs::read_to_string(&pids).expect("written");
    assert!(running.lines().all(is_alive));
    process.child.kill().expect("killed");
    process.child.wait().expect("waited for");
    let next = Server::start(ServerConfig::new("127.0.0.1:0".parse().expect("an address"), store, 0));
    let next = next.expect("the directory is free as soon as all is dead");
    assert!(!running.lines().any(is_alive), "who held the directory is dead");
    let Listen::Tcp(address) = next.address() else { panic!("listens on TCP") };
    let channel = connect(&runtime, &address.to_string());
    let read = async {
        let request = ReadRequest { resource_name: format!("blobs/{digest}"), ..Default::default() };
        let mut stream = ByteStreamClient::new(channel).read(request).await.expect("is there").into_inner();
        stream.message().await.expect("goes on").expect("not empty").data
    };
    assert_eq!(runtime.block_on(read), b"kept");
}

#[test]
fn a_server_that_is_told_to_stop_stops() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut process = start(&dir.path().join("server"));
    let mut stdin = process.child.stdin.take().expect("piped");
    stdin.flush().expect("still open");
    drop(stdin);
    assert!(process.child.wait().expect("waited for").success());
}

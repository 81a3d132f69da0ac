//! A server on a free port and clients for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::{digest, digest_message, function_number};
use minibuild_reapi::proto::bytestream::{self, byte_stream_client::ByteStreamClient};
use minibuild_reapi::proto::longrunning::{Operation, operation, operations_client::OperationsClient};
use minibuild_reapi::proto::{Message, execution as proto};
use minibuild_reapi::{ActionMessage, CommandMessage, InputNode, input_root};
use minibuild_server::{Inject, Listen, Running, Server, ServerConfig};
use proto::action_cache_client::ActionCacheClient;
use proto::capabilities_client::CapabilitiesClient;
use proto::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::execution_client::ExecutionClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

pub const F: DigestFunction = DigestFunction::Sha256;

pub struct Fixture {
    server: Option<Running>,
    channel: Channel,
    pub runtime: Runtime,
    pub dir: tempfile::TempDir,
}

pub fn server() -> Fixture {
    Fixture::new(|_| {})
}

pub fn with_faults(faults: &str) -> Fixture {
    let inject = Inject::parse(faults).expect("faults");
    Fixture::new(move |config| config.inject = Some(inject))
}

fn config(dir: &Path) -> ServerConfig {
    let mut config = ServerConfig::new("127.0.0.1:0".parse().expect("an address"), dir.to_owned(), 4);
    config.helper = env!("CARGO_BIN_EXE_server-for-tests").into();
    config
}

impl Fixture {
    pub fn new(edit: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut config = config(&dir.path().join("server"));
        edit(&mut config);
        let server = Server::start(config).expect("starts");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let channel = connect(&runtime, &server);
        Self { server: Some(server), channel, runtime, dir }
    }

    pub fn server(&self) -> &Running {
        self.server.as_ref().expect("runs")
    }

    /// Makes calls over another connection from now on.
    pub fn set_channel(&mut self, channel: Channel) {
        self.channel = channel;
    }

    /// Ends the server and starts another one in its directory.
    pub fn restart(&mut self, edit: impl FnOnce(&mut ServerConfig)) {
        self.server.take().expect("runs").shutdown();
        let mut config = config(&self.dir.path().join("server"));
        edit(&mut config);
        let server = Server::start(config).expect("starts again");
        self.channel = connect(&self.runtime, &server);
        self.server = Some(server);
    }

    pub fn shutdown(&mut self) {
        self.server.take().expect("runs").shutdown();
    }

    pub fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
    }

    pub fn bytes(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone())
    }

    pub fn cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel.clone())
    }

    pub fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone())
    }

    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    pub fn capabilities(&self, instance_name: &str) -> Result<proto::ServerCapabilities, Status> {
        let request = proto::GetCapabilitiesRequest { instance_name: instance_name.to_owned() };
        self.capabilities_of(Request::new(request))
    }

    pub fn capabilities_client(&self) -> CapabilitiesClient<Channel> {
        CapabilitiesClient::new(self.channel.clone())
    }

    pub fn capabilities_of(
        &self,
        request: Request<proto::GetCapabilitiesRequest>,
    ) -> Result<proto::ServerCapabilities, Status> {
        let answer = self.runtime.block_on(self.capabilities_client().get_capabilities(request));
        answer.map(|answer| answer.into_inner())
    }

    /// Stores a blob by a batch of one.
    pub fn put(&self, bytes: &[u8]) -> Digest {
        self.put_as(F, &F.digest(bytes), bytes).expect("stored");
        F.digest(bytes)
    }

    pub fn put_as(&self, function: DigestFunction, digest: &Digest, data: &[u8]) -> Result<(), (Code, String)> {
        let blob = proto::batch_update_blobs_request::Request {
            digest: Some(digest_message(digest)),
            data: data.to_vec(),
            compressor: 0,
        };
        let request = proto::BatchUpdateBlobsRequest {
            requests: vec![blob],
            digest_function: function_number(function),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.cas().batch_update_blobs(request)).map_err(|e| plain(&e))?.into_inner();
        let status = answer.responses[0].status.clone().unwrap_or_default();
        if status.code == 0 { Ok(()) } else { Err((Code::from(status.code), status.message)) }
    }

    pub fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let blob_digests = digests.iter().map(digest_message).collect();
        let request = proto::FindMissingBlobsRequest { blob_digests, ..Default::default() };
        let answer = self.runtime.block_on(self.cas().find_missing_blobs(request)).expect("answers").into_inner();
        answer.missing_blob_digests.iter().map(|message| digest(message, F).expect("a digest")).collect()
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.missing(&[*digest]).is_empty()
    }

    /// A whole blob by a stream.
    pub fn read(&self, name: &str, offset: i64, limit: i64) -> Result<Vec<u8>, (Vec<u8>, Code, String)> {
        let request =
            bytestream::ReadRequest { resource_name: name.to_owned(), read_offset: offset, read_limit: limit };
        self.runtime.block_on(async {
            let mut bytes = Vec::new();
            let failed = |bytes: &[u8], e: &Status| (bytes.to_vec(), e.code(), e.message().to_owned());
            let mut stream = self.bytes().read(request).await.map_err(|e| failed(&[], &e))?.into_inner();
            while let Some(piece) = stream.message().await.map_err(|e| failed(&bytes, &e))? {
                bytes.extend_from_slice(&piece.data);
            }
            Ok(bytes)
        })
    }

    pub fn get(&self, digest: &Digest) -> Vec<u8> {
        self.read(&format!("blobs/{digest}"), 0, 0).expect("is there")
    }

    /// An upload in messages of the given pieces.
    pub fn write(&self, name: &str, offset: i64, pieces: &[&[u8]], finish: bool) -> Result<i64, (Code, String)> {
        let mut at = offset;
        let mut messages = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            messages.push(bytestream::WriteRequest {
                resource_name: if number == 0 { name.to_owned() } else { String::new() },
                write_offset: at,
                finish_write: finish && number + 1 == pieces.len(),
                data: piece.to_vec(),
            });
            at += i64::try_from(piece.len()).expect("small");
        }
        let answer = self.runtime.block_on(self.bytes().write(tokio_stream::iter(messages)));
        answer.map(|answer| answer.into_inner().committed_size).map_err(|e| plain(&e))
    }

    pub fn write_status(&self, name: &str) -> Result<(i64, bool), (Code, String)> {
        let request = bytestream::QueryWriteStatusRequest { resource_name: name.to_owned() };
        let answer = self.runtime.block_on(self.bytes().query_write_status(request));
        answer.map(|a| (a.get_ref().committed_size, a.get_ref().complete)).map_err(|e| plain(&e))
    }

    pub fn result_of(&self, action: &Digest) -> Result<proto::ActionResult, (Code, String)> {
        let request =
            proto::GetActionResultRequest { action_digest: Some(digest_message(action)), ..Default::default() };
        let answer = self.runtime.block_on(self.cache().get_action_result(request));
        answer.map(|answer| answer.into_inner()).map_err(|e| plain(&e))
    }

    pub fn update_result(&self, action: &Digest, result: proto::ActionResult) -> Result<(), Status> {
        let request = proto::UpdateActionResultRequest {
            action_digest: Some(digest_message(action)),
            action_result: Some(result),
            ..Default::default()
        };
        self.runtime.block_on(self.cache().update_action_result(request)).map(drop)
    }

    /// Uploads an action with its inputs.
    pub fn action(&self, task: &Task) -> Digest {
        let mut nodes: Vec<(&str, InputNode<'_>)> = Vec::new();
        for (path, (content, executable)) in &task.inputs {
            let digest = self.put(content.as_bytes());
            nodes.push((path, InputNode::File { digest, executable: *executable }));
        }
        nodes.extend(task.links.iter().map(|(path, target)| (&**path, InputNode::Symlink { target })));
        let mut blobs = Vec::new();
        let root = input_root(&mut nodes, F, &mut |_, bytes| blobs.push(bytes.to_vec())).expect("a tree");
        blobs.iter().for_each(|bytes| {
            self.put(bytes);
        });
        let command = self.put(&task.command());
        let message = ActionMessage {
            command,
            input_root: root,
            timeout: task.timeout,
            do_not_cache: task.do_not_cache,
            salt: task.salt.as_bytes(),
            platform: task.platform.clone(),
        };
        self.put(&message.encode())
    }

    pub fn run(&self, task: &Task) -> proto::ExecuteResponse {
        let action = self.action(task);
        self.execute(&action, false)
    }

    pub fn execute(&self, action: &Digest, skip_cache_lookup: bool) -> proto::ExecuteResponse {
        let operations = self.try_execute(action, skip_cache_lookup).expect("executes");
        response(operations.last().expect("one at least"))
    }

    pub fn try_execute(&self, action: &Digest, skip_cache_lookup: bool) -> Result<Vec<Operation>, Status> {
        let request = proto::ExecuteRequest {
            action_digest: Some(digest_message(action)),
            skip_cache_lookup,
            ..Default::default()
        };
        self.runtime.block_on(async {
            let mut stream = self.execution().execute(request).await?.into_inner();
            let mut operations = Vec::new();
            while let Some(operation) = stream.message().await? {
                operations.push(operation);
            }
            Ok(operations)
        })
    }

    /// Waits for a change of counts, or whatever else.
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(std::time::Instant::now() < until, "waited in vain for {what}");
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
        }
    }
}

/// What a test action is made of.
#[derive(Clone, Default)]
pub struct Task {
    pub script: String,
    pub argv: Vec<String>,
    pub inputs: BTreeMap<String, (String, bool)>,
    pub links: Vec<(String, String)>,
    pub env: Vec<(&'static str, &'static str)>,
    pub files: Vec<&'static str>,
    pub directories: Vec<&'static str>,
    pub timeout: Option<Duration>,
    pub do_not_cache: bool,
    pub salt: &'static str,
    pub platform: Vec<(&'static str, &'static str)>,
    /// Changes the command message before it is uploaded.
    pub edit: Option<fn(&mut proto::Command)>,
}

impl Task {
    pub fn new(script: &str) -> Self {
        Self { script: script.to_owned(), env: vec![("PATH", "/usr/bin:/bin")], ..Default::default() }
    }

    pub fn input(mut self, path: &str, content: &str) -> Self {
        self.inputs.insert(path.to_owned(), (content.to_owned(), false));
        self
    }

    fn command(&self) -> Vec<u8> {
        let shell = ["/bin/sh", "-e", "-c", &self.script];
        let arguments = if self.argv.is_empty() { shell.to_vec() } else { self.argv.iter().map(|a| &**a).collect() };
        let bytes = CommandMessage {
            arguments,
            environment: self.env.clone(),
            output_files: self.files.clone(),
            output_directories: self.directories.clone(),
            platform: self.platform.clone(),
            ..Default::default()
        }
        .encode();
        let Some(edit) = self.edit else { return bytes };
        let mut message = proto::Command::decode(&*bytes).expect("a command");
        edit(&mut message);
        message.encode_to_vec()
    }
}

pub fn response(operation: &Operation) -> proto::ExecuteResponse {
    assert!(operation.done, "{operation:?}");
    let Some(operation::Result::Response(any)) = &operation.result else { panic!("{operation:?}") };
    proto::ExecuteResponse::decode(&*any.value).expect("a response")
}

pub fn stage(operation: &Operation) -> i32 {
    let any = operation.metadata.as_ref().expect("has it");
    proto::ExecuteOperationMetadata::decode(&*any.value).expect("metadata").stage
}

pub fn plain(status: &Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}

/// Whether a process with this pid lives.
pub fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn connect(runtime: &Runtime, server: &Running) -> Channel {
    match server.address() {
        Listen::Tcp(address) => {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        }
        Listen::Unix(path) => {
            let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).expect("an address");
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        }
    }
}

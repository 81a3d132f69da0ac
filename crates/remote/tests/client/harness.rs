//! A server on a free port, a workspace, and clients that keep their events.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use minibuild_core::{
    ActionId, ArtifactKind, Blob, BlobSource, CacheAnswer, CacheLookup, Content, DeclaredOutput, Digest,
    DigestFunction, ExecutionReport, ExecutionStatus, FetchId, FetchOutcome, FetchRequest, FoundOutput, RemoteEvent,
    RemoteRequest, RemoteStage, Requester, RunId, UploadRequest, Urgency, WsPath,
};
use minibuild_disk::{FileClock, FsClock, OutTree};
use minibuild_reapi::{ActionMessage, CommandMessage, InputNode, input_root};
use minibuild_remote::{RemoteClient, RemoteConfig, Tls};
use minibuild_server::{Counts, Inject, Running, Server, ServerConfig};
use minibuild_testkit::{HttpAnswer, free_port, serve_http};

pub const F: DigestFunction = DigestFunction::Sha256;

/// How long a test waits for what ought to come at once.
const SOON: Duration = Duration::from_secs(60);

pub struct Fixture {
    server: Option<Running>,
    address: String,
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with_faults("")
    }

    pub fn with_faults(faults: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let server = start(&dir.path().join("server"), &free_port().to_string(), faults);
        let address = server.address().to_string();
        fs::create_dir(dir.path().join("workspace")).expect("makes");
        Self { server: Some(server), address, dir }
    }

    pub fn server(&self) -> &Running {
        self.server.as_ref().expect("runs")
    }

    pub fn counts(&self) -> Counts {
        self.server().counters()
    }

    pub fn calls(&self, method: &str) -> u64 {
        self.counts().calls(method)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn http_address(&self) -> String {
        self.address.replace("grpc://", "http://")
    }

    pub fn shutdown(&mut self) {
        self.server.take().expect("runs").shutdown();
    }

    /// Another server in the same place, with the same blobs.
    pub fn restart(&mut self, faults: &str) {
        let address = self.address.trim_start_matches("grpc://").to_owned();
        self.server = Some(start(&self.dir.path().join("server"), &address, faults));
    }

    pub fn workspace(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    pub fn write(&self, path: &str, content: &str) {
        let path = self.workspace().join(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("makes");
        fs::write(path, content).expect("writes");
    }

    pub fn client(&self) -> Client {
        self.client_with(|_| {})
    }

    pub fn client_with(&self, edit: impl FnOnce(&mut RemoteConfig)) -> Client {
        let mut config = self.config();
        edit(&mut config);
        let (sender, events) = channel();
        // A client that outlives its test has nobody to tell.
        let sink = move |event| drop(sender.send(event));
        let remote = RemoteClient::open(config, Arc::new(sink)).expect("opens");
        Client { remote: Some(remote), events, seen: Vec::new(), next: 0 }
    }

    pub fn config(&self) -> RemoteConfig {
        let tree = Arc::new(OutTree::open(&self.workspace()).expect("output tree"));
        let clock = FsClock::open(&self.workspace().join("minibuild-out/.state")).expect("clock");
        RemoteConfig {
            keeper: None,
            executor: Some(self.address.clone()),
            cache: None,
            instance: String::new(),
            headers: Vec::new(),
            timeout: Duration::from_secs(30),
            retries: 5,
            connections: 1,
            cancel: false,
            function: F,
            may_change_function: false,
            compression: true,
            tls: Tls::default(),
            credential_helper: None,
            priority: 0,
            invocation: "test".to_owned(),
            tree,
            clock: Arc::new(clock) as Arc<dyn FileClock>,
        }
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.workspace().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut(&Counts) -> bool) {
        let until = std::time::Instant::now() + SOON;
        while !is_so(&self.counts()) {
            assert!(std::time::Instant::now() < until, "waited in vain for {what}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

fn start(dir: &Path, address: &str, faults: &str) -> Running {
    let mut config = ServerConfig::new(address.parse().expect("an address"), dir.to_owned(), 4);
    config.helper = helper();
    config.inject = Some(Inject::parse(faults).expect("faults"));
    Server::start(config).expect("starts")
}

/// The example `slot`, built along with the tests.
fn helper() -> PathBuf {
    let exe = std::env::current_exe().expect("has a path");
    let target = exe.parent().and_then(Path::parent).expect("two directories up");
    target.join("examples/slot")
}

pub struct Client {
    remote: Option<RemoteClient>,
    events: Receiver<RemoteEvent>,
    seen: Vec<RemoteEvent>,
    next: u64,
}

impl Client {
    pub fn remote(&self) -> &RemoteClient {
        self.remote.as_ref().expect("is open")
    }

    pub fn shutdown(&mut self) {
        self.remote.take().expect("is open").shutdown();
    }

    /// The next event that `take` takes; the others are kept.
    pub fn wait<T>(&mut self, mut take: impl FnMut(&RemoteEvent) -> Option<T>) -> T {
        if let Some(at) = self.seen.iter().position(|event| take(event).is_some()) {
            let event = self.seen.remove(at);
            return take(&event).expect("taken just now");
        }
        loop {
            let event = match self.events.recv_timeout(SOON) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => panic!("waited in vain; seen: {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("the client is gone; seen: {:?}", self.seen),
            };
            match take(&event) {
                Some(taken) => return taken,
                None => self.seen.push(event),
            }
        }
    }

    pub fn finished(&mut self, run: RunId) -> ExecutionReport {
        self.wait(|event| match event {
            RemoteEvent::Finished(report) if report.run == run => Some((**report).clone()),
            _ => None,
        })
    }

    pub fn stage(&mut self, run: RunId, wanted: RemoteStage) {
        self.wait(|event| match event {
            RemoteEvent::Stage { run: of, stage } if *of == run && *stage == wanted => Some(()),
            _ => None,
        });
    }

    /// Everything that came and nobody waited for.
    pub fn rest(&mut self) -> Vec<RemoteEvent> {
        self.seen.extend(self.events.try_iter());
        std::mem::take(&mut self.seen)
    }

    pub fn messages(&mut self) -> Vec<String> {
        let text = |event| if let RemoteEvent::Message { text, .. } = event { Some(text) } else { None };
        self.rest().into_iter().filter_map(text).collect()
    }

    pub fn run(&mut self, task: &Task) -> ExecutionReport {
        let request = task.request();
        let run = request.run;
        self.remote().start(request);
        self.finished(run)
    }

    pub fn look_up(&mut self, task: &Task) -> CacheAnswer {
        let run = run_id();
        let request = task.request();
        let (who, outputs, depfile) = (request.who, request.outputs, request.depfile);
        self.remote().look_up(CacheLookup { run, who, outputs, depfile });
        self.wait(|event| match event {
            RemoteEvent::LookedUp { run: of, answer, .. } if *of == run => Some(answer.clone()),
            _ => None,
        })
    }

    pub fn start_fetch(&mut self, output: &FoundOutput, urgency: Urgency) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        self.remote().fetch(FetchRequest {
            id,
            producer: ActionId::new(0),
            path: output.meta.path.clone(),
            content: output.meta.content.clone(),
            here: Vec::new(),
            urgency,
            who: who(F.digest(b"fetch")),
        });
        id
    }

    pub fn fetched(&mut self, id: FetchId) -> FetchOutcome {
        self.wait(|event| match event {
            RemoteEvent::Fetched { id: of, outcome } if *of == id => Some(outcome.clone()),
            _ => None,
        })
    }

    pub fn fetch(&mut self, output: &FoundOutput) -> FetchOutcome {
        let id = self.start_fetch(output, Urgency::Input);
        self.fetched(id)
    }

    pub fn upload(&mut self, request: UploadRequest) -> Option<String> {
        let run = request.run;
        self.remote().upload(request);
        self.wait(|event| match event {
            RemoteEvent::Uploaded { run: of, error } if *of == run => Some(error.clone()),
            _ => None,
        })
    }
}

pub fn who(key: Digest) -> Requester {
    Requester { label: "//a:b".to_owned(), mnemonic: "Test".to_owned(), key }
}

/// Another run each time.
pub fn run_id() -> RunId {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    RunId { action: ActionId::new(0), attempt: NEXT.fetch_add(1, Ordering::Relaxed) }
}

pub fn path(name: &str) -> WsPath {
    WsPath::new(name).expect("a path")
}

pub fn output(name: &str, kind: ArtifactKind) -> DeclaredOutput {
    DeclaredOutput { path: path(name), kind }
}

/// What a test action is made of.
#[derive(Clone, Default)]
pub struct Task {
    pub script: String,
    /// Files with their contents, uploaded from memory.
    pub inputs: Vec<(String, String)>,
    /// Files that lie in the workspace, with what they held when they were looked at.
    pub files: Vec<(String, String)>,
    pub outputs: Vec<DeclaredOutput>,
    pub depfile: Option<&'static str>,
    pub timeout: Option<Duration>,
    pub platform: Vec<(String, String)>,
    pub skip_cache_lookup: bool,
    pub salt: String,
    /// Whether only the server is believed to have the inputs.
    pub inputs_elsewhere: bool,
}

impl Task {
    pub fn new(script: &str) -> Self {
        Self { script: script.to_owned(), ..Default::default() }
    }

    pub fn input(mut self, path: &str, content: &str) -> Self {
        self.inputs.push((path.to_owned(), content.to_owned()));
        self
    }

    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.push((path.to_owned(), content.to_owned()));
        self
    }

    pub fn output(mut self, name: &str, kind: ArtifactKind) -> Self {
        self.outputs.push(output(name, kind));
        self
    }

    pub fn salt(mut self, salt: &str) -> Self {
        salt.clone_into(&mut self.salt);
        self
    }

    fn command(&self) -> Vec<u8> {
        let of_kind = |is_dir: bool| {
            let outputs = self.outputs.iter().filter(move |o| (o.kind == ArtifactKind::Directory) == is_dir);
            outputs.map(|output| output.path.as_str()).collect::<Vec<_>>()
        };
        let mut files = of_kind(false);
        files.extend(self.depfile);
        CommandMessage {
            arguments: vec!["/bin/sh", "-e", "-c", &self.script],
            environment: vec![("PATH", "/usr/bin:/bin")],
            output_files: files,
            output_directories: of_kind(true),
            platform: self.platform.iter().map(|(name, value)| (&**name, &**value)).collect(),
            ..Default::default()
        }
        .encode()
    }

    pub fn request(&self) -> RemoteRequest {
        let bytes = |bytes: &[u8]| Blob { digest: F.digest(bytes), source: BlobSource::Bytes(bytes.into()) };
        let mut blobs = Vec::new();
        let mut nodes: Vec<(&str, InputNode<'_>)> = Vec::new();
        for (path, content) in &self.inputs {
            let mut blob = bytes(content.as_bytes());
            if self.inputs_elsewhere {
                blob.source = BlobSource::Elsewhere;
            }
            nodes.push((path, InputNode::File { digest: blob.digest, executable: false }));
            blobs.push(blob);
        }
        for (name, content) in &self.files {
            let digest = F.digest(content.as_bytes());
            nodes.push((name, InputNode::File { digest, executable: false }));
            blobs.push(Blob { digest, source: BlobSource::File { path: path(name), fingerprint: None } });
        }
        let root = input_root(&mut nodes, F, &mut |_, directory| blobs.push(bytes(directory))).expect("a tree");
        let command = self.command();
        let action = ActionMessage {
            command: F.digest(&command),
            input_root: root,
            timeout: self.timeout,
            do_not_cache: false,
            salt: self.salt.as_bytes(),
            platform: self.platform.iter().map(|(name, value)| (&**name, &**value)).collect(),
        }
        .encode();
        blobs.extend([bytes(&command), bytes(&action)]);
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by(|a, b| a.digest == b.digest);
        RemoteRequest {
            run: run_id(),
            who: who(F.digest(&action)),
            blobs,
            outputs: self.outputs.clone(),
            depfile: self.depfile.map(path),
            platform: self.platform.clone(),
            skip_cache_lookup: self.skip_cache_lookup,
        }
    }
}

pub fn exit_code(report: &ExecutionReport) -> i32 {
    match &report.status {
        ExecutionStatus::Exited(code) => *code,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&report.stderr)),
    }
}

pub fn infrastructure(report: &ExecutionReport) -> &str {
    match &report.status {
        ExecutionStatus::Infrastructure(why) => why,
        other => panic!("{other:?}"),
    }
}

pub fn content(report: &ExecutionReport, name: &str) -> Content {
    let found = report.outputs.iter().find(|found| found.meta.path.as_str() == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:?}")).meta.content.clone()
}

/// A file output nobody made.
pub fn file_output(name: &str, bytes: &[u8]) -> FoundOutput {
    let content = Content::File { digest: F.digest(bytes), executable: false };
    FoundOutput { meta: minibuild_core::OutputMeta { path: path(name), content }, stamps: Vec::new() }
}

/// An HTTP server of these files, which believes anything.
pub fn serve_files(files: std::collections::BTreeMap<String, Vec<u8>>) -> std::net::SocketAddr {
    serve_http(move |request| match files.get(request.path()) {
        Some(bytes) => HttpAnswer { body: bytes.clone(), ..HttpAnswer::status("200 OK") },
        None => HttpAnswer::status("404 Not Found"),
    })
}

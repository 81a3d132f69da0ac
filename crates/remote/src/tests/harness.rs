//! A server in this process and a client for it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use minibuild_core::{Blob, BlobSource, Digest, DigestFunction, RemoteEvent, Requester, WsPath};
use minibuild_disk::{DiskError, FileClock, FsInstant, OutTree, fingerprint_behind};
use minibuild_server::{Inject, Listen, MethodCount, Running, Server, ServerConfig};
use minibuild_testkit::free_port;
use tokio::runtime::Runtime;

use crate::answer::Sink;
use crate::cache::{EnsureFailure, ReadFailure};
use crate::cas::GrpcCas;
use crate::config::{RemoteConfig, Tls};
use crate::endpoint::Endpoint;
use crate::error::ConfigError;
use crate::grpc::Grpc;
use crate::http::HttpCache;

pub(super) const F: DigestFunction = DigestFunction::Sha256;

pub(super) struct Fixture {
    server: Option<Running>,
    pub(super) runtime: Runtime,
    pub(super) grpc: Arc<Grpc>,
    pub(super) cas: GrpcCas,
    pub(super) dir: tempfile::TempDir,
    pub(super) told: Arc<Mutex<Vec<String>>>,
}

struct Clock;
impl FileClock for Clock {
    fn now(&self) -> Result<FsInstant, DiskError> {
        Ok(FsInstant::of_all_devices(i64::MAX, Duration::from_millis(20)))
    }
}

/// What the client of a test is made of, but for the server's address.
pub(super) fn config(workspace: &Path) -> RemoteConfig {
    RemoteConfig {
        keeper: None,
        executor: None,
        cache: None,
        instance: String::new(),
        headers: Vec::new(),
        timeout: Duration::from_secs(20),
        retries: 5,
        connections: 1,
        cancel: false,
        function: F,
        may_change_function: false,
        compression: false,
        tls: Tls::default(),
        credential_helper: None,
        priority: 0,
        invocation: "build-1".to_owned(),
        tree: Arc::new(OutTree::open(workspace).expect("opens")),
        clock: Arc::new(Clock),
    }
}

pub(super) fn server() -> Fixture {
    Fixture::new("", |_| {})
}

pub(super) fn with_faults(faults: &str) -> Fixture {
    Fixture::new(faults, |_| {})
}

fn start(listen: Listen, dir: &Path, faults: &str) -> Running {
    let mut config = ServerConfig::new(listen, dir.join("server"), 0);
    config.inject = Some(Inject::parse(faults).expect("faults"));
    Server::start(config).expect("starts")
}

impl Fixture {
    /// A server with faults and a client of a configuration changed by `edit`.
    pub(super) fn new(faults: &str, edit: impl FnOnce(&mut RemoteConfig)) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let server = start(free_port().to_string().parse().expect("an address"), dir.path(), faults);
        let address = server.address().to_string();
        Self::client(dir, Some(server), &address, edit)
    }

    /// A client of whatever listens at an address.
    pub(super) fn of(address: &str, edit: impl FnOnce(&mut RemoteConfig)) -> Self {
        Self::client(tempfile::tempdir().expect("temp dir"), None, address, edit)
    }

    fn client(
        dir: tempfile::TempDir,
        server: Option<Running>,
        address: &str,
        edit: impl FnOnce(&mut RemoteConfig),
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads");
        let workspace = dir.path().join("workspace");
        std::fs::create_dir(&workspace).expect("made");
        let mut config = config(&workspace);
        edit(&mut config);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let told = Arc::clone(&told);
            move |event| match event {
                // Beside the message that says why.
                RemoteEvent::Outage { .. } => {}
                RemoteEvent::Message { text, .. } => told.lock().expect("no panic").push(text),
                other => panic!("{other:?}"),
            }
        };
        let endpoint = Endpoint::parse(address).expect("an address");
        let inside = runtime.enter();
        let grpc = Grpc::new(&config, &endpoint, Arc::new(tell)).expect("a configuration");
        let cas = GrpcCas::new(Arc::clone(&grpc), workspace, config.compression);
        drop(inside);
        Self { server, runtime, grpc, cas, dir, told }
    }

    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(super) fn server(&self) -> &Running {
        self.server.as_ref().expect("runs")
    }

    pub(super) fn stop(&mut self) {
        self.server.take().expect("runs").shutdown();
    }

    /// Starts another server where the one that was stopped has been.
    pub(super) fn start_again(&mut self, faults: &str) {
        let address = self.grpc.endpoint().parse().expect("an address");
        self.server = Some(start(address, self.dir.path(), faults));
    }

    /// Ends the server and starts another one on the same port in its directory.
    pub(super) fn restart(&mut self, faults: &str) {
        self.stop();
        self.start_again(faults);
    }

    pub(super) fn count(&self, method: &str) -> MethodCount {
        self.server().counters().methods.get(method).copied().unwrap_or_default()
    }

    pub(super) fn workspace(&self) -> std::path::PathBuf {
        self.dir.path().join("workspace")
    }

    /// A file of the workspace as a blob.
    pub(super) fn file(&self, path: &str, bytes: &[u8], with_fingerprint: bool) -> Blob {
        let at = self.workspace().join(path);
        std::fs::write(&at, bytes).expect("written");
        let fingerprint = with_fingerprint.then(|| fingerprint_behind(&at).expect("is there"));
        let path = WsPath::new(path).expect("a path");
        Blob { digest: F.digest(bytes), source: BlobSource::File { path, fingerprint } }
    }

    pub(super) fn ensure(&self, blobs: &[Blob]) -> Result<(), crate::EnsureError> {
        self.run(self.cas.ensure(&who(), blobs, &|_, _| {}))
    }

    pub(super) fn read(&self, digest: Digest) -> Result<Vec<u8>, crate::ReadError> {
        self.run(self.cas.read(&who(), digest, u64::MAX)).map(|bytes| bytes.to_vec())
    }

    /// Downloads into a file and reads that.
    pub(super) fn download(&self, digest: Digest) -> Result<Vec<u8>, crate::ReadError> {
        let path = self.dir.path().join("download");
        let file = std::fs::File::create(&path).expect("created");
        self.run(self.cas.download(&who(), digest, file))?;
        Ok(std::fs::read(&path).expect("is there"))
    }

    /// Stores blobs by way of a client without faults in between; they are there afterwards.
    pub(super) fn put(&self, bytes: &[u8]) -> Digest {
        let blob = blob(bytes);
        self.ensure(std::slice::from_ref(&blob)).expect("stored");
        blob.digest
    }

    pub(super) fn told(&self) -> Vec<String> {
        self.told.lock().expect("no panic").clone()
    }
}

pub(super) fn who() -> Requester {
    Requester { label: "//a:b".into(), mnemonic: "Genrule".into(), key: F.digest(b"an action") }
}

pub(super) fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: F.digest(bytes), source: BlobSource::Bytes(bytes.into()) }
}

pub(super) fn elsewhere(digest: Digest) -> Blob {
    Blob { digest, source: BlobSource::Elsewhere }
}

/// Bytes that do not compress, the same each time.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64).map(|at| crate::backoff::mix(at ^ crate::backoff::mix(seed)));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

/// An HTTP cache of whatever listens at an address.
pub(super) struct Http {
    runtime: Runtime,
    pub(super) cache: HttpCache,
    dir: tempfile::TempDir,
}

impl Http {
    pub(super) fn new(url: &str, edit: impl FnOnce(&mut RemoteConfig)) -> Self {
        Self::open(url, edit).expect("a configuration")
    }

    pub(super) fn open(url: &str, edit: impl FnOnce(&mut RemoteConfig)) -> Result<Self, ConfigError> {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut config = config(dir.path());
        edit(&mut config);
        let Endpoint::Http(endpoint) = Endpoint::parse(url).expect("an address") else { panic!("{url}: not HTTP") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cache = crate::http::open(&config, &endpoint, &(Arc::new(|_| {}) as Sink))?;
        Ok(Self { runtime, cache, dir })
    }

    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(super) fn ensure(&self, blobs: &[Blob]) -> Result<(), EnsureFailure> {
        self.run(self.cache.ensure(&who(), blobs, &|_, _| {}))
    }

    pub(super) fn read(&self, digest: Digest) -> Result<Vec<u8>, ReadFailure> {
        self.run(self.cache.read(digest)).map(|bytes| bytes.to_vec())
    }

    /// A file of the workspace as a blob.
    pub(super) fn file(&self, path: &str, bytes: &[u8]) -> Blob {
        std::fs::write(self.dir.path().join(path), bytes).expect("written");
        let path = WsPath::new(path).expect("a path");
        Blob { digest: F.digest(bytes), source: BlobSource::File { path, fingerprint: None } }
    }
}

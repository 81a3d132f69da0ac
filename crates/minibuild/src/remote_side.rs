//! The remote side of a build, from its settings: what it is wanted for, the client, and the embedded server.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use minibuild_core::{
    CacheLookup, DigestFunction, ExistenceCheck, FetchId, FetchRequest, Level, RemoteEvent, RemoteRequest, RemoteSide,
    RemoteSink, RunId, STATE_ROOT, StagingRequest, StopReason, UploadCounts, UploadRequest, Urgency, shown_url,
};
use minibuild_disk::{FileClock, Keep, OutTree, read_regular_file};
use minibuild_engine::machine::{Dynamic, Lease, RacePolicy, RemoteGoals, Strategies, Strategy, Uploads};
use minibuild_loader::{DynamicPolicy, OnRemoteFailure, RemoteSettings, Settings, UploadLocalResults};
use minibuild_remote::{RemoteClient, RemoteConfig, Tls};
use minibuild_server::{Listen, Running, Server, ServerConfig};

use crate::workspace;

/// The word for the server inside the build.
const EMBEDDED: &str = "embedded";
/// Endpoints that are known to want BLAKE3, one a line; in the state's directory.
const BLAKE3_SERVERS: &str = "blake3-servers";

/// What the settings want of the remote side; `None` where there is none.
///
/// # Errors
/// Settings that contradict each other.
pub fn goals(settings: &Settings, function: DigestFunction) -> Result<Option<RemoteGoals>, String> {
    let remote = &settings.remote;
    let wants_remote = settings.strategy.iter().chain(settings.strategy_by_mnemonic.values());
    if wants_remote.into_iter().any(|side| *side == minibuild_loader::Strategy::Remote)
        && (remote.executor.is_none() || remote.offline)
    {
        let why = if remote.offline { "nothing remote may be used" } else { "no remote executor is set" };
        return Err(format!("the strategy is `remote`, but {why}\nhint: `--remote-executor=embedded` needs no server"));
    }
    let Some(endpoint) = endpoint(remote).filter(|_| !remote.offline) else {
        return Ok(None);
    };
    let caches = !remote.cache_off;
    let uploads = match remote.upload_local_results {
        _ if !caches => Uploads::Never,
        UploadLocalResults::Never => Uploads::Never,
        UploadLocalResults::Always => Uploads::Always,
        UploadLocalResults::Auto if remote.executor.is_some() => Uploads::Hermetic,
        UploadLocalResults::Auto => Uploads::Always,
    };
    Ok(Some(RemoteGoals {
        store: format!("{} {} {}", endpoint, remote.instance, function_name(function)),
        executes: remote.executor.is_some(),
        caches,
        jobs: remote.jobs as usize,
        uploads,
        waits_for_uploads: remote.wait_for_uploads,
        falls_back: settings.on_remote_failure == OnRemoteFailure::Fallback,
        lease: lease(remote, &endpoint),
    }))
}

/// How outputs that only the store has are kept alive. A store without batches would be asked for each blob by itself.
fn lease(remote: &RemoteSettings, endpoint: &str) -> Option<Lease> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let is_wanted = !remote.lease.is_zero() && !endpoint.starts_with("http");
    is_wanted.then_some(Lease { interval: remote.lease, now_unix: now.as_secs() })
}

/// Where actions are meant to run. Without an executor that is here.
pub fn strategies(settings: &Settings) -> Strategies {
    let strategy = |side| match side {
        minibuild_loader::Strategy::Local => Strategy::Local,
        minibuild_loader::Strategy::Remote => Strategy::Remote,
        minibuild_loader::Strategy::Dynamic => Strategy::Dynamic,
    };
    let by_mnemonic = settings.strategy_by_mnemonic.iter().map(|(name, side)| (name.clone(), strategy(*side)));
    // No rule has the empty mnemonic.
    Strategies { default: strategy(settings.strategy_of("")), by_mnemonic: by_mnemonic.collect() }
}

/// How what may run on both sides is raced.
pub fn dynamic(settings: &Settings) -> Dynamic {
    let policy = match settings.dynamic.policy {
        DynamicPolicy::Race => RacePolicy::Race,
        DynamicPolicy::Adaptive => RacePolicy::Adaptive,
    };
    let duplicates = Some(f64::from(settings.dynamic.budget_percent) / 100.0);
    Dynamic { policy, compares: settings.dynamic.compare, duplicates, answer: Default::default() }
}

/// The hash function of all digests of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionChoice {
    /// The function.
    pub function: DigestFunction,
    /// Whether the server may ask for another.
    pub may_change: bool,
}

/// What the settings say, else what the server asked for in an earlier build, else SHA-256. Nothing is asked here.
pub fn choose_function(remote: &RemoteSettings, state_dir: &Path) -> FunctionChoice {
    if let Some(function) = remote.digest_function {
        return FunctionChoice { function, may_change: false };
    }
    let is_remembered = || {
        let endpoint = endpoint(remote)?;
        let text = read_servers(state_dir)?;
        text.lines().any(|line| line == endpoint).then_some(DigestFunction::Blake3)
    };
    FunctionChoice { function: is_remembered().unwrap_or_default(), may_change: true }
}

fn read_servers(state_dir: &Path) -> Option<String> {
    String::from_utf8(read_regular_file(&state_dir.join(BLAKE3_SERVERS)).ok()?).ok()
}

/// Remembers what the server asked for. Should it not be possible, the next build is told again.
pub fn remember_function(remote: &RemoteSettings, state_dir: &Path, function: DigestFunction) {
    let Some(endpoint) = endpoint(remote) else { return };
    let path = state_dir.join(BLAKE3_SERVERS);
    let text = read_servers(state_dir).unwrap_or_default();
    let others: String = text.lines().filter(|line| *line != endpoint).map(|line| format!("{line}\n")).collect();
    let _ =
        std::fs::write(path, if function == DigestFunction::Blake3 { format!("{others}{endpoint}\n") } else { others });
}

/// The endpoint of blobs, as it may be shown.
pub fn endpoint(remote: &RemoteSettings) -> Option<String> {
    remote.cache.as_ref().or(remote.executor.as_ref()).map(|endpoint| shown_url(endpoint))
}

fn function_name(function: DigestFunction) -> &'static str {
    match function {
        DigestFunction::Sha256 => "sha256",
        DigestFunction::Blake3 => "blake3",
    }
}

/// What the client of one build needs besides its settings.
pub struct Parts {
    /// Unique id of the build.
    pub build_id: String,
    /// The hash function of all digests.
    pub function: FunctionChoice,
    /// The output tree.
    pub tree: Arc<OutTree>,
    /// The file system's clock.
    pub clock: Arc<dyn FileClock>,
    /// Who takes over what a lost branch brought.
    pub keeper: Arc<dyn Keep>,
    /// Where its events go.
    pub sink: RemoteSink,
}

/// The remote side of these settings. Nothing is connected or started yet.
///
/// # Errors
/// What is wrong with the settings.
pub fn open(settings: &Settings, parts: Parts) -> Result<Box<dyn RemoteSide>, String> {
    let remote = &settings.remote;
    let is_embedded = remote.executor.as_deref() == Some(EMBEDDED);
    let dir = parts.tree.workspace().join(STATE_ROOT).join(EMBEDDED);
    let socket = if is_embedded { Some(Socket::at(&dir)?) } else { None };
    let executor = match &socket {
        Some(socket) => Some(format!("unix://{}", socket.path.display())),
        None => remote.executor.clone(),
    };
    let sink = parts.sink.clone();
    let client = RemoteClient::open(config(remote, executor, parts), sink.clone()).map_err(|e| e.to_string())?;
    let Some(socket) = socket else { return Ok(Box::new(client)) };
    let workers = settings.jobs.map_or_else(workspace::cores, |jobs| jobs as usize);
    let server = ServerConfig::new(Listen::Unix(socket.path.clone()), dir, workers);
    Ok(Box::new(Embedded { client, server: Mutex::new(Embed::Wanted(Box::new(server))), sink, _socket: socket }))
}

fn config(remote: &RemoteSettings, executor: Option<String>, parts: Parts) -> RemoteConfig {
    RemoteConfig {
        executor,
        cache: remote.cache.clone(),
        instance: remote.instance.clone(),
        headers: remote.headers.0.clone().into_iter().collect(),
        timeout: remote.timeout,
        retries: remote.retries,
        connections: remote.connections,
        cancel: remote.cancel || remote.executor.as_deref() == Some(EMBEDDED),
        function: parts.function.function,
        may_change_function: parts.function.may_change,
        compression: remote.compression && remote.executor.as_deref() != Some(EMBEDDED),
        tls: Tls {
            ca: remote.tls_ca.clone(),
            certificate: remote.tls_certificate.clone(),
            key: remote.tls_key.clone(),
            server_name: remote.tls_server_name.clone(),
        },
        credential_helper: remote.credential_helper.clone(),
        priority: remote.priority,
        invocation: parts.build_id,
        tree: parts.tree,
        clock: parts.clock,
        keeper: Some(parts.keeper),
    }
}

/// A socket in a directory whose path may be longer than a socket's may be: it is reached through the descriptor.
struct Socket {
    path: PathBuf,
    _dir: File,
}

impl Socket {
    fn at(dir: &Path) -> Result<Self, String> {
        let open = || {
            std::fs::create_dir_all(dir)?;
            File::open(dir)
        };
        let opened = open().map_err(|e| format!("`{}` cannot be made: {e}", dir.display()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/socket", opened.as_raw_fd()));
        Ok(Self { path, _dir: opened })
    }
}

/// A client with a server in this process, which is started by the first request.
struct Embedded {
    client: RemoteClient,
    server: Mutex<Embed>,
    sink: RemoteSink,
    _socket: Socket,
}

enum Embed {
    Wanted(Box<ServerConfig>),
    Running(Running),
    Failed,
}

impl Embedded {
    /// The client, once the server runs. Without one each request fails like one of a server that is down.
    fn client(&self) -> &RemoteClient {
        let mut server = self.server.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Embed::Wanted(_) = &*server
            && let Embed::Wanted(config) = std::mem::replace(&mut *server, Embed::Failed)
        {
            match Server::start(*config) {
                Ok(running) => *server = Embed::Running(running),
                Err(error) => {
                    let text = format!("the embedded server cannot be started: {error}");
                    (self.sink)(RemoteEvent::Message { level: Level::Error, text });
                }
            }
        }
        &self.client
    }
}

impl RemoteSide for Embedded {
    fn look_up(&self, lookup: CacheLookup) {
        self.client().look_up(lookup);
    }

    fn start(&self, request: RemoteRequest) {
        self.client().start(request);
    }

    fn stop(&self, run: RunId, reason: StopReason) {
        self.client.stop(run, reason);
    }

    fn fetch(&self, request: FetchRequest) {
        self.client().fetch(request);
    }

    fn hurry(&self, fetch: FetchId, urgency: Urgency) {
        self.client.hurry(fetch, urgency);
    }

    fn stop_fetches(&self) {
        self.client.stop_fetches();
    }

    fn stage(&self, request: StagingRequest) {
        self.client().stage(request);
    }

    fn stop_staging(&self, run: RunId) {
        self.client.stop_staging(run);
    }

    fn publish(&self, run: RunId, staged: RunId) {
        self.client.publish(run, staged);
    }

    fn unstage(&self, staged: RunId) {
        self.client.unstage(staged);
    }

    fn keep_staged(&self, staged: RunId) {
        self.client.keep_staged(staged);
    }

    fn check(&self, check: ExistenceCheck) {
        self.client().check(check);
    }

    fn probe(&self) {
        self.client().probe();
    }

    fn upload(&self, request: UploadRequest) {
        self.client().upload(request);
    }

    fn transfer_counts(&self) -> UploadCounts {
        RemoteSide::transfer_counts(&self.client)
    }

    fn received(&self) -> u64 {
        RemoteSide::received(&self.client)
    }

    fn shutdown(&mut self) {
        RemoteSide::shutdown(&mut self.client);
        let server = self.server.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Embed::Running(running) = std::mem::replace(server, Embed::Failed) {
            running.shutdown();
        }
    }
}

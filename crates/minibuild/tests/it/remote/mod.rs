//! Builds with a remote side: the binary against a server in this process.

mod cache_only;
mod cache_peers;
mod conformance;
mod credential_helpers;
mod cuts;
mod downloads;
mod edits;
mod exactness;
mod faults;
mod healing;
mod kills;
mod peers;
mod races;
mod selection;
mod sides;
mod transfers;

use std::cell::RefCell;

use minibuild_server::{Counts, Inject, Listen, Running, Server, ServerConfig};
use minibuild_testkit::{Event, Run, Running as Build, Workspace, free_port};
use tempfile::TempDir;

use crate::basics::chain;

/// A server with a port of its own, which can be taken down and brought back on the same port.
pub(crate) struct Remote {
    server: RefCell<Option<Running>>,
    listen: Listen,
    dir: TempDir,
    change: Box<dyn Fn(&mut ServerConfig)>,
}

impl Remote {
    fn new() -> Self {
        Self::with("")
    }

    /// A server with faults.
    pub(crate) fn with(inject: &str) -> Self {
        Self::configured(inject, |_| {})
    }

    /// A server with faults and another configuration.
    fn configured(inject: &str, change: impl Fn(&mut ServerConfig) + 'static) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let listen = free_port().to_string().parse().expect("an address");
        let remote = Self { server: RefCell::new(None), listen, dir, change: Box::new(change) };
        let server = remote.serve(inject);
        let listen = server.address().clone();
        Self { server: RefCell::new(Some(server)), listen, ..remote }
    }

    fn serve(&self, inject: &str) -> Running {
        let mut config = ServerConfig::new(self.listen.clone(), self.dir.path().join("server"), 2);
        config.helper = env!("CARGO_BIN_EXE_minibuild").into();
        config.inject = Some(Inject::parse(inject).expect("faults"));
        (self.change)(&mut config);
        Server::start(config).expect("the server starts")
    }

    /// Takes the server down.
    fn stop(&self) {
        if let Some(server) = self.server.borrow_mut().take() {
            server.shutdown();
        }
    }

    /// Brings it back, with what it stored and other faults.
    fn restart(&self, inject: &str) {
        self.stop();
        let server = self.serve(inject);
        *self.server.borrow_mut() = Some(server);
    }

    fn counts(&self) -> Counts {
        self.server.borrow().as_ref().expect("the server is up").counters()
    }

    /// Calls of these methods since the server's start.
    fn calls(&self, methods: &[&str]) -> u64 {
        let counts = self.counts();
        methods.iter().map(|method| counts.calls(method)).sum()
    }

    /// All calls since the server's start.
    fn all_calls(&self) -> u64 {
        self.counts().methods.values().map(|count| count.calls).sum()
    }

    /// Bytes of blobs it sent in streams and batches since its start.
    fn sent(&self) -> u64 {
        let counts = self.counts();
        let of = |method: &str| counts.methods.get(method).map_or(0, |count| count.bytes_out);
        of("Read") + of("BatchReadBlobs")
    }

    /// Commands it ran since its start.
    fn ran(&self) -> u64 {
        self.counts().actions.run
    }

    /// Loses everything.
    fn evict_all(&self) {
        self.server.borrow().as_ref().expect("the server is up").evict_all();
    }

    /// `grpc://HOST:PORT`, or `grpcs://` of a server with a certificate.
    fn url(&self) -> String {
        self.server.borrow().as_ref().map_or_else(|| self.listen.to_string(), Running::url)
    }

    pub(crate) fn executor(&self) -> String {
        format!("--remote-executor={}", self.url())
    }

    pub(crate) fn cache(&self) -> String {
        format!("--remote-cache={}", self.url())
    }

    /// A build whose actions run remotely.
    #[track_caller]
    fn build(&self, ws: &Workspace, args: &[&str]) -> Run {
        self.start(ws, args).wait()
    }

    /// Starts such a build.
    #[track_caller]
    fn start(&self, ws: &Workspace, args: &[&str]) -> Build {
        ws.start_build(&[&[&*self.executor(), "--strategy=remote", "--on-remote-failure=fail"], args].concat())
    }

    /// A build that runs here and uses the server as a cache.
    #[track_caller]
    pub(crate) fn build_cached(&self, ws: &Workspace, args: &[&str]) -> Run {
        ws.build(&[&[&*self.cache()], args].concat())
    }
}

/// Who made the result of each completed action, by label.
fn runners(run: &Run) -> Vec<(&str, &str)> {
    let completed = run.events.iter().filter_map(|event| match event {
        Event::ActionCompleted { label, runner, .. } => Some((label.as_str(), runner.as_str())),
        _ => None,
    });
    let mut list: Vec<_> = completed.collect();
    list.sort_unstable();
    list
}

/// Paths of downloaded files below `minibuild-out/bin/`, with the reason, sorted.
fn downloaded(run: &Run) -> Vec<(&str, &str)> {
    let files = run.events.iter().filter_map(|event| match event {
        Event::FileDownloaded { path, why, .. } => {
            Some((path.strip_prefix("minibuild-out/bin/").unwrap_or(path), why.as_str()))
        }
        _ => None,
    });
    let mut list: Vec<_> = files.collect();
    list.sort_unstable();
    list
}

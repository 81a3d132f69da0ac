//! Starting and stopping a server.
//!
//! It does not know what the services do.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use minibuild_disk::DiskError;
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::proto::longrunning::operations_server::OperationsServer;
use minibuild_reapi::transfer::{ByteStreamServer, start_runtime};
use proto::action_cache_server::ActionCacheServer;
use proto::capabilities_server::CapabilitiesServer;
use proto::content_addressable_storage_server::ContentAddressableStorageServer;
use proto::execution_server::ExecutionServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::config::{Listen, ServerConfig};
use crate::counters::{Counters, Counts};
use crate::execution::{Board, Workers};
use crate::faults::Faults;
use crate::front;
use crate::inject::Inject;
use crate::services::{
    ActionCacheService, ByteStreamService, CapabilitiesService, CasService, ExecutionService, OperationsService,
    http_router,
};
use crate::shared::Shared;
use crate::store::{Store, render};
use crate::tls::{self, TlsError};

/// Bytes of one message a client may send: a batch and a lot of digests around it.
const MAX_MESSAGE: usize = 16 << 20;
/// Bytes of one HTTP/2 frame a client may send: fewer and larger ones cost less than the default of 16 KiB.
const FRAME: u32 = 1 << 20;
/// Threads for reading and writing blobs at most.
const MOST_BLOCKING: usize = 512;
/// How long calls may go on after a shutdown was asked for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Others than this machine would reach it.
    #[error(
        "`{0}` can be reached by others than this machine, and nothing protects it\n\
         hint: listen on 127.0.0.1, or protect it with `--tls-certificate`, or allow it with `--insecure`"
    )]
    Exposed(Listen),
    /// The address cannot be listened on.
    #[error("cannot listen on `{0}`: {1}")]
    Listen(Listen, io::Error),
    /// The directory cannot be used.
    #[error("{}", render(.0))]
    Disk(#[from] DiskError),
    /// The certificates are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS is for TCP.
    #[error("`{0}` is reached without TLS\nhint: leave out `--tls-certificate`, or listen on a TCP address")]
    TlsOnSocket(Listen),
    /// No threads.
    #[error("cannot start the threads of the server: {0}")]
    Threads(io::Error),
}

/// Makes running servers.
pub struct Server;

impl Server {
    /// Starts a server with threads of its own.
    ///
    /// # Errors
    /// A [`StartError`] saying what is in the way.
    pub fn start(config: ServerConfig) -> Result<Running, StartError> {
        let tls = acceptor(&config)?;
        let dir = absolute(&config.dir)?;
        let store = Arc::new(Store::open(&dir, config.size_limit)?);
        let work = dir.join("work");
        minibuild_disk::remove_all(&work)?;
        let inject = config.inject.unwrap_or_default();
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(shared(store, config.workers, &inject, config.log, stopped.clone()));
        let workers = Arc::new(Workers::new(Arc::clone(&shared), work, config.helper, config.helper_args));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let runtime = start_runtime("server", cores, MOST_BLOCKING).map_err(StartError::Threads)?;
        let is_secure = tls.is_some();
        let (listener, address) = runtime.block_on(listen(config.listen, tls))?;
        let routes = front::guard(routes(&shared, &workers), &shared);
        let serve = std::thread::Builder::new().name("server".into()).spawn(move || {
            let served = runtime.block_on(serve(listener, routes, stopped));
            runtime.shutdown_timeout(PATIENCE);
            served
        });
        let serve = serve.map_err(StartError::Threads)?;
        Ok(Running { address, is_secure, shared, workers, stop, serve: Some(serve) })
    }
}

/// A server that runs until it is shut down or dropped.
pub struct Running {
    address: Listen,
    is_secure: bool,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    stop: watch::Sender<bool>,
    serve: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
}

impl Running {
    /// Where it listens, the port as it turned out.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// How clients name it: `grpc://127.0.0.1:8980`, `grpcs://127.0.0.1:8980` with TLS, or `unix:///path`.
    pub fn url(&self) -> String {
        match &self.address {
            Listen::Tcp(address) if self.is_secure => format!("grpcs://{address}"),
            address => address.to_string(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counts {
        self.shared.counters.snapshot()
    }

    /// Bytes and number of blobs and results in the store.
    pub fn usage(&self) -> (u64, usize) {
        self.shared.store.usage()
    }

    /// Removes everything from the store that is not in use, as a fault would.
    pub fn evict_all(&self) {
        self.shared.store.evict_all();
    }

    /// Stops taking calls, kills what runs, lets open calls end for a while, and waits for all threads.
    pub fn shutdown(mut self) {
        self.stop_all();
    }

    fn stop_all(&mut self) {
        let Some(serve) = self.serve.take() else { return };
        self.shared.board.stop();
        self.stop.send_replace(true);
        self.workers.join();
        // An error of a connection is not one of the server.
        let _ = serve.join();
        if let Listen::Unix(path) = &self.address {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop_all();
    }
}

fn shared(
    store: Arc<Store>,
    workers: usize,
    inject: &Inject,
    log: Option<crate::LogSink>,
    stopped: watch::Receiver<bool>,
) -> Shared {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let prefix = format!("{:x}-{:x}", now.as_nanos(), std::process::id());
    Shared {
        store,
        board: Arc::new(Board::new(workers, prefix)),
        uploads: Arc::default(),
        faults: Faults::new(inject),
        pretence: inject.server.clone(),
        counters: Counters::default(),
        log,
        stopped,
    }
}

/// All services, the HTTP cache behind them.
fn routes(shared: &Arc<Shared>, workers: &Arc<Workers>) -> Routes {
    let share = || Arc::clone(shared);
    let cas = ContentAddressableStorageServer::new(CasService(share()));
    let bytes = ByteStreamServer::new(ByteStreamService(share()), MAX_MESSAGE);
    let cache = ActionCacheServer::new(ActionCacheService(share()));
    let execution = ExecutionService { shared: share(), workers: Arc::clone(workers) };
    Routes::from(http_router(share()))
        .add_service(cas.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
        .add_service(bytes)
        .add_service(cache.max_decoding_message_size(MAX_MESSAGE))
        .add_service(CapabilitiesServer::new(CapabilitiesService(share())))
        .add_service(ExecutionServer::new(execution))
        .add_service(OperationsServer::new(OperationsService(share())))
}

/// What TLS needs, where it is wanted; it has to be where nothing else protects the server.
fn acceptor(config: &ServerConfig) -> Result<Option<TlsAcceptor>, StartError> {
    match (&config.tls, &config.listen) {
        (Some(_), Listen::Unix(_)) => Err(StartError::TlsOnSocket(config.listen.clone())),
        (Some(tls), Listen::Tcp(_)) => Ok(Some(tls::acceptor(tls)?)),
        (None, listen) if config.insecure || listen.is_private() => Ok(None),
        (None, listen) => Err(StartError::Exposed(listen.clone())),
    }
}

enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
    Unix(UnixListener),
}

async fn listen(wanted: Listen, tls: Option<TlsAcceptor>) -> Result<(Listener, Listen), StartError> {
    let fail = |wanted: &Listen| {
        let wanted = wanted.clone();
        |error| StartError::Listen(wanted, error)
    };
    match &wanted {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(fail(&wanted))?;
            let address = listener.local_addr().map_err(fail(&wanted))?;
            let listener = match tls {
                None => Listener::Tcp(listener),
                Some(tls) => Listener::Tls(listener, tls),
            };
            Ok((listener, Listen::Tcp(address)))
        }
        Listen::Unix(path) => {
            let listener = bind_socket(path).map_err(fail(&wanted))?;
            Ok((Listener::Unix(listener), wanted))
        }
    }
}

/// A socket left by a server that was killed is replaced, one that somebody listens on is not.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    if fs::symlink_metadata(path).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type())) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(
    listener: Listener,
    routes: Routes,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let mut patience = stopped.clone();
    let router = tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(FRAME)
        .add_routes(routes);
    let stop = async move {
        // An error means that nobody is left to say so.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let serving: Pin<Box<dyn Future<Output = _> + Send>> = match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Box::pin(router.serve_with_incoming_shutdown(incoming, stop))
        }
        Listener::Tls(listener, acceptor) => {
            Box::pin(router.serve_with_incoming_shutdown(tls::incoming(listener, acceptor), stop))
        }
        Listener::Unix(listener) => {
            Box::pin(router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop))
        }
    };
    let out_of_patience = async move {
        let _ = patience.wait_for(|stop| *stop).await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        served = serving => served,
        () = out_of_patience => Ok(()),
    }
}

fn absolute(dir: &Path) -> Result<PathBuf, DiskError> {
    std::path::absolute(dir).map_err(|e| DiskError::new("find", dir.display().to_string(), e))
}

//! Connections to one gRPC server: made when first needed, shared by calls, made anew when they break.
//!
//! It does not know what is called.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{self, Certificate, Channel, ClientTlsConfig, Identity};

use crate::config::Tls;
use crate::connect::{CONNECT, Destination, TcpConnector};
use crate::endpoint::Endpoint;
use crate::error::ConfigError;
use crate::headers::USER_AGENT;
use crate::tls::{Pem, unusable};

/// Bytes a server may send ahead of our reading, of one stream and of all.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Servers allow a hundred streams on a connection, mostly; what is above would wait.
const STREAMS: usize = 90;

/// How a server is connected to.
#[derive(Clone)]
pub(crate) struct Transport {
    endpoint: transport::Endpoint,
    /// `None` for a Unix socket.
    tcp: Option<TcpConnector>,
}

/// A number of connections that calls share.
pub(crate) struct Pool {
    transport: Transport,
    /// Whether connections are asked for signs of life while streams wait.
    pings: AtomicBool,
    timeout: Duration,
    /// As many are made while all that exist are in use.
    spread: usize,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Clone)]
struct Slot {
    channel: Channel,
    calls: Arc<AtomicUsize>,
}

/// The use of a connection by one call.
pub(crate) struct Lease(Slot);

impl Lease {
    /// The connection.
    pub(crate) fn channel(&self) -> Channel {
        self.0.channel.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool that begins with `spread` connections when there is use for them, and grows where servers would make
    /// streams wait.
    pub(crate) fn new(transport: Transport, spread: usize, timeout: Duration) -> Self {
        Self { transport, pings: AtomicBool::new(true), timeout, spread: spread.max(1), slots: Mutex::default() }
    }

    /// The connection with the fewest calls, or a new one. Called in the runtime.
    pub(crate) fn lease(&self) -> Lease {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let best = slots.iter().min_by_key(|slot| slot.calls.load(Ordering::Relaxed));
        let enough = if slots.len() < self.spread { 1 } else { STREAMS };
        let slot = match best {
            Some(slot) if slot.calls.load(Ordering::Relaxed) < enough => slot.clone(),
            _ => {
                let slot = Slot { channel: self.connect(), calls: Arc::default() };
                slots.push(slot.clone());
                slot
            }
        };
        slot.calls.fetch_add(1, Ordering::Relaxed);
        Lease(slot)
    }

    /// The server does not like to be asked whether it lives: new connections leave it alone.
    pub(crate) fn calm_down(&self) {
        if self.pings.swap(false, Ordering::Relaxed) {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// A peer that is gone is noticed while streams wait: half the time to ask, half to answer.
    fn connect(&self) -> Channel {
        let mut endpoint = self.transport.endpoint.clone();
        if self.pings.load(Ordering::Relaxed) {
            let half = (self.timeout / 2).max(Duration::from_millis(100));
            endpoint = endpoint.http2_keep_alive_interval(half).keep_alive_timeout(half);
        }
        match &self.transport.tcp {
            Some(tcp) => endpoint.connect_with_connector_lazy(tcp.clone()),
            None => endpoint.connect_lazy(),
        }
    }
}

/// How a server is connected to.
///
/// # Errors
/// [`ConfigError`] where certificates or keys cannot be used.
pub(crate) fn transport(endpoint: &Endpoint, tls: &Tls, timeout: Duration) -> Result<Transport, ConfigError> {
    let bad = |why| ConfigError::Endpoint { url: endpoint.to_string(), why };
    let (url, encrypted) = match endpoint {
        Endpoint::Grpc { authority, tls: false } => (format!("http://{authority}"), false),
        Endpoint::Grpc { authority, tls: true } => (format!("https://{authority}"), true),
        Endpoint::Unix(path) => (format!("unix://{}", path.display()), false),
        Endpoint::Http(_) => return Err(bad("gRPC is spoken by `grpc://`, `grpcs://` and `unix://`")),
    };
    let tcp = !matches!(endpoint, Endpoint::Unix(_));
    let tcp = tcp.then(|| TcpConnector::new(Destination::OfUri, timeout));
    let endpoint = transport::Endpoint::from_shared(url).map_err(|_| bad("it is no address"))?;
    let endpoint = endpoint
        .user_agent(USER_AGENT)
        .map_err(|_| bad("it is no address"))?
        .connect_timeout(CONNECT.min(timeout))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if !encrypted {
        return Ok(Transport { endpoint, tcp });
    }
    let unusable = |e: transport::Error| unusable("certificates", tls, &source_text(&e));
    let endpoint = endpoint.tls_config(client_tls(tls)?).map_err(unusable)?;
    Ok(Transport { endpoint, tcp })
}

fn client_tls(tls: &Tls) -> Result<ClientTlsConfig, ConfigError> {
    let pem = Pem::read(tls)?;
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem.authorities));
    if let Some((certificate, key)) = pem.identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    Ok(match &tls.server_name {
        Some(name) => config.domain_name(name),
        None => config,
    })
}

fn source_text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

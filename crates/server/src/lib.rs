//! The embedded Remote Execution API server.
//!
//! Capabilities, content-addressable storage, byte streams, action cache, execution and the HTTP cache protocol on
//! one address; blobs in a directory with a size limit; actions run in private directories that hold their declared
//! inputs only. [`Server::start`] is the way in. It never prints, reads no environment and knows neither workspaces
//! nor builds. [`Inject`] makes it misbehave for tests.

mod answer;
mod config;
mod counters;
mod execution;
mod faults;
mod front;
mod inject;
mod server;
mod services;
mod shared;
mod store;
mod tls;

pub use config::{Listen, ListenError, LogSink, ServerConfig};
pub use counters::{ActionCount, Counts, MethodCount};
pub use inject::{Fault, FaultKind, Inject, InjectError, Pretence};
pub use server::{Running, Server, StartError};
pub use store::StoreError;
pub use tls::{TlsConfig, TlsError};

//! The only gRPC and HTTP client: remote execution and caches of the Remote Execution API.
//!
//! [`RemoteClient`] takes the requests of `minibuild_core`'s remote port and answers each by one event. It does not
//! know targets, keys or strategies: what is asked, and what follows from an answer, is decided elsewhere.

mod backoff;
mod breaker;
mod capabilities;
mod cas;
mod channel;
mod config;
mod credentials;
mod endpoint;
mod error;
mod grpc;
mod headers;
mod metadata;

pub use config::{RemoteConfig, Tls};
pub use error::{CallError, ConfigError, EnsureError, ReadError};

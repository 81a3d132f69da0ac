//! The only gRPC and HTTP client: remote execution and caches of the Remote Execution API.
//!
//! [`RemoteClient`] takes the requests of `minibuild_core`'s remote port and answers each by one event. It does not
//! know targets, keys or strategies: what is asked, and what follows from an answer, is decided elsewhere.

mod answer;
mod assemble;
mod attempts;
mod backoff;
mod blobs;
mod breaker;
mod cache;
mod capabilities;
mod cas;
mod channel;
mod client;
mod config;
mod connect;
mod credentials;
mod endpoint;
mod error;
mod execute;
mod executor;
mod fetch;
mod grpc;
mod headers;
mod helper_run;
mod http;
mod input_root;
mod links;
mod lookup;
mod metadata;
mod notice;
mod outage;
mod pace;
mod part;
mod presence;
mod recent_clock;
mod result;
mod shared;
mod side;
mod staging;
#[cfg(test)]
mod tests;
mod tls;
mod unique;
mod upload;

pub use client::RemoteClient;
pub use config::{RemoteConfig, Tls};
pub use error::{CallError, ConfigError, EnsureError, ReadError};

//! The only gRPC and HTTP client: remote execution and caches of the Remote Execution API.
//!
//! [`RemoteClient`] takes the requests of `minibuild_core`'s remote port and answers each by one event. It does not
//! know targets, keys or strategies: what is asked, and what follows from an answer, is decided elsewhere.

mod config;

pub use config::{RemoteConfig, Tls};

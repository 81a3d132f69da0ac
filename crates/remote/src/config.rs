//! What a client is made of. It opens nothing and looks at nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::DigestFunction;
use minibuild_disk::{FileClock, Keep, OutTree};

/// What a client is made of.
#[derive(Clone)]
pub struct RemoteConfig {
    /// `grpc://host:port`, `grpcs://host:port` or, for a server of this process, `unix:///path`.
    pub executor: Option<String>,
    /// The same, or `http(s)://[user:password@]host[:port]/path`; the executor's where it is `None`.
    pub cache: Option<String>,
    /// Instance name.
    pub instance: String,
    /// Sent with every call; values are secrets.
    pub headers: Vec<(String, String)>,
    /// Longest time of a call without progress.
    pub timeout: Duration,
    /// Retries of a failed call.
    pub retries: u32,
    /// Connections to each endpoint.
    pub connections: u32,
    /// Whether `CancelOperation` is sent for what is stopped.
    pub cancel: bool,
    /// Hash function of all digests given to the client.
    pub function: DigestFunction,
    /// Whether a server that lacks the function may have another: told by [`minibuild_core::RemoteEvent::OtherFunction`].
    pub may_change_function: bool,
    /// Whether blobs are compressed where the server can.
    pub compression: bool,
    /// Of `grpcs://` and `https://`.
    pub tls: Tls,
    /// Program asked for headers, in Bazel's protocol.
    pub credential_helper: Option<String>,
    /// Priority of executions; lower is sooner.
    pub priority: i32,
    /// Unique id of this build, `tool_invocation_id`.
    pub invocation: String,
    /// The output tree: where fetched outputs go, and the workspace in which files of blobs lie.
    pub tree: Arc<OutTree>,
    /// The file system's clock.
    pub clock: Arc<dyn FileClock>,
    /// Who takes over what came and is not needed now; it is deleted where there is nobody.
    pub keeper: Option<Arc<dyn Keep>>,
}

/// TLS of an endpoint: PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate authorities; the system's where `None`.
    pub ca: Option<String>,
    /// Client certificate.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Name in the server's certificate; the host's where `None`.
    pub server_name: Option<String>,
}

impl fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Endpoints may hold a password, headers are secrets: neither is shown.
        f.debug_struct("RemoteConfig").field("instance", &self.instance).finish_non_exhaustive()
    }
}

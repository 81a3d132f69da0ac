//! What a server is made of, and where it may listen.
//!
//! It opens nothing and looks at nothing.

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::inject::Inject;
use crate::tls::TlsConfig;

/// Takes one line about each call; never called for a server that is not to tell.
pub type LogSink = Arc<dyn Fn(&str) + Send + Sync>;

/// What a server is made of.
pub struct ServerConfig {
    /// Where it listens.
    pub listen: Listen,
    /// Where its blobs, results and working directories lie. Made where it is not there.
    pub dir: PathBuf,
    /// How many actions run at once; 0 makes it a cache only.
    pub workers: usize,
    /// Blobs and results beyond this many bytes go, least recently used first.
    pub size_limit: u64,
    /// Whether it may listen where others than this machine reach it, without TLS.
    pub insecure: bool,
    /// With it connections over TCP are TLS ones.
    pub tls: Option<TlsConfig>,
    /// The program of the workers' helpers: `/proc/self/exe` for the binary itself.
    pub helper: PathBuf,
    /// Its first arguments: `__slot`.
    pub helper_args: Vec<OsString>,
    /// Faults for tests.
    pub inject: Option<Inject>,
    /// Told about each call.
    pub log: Option<LogSink>,
}

impl ServerConfig {
    /// 10 GiB.
    pub const DEFAULT_SIZE_LIMIT: u64 = 10 << 30;

    /// A server of this program, which helpers are started from as `__slot`.
    pub fn new(listen: Listen, dir: PathBuf, workers: usize) -> Self {
        Self {
            listen,
            dir,
            workers,
            size_limit: Self::DEFAULT_SIZE_LIMIT,
            insecure: false,
            tls: None,
            helper: "/proc/self/exe".into(),
            helper_args: vec!["__slot".into()],
            inject: None,
            log: None,
        }
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket, made with access for its owner only.
    Unix(PathBuf),
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address to listen on\nhint: an IP address and a port, as in `127.0.0.1:8980`, or `unix:/path`")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(ListenError(text.to_owned())) } else { Ok(Self::Unix(path.into())) };
        }
        let address = text.strip_prefix("grpc://").unwrap_or(text);
        if let Some(port) = address.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| ListenError(text.to_owned()))?;
            return Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
        address.parse().map(Self::Tcp).map_err(|_| ListenError(text.to_owned()))
    }
}

impl Listen {
    /// Whether only this machine reaches it.
    pub fn is_private(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "grpc://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, expected: Option<(&str, bool)>| {
            let parsed = text.parse::<Listen>();
            let got = parsed.as_ref().ok().map(|listen| (listen.to_string(), listen.is_private()));
            assert_eq!(got, expected.map(|(shown, private)| (shown.to_owned(), private)), "{text}");
        };
        check("127.0.0.1:8980", Some(("grpc://127.0.0.1:8980", true)));
        check("grpc://127.0.0.1:0", Some(("grpc://127.0.0.1:0", true)));
        check("localhost:1", Some(("grpc://127.0.0.1:1", true)));
        check("[::1]:8980", Some(("grpc://[::1]:8980", true)));
        check("[::ffff:127.0.0.1]:1", Some(("grpc://[::ffff:127.0.0.1]:1", true)));
        check("0.0.0.0:8980", Some(("grpc://0.0.0.0:8980", false)));
        check("[::]:8980", Some(("grpc://[::]:8980", false)));
        check("10.0.0.1:8980", Some(("grpc://10.0.0.1:8980", false)));
        check("unix:/run/x", Some(("unix:///run/x", true)));
        check("unix:///run/x", Some(("unix:///run/x", true)));
        for bad in ["", "8980", "127.0.0.1", "example.org:1", "localhost:x", "unix:", "localhost:99999"] {
            check(bad, None);
        }
    }
}

//! What goes wrong with configurations and calls.
//!
//! No message holds a secret: values of headers and passwords never come here.

use std::fmt;

use minibuild_core::{Digest, DigestFunction, WsPath, visible_line};
use minibuild_reapi::proto::{Message as _, rpc};
use minibuild_reapi::status::{missing_blobs_of, retry_delay};
use tonic::{Code, Status};

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A text that is no endpoint.
    #[error("bad endpoint `{url}`: {why}")]
    Endpoint {
        /// As it was written, without user and password.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A header that no server would take.
    #[error("bad remote header `{name}`: {why}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A certificate or key that cannot be used.
    #[error("cannot use the {what} in `{path}`: {why}")]
    Tls {
        /// `client key`, for example.
        what: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Certificate authorities are nowhere to be found.
    #[error("no certificate authorities on this machine: looked for {0}\nhint: name a PEM file in `[remote] tls_ca`")]
    NoAuthorities(String),
}

/// A call that failed, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// What the server says, or `Unavailable` where it says nothing.
    pub code: Code,
    /// Its words, or ours.
    pub message: String,
    /// Blobs it says are missing, from the details of FAILED_PRECONDITION.
    pub missing: Vec<Digest>,
    /// Which server.
    pub endpoint: String,
    /// Which method; empty where it is not about one.
    pub method: &'static str,
    /// How many times it was tried.
    pub attempts: u32,
    /// The blob it is about, where it is about one.
    pub blob: Option<Box<Digest>>,
}

impl CallError {
    /// Whether no answer could be had, as against an answer that refuses.
    pub fn is_outage(&self) -> bool {
        is_outage(self.code)
    }
}

/// Whether a code says that the server cannot serve now.
pub(crate) fn is_outage(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::Cancelled)
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.endpoint)?;
        if !self.method.is_empty() {
            write!(f, " ({})", self.method)?;
        }
        write!(f, ": {}", code_name(self.code))?;
        if !self.message.is_empty() {
            write!(f, ": {}", visible_line(&self.message))?;
        }
        if self.attempts > 1 {
            write!(f, " (tried {} times)", self.attempts)?;
        }
        if let Some(blob) = &self.blob {
            write!(f, " (blob {blob})")?;
        }
        Ok(())
    }
}

impl std::error::Error for CallError {}

/// Why blobs are not on the server after all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnsureError {
    /// The server lacks them and nobody here has them.
    #[error("{} blobs are neither here nor on the server, one of them {}", .0.len(), shown(.0))]
    Lost(Vec<Digest>),
    /// These files are no longer what they were.
    #[error("{} changed while it was used", paths(.0))]
    Changed(Vec<WsPath>),
    /// The server could not be asked, or refused.
    #[error("{0}")]
    Call(CallError),
}

/// Why a blob could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The server does not have it.
    #[error("blob {0} is not on the server")]
    Lost(Digest),
    /// What came under its name was something else, twice.
    #[error("the server sent something else under the name of blob {digest}: {why}")]
    Corrupt {
        /// What was asked for.
        digest: Digest,
        /// What came.
        why: String,
    },
    /// It is larger than the caller takes.
    #[error("blob {digest} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        digest: Digest,
        /// What the caller takes.
        limit: u64,
    },
    /// This machine could not take it: the disk is full, for example.
    #[error("cannot write blob {digest}: {why}")]
    Disk {
        /// What was asked for.
        digest: Digest,
        /// What the operating system says.
        why: String,
    },
    /// The server could not be asked, or refused.
    #[error("{0}")]
    Call(CallError),
}

fn shown(digests: &[Digest]) -> String {
    digests.first().map(ToString::to_string).unwrap_or_default()
}

fn paths(paths: &[WsPath]) -> String {
    let shown: Vec<String> = paths.iter().take(3).map(|path| format!("`{path}`")).collect();
    let more = paths.len().saturating_sub(shown.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", shown.join(", "))
}

/// The details of an error, as a message.
pub(crate) fn details(status: &Status) -> rpc::Status {
    rpc::Status::decode(status.details()).unwrap_or_default()
}

/// Blobs of one function that an error says are missing.
pub(crate) fn missing(status: &Status, function: DigestFunction) -> Vec<Digest> {
    let named = missing_blobs_of(&details(status));
    named.into_iter().filter(|(of, _)| *of == function).map(|(_, digest)| digest).collect()
}

/// How long an error asks to wait.
pub(crate) fn advised_delay(status: &Status) -> Option<std::time::Duration> {
    if status.details().is_empty() { None } else { retry_delay(&details(status)) }
}

/// What went wrong, on one line, in words that hold more than `transport error`. A server may say anything.
pub(crate) fn text_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let next = error.to_string();
        if !next.is_empty() && !text.contains(&next) {
            text = if text.is_empty() { next } else { format!("{text}: {next}") };
        }
        source = error.source();
    }
    if text.contains("InvalidContentType") {
        text.push_str(": what answers does not speak TLS");
    }
    visible_line(&text).chars().take(1000).collect()
}

/// The name of a code in the gRPC specification.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

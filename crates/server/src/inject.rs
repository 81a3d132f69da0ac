//! Faults for tests and benchmarks: what goes wrong, where and how often.
//!
//! The file that says so; what is made of it is in `faults`. It does not know what the calls are for.

use axum::http::HeaderName;
use serde::Deserialize;

/// All faults of a server, as a TOML file gives them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// Decides faults with a `probability`.
    #[serde(default)]
    pub seed: u64,
    /// What the server says of itself.
    #[serde(default)]
    pub server: Pretence,
    /// The faults; each call meets all that apply.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
}

/// What the server says of itself other than what is true.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretence {
    /// `max_batch_total_size_bytes`, obeyed too.
    pub batch_limit: Option<u64>,
    /// The only instance names that are served.
    pub instances: Option<Vec<String>>,
    /// No execution.
    #[serde(default)]
    pub cache_only: bool,
    /// No compressors.
    #[serde(default)]
    pub no_zstd: bool,
    /// `sha256` or `blake3`: the only function.
    pub digest_function: Option<String>,
    /// No resumption of uploads: a partial one is refused and forgotten.
    #[serde(default)]
    pub no_resume: bool,
    /// Results are taken and given out as they come: with bad paths, trees that are none, blobs that are not there.
    #[serde(default)]
    pub unchecked: bool,
    /// Headers each call has to have, as `authorization=Bearer abc`; without them it is UNAUTHENTICATED.
    #[serde(default)]
    pub require: Vec<String>,
}

/// One kind of fault and when it strikes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// Only calls of this method, such as `Read`.
    pub method: Option<String>,
    /// Only blobs and actions whose hash starts so.
    pub digest: Option<String>,
    /// Only actions whose command line holds this text.
    pub command: Option<String>,
    /// Not the first so many times.
    #[serde(default)]
    pub after: u64,
    /// Every so many times; 0 and 1 are each time.
    #[serde(default)]
    pub every: u64,
    /// At most so many times; 0 is without end.
    #[serde(default)]
    pub times: u64,
    /// Once for each digest.
    #[serde(default)]
    pub once: bool,
    /// How probable it is, from 0 to 1.
    pub probability: Option<f64>,
    /// Milliseconds of `latency` and `slow`.
    #[serde(default)]
    pub ms: u64,
    /// Up to so many milliseconds more.
    #[serde(default)]
    pub jitter_ms: u64,
    /// The gRPC code of `error`, `break` and `fail`, as `UNAVAILABLE`.
    pub code: Option<String>,
    /// The advice of `error` when to try again.
    pub retry_ms: Option<u64>,
    /// Bytes that pass before `break` and `hang`; messages for streams of operations. Bytes of `short` and `long`.
    #[serde(default)]
    pub bytes: u64,
    /// Exit code of `fail`.
    pub exit_code: Option<i32>,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// A call takes longer.
    Latency,
    /// A call fails at once.
    Error,
    /// A stream breaks after some bytes.
    Break,
    /// A blob is lost when somebody wants to read it (or, with `method`, in that call only).
    Lost,
    /// A blob is served with a wrong byte.
    Corrupt,
    /// All that is not in use goes from the store when the call comes.
    Evict,
    /// The server forgets the operation when its stream begins.
    Forget,
    /// There is no answer, or no more of it, as long as the server runs.
    Hang,
    /// The answer is no message of its kind.
    Garbage,
    /// The answer comes from something else: HTTP 502 with a page for people.
    Proxy,
    /// A blob that is read ends too early, as if that were its end.
    Short,
    /// A blob that is read has more bytes than its digest says, all zero; compressed it is a bomb.
    Long,
    /// The server says what is not so, see the design.
    Lie,
    /// Blobs are refused: the store is full.
    Full,
    /// An action starts later.
    Slow,
    /// An action fails instead of being run.
    Fail,
}

/// A file of faults that is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("bad file of faults: {0}")]
pub struct InjectError(String);

impl Inject {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`InjectError`] with line and reason.
    pub fn parse(text: &str) -> Result<Self, InjectError> {
        let inject: Self = toml::from_str(text).map_err(|e| InjectError(e.to_string()))?;
        for fault in &inject.faults {
            if let Some(code) = &fault.code
                && code_number(code).is_none()
            {
                return Err(InjectError(format!("`{code}` is no gRPC code")));
            }
            if fault.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
                return Err(InjectError("a `probability` lies between 0 and 1".into()));
            }
        }
        if let Some(bad) = inject.server.require.iter().find(|header| split_header(header).is_none()) {
            // Its value may be a password.
            let name = bad.split('=').next().unwrap_or_default();
            return Err(InjectError(format!("the header that starts with `{name}` is not NAME=VALUE")));
        }
        match &inject.server.digest_function {
            Some(name) if name != "sha256" && name != "blake3" => {
                Err(InjectError(format!("`{name}` is no digest function here")))
            }
            _ => Ok(inject),
        }
    }
}

/// Name and value of a header that is required.
pub(crate) fn split_header(text: &str) -> Option<(HeaderName, &str)> {
    let (name, value) = text.split_once('=')?;
    Some((name.parse().ok()?, value))
}

/// The number of a gRPC code.
pub(crate) fn code_number(name: &str) -> Option<i32> {
    const CODES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    CODES.iter().position(|code| *code == name).and_then(|at| i32::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_none() {
        for (text, part) in [
            ("x = 1", "unknown field"),
            ("[[fault]]\nkind = 'nothing'", "unknown variant"),
            ("[[fault]]\nkind = 'error'\ncode = 'BAD'", "`BAD` is no gRPC code"),
            ("[[fault]]\nkind = 'error'\nprobability = 2.0", "between 0 and 1"),
            ("[server]\nrequire = ['no header']", "`no header` is not NAME=VALUE"),
            ("[server]\nrequire = ['a b=secret']", "`a b` is not NAME=VALUE"),
            ("[server]\ndigest_function = 'md5'", "no digest function"),
            ("[[fault]]", "missing field"),
        ] {
            let error = Inject::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

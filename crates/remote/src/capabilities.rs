//! What a server says it can do, as far as a client has to know.
//!
//! Pure: it judges an answer and does not know how it came.

use minibuild_core::DigestFunction;
use minibuild_reapi::decode::digest_function;
use minibuild_reapi::proto::{SemVer, execution as proto};

/// The versions of the API this client speaks.
const LOWEST: (i32, i32) = (2, 0);
const HIGHEST: (i32, i32) = (2, 12);
/// Messages stay below gRPC's default of 4 MiB, and leave room for what is around the blobs.
const MOST_BATCH: u64 = (4 << 20) - (64 << 10);

/// What a server can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Bytes of blobs in one batch.
    pub(crate) batch_limit: u64,
    /// Whether streams may be compressed.
    pub(crate) zstd_streams: bool,
    /// Blobs larger than this are refused.
    pub(crate) max_blob_size: Option<u64>,
    /// Whether results may be stored.
    pub(crate) can_update_cache: bool,
    /// Whether it executes, with our function.
    pub(crate) can_execute: bool,
    /// Whether symlinks in results may be absolute.
    pub(crate) absolute_symlinks: bool,
}

impl Capabilities {
    /// Reads an answer.
    ///
    /// # Errors
    /// A sentence, where this server cannot be used with this function.
    pub(crate) fn read(answer: &proto::ServerCapabilities, function: DigestFunction) -> Result<Self, String> {
        check_version(answer)?;
        let none = proto::CacheCapabilities::default();
        let cache = answer.cache_capabilities.as_ref().unwrap_or(&none);
        check_function(&cache.digest_functions, function)?;
        let updates = cache.action_cache_update_capabilities.as_ref();
        Ok(Self {
            batch_limit: batch_limit(cache.max_batch_total_size_bytes),
            zstd_streams: cache.supported_compressors.contains(&(proto::compressor::Value::Zstd as i32)),
            max_blob_size: u64::try_from(cache.max_cas_blob_size_bytes).ok().filter(|size| *size > 0),
            can_update_cache: updates.is_some_and(|updates| updates.update_enabled),
            can_execute: answer.execution_capabilities.as_ref().is_some_and(|can| executes(can, function)),
            absolute_symlinks: cache.symlink_absolute_path_strategy
                == proto::symlink_absolute_path_strategy::Value::Allowed as i32,
        })
    }
}

fn batch_limit(stated: i64) -> u64 {
    u64::try_from(stated).ok().filter(|limit| *limit > 0).map_or(MOST_BATCH, |limit| limit.min(MOST_BATCH))
}

fn executes(can: &proto::ExecutionCapabilities, function: DigestFunction) -> bool {
    let mut offered: Vec<i32> = can.digest_functions.clone();
    if offered.is_empty() {
        offered.push(can.digest_function);
    }
    can.exec_enabled && offered.iter().any(|number| digest_function(*number) == Ok(function))
}

/// A server that names no function at all is an old one: those have SHA-256.
fn check_function(offered: &[i32], function: DigestFunction) -> Result<(), String> {
    let known = offered.iter().any(|number| digest_function(*number) == Ok(function));
    if known || (offered.is_empty() && function == DigestFunction::Sha256) {
        return Ok(());
    }
    let names: Vec<String> = offered.iter().map(|number| function_name(*number)).collect();
    Err(format!("it does not offer the digest function {}, but {}", name_of(function), names.join(", ")))
}

fn name_of(function: DigestFunction) -> &'static str {
    match function {
        DigestFunction::Sha256 => "SHA256",
        DigestFunction::Blake3 => "BLAKE3",
    }
}

fn function_name(number: i32) -> String {
    proto::digest_function::Value::try_from(number)
        .map_or_else(|_| format!("number {number}"), |value| value.as_str_name().to_owned())
}

/// A server that says no version is taken at its word.
fn check_version(answer: &proto::ServerCapabilities) -> Result<(), String> {
    let lowest = answer.deprecated_api_version.as_ref().or(answer.low_api_version.as_ref());
    let (Some(lowest), Some(highest)) = (lowest, answer.high_api_version.as_ref()) else { return Ok(()) };
    let of = |version: &SemVer| (version.major, version.minor);
    if of(lowest) <= HIGHEST && of(highest) >= LOWEST {
        return Ok(());
    }
    let shown = |(major, minor): (i32, i32)| format!("{major}.{minor}");
    Err(format!(
        "it speaks versions {} to {} of the Remote Execution API, minibuild {} to {}",
        shown(of(lowest)),
        shown(of(highest)),
        shown(LOWEST),
        shown(HIGHEST)
    ))
}

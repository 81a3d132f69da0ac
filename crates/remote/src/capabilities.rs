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
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(format!("it does not offer the digest function {}, but {names}", name_of(function)))
}

/// A function of ours that the server offers.
pub(crate) fn offered_function(answer: &proto::ServerCapabilities) -> Option<DigestFunction> {
    let offered = answer.cache_capabilities.as_ref().map(|cache| cache.digest_functions.as_slice()).unwrap_or_default();
    offered.iter().find_map(|number| digest_function(*number).ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: i32 = proto::digest_function::Value::Sha256 as i32;
    const BLAKE3: i32 = proto::digest_function::Value::Blake3 as i32;

    fn answer(edit: impl FnOnce(&mut proto::CacheCapabilities)) -> proto::ServerCapabilities {
        let mut cache = proto::CacheCapabilities { digest_functions: vec![SHA256], ..Default::default() };
        edit(&mut cache);
        proto::ServerCapabilities { cache_capabilities: Some(cache), ..Default::default() }
    }

    fn read(answer: &proto::ServerCapabilities) -> Capabilities {
        Capabilities::read(answer, DigestFunction::Sha256).expect("usable")
    }

    #[test]
    fn limits_of_batches() {
        for (stated, limit) in [(0, MOST_BATCH), (-1, MOST_BATCH), (65_536, 65_536), (i64::MAX, MOST_BATCH), (1, 1)] {
            let stated = answer(|cache| cache.max_batch_total_size_bytes = stated);
            assert_eq!(read(&stated).batch_limit, limit, "{stated:?}");
        }
    }

    #[test]
    fn functions_and_what_is_not_offered() {
        let with = |functions: &[i32]| answer(|cache| cache.digest_functions = functions.to_vec());
        assert!(Capabilities::read(&with(&[BLAKE3, SHA256]), DigestFunction::Blake3).is_ok());
        read(&with(&[]));
        let error =
            |functions: &[i32], function| Capabilities::read(&with(functions), function).expect_err("not offered");
        assert_eq!(
            error(&[2, 99], DigestFunction::Sha256),
            "it does not offer the digest function SHA256, but SHA1, number 99"
        );
        assert!(error(&[], DigestFunction::Blake3).contains("BLAKE3, but none"));
    }

    #[test]
    fn versions_have_to_overlap() {
        let version = |(major, minor)| Some(SemVer { major, minor, ..Default::default() });
        for (low, high, is_good) in [
            ((2, 0), (2, 0), true),
            ((2, 0), (2, 11), true),
            ((2, 12), (3, 0), true),
            ((2, 13), (3, 0), false),
            ((3, 0), (3, 1), false),
            ((1, 0), (1, 9), false),
        ] {
            let mut answer = answer(|_| {});
            (answer.low_api_version, answer.high_api_version) = (version(low), version(high));
            let read = Capabilities::read(&answer, DigestFunction::Sha256);
            assert_eq!(read.is_ok(), is_good, "{read:?}");
            assert!(is_good || read.is_err_and(|why| why.contains("minibuild 2.0 to 2.")));
            answer.deprecated_api_version = version((2, 0));
            let is_good = is_good || high >= (2, 0);
            assert_eq!(Capabilities::read(&answer, DigestFunction::Sha256).is_ok(), is_good, "deprecated, but spoken");
        }
    }

    #[test]
    fn what_it_can_do() {
        let mut all = answer(|cache| {
            cache.supported_compressors = vec![proto::compressor::Value::Zstd as i32];
            cache.max_cas_blob_size_bytes = 5;
            cache.symlink_absolute_path_strategy = proto::symlink_absolute_path_strategy::Value::Allowed as i32;
            cache.action_cache_update_capabilities =
                Some(proto::ActionCacheUpdateCapabilities { update_enabled: true });
        });
        let can = read(&all);
        assert!(can.zstd_streams && can.absolute_symlinks && can.can_update_cache && !can.can_execute);
        assert_eq!(can.max_blob_size, Some(5));
        let mut executes = |exec_enabled, digest_function, digest_functions: &[i32]| {
            let digest_functions = digest_functions.to_vec();
            let can =
                proto::ExecutionCapabilities { exec_enabled, digest_function, digest_functions, ..Default::default() };
            all.execution_capabilities = Some(can);
            read(&all).can_execute
        };
        assert!(executes(true, SHA256, &[]) && executes(true, 0, &[]) && executes(true, BLAKE3, &[BLAKE3, SHA256]));
        assert!(!executes(false, SHA256, &[]) && !executes(true, BLAKE3, &[]) && !executes(true, SHA256, &[BLAKE3]));
        let none = read(&answer(|_| {}));
        assert!(
            !none.zstd_streams && !none.absolute_symlinks && !none.can_update_cache && none.max_blob_size.is_none()
        );
        read(&proto::ServerCapabilities::default());
    }
}

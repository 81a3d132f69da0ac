//! Details of errors: which blobs are missing, how long to wait before trying again.
//!
//! It does not know connections: an error is a `google.rpc.Status` message here, wherever it came along.

use std::time::Duration;

use minibuild_core::{Digest, DigestFunction};
use prost::Message as _;
use tonic_types::pb::{PreconditionFailure, RetryInfo, precondition_failure::Violation};

use crate::proto::{protobuf::Any, rpc::Status};
use crate::resource::{BlobName, Compressor};

const PREFIX: &str = "type.googleapis.com/";
const PRECONDITION: &str = "google.rpc.PreconditionFailure";
const RETRY: &str = "google.rpc.RetryInfo";
/// `Violation.type` of a blob that is not in the store.
const MISSING: &str = "MISSING";
/// gRPC's FAILED_PRECONDITION.
const FAILED_PRECONDITION: i32 = 9;

/// FAILED_PRECONDITION with one violation for each blob that is missing.
pub fn missing_blobs(function: DigestFunction, digests: &[Digest]) -> Status {
    let violation = |digest: &Digest| Violation {
        r#type: MISSING.to_owned(),
        subject: subject(function, digest),
        description: String::new(),
    };
    let failure = PreconditionFailure { violations: digests.iter().map(violation).collect() };
    let message = match digests {
        [one] => format!("blob {one} is not in the store"),
        _ => format!("{} blobs are not in the store", digests.len()),
    };
    let details = vec![Any { type_url: format!("{PREFIX}{PRECONDITION}"), value: failure.encode_to_vec() }];
    Status { code: FAILED_PRECONDITION, message, details }
}

/// `blobs/[function/]hash/size`, as violations of preconditions name what is missing.
fn subject(function: DigestFunction, digest: &Digest) -> String {
    BlobName { instance: String::new(), function, digest: *digest, compressor: Compressor::Identity }.to_string()
}

/// The blobs an error says are missing; empty where it has no such details.
pub fn missing_blobs_of(status: &Status) -> Vec<(DigestFunction, Digest)> {
    let failures = details::<PreconditionFailure>(status, PRECONDITION);
    let violations = failures.flat_map(|failure| failure.violations);
    let missing = violations.filter(|violation| violation.r#type == MISSING);
    let names = missing.filter_map(|violation| BlobName::parse(&violation.subject).ok());
    names.map(|name| (name.function, name.digest)).collect()
}

/// An error with the advice to wait this long.
pub fn with_retry_delay(mut status: Status, delay: Duration) -> Status {
    let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(delay.subsec_nanos()).unwrap_or_default();
    // The two crates of generated types have a Duration each; on the wire they are one.
    let delay = crate::proto::protobuf::Duration { seconds, nanos };
    let info = Retry { delay: Some(delay) };
    status.details.push(Any { type_url: format!("{PREFIX}{RETRY}"), value: info.encode_to_vec() });
    status
}

/// How long an error asks to wait.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    let delay = details::<RetryInfo>(status, RETRY).find_map(|info| info.retry_delay)?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?.min(999_999_999)))
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct Retry {
    #[prost(message, optional, tag = "1")]
    delay: Option<crate::proto::protobuf::Duration>,
}

/// Details of one type; those that do not decode are left out.
fn details<'a, M: prost::Message + Default>(status: &'a Status, name: &'a str) -> impl Iterator<Item = M> + 'a {
    let of_type = status.details.iter().filter(move |any| any.type_url.rsplit('/').next() == Some(name));
    of_type.filter_map(|any| M::decode(&*any.value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_missing_comes_back() {
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let digests = [function.digest(b"a"), function.digest(b"b")];
            let status = missing_blobs(function, &digests);
            assert_eq!(status.code, 9);
            assert_eq!(missing_blobs_of(&status), digests.map(|d| (function, d)));
            assert_eq!(retry_delay(&status), None);
        }
        let one = missing_blobs(DigestFunction::Sha256, &[DigestFunction::Sha256.digest(b"a")]);
        assert!(one.message.starts_with("blob ca978112"), "{}", one.message);
        assert!(missing_blobs_of(&Status::default()).is_empty());
    }

    #[test]
    fn delays_come_back() {
        let status = with_retry_delay(Status::default(), Duration::from_millis(1250));
        assert_eq!(retry_delay(&status), Some(Duration::from_millis(1250)));
        let negative = Retry { delay: Some(crate::proto::protobuf::Duration { seconds: -1, nanos: 0 }) };
        let details = vec![Any { type_url: RETRY.to_owned(), value: negative.encode_to_vec() }];
        assert_eq!(retry_delay(&Status { details, ..Default::default() }), None);
    }

    proptest! {
        #[test]
        fn any_details_are_an_answer(value: Vec<u8>) {
            let any = |name| Any { type_url: format!("{PREFIX}{name}"), value: value.clone() };
            let status = Status { details: vec![any(PRECONDITION), any(RETRY)], ..Default::default() };
            let _ = (missing_blobs_of(&status), retry_delay(&status));
        }
    }
}

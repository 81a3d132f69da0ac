//! The generated wire types and services, under the names the rest of the workspace uses.
//!
//! Nothing is added here. What comes from outside in these types is not to be believed before it went through
//! [`decode`](crate::decode).

pub use bazel_remote_apis::build::bazel::remote::execution::v2 as execution;
pub use bazel_remote_apis::build::bazel::semver::SemVer;
pub use bazel_remote_apis::google::{bytestream, longrunning, protobuf, rpc};
pub use prost::Message;

use crate::shape::{self, Shaped};

/// Reads one message.
///
/// # Errors
/// [`DecodeError`](crate::DecodeError) where the bytes are no such message, or one that takes much more memory.
pub fn read<M: Message + Default + Shaped>(what: &'static str, bytes: &[u8]) -> Result<M, crate::DecodeError> {
    shape::check::<M>(what, bytes)?;
    M::decode(bytes).map_err(|error| crate::DecodeError::new(what, "", crate::Flaw::NotProtobuf(error.to_string())))
}

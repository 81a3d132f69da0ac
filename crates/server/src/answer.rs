//! From errors to gRPC statuses, and work that blocks.
//!
//! It does not know which call it is for.

use std::io;

use bytes::Bytes;
use minibuild_reapi::proto::{Message, rpc};
use minibuild_reapi::{DecodeError, ResourceNameError};
use tonic::{Code, Status};

use crate::store::StoreError;

/// An error as both forms need it: the status of a call and the status inside a response.
pub(crate) fn to_grpc(status: &rpc::Status) -> Status {
    Status::with_details(Code::from(status.code), status.message.clone(), Bytes::from(status.encode_to_vec()))
}

/// A status for use inside a response.
pub(crate) fn to_message(status: &Status) -> rpc::Status {
    rpc::Status { code: i32::from(status.code()), message: status.message().to_owned(), details: Vec::new() }
}

/// For `map_err`.
pub(crate) fn bad_message(error: DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// For `map_err`.
pub(crate) fn bad_name(error: ResourceNameError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// For `map_err`.
pub(crate) fn store_error(error: StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Mismatch { .. } | StoreError::TooLong(_) => Status::invalid_argument(text),
        StoreError::Full { .. } => Status::resource_exhausted(text),
        StoreError::Disk(error) => match error.os_error().kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Status::resource_exhausted(text),
            _ => Status::internal(text),
        },
    }
}

/// Work that reads or writes files, off the threads that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Status::internal(format!("bug: {error}"))),
    }
}

//! Messages that carry blobs, with `Bytes` instead of `Vec<u8>`, and the services that speak them.
//!
//! On the wire they are what the generated ones are, field by field. A received blob is a view on what came from the
//! connection, without a copy, and one to be sent can be shared with whoever else holds it. The other messages of these
//! calls are the generated ones. Clients look at each answer before it is decoded.

mod client;
mod codec;
mod runtime;
mod server;

use bytes::Bytes;

pub use client::{ActionCacheClient, ByteStreamClient, CasClient, ExecutionClient};
pub use runtime::start_runtime;
pub use server::{ByteStream, ByteStreamServer, ReadStream};

use crate::proto::{execution, rpc};

/// `google.bytestream.WriteRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteRequest {
    /// Where to; only the first message of a stream has to say so.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// Where the data begins.
    #[prost(int64, tag = "2")]
    pub write_offset: i64,
    /// The last message says that nothing more comes.
    #[prost(bool, tag = "3")]
    pub finish_write: bool,
    /// A part of the resource.
    #[prost(bytes = "bytes", tag = "10")]
    pub data: Bytes,
}

/// `google.bytestream.ReadResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadResponse {
    /// A part of the resource.
    #[prost(bytes = "bytes", tag = "10")]
    pub data: Bytes,
}

/// `BatchUpdateBlobsRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchUpdateBlobsRequest {
    /// Where to.
    #[prost(string, tag = "1")]
    pub instance_name: String,
    /// What is to be stored.
    #[prost(message, repeated, tag = "2")]
    pub requests: Vec<BlobUpdate>,
    /// Number of the function of all digests.
    #[prost(int32, tag = "5")]
    pub digest_function: i32,
}

/// `BatchUpdateBlobsRequest.Request`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BlobUpdate {
    /// Of the blob as it is, uncompressed.
    #[prost(message, optional, tag = "1")]
    pub digest: Option<execution::Digest>,
    /// The blob, compressed where `compressor` says so.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// Number of the compressor.
    #[prost(int32, tag = "3")]
    pub compressor: i32,
}

/// `BatchReadBlobsResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchReadBlobsResponse {
    /// One for each blob, in any order.
    #[prost(message, repeated, tag = "1")]
    pub responses: Vec<BlobRead>,
}

/// `BatchReadBlobsResponse.Response`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BlobRead {
    /// Of the blob as it is, uncompressed.
    #[prost(message, optional, tag = "1")]
    pub digest: Option<execution::Digest>,
    /// The blob, compressed where `compressor` says so.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// Whether it could be read.
    #[prost(message, optional, tag = "3")]
    pub status: Option<rpc::Status>,
    /// Number of the compressor.
    #[prost(int32, tag = "4")]
    pub compressor: i32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::bytestream;

    /// What one type writes the other reads and writes again.
    fn same<A: Message + Default, B: Message + Default + PartialEq>(bytes: &[u8]) {
        let ours = A::decode(bytes).ok();
        let theirs = B::decode(bytes).ok();
        assert_eq!(ours.is_some(), theirs.is_some(), "one of them takes it");
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
        }
    }

    proptest! {
        #[test]
        fn as_the_generated_ones(
            text in "[a-z/]{0,9}",
            number: i64,
            flag: bool,
            data: Vec<u8>,
            code: i32,
            noise: Vec<u8>,
        ) {
            let digest = Some(execution::Digest { hash: text.clone(), size_bytes: number });
            let write = bytestream::WriteRequest {
                resource_name: text.clone(), write_offset: number, finish_write: flag, data: data.clone(),
            };
            let update = execution::batch_update_blobs_request::Request {
                digest: digest.clone(), data: data.clone(), compressor: code,
            };
            let update = execution::BatchUpdateBlobsRequest {
                instance_name: text.clone(), requests: vec![update.clone(), update], digest_function: code,
            };
            let status = Some(rpc::Status { code, message: text, details: vec![] });
            let read = execution::batch_read_blobs_response::Response { digest, data: data.clone(), compressor: code, status };
            let read = execution::BatchReadBlobsResponse { responses: vec![read.clone(), read] };
            let all = [
                write.encode_to_vec(),
                bytestream::ReadResponse { data }.encode_to_vec(),
                update.encode_to_vec(),
                read.encode_to_vec(),
                noise,
            ];
            for bytes in &all {
                same::<WriteRequest, bytestream::WriteRequest>(bytes);
                same::<ReadResponse, bytestream::ReadResponse>(bytes);
                same::<BatchUpdateBlobsRequest, execution::BatchUpdateBlobsRequest>(bytes);
                same::<BatchReadBlobsResponse, execution::BatchReadBlobsResponse>(bytes);
            }
        }
    }
}

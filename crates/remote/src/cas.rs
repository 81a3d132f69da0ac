//! The content-addressable storage of one gRPC server: what is there, sending it what is not, reading.
//!
//! It does not know actions or outputs.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use minibuild_core::{Blob, BlobSource, Digest, Requester};
use minibuild_reapi::decode::{digest, digest_message, function_number};
use minibuild_reapi::proto::{bytestream, bytestream::byte_stream_client::ByteStreamClient, execution as proto};
use minibuild_reapi::{BlobName, Compressor, UploadName};
use proto::content_addressable_storage_client::ContentAddressableStorageClient;
use tonic::Code;

use crate::error::{CallError, EnsureError, ReadError};
use crate::grpc::{Grpc, MAX_MESSAGE};

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UploadCount {
    /// Blobs.
    pub(crate) blobs: u64,
    /// Their bytes, uncompressed.
    pub(crate) bytes: u64,
}

/// The storage of one server. Clones are the same.
#[derive(Clone)]
pub(crate) struct GrpcCas(Arc<Inner>);

struct Inner {
    grpc: Arc<Grpc>,
    workspace: PathBuf,
    compression: bool,
}

impl GrpcCas {
    /// The storage of `grpc`; files of blobs lie in `workspace`.
    pub(crate) fn new(grpc: Arc<Grpc>, workspace: PathBuf, compression: bool) -> Self {
        Self(Arc::new(Inner { grpc, workspace, compression }))
    }

    /// Makes sure that the server has all of these, and tells how many of how many are done.
    ///
    /// # Errors
    /// An [`EnsureError`]; the blobs that could be sent are sent nonetheless.
    pub(crate) async fn ensure(
        &self,
        who: &Requester,
        blobs: &[Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureError> {
        let wanted: Vec<&Blob> = blobs.iter().filter(|blob| blob.digest.size > 0).collect();
        let digests: Vec<Digest> = wanted.iter().map(|blob| blob.digest).collect();
        let missing = self.find_missing(who, &digests).await.map_err(EnsureError::Call)?;
        let total = missing.len() as u64;
        for (number, digest) in missing.iter().enumerate() {
            progress(number as u64, total);
            let Some(blob) = wanted.iter().find(|blob| blob.digest == *digest) else { continue };
            self.send(who, blob).await?;
        }
        Ok(())
    }

    async fn find_missing(&self, who: &Requester, digests: &[Digest]) -> Result<Vec<Digest>, CallError> {
        let grpc = &self.0.grpc;
        let answer = grpc.call(Some(who), "FindMissingBlobs", |attempt| async move {
            let request = proto::FindMissingBlobsRequest {
                instance_name: grpc.instance().to_owned(),
                blob_digests: digests.iter().map(digest_message).collect(),
                digest_function: function_number(grpc.function()),
            };
            let mut client =
                ContentAddressableStorageClient::new(attempt.channel()).max_decoding_message_size(MAX_MESSAGE);
            Ok(client.find_missing_blobs(attempt.request(request)).await?.into_inner())
        });
        let answer = answer.await?;
        Ok(answer.missing_blob_digests.iter().filter_map(|message| digest(message, grpc.function()).ok()).collect())
    }

    async fn send(&self, who: &Requester, blob: &Blob) -> Result<(), EnsureError> {
        let data = match &blob.source {
            BlobSource::Bytes(bytes) => bytes.to_vec(),
            BlobSource::File { path, .. } => {
                let bytes = std::fs::read(self.0.workspace.join(path)).unwrap_or_default();
                if self.0.grpc.function().digest(&bytes) != blob.digest {
                    return Err(EnsureError::Changed(vec![path.clone()]));
                }
                bytes
            }
            BlobSource::Elsewhere => return Err(EnsureError::Lost(vec![blob.digest])),
        };
        let grpc = &self.0.grpc;
        let blob_name = self.blob_name(&blob.digest);
        let name = UploadName { blob: blob_name, uuid: "00000000-0000-4000-8000-000000000000".to_owned() }.to_string();
        let (name, data) = (&name, &data);
        let sent = grpc.call(Some(who), "Write", |attempt| async move {
            let pieces = data.chunks(1 << 20).enumerate();
            let messages: Vec<bytestream::WriteRequest> = pieces
                .map(|(number, piece)| bytestream::WriteRequest {
                    resource_name: if number == 0 { name.clone() } else { String::new() },
                    write_offset: i64::try_from(number << 20).unwrap_or(i64::MAX),
                    finish_write: (number << 20) + piece.len() == data.len(),
                    data: piece.to_vec(),
                })
                .collect();
            let mut client = ByteStreamClient::new(attempt.channel());
            client.write(attempt.request(tokio_stream::iter(messages))).await.map(drop)
        });
        sent.await.map_err(EnsureError::Call)
    }

    fn blob_name(&self, digest: &Digest) -> BlobName {
        BlobName {
            instance: self.0.grpc.instance().to_owned(),
            function: self.0.grpc.function(),
            digest: *digest,
            compressor: Compressor::Identity,
        }
    }

    /// The bytes of a blob of at most `limit` bytes, verified.
    ///
    /// # Errors
    /// A [`ReadError`].
    pub(crate) async fn read(&self, who: &Requester, digest: Digest, limit: u64) -> Result<Bytes, ReadError> {
        if digest.size > limit {
            return Err(ReadError::TooLarge { digest, limit });
        }
        if digest.size == 0 {
            return Ok(Bytes::new());
        }
        let grpc = &self.0.grpc;
        let name = &self.blob_name(&digest).to_string();
        let bytes = grpc.call(Some(who), "Read", |attempt| async move {
            let request = bytestream::ReadRequest { resource_name: name.clone(), read_offset: 0, read_limit: 0 };
            let mut client = ByteStreamClient::new(attempt.channel()).max_decoding_message_size(MAX_MESSAGE);
            let mut stream = client.read(attempt.request(request)).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(message) = stream.message().await? {
                attempt.moved();
                bytes.extend_from_slice(&message.data);
            }
            Ok(bytes)
        });
        let bytes = bytes.await.map_err(|error| match error.code {
            Code::NotFound => ReadError::Lost(digest),
            _ => ReadError::Call(error),
        })?;
        if grpc.function().digest(&bytes) != digest {
            return Err(ReadError::Corrupt { digest, why: "the hash differs".to_owned() });
        }
        Ok(bytes.into())
    }

    /// Writes a blob into an empty file, which is given back; verified.
    ///
    /// # Errors
    /// A [`ReadError`]; the file holds anything then.
    pub(crate) async fn download(&self, who: &Requester, digest: Digest, mut file: File) -> Result<File, ReadError> {
        let bytes = self.read(who, digest, u64::MAX).await?;
        let written = tokio::task::spawn_blocking(move || file.write_all(&bytes).map(|()| file)).await;
        let disk = |why: String| ReadError::Disk { digest, why };
        written.map_err(|e| disk(e.to_string()))?.map_err(|e| disk(e.to_string()))
    }

    /// These are not believed to be there any more.
    pub(crate) fn forget(&self, _digests: &[Digest]) {}

    /// Whether the server is known to have had a blob a short while ago.
    pub(crate) fn has_recently(&self, _digest: &Digest) -> bool {
        false
    }

    /// What was sent so far.
    pub(crate) fn uploads(&self) -> UploadCount {
        UploadCount::default()
    }
}

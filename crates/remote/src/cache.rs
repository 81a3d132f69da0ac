//! The cache of a client, whichever protocol it speaks: blobs and results.
//!
//! It does not know what they are needed for.

use std::sync::Arc;

use bytes::Bytes;
use minibuild_core::{Blob, Digest, Requester, UploadCounts, WsPath};
use minibuild_reapi::decode::{LARGEST_RESULT, digest_message, function_number};
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::transfer::ActionCacheClient;
use tonic::Code;

use crate::cas::GrpcCas;
use crate::error::{CallError, EnsureError, ReadError};
use crate::grpc::Grpc;
use crate::http::HttpCache;
use crate::part::Part;

/// Why a blob cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    /// The cache does not have it.
    Lost,
    /// The cache has something else under its name.
    Corrupt,
    /// The cache does not answer, or refuses.
    Unreachable(String),
    /// This machine could not take it.
    Disk(String),
    /// The work was stopped.
    Stopped,
}

/// Why blobs are not on the server after all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EnsureFailure {
    /// Neither the server nor this machine has these.
    Lost(Vec<Digest>),
    /// These files are not what they were.
    Changed(Vec<WsPath>),
    /// The server takes nothing from this client.
    Denied(String),
    /// The server does not answer, or refuses.
    Failed(String),
}

impl EnsureFailure {
    /// What was seen, as a sentence.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Lost(digests) => format!("{} blobs are nowhere", digests.len()),
            Self::Changed(paths) => format!("{} files are not what they were", paths.len()),
            Self::Denied(why) | Self::Failed(why) => why,
        }
    }
}

/// Why a result is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreFailure {
    /// The server takes none from this client.
    Denied(String),
    /// The server does not answer, or refuses.
    Failed(String),
}

/// The cache.
pub(crate) enum Cache {
    /// The Remote Execution API.
    Grpc(GrpcCache),
    /// The HTTP cache protocol.
    Http(Box<HttpCache>),
}

/// A cache of the Remote Execution API.
pub(crate) struct GrpcCache {
    pub(crate) grpc: Arc<Grpc>,
    pub(crate) cas: GrpcCas,
}

impl ReadFailure {
    /// What was seen, as a sentence about the blob.
    pub(crate) fn about(&self, digest: &Digest) -> String {
        match self {
            Self::Lost => format!("blob {digest} is not in the cache"),
            Self::Corrupt => format!("the cache has something else under the name of blob {digest}"),
            Self::Unreachable(why) => format!("blob {digest} cannot be read: {why}"),
            Self::Disk(why) => why.clone(),
            Self::Stopped => format!("reading blob {digest} was stopped"),
        }
    }
}

impl From<ReadError> for ReadFailure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Lost(_) => Self::Lost,
            ReadError::Corrupt { .. } | ReadError::TooLarge { .. } => Self::Corrupt,
            ReadError::Disk { .. } => Self::Disk(error.to_string()),
            ReadError::Call(error) => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<EnsureError> for EnsureFailure {
    fn from(error: EnsureError) -> Self {
        match error {
            EnsureError::Lost(digests) => Self::Lost(digests),
            EnsureError::Changed(paths) => Self::Changed(paths),
            EnsureError::Call(error) if is_denial(&error) => Self::Denied(error.to_string()),
            EnsureError::Call(error) => Self::Failed(error.to_string()),
        }
    }
}

fn is_denial(error: &CallError) -> bool {
    matches!(error.code, Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented)
}

impl Cache {
    /// The result of an action. Its depfile is asked to come along.
    ///
    /// # Errors
    /// Why the cache could not be asked.
    pub(crate) async fn result(
        &self,
        who: &Requester,
        depfile: Option<&WsPath>,
    ) -> Result<Option<proto::ActionResult>, String> {
        match self {
            Self::Grpc(cache) => cache.result(who, depfile).await.map_err(|e| e.to_string()),
            Self::Http(cache) => cache.result(&who.key).await,
        }
    }

    /// Waits until there is a connection, or none is to be had.
    pub(crate) async fn connect(&self) {
        if let Self::Grpc(cache) = self {
            // Whoever asks next hears what is wrong.
            drop(cache.grpc.capabilities().await);
        }
    }

    /// Stores the result of an action, the blobs of which are there.
    ///
    /// # Errors
    /// Why it is not stored.
    pub(crate) async fn store_result(&self, who: &Requester, result: proto::ActionResult) -> Result<(), StoreFailure> {
        match self {
            Self::Grpc(cache) => cache.store_result(who, result).await.map_err(|error| match is_denial(&error) {
                true => StoreFailure::Denied(error.to_string()),
                false => StoreFailure::Failed(error.to_string()),
            }),
            Self::Http(cache) => cache.store_result(who, &result).await,
        }
    }

    /// Whether it says that it takes results; one that says nothing may.
    pub(crate) async fn takes_results(&self) -> bool {
        match self {
            Self::Grpc(cache) => cache.grpc.capabilities().await.map_or(true, |can| can.can_update_cache),
            Self::Http(_) => true,
        }
    }

    /// Sees to it that the cache has the blobs; tells how many of how many are done.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn ensure(
        &self,
        who: &Requester,
        blobs: &[Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureFailure> {
        match self {
            Self::Grpc(cache) => Ok(cache.cas.ensure(who, blobs, progress).await?),
            Self::Http(cache) => cache.ensure(who, blobs, progress).await,
        }
    }

    /// Those of the blobs that the cache lacks now, whatever was seen earlier.
    ///
    /// # Errors
    /// Why it could not be asked.
    pub(crate) async fn missing(&self, who: &Requester, mut digests: Vec<Digest>) -> Result<Vec<Digest>, String> {
        digests.retain(|digest| digest.size > 0);
        digests.sort_unstable();
        digests.dedup();
        match self {
            Self::Grpc(cache) => cache.cas.missing(who, digests).await.map_err(|error| error.to_string()),
            Self::Http(cache) => cache.missing(digests).await,
        }
    }

    /// Sends blobs that whoever would be asked is wrong about.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn send(&self, who: &Requester, blobs: &[Blob]) -> Result<(), EnsureFailure> {
        match self {
            Self::Grpc(cache) => Ok(cache.cas.send_unasked(who, blobs).await?),
            Self::Http(cache) => cache.ensure(who, blobs, &|_, _| {}).await,
        }
    }

    /// The bytes of a blob, verified.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) async fn read(&self, who: &Requester, digest: Digest) -> Result<Bytes, ReadFailure> {
        match self {
            Self::Grpc(cache) => Ok(cache.cas.read(who, digest, digest.size).await?),
            Self::Http(cache) => cache.read(digest).await,
        }
    }

    /// A blob into a file that may have its first bytes, verified.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) async fn download(&self, who: &Requester, digest: Digest, mut part: Part) -> Result<Part, ReadFailure> {
        match self {
            Self::Grpc(cache) => Ok(cache.cas.download(who, digest, part).await?),
            Self::Http(cache) => {
                // The protocol has no way to go on from there.
                part.keep_nothing();
                let file = part.file().map_err(|error| ReadFailure::Disk(error.to_string()))?;
                cache.download(digest, file).await?;
                Ok(part)
            }
        }
    }

    /// No longer believes that these are there.
    pub(crate) fn forget(&self, digests: &[Digest]) {
        match self {
            Self::Grpc(cache) => cache.cas.forget(digests),
            Self::Http(cache) => cache.forget(digests),
        }
    }

    /// Bytes that came from it so far.
    pub(crate) fn received(&self) -> u64 {
        match self {
            Self::Grpc(cache) => cache.grpc.received(),
            Self::Http(cache) => cache.received(),
        }
    }

    /// What was sent so far.
    pub(crate) fn sent(&self) -> UploadCounts {
        match self {
            Self::Grpc(cache) => {
                let sent = cache.cas.uploads();
                UploadCounts { files: sent.blobs, bytes: sent.bytes }
            }
            Self::Http(cache) => cache.sent(),
        }
    }
}

impl GrpcCache {
    async fn result(
        &self,
        who: &Requester,
        depfile: Option<&WsPath>,
    ) -> Result<Option<proto::ActionResult>, CallError> {
        let grpc = &self.grpc;
        // Asked once for all calls: what is asked under another function than the server's is asked in vain.
        grpc.capabilities().await?;
        let request = proto::GetActionResultRequest {
            instance_name: grpc.instance().to_owned(),
            action_digest: Some(digest_message(&who.key)),
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: depfile.iter().map(|path| path.as_str().to_owned()).collect(),
            digest_function: function_number(grpc.function()),
        };
        let request = &request;
        let answer = grpc.call(Some(who), "GetActionResult", |attempt| async move {
            let mut client = ActionCacheClient::new(attempt.channel(), LARGEST_RESULT);
            match client.get_action_result(attempt.request(request.clone())).await {
                Ok(answer) => Ok(Some(answer.into_inner())),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(status),
            }
        });
        answer.await
    }

    async fn store_result(&self, who: &Requester, result: proto::ActionResult) -> Result<(), CallError> {
        let grpc = &self.grpc;
        let request = proto::UpdateActionResultRequest {
            instance_name: grpc.instance().to_owned(),
            action_digest: Some(digest_message(&who.key)),
            action_result: Some(result),
            digest_function: function_number(grpc.function()),
            ..Default::default()
        };
        let request = &request;
        let answer = grpc.call(Some(who), "UpdateActionResult", |attempt| async move {
            let mut client = ActionCacheClient::new(attempt.channel(), LARGEST_RESULT);
            client.update_action_result(attempt.request(request.clone())).await.map(drop)
        });
        answer.await
    }
}

//! Small blobs, sent many at a time.
//!
//! It does not know who wants them there.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use minibuild_core::{Blob, Digest, DigestFunction, Requester};
use minibuild_reapi::decode::{digest, digest_message, function_number};
use minibuild_reapi::transfer::{BatchUpdateBlobsRequest, BlobUpdate, CasClient};
use tonic::Code;

use super::flights::{Flight, Outcome, SendError};
use super::pile::Runner;
use super::source::{Changed, Source};
use super::{Inner, OVERHEAD};
use crate::backoff::is_worth_retrying;
use crate::error::CallError;
use crate::grpc::{Grpc, MAX_MESSAGE};

/// Blobs in one batch.
const MOST: usize = 2_000;
/// Blobs at once that are sent alone.
const SINGLY: usize = 16;

/// A small blob to be sent.
pub(super) struct Parcel {
    pub(super) who: Arc<Requester>,
    pub(super) blob: Blob,
    pub(super) flight: Flight,
}

/// A small blob with its bytes.
struct Loaded {
    parcel: Parcel,
    bytes: Bytes,
}

/// Sends parcels until none is left; `limit` is that of the server.
pub(super) async fn run(inner: Arc<Inner>, mut runner: Runner<Parcel>, limit: u64) {
    loop {
        let (mut bytes, mut count) = (0_u64, 0_usize);
        let parcels = runner.take(|parcel| {
            bytes = bytes.saturating_add(parcel.blob.digest.size).saturating_add(OVERHEAD);
            count += 1;
            bytes <= limit && count <= MOST
        });
        if parcels.is_empty() {
            return;
        }
        let parcels: Vec<Parcel> = parcels.into_iter().filter(|parcel| !parcel.flight.is_abandoned()).collect();
        let loaded = load(&inner, parcels).await;
        send(&inner, loaded).await;
    }
}

/// Reads the bytes of all parcels in one go. Those whose file changed are over.
async fn load(inner: &Inner, parcels: Vec<Parcel>) -> Vec<Loaded> {
    let (workspace, function) = (inner.workspace.clone(), inner.grpc.function());
    let load = move || parcels.into_iter().map(|parcel| load_one(&workspace, parcel, function)).collect::<Vec<_>>();
    // The thread is gone only when the runtime is.
    let all = tokio::task::spawn_blocking(load).await.unwrap_or_default();
    let mut loaded = Vec::with_capacity(all.len());
    for (parcel, bytes) in all {
        match bytes {
            Ok(bytes) => loaded.push(Loaded { parcel, bytes }),
            Err(Changed(path)) => parcel.flight.land(Err(SendError::Changed(path))),
        }
    }
    loaded
}

fn load_one(workspace: &Path, parcel: Parcel, function: DigestFunction) -> (Parcel, Result<Bytes, Changed>) {
    let source = Source::open(workspace, &parcel.blob, function);
    let bytes = source.map_or_else(|| Ok(Vec::new()), |source| source.and_then(Source::read_all));
    (parcel, bytes.map(Bytes::from))
}

/// Sends a batch. What the server refuses as a whole, as some do for one bad blob, is sent blob by blob, and so is what
/// it had no time for.
async fn send(inner: &Inner, batch: Vec<Loaded>) {
    let Some(first) = batch.first() else { return };
    let who = Arc::clone(&first.parcel.who);
    let answer = call(&inner.grpc, &who, &batch).await;
    match answer {
        Err(error) if batch.len() > 1 && is_about_one(error.code) => send_singly(inner, batch).await,
        Err(error) => batch.into_iter().for_each(|loaded| land(inner, loaded, Err(SendError::Call(error.clone())))),
        Ok(mut answers) => {
            let mut left = Vec::new();
            for loaded in batch {
                match answers.remove(&loaded.parcel.blob.digest) {
                    Some(Ok(())) => land(inner, loaded, Ok(())),
                    Some(Err(error)) if !is_worth_retrying(error.code) => {
                        let outcome = judge(inner, &loaded, error).await;
                        land(inner, loaded, outcome);
                    }
                    _ => left.push(loaded),
                }
            }
            send_singly(inner, left).await;
        }
    }
}

async fn send_singly(inner: &Inner, batch: Vec<Loaded>) {
    futures_util::stream::iter(batch).for_each_concurrent(SINGLY, |loaded| send_alone(inner, loaded)).await;
}

/// Whether one blob of a batch may be the reason why it was refused.
fn is_about_one(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition)
}

async fn send_alone(inner: &Inner, loaded: Loaded) {
    if loaded.parcel.flight.is_abandoned() {
        return;
    }
    let who = Arc::clone(&loaded.parcel.who);
    let batch = [loaded];
    let answers = call_until_settled(inner, &who, &batch).await;
    let [loaded] = batch;
    let outcome = match answers {
        Ok(()) => Ok(()),
        Err(error) => judge(inner, &loaded, error).await,
    };
    land(inner, loaded, outcome);
}

/// One blob, with retries of its own status too.
async fn call_until_settled(inner: &Inner, who: &Requester, batch: &[Loaded; 1]) -> Result<(), CallError> {
    let digest = batch[0].parcel.blob.digest;
    let grpc = &inner.grpc;
    let answer = grpc.call(Some(who), METHOD, |attempt| async move {
        let mut client = CasClient::new(attempt.channel(), MAX_MESSAGE);
        let answer = client.batch_update_blobs(attempt.request(request(grpc, batch))).await?.into_inner();
        let replies = answer.responses.into_iter();
        let reply = replies.last().ok_or_else(|| tonic::Status::internal(format!("the answer lacks blob {digest}")))?;
        status(reply.status.unwrap_or_default())
    });
    answer.await
}

fn status(status: minibuild_reapi::proto::rpc::Status) -> Result<(), tonic::Status> {
    use minibuild_reapi::proto::Message as _;
    match Code::from(status.code) {
        Code::Ok => Ok(()),
        code => Err(tonic::Status::with_details(code, status.message.clone(), status.encode_to_vec().into())),
    }
}

/// A refusal may be the fault of a file that is no longer what it was said to be.
async fn judge(inner: &Inner, loaded: &Loaded, error: CallError) -> Outcome {
    let (bytes, digest, function) = (loaded.bytes.clone(), loaded.parcel.blob.digest, inner.grpc.function());
    let same = tokio::task::spawn_blocking(move || function.digest(&bytes) == digest).await.unwrap_or(true);
    match &loaded.parcel.blob.source {
        minibuild_core::BlobSource::File { path, .. } if !same => Err(SendError::Changed(path.clone())),
        _ => Err(SendError::Call(error)),
    }
}

fn land(inner: &Inner, loaded: Loaded, outcome: Outcome) {
    inner.land(loaded.parcel.flight, outcome);
}

const METHOD: &str = "BatchUpdateBlobs";

type Answers = std::collections::HashMap<Digest, Result<(), CallError>>;

async fn call(grpc: &Grpc, who: &Requester, batch: &[Loaded]) -> Result<Answers, CallError> {
    let answer = grpc.call(Some(who), METHOD, |attempt| async move {
        let mut client = CasClient::new(attempt.channel(), MAX_MESSAGE);
        Ok(client.batch_update_blobs(attempt.request(request(grpc, batch))).await?.into_inner())
    });
    let responses = answer.await?.responses;
    let replies = responses.into_iter().filter_map(|response| {
        let digest = digest(response.digest.as_ref()?, grpc.function()).ok()?;
        let status = response.status.unwrap_or_default();
        let result = match Code::from(status.code) {
            Code::Ok => Ok(()),
            code => Err(grpc.refuse(code, METHOD, status.message)),
        };
        Some((digest, result))
    });
    Ok(replies.collect())
}

fn request(grpc: &Grpc, batch: &[Loaded]) -> BatchUpdateBlobsRequest {
    let blob = |loaded: &Loaded| BlobUpdate {
        digest: Some(digest_message(&loaded.parcel.blob.digest)),
        data: loaded.bytes.clone(),
        compressor: 0,
    };
    BatchUpdateBlobsRequest {
        instance_name: grpc.instance().to_owned(),
        requests: batch.iter().map(blob).collect(),
        digest_function: function_number(grpc.function()),
    }
}

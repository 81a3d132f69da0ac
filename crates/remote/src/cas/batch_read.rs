//! Small blobs, read many at a time.
//!
//! It does not know who wants them. What a batch does not bring is read by a stream, by whoever asked.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use minibuild_core::{Digest, DigestFunction, Requester};
use minibuild_reapi::decode::{digest, digest_message, function_number};
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::transfer::{BlobRead, CasClient};
use tokio::sync::oneshot;
use tonic::Code;

use super::OVERHEAD;
use super::pile::Runner;
use crate::error::{CallError, ReadError};
use crate::grpc::{Grpc, MAX_MESSAGE};

/// Blobs in one batch.
const MOST: usize = 2_000;
/// Hashing less than this is no work for a thread of its own.
const LITTLE: usize = 64 << 10;

/// A small blob somebody waits for.
pub(super) struct Order {
    pub(super) who: Arc<Requester>,
    pub(super) digest: Digest,
    pub(super) reply: oneshot::Sender<Delivery>,
}

/// What came of an order.
pub(super) enum Delivery {
    /// Its bytes, verified.
    Bytes(Bytes),
    /// It has to be read by itself.
    Alone,
    /// It cannot be had.
    Failed(ReadError),
}

/// Reads orders until none is left; `limit` is that of the server.
pub(super) async fn run(grpc: Arc<Grpc>, mut runner: Runner<Order>, limit: u64) {
    loop {
        let (mut bytes, mut count) = (0_u64, 0_usize);
        let orders = runner.take(|order| {
            bytes = bytes.saturating_add(order.digest.size).saturating_add(OVERHEAD);
            count += 1;
            bytes <= limit && count <= MOST
        });
        if orders.is_empty() {
            return;
        }
        let orders: Vec<Order> = orders.into_iter().filter(|order| !order.reply.is_closed()).collect();
        if let Some(first) = orders.first() {
            let who = Arc::clone(&first.who);
            let mut wanted: HashMap<Digest, Vec<oneshot::Sender<Delivery>>> = HashMap::new();
            for order in orders {
                wanted.entry(order.digest).or_default().push(order.reply);
            }
            let digests: Vec<Digest> = wanted.keys().copied().collect();
            let answer = call(&grpc, &who, &digests).await;
            deliver(wanted, answer);
        }
    }
}

fn deliver(wanted: HashMap<Digest, Vec<oneshot::Sender<Delivery>>>, answer: Result<Replies, CallError>) {
    let mut replies = answer.map_err(|error| match is_about_size_or_one(error.code) {
        true => None,
        false => Some(error),
    });
    for (digest, waiting) in wanted {
        let reply = match &mut replies {
            Ok(replies) => replies.remove(&digest),
            Err(None) => None,
            Err(Some(error)) => Some(Err(ReadError::Call(error.clone()))),
        };
        for waiter in waiting {
            // Whoever asked may have gone.
            let _ = waiter.send(match &reply {
                Some(Ok(bytes)) => Delivery::Bytes(bytes.clone()),
                Some(Err(error)) => Delivery::Failed(error.clone()),
                None => Delivery::Alone,
            });
        }
    }
}

/// Whether the blobs may well be had one by one.
fn is_about_size_or_one(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::NotFound | Code::FailedPrecondition
    )
}

/// What came and is worth something. What is not in it has to be read by itself.
type Replies = HashMap<Digest, Result<Bytes, ReadError>>;

async fn call(grpc: &Grpc, who: &Requester, digests: &[Digest]) -> Result<Replies, CallError> {
    let answer = grpc.call(Some(who), "BatchReadBlobs", |attempt| async move {
        let request = proto::BatchReadBlobsRequest {
            instance_name: grpc.instance().to_owned(),
            digests: digests.iter().map(digest_message).collect(),
            acceptable_compressors: Vec::new(),
            digest_function: function_number(grpc.function()),
        };
        let mut client = CasClient::new(attempt.channel(), MAX_MESSAGE);
        Ok(client.batch_read_blobs(attempt.request(request)).await?.into_inner())
    });
    let responses = answer.await?.responses;
    let function = grpc.function();
    let check = move |responses: Vec<BlobRead>| responses.into_iter().filter_map(|r| checked(r, function)).collect();
    let bytes: usize = responses.iter().map(|response| response.data.len()).sum();
    if bytes <= LITTLE {
        return Ok(check(responses));
    }
    Ok(tokio::task::spawn_blocking(move || check(responses)).await.unwrap_or_default())
}

/// The bytes by themselves: a small blob that somebody keeps would keep the whole answer of which it is a view.
fn own(data: Bytes) -> Bytes {
    Bytes::copy_from_slice(&data)
}

/// One reply; `None` where asking again, by itself, may bring more.
fn checked(response: BlobRead, function: DigestFunction) -> Option<(Digest, Result<Bytes, ReadError>)> {
    let digest = digest(response.digest.as_ref()?, function).ok()?;
    let code = Code::from(response.status.as_ref().map_or(0, |status| status.code));
    match code {
        Code::Ok => {
            let good = response.compressor == 0 && function.digest(&response.data) == digest;
            good.then(|| (digest, Ok(own(response.data))))
        }
        Code::NotFound => Some((digest, Err(ReadError::Lost(digest)))),
        _ => None,
    }
}

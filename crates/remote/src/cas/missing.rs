//! Which blobs a server lacks: questions of several callers asked together.
//!
//! It does not know what follows from the answers.

use std::collections::HashSet;
use std::sync::Arc;

use minibuild_core::{Digest, Requester};
use minibuild_reapi::decode::{digest, digest_message, function_number};
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::transfer::CasClient;
use tokio::sync::oneshot;

use super::pile::Runner;
use crate::error::CallError;
use crate::grpc::{Grpc, MAX_MESSAGE};

/// Digests of one request: well below 4 MiB.
pub(super) const PAGE: usize = 10_000;

/// What one caller wants to know.
pub(super) struct Question {
    pub(super) who: Arc<Requester>,
    /// At most [`PAGE`].
    pub(super) digests: Vec<Digest>,
    pub(super) reply: oneshot::Sender<Answer>,
}

/// Those of the digests that are missing.
pub(super) type Answer = Result<Vec<Digest>, CallError>;

/// Answers questions until none is left.
pub(super) async fn run(grpc: Arc<Grpc>, mut runner: Runner<Question>) {
    loop {
        let mut sum = 0;
        let questions = runner.take(|question| {
            sum += question.digests.len();
            sum <= PAGE
        });
        if questions.is_empty() {
            return;
        }
        let questions: Vec<Question> = questions.into_iter().filter(|question| !question.reply.is_closed()).collect();
        if let Some(first) = questions.first() {
            let all: HashSet<Digest> = questions.iter().flat_map(|question| question.digests.iter().copied()).collect();
            let answer = ask(&grpc, &first.who, &all).await;
            reply(questions, &answer);
        }
    }
}

fn reply(questions: Vec<Question>, answer: &Result<HashSet<Digest>, CallError>) {
    for question in questions {
        let missing = answer
            .as_ref()
            .map_err(Clone::clone)
            .map(|missing| question.digests.iter().filter(|digest| missing.contains(digest)).copied().collect());
        // Whoever asked may have gone.
        let _ = question.reply.send(missing);
    }
}

async fn ask(grpc: &Grpc, who: &Requester, digests: &HashSet<Digest>) -> Result<HashSet<Digest>, CallError> {
    let answer = grpc.call(Some(who), "FindMissingBlobs", |attempt| async move {
        let request = proto::FindMissingBlobsRequest {
            instance_name: grpc.instance().to_owned(),
            blob_digests: digests.iter().map(digest_message).collect(),
            digest_function: function_number(grpc.function()),
        };
        let mut client = CasClient::new(attempt.channel(), MAX_MESSAGE);
        Ok(client.find_missing_blobs(attempt.request(request)).await?.into_inner())
    });
    let missing = answer.await?.missing_blob_digests;
    // What was not asked for, or is no digest, is nobody's.
    Ok(missing.iter().filter_map(|message| digest(message, grpc.function()).ok()).collect())
}

//! Seeing to it that a server has blobs: asking what is missing, sending that, waiting for others who send it.
//!
//! It does not know how blobs are read or sent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use minibuild_core::{Blob, BlobSource, Digest, Requester, WsPath};
use tokio::sync::oneshot;
use tonic::Code;

use super::batch_write::{self, Parcel};
use super::flights::{Outcome, SendError, Waiter};
use super::missing::{self, Question};
use super::{GrpcCas, is_small, write};
use crate::error::{CallError, EnsureError};

impl GrpcCas {
    /// Makes sure that the server has all of these, and tells how many of how many were sent.
    ///
    /// # Errors
    /// An [`EnsureError`]. Where blobs are lost nothing is sent; otherwise what could be sent is.
    pub(crate) async fn ensure(
        &self,
        who: &Requester,
        blobs: &[Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureError> {
        let wanted = self.not_seen(blobs);
        if wanted.is_empty() {
            return Ok(());
        }
        // Before anything else: a server that does not know the digest function says strange things.
        self.0.inner.grpc.capabilities().await.map_err(EnsureError::Call)?;
        let who = Arc::new(who.clone());
        let missing = self.find_missing(&who, wanted.keys().copied().collect()).await.map_err(EnsureError::Call)?;
        let missing: Vec<&Blob> = missing.iter().filter_map(|digest| wanted.get(digest).copied()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.send(&who, &with_sources(missing)?, progress).await
    }

    /// Those of `digests` that the server lacks now, whatever was seen earlier.
    ///
    /// # Errors
    /// Why the server did not say.
    pub(crate) async fn missing(&self, who: &Requester, digests: Vec<Digest>) -> Result<Vec<Digest>, CallError> {
        if digests.is_empty() {
            return Ok(digests);
        }
        self.0.inner.grpc.capabilities().await?;
        let missing = self.find_missing(&Arc::new(who.clone()), digests).await?;
        self.forget(&missing);
        Ok(missing)
    }

    /// Sends all of these: the server has said in other words that it lacks them.
    ///
    /// # Errors
    /// As [`Self::ensure`].
    pub(crate) async fn send_unasked(&self, who: &Requester, blobs: &[Blob]) -> Result<(), EnsureError> {
        let blobs: Vec<&Blob> = self.not_seen(blobs).into_values().collect();
        self.send(&Arc::new(who.clone()), &with_sources(blobs)?, &|_, _| {}).await
    }

    /// What may be missing, each digest once; with a source, where one of several has one.
    fn not_seen<'a>(&self, blobs: &'a [Blob]) -> HashMap<Digest, &'a Blob> {
        let now = self.0.inner.now();
        let presence = self.0.inner.presence();
        let mut wanted: HashMap<Digest, &Blob> = HashMap::new();
        for blob in blobs.iter().filter(|blob| blob.digest.size > 0 && !presence.has(&blob.digest, now)) {
            let known = wanted.entry(blob.digest).or_insert(blob);
            if known.source == BlobSource::Elsewhere {
                *known = blob;
            }
        }
        wanted
    }

    async fn find_missing(&self, who: &Arc<Requester>, digests: Vec<Digest>) -> Result<Vec<Digest>, CallError> {
        let mut answers = Vec::new();
        let questions: Vec<Question> = digests
            .chunks(missing::PAGE)
            .map(|page| {
                let (reply, answer) = oneshot::channel();
                answers.push(answer);
                Question { who: Arc::clone(who), digests: page.to_vec(), reply }
            })
            .collect();
        if let Some(runner) = self.0.questions.push(questions) {
            self.spawn(missing::run(Arc::clone(&self.0.inner.grpc), runner));
        }
        let mut missing = Vec::new();
        for answer in answers {
            missing.extend(answer.await.map_err(|_| self.gone("FindMissingBlobs"))??);
        }
        let absent: HashSet<&Digest> = missing.iter().collect();
        let present = digests.iter().filter(|digest| !absent.contains(digest)).copied();
        self.0.inner.presence().seen(present, self.0.inner.now());
        Ok(missing)
    }

    /// Sends all of these, or waits for whoever sends them already.
    async fn send(
        &self,
        who: &Arc<Requester>,
        blobs: &[&Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureError> {
        let capabilities = self.0.inner.grpc.capabilities().await.map_err(EnsureError::Call)?;
        let limit = capabilities.batch_limit;
        if let Some(most) = capabilities.max_blob_size
            && let Some(blob) = blobs.iter().find(|blob| blob.digest.size > most)
        {
            let why = format!("blob {} is larger than the {most} bytes it takes", blob.digest);
            return Err(EnsureError::Call(self.0.inner.grpc.refuse(Code::ResourceExhausted, "Write", why)));
        }
        let total = blobs.len() as u64;
        progress(0, total);
        let waiters = self.board(who, blobs, limit);
        let ends = waiters.into_iter().map(|(blob, waiter)| async move { (blob, waiter.outcome().await) });
        let mut ends: FuturesUnordered<_> = ends.collect();
        let (mut done, mut changed, mut failed) = (0, Vec::new(), None);
        while let Some((blob, outcome)) = ends.next().await {
            let outcome = self.again_if_not_ours(who, blob, outcome, limit).await;
            done += 1;
            progress(done, total);
            match outcome {
                Ok(()) => {}
                Err(SendError::Changed(path)) => changed.push(path),
                Err(SendError::Call(error)) => {
                    failed = failed.or(Some(CallError { blob: Some(Box::new(blob.digest)), ..error }))
                }
            }
        }
        verdict(changed, failed)
    }

    /// Another caller's file of the same content may have changed; ours has not been looked at then.
    async fn again_if_not_ours(
        &self,
        who: &Arc<Requester>,
        blob: &Blob,
        outcome: Option<Outcome>,
        limit: u64,
    ) -> Outcome {
        let ours = match &blob.source {
            BlobSource::File { path, .. } => Some(path),
            _ => None,
        };
        match outcome {
            Some(Err(SendError::Changed(path))) if ours != Some(&path) => {}
            Some(outcome) => return outcome,
            None => {}
        }
        let Some((_, waiter)) = self.board(who, &[blob], limit).pop() else { return Ok(()) };
        waiter.outcome().await.unwrap_or_else(|| Err(SendError::Call(self.gone("Write"))))
    }

    /// Sees to it that all of these are under way.
    fn board<'a>(&self, who: &Arc<Requester>, blobs: &[&'a Blob], limit: u64) -> Vec<(&'a Blob, Waiter)> {
        let mut parcels = Vec::new();
        let mut waiters = Vec::with_capacity(blobs.len());
        for &blob in blobs {
            let (waiter, flight) = self.0.flights.join(blob.digest);
            waiters.push((blob, waiter));
            let Some(flight) = flight else { continue };
            let (who, blob) = (Arc::clone(who), blob.clone());
            if is_small(blob.digest.size, limit) {
                parcels.push(Parcel { who, blob, flight });
            } else {
                self.spawn(write::run(Arc::clone(&self.0.inner), who, blob, flight));
            }
        }
        let mut next = self.0.parcels.push(parcels);
        while let Some(runner) = next {
            next = runner.helper();
            self.spawn(batch_write::run(Arc::clone(&self.0.inner), runner, limit));
        }
        waiters
    }
}

/// The same blobs, if all of them are here.
fn with_sources(blobs: Vec<&Blob>) -> Result<Vec<&Blob>, EnsureError> {
    let is_lost = |blob: &&&Blob| blob.source == BlobSource::Elsewhere;
    let lost: Vec<Digest> = blobs.iter().filter(is_lost).map(|blob| blob.digest).collect();
    if lost.is_empty() { Ok(blobs) } else { Err(EnsureError::Lost(lost)) }
}

fn verdict(mut changed: Vec<WsPath>, failed: Option<CallError>) -> Result<(), EnsureError> {
    changed.sort();
    changed.dedup();
    match failed {
        _ if !changed.is_empty() => Err(EnsureError::Changed(changed)),
        Some(error) => Err(EnsureError::Call(error)),
        None => Ok(()),
    }
}

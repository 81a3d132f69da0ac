//! The client as the port that the engine drives.

use minibuild_core::{
    CacheLookup, ExistenceCheck, FetchId, FetchRequest, RemoteRequest, RemoteSide, RunId, StagingRequest, StopReason,
    UploadCounts, UploadRequest, Urgency,
};

use crate::RemoteClient;

impl RemoteSide for RemoteClient {
    fn look_up(&self, lookup: CacheLookup) {
        Self::look_up(self, lookup);
    }

    fn start(&self, request: RemoteRequest) {
        Self::start(self, request);
    }

    fn stop(&self, run: RunId, reason: StopReason) {
        Self::stop(self, run, reason);
    }

    fn fetch(&self, request: FetchRequest) {
        Self::fetch(self, request);
    }

    fn hurry(&self, fetch: FetchId, urgency: Urgency) {
        Self::hurry(self, fetch, urgency);
    }

    fn stop_fetches(&self) {
        Self::stop_fetches(self);
    }

    fn stage(&self, request: StagingRequest) {
        Self::stage(self, request);
    }

    fn stop_staging(&self, run: RunId) {
        Self::stop_staging(self, run);
    }

    fn publish(&self, run: RunId, staged: RunId) {
        Self::publish(self, run, staged);
    }

    fn unstage(&self, staged: RunId) {
        Self::unstage(self, staged);
    }

    fn keep_staged(&self, staged: RunId) {
        Self::keep_staged(self, staged);
    }

    fn check(&self, check: ExistenceCheck) {
        Self::check(self, check);
    }

    fn probe(&self) {
        Self::probe(self);
    }

    fn upload(&self, request: UploadRequest) {
        Self::upload(self, request);
    }

    fn transfer_counts(&self) -> UploadCounts {
        Self::transfer_counts(self)
    }

    fn received(&self) -> u64 {
        Self::received(self)
    }

    fn shutdown(&mut self) {
        self.stop_all();
    }
}

//! One attempt of a call: its connection and headers, and how far it came.
//!
//! It does not know what is called, nor what follows from its end.

use std::sync::Arc;

use tonic::Request;
use tonic::metadata::MetadataMap;

use super::progress::Progress;
use super::watched::Watched;
use crate::channel::Lease;

/// One attempt of a call.
pub(crate) struct Attempt {
    lease: Lease,
    metadata: MetadataMap,
    progress: Arc<Progress>,
}

impl Attempt {
    pub(super) fn new(lease: Lease, metadata: MetadataMap, progress: Arc<Progress>) -> Self {
        Self { lease, metadata, progress }
    }

    /// The connection to use; what comes over it is progress.
    pub(crate) fn channel(&self) -> Watched {
        Watched::new(self.lease.channel(), Arc::clone(&self.progress))
    }

    /// A request with the headers of the call.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), Default::default(), message)
    }

    /// A whole message came: the server serves. Its bytes are progress already.
    pub(crate) fn heard(&self) {
        self.progress.heard();
    }

    /// A function that says that something went out: the deadline begins anew.
    pub(crate) fn mover(&self) -> impl Fn() + Send + Sync + 'static {
        let progress = Arc::clone(&self.progress);
        move || progress.moved()
    }

    /// A position that stays reached when this attempt breaks off: with each new one, retries are counted anew.
    pub(crate) fn reached(&self, position: u64) {
        self.progress.reached(position);
    }
}

//! What all tasks of a client share.
//!
//! It does not know what the tasks do.

use std::sync::atomic::{AtomicBool, Ordering};

use minibuild_core::{Blob, BlobSource, Requester};
use tokio::sync::{OnceCell, Semaphore};

use crate::answer::Sink;
use crate::blobs::Blobs;
use crate::cache::{Cache, EnsureFailure};
use crate::executor::Executor;
use crate::fetch::Fetches;
use crate::{ConfigError, RemoteConfig};

/// Look-ups under way at a time.
const MOST_LOOKUPS: usize = 512;

pub(crate) struct Shared {
    pub(crate) config: RemoteConfig,
    pub(crate) sink: Sink,
    pub(crate) cache: Cache,
    pub(crate) executor: Option<Executor>,
    pub(crate) fetches: Fetches,
    pub(crate) blobs: Blobs,
    pub(crate) lookups: Semaphore,
    may_upload: AtomicBool,
    /// Whether the executor shares the cache's blobs; unset where one endpoint is both.
    shares_cas: OnceCell<bool>,
}

impl Shared {
    /// Whether results may be uploaded, as far as is known.
    pub(crate) fn may_upload(&self) -> bool {
        self.may_upload.load(Ordering::Relaxed)
    }

    /// They may not; `true` the first time.
    pub(crate) fn forbid_uploads(&self) -> bool {
        self.may_upload.swap(false, Ordering::Relaxed)
    }
}

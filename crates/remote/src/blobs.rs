//! Blobs on their way here: each once, however many wait for it.
//!
//! A blob is brought by a task of its own, so that nobody who stops waiting takes it away from the others. It does not
//! know what the blobs are for.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use minibuild_core::{Digest, Requester};
use minibuild_disk::{DiskError, OutTree, Staged, StagedFile};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::cache::ReadFailure;
use crate::shared::Shared;

/// Blobs up to this size are brought into memory, together with others.
const SMALL: u64 = 128 << 10;
/// Small blobs on their way at a time.
const MOST_SMALL: usize = 512;
/// Others on their way at a time.
const MOST_LARGE: usize = 8;

/// The bytes of a blob, verified.
#[derive(Clone)]
pub(crate) enum Blob {
    /// In memory.
    Bytes(Bytes),
    /// In a file that is nobody's yet.
    File(Arc<StagedFile>),
}

/// A blob that came.
pub(crate) struct Brought {
    pub(crate) blob: Blob,
    /// Whether somebody else had asked for it before.
    pub(crate) is_shared: bool,
}

type Outcome = Result<Blob, ReadFailure>;

/// The blobs on their way.
pub(crate) struct Blobs {
    state: Mutex<State>,
    small: Semaphore,
    large: Semaphore,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Digest, Waiting>,
    begun: u64,
    tasks: JoinSet<()>,
}

/// Those who wait for a blob, and which task brings it to them.
struct Waiting {
    task: u64,
    senders: Vec<oneshot::Sender<Outcome>>,
}

impl Default for Blobs {
    fn default() -> Self {
        Self { state: Mutex::default(), small: Semaphore::new(MOST_SMALL), large: Semaphore::new(MOST_LARGE) }
    }
}

impl Blobs {
    /// Brings a blob. To be called inside the runtime.
    ///
    /// # Errors
    /// A [`ReadFailure`], the same for all who wait.
    pub(crate) async fn bring(
        &self,
        shared: &Arc<Shared>,
        who: &Requester,
        digest: Digest,
    ) -> Result<Brought, ReadFailure> {
        if digest.size == 0 {
            return Ok(Brought { blob: Blob::Bytes(Bytes::new()), is_shared: false });
        }
        let (sender, receiver) = oneshot::channel();
        let is_shared = self.join(shared, who, digest, sender);
        let blob = receiver.await.unwrap_or(Err(ReadFailure::Stopped))?;
        Ok(Brought { blob, is_shared })
    }

    /// Waits along with others, or begins.
    fn join(&self, shared: &Arc<Shared>, who: &Requester, digest: Digest, sender: oneshot::Sender<Outcome>) -> bool {
        let mut state = self.state();
        if let Some(others) = state.waiting.get_mut(&digest) {
            others.senders.push(sender);
            return true;
        }
        let task = state.begun;
        state.begun += 1;
        state.waiting.insert(digest, Waiting { task, senders: vec![sender] });
        while state.tasks.try_join_next().is_some() {}
        let (shared, who) = (Arc::clone(shared), who.clone());
        state.tasks.spawn(async move {
            let entry = Entry { blobs: &shared.blobs, digest, task };
            let outcome = get(&shared, &who, digest).await;
            entry.finish(outcome);
        });
        false
    }

    /// Stops all that are on their way; who asks from now on begins anew.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.tasks.abort_all();
        state.waiting.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob on its way; those who wait learn of it, however it ends.
struct Entry<'a> {
    blobs: &'a Blobs,
    digest: Digest,
    task: u64,
}

impl Entry<'_> {
    fn finish(self, outcome: Outcome) {
        let mut senders = self.take();
        let last = senders.pop();
        for sender in senders {
            // Nobody there any more is fine.
            let _ = sender.send(outcome.clone());
        }
        if let Some(last) = last {
            let _ = last.send(outcome);
        }
    }

    /// Those who wait for this task; those who wait for a later one stay.
    fn take(&self) -> Vec<oneshot::Sender<Outcome>> {
        let mut state = self.blobs.state();
        match state.waiting.get(&self.digest) {
            Some(waiting) if waiting.task == self.task => {}
            _ => return Vec::new(),
        }
        state.waiting.remove(&self.digest).map(|waiting| waiting.senders).unwrap_or_default()
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        // Dropped senders tell that it was stopped.
        drop(self.take());
    }
}

/// Brings the bytes.
async fn get(shared: &Shared, who: &Requester, digest: Digest) -> Outcome {
    let blobs = &shared.blobs;
    if digest.size <= SMALL {
        // Closed never.
        let _permit = blobs.small.acquire().await;
        return Ok(Blob::Bytes(shared.cache.read(who, digest).await?));
    }
    let _permit = blobs.large.acquire().await;
    let staged = shared.config.tree.stage_file().map_err(|e| ReadFailure::Disk(e.render()))?;
    shared.cache.download(who, digest, staged.file()).await?;
    Ok(Blob::File(Arc::new(staged)))
}

impl Blob {
    /// A complete file with these bytes: the staged one itself where nobody else needs it, else a copy.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn into_file(self, tree: &OutTree, executable: bool) -> Result<Staged, DiskError> {
        match self {
            Self::Bytes(bytes) => {
                let staged = tree.stage_file()?;
                let written = staged.file().write_all(&bytes);
                written.map_err(|e| DiskError::new("write", "minibuild-out/.state/staging", e))?;
                staged.finish(executable)
            }
            Self::File(file) => match Arc::try_unwrap(file) {
                Ok(file) => file.finish(executable),
                Err(file) => {
                    let copy = tree.stage_file()?;
                    copy.copy_from(file.file())?;
                    copy.finish(executable)
                }
            },
        }
    }
}

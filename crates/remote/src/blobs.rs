//! Blobs on their way here: each once, however many wait for it.
//!
//! A blob is brought by a task of its own, so that nobody who stops waiting takes it away from the others. It does not
//! know what the blobs are for.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use minibuild_core::{Content, Digest, Requester};
use minibuild_disk::{DiskError, OutTree, Staged, StagedFile, copy_hashed};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::cache::ReadFailure;
use crate::part::Part;
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
#[derive(Clone)]
pub(crate) struct Brought {
    pub(crate) blob: Blob,
    /// Whether it needed no transfer of its own: somebody else had asked for it before, or it was kept.
    pub(crate) is_copy: bool,
}

type Outcome = Result<Brought, ReadFailure>;

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
    handle: AbortHandle,
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
            return Ok(Brought { blob: Blob::Bytes(Bytes::new()), is_copy: false });
        }
        let (sender, receiver) = oneshot::channel();
        let is_shared = self.join(shared, who, digest, sender);
        // Dropped after the receiver.
        let mut leaving = Leaving { blobs: self, digest: Some(digest) };
        let outcome = receiver.await;
        leaving.digest = None;
        let Brought { blob, is_copy } = outcome.unwrap_or(Err(ReadFailure::Stopped))?;
        Ok(Brought { blob, is_copy: is_copy || is_shared })
    }

    /// Waits along with others, or begins; says whether there are others.
    fn join(&self, shared: &Arc<Shared>, who: &Requester, digest: Digest, sender: oneshot::Sender<Outcome>) -> bool {
        let mut state = self.state();
        if let Some(others) = state.waiting.get_mut(&digest) {
            others.senders.push(sender);
            return true;
        }
        let task = state.begun;
        state.begun += 1;
        while state.tasks.try_join_next().is_some() {}
        let (shared, who) = (Arc::clone(shared), who.clone());
        // It looks for those who wait under the lock.
        let handle = state.tasks.spawn(async move {
            let entry = Entry { blobs: &shared.blobs, digest, task };
            let outcome = get(&shared, &who, digest).await;
            if let Some(unwanted) = entry.finish(outcome) {
                keep(&shared, digest, unwanted);
            }
        });
        state.waiting.insert(digest, Waiting { task, handle, senders: vec![sender] });
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

/// Somebody who waits. What nobody waits for any longer is stopped.
struct Leaving<'a> {
    blobs: &'a Blobs,
    digest: Option<Digest>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Some(digest) = self.digest else { return };
        let mut state = self.blobs.state();
        let is_unwanted = |waiting: &Waiting| waiting.senders.iter().all(oneshot::Sender::is_closed);
        if state.waiting.get(&digest).is_some_and(is_unwanted)
            && let Some(waiting) = state.waiting.remove(&digest)
        {
            waiting.handle.abort();
        }
    }
}

/// A blob on its way; those who wait learn of it, however it ends.
struct Entry<'a> {
    blobs: &'a Blobs,
    digest: Digest,
    task: u64,
}

impl Entry<'_> {
    /// Tells all; gives back what nobody took.
    fn finish(self, outcome: Outcome) -> Option<Brought> {
        let mut senders = self.take();
        let last = senders.pop();
        for sender in senders {
            // Nobody there any more is fine.
            let _ = sender.send(outcome.clone());
        }
        match last {
            Some(last) => last.send(outcome).err()?.ok(),
            None => outcome.ok(),
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
async fn get(shared: &Arc<Shared>, who: &Requester, digest: Digest) -> Outcome {
    let blobs = &shared.blobs;
    if let Some(kept) = kept(shared, digest).await {
        return Ok(Brought { blob: Blob::File(Arc::new(kept)), is_copy: true });
    }
    if digest.size <= SMALL {
        // Closed never.
        let _permit = blobs.small.acquire().await;
        return Ok(Brought { blob: Blob::Bytes(shared.cache.read(who, digest).await?), is_copy: false });
    }
    let _permit = blobs.large.acquire().await;
    let keeper = shared.config.keeper.clone();
    let part = keeper.as_ref().and_then(|keeper| keeper.part(&digest));
    let part = part.map_or_else(|| shared.config.tree.stage_file(), Ok).map_err(|e| ReadFailure::Disk(e.render()))?;
    let part = shared.cache.download(who, digest, Part::new(part, digest, keeper)).await?;
    let file = part.take().ok_or_else(|| ReadFailure::Disk("bug: the file of a download is gone".to_owned()))?;
    Ok(Brought { blob: Blob::File(Arc::new(file)), is_copy: false })
}

/// A copy of a blob that is kept on this machine. One that is not what it should be is none.
async fn kept(shared: &Arc<Shared>, digest: Digest) -> Option<StagedFile> {
    let from = shared.config.keeper.as_ref()?.open(&digest)?;
    let owner = Arc::clone(shared);
    let copy = move || {
        let tree = &owner.config.tree;
        let file = tree.stage_unnamed_file().ok()?;
        let is_it = copy_hashed(&from, file.file(), tree.function(), tree.stop()).is_ok_and(|copied| copied == digest);
        is_it.then_some(file)
    };
    tokio::task::spawn_blocking(copy).await.ok().flatten()
}

/// Hands what came in vain to whoever keeps it; what is small comes soon again.
fn keep(shared: &Shared, digest: Digest, unwanted: Brought) {
    if let Blob::File(file) = unwanted.blob
        && let Some(staged) = Arc::into_inner(file).and_then(|file| file.finish(false).ok())
    {
        shared.keep(staged, &Content::File { digest, executable: false });
    }
}

impl Blob {
    /// A complete file with these bytes: the staged one itself where nobody else needs it, else a copy.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn into_file(self, tree: &OutTree, executable: bool) -> Result<Staged, DiskError> {
        match self {
            Self::Bytes(bytes) => {
                let staged = tree.stage_unnamed_file()?;
                let written = staged.file().write_all(&bytes);
                written.map_err(|e| DiskError::new("write", "minibuild-out/.state/staging", e))?;
                staged.finish(executable)
            }
            Self::File(file) => match Arc::try_unwrap(file) {
                Ok(file) => file.finish(executable),
                Err(file) => {
                    let copy = tree.stage_unnamed_file()?;
                    copy.copy_from(file.file())?;
                    copy.finish(executable)
                }
            },
        }
    }
}

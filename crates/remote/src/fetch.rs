//! Bringing outputs to their places: staged, then renamed in.
//!
//! A bounded number of tasks takes requests from one queue, the most urgent first. It does not know who decided that
//! an output is needed.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use minibuild_core::{
    self as core, BlobSource, Content, Copied, Digest, FetchId, FetchOutcome, FetchRequest, RemoteEvent, Stamp,
    TreeMeta, TreeNode, Urgency, WsPath,
};
use minibuild_disk::{DiskError, Staged, StagedTree, fingerprint_of};

use crate::answer::Ticket;
use crate::blobs::{Blob, Brought};
use crate::cache::ReadFailure;
use crate::shared::Shared;

/// Fetches at work at a time.
const MOST: usize = 128;
/// Files of one tree at work at a time.
const MOST_OF_TREE: usize = 64;

/// The fetches that wait, and how many tasks work on them.
#[derive(Default)]
pub(crate) struct Fetches(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: BinaryHeap<Waiting>,
    /// Counts all requests, so that equally urgent ones come in order.
    pushed: u64,
    workers: usize,
    /// Workers of an earlier one are gone or going.
    generation: u64,
}

struct Waiting {
    order: (Urgency, Reverse<u64>),
    request: FetchRequest,
    ticket: Ticket,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

impl Fetches {
    /// Takes a request; says whether one more task is needed, which then calls [`work`].
    pub(crate) fn push(&self, request: FetchRequest, ticket: Ticket) -> bool {
        let mut queue = self.queue();
        let order = (request.urgency, Reverse(queue.pushed));
        queue.pushed += 1;
        queue.waiting.push(Waiting { order, request, ticket });
        let is_needed = queue.workers < MOST;
        queue.workers += usize::from(is_needed);
        is_needed
    }

    /// Lets a fetch that waits wait less.
    pub(crate) fn hurry(&self, id: FetchId, urgency: Urgency) {
        let mut queue = self.queue();
        let mut waiting = std::mem::take(&mut queue.waiting).into_vec();
        for fetch in waiting.iter_mut().filter(|fetch| fetch.request.id == id) {
            fetch.order.0 = fetch.order.0.max(urgency);
        }
        queue.waiting = waiting.into();
    }

    /// Forgets all that wait; each is answered by its ticket.
    pub(crate) fn stop(&self) {
        let stopped = {
            let mut queue = self.queue();
            queue.generation += 1;
            queue.workers = 0;
            std::mem::take(&mut queue.waiting)
        };
        drop(stopped);
    }

    /// The next request, or the end of the task that asks.
    fn pop(&self, worker: &mut Worker<'_>) -> Option<Waiting> {
        let mut queue = self.queue();
        if queue.generation != worker.generation {
            return None;
        }
        let next = queue.waiting.pop();
        if next.is_none() {
            queue.workers -= 1;
            worker.has_left = true;
        }
        next
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task; counted as gone however it goes.
struct Worker<'a> {
    fetches: &'a Fetches,
    generation: u64,
    has_left: bool,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let mut queue = self.fetches.queue();
        if !self.has_left && queue.generation == self.generation {
            queue.workers -= 1;
        }
    }
}

/// Works until nothing waits.
pub(crate) async fn work(shared: Arc<Shared>) {
    let generation = shared.fetches.queue().generation;
    let mut worker = Worker { fetches: &shared.fetches, generation, has_left: false };
    while let Some(next) = shared.fetches.pop(&mut worker) {
        // The ticket has answered for a fetch that panicked; the others go on.
        let _ = AssertUnwindSafe(fetch(&shared, next.request, next.ticket)).catch_unwind().await;
    }
}

/// What is brought near its place.
#[derive(Clone, Copy)]
pub(crate) struct What<'a> {
    pub(crate) content: &'a Content,
    /// Blobs of it that are in files here.
    pub(crate) here: &'a [core::Blob],
    pub(crate) who: &'a core::Requester,
}

/// Why a fetch failed.
pub(crate) enum Failure {
    Lost(Vec<Digest>, String),
    /// Nothing is known of the blobs.
    Unreachable(String),
    Disk(String),
    /// The work was stopped under way.
    Stopped,
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Disk(error.render())
    }
}

impl Failure {
    fn of_blob(digest: Digest, failure: ReadFailure) -> Self {
        match failure {
            ReadFailure::Disk(why) => Self::Disk(why),
            ReadFailure::Stopped => Self::Stopped,
            failure @ ReadFailure::Unreachable(_) => Self::Unreachable(failure.about(&digest)),
            failure @ (ReadFailure::Lost | ReadFailure::Corrupt) => Self::Lost(vec![digest], failure.about(&digest)),
        }
    }

    fn outcome(self) -> FetchOutcome {
        match self {
            Self::Lost(digests, why) => FetchOutcome::Lost { digests, why },
            Self::Unreachable(why) => FetchOutcome::Unreachable(why),
            Self::Disk(why) => FetchOutcome::Disk(why),
            Self::Stopped => FetchOutcome::Stopped,
        }
    }
}

async fn fetch(shared: &Arc<Shared>, request: FetchRequest, ticket: Ticket) {
    let what = What { content: &request.content, here: &request.here, who: &request.who };
    match bring(shared, what).await {
        Ok((ready, copied)) => publish(shared, request, ticket, ready, copied).await,
        Err(failure) => ticket.0.give(RemoteEvent::Fetched { id: request.id, outcome: failure.outcome() }),
    }
}

/// Writes what is not written yet and puts it in its place, all in one turn of a thread: a small file takes less time
/// than waking one. The ticket goes along, so that the answer comes after that even if the fetch is stopped in between.
async fn publish(shared: &Arc<Shared>, request: FetchRequest, ticket: Ticket, ready: Ready, copied: Copied) {
    let shared = Arc::clone(shared);
    let work = move || {
        let staged = ready.write(&shared);
        let put = staged.and_then(|staged| put_in_place(&shared, staged, &request.path, &request.content));
        let outcome = match put {
            Ok(stamps) => FetchOutcome::Done { stamps, copied },
            Err(error) => FetchOutcome::Disk(error.render()),
        };
        ticket.0.give(RemoteEvent::Fetched { id: request.id, outcome });
    };
    // A panic was answered by the ticket.
    let _ = tokio::task::spawn_blocking(work).await;
}

/// Renames a complete thing into its place.
pub(crate) fn put_in_place(
    shared: &Shared,
    staged: Staged,
    path: &WsPath,
    content: &Content,
) -> Result<Vec<Stamp>, DiskError> {
    let tree = match content {
        Content::Directory(tree) => Some(&**tree),
        Content::File { .. } | Content::Symlink { .. } => None,
    };
    shared.config.tree.publish(staged, path, tree, &shared.clock)
}

/// So many copies of a blob.
fn copies(digest: Digest, files: usize) -> Copied {
    let files = files as u64;
    Copied { files, bytes: files * digest.size }
}

/// A thing that is here.
enum Ready {
    Staged(Staged),
    /// The bytes of a file, with its executable bit.
    File(Blob, bool),
}

impl Ready {
    /// The thing, complete. Blocks.
    fn write(self, shared: &Shared) -> Result<Staged, DiskError> {
        match self {
            Self::Staged(staged) => Ok(staged),
            Self::File(blob, executable) => blob.into_file(&shared.config.tree, executable),
        }
    }
}

/// The thing, complete, and which of its files needed no transfer of their own.
pub(crate) async fn stage(shared: &Arc<Shared>, what: What<'_>) -> Result<(Staged, Copied), Failure> {
    let (ready, copied) = bring(shared, what).await?;
    let owner = Arc::clone(shared);
    Ok((blocking(move || Ok(ready.write(&owner)?)).await?, copied))
}

/// The thing, and which of its files needed no transfer of their own.
async fn bring(shared: &Arc<Shared>, what: What<'_>) -> Result<(Ready, Copied), Failure> {
    match what.content {
        Content::Symlink { target } => {
            Ok((Ready::Staged(shared.config.tree.stage_symlink(target)?), Copied::default()))
        }
        Content::File { digest, executable } => {
            if let Some(staged) = copy(shared, what.here, *digest, *executable).await {
                return Ok((Ready::Staged(staged), copies(*digest, 1)));
            }
            let brought = shared.blobs.bring(shared, what.who, *digest).await;
            let Brought { blob, is_copy } = brought.map_err(|e| Failure::of_blob(*digest, e))?;
            Ok((Ready::File(blob, *executable), copies(*digest, usize::from(is_copy))))
        }
        Content::Directory(tree) => {
            let (staged, copied) = stage_tree(shared, what, tree).await?;
            Ok((Ready::Staged(staged), copied))
        }
    }
}

/// A directory that gets its files. Unless it gets all of them it is kept for the bytes that came.
struct Growing {
    staged: Option<StagedTree>,
    tree: Arc<TreeMeta>,
    shared: Arc<Shared>,
}

impl Growing {
    fn add(&self, path: &WsPath, file: Staged) -> Result<(), DiskError> {
        match &self.staged {
            Some(staged) => staged.add(path, file),
            None => Ok(()),
        }
    }

    /// It has all its files.
    fn finish(mut self) -> Option<Staged> {
        self.staged.take().map(StagedTree::finish)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            self.shared.keep(staged.finish(), &Content::Directory(Arc::clone(&self.tree)));
        }
    }
}

/// Files of a tree by digest.
type Places = BTreeMap<Digest, Vec<(WsPath, bool)>>;

async fn stage_tree(shared: &Arc<Shared>, what: What<'_>, tree: &Arc<TreeMeta>) -> Result<(Staged, Copied), Failure> {
    let (owner, meta) = (Arc::clone(shared), Arc::clone(tree));
    let made = blocking(move || {
        let staged = owner.config.tree.stage_tree(&meta)?;
        Ok(Growing { staged: Some(staged), tree: meta, shared: owner })
    });
    let staged = Arc::new(made.await?);
    let files = places(tree).into_iter();
    let mut work = stream::iter(files.map(|(digest, places)| fill(shared, what, &staged, digest, places)))
        .buffer_unordered(MOST_OF_TREE);
    let (mut copied, mut lost, mut first) = (Copied::default(), Vec::new(), None);
    while let Some(done) = work.next().await {
        match done {
            Ok(more) => copied += more,
            // What else is lost is worth knowing.
            Err(Failure::Lost(digests, why)) => {
                lost.extend(digests);
                first.get_or_insert(why);
            }
            Err(other) => return Err(other),
        }
    }
    drop(work);
    if let Some(why) = first {
        return Err(Failure::Lost(lost, why));
    }
    match Arc::into_inner(staged).and_then(Growing::finish) {
        Some(staged) => Ok((staged, copied)),
        None => Err(Failure::Disk("bug: a staged directory is still in use".to_owned())),
    }
}

fn places(tree: &TreeMeta) -> Places {
    let mut places = Places::new();
    for entry in &tree.entries {
        if let TreeNode::File { digest, executable } = entry.node {
            places.entry(digest).or_default().push((entry.path.clone(), executable));
        }
    }
    places
}

/// Brings one blob and puts it at all its places; gives those that needed no transfer.
async fn fill(
    shared: &Arc<Shared>,
    what: What<'_>,
    staged: &Arc<Growing>,
    digest: Digest,
    places: Vec<(WsPath, bool)>,
) -> Result<Copied, Failure> {
    if copy_all(shared, what, staged, digest, &places).await {
        return Ok(copies(digest, places.len()));
    }
    let brought = shared.blobs.bring(shared, what.who, digest).await;
    let Brought { blob, is_copy } = brought.map_err(|e| Failure::of_blob(digest, e))?;
    let (owner, staged) = (Arc::clone(shared), Arc::clone(staged));
    let copied = copies(digest, places.len() - usize::from(!is_copy));
    blocking(move || {
        put(&owner, &staged, blob, &places)?;
        drop(staged);
        Ok(copied)
    })
    .await
}

/// Copies a blob that is in a file here to all its places in a tree; says whether it could.
async fn copy_all(
    shared: &Arc<Shared>,
    what: What<'_>,
    staged: &Arc<Growing>,
    digest: Digest,
    places: &[(WsPath, bool)],
) -> bool {
    let mut files = Vec::new();
    for (path, executable) in places {
        let Some(file) = copy(shared, what.here, digest, *executable).await else { return false };
        files.push((path.clone(), file));
    }
    let staged = Arc::clone(staged);
    let add = move || files.into_iter().try_for_each(|(path, file)| staged.add(&path, file));
    blocking(move || Ok(add()?)).await.is_ok()
}

/// A copy of a blob that is in a file here: reflinked where the file system can. `None` where there is none, or the file
/// is no longer what it was, which only costs the transfer.
async fn copy(shared: &Arc<Shared>, here: &[core::Blob], digest: Digest, executable: bool) -> Option<Staged> {
    let BlobSource::File { path, fingerprint: Some(fingerprint) } =
        &here.iter().find(|blob| blob.digest == digest)?.source
    else {
        return None;
    };
    let (owner, path, fingerprint) = (Arc::clone(shared), path.clone(), *fingerprint);
    let work = move || {
        let tree = &owner.config.tree;
        let file = File::open(tree.workspace().join(path.as_path())).ok()?;
        let is_the_same = || rustix::fs::fstat(&file).is_ok_and(|stat| fingerprint_of(&stat) == fingerprint);
        let staged = tree.stage_unnamed_file().ok().filter(|_| is_the_same())?;
        staged.copy_from(&file).ok()?;
        is_the_same().then(|| staged.finish(executable).ok()).flatten()
    };
    blocking(move || Ok(work())).await.ok().flatten()
}

fn put(shared: &Shared, staged: &Growing, blob: Blob, places: &[(WsPath, bool)]) -> Result<(), DiskError> {
    let Some(((last, executable), others)) = places.split_last() else { return Ok(()) };
    for (path, executable) in others {
        staged.add(path, blob.clone().into_file(&shared.config.tree, *executable)?)?;
    }
    staged.add(last, blob.into_file(&shared.config.tree, *executable)?)
}

/// Does what waits for a disk where nobody else waits.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => Err(Failure::Disk("bug: writing a file panicked".to_owned())),
        Err(_) => Err(Failure::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use minibuild_core::{ActionId, DigestFunction, FetchId, Requester};

    use super::*;
    use crate::answer::{Answer, Request, Sink};

    fn request(id: u64, urgency: Urgency) -> FetchRequest {
        let key = DigestFunction::Sha256.empty();
        FetchRequest {
            id: FetchId(id),
            producer: ActionId::new(0),
            path: WsPath::new("minibuild-out/bin/x").expect("a path"),
            content: Content::Symlink { target: "t".into() },
            urgency,
            here: Vec::new(),
            who: Requester { label: String::new(), mnemonic: String::new(), key },
        }
    }

    #[test]
    fn the_most_urgent_comes_first_then_the_oldest() {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&answers);
        let sink: Sink = Arc::new(move |event| log.lock().expect("not poisoned").push(event));
        let fetches = Fetches::default();
        use Urgency::{Background, Input, Toplevel};
        for (id, urgency) in [(1, Background), (2, Toplevel), (3, Input), (4, Toplevel), (5, Input), (6, Background)] {
            let ticket = Ticket(Answer::new(Request::Fetch(FetchId(id)), Arc::clone(&sink)));
            assert!(fetches.push(request(id, urgency), ticket));
        }
        let mut worker = Worker { fetches: &fetches, generation: 0, has_left: false };
        let order: Vec<u64> = (0..4).filter_map(|_| Some(fetches.pop(&mut worker)?.request.id.0)).collect();
        assert_eq!(order, [3, 5, 2, 4]);
        fetches.stop();
        assert!(fetches.pop(&mut worker).is_none(), "its time is over");
        drop(worker);
        assert_eq!(fetches.queue().workers, 0);
        let answers = answers.lock().expect("not poisoned");
        let is_stopped =
            |event: &&RemoteEvent| matches!(event, RemoteEvent::Fetched { outcome: FetchOutcome::Stopped, .. });
        assert_eq!(answers.iter().filter(is_stopped).count(), 6);
    }
}

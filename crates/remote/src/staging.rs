//! Outputs of a remote result near their places, as long as nobody knows whether it will be used.
//!
//! What is staged under a name is held here until it is published or given up; dropped, it goes to the trash. It does not
//! know who else makes the same outputs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minibuild_core::{Content, Copied, PublishedOutput, RemoteEvent, RunId, StagingOutcome, StagingRequest, WsPath};
use minibuild_disk::Staged;
use tokio::task::AbortHandle;

use crate::answer::Ticket;
use crate::fetch::{Failure, What, blocking, put_in_place, stage};
use crate::shared::Shared;

/// An output that is complete and private.
pub(crate) struct Held {
    path: WsPath,
    content: Content,
    staged: Staged,
    copied: Copied,
}

impl Held {
    /// Hands it to whoever keeps it, wherever it should have gone.
    pub(crate) fn give_to(self, shared: &Shared) {
        shared.keep(self.staged, &self.content);
    }
}

/// An output of a staging that may not get all of its outputs: dropped, it is kept as bytes.
struct Spare {
    shared: Arc<Shared>,
    held: Option<Held>,
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.give_to(&self.shared);
        }
    }
}

/// What is being staged, and what is.
#[derive(Default)]
pub(crate) struct Stagings(Mutex<State>);

#[derive(Default)]
struct State {
    under_way: HashMap<RunId, AbortHandle>,
    held: HashMap<RunId, Vec<Held>>,
}

impl Stagings {
    /// Remembers how to end a staging.
    pub(crate) fn begin(&self, run: RunId, task: AbortHandle) {
        let mut state = self.state();
        if state.under_way.len() == state.under_way.capacity() {
            state.under_way.retain(|_, task| !task.is_finished());
        }
        state.under_way.insert(run, task);
    }

    /// Ends a staging; its ticket answers.
    pub(crate) fn stop(&self, run: RunId) {
        if let Some(task) = self.state().under_way.remove(&run) {
            task.abort();
        }
    }

    fn hold(&self, run: RunId, outputs: Vec<Held>) {
        self.state().held.insert(run, outputs);
    }

    /// Gives out what was staged under a name, which is then nobody's.
    pub(crate) fn take(&self, run: RunId) -> Vec<Held> {
        let mut state = self.state();
        state.under_way.remove(&run);
        state.held.remove(&run).unwrap_or_default()
    }

    /// Nothing is needed any more.
    pub(crate) fn clear(&self) {
        let dropped = std::mem::take(&mut *self.state());
        dropped.under_way.values().for_each(AbortHandle::abort);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stages all outputs of a request, and holds them.
pub(crate) async fn bring(shared: Arc<Shared>, request: StagingRequest) -> RemoteEvent {
    let run = request.run;
    let outcome = match bring_all(&shared, request).await {
        Ok(outputs) => {
            shared.stagings.hold(run, outputs);
            StagingOutcome::Done
        }
        Err(Failure::Lost(digests, why)) => StagingOutcome::Lost { digests, why },
        Err(Failure::Unreachable(why)) => StagingOutcome::Unreachable(why),
        Err(Failure::Disk(why)) => StagingOutcome::Disk(why),
        Err(Failure::Stopped) => StagingOutcome::Stopped,
    };
    RemoteEvent::Staged { run, outcome }
}

async fn bring_all(shared: &Arc<Shared>, request: StagingRequest) -> Result<Vec<Held>, Failure> {
    let who = &request.who;
    let one = |output: minibuild_core::StagedOutput| async move {
        let what = What { content: &output.content, here: &output.here, who };
        let (staged, copied) = stage(shared, what).await?;
        // Nobody knows how long it waits: handles are few.
        let staged = blocking(move || Ok(staged.named()?)).await?;
        let held = Held { path: output.path, content: output.content, staged, copied };
        Ok::<_, Failure>(Spare { shared: Arc::clone(shared), held: Some(held) })
    };
    let all: Vec<Spare> = futures_util::future::try_join_all(request.outputs.into_iter().map(one)).await?;
    Ok(all.into_iter().filter_map(|mut spare| spare.held.take()).collect())
}

/// Puts what is held in its places, and answers when that is done.
pub(crate) fn publish(shared: &Shared, run: RunId, staged: RunId, ticket: Ticket) {
    let outputs = shared.stagings.take(staged);
    let put = |held: Held| {
        let stamps = put_in_place(shared, held.staged, &held.path, &held.content)?;
        Ok(PublishedOutput { path: held.path, stamps, copied: held.copied })
    };
    let outcome: Result<Vec<_>, minibuild_disk::DiskError> = outputs.into_iter().map(put).collect();
    ticket.0.give(RemoteEvent::Published { run, outcome: outcome.map_err(|error| error.render()) });
}

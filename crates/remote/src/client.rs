//! The client: takes requests, never waits, and has tasks answer them.
//!
//! Threads and connections begin with the first request. It does not know how a request is served.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minibuild_core::{
    CacheLookup, CheckId, ExecutionReport, ExecutionStatus, ExistenceCheck, FetchId, FetchRequest, RemoteEvent,
    RemoteRequest, RunId, StagingRequest, StopReason, UploadCounts, UploadRequest, Urgency,
};
use minibuild_reapi::transfer::start_runtime;
use tokio::runtime::{Handle, Runtime};
use tokio::task::{AbortHandle, JoinSet};

use crate::answer::{Answer, Request, Sink, Ticket, Unfinished};
use crate::execute::{self, Operation};
use crate::fetch;
use crate::shared::Shared;
use crate::{ConfigError, RemoteConfig, lookup, staging, upload};

/// Threads that carry connections.
const WORKERS: usize = 2;
/// Threads that write and rename files.
const DISK_WORKERS: usize = 8;
/// How long a shutdown waits for writes that cannot be stopped.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names signs of life, of which nobody is told.
const PROBE: CheckId = CheckId(u64::MAX);

/// The remote sides of one build.
///
/// 1. No method waits for a server, except [`Self::shutdown`], which waits for files being written.
/// 2. Each request is answered by exactly one event, also when it is stopped, the work panics, or the client goes.
/// 3. After the answer nothing more is written for a request.
/// 4. No connection and no thread begins before the first request.
pub struct RemoteClient {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    runtime: Option<Runtime>,
    is_over: bool,
    tasks: JoinSet<()>,
    fetching: JoinSet<()>,
    running: Running,
}

type Running = HashMap<RunId, Started>;

/// An execution that may be stopped.
struct Started {
    answer: Arc<Answer>,
    task: AbortHandle,
    operation: Arc<Operation>,
}

impl RemoteClient {
    /// A client of these endpoints, which are not spoken to yet.
    ///
    /// # Errors
    /// A [`ConfigError`] where an endpoint is none, files of keys cannot be read, or endpoints do not go together.
    pub fn open(config: RemoteConfig, sink: Arc<dyn Fn(RemoteEvent) + Send + Sync>) -> Result<Self, ConfigError> {
        Ok(Self { shared: Arc::new(Shared::new(config, sink)?), state: Mutex::default() })
    }

    /// Asks the action cache. Answered by [`RemoteEvent::LookedUp`].
    pub fn look_up(&self, lookup: CacheLookup) {
        self.begin(Request::LookUp(lookup.run), move |shared, _| async move {
            let (answer, took) = lookup::look_up(&shared, &lookup).await;
            RemoteEvent::LookedUp { run: lookup.run, answer, took }
        });
    }

    /// Runs an action. Answered by [`RemoteEvent::Finished`].
    pub fn start(&self, request: RemoteRequest) {
        let run = request.run;
        let operation = Arc::new(Operation::default());
        let of_task = Arc::clone(&operation);
        let answer = Answer::new(Request::Run(run), self.sink());
        let of_work = Arc::clone(&answer);
        let work = move |shared: Arc<Shared>| async move {
            let report = execute::run(&shared, &request, &of_work, &of_task).await;
            RemoteEvent::Finished(Box::new(report))
        };
        let mut state = self.state();
        state.forget_finished();
        if let Some(task) = state.spawn(&self.shared, &answer, work) {
            state.running.insert(run, Started { answer, task, operation });
        }
    }

    /// Ends an execution here; it is answered at once. Unknown ones are none.
    pub fn stop(&self, run: RunId, reason: StopReason) {
        let Some(started) = self.state().running.remove(&run) else { return };
        let report = ExecutionReport::new(run, ExecutionStatus::Stopped(reason));
        started.answer.give(RemoteEvent::Finished(Box::new(report)));
        started.task.abort();
        if let (true, Some(name)) = (self.shared.config.cancel, started.operation.name()) {
            let shared = Arc::clone(&self.shared);
            let mut state = self.state();
            if let Some(handle) = state.handle() {
                state.tasks.spawn_on(async move { execute::cancel(&shared, &name).await }, &handle);
            }
        }
    }

    /// Brings an output. Answered by [`RemoteEvent::Fetched`].
    pub fn fetch(&self, request: FetchRequest) {
        let ticket = Ticket(Answer::new(Request::Fetch(request.id), self.sink()));
        let mut state = self.state();
        let Some(handle) = state.handle() else { return };
        if self.shared.fetches.push(request, ticket) {
            while state.fetching.try_join_next().is_some() {}
            state.fetching.spawn_on(fetch::work(Arc::clone(&self.shared)), &handle);
        }
    }

    /// Lets a fetch that has not begun begin sooner.
    pub fn hurry(&self, fetch: FetchId, urgency: Urgency) {
        self.shared.fetches.hurry(fetch, urgency);
    }

    /// Stops all fetches; each is answered. What is being put in its place now still gets there.
    pub fn stop_fetches(&self) {
        let mut state = self.state();
        state.fetching.abort_all();
        self.shared.fetches.stop();
        self.shared.blobs.stop();
    }

    /// Brings outputs near their places. Answered by [`RemoteEvent::Staged`].
    pub fn stage(&self, request: StagingRequest) {
        let run = request.run;
        let answer = Answer::new(Request::Stage(run), self.sink());
        let mut state = self.state();
        if let Some(task) = state.spawn(&self.shared, &answer, move |shared| staging::bring(shared, request)) {
            self.shared.stagings.begin(run, task);
        }
    }

    /// Ends a staging; blobs on their way for others, too, still come. What came is kept.
    pub fn stop_staging(&self, run: RunId) {
        self.shared.stagings.stop(run);
    }

    /// Puts what was staged in its places. Answered by [`RemoteEvent::Published`], also if the client goes meanwhile.
    pub fn publish(&self, run: RunId, staged: RunId) {
        let ticket = Ticket(Answer::new(Request::Publish(run), self.sink()));
        let Some(handle) = self.state().handle() else { return };
        let shared = Arc::clone(&self.shared);
        handle.spawn_blocking(move || staging::publish(&shared, run, staged, ticket));
    }

    /// Drops what was staged.
    pub fn unstage(&self, staged: RunId) {
        drop(self.shared.stagings.take(staged));
    }

    /// Hands what was staged to whoever keeps it.
    pub fn keep_staged(&self, staged: RunId) {
        for held in self.shared.stagings.take(staged) {
            held.give_to(&self.shared);
        }
    }

    /// Asks what the store lacks. Answered by [`RemoteEvent::Checked`].
    pub fn check(&self, check: ExistenceCheck) {
        self.begin(Request::Check(check.id), move |shared, _| async move {
            let missing = shared.cache.missing(&check.who, check.digests).await;
            RemoteEvent::Checked { id: check.id, missing }
        });
    }

    /// Asks servers that were given up for a sign of life.
    pub fn probe(&self) {
        self.begin(Request::Check(PROBE), move |shared, _| async move {
            shared.probe().await;
            RemoteEvent::Checked { id: PROBE, missing: Ok(Vec::new()) }
        });
    }

    /// Stores a result. Answered by [`RemoteEvent::Uploaded`].
    pub fn upload(&self, request: UploadRequest) {
        self.begin(Request::Upload(request.run), move |shared, _| async move {
            let error = upload::store(&shared, &request).await.err();
            RemoteEvent::Uploaded { run: request.run, error }
        });
    }

    /// What was sent so far, inputs of executions included.
    pub fn transfer_counts(&self) -> UploadCounts {
        self.shared.cache.sent()
    }

    /// Bytes that came from the cache so far, messages and all.
    pub fn received(&self) -> u64 {
        self.shared.cache.received()
    }

    /// Stops everything, answers what is open, and waits for files that are being written.
    pub fn shutdown(self) {
        drop(self);
    }

    fn begin<F>(&self, request: Request, work: impl FnOnce(Arc<Shared>, Arc<Answer>) -> F)
    where
        F: Future<Output = RemoteEvent> + Send + 'static,
    {
        let answer = Answer::new(request, self.sink());
        let of_work = Arc::clone(&answer);
        let mut state = self.state();
        state.spawn(&self.shared, &answer, move |shared| work(shared, of_work));
    }

    fn sink(&self) -> Sink {
        Arc::clone(&self.shared.sink)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop_all(&self) {
        let runtime = {
            let mut state = self.state();
            state.is_over = true;
            state.tasks.abort_all();
            state.fetching.abort_all();
            state.running.clear();
            state.runtime.take()
        };
        self.shared.fetches.stop();
        self.shared.blobs.stop();
        self.shared.stagings.clear();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(PATIENCE);
        }
        self.shared.end();
    }
}

impl Drop for RemoteClient {
    fn drop(&mut self) {
        self.stop_all();
    }
}

impl State {
    /// Where tasks run; `None` after the end or without threads.
    fn handle(&mut self) -> Option<Handle> {
        if self.runtime.is_none() && !self.is_over {
            self.runtime = start_runtime("remote", WORKERS, DISK_WORKERS).ok();
        }
        self.runtime.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// Has a task answer.
    fn spawn<F>(
        &mut self,
        shared: &Arc<Shared>,
        answer: &Arc<Answer>,
        work: impl FnOnce(Arc<Shared>) -> F,
    ) -> Option<AbortHandle>
    where
        F: Future<Output = RemoteEvent> + Send + 'static,
    {
        let Some(handle) = self.handle() else {
            answer.give_up(if self.is_over { Unfinished::Stopped } else { Unfinished::NoThreads });
            return None;
        };
        while self.tasks.try_join_next().is_some() {}
        let ticket = Ticket(Arc::clone(answer));
        let future = work(Arc::clone(shared));
        let task = async move {
            let event = future.await;
            ticket.0.give(event);
        };
        Some(self.tasks.spawn_on(task, &handle))
    }

    /// Forgets executions that are over, now and then.
    fn forget_finished(&mut self) {
        if self.running.len() == self.running.capacity() {
            self.running.retain(|_, started| !started.task.is_finished());
        }
    }
}

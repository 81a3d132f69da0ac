//! Operations and runs: what is queued, what runs, who waits for it.
//!
//! Each request is an operation of its own; operations of equal actions share one run, which goes on until the last
//! of them is cancelled. It does not know how an action is run, nor threads beyond letting workers wait for work.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use minibuild_core::{Digest, DigestFunction, StopReason};
use minibuild_local::Stopper;
use minibuild_reapi::decode::{Action, Command};
use minibuild_reapi::proto::{execution as proto, rpc};
use tokio::sync::watch;

/// Finished operations that can still be asked for.
const REMEMBERED: usize = 1000;

/// An action to run.
pub(crate) struct Job {
    pub(crate) function: DigestFunction,
    /// Of the action.
    pub(crate) digest: Digest,
    pub(crate) action: Action,
    pub(crate) command: Command,
    /// Smaller ones first.
    pub(crate) priority: i32,
    pub(crate) queued_at: SystemTime,
    /// Ends its run.
    pub(crate) stopper: Stopper,
}

/// How far an operation is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Queued,
    Executing,
    Done(Arc<proto::ExecuteResponse>),
}

/// A view on one operation.
pub(crate) struct Watch {
    pub(crate) name: String,
    pub(crate) function: DigestFunction,
    pub(crate) action: Digest,
    pub(crate) stage: watch::Receiver<Stage>,
}

/// See the module.
pub(crate) struct Board {
    state: Mutex<State>,
    work: Condvar,
    workers: usize,
    /// Makes names of operations of one server unlike those of the one before.
    prefix: String,
}

#[derive(Default)]
struct State {
    operations: HashMap<String, Operation>,
    /// Names of those that are done, oldest first.
    done: VecDeque<String>,
    runs: HashMap<u64, Run>,
    /// Runs that others may join.
    by_action: HashMap<(DigestFunction, Digest), u64>,
    queue: BTreeSet<(i32, u64)>,
    counter: u64,
    idle: usize,
    /// Numbers of the workers that were started.
    workers: BTreeSet<usize>,
    stopping: bool,
}

struct Operation {
    function: DigestFunction,
    action: Digest,
    stage: watch::Sender<Stage>,
    run: Option<u64>,
}

struct Run {
    job: Arc<Job>,
    /// Names of operations that wait for it.
    operations: Vec<String>,
}

/// What a request to run needs no run of its own for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It does need one.
    Nothing,
    /// A run for the same action is under way.
    Run,
    /// Such a run ended since the request was looked up.
    Result,
}

/// What came of a request to run.
pub(crate) struct Submitted {
    pub(crate) watch: Watch,
    pub(crate) joined: Joined,
    /// One more worker is to be started, this one.
    pub(crate) start_worker: Option<usize>,
}

impl Board {
    pub(crate) fn new(workers: usize, prefix: String) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), workers, prefix }
    }

    /// How many workers there are at most.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an action, or joins the run of an equal one. `known` is asked for a response where there is no such run: one
    /// that ended a moment ago recorded its result before it left the board.
    pub(crate) fn submit(&self, job: Job, known: impl FnOnce() -> Option<proto::ExecuteResponse>) -> Submitted {
        let mut state = self.lock();
        let key = (job.function, job.digest);
        let may_merge = !job.action.do_not_cache;
        if state.stopping {
            let watch = state.open(&self.prefix, key, Stage::Done(Arc::new(stopping())), None);
            return Submitted { watch, joined: Joined::Nothing, start_worker: None };
        }
        if may_merge && let Some(&id) = state.by_action.get(&key) {
            let stage = if state.is_queued(id) { Stage::Queued } else { Stage::Executing };
            let watch = state.open(&self.prefix, key, stage, Some(id));
            return Submitted { watch, joined: Joined::Run, start_worker: None };
        }
        // Under the lock: an equal run can neither begin nor end meanwhile.
        if let Some(response) = known() {
            let watch = state.open(&self.prefix, key, Stage::Done(Arc::new(response)), None);
            return Submitted { watch, joined: Joined::Result, start_worker: None };
        }
        state.counter += 1;
        let id = state.counter;
        if may_merge {
            state.by_action.insert(key, id);
        }
        state.queue.insert((job.priority, id));
        state.runs.insert(id, Run { job: Arc::new(job), operations: Vec::new() });
        let watch = state.open(&self.prefix, key, Stage::Queued, Some(id));
        let is_short = state.queue.len() > state.idle && state.workers.len() < self.workers;
        let start_worker = is_short.then(|| state.add_worker());
        self.work.notify_one();
        Submitted { watch, joined: Joined::Nothing, start_worker }
    }

    /// An operation that is done from the beginning.
    pub(crate) fn answer(&self, function: DigestFunction, action: Digest, response: proto::ExecuteResponse) -> Watch {
        self.lock().open(&self.prefix, (function, action), Stage::Done(Arc::new(response)), None)
    }

    /// The operation of this name.
    pub(crate) fn watch(&self, name: &str) -> Option<Watch> {
        let state = self.lock();
        let operation = state.operations.get(name)?;
        Some(Watch {
            name: name.to_owned(),
            function: operation.function,
            action: operation.action,
            stage: operation.stage.subscribe(),
        })
    }

    /// Forgets an operation; its run goes on.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().operations.remove(name);
    }

    /// Cancels an operation, and its run where nobody else waits for it. False where there is no such operation.
    pub(crate) fn cancel(&self, name: &str) -> bool {
        let mut state = self.lock();
        let Some(operation) = state.operations.get_mut(name) else { return false };
        let Some(id) = operation.run.take() else { return true };
        state.finish_operation(name, &Arc::new(failed(1, "the operation was cancelled")));
        let Some(run) = state.runs.get_mut(&id) else { return true };
        run.operations.retain(|other| other != name);
        if run.operations.is_empty() {
            run.job.stopper.stop(StopReason::Kill);
            state.close(id);
        }
        true
    }

    /// Waits for something to run; `None` when there is nothing to come.
    pub(crate) fn take(&self) -> Option<(u64, Arc<Job>)> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if let Some((_, id)) = state.queue.pop_first()
                && let Some(run) = state.runs.get(&id)
            {
                let (job, names) = (Arc::clone(&run.job), run.operations.clone());
                names.iter().for_each(|name| state.set_stage(name, Stage::Executing));
                return Some((id, job));
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// A run is over.
    pub(crate) fn finish(&self, id: u64, response: proto::ExecuteResponse) {
        let mut state = self.lock();
        let response = Arc::new(response);
        state.close(id);
        let names = state.runs.remove(&id).map(|run| run.operations).unwrap_or_default();
        names.iter().for_each(|name| state.finish_operation(name, &response));
    }

    /// Kills what runs, answers what is queued, and lets the workers go.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.answer_queued(&Arc::new(stopping()));
        for run in state.runs.values() {
            run.job.stopper.stop(StopReason::Kill);
        }
        self.work.notify_all();
    }

    /// A worker could not be started. Where there is no other, nothing that is queued would ever run: it is answered.
    pub(crate) fn lose_worker(&self, number: usize, response: proto::ExecuteResponse) {
        let mut state = self.lock();
        state.workers.remove(&number);
        if state.workers.is_empty() {
            state.answer_queued(&Arc::new(response));
        }
    }

    /// Whether the server is going down.
    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }
}

impl State {
    fn open(
        &mut self,
        prefix: &str,
        (function, action): (DigestFunction, Digest),
        stage: Stage,
        run: Option<u64>,
    ) -> Watch {
        self.counter += 1;
        let name = format!("operations/{prefix}-{}", self.counter);
        if matches!(stage, Stage::Done(_)) {
            self.remember(name.clone());
        }
        let (sender, receiver) = watch::channel(stage);
        if let Some(run) = run.and_then(|id| self.runs.get_mut(&id)) {
            run.operations.push(name.clone());
        }
        self.operations.insert(name.clone(), Operation { function, action, stage: sender, run });
        Watch { name, function, action, stage: receiver }
    }

    fn is_queued(&self, id: u64) -> bool {
        self.runs.get(&id).is_some_and(|run| self.queue.contains(&(run.job.priority, id)))
    }

    fn set_stage(&mut self, name: &str, stage: Stage) {
        if let Some(operation) = self.operations.get(name) {
            operation.stage.send_replace(stage);
        }
    }

    fn finish_operation(&mut self, name: &str, response: &Arc<proto::ExecuteResponse>) {
        let Some(operation) = self.operations.get_mut(name) else { return };
        operation.run = None;
        operation.stage.send_replace(Stage::Done(Arc::clone(response)));
        self.remember(name.to_owned());
    }

    fn remember(&mut self, name: String) {
        self.done.push_back(name);
        if self.done.len() > REMEMBERED
            && let Some(oldest) = self.done.pop_front()
        {
            self.operations.remove(&oldest);
        }
    }

    /// Nobody can join a run any more, and it does not begin.
    fn add_worker(&mut self) -> usize {
        let number = self.workers.last().map_or(0, |last| last + 1);
        self.workers.insert(number);
        number
    }

    fn answer_queued(&mut self, response: &Arc<proto::ExecuteResponse>) {
        while let Some((_, id)) = self.queue.pop_first() {
            self.close(id);
            let names = self.runs.remove(&id).map(|run| run.operations).unwrap_or_default();
            names.iter().for_each(|name| self.finish_operation(name, response));
        }
    }

    fn close(&mut self, id: u64) {
        let Some(run) = self.runs.get(&id) else { return };
        let key = (run.job.function, run.job.digest);
        if self.by_action.get(&key) == Some(&id) {
            self.by_action.remove(&key);
        }
        if self.queue.remove(&(run.job.priority, id)) {
            self.runs.remove(&id);
        }
    }
}

/// A response with nothing but an error.
pub(crate) fn failed(code: i32, message: &str) -> proto::ExecuteResponse {
    let status = rpc::Status { code, message: message.to_owned(), details: Vec::new() };
    proto::ExecuteResponse { status: Some(status), ..Default::default() }
}

fn stopping() -> proto::ExecuteResponse {
    failed(14, "the server is going down")
}

#[cfg(test)]
mod tests {
    use minibuild_core::WsPath;
    use minibuild_reapi::decode::Outputs;

    use super::*;

    fn job(name: &str, priority: i32, do_not_cache: bool) -> Job {
        let digest = DigestFunction::Sha256.digest(name.as_bytes());
        let empty = DigestFunction::Sha256.empty();
        Job {
            function: DigestFunction::Sha256,
            digest,
            action: Action { command: empty, input_root: empty, timeout: None, do_not_cache, platform: Vec::new() },
            command: Command {
                arguments: vec![name.to_owned()],
                environment: Vec::new(),
                outputs: Outputs::Paths(Vec::new()),
                working_directory: WsPath::root(),
                platform: Vec::new(),
                wants_trees: true,
                wants_directories: false,
            },
            priority,
            queued_at: SystemTime::UNIX_EPOCH,
            stopper: Stopper::default(),
        }
    }

    fn board() -> Board {
        Board::new(2, "test".into())
    }

    fn stage(watch: &Watch) -> String {
        match &*watch.stage.borrow() {
            Stage::Queued => "queued".into(),
            Stage::Executing => "executing".into(),
            Stage::Done(response) => format!("done {}", response.status.as_ref().map_or(0, |status| status.code)),
        }
    }

    /// Submits a job of which no result is known.
    fn submit(board: &Board, job: Job) -> Submitted {
        board.submit(job, || None)
    }

    #[test]
    fn a_run_that_ended_after_the_look_up_is_not_run_again() {
        let board = board();
        // Two requests looked the action up and found nothing; the first is submitted, run and recorded.
        let first = submit(&board, job("a", 0, false));
        let (id, _) = board.take().expect("queued");
        let result = || proto::ExecuteResponse { cached_result: true, ..Default::default() };
        let joining = board.submit(job("a", 0, false), || panic!("a run that is under way is joined unasked"));
        board.finish(id, proto::ExecuteResponse::default());
        let second = board.submit(job("a", 0, false), || Some(result()));
        assert_eq!((first.joined, joining.joined, second.joined), (Joined::Nothing, Joined::Run, Joined::Result));
        assert_eq!((stage(&second.watch), second.start_worker), ("done 0".into(), None));
        submit(&board, job("b", 0, false));
        assert_eq!(board.take().expect("queued").1.command.arguments[0], "b", "nothing of the other is queued");
    }

    #[test]
    fn smaller_priorities_run_first_then_older_ones() {
        let board = board();
        for (name, priority) in [("a", 0), ("b", 0), ("c", -1), ("d", 5)] {
            submit(&board, job(name, priority, false));
        }
        let order: Vec<String> =
            (0..4).filter_map(|_| board.take()).map(|(_, job)| job.command.arguments[0].clone()).collect();
        assert_eq!(order, ["c", "a", "b", "d"]);
    }

    #[test]
    fn workers_are_started_when_they_are_needed() {
        let board = board();
        let started: Vec<_> = ["a", "b", "c"].iter().map(|n| submit(&board, job(n, 0, false)).start_worker).collect();
        assert_eq!(started, [Some(0), Some(1), None]);
    }

    #[test]
    fn work_without_any_worker_is_answered_and_the_next_try_starts_one() {
        let board = board();
        let [first, second] = ["a", "b"].map(|name| board.submit(job(name, 0, false), || None));
        board.lose_worker(0, failed(14, "no thread"));
        assert_eq!(
            (stage(&first.watch), stage(&second.watch)),
            ("queued".into(), "queued".into()),
            "another one is there"
        );
        board.lose_worker(1, failed(14, "no thread"));
        let stages = (stage(&first.watch), stage(&second.watch));
        assert_eq!(stages, ("done 14".into(), "done 14".into()));
        let again = board.submit(job("a", 0, false), || None);
        assert!(again.joined == Joined::Nothing && again.start_worker == Some(0));
    }

    #[test]
    fn equal_actions_share_a_run_and_each_its_cancellation() {
        let board = board();
        let first = submit(&board, job("a", 0, false));
        let second = submit(&board, job("a", 0, false));
        assert_eq!((first.joined, second.joined), (Joined::Nothing, Joined::Run));
        assert_ne!(first.watch.name, second.watch.name);
        let (id, run) = board.take().expect("queued");
        let third = submit(&board, job("a", 0, false));
        assert_eq!((stage(&second.watch), stage(&third.watch)), ("executing".into(), "executing".into()));
        assert!(board.cancel(&first.watch.name) && board.cancel(&third.watch.name));
        assert_eq!((stage(&first.watch), stage(&second.watch)), ("done 1".into(), "executing".into()));
        assert_eq!(run.stopper.asked(), None, "somebody still waits");
        board.finish(id, proto::ExecuteResponse::default());
        assert_eq!((stage(&first.watch), stage(&second.watch)), ("done 1".into(), "done 0".into()));
        assert!(board.cancel(&second.watch.name), "what is done can be cancelled, to no effect");
        assert_eq!(stage(&second.watch), "done 0");
        assert!(submit(&board, job("a", 0, false)).joined == Joined::Nothing, "the run is over");
    }

    #[test]
    fn the_last_cancellation_kills_or_unqueues() {
        let board = board();
        let running = submit(&board, job("a", 0, false));
        let (_, run) = board.take().expect("queued");
        let queued = submit(&board, job("b", 0, false));
        assert!(board.cancel(&running.watch.name) && board.cancel(&queued.watch.name));
        assert_eq!(run.stopper.asked(), Some(StopReason::Kill));
        assert!(
            submit(&board, job("a", 0, false)).joined == Joined::Nothing,
            "nobody joins a run that is being killed"
        );
        assert_eq!(board.take().expect("queued").1.command.arguments[0], "a", "the cancelled one is not queued");
        assert!(!board.cancel("operations/nothing"));
    }

    #[test]
    fn what_may_not_be_cached_is_not_shared() {
        let board = board();
        assert!(submit(&board, job("a", 0, true)).joined == Joined::Nothing);
        assert!(submit(&board, job("a", 0, true)).joined == Joined::Nothing);
    }

    #[test]
    fn operations_are_found_until_forgotten() {
        let board = board();
        let first = submit(&board, job("a", 0, false)).watch;
        assert_eq!(board.watch(&first.name).map(|watch| watch.action), Some(first.action));
        board.forget(&first.name);
        assert!(board.watch(&first.name).is_none());
        let done = board.answer(DigestFunction::Sha256, first.action, proto::ExecuteResponse::default());
        assert_eq!(stage(&board.watch(&done.name).expect("remembered")), "done 0");
        for _ in 0..REMEMBERED {
            board.answer(DigestFunction::Sha256, first.action, proto::ExecuteResponse::default());
        }
        assert!(board.watch(&done.name).is_none());
    }

    #[test]
    fn a_stop_answers_everybody() {
        let board = board();
        let running = submit(&board, job("a", 0, false)).watch;
        let (id, run) = board.take().expect("queued");
        let queued = submit(&board, job("b", 0, false)).watch;
        board.stop();
        assert_eq!((stage(&queued), run.stopper.asked()), ("done 14".into(), Some(StopReason::Kill)));
        assert!(board.take().is_none() && board.is_stopping());
        board.finish(id, failed(14, "killed"));
        assert_eq!(stage(&running), "done 14");
        assert_eq!(stage(&submit(&board, job("c", 0, false)).watch), "done 14");
    }
}

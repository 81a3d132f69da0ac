//! `Execution` and `Operations`: requests to run actions, and looking after them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use longrunning::operations_server::Operations;
use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::{self, Action, Command, digest_message, function_number};
use minibuild_reapi::proto::{Message, execution as proto, longrunning, protobuf, rpc};
use minibuild_reapi::status::missing_blobs;
use proto::execution_server::Execution;
use proto::execution_stage::Value as StageValue;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::action_cache::lookup;
use super::inline::Inline;
use crate::answer::{bad_message, blocking, store_error, to_grpc};
use crate::execution::{Job, Joined, Stage, Watch, Workers, failed};
use crate::faults::Occasion;
use crate::inject::FaultKind;
use crate::shared::Shared;

pub(crate) struct ExecutionService {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Arc<Workers>,
}

type OperationStream = Pin<Box<dyn Stream<Item = Result<longrunning::Operation, Status>> + Send>>;

#[tonic::async_trait]
impl Execution for ExecutionService {
    type ExecuteStream = OperationStream;

    async fn execute(&self, request: Request<proto::ExecuteRequest>) -> Result<Response<OperationStream>, Status> {
        let mut request = request.into_inner();
        let instance = request.instance_name.clone();
        let inline = Inline::of_execute(&mut request);
        let (shared, workers) = (Arc::clone(&self.shared), Arc::clone(&self.workers));
        let work = async {
            let watch = blocking(move || execute(&shared, &workers, &request)).await?;
            Ok(self.stream("Execute", watch, inline))
        };
        self.shared.call("Execute", &instance, work).await
    }

    type WaitExecutionStream = OperationStream;

    async fn wait_execution(
        &self,
        request: Request<proto::WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let name = request.into_inner().name;
        let work = async {
            let watch = self.shared.board.watch(&name).ok_or_else(|| no_operation(&name))?;
            Ok(self.stream("WaitExecution", watch, Inline::default()))
        };
        self.shared.call("WaitExecution", self.shared.any_instance(), work).await
    }
}

impl ExecutionService {
    /// What is now, and every change up to the end.
    fn stream(&self, method: &'static str, mut watch: Watch, inline: Inline) -> OperationStream {
        let occasion = Occasion { method, digest: Some(watch.action), command: None };
        if self.shared.faults.strike(FaultKind::Forget, occasion).is_some() {
            self.shared.board.forget(&watch.name);
            if matches!(*watch.stage.borrow(), Stage::Done(_)) {
                // Nobody hears of its end, even if it was over by then.
                watch.stage = tokio::sync::watch::channel(Stage::Executing).1;
            }
        }
        let cut = self.shared.faults.cut(occasion);
        let (shared, inline) = (Arc::clone(&self.shared), Arc::new(inline));
        let stages = unfold(Some((watch, true)), move |state| {
            let (shared, inline) = (Arc::clone(&shared), Arc::clone(&inline));
            async move {
                let (mut watch, is_first) = state?;
                if !is_first && watch.stage.changed().await.is_err() {
                    // The operation was forgotten while it ran.
                    return None;
                }
                let stage = watch.stage.borrow_and_update().clone();
                let stage = with_contents(shared, watch.function, inline, stage).await;
                let operation = operation(&watch, &stage);
                let is_done = matches!(stage, Stage::Done(_));
                Some((Ok(operation), if is_done { None } else { Some((watch, false)) }))
            }
        });
        match cut {
            None => Box::pin(stages),
            Some(cut) => {
                let most = usize::try_from(cut.left).unwrap_or(usize::MAX);
                let shared = Arc::clone(&self.shared);
                let end = async move { shared.cut_off(cut.end).await };
                Box::pin(stages.take(most).chain(futures_util::stream::once(end)))
            }
        }
    }
}

/// The end of a run, with the contents the request wants to come along.
async fn with_contents(shared: Arc<Shared>, function: DigestFunction, inline: Arc<Inline>, stage: Stage) -> Stage {
    let response = match &stage {
        Stage::Done(response) if !inline.is_nothing() && response.result.is_some() => Arc::clone(response),
        _ => return stage,
    };
    let filled = blocking(move || {
        let mut response = (*response).clone();
        if let Some(result) = &mut response.result {
            inline.fill(&shared.store, function, result);
        }
        Ok(Stage::Done(Arc::new(response)))
    });
    filled.await.unwrap_or(stage)
}

/// Answers from the action cache or queues the action.
fn execute(shared: &Shared, workers: &Workers, request: &proto::ExecuteRequest) -> Result<Watch, Status> {
    if shared.board.workers() == 0 || shared.pretence.cache_only {
        return Err(Status::unimplemented("nothing is executed here"));
    }
    let function = shared.function(request.digest_function)?;
    let digest = shared.digest(request.action_digest.as_ref(), function)?;
    if let Some(response) = known(shared, request, function, &digest)? {
        shared.counters.of_actions(|count| count.cached += 1);
        return Ok(shared.board.answer(function, digest, response));
    }
    let (action, command) = read_action(shared, function, digest)?;
    check_platform(&action, &command)?;
    let job = Job {
        function,
        digest,
        action,
        command,
        priority: request.execution_policy.map_or(0, |policy| policy.priority),
        queued_at: SystemTime::now(),
        stopper: minibuild_local::Stopper::default(),
    };
    // What cannot be looked up now is run.
    let submitted = shared.board.submit(job, || known(shared, request, function, &digest).ok().flatten());
    match submitted.joined {
        Joined::Nothing => {}
        Joined::Run => shared.counters.of_actions(|count| count.merged += 1),
        Joined::Result => shared.counters.of_actions(|count| count.cached += 1),
    }
    if let Some(number) = submitted.start_worker
        && let Err(error) = workers.start(number)
    {
        shared.board.lose_worker(number, failed(14, &format!("cannot start a worker: {error}")));
    }
    Ok(submitted.watch)
}

/// The answer that the action cache has, unless the request wants none of it.
fn known(
    shared: &Shared,
    request: &proto::ExecuteRequest,
    function: DigestFunction,
    digest: &Digest,
) -> Result<Option<proto::ExecuteResponse>, Status> {
    if request.skip_cache_lookup {
        return Ok(None);
    }
    let result = lookup(shared, "Execute", function, digest)?;
    Ok(result.map(|result| proto::ExecuteResponse {
        result: Some(result),
        cached_result: true,
        status: Some(rpc::Status::default()),
        ..Default::default()
    }))
}

/// Reads action and command; what of them is missing is told the way that lets the client upload it.
fn read_action(shared: &Shared, function: DigestFunction, digest: Digest) -> Result<(Action, Command), Status> {
    let read = |digest: Digest| {
        shared.maybe_lose("Execute", function, &digest);
        let found = shared.store.read(function, &digest).map_err(store_error)?;
        found.ok_or_else(|| to_grpc(&missing_blobs(function, &[digest])))
    };
    let action = decode::action(&read(digest)?, function).map_err(bad_message)?;
    let command = decode::command(&read(action.command)?).map_err(bad_message)?;
    Ok((action, command))
}

/// Properties this host contradicts make an action one for another server; all others are taken for comments.
fn check_platform(action: &Action, command: &Command) -> Result<(), Status> {
    let properties = if action.platform.is_empty() { &command.platform } else { &action.platform };
    for (name, value) in properties {
        let fits = match &**name {
            "OSFamily" => value.eq_ignore_ascii_case(std::env::consts::OS),
            "ISA" | "Arch" => isa(value) == isa(std::env::consts::ARCH),
            _ => true,
        };
        if !fits {
            let text = format!("no worker here has the platform property {name}={value}");
            return Err(Status::failed_precondition(text));
        }
    }
    Ok(())
}

/// One name for each instruction set.
fn isa(name: &str) -> String {
    match &*name.to_ascii_lowercase() {
        "x86-64" | "x86_64" | "amd64" | "k8" => "x86_64".into(),
        "arm64" | "aarch64" | "arm-a64" => "aarch64".into(),
        other => other.to_owned(),
    }
}

fn operation(watch: &Watch, stage: &Stage) -> longrunning::Operation {
    let value = match stage {
        Stage::Queued => StageValue::Queued,
        Stage::Executing => StageValue::Executing,
        Stage::Done(_) => StageValue::Completed,
    };
    let metadata = proto::ExecuteOperationMetadata {
        stage: value as i32,
        action_digest: Some(digest_message(&watch.action)),
        digest_function: function_number(watch.function),
        ..Default::default()
    };
    let result = match stage {
        Stage::Done(response) => Some(longrunning::operation::Result::Response(any("ExecuteResponse", &**response))),
        Stage::Queued | Stage::Executing => None,
    };
    longrunning::Operation {
        name: watch.name.clone(),
        metadata: Some(any("ExecuteOperationMetadata", &metadata)),
        done: result.is_some(),
        result,
    }
}

fn any(name: &str, message: &impl Message) -> protobuf::Any {
    let type_url = format!("type.googleapis.com/build.bazel.remote.execution.v2.{name}");
    protobuf::Any { type_url, value: message.encode_to_vec() }
}

fn no_operation(name: &str) -> Status {
    Status::not_found(format!("there is no operation `{}`", name.chars().take(200).collect::<String>()))
}

pub(crate) struct OperationsService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Operations for OperationsService {
    async fn list_operations(
        &self,
        _: Request<longrunning::ListOperationsRequest>,
    ) -> Result<Response<longrunning::ListOperationsResponse>, Status> {
        Err(Status::unimplemented("operations are not listed here"))
    }

    async fn get_operation(
        &self,
        request: Request<longrunning::GetOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        let name = request.into_inner().name;
        let work = async {
            let watch = self.0.board.watch(&name).ok_or_else(|| no_operation(&name))?;
            let stage = watch.stage.borrow().clone();
            Ok(operation(&watch, &stage))
        };
        self.0.call("GetOperation", self.0.any_instance(), work).await
    }

    async fn delete_operation(
        &self,
        _: Request<longrunning::DeleteOperationRequest>,
    ) -> Result<Response<protobuf::Empty>, Status> {
        Err(Status::unimplemented("operations go by themselves here"))
    }

    async fn cancel_operation(
        &self,
        request: Request<longrunning::CancelOperationRequest>,
    ) -> Result<Response<protobuf::Empty>, Status> {
        let name = request.into_inner().name;
        let work = async {
            let was_there = self.0.board.cancel(&name);
            if was_there { Ok(protobuf::Empty {}) } else { Err(no_operation(&name)) }
        };
        self.0.call("CancelOperation", self.0.any_instance(), work).await
    }

    async fn wait_operation(
        &self,
        _: Request<longrunning::WaitOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        Err(Status::unimplemented("use WaitExecution"))
    }
}

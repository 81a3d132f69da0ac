//! The execution service of a server: streams of operations.
//!
//! It does not know what follows from an operation, or from a refusal.

use std::sync::Arc;

use minibuild_core::{Blob, BlobSource, Requester};
use minibuild_reapi::decode::LARGEST_RESULT;
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::proto::longrunning::{self, operations_client::OperationsClient};
use minibuild_reapi::transfer::ExecutionClient;
use tonic::{Code, Status, Streaming};

use crate::cas::GrpcCas;
use crate::error::{CallError, EnsureError};
use crate::grpc::{Attempt, Grpc, Patience};

/// A server that executes.
pub(crate) struct Executor {
    grpc: Arc<Grpc>,
    /// Its blobs, where the cache is another server.
    foreign_cas: Option<GrpcCas>,
}

/// A stream of operations.
pub(crate) struct Operations {
    stream: Streaming<longrunning::Operation>,
    /// Holds the connection's place.
    _attempt: Attempt,
}

/// Why there is no stream.
#[derive(Debug)]
pub(crate) enum NoStream {
    /// The server said so.
    Refused(Status),
    /// No answer is to be had, or none that is about the action.
    Failed(CallError),
}

impl Operations {
    /// The next operation; `None` at the end.
    ///
    /// # Errors
    /// The status with which the stream ended.
    pub(crate) async fn next(&mut self) -> Result<Option<longrunning::Operation>, Status> {
        self.stream.message().await
    }
}

impl Executor {
    pub(crate) fn new(grpc: Arc<Grpc>, foreign_cas: Option<GrpcCas>) -> Self {
        Self { grpc, foreign_cas }
    }

    /// Its address, as it may be shown.
    pub(crate) fn endpoint(&self) -> &str {
        self.grpc.endpoint()
    }

    /// The server it is.
    pub(crate) fn grpc(&self) -> &Arc<Grpc> {
        &self.grpc
    }

    /// If it is given up, and its time has come, asks it for a sign of life.
    pub(crate) async fn probe(&self) {
        self.grpc.probe().await;
    }

    /// Executes an action.
    ///
    /// # Errors
    /// [`NoStream`].
    pub(crate) async fn execute(
        &self,
        who: &Requester,
        request: &proto::ExecuteRequest,
    ) -> Result<Operations, NoStream> {
        let can = self.grpc.capabilities().await.map_err(NoStream::Failed)?;
        if !can.can_execute {
            let why = "it does not execute actions, or not with this digest function".to_owned();
            return Err(NoStream::Failed(self.grpc.refuse(Code::Unimplemented, "Execute", why)));
        }
        let answer = self.grpc.call_for(Some(who), "Execute", Patience::Endless, |attempt| async move {
            let mut client = ExecutionClient::new(attempt.channel(), LARGEST_RESULT);
            let answer = client.execute(attempt.request(request.clone())).await;
            opened(answer, attempt, is_about_the_action)
        });
        flatten(answer.await)
    }

    /// Takes an operation up again.
    ///
    /// # Errors
    /// [`NoStream`].
    pub(crate) async fn wait(&self, who: &Requester, name: &str) -> Result<Operations, NoStream> {
        let answer = self.grpc.call_for(Some(who), "WaitExecution", Patience::Endless, |attempt| async move {
            let mut client = ExecutionClient::new(attempt.channel(), LARGEST_RESULT);
            let request = proto::WaitExecutionRequest { name: name.to_owned() };
            let answer = client.wait_execution(attempt.request(request)).await;
            opened(answer, attempt, is_about_the_operation)
        });
        flatten(answer.await)
    }

    /// Asks for an operation's end, once.
    pub(crate) async fn cancel(&self, name: &str) {
        let request = longrunning::CancelOperationRequest { name: name.to_owned() };
        let request = &request;
        let answer = self.grpc.call(None, "CancelOperation", |attempt| async move {
            let mut client = OperationsClient::new(attempt.channel());
            // Servers that cannot are many; nothing follows from it.
            let _ = client.cancel_operation(attempt.request(request.clone())).await;
            Ok(())
        });
        let _ = answer.await;
    }

    /// Whether it has an action that was uploaded to the cache.
    ///
    /// # Errors
    /// What keeps it from answering.
    pub(crate) async fn has(&self, who: &Requester) -> Result<bool, String> {
        let Some(cas) = &self.foreign_cas else { return Ok(true) };
        let action = [Blob { digest: who.key, source: BlobSource::Elsewhere }];
        match cas.ensure(who, &action, &|_, _| {}).await {
            Ok(()) => Ok(true),
            Err(EnsureError::Lost(_)) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

type Opened = Result<Operations, Status>;

/// An answer that is final is no failed attempt.
fn opened(
    answer: Result<tonic::Response<Streaming<longrunning::Operation>>, Status>,
    attempt: Attempt,
    is_final: fn(&Status) -> bool,
) -> Result<Opened, Status> {
    match answer {
        Ok(answer) => Ok(Ok(Operations { stream: answer.into_inner(), _attempt: attempt })),
        Err(status) if !is_broken(&status) && is_final(&status) => Ok(Err(status)),
        Err(status) => Err(status),
    }
}

fn flatten(answer: Result<Opened, CallError>) -> Result<Operations, NoStream> {
    answer.map_err(NoStream::Failed)?.map_err(NoStream::Refused)
}

/// Whether the connection failed rather than the server said something.
pub(crate) fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn is_about_the_action(status: &Status) -> bool {
    matches!(status.code(), Code::FailedPrecondition | Code::NotFound | Code::InvalidArgument | Code::Internal)
}

fn is_about_the_operation(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::Unauthenticated | Code::DeadlineExceeded | Code::Cancelled
    )
}

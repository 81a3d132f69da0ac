//! Clients of the calls that carry blobs, and of those whose answers may be large.
//!
//! They know what a call is named and of which kind it is. Connections, headers and limits are of who makes them.

use futures_core::Stream;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::{Body, Bytes, StdError, http::uri::PathAndQuery};
use tonic::{Request, Response, Status, Streaming};

use super::codec::CheckedCodec;
use super::{BatchReadBlobsResponse, BatchUpdateBlobsRequest, ReadResponse, WriteRequest};
use crate::proto::bytestream::{ReadRequest, WriteResponse};
use crate::proto::execution::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsResponse, ExecuteRequest, FindMissingBlobsRequest,
    FindMissingBlobsResponse, GetActionResultRequest, UpdateActionResultRequest, WaitExecutionRequest,
};
use crate::proto::longrunning::Operation;

/// `ActionCache`.
#[derive(Clone, Debug)]
pub struct ActionCacheClient<T>(Grpc<T>);

/// `Execution`.
#[derive(Clone, Debug)]
pub struct ExecutionClient<T>(Grpc<T>);

/// `google.bytestream.ByteStream`, what of it carries blobs.
#[derive(Clone, Debug)]
pub struct ByteStreamClient<T>(Grpc<T>);

/// `ContentAddressableStorage`, what of it carries blobs.
#[derive(Clone, Debug)]
pub struct CasClient<T>(Grpc<T>);

impl<T> ActionCacheClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// Calls over a connection; answers of more than `limit` bytes are refused.
    pub fn new(connection: T, limit: usize) -> Self {
        Self(Grpc::new(connection).max_decoding_message_size(limit))
    }

    /// Asks for the result of an action.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn get_action_result(
        &mut self,
        request: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        ready(&mut self.0).await?;
        let path = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult";
        self.0.unary(request, PathAndQuery::from_static(path), CheckedCodec::default()).await
    }

    /// Stores the result of an action.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn update_action_result(
        &mut self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        ready(&mut self.0).await?;
        let path = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";
        self.0.unary(request, PathAndQuery::from_static(path), CheckedCodec::default()).await
    }
}

impl<T> ExecutionClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// Calls over a connection; messages of more than `limit` bytes are refused.
    pub fn new(connection: T, limit: usize) -> Self {
        Self(Grpc::new(connection).max_decoding_message_size(limit))
    }

    /// Has an action executed.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn execute(
        &mut self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Streaming<Operation>>, Status> {
        ready(&mut self.0).await?;
        let path = "/build.bazel.remote.execution.v2.Execution/Execute";
        self.0.server_streaming(request, PathAndQuery::from_static(path), CheckedCodec::default()).await
    }

    /// Takes up an operation that is under way.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn wait_execution(
        &mut self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<Streaming<Operation>>, Status> {
        ready(&mut self.0).await?;
        let path = "/build.bazel.remote.execution.v2.Execution/WaitExecution";
        self.0.server_streaming(request, PathAndQuery::from_static(path), CheckedCodec::default()).await
    }
}

impl<T> ByteStreamClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// Calls over a connection.
    pub fn new(connection: T) -> Self {
        Self(Grpc::new(connection))
    }

    /// Takes pieces of up to `limit` bytes, message and all; 4 MiB where nothing else was said.
    #[must_use]
    pub fn with_limit(self, limit: usize) -> Self {
        Self(self.0.max_decoding_message_size(limit))
    }

    /// Reads a blob in pieces.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn read(&mut self, request: Request<ReadRequest>) -> Result<Response<Streaming<ReadResponse>>, Status> {
        ready(&mut self.0).await?;
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Read");
        self.0.server_streaming(request, path, CheckedCodec::default()).await
    }

    /// Writes a blob in pieces.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn write(
        &mut self,
        request: Request<impl Stream<Item = WriteRequest> + Send + 'static>,
    ) -> Result<Response<WriteResponse>, Status> {
        ready(&mut self.0).await?;
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Write");
        self.0.client_streaming(request, path, CheckedCodec::default()).await
    }
}

impl<T> CasClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// Calls over a connection; answers of more than `limit` bytes are refused.
    pub fn new(connection: T, limit: usize) -> Self {
        Self(Grpc::new(connection).max_decoding_message_size(limit))
    }

    /// Asks which blobs are missing.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn find_missing_blobs(
        &mut self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        ready(&mut self.0).await?;
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
        self.0.unary(request, PathAndQuery::from_static(path), CheckedCodec::default()).await
    }

    /// Stores several blobs.
    ///
    /// # Errors
    /// The status of the call; each blob has one of its own.
    pub async fn batch_update_blobs(
        &mut self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        ready(&mut self.0).await?;
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
        self.0.unary(request, PathAndQuery::from_static(path), CheckedCodec::default()).await
    }

    /// Reads several blobs.
    ///
    /// # Errors
    /// The status of the call; each blob has one of its own.
    pub async fn batch_read_blobs(
        &mut self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        ready(&mut self.0).await?;
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";
        self.0.unary(request, PathAndQuery::from_static(path), CheckedCodec::default()).await
    }
}

async fn ready<T>(grpc: &mut Grpc<T>) -> Result<(), Status>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
{
    grpc.ready().await.map_err(|error| Status::unavailable(format!("the connection is not ready: {}", error.into())))
}

//! `ByteStream` as a service: from HTTP requests to calls of a trait.
//!
//! It knows the names of the calls and their kinds, not what they do.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{ClientStreamingService, Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{ReadResponse, WriteRequest};
use crate::proto::bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, WriteResponse};

/// The pieces of a blob.
pub type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;

/// What a server of `google.bytestream.ByteStream` does.
#[tonic::async_trait]
pub trait ByteStream: Send + Sync + 'static {
    /// `Read`.
    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadStream>, Status>;

    /// `Write`.
    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status>;

    /// `QueryWriteStatus`.
    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status>;
}

/// Serves a [`ByteStream`].
pub struct ByteStreamServer<S> {
    service: Arc<S>,
    limit: usize,
}

impl<S: ByteStream> ByteStreamServer<S> {
    /// Messages of more than `limit` bytes are refused.
    pub fn new(service: S, limit: usize) -> Self {
        Self { service: Arc::new(service), limit }
    }
}

impl<S> Clone for ByteStreamServer<S> {
    fn clone(&self) -> Self {
        Self { service: Arc::clone(&self.service), limit: self.limit }
    }
}

impl<S> NamedService for ByteStreamServer<S> {
    const NAME: &'static str = "google.bytestream.ByteStream";
}

impl<S, B> Service<http::Request<B>> for ByteStreamServer<S>
where
    S: ByteStream,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let Self { service, limit } = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/google.bytestream.ByteStream/Read" => {
                    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(limit);
                    grpc.server_streaming(Read(service), request).await
                }
                "/google.bytestream.ByteStream/Write" => {
                    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(limit);
                    grpc.client_streaming(Write(service), request).await
                }
                "/google.bytestream.ByteStream/QueryWriteStatus" => {
                    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(limit);
                    grpc.unary(Query(service), request).await
                }
                _ => Status::unimplemented("there is no such call").into_http(),
            })
        })
    }
}

struct Read<S>(Arc<S>);

impl<S: ByteStream> ServerStreamingService<ReadRequest> for Read<S> {
    type Response = ReadResponse;
    type ResponseStream = ReadStream;
    type Future = BoxFuture<Response<ReadStream>, Status>;

    fn call(&mut self, request: Request<ReadRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.read(request).await })
    }
}

struct Write<S>(Arc<S>);

impl<S: ByteStream> ClientStreamingService<WriteRequest> for Write<S> {
    type Response = WriteResponse;
    type Future = BoxFuture<Response<WriteResponse>, Status>;

    fn call(&mut self, request: Request<Streaming<WriteRequest>>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.write(request).await })
    }
}

struct Query<S>(Arc<S>);

impl<S: ByteStream> UnaryService<QueryWriteStatusRequest> for Query<S> {
    type Response = QueryWriteStatusResponse;
    type Future = BoxFuture<Response<QueryWriteStatusResponse>, Status>;

    fn call(&mut self, request: Request<QueryWriteStatusRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.query_write_status(request).await })
    }
}

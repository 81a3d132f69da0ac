//! A server that does what no honest one would, call by call as a test says.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;

use minibuild_reapi::proto::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use minibuild_reapi::proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use minibuild_reapi::proto::execution as proto;
use proto::capabilities_server::{Capabilities, CapabilitiesServer};
use proto::content_addressable_storage_server::{ContentAddressableStorage, ContentAddressableStorageServer};
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Answers<Q, A> = Mutex<VecDeque<Box<dyn FnMut(Q) -> Result<A, Status> + Send>>>;

/// What it answers, in order; without an answer left it is UNIMPLEMENTED. All requests' headers are kept.
#[derive(Default)]
pub(super) struct Script {
    pub(super) capabilities: Mutex<proto::ServerCapabilities>,
    pub(super) missing: Answers<proto::FindMissingBlobsRequest, proto::FindMissingBlobsResponse>,
    pub(super) updates: Answers<proto::BatchUpdateBlobsRequest, proto::BatchUpdateBlobsResponse>,
    pub(super) batches: Answers<proto::BatchReadBlobsRequest, proto::BatchReadBlobsResponse>,
    /// The messages of a download, and how it ends.
    pub(super) reads: Answers<ReadRequest, (Vec<Vec<u8>>, Option<Status>)>,
    /// The next download that ends with an error stands still instead.
    pub(super) stalls: AtomicBool,
    /// Milliseconds before each message of a download.
    pub(super) slow: AtomicU64,
    /// Given all messages of an upload.
    pub(super) writes: Answers<Vec<WriteRequest>, i64>,
    pub(super) statuses: Answers<String, (i64, bool)>,
    pub(super) headers: Mutex<Vec<MetadataMap>>,
}

/// Adds an answer to a script.
pub(super) fn then<Q, A>(answers: &Answers<Q, A>, answer: impl FnMut(Q) -> Result<A, Status> + Send + 'static) {
    answers.lock().expect("no panic").push_back(Box::new(answer));
}

fn answer<Q, A>(answers: &Answers<Q, A>, request: Q) -> Result<A, Status> {
    let next = answers.lock().expect("no panic").pop_front();
    next.map_or_else(|| Err(Status::unimplemented("no answer is left")), |mut next| next(request))
}

/// A running server with a script.
pub(super) struct Fake {
    pub(super) script: Arc<Script>,
    pub(super) address: String,
    _runtime: Runtime,
}

impl Fake {
    /// One with SHA-256 and these compressors.
    pub(super) fn new(zstd: bool) -> Self {
        let script = Arc::new(Script::default());
        let compressors = if zstd { vec![proto::compressor::Value::Zstd as i32] } else { vec![] };
        script.capabilities.lock().expect("no panic").cache_capabilities = Some(proto::CacheCapabilities {
            digest_functions: vec![proto::digest_function::Value::Sha256 as i32],
            supported_compressors: compressors,
            ..Default::default()
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let incoming = {
            let _inside = runtime.enter();
            TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("listens")
        };
        let address = format!("grpc://{}", incoming.local_addr().expect("an address"));
        let router = tonic::transport::Server::builder()
            .add_service(CapabilitiesServer::from_arc(Arc::clone(&script)))
            .add_service(ContentAddressableStorageServer::from_arc(Arc::clone(&script)))
            .add_service(ByteStreamServer::from_arc(Arc::clone(&script)));
        runtime.spawn(router.serve_with_incoming(incoming));
        Self { script, address, _runtime: runtime }
    }
}

impl Script {
    fn note<Q>(&self, request: Request<Q>) -> Q {
        let (metadata, _, message) = request.into_parts();
        self.headers.lock().expect("no panic").push(metadata);
        message
    }
}

#[tonic::async_trait]
impl Capabilities for Script {
    async fn get_capabilities(
        &self,
        request: Request<proto::GetCapabilitiesRequest>,
    ) -> Result<Response<proto::ServerCapabilities>, Status> {
        self.note(request);
        Ok(Response::new(self.capabilities.lock().expect("no panic").clone()))
    }
}

type Unused<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ContentAddressableStorage for Script {
    type GetTreeStream = Unused<proto::GetTreeResponse>;
    type GetChunkMappingStream = Unused<proto::GetChunkMappingResponse>;

    async fn find_missing_blobs(
        &self,
        request: Request<proto::FindMissingBlobsRequest>,
    ) -> Result<Response<proto::FindMissingBlobsResponse>, Status> {
        answer(&self.missing, self.note(request)).map(Response::new)
    }

    async fn batch_update_blobs(
        &self,
        request: Request<proto::BatchUpdateBlobsRequest>,
    ) -> Result<Response<proto::BatchUpdateBlobsResponse>, Status> {
        answer(&self.updates, self.note(request)).map(Response::new)
    }

    async fn batch_read_blobs(
        &self,
        request: Request<proto::BatchReadBlobsRequest>,
    ) -> Result<Response<proto::BatchReadBlobsResponse>, Status> {
        answer(&self.batches, self.note(request)).map(Response::new)
    }

    async fn get_tree(&self, _: Request<proto::GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn split_blob(
        &self,
        _: Request<proto::SplitBlobRequest>,
    ) -> Result<Response<proto::SplitBlobResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn splice_blob(
        &self,
        _: Request<proto::SpliceBlobRequest>,
    ) -> Result<Response<proto::SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_chunk_mapping(
        &self,
        _: Request<proto::GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<proto::RegisterChunkMappingRequest>>,
    ) -> Result<Response<proto::RegisterChunkMappingResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl ByteStream for Script {
    type ReadStream = Unused<ReadResponse>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let (pieces, end) = answer(&self.reads, self.note(request))?;
        let pause = Duration::from_millis(self.slow.load(Ordering::Relaxed));
        let pieces = tokio_stream::iter(pieces).then(move |data| async move {
            tokio::time::sleep(pause).await;
            Ok(ReadResponse { data })
        });
        if end.is_some() && self.stalls.swap(false, Ordering::Relaxed) {
            return Ok(Response::new(Box::pin(pieces.chain(futures_util::stream::pending()))));
        }
        Ok(Response::new(Box::pin(pieces.chain(tokio_stream::iter(end.map(Err))))))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        let mut stream = self.note(request);
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        answer(&self.writes, messages).map(|committed_size| Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let name = self.note(request).resource_name;
        let (committed_size, complete) = answer(&self.statuses, name)?;
        Ok(Response::new(QueryWriteStatusResponse { committed_size, complete }))
    }
}

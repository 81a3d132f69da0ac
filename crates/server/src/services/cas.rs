//! `ContentAddressableStorage`: existence, batches, trees of directories.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode;
use minibuild_reapi::proto::{execution as proto, read, rpc};
use proto::batch_read_blobs_response::Response as ReadReply;
use proto::batch_update_blobs_response::Response as UpdateReply;
use proto::compressor::Value as Compressor;
use proto::content_addressable_storage_server::ContentAddressableStorage;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::answer::{bad_message, blocking, store_error, to_message};
use crate::inject::FaultKind;
use crate::shared::Shared;

pub(crate) struct CasService(pub(crate) Arc<Shared>);

/// Directories in one answer of `GetTree`, if the request does not say fewer.
const PAGE: usize = 1000;
/// Directories a tree may have.
const MAX_DIRECTORIES: usize = 1_000_000;
/// Compressing less is not worth it.
const WORTH_COMPRESSING: usize = 1024;

#[tonic::async_trait]
impl ContentAddressableStorage for CasService {
    async fn find_missing_blobs(
        &self,
        request: Request<proto::FindMissingBlobsRequest>,
    ) -> Result<Response<proto::FindMissingBlobsResponse>, Status> {
        let request = request.into_inner();
        self.0.call("FindMissingBlobs", &request.instance_name, async { self.find_missing(&request) }).await
    }

    async fn batch_update_blobs(
        &self,
        request: Request<proto::BatchUpdateBlobsRequest>,
    ) -> Result<Response<proto::BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        let instance = request.instance_name.clone();
        let shared = Arc::clone(&self.0);
        self.0.call("BatchUpdateBlobs", &instance, blocking(move || batch_update(&shared, request))).await
    }

    async fn batch_read_blobs(
        &self,
        request: Request<proto::BatchReadBlobsRequest>,
    ) -> Result<Response<proto::BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        let instance = request.instance_name.clone();
        let shared = Arc::clone(&self.0);
        self.0.call("BatchReadBlobs", &instance, blocking(move || batch_read(&shared, &request))).await
    }

    type GetTreeStream = Pin<Box<dyn Stream<Item = Result<proto::GetTreeResponse, Status>> + Send>>;

    async fn get_tree(&self, request: Request<proto::GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        let request = request.into_inner();
        let instance = request.instance_name.clone();
        let shared = Arc::clone(&self.0);
        let work = async {
            let pages = blocking(move || tree_pages(&shared, &request)).await?;
            Ok(Box::pin(tokio_stream::iter(pages.into_iter().map(Ok))) as Self::GetTreeStream)
        };
        self.0.call("GetTree", &instance, work).await
    }

    async fn split_blob(
        &self,
        _: Request<proto::SplitBlobRequest>,
    ) -> Result<Response<proto::SplitBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not split here"))
    }

    async fn splice_blob(
        &self,
        _: Request<proto::SpliceBlobRequest>,
    ) -> Result<Response<proto::SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not spliced here"))
    }

    type GetChunkMappingStream = Pin<Box<dyn Stream<Item = Result<proto::GetChunkMappingResponse, Status>> + Send>>;

    async fn get_chunk_mapping(
        &self,
        _: Request<proto::GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Status::unimplemented("blobs are not split here"))
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<tonic::Streaming<proto::RegisterChunkMappingRequest>>,
    ) -> Result<Response<proto::RegisterChunkMappingResponse>, Status> {
        Err(Status::unimplemented("blobs are not spliced here"))
    }
}

impl CasService {
    fn find_missing(
        &self,
        request: &proto::FindMissingBlobsRequest,
    ) -> Result<proto::FindMissingBlobsResponse, Status> {
        let function = self.0.function(request.digest_function)?;
        let digests = request.blob_digests.iter().map(|message| decode::digest(message, function));
        let digests = digests.collect::<Result<Vec<Digest>, _>>().map_err(bad_message)?;
        if self.0.faults.has(FaultKind::Lost) {
            digests.iter().for_each(|digest| self.0.maybe_lose("FindMissingBlobs", function, digest));
        }
        let missing = self.0.store.missing(function, digests.into_iter());
        let is_told = |digest: &&Digest| !self.0.strikes(FaultKind::Lie, "FindMissingBlobs", digest);
        let missing_blob_digests = missing.iter().filter(is_told).map(decode::digest_message).collect();
        Ok(proto::FindMissingBlobsResponse { missing_blob_digests })
    }
}

fn batch_update(
    shared: &Shared,
    request: proto::BatchUpdateBlobsRequest,
) -> Result<proto::BatchUpdateBlobsResponse, Status> {
    let function = shared.function(request.digest_function)?;
    let total: u64 = request.requests.iter().map(|blob| blob.data.len() as u64).sum();
    check_batch(shared, total)?;
    shared.counters.of_method("BatchUpdateBlobs", |count| count.bytes_in += total);
    let reply = |blob: proto::batch_update_blobs_request::Request| {
        let stored = store_one(shared, function, &blob);
        UpdateReply { digest: blob.digest, status: Some(stored.err().map_or_else(ok, |e| to_message(&e))) }
    };
    Ok(proto::BatchUpdateBlobsResponse { responses: request.requests.into_iter().map(reply).collect() })
}

fn store_one(
    shared: &Shared,
    function: DigestFunction,
    blob: &proto::batch_update_blobs_request::Request,
) -> Result<(), Status> {
    let digest = shared.digest(blob.digest.as_ref(), function)?;
    shared.check_full("BatchUpdateBlobs", &digest)?;
    if shared.strikes(FaultKind::Lie, "BatchUpdateBlobs", &digest) {
        return Ok(());
    }
    match Compressor::try_from(blob.compressor) {
        Ok(Compressor::Identity) => shared.store.put(function, &digest, &blob.data).map_err(store_error),
        Ok(Compressor::Zstd) if !shared.pretence.no_zstd => {
            check_batch(shared, digest.size)?;
            let size = usize::try_from(digest.size).map_err(|_| Status::invalid_argument("too large"))?;
            let bytes = zstd::bulk::decompress(&blob.data, size)
                .map_err(|e| Status::invalid_argument(format!("{digest} does not decompress: {e}")))?;
            shared.store.put(function, &digest, &bytes).map_err(store_error)
        }
        _ => Err(Status::invalid_argument("this compressor is not served here")),
    }
}

fn batch_read(
    shared: &Shared,
    request: &proto::BatchReadBlobsRequest,
) -> Result<proto::BatchReadBlobsResponse, Status> {
    let function = shared.function(request.digest_function)?;
    let digests = request.digests.iter().map(|message| decode::digest(message, function));
    let digests = digests.collect::<Result<Vec<Digest>, _>>().map_err(bad_message)?;
    check_batch(shared, digests.iter().fold(0, |sum, digest| digest.size.saturating_add(sum)))?;
    let zstd = request.acceptable_compressors.contains(&(Compressor::Zstd as i32)) && !shared.pretence.no_zstd;
    let responses: Vec<ReadReply> = digests.iter().map(|digest| read_one(shared, function, digest, zstd)).collect();
    let total: u64 = responses.iter().map(|reply| reply.data.len() as u64).sum();
    shared.counters.of_method("BatchReadBlobs", |count| count.bytes_out += total);
    Ok(proto::BatchReadBlobsResponse { responses })
}

fn read_one(shared: &Shared, function: DigestFunction, digest: &Digest, zstd: bool) -> ReadReply {
    shared.maybe_lose("BatchReadBlobs", function, digest);
    let mut reply =
        ReadReply { digest: Some(decode::digest_message(digest)), status: Some(ok()), ..Default::default() };
    let mut data = match shared.store.read(function, digest) {
        Ok(Some(data)) => data,
        Ok(None) => return ReadReply { status: Some(to_message(&not_found(digest))), ..reply },
        Err(error) => return ReadReply { status: Some(to_message(&store_error(error))), ..reply },
    };
    if shared.strikes(FaultKind::Lie, "BatchReadBlobs", digest) {
        reply.digest = Some(decode::digest_message(&Digest { size: digest.size + 1, ..*digest }));
    }
    let wrong = shared.wrong_length("BatchReadBlobs", digest);
    let length =
        (data.len() as u64).saturating_sub(wrong.missing).saturating_add(wrong.extra.min(shared.batch_limit()));
    data.resize(usize::try_from(length).unwrap_or(0), 0);
    let wrong = shared.corrupt_byte("BatchReadBlobs", digest).and_then(|at| usize::try_from(at).ok());
    if let Some(byte) = wrong.and_then(|at| data.get_mut(at)) {
        *byte ^= 1;
    }
    if zstd
        && data.len() >= WORTH_COMPRESSING
        && let Ok(packed) = zstd::bulk::compress(&data, 1)
        && packed.len() < data.len()
    {
        reply.compressor = Compressor::Zstd as i32;
        data = packed;
    }
    reply.data = data;
    reply
}

/// The directories at and below a root, parents first, each once, in pages. Those that are missing are left out,
/// except the root.
fn tree_pages(shared: &Shared, request: &proto::GetTreeRequest) -> Result<Vec<proto::GetTreeResponse>, Status> {
    let function = shared.function(request.digest_function)?;
    let root = shared.digest(request.root_digest.as_ref(), function)?;
    let mut directories = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut next = VecDeque::from([root]);
    while let Some(digest) = next.pop_front() {
        shared.maybe_lose("GetTree", function, &digest);
        let Some(bytes) = shared.store.read(function, &digest).map_err(store_error)? else {
            if digest == root {
                return Err(not_found(&root));
            }
            continue;
        };
        let checked = decode::directory(&bytes, function).map_err(bad_message)?;
        directories.push(read::<proto::Directory>("Directory", &bytes).map_err(bad_message)?);
        next.extend(checked.directories.iter().map(|(_, child)| *child).filter(|child| seen.insert(*child)));
        if seen.len() > MAX_DIRECTORIES {
            return Err(Status::resource_exhausted(format!("the tree has more than {MAX_DIRECTORIES} directories")));
        }
    }
    paginate(directories, request)
}

fn paginate(
    mut directories: Vec<proto::Directory>,
    request: &proto::GetTreeRequest,
) -> Result<Vec<proto::GetTreeResponse>, Status> {
    let start = match &*request.page_token {
        "" => 0,
        token => token.parse::<usize>().map_err(|_| Status::invalid_argument("this is no page token"))?,
    };
    let size = usize::try_from(request.page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE).min(PAGE);
    let total = directories.len();
    let mut rest = directories.split_off(start.min(total));
    let mut pages = Vec::new();
    loop {
        let behind = rest.split_off(size.min(rest.len()));
        let next_page_token = if behind.is_empty() { String::new() } else { (total - behind.len()).to_string() };
        pages.push(proto::GetTreeResponse { directories: rest, next_page_token });
        if behind.is_empty() {
            return Ok(pages);
        }
        rest = behind;
    }
}

fn check_batch(shared: &Shared, total: u64) -> Result<(), Status> {
    let limit = shared.batch_limit();
    if total <= limit {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{total} bytes in one batch, the limit is {limit}")))
}

pub(super) fn not_found(digest: &Digest) -> Status {
    Status::not_found(format!("blob {digest} is not in the store"))
}

fn ok() -> rpc::Status {
    rpc::Status::default()
}

//! `ByteStream`: large blobs, plain and compressed, in pieces that can be resumed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::try_unfold;
use minibuild_core::Digest;
use minibuild_reapi::proto::bytestream;
use minibuild_reapi::transfer::{ByteStream, ReadResponse, ReadStream, WriteRequest};
use minibuild_reapi::{BlobName, Compressor, UploadName};
use tonic::{Code, Request, Response, Status, Streaming};

use super::cas::not_found;
use super::upload::Upload;
use crate::answer::{bad_name, blocking, store_error};
use crate::faults::{Cut, Occasion};
use crate::inject::FaultKind;
use crate::shared::Shared;

/// Bytes in one message of a download.
const PIECE: u64 = 1 << 20;
/// Uploads are written to disk in pieces of at least this many bytes.
const WRITE: usize = 512 << 10;

/// What came of uploads whose streams broke may take one part in so many of the store's limit.
const ABANDONED: u64 = 4;
/// Or where so many small pieces came.
const MOST_PIECES: usize = 1024;

pub(crate) struct ByteStreamService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    async fn read(&self, request: Request<bytestream::ReadRequest>) -> Result<Response<ReadStream>, Status> {
        let request = request.into_inner();
        let name = BlobName::parse(&request.resource_name).map_err(bad_name)?;
        let instance = name.instance.clone();
        let shared = Arc::clone(&self.0);
        let work = async {
            let download = blocking(move || Download::open(shared, &name, &request)).await?;
            Ok(Box::pin(download.pieces()) as ReadStream)
        };
        self.0.call("Read", &instance, work).await
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<bytestream::WriteResponse>, Status> {
        let mut stream = request.into_inner();
        let Some(first) = stream.message().await? else {
            return Err(Status::invalid_argument("the stream of the upload is empty"));
        };
        let name = UploadName::parse(&first.resource_name).map_err(bad_name)?;
        let instance = name.blob.instance.clone();
        self.0.call("Write", &instance, self.receive(name, first, stream)).await
    }

    async fn query_write_status(
        &self,
        request: Request<bytestream::QueryWriteStatusRequest>,
    ) -> Result<Response<bytestream::QueryWriteStatusResponse>, Status> {
        let name = UploadName::parse(&request.get_ref().resource_name).map_err(bad_name)?;
        let instance = name.blob.instance.clone();
        let shared = Arc::clone(&self.0);
        self.0.call("QueryWriteStatus", &instance, blocking(move || write_status(&shared, &name))).await
    }
}

/// A blob being read.
pub(super) struct Download {
    shared: Arc<Shared>,
    method: &'static str,
    file: File,
    at: u64,
    end: u64,
    /// Where the blob ends: what a fault wants to come behind it is zero.
    file_end: u64,
    packer: Option<zstd::stream::write::Encoder<'static, Vec<u8>>>,
    wrong_byte: Option<u64>,
    cut: Option<Cut>,
    buffer: BytesMut,
}

impl Download {
    fn open(shared: Arc<Shared>, name: &BlobName, request: &bytestream::ReadRequest) -> Result<Self, Status> {
        let (function, digest) = (name.function, name.digest);
        if !shared.functions().contains(&function) {
            return Err(Status::invalid_argument("this digest function is not served here"));
        }
        let (at, end) = range(request, digest.size, name.compressor)?;
        shared.maybe_lose("Read", function, &digest);
        let file = shared.store.open_blob(function, &digest).map_err(store_error)?;
        let file = file.ok_or_else(|| not_found(&digest))?;
        if name.compressor == Compressor::Zstd && shared.pretence.no_zstd {
            return Err(Status::invalid_argument("this compressor is not served here"));
        }
        Self::begin(shared, "Read", (file, digest), name.compressor, (at, end))
    }

    /// The bytes of a blob from here to there, for whatever kind of call.
    pub(super) fn begin(
        shared: Arc<Shared>,
        method: &'static str,
        (file, digest): (File, Digest),
        compressor: Compressor,
        (at, end): (u64, u64),
    ) -> Result<Self, Status> {
        let packer = match compressor {
            Compressor::Identity => None,
            Compressor::Zstd => Some(
                zstd::stream::write::Encoder::new(Vec::new(), 1)
                    .map_err(|e| Status::internal(format!("cannot compress: {e}")))?,
            ),
        };
        let cut = shared.faults.cut(Occasion { method, digest: Some(digest), command: None });
        let wrong_byte = shared.corrupt_byte(method, &digest);
        let wrong = shared.wrong_length(method, &digest);
        let file_end = end.saturating_sub(wrong.missing).max(at);
        let end = file_end.saturating_add(wrong.extra);
        Ok(Self { shared, method, file, at, end, file_end, packer, wrong_byte, cut, buffer: BytesMut::new() })
    }

    /// All of it, piece by piece.
    pub(super) fn pieces(self) -> impl Stream<Item = Result<ReadResponse, Status>> + Send + 'static {
        try_unfold(self, Self::go_on)
    }

    /// The next message, `None` at the end.
    async fn go_on(self) -> Result<Option<(ReadResponse, Self)>, Status> {
        match self.cut {
            Some(Cut { left: 0, end }) => self.shared.cut_off(end).await,
            _ => blocking(move || self.next()).await,
        }
    }

    fn next(mut self) -> Result<Option<(ReadResponse, Self)>, Status> {
        loop {
            let is_last = self.at >= self.end;
            let data = match (self.read_piece()?, self.packer.take()) {
                (piece, None) => piece,
                (piece, Some(packer)) => Bytes::from(self.pack(packer, &piece, is_last)?),
            };
            if data.is_empty() {
                if is_last {
                    return Ok(None);
                }
                continue;
            }
            self.shared.counters.of_method(self.method, |count| count.bytes_out += data.len() as u64);
            return Ok(Some((ReadResponse { data }, self)));
        }
    }

    fn read_piece(&mut self) -> Result<Bytes, Status> {
        let most = self.cut.as_ref().map_or(PIECE, |cut| PIECE.min(cut.left));
        let length = most.min(self.end - self.at);
        // The same memory each time, unless the piece before is still under way.
        self.buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        let mut piece = self.buffer.split();
        let in_file = usize::try_from(length.min(self.file_end.saturating_sub(self.at))).unwrap_or(0);
        self.file
            .read_exact_at(&mut piece[..in_file], self.at)
            .map_err(|e| Status::data_loss(format!("cannot read the blob: {e}")))?;
        let wrong = self.wrong_byte.and_then(|at| at.checked_sub(self.at)).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = wrong.and_then(|at| piece.get_mut(at)) {
            *byte ^= 1;
        }
        if let Some(cut) = &mut self.cut {
            cut.left -= length;
        }
        self.at += length;
        Ok(piece.freeze())
    }

    fn pack(
        &mut self,
        mut packer: zstd::stream::write::Encoder<'static, Vec<u8>>,
        piece: &[u8],
        is_last: bool,
    ) -> Result<Vec<u8>, Status> {
        let fail = |e: std::io::Error| Status::internal(format!("cannot compress: {e}"));
        std::io::Write::write_all(&mut packer, piece).map_err(fail)?;
        if is_last {
            // Nothing is left to take the packer's place: the next call finds an empty piece and ends.
            return packer.finish().map_err(fail);
        }
        if self.cut.is_some() {
            // What a broken stream has sent can be unpacked up to there.
            std::io::Write::flush(&mut packer).map_err(fail)?;
        }
        let data = std::mem::take(packer.get_mut());
        self.packer = Some(packer);
        Ok(data)
    }
}

/// From where to where a request wants a blob.
fn range(request: &bytestream::ReadRequest, size: u64, compressor: Compressor) -> Result<(u64, u64), Status> {
    let offset = u64::try_from(request.read_offset).map_err(|_| Status::out_of_range("the offset is below zero"))?;
    let limit = u64::try_from(request.read_limit).map_err(|_| Status::invalid_argument("the limit is below zero"))?;
    if offset > size {
        return Err(Status::out_of_range(format!("the offset {offset} is behind the end at {size}")));
    }
    match limit {
        0 => Ok((offset, size)),
        _ if compressor != Compressor::Identity => {
            Err(Status::invalid_argument("a compressed blob is not read with a limit"))
        }
        limit => Ok((offset, offset.saturating_add(limit).min(size))),
    }
}

/// What a complete upload is answered with.
fn committed(name: &UploadName) -> bytestream::WriteResponse {
    let size = match name.blob.compressor {
        Compressor::Identity => i64::try_from(name.blob.digest.size).unwrap_or(i64::MAX),
        Compressor::Zstd => -1,
    };
    bytestream::WriteResponse { committed_size: size }
}

fn write_status(shared: &Shared, name: &UploadName) -> Result<bytestream::QueryWriteStatusResponse, Status> {
    if shared.pretence.no_resume {
        return Err(Status::unimplemented("uploads are not resumed here"));
    }
    if shared.store.has(name.blob.function, &name.blob.digest) {
        let committed_size = i64::try_from(name.blob.digest.size).unwrap_or(i64::MAX);
        return Ok(bytestream::QueryWriteStatusResponse { committed_size, complete: true });
    }
    let committed = shared.uploads.committed(name).unwrap_or(0);
    let committed_size = i64::try_from(committed).unwrap_or(i64::MAX);
    Ok(bytestream::QueryWriteStatusResponse { committed_size, complete: false })
}

impl ByteStreamService {
    async fn receive(
        &self,
        name: UploadName,
        first: WriteRequest,
        mut stream: Streaming<WriteRequest>,
    ) -> Result<bytestream::WriteResponse, Status> {
        let shared = &self.0;
        self.check(&name)?;
        shared.check_full("Write", &name.blob.digest)?;
        if shared.store.has(name.blob.function, &name.blob.digest) {
            return Ok(committed(&name));
        }
        let offset = u64::try_from(first.write_offset)
            .map_err(|_| Status::invalid_argument("the offset of the upload is below zero"))?;
        if offset > 0 && shared.pretence.no_resume {
            return Err(Status::unimplemented("uploads are not resumed here"));
        }
        let upload = shared.uploads.bring(&name, shared.store.limit() / ABANDONED);
        let owner = self.begin(&upload, &name, offset).await?;
        let occasion = Occasion { method: "Write", digest: Some(name.blob.digest), command: None };
        let cut = shared.faults.cut(occasion);
        let mut incoming = Incoming { next: offset, received: 0, pieces: Vec::new(), held: 0, cut };
        let mut message = Some(first);
        while let Some(request) = message {
            let is_last = incoming.take(request, &name)?;
            if is_last || incoming.is_enough() || incoming.is_cut() {
                self.store(&upload, owner, incoming.let_go(), &name).await?;
                if let Some(cut) = incoming.cut.filter(|_| incoming.is_cut()) {
                    return shared.cut_off(cut.end).await;
                }
            }
            if is_last {
                return self.finish(Arc::clone(&upload), owner, name).await;
            }
            message = stream.message().await?;
        }
        // The stream ended, the upload did not.
        self.store(&upload, owner, incoming.let_go(), &name).await?;
        let committed = shared.uploads.committed(&name).unwrap_or(0);
        Ok(bytestream::WriteResponse { committed_size: i64::try_from(committed).unwrap_or(i64::MAX) })
    }

    fn check(&self, name: &UploadName) -> Result<(), Status> {
        if !self.0.functions().contains(&name.blob.function) {
            return Err(Status::invalid_argument("this digest function is not served here"));
        }
        if name.blob.compressor == Compressor::Zstd && self.0.pretence.no_zstd {
            return Err(Status::invalid_argument("this compressor is not served here"));
        }
        Ok(())
    }

    async fn begin(&self, upload: &Arc<Upload>, name: &UploadName, offset: u64) -> Result<u64, Status> {
        let (upload, store, name) = (Arc::clone(upload), Arc::clone(&self.0.store), name.clone());
        blocking(move || upload.begin(&store, &name, offset)).await
    }

    async fn store(
        &self,
        upload: &Arc<Upload>,
        owner: u64,
        pieces: Vec<Bytes>,
        name: &UploadName,
    ) -> Result<(), Status> {
        let total: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if total == 0 {
            return Ok(());
        }
        self.0.counters.of_method("Write", |count| count.bytes_in += total);
        let upload = Arc::clone(upload);
        let written = blocking(move || pieces.iter().try_for_each(|piece| upload.write(owner, piece))).await;
        written.inspect_err(|error| self.end_unless_taken_over(error, name))
    }

    async fn finish(
        &self,
        upload: Arc<Upload>,
        owner: u64,
        name: UploadName,
    ) -> Result<bytestream::WriteResponse, Status> {
        let blob = name.clone();
        let finished = blocking(move || upload.finish(owner, &blob)).await;
        match finished {
            Ok(()) => self.0.uploads.end(&name),
            Err(error) => {
                self.end_unless_taken_over(&error, &name);
                return Err(error);
            }
        }
        let mut answer = committed(&name);
        if self.0.strikes(FaultKind::Lie, "Write", &name.blob.digest) {
            answer.committed_size -= 1;
        }
        Ok(answer)
    }

    fn end_unless_taken_over(&self, error: &Status, name: &UploadName) {
        if error.code() != Code::Aborted {
            self.0.uploads.end(name);
        }
    }
}

/// The bytes of a stream that are not written yet.
struct Incoming {
    /// Where the first message began.
    next: u64,
    /// Bytes since then, as they were sent.
    received: u64,
    pieces: Vec<Bytes>,
    /// Bytes of the pieces.
    held: usize,
    cut: Option<Cut>,
}

impl Incoming {
    /// Takes one message; whether it is the last.
    fn take(&mut self, request: WriteRequest, name: &UploadName) -> Result<bool, Status> {
        let expected = self.next.saturating_add(self.received);
        if u64::try_from(request.write_offset) != Ok(expected) {
            return Err(Status::invalid_argument(format!(
                "a message of the upload begins at {}, not at {expected}",
                request.write_offset
            )));
        }
        let is_other =
            !request.resource_name.is_empty() && UploadName::parse(&request.resource_name).ok().as_ref() != Some(name);
        if is_other {
            return Err(Status::invalid_argument("a message of the upload names another resource"));
        }
        self.received = self.received.saturating_add(request.data.len() as u64);
        self.held += request.data.len();
        self.pieces.push(request.data);
        Ok(request.finish_write && !self.is_cut())
    }

    /// Many small pieces count too: each takes memory of its own.
    fn is_enough(&self) -> bool {
        self.held >= WRITE || self.pieces.len() >= MOST_PIECES
    }

    fn let_go(&mut self) -> Vec<Bytes> {
        self.held = 0;
        std::mem::take(&mut self.pieces)
    }

    fn is_cut(&self) -> bool {
        self.cut.is_some_and(|cut| self.received >= cut.left)
    }
}

//! A blob by `ByteStream.Write`: resumed where the server committed to, sent anew where it cannot.
//!
//! It does not know who wants it there.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::StreamExt as _;
use minibuild_core::{Blob, BlobSource, DigestFunction, Requester};
use minibuild_reapi::UploadName;
use minibuild_reapi::proto::bytestream::{QueryWriteStatusRequest, byte_stream_client};
use minibuild_reapi::transfer::{ByteStreamClient, WriteRequest};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::Inner;
use super::flights::{Flight, Outcome, SendError};
use super::source::{Changed, Source};
use crate::grpc::Attempt;
use crate::unique::uuid;

/// Bytes of one message.
const PIECE: usize = 512 << 10;
/// Messages that wait to be sent.
const AHEAD: usize = 2;
/// As in all other places where speed counts more than size.
const LEVEL: i32 = 1;

/// Sends one blob, for as long as somebody waits for it.
pub(super) async fn run(inner: Arc<Inner>, who: Arc<Requester>, blob: Blob, flight: Flight) {
    let outcome = tokio::select! {
        biased;
        outcome = send(&inner, &who, &blob) => outcome,
        () = flight.abandoned() => return,
    };
    inner.land(flight, outcome);
}

async fn send(inner: &Inner, who: &Requester, blob: &Blob) -> Outcome {
    let zstd = inner.wants_zstd(blob.digest.size).await.map_err(SendError::Call)?;
    let _permit = inner.uploads.acquire().await;
    let state = &Mutex::new(State { zstd, uuid: uuid(), is_resumable: false });
    let sent = inner.grpc.call(Some(who), "Write", |attempt| async move {
        let upload = Upload { inner, blob, state };
        upload.attempt(&attempt).await
    });
    match sent.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Changed(path))) => Err(SendError::Changed(path)),
        Err(error) if error.code == Code::InvalidArgument => match changed(inner, blob).await {
            Some(Changed(path)) => Err(SendError::Changed(path)),
            None => Err(SendError::Call(error)),
        },
        Err(error) => Err(SendError::Call(error)),
    }
}

/// A refusal may be the fault of a file that is no longer what it was said to be.
async fn changed(inner: &Inner, blob: &Blob) -> Option<Changed> {
    let BlobSource::File { path, .. } = &blob.source else { return None };
    let source = BlobSource::File { path: path.clone(), fingerprint: None };
    let (blob, workspace) = (Blob { digest: blob.digest, source }, inner.workspace.clone());
    let function = inner.grpc.function();
    let read = move || Source::open(&workspace, &blob, function)?.and_then(|mut s| s.skip_to(blob.digest.size)).err();
    tokio::task::spawn_blocking(read).await.ok().flatten()
}

/// What attempts leave to the next.
#[derive(Clone)]
struct State {
    zstd: bool,
    uuid: String,
    /// Whether something was sent under the UUID.
    is_resumable: bool,
}

struct Upload<'a> {
    inner: &'a Inner,
    blob: &'a Blob,
    state: &'a Mutex<State>,
}

/// Where the server stands with an upload.
enum Committed {
    All,
    At(u64),
}

impl Upload<'_> {
    async fn attempt(&self, attempt: &Attempt) -> Result<Result<(), Changed>, Status> {
        let offset = match self.committed(attempt).await? {
            Committed::All => return Ok(Ok(())),
            Committed::At(offset) => offset,
        };
        attempt.reached(offset);
        let state = self.with(|state| {
            state.is_resumable = true;
            state.clone()
        });
        let (answer, reader) = self.stream(attempt, offset, &state).await;
        if let Some(changed) = reader.changed.get() {
            return Ok(Err(changed.clone()));
        }
        let committed = match answer {
            Ok(committed) => committed,
            Err(status) => return self.judge(status, offset).map(Ok),
        };
        let is_whole = committed == -1 || u64::try_from(committed) == Ok(self.blob.digest.size);
        // What servers count of a compressed upload differs; that they took all of it says enough.
        if is_whole || (state.zstd && reader.sent_all.load(Ordering::Acquire)) {
            return Ok(Ok(()));
        }
        Err(Status::aborted(format!("only {committed} bytes were taken of {}", self.blob.digest)))
    }

    /// Asks how far an earlier attempt came.
    async fn committed(&self, attempt: &Attempt) -> Result<Committed, Status> {
        let state = self.with(|state| state.clone());
        if !state.is_resumable {
            return Ok(Committed::At(0));
        }
        let request = QueryWriteStatusRequest { resource_name: self.name(&state) };
        let mut client = byte_stream_client::ByteStreamClient::new(attempt.channel());
        match client.query_write_status(attempt.request(request)).await {
            Ok(answer) if answer.get_ref().complete => Ok(Committed::All),
            Ok(answer) => {
                let offset = u64::try_from(answer.get_ref().committed_size).unwrap_or(0);
                // With all bytes and no end, the end would have nothing to come with.
                let is_of_use = offset > 0 && offset < self.blob.digest.size;
                Ok(Committed::At(if is_of_use { offset } else { self.anew() }))
            }
            Err(status) if crate::backoff::is_worth_retrying(status.code()) => Err(status),
            Err(_) => Ok(Committed::At(self.anew())),
        }
    }

    /// Begins under another name at the first byte.
    fn anew(&self) -> u64 {
        self.with(|state| state.uuid = uuid());
        0
    }

    /// What a refusal means: without an offset, or without compression, it may be granted.
    fn judge(&self, status: Status, offset: u64) -> Result<(), Status> {
        let may_be_ours = matches!(
            status.code(),
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::FailedPrecondition | Code::NotFound
        );
        let is_zstd = self.with(|state| state.zstd);
        match status.code() {
            Code::AlreadyExists => Ok(()),
            _ if !may_be_ours || (offset == 0 && !is_zstd) => Err(status),
            _ => {
                self.with(|state| {
                    state.zstd &= offset > 0;
                    state.is_resumable = false;
                    state.uuid = uuid();
                });
                Err(Status::aborted(format!("begins anew: {}", status.message())))
            }
        }
    }

    fn with<R>(&self, read: impl FnOnce(&mut State) -> R) -> R {
        read(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn name(&self, state: &State) -> String {
        let blob = self.inner.blob_name(self.blob.digest, state.zstd);
        UploadName { blob, uuid: state.uuid.clone() }.to_string()
    }

    /// Sends everything from `offset` on.
    async fn stream(&self, attempt: &Attempt, offset: u64, state: &State) -> (Result<i64, Status>, Arc<Reader>) {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let reader = Arc::new(Reader {
            blob: self.blob.clone(),
            workspace: self.inner.workspace.clone(),
            function: self.inner.grpc.function(),
            zstd: state.zstd,
            changed: OnceLock::new(),
            sent_all: AtomicBool::new(false),
        });
        let reading = Arc::clone(&reader);
        // Ends by itself when the receiver is gone.
        tokio::task::spawn_blocking(move || reading.run(offset, &sender));
        let (moved, mut name) = (attempt.mover(), self.name(state));
        let message = move |piece: Piece| {
            moved();
            WriteRequest {
                resource_name: std::mem::take(&mut name),
                write_offset: i64::try_from(piece.offset).unwrap_or(i64::MAX),
                finish_write: piece.is_last,
                data: piece.data.into(),
            }
        };
        // The body would live on with a connection that waits for room to send it.
        let (_alive, over) = oneshot::channel::<()>();
        let messages = ReceiverStream::new(receiver).map(message).take_until(over);
        let mut client = ByteStreamClient::new(attempt.channel());
        let answer = client.write(attempt.request(messages)).await;
        (answer.map(|answer| answer.into_inner().committed_size), reader)
    }
}

/// One message to be.
struct Piece {
    offset: u64,
    data: Vec<u8>,
    is_last: bool,
}

/// Makes the messages, in a thread.
struct Reader {
    blob: Blob,
    workspace: PathBuf,
    function: DigestFunction,
    zstd: bool,
    changed: OnceLock<Changed>,
    /// Set when the last message is on its way.
    sent_all: AtomicBool,
}

/// The receiver is gone.
struct Gone;

impl Reader {
    fn run(&self, offset: u64, sender: &mpsc::Sender<Piece>) {
        let opened = Source::open(&self.workspace, &self.blob, self.function);
        let read = opened.unwrap_or_else(|| Err(Changed(minibuild_core::WsPath::root()))).and_then(|mut source| {
            source.skip_to(offset)?;
            if self.zstd { self.packed(source, offset, sender) } else { self.plain(source, offset, sender) }
        });
        match read {
            Ok(sent) => self.sent_all.store(sent.is_ok(), Ordering::Release),
            // Seen by the caller when the stream ends without its last message.
            Err(changed) => drop(self.changed.set(changed)),
        }
    }

    fn plain(
        &self,
        mut source: Source,
        mut at: u64,
        sender: &mpsc::Sender<Piece>,
    ) -> Result<Result<(), Gone>, Changed> {
        loop {
            let data = source.next(PIECE)?;
            let next = at + data.len() as u64;
            let is_last = next >= self.blob.digest.size;
            if sender.blocking_send(Piece { offset: at, data, is_last }).is_err() {
                return Ok(Err(Gone));
            }
            if is_last {
                return Ok(Ok(()));
            }
            at = next;
        }
    }

    /// The first offset is one of the blob, the others add what was sent: so the API says.
    fn packed(
        &self,
        mut source: Source,
        offset: u64,
        sender: &mpsc::Sender<Piece>,
    ) -> Result<Result<(), Gone>, Changed> {
        let mut at = offset;
        let mut left = self.blob.digest.size - offset;
        let Ok(mut encoder) = zstd::stream::write::Encoder::new(Vec::new(), LEVEL) else { return Ok(Err(Gone)) };
        while left > 0 {
            let piece = source.next(PIECE)?;
            left -= piece.len() as u64;
            // Packing into memory does not fail.
            let _ = encoder.write_all(&piece);
            if left > 0 && encoder.get_ref().len() >= PIECE / 2 {
                let data = std::mem::take(encoder.get_mut());
                let length = data.len() as u64;
                if sender.blocking_send(Piece { offset: at, data, is_last: false }).is_err() {
                    return Ok(Err(Gone));
                }
                at += length;
            }
        }
        let data = encoder.finish().unwrap_or_default();
        Ok(sender.blocking_send(Piece { offset: at, data, is_last: true }).map_err(|_| Gone))
    }
}

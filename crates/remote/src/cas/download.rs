//! A blob by `ByteStream.Read`: resumed where it broke off, fetched anew where it came out wrong.
//!
//! It does not know who wants it. Bytes are taken while those before them are still being hashed and written.

use bytes::Bytes;
use minibuild_core::{Digest, Requester};
use minibuild_reapi::proto::bytestream::ReadRequest;
use minibuild_reapi::transfer::ByteStreamClient;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::Inner;
use super::sink::{Refusal, Sink, Target};
use crate::error::ReadError;
use crate::grpc::{Attempt, MAX_MESSAGE};

/// Bytes that wait at most while others are written.
const AHEAD: usize = 1 << 20;

/// Reads a blob into a target that is empty or has the first bytes of it. What is left of it at an error is what came.
///
/// # Errors
/// A [`ReadError`].
pub(super) async fn fetch<T: Target>(
    inner: &Inner,
    who: &Requester,
    digest: Digest,
    target: T,
) -> Result<T, ReadError> {
    let wants_zstd = inner.wants_zstd(digest.size).await.map_err(ReadError::Call)?;
    let _permit = inner.downloads.acquire().await;
    let sink = Sink::new(target, digest, inner.grpc.function());
    let mut transfer = Transfer::new(sink, wants_zstd);
    let mut why = String::new();
    for _ in 0..2 {
        let state = Mutex::new(transfer);
        let received = receive(inner, who, digest, &state).await?;
        transfer = state.into_inner();
        let refusal = match received {
            Ok(()) => match transfer.finish().await {
                Ok(target) => return Ok(target),
                Err(refusal) => refusal,
            },
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::Disk(why) => return Err(ReadError::Disk { digest, why }),
            Refusal::Corrupt(reason) => why = reason,
        }
        // Resumed and compressed streams are what servers get wrong.
        transfer.restarts = true;
        transfer.wants_zstd = false;
    }
    transfer.forget().await;
    Err(ReadError::Corrupt { digest, why })
}

/// All attempts until everything came, or something that is refused.
async fn receive<T: Target>(
    inner: &Inner,
    who: &Requester,
    digest: Digest,
    state: &Mutex<Transfer<T>>,
) -> Result<Result<(), Refusal>, ReadError> {
    let received = inner.grpc.call(Some(who), "Read", |attempt| async move {
        let mut transfer = state.lock().await;
        match transfer.attempt(inner, digest, &attempt).await {
            Ok(()) => Ok(Ok(())),
            Err(Failure::Refused(refusal)) => Ok(Err(refusal)),
            Err(Failure::Broken(status)) => Err(*status),
        }
    });
    received.await.map_err(|error| match error.code {
        Code::NotFound => ReadError::Lost(digest),
        _ => ReadError::Call(error),
    })
}

/// How an attempt ends early.
enum Failure {
    Refused(Refusal),
    Broken(Box<Status>),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Broken(Box::new(status))
    }
}

/// What a thread gives back that had the sink.
type Job<T> = JoinHandle<(Sink<T>, Result<u64, Refusal>)>;

/// A blob on its way, over all streams it needs.
struct Transfer<T: Target> {
    /// Here while no thread has it.
    sink: Option<Sink<T>>,
    busy: Option<Job<T>>,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    wants_zstd: bool,
    /// Whether the next stream begins at the first byte.
    restarts: bool,
}

impl<T: Target> Transfer<T> {
    fn new(sink: Sink<T>, wants_zstd: bool) -> Self {
        Self { sink: Some(sink), busy: None, waiting: Vec::new(), waiting_bytes: 0, wants_zstd, restarts: false }
    }

    async fn attempt(&mut self, inner: &Inner, digest: Digest, attempt: &Attempt) -> Result<(), Failure> {
        let offset = self.begin().await?;
        attempt.reached(offset);
        if offset == digest.size {
            return Ok(());
        }
        let request = ReadRequest {
            resource_name: inner.blob_name(digest, self.wants_zstd).to_string(),
            read_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            read_limit: 0,
        };
        let mut client = ByteStreamClient::new(attempt.channel()).with_limit(MAX_MESSAGE);
        let mut stream = match client.read(attempt.request(request)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(self.judge(status, offset).into()),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    attempt.heard();
                    self.push(message.data).await?;
                }
                Ok(None) => return Ok(self.drain().await?),
                Err(status) => return Err(self.judge(status, offset).into()),
            }
        }
    }

    /// What a refusal of the stream means: without an offset, or without compression, it may be granted.
    fn judge(&mut self, status: Status, offset: u64) -> Status {
        let may_be_ours = matches!(
            status.code(),
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::FailedPrecondition
        );
        if !may_be_ours || (offset == 0 && !self.wants_zstd) {
            return status;
        }
        if offset > 0 {
            self.restarts = true;
        } else {
            self.wants_zstd = false;
        }
        Status::aborted(format!("begins anew: {}", status.message()))
    }

    /// Where the next stream begins.
    async fn begin(&mut self) -> Result<u64, Refusal> {
        self.drain().await?;
        let (restarts, zstd) = (std::mem::take(&mut self.restarts), self.wants_zstd);
        self.start(move |sink| {
            if restarts {
                sink.restart()?;
            }
            sink.begin(zstd)
        });
        self.settle().await
    }

    async fn push(&mut self, data: Bytes) -> Result<(), Refusal> {
        self.waiting_bytes += data.len();
        self.waiting.push(data);
        let is_free = self.busy.as_ref().is_none_or(JoinHandle::is_finished);
        if is_free || self.waiting_bytes > AHEAD {
            self.settle().await?;
            self.write_waiting();
        }
        Ok(())
    }

    /// Until everything that came is written.
    async fn drain(&mut self) -> Result<(), Refusal> {
        self.settle().await?;
        self.write_waiting();
        self.settle().await.map(drop)
    }

    fn write_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if !waiting.is_empty() {
            self.start(move |sink| waiting.iter().try_for_each(|data| sink.write(data)).map(|()| 0));
        }
    }

    /// Gives the sink to a thread; nothing else has it.
    fn start(&mut self, work: impl FnOnce(&mut Sink<T>) -> Result<u64, Refusal> + Send + 'static) {
        if let Some(mut sink) = self.sink.take() {
            self.busy = Some(tokio::task::spawn_blocking(move || {
                let result = work(&mut sink);
                (sink, result)
            }));
        }
    }

    /// Waits for the thread that has the sink. Where this is not waited for to its end, the next call goes on.
    async fn settle(&mut self) -> Result<u64, Refusal> {
        let Some(busy) = &mut self.busy else { return Ok(0) };
        let ended = busy.await;
        self.busy = None;
        let (sink, result) = ended.map_err(|error| Refusal::Disk(format!("bug: {error}")))?;
        self.sink = Some(sink);
        if result.is_err() {
            self.waiting.clear();
            self.waiting_bytes = 0;
        }
        result
    }

    /// What came is worth nothing.
    async fn forget(&mut self) {
        self.start(|sink| sink.restart().map(|()| 0));
        // It is an error already.
        let _ = self.settle().await;
    }

    /// Everything came: whether it is the blob.
    async fn finish(&mut self) -> Result<T, Refusal> {
        self.drain().await?;
        let sink = self.sink.take().ok_or_else(|| Refusal::Disk("bug: the target is gone".to_owned()))?;
        match sink.finish() {
            Ok(target) => Ok(target),
            Err(failed) => {
                let (sink, refusal) = *failed;
                self.sink = Some(sink);
                Err(refusal)
            }
        }
    }
}

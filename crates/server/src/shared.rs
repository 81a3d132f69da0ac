//! What all services share, and the gate every call passes: counts, log, faults, instance names.
//!
//! It does not know what the calls do.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode;
use minibuild_reapi::proto::{execution as proto, rpc};
use minibuild_reapi::status::with_retry_delay;
use tokio::sync::watch;
use tonic::{Code, Response, Status};

use crate::answer::{bad_message, to_grpc};
use crate::config::LogSink;
use crate::counters::Counters;
use crate::execution::Board;
use crate::faults::{CutEnd, Faults, Occasion};
use crate::inject::{FaultKind, Pretence};
use crate::services::Uploads;
use crate::store::Store;

/// Leaves room for what is around the blobs in a message of 4 MiB, the most that gRPC takes by default.
const BATCH_LIMIT: u64 = (4 << 20) - (64 << 10);

/// What faults make of the length of a blob.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WrongLength {
    /// Bytes left out at its end.
    pub(crate) missing: u64,
    /// Zero bytes after it.
    pub(crate) extra: u64,
}

pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) board: Arc<Board>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) faults: Faults,
    pub(crate) pretence: Pretence,
    pub(crate) counters: Counters,
    pub(crate) log: Option<LogSink>,
    /// True when the server goes down.
    pub(crate) stopped: watch::Receiver<bool>,
}

impl Shared {
    /// Carries out one call.
    pub(crate) async fn call<T>(
        &self,
        method: &'static str,
        instance: &str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let started = Instant::now();
        self.counters.of_method(method, |count| count.calls += 1);
        let result = match self.gate(method, instance).await {
            Ok(()) => work.await,
            Err(status) => Err(status),
        };
        if result.is_err() {
            self.counters.of_method(method, |count| count.errors += 1);
        }
        self.log(method, started.elapsed(), result.as_ref().err());
        result.map(Response::new)
    }

    async fn gate(&self, method: &'static str, instance: &str) -> Result<(), Status> {
        let occasion = Occasion { method, ..Default::default() };
        let latency: Duration = self.faults.strikes(FaultKind::Latency, occasion).map(|s| s.duration()).sum();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if self.faults.hangs(occasion) {
            return self.hang().await;
        }
        if self.faults.strike(FaultKind::Evict, occasion).is_some() {
            self.store.evict_all();
        }
        if let Some(strike) = self.faults.strike(FaultKind::Error, occasion) {
            let mut status = rpc::Status { code: strike.code(), message: "injected".into(), details: Vec::new() };
            if let Some(ms) = strike.fault.retry_ms {
                status = with_retry_delay(status, Duration::from_millis(ms));
            }
            return Err(to_grpc(&status));
        }
        match &self.pretence.instances {
            Some(served) if !served.iter().any(|name| name == instance) => {
                Err(Status::invalid_argument(format!("instance name `{instance}` is not served here")))
            }
            _ => Ok(()),
        }
    }

    /// What a fault wants never to be answered ends with the server.
    pub(crate) async fn hang<T>(&self) -> Result<T, Status> {
        // An error means that nobody is left to say so.
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
        Err(Status::unavailable("the server is going down"))
    }

    /// What a stream that was cut off ends with.
    pub(crate) async fn cut_off<T>(&self, end: CutEnd) -> Result<T, Status> {
        match end {
            CutEnd::Fails(code) => Err(Status::new(Code::from(code), "injected")),
            CutEnd::Hangs => self.hang().await,
        }
    }

    /// For calls that do not name an instance.
    pub(crate) fn any_instance(&self) -> &str {
        self.pretence.instances.as_ref().and_then(|names| names.first()).map_or("", |name| name)
    }

    fn log(&self, method: &str, took: Duration, error: Option<&Status>) {
        if let Some(log) = &self.log {
            let ms = took.as_secs_f64() * 1000.0;
            match error {
                None => log(&format!("{method}: {ms:.1} ms")),
                Some(status) => log(&format!("{method}: {ms:.1} ms: {:?}: {}", status.code(), status.message())),
            }
        }
    }

    /// The function a request names, if it is served.
    pub(crate) fn function(&self, number: i32) -> Result<DigestFunction, Status> {
        let function = decode::digest_function(number).map_err(bad_message)?;
        if self.functions().contains(&function) {
            Ok(function)
        } else {
            Err(Status::invalid_argument("this digest function is not served here"))
        }
    }

    /// The functions that are served.
    pub(crate) fn functions(&self) -> &'static [DigestFunction] {
        match self.pretence.digest_function.as_deref() {
            Some("sha256") => &[DigestFunction::Sha256],
            Some("blake3") => &[DigestFunction::Blake3],
            _ => &[DigestFunction::Sha256, DigestFunction::Blake3],
        }
    }

    /// Most bytes of blobs in one batch.
    pub(crate) fn batch_limit(&self) -> u64 {
        self.pretence.batch_limit.map_or(BATCH_LIMIT, |limit| limit.min(BATCH_LIMIT))
    }

    /// A digest a request has to give.
    pub(crate) fn digest(&self, message: Option<&proto::Digest>, function: DigestFunction) -> Result<Digest, Status> {
        let message = message.ok_or_else(|| Status::invalid_argument("the request has no digest"))?;
        decode::digest(message, function).map_err(bad_message)
    }

    /// Loses a blob that is about to be read, if a fault says so.
    pub(crate) fn maybe_lose(&self, method: &'static str, function: DigestFunction, digest: &Digest) {
        if self.faults.has(FaultKind::Lost) {
            let occasion = Occasion { method, digest: Some(*digest), command: None };
            if self.faults.strike(FaultKind::Lost, occasion).is_some() {
                self.store.drop_blob(function, digest);
            }
        }
    }

    /// Whether a fault of this kind strikes a blob.
    pub(crate) fn strikes(&self, kind: FaultKind, method: &'static str, digest: &Digest) -> bool {
        let occasion = Occasion { method, digest: Some(*digest), command: None };
        self.faults.strike(kind, occasion).is_some()
    }

    /// Refuses a blob for which a fault says that there is no room.
    pub(crate) fn check_full(&self, method: &'static str, digest: &Digest) -> Result<(), Status> {
        match self.strikes(FaultKind::Full, method, digest) {
            true => Err(Status::resource_exhausted("injected: the store is full")),
            false => Ok(()),
        }
    }

    /// How much longer, or shorter, a blob is read than it is.
    pub(crate) fn wrong_length(&self, method: &'static str, digest: &Digest) -> WrongLength {
        let occasion = Occasion { method, digest: Some(*digest), command: None };
        let bytes = |kind| self.faults.strike(kind, occasion).map_or(0, |strike| strike.fault.bytes);
        WrongLength { missing: bytes(FaultKind::Short), extra: bytes(FaultKind::Long) }
    }

    /// Which byte of a blob that is read has to be wrong.
    pub(crate) fn corrupt_byte(&self, method: &'static str, digest: &Digest) -> Option<u64> {
        let occasion = Occasion { method, digest: Some(*digest), command: None };
        Some(self.faults.strike(FaultKind::Corrupt, occasion)?.byte(digest.size))
    }
}

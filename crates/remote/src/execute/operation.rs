//! Operations and statuses as an execution reads them.
//!
//! Values only. It does not know what follows from them.

use std::sync::{Mutex, PoisonError};

use minibuild_reapi::proto::longrunning;
use minibuild_reapi::proto::{Message as _, execution as proto, rpc};
use proto::execution_stage::Value as StageValue;
use tokio::time::Instant;

use crate::attempts::{Ending, code, status_text};
use crate::error;
use crate::executor::is_broken;

/// The server's name of an execution, once it is known.
#[derive(Default)]
pub(crate) struct Operation(Mutex<Option<String>>);

impl Operation {
    pub(crate) fn name(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, name: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }
}

/// A moment, or never.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether an error in a stream is about the action; others are about the stream.
pub(super) fn is_about_the_action(status: &rpc::Status) -> bool {
    matches!(status.code, code::FAILED_PRECONDITION | code::INVALID_ARGUMENT)
}

/// An error in a stream that had told something.
pub(super) fn broken_or_refused(status: &tonic::Status, had_news: bool) -> Ending {
    let refused = rpc_status(status);
    if !is_broken(status) && is_about_the_action(&refused) {
        return Ending::Refused(refused);
    }
    Ending::Broken { why: text(status), had_news }
}

pub(super) fn text(status: &tonic::Status) -> String {
    status_text(&rpc_status(status))
}

/// The status with its details, which travel in a trailer.
pub(super) fn rpc_status(status: &tonic::Status) -> rpc::Status {
    rpc::Status { code: status.code().into(), message: error::text_of(status), details: error::details(status).details }
}

pub(super) fn stage_of(operation: &longrunning::Operation) -> Option<StageValue> {
    let metadata = operation.metadata.as_ref()?;
    let metadata = proto::ExecuteOperationMetadata::decode(&*metadata.value).ok()?;
    StageValue::try_from(metadata.stage).ok()
}

/// What a server says about a failure besides its logs.
pub(super) fn remarks(response: &proto::ExecuteResponse) -> String {
    let mut text = String::new();
    if !response.message.is_empty() {
        text = format!("{}\n", response.message.trim_end());
    }
    let mut logs: Vec<&String> = response.server_logs.keys().collect();
    logs.sort();
    for name in logs {
        let digest = response.server_logs.get(name).and_then(|log| log.digest.as_ref());
        if let Some(digest) = digest {
            text.push_str(&format!("(server log `{name}`: {}/{})\n", digest.hash, digest.size_bytes));
        }
    }
    text
}

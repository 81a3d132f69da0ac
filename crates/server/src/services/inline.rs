//! Contents that come along with a result, for clients that would ask for them next.
//!
//! A wish, not a duty: what is too large, or lost, is left out. It does not know calls.

use std::collections::HashSet;

use minibuild_core::DigestFunction;
use minibuild_reapi::decode;
use minibuild_reapi::proto::execution as proto;

use crate::store::Store;

/// Bytes of all contents that come along with one result.
const MOST: u64 = 1 << 20;

/// What a request wants to come along.
#[derive(Debug, Default)]
pub(crate) struct Inline {
    stdout: bool,
    stderr: bool,
    files: HashSet<String>,
}

impl Inline {
    pub(crate) fn of_lookup(request: &mut proto::GetActionResultRequest) -> Self {
        let files = std::mem::take(&mut request.inline_output_files).into_iter().collect();
        Self { stdout: request.inline_stdout, stderr: request.inline_stderr, files }
    }

    pub(crate) fn of_execute(request: &mut proto::ExecuteRequest) -> Self {
        let files = std::mem::take(&mut request.inline_output_files).into_iter().collect();
        Self { stdout: request.inline_stdout, stderr: request.inline_stderr, files }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        !self.stdout && !self.stderr && self.files.is_empty()
    }

    /// Adds what is wanted and there.
    pub(crate) fn fill(&self, store: &Store, function: DigestFunction, result: &mut proto::ActionResult) {
        let mut left = MOST;
        let mut add = |contents: &mut Vec<u8>, digest: Option<&proto::Digest>| {
            let digest = digest.and_then(|message| decode::digest(message, function).ok());
            let Some(digest) = digest.filter(|digest| contents.is_empty() && digest.size <= left) else { return };
            if let Ok(Some(bytes)) = store.read(function, &digest) {
                left -= digest.size;
                *contents = bytes;
            }
        };
        if self.stdout {
            add(&mut result.stdout_raw, result.stdout_digest.as_ref());
        }
        if self.stderr {
            add(&mut result.stderr_raw, result.stderr_digest.as_ref());
        }
        for file in result.output_files.iter_mut().filter(|file| self.files.contains(&file.path)) {
            add(&mut file.contents, file.digest.as_ref());
        }
    }
}

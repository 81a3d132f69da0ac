//! Storing the result of a local run: blobs first, then the `ActionResult`.
//!
//! It does not know whether a result deserves to be stored, and never fails a build.

use std::time::{Duration, SystemTime};

use minibuild_core::{
    Blob, BlobSource, Content, FoundOutput, Level, RemoteEvent, Requester, TreeMeta, TreeNode, UploadRequest, WsPath,
};
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::{execution as proto, protobuf};
use minibuild_reapi::{InputNode, tree_message};

use crate::cache::{Cache, EnsureFailure, StoreFailure};
use crate::shared::Shared;

/// Stores one result; without the right to do so nothing is done.
///
/// # Errors
/// What went wrong, for the log.
pub(crate) async fn store(shared: &Shared, request: &UploadRequest) -> Result<(), String> {
    // Closed never.
    let _permit = shared.uploads.acquire().await;
    // Boxed, so that those who wait for their turn are small.
    Box::pin(store_now(shared, request)).await
}

async fn store_now(shared: &Shared, request: &UploadRequest) -> Result<(), String> {
    if !shared.may_upload() || !permitted(shared, &request.who).await {
        return Ok(());
    }
    let mut upload = Upload { shared, blobs: request.blobs.clone(), result: proto::ActionResult::default() };
    for output in &request.outputs {
        upload.output(output)?;
    }
    upload.rest(request);
    upload.blobs.sort_by_key(|blob| blob.digest);
    upload.blobs.dedup_by(|a, b| a.digest == b.digest);
    match shared.cache.ensure(&request.who, &upload.blobs, &|_, _| {}).await {
        Ok(()) => {}
        Err(EnsureFailure::Lost(digests)) => return Err(format!("{} blobs are no longer here", digests.len())),
        Err(EnsureFailure::Changed(paths)) => {
            let names: Vec<String> = paths.iter().map(|path| format!("`{path}`")).collect();
            return Err(format!("{} changed before it was uploaded", names.join(", ")));
        }
        Err(EnsureFailure::Denied(why)) => {
            forbid(shared, &request.who, &why);
            return Ok(());
        }
        Err(EnsureFailure::Failed(why)) => return Err(why),
    }
    match shared.cache.store_result(&request.who, upload.result).await {
        Ok(()) => Ok(()),
        Err(StoreFailure::Denied(why)) => {
            forbid(shared, &request.who, &why);
            Ok(())
        }
        Err(StoreFailure::Failed(why)) => Err(why),
    }
}

/// Whether the cache says that it takes results. One that does not say is tried.
async fn permitted(shared: &Shared, who: &Requester) -> bool {
    let takes = shared.cache.takes_results().await;
    if !takes {
        forbid(shared, who, "the server takes no results from this client");
    }
    takes
}

/// Says once that nothing is uploaded, and with which target that was found out.
fn forbid(shared: &Shared, who: &Requester, why: &str) {
    if shared.forbid_uploads() {
        let text = format!("results are not uploaded: {why}; the first was that of `{}`", who.label);
        (shared.sink)(RemoteEvent::Message { level: Level::Info, text });
    }
}

struct Upload<'a> {
    shared: &'a Shared,
    blobs: Vec<Blob>,
    result: proto::ActionResult,
}

impl Upload<'_> {
    fn output(&mut self, output: &FoundOutput) -> Result<(), String> {
        let path = &output.meta.path;
        match &output.meta.content {
            Content::File { digest, executable } => {
                let fingerprint = output.stamps.first().filter(|stamp| stamp.trusted).map(|stamp| stamp.fingerprint);
                self.blobs.push(Blob { digest: *digest, source: BlobSource::File { path: path.clone(), fingerprint } });
                self.result.output_files.push(proto::OutputFile {
                    path: path.as_str().to_owned(),
                    digest: Some(digest_message(digest)),
                    is_executable: *executable,
                    ..Default::default()
                });
            }
            Content::Symlink { target } => self.symlink(path, target),
            Content::Directory(tree) => self.directory(path, tree, output)?,
        }
        Ok(())
    }

    /// In the new field and in the one servers and clients of version 2.0 read.
    #[expect(deprecated, reason = "clients of version 2.0 read the old field")]
    fn symlink(&mut self, path: &WsPath, target: &str) {
        let link =
            proto::OutputSymlink { path: path.as_str().to_owned(), target: target.to_owned(), node_properties: None };
        self.result.output_file_symlinks.push(link.clone());
        self.result.output_symlinks.push(link);
    }

    fn directory(&mut self, path: &WsPath, tree: &TreeMeta, output: &FoundOutput) -> Result<(), String> {
        let mut nodes = Vec::with_capacity(tree.entries.len());
        let mut stamps = output.stamps.iter();
        for entry in &tree.entries {
            let node = match &entry.node {
                TreeNode::File { digest, executable } => {
                    let fingerprint = stamps.next().filter(|stamp| stamp.trusted).map(|stamp| stamp.fingerprint);
                    let path = path.join(entry.path.as_str()).map_err(|e| e.to_string())?;
                    self.blobs.push(Blob { digest: *digest, source: BlobSource::File { path, fingerprint } });
                    InputNode::File { digest: *digest, executable: *executable }
                }
                TreeNode::Symlink { target } => {
                    stamps.next();
                    InputNode::Symlink { target }
                }
                TreeNode::EmptyDirectory => InputNode::EmptyDirectory,
            };
            nodes.push((entry.path.as_str(), node));
        }
        let message = tree_message(&mut nodes, self.shared.config.function).map_err(|e| e.to_string())?;
        let digest = self.bytes(&message.bytes);
        if matches!(self.shared.cache, Cache::Grpc(_)) {
            // Nobody asks for them by name, but some servers believe a tree only if they have its directories.
            message.directories.iter().for_each(|(_, bytes)| drop(self.bytes(bytes)));
        }
        self.result.output_directories.push(proto::OutputDirectory {
            path: path.as_str().to_owned(),
            tree_digest: Some(digest),
            is_topologically_sorted: true,
            ..Default::default()
        });
        Ok(())
    }

    /// Depfile, logs and where it comes from.
    fn rest(&mut self, request: &UploadRequest) {
        if let Some((path, content)) = &request.depfile {
            let digest = Some(self.bytes(content));
            let path = path.as_str().to_owned();
            if !self.result.output_files.iter().any(|file| file.path == path) {
                self.result.output_files.push(proto::OutputFile { path, digest, ..Default::default() });
            }
        }
        self.result.stdout_digest = (!request.stdout.is_empty()).then(|| self.bytes(&request.stdout));
        self.result.stderr_digest = (!request.stderr.is_empty()).then(|| self.bytes(&request.stderr));
        self.result.output_files.sort_by(|a, b| a.path.cmp(&b.path));
        self.result.execution_metadata = Some(metadata(request.wall));
    }

    /// A blob that is in memory.
    fn bytes(&mut self, bytes: &[u8]) -> proto::Digest {
        let digest = self.shared.config.function.digest(bytes);
        self.blobs.push(Blob { digest, source: BlobSource::Bytes(bytes.into()) });
        digest_message(&digest)
    }
}

/// Who ran it, and how long.
fn metadata(wall: Duration) -> proto::ExecutedActionMetadata {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp = |at: Duration| protobuf::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.subsec_nanos()).unwrap_or_default(),
    };
    proto::ExecutedActionMetadata {
        worker: format!("minibuild@{}", host_name()),
        execution_start_timestamp: Some(timestamp(now.saturating_sub(wall))),
        execution_completed_timestamp: Some(timestamp(now)),
        ..Default::default()
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

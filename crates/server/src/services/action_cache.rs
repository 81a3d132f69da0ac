//! `ActionCache`, and what the other services ask of it: a result is given out only if all it names is here.

use std::sync::Arc;

use minibuild_core::{Digest, DigestFunction, TreeNode};
use minibuild_reapi::decode::{self, Limits};
use minibuild_reapi::proto::{Message, execution as proto, read};
use minibuild_reapi::status::missing_blobs;
use proto::action_cache_server::ActionCache;
use tonic::{Request, Response, Status};

use super::inline::Inline;
use crate::answer::{bad_message, blocking, store_error, to_grpc};
use crate::inject::FaultKind;
use crate::shared::Shared;
use crate::store::{Key, Space, Store, StoreError};

pub(crate) struct ActionCacheService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl ActionCache for ActionCacheService {
    async fn get_action_result(
        &self,
        request: Request<proto::GetActionResultRequest>,
    ) -> Result<Response<proto::ActionResult>, Status> {
        let mut request = request.into_inner();
        let instance = request.instance_name.clone();
        let shared = Arc::clone(&self.0);
        let inline = Inline::of_lookup(&mut request);
        let work = blocking(move || {
            let function = shared.function(request.digest_function)?;
            let action = shared.digest(request.action_digest.as_ref(), function)?;
            let found = lookup(&shared, "GetActionResult", function, &action)?;
            let mut found = found.ok_or_else(|| Status::not_found(format!("there is no result of action {action}")))?;
            inline.fill(&shared.store, function, &mut found);
            Ok(found)
        });
        self.0.call("GetActionResult", &instance, work).await
    }

    async fn update_action_result(
        &self,
        request: Request<proto::UpdateActionResultRequest>,
    ) -> Result<Response<proto::ActionResult>, Status> {
        let request = request.into_inner();
        let instance = request.instance_name.clone();
        let shared = Arc::clone(&self.0);
        self.0.call("UpdateActionResult", &instance, blocking(move || update(&shared, request))).await
    }
}

fn update(shared: &Shared, request: proto::UpdateActionResultRequest) -> Result<proto::ActionResult, Status> {
    let function = shared.function(request.digest_function)?;
    let action = shared.digest(request.action_digest.as_ref(), function)?;
    let Some(result) = request.action_result else {
        return Err(Status::invalid_argument("the request has no result"));
    };
    let lost = if shared.pretence.unchecked { Vec::new() } else { lost_blobs(&shared.store, function, &result)? };
    if !lost.is_empty() {
        return Err(to_grpc(&missing_blobs(function, &lost)));
    }
    record(&shared.store, function, &action, &result).map_err(store_error)?;
    Ok(result)
}

/// The result of an action, `None` where there is none or something of it is lost.
pub(crate) fn lookup(
    shared: &Shared,
    method: &'static str,
    function: DigestFunction,
    action: &Digest,
) -> Result<Option<proto::ActionResult>, Status> {
    let key = key(function, action);
    let Some(bytes) = shared.store.read_result(&key).map_err(store_error)? else { return Ok(None) };
    let Ok(mut result) = read::<proto::ActionResult>("ActionResult", &bytes) else {
        // Cut off by a crash of the machine.
        shared.store.forget(&key);
        return Ok(None);
    };
    if shared.strikes(FaultKind::Lie, method, action)
        && let Some(digest) = result.output_files.first_mut().and_then(|file| file.digest.as_mut())
    {
        digest.size_bytes += 1;
        return Ok(Some(result));
    }
    if shared.pretence.unchecked {
        return Ok(Some(result));
    }
    if shared.faults.has(FaultKind::Lost) {
        checked(&result, function)?.blobs().for_each(|digest| shared.maybe_lose(method, function, &digest));
    }
    match lost_blobs(&shared.store, function, &result) {
        Ok(lost) if lost.is_empty() => Ok(Some(result)),
        _ => {
            shared.store.forget(&key);
            Ok(None)
        }
    }
}

/// Writes a result down. What it names is there.
pub(crate) fn record(
    store: &Store,
    function: DigestFunction,
    action: &Digest,
    result: &proto::ActionResult,
) -> Result<(), StoreError> {
    store.put_result(&key(function, action), &result.encode_to_vec())
}

/// Where the result of an action lies.
pub(crate) fn key(function: DigestFunction, action: &Digest) -> Key {
    Key { space: Space::Results, function, hash: action.hash }
}

/// A result as values that are safe to use.
pub(crate) fn checked(result: &proto::ActionResult, function: DigestFunction) -> Result<decode::ActionResult, Status> {
    decode::action_result_message(result.clone(), function).map_err(bad_message)
}

/// What a result names and is not here, contents of directories included. Everything else counts as used.
pub(crate) fn lost_blobs(
    store: &Store,
    function: DigestFunction,
    result: &proto::ActionResult,
) -> Result<Vec<Digest>, Status> {
    let named = checked(result, function)?;
    let mut lost = store.missing(function, named.blobs());
    for directory in &named.directories {
        if let Some(tree) = &directory.tree {
            lost.extend(lost_of_tree(store, function, tree)?);
        }
        if let Some(root) = directory.root {
            lost.extend(lost_of_directory(store, function, root)?);
        }
    }
    lost.sort_unstable();
    lost.dedup();
    Ok(lost)
}

fn lost_of_tree(store: &Store, function: DigestFunction, tree: &Digest) -> Result<Vec<Digest>, Status> {
    // A tree that is not here is named by the result itself.
    let Some(bytes) = store.read(function, tree).map_err(store_error)? else { return Ok(Vec::new()) };
    let content = decode::tree(&bytes, function, Limits::default()).map_err(bad_message)?;
    let files = content.entries.into_iter().filter_map(|entry| match entry.node {
        TreeNode::File { digest, .. } => Some(digest),
        TreeNode::Symlink { .. } | TreeNode::EmptyDirectory => None,
    });
    Ok(store.missing(function, files))
}

fn lost_of_directory(store: &Store, function: DigestFunction, root: Digest) -> Result<Vec<Digest>, Status> {
    let mut seen = std::collections::HashSet::from([root]);
    let mut next = vec![root];
    let mut lost = Vec::new();
    while let Some(digest) = next.pop() {
        let Some(bytes) = store.read(function, &digest).map_err(store_error)? else {
            lost.push(digest);
            continue;
        };
        let directory = decode::directory(&bytes, function).map_err(bad_message)?;
        lost.extend(store.missing(function, directory.files.iter().map(|file| file.digest)));
        next.extend(directory.directories.iter().map(|(_, child)| *child).filter(|child| seen.insert(*child)));
    }
    Ok(lost)
}

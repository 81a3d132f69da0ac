//! Asking the action cache.

use minibuild_core::{ArtifactKind, BlobSource, CacheAnswer, Content, ExecutionStatus};
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::{Message as _, execution as proto};
use minibuild_reapi::{InputNode, tree_message};

use crate::harness::{F, Fixture, Task};

const OUT: &str = "minibuild-out/bin/out";

fn copy() -> Task {
    Task::new("mkdir -p minibuild-out/bin; cat in > minibuild-out/bin/out; echo told")
        .input("in", "text\n")
        .output(OUT, ArtifactKind::File)
}

#[test]
fn a_result_is_a_hit_with_its_logs_and_one_call() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert!(matches!(client.look_up(&copy()), CacheAnswer::Miss));
    let report = client.run(&copy());
    let before = fixture.counts();
    let CacheAnswer::Hit(hit) = client.look_up(&copy()) else { panic!("is there") };
    assert_eq!((hit.outputs, hit.stdout, hit.from_cache), (report.outputs, report.stdout, true));
    assert_eq!(hit.status, ExecutionStatus::Exited(0));
    let after = fixture.counts();
    let calls = |counts: &minibuild_server::Counts| counts.methods.values().map(|m| m.calls).sum::<u64>();
    assert_eq!(calls(&after) - calls(&before), 1);
}

#[test]
fn a_result_without_what_is_wanted_is_a_miss() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.run(&copy());
    let wanted =
        [(OUT, ArtifactKind::Directory), (OUT, ArtifactKind::Symlink), ("minibuild-out/bin/other", ArtifactKind::File)];
    let request = copy().request();
    for (name, kind) in wanted {
        let mut lookup = copy();
        lookup.outputs = vec![crate::harness::output(name, kind)];
        let run = crate::harness::run_id();
        client.remote().look_up(minibuild_core::CacheLookup {
            run,
            who: request.who.clone(),
            outputs: lookup.outputs,
            depfile: None,
        });
        let answer = client.wait(|event| match event {
            minibuild_core::RemoteEvent::LookedUp { run: of, answer, .. } if *of == run => Some(answer.clone()),
            _ => None,
        });
        assert!(matches!(answer, CacheAnswer::Miss), "{name} {kind:?}: {answer:?}");
    }
}

#[test]
fn a_cache_that_is_down_has_failed() {
    let mut fixture = Fixture::new();
    fixture.shutdown();
    let mut client = fixture.client_with(|config| config.retries = 0);
    let CacheAnswer::Failed(why) = client.look_up(&copy()) else { panic!("it is down") };
    assert!(why.contains(fixture.address()), "{why}");
}

/// Stores blobs and a result as another client would.
fn store(fixture: &Fixture, key: &minibuild_core::Digest, blobs: &[&[u8]], result: proto::ActionResult) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let address = fixture.http_address();
        let channel = tonic::transport::Endpoint::from_shared(address).expect("an address").connect_lazy();
        let requests = blobs.iter().map(|bytes| proto::batch_update_blobs_request::Request {
            digest: Some(digest_message(&F.digest(bytes))),
            data: bytes.to_vec(),
            compressor: 0,
        });
        let request = proto::BatchUpdateBlobsRequest { requests: requests.collect(), ..Default::default() };
        let mut cas = proto::content_addressable_storage_client::ContentAddressableStorageClient::new(channel.clone());
        cas.batch_update_blobs(request).await.expect("takes blobs");
        let request = proto::UpdateActionResultRequest {
            action_digest: Some(digest_message(key)),
            action_result: Some(result),
            ..Default::default()
        };
        let mut cache = proto::action_cache_client::ActionCacheClient::new(channel);
        cache.update_action_result(request).await.expect("takes results");
    });
}

#[test]
fn a_directory_known_by_its_root_message_is_read_level_by_level() {
    let fixture = Fixture::new();
    let task = Task::new("never run").output("minibuild-out/bin/d", ArtifactKind::Directory);
    let leaf = F.digest(b"leaf");
    let file = |executable| InputNode::File { digest: leaf, executable };
    let mut nodes = vec![("a/b/f", file(true)), ("a/c/f", file(false)), ("e", InputNode::EmptyDirectory)];
    let tree = tree_message(&mut nodes, F).expect("a tree");
    let mut blobs: Vec<&[u8]> = tree.directories.iter().map(|(_, bytes)| &**bytes).collect();
    blobs.push(b"leaf");
    let request = task.request();
    let of_action: Vec<_> = request.blobs.iter().map(|blob| blob.source.clone()).collect();
    blobs.extend(of_action.iter().filter_map(|source| match source {
        BlobSource::Bytes(bytes) => Some(&**bytes),
        BlobSource::File { .. } | BlobSource::Elsewhere => None,
    }));
    let result = proto::ActionResult {
        output_directories: vec![proto::OutputDirectory {
            path: "minibuild-out/bin/d".to_owned(),
            root_directory_digest: Some(digest_message(&tree.root)),
            ..Default::default()
        }],
        ..Default::default()
    };
    store(&fixture, &request.who.key, &blobs, result);
    let CacheAnswer::Hit(hit) = fixture.client().look_up(&task) else { panic!("is there") };
    let Content::Directory(meta) = &hit.outputs[0].meta.content else { panic!("{hit:?}") };
    assert_eq!(meta.root, tree.root);
    assert_eq!(meta.entries.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["a/b/f", "a/c/f", "e"]);
}

#[test]
fn a_tree_that_leads_elsewhere_is_refused_with_a_warning() {
    let fixture = Fixture::new();
    let task = Task::new("never run").output("minibuild-out/bin/d", ArtifactKind::Directory);
    let node = proto::FileNode {
        name: "../evil".to_owned(),
        digest: Some(digest_message(&F.digest(b"leaf"))),
        ..Default::default()
    };
    let root = proto::Directory { files: vec![node], ..Default::default() };
    let tree = proto::Tree { root: Some(root), children: vec![] }.encode_to_vec();
    let url_path = |space: &str, digest: &minibuild_core::Digest| format!("/{space}/{}", digest.hex());
    let key = task.request().who.key;
    let directory = proto::OutputDirectory {
        path: "minibuild-out/bin/d".to_owned(),
        tree_digest: Some(digest_message(&F.digest(&tree))),
        ..Default::default()
    };
    let result = proto::ActionResult { output_directories: vec![directory], ..Default::default() }.encode_to_vec();
    // A store that looks at nothing.
    let files = [(url_path("ac", &key), result), (url_path("cas", &F.digest(&tree)), tree)];
    let address = crate::harness::serve_files(files.into_iter().collect());
    let mut client = fixture.client_with(|config| {
        config.executor = None;
        config.cache = Some(format!("http://{address}"));
    });
    assert!(matches!(client.look_up(&task), CacheAnswer::Miss));
    let messages = client.messages();
    assert!(messages.len() == 1 && messages[0].contains("//a:b") && messages[0].contains("../evil"), "{messages:?}");
}

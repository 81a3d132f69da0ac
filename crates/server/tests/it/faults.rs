//! Faults clients have to survive: no answer, answers that are none, lies, and results that should not be.

use minibuild_core::Digest;
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::bytestream::ReadRequest;
use minibuild_reapi::proto::{Message, execution as proto};
use tonic::{Code, Request};

use crate::cache::http;
use crate::harness::{F, Fixture, with_faults};

fn result_with(path: &str, file: Option<Digest>, tree: Option<Digest>) -> proto::ActionResult {
    let mut result = proto::ActionResult::default();
    if let Some(digest) = file {
        let digest = Some(digest_message(&digest));
        result.output_files.push(proto::OutputFile { path: path.to_owned(), digest, ..Default::default() });
    }
    if let Some(digest) = tree {
        let tree_digest = Some(digest_message(&digest));
        result.output_directories.push(proto::OutputDirectory {
            path: path.to_owned(),
            tree_digest,
            ..Default::default()
        });
    }
    result
}

#[test]
fn unchecked_results_are_what_was_put() {
    let mut server = with_faults("[server]\nunchecked = true");
    let file = |name: &str| proto::FileNode {
        name: name.to_owned(),
        digest: Some(digest_message(&F.digest(b"nowhere"))),
        ..Default::default()
    };
    let tree = |names: &[&str]| {
        let root = proto::Directory { files: names.iter().map(|name| file(name)).collect(), ..Default::default() };
        proto::Tree { root: Some(root), children: vec![] }.encode_to_vec()
    };
    let trees = [tree(&["..", "/etc/passwd", "a\0b", ""]), tree(&["b", "a", "a"]), b"\xff no tree".to_vec()];
    let mut results: Vec<proto::ActionResult> =
        trees.iter().map(|bytes| result_with("out", None, Some(server.put(bytes)))).collect();
    results.push(result_with("../../up", Some(F.digest(b"nowhere")), None));
    results.push(proto::ActionResult::default());
    for (number, result) in results.iter().enumerate() {
        let action = F.digest(&number.to_le_bytes());
        server.update_result(&action, result.clone()).expect("taken as it is");
        assert_eq!(server.result_of(&action).as_ref(), Ok(result));
        let path = format!("/ac/{}", action.hex());
        assert_eq!(http(&server, "PUT", &path, &result.encode_to_vec()).0, 200);
        assert_eq!(http(&server, "GET", &path, b""), (200, result.encode_to_vec()));
        assert_eq!(server.execute(&action, false).result.as_ref(), Some(result), "as a cached result");
    }
    server.restart(|_| {});
    let error = server.result_of(&F.digest(&3_usize.to_le_bytes())).expect_err("an honest server forgets it");
    assert_eq!(error.0, Code::NotFound);
}

#[test]
fn credentials_are_asked_for() {
    let server = with_faults("[server]\nrequire = ['authorization=Bearer x=y', 'x-key=k']");
    let call = |headers: &[(&'static str, &'static str)]| {
        let mut request = Request::new(proto::GetCapabilitiesRequest::default());
        for (name, value) in headers {
            request.metadata_mut().insert(*name, value.parse().expect("a value"));
        }
        server.capabilities_of(request).map(drop).map_err(|status| status.code())
    };
    assert_eq!(call(&[]), Err(Code::Unauthenticated));
    assert_eq!(call(&[("authorization", "Bearer x=z"), ("x-key", "k")]), Err(Code::Unauthenticated));
    assert_eq!(call(&[("authorization", "Bearer x=y")]), Err(Code::Unauthenticated));
    assert_eq!(call(&[("authorization", "Bearer x=y"), ("x-key", "k")]), Ok(()));
    let path = format!("/cas/{}", F.digest(b"x").hex());
    assert_eq!(http(&server, "GET", &path, b"").0, 401);
    let with_headers = format!("{path} HTTP/1.1\r\nX-Key: k\r\nAuthorization: Bearer x=y\r\nX-Rest:");
    assert_eq!(http(&server, "GET", &with_headers, b"").0, 404);
}

#[test]
fn answers_that_are_none() {
    let server = with_faults(
        "[[fault]]\nkind = 'garbage'\nmethod = 'GetCapabilities'\ntimes = 1\n\
         [[fault]]\nkind = 'garbage'\nmethod = 'Read'\n\
         [[fault]]\nkind = 'proxy'\nmethod = 'GetCapabilities'\nafter = 1\ntimes = 1\n\
         [[fault]]\nkind = 'proxy'\nmethod = 'HTTP PUT'\n\
         [[fault]]\nkind = 'garbage'\nmethod = 'HTTP GET'",
    );
    assert_eq!(server.capabilities("").expect_err("no message").code(), Code::Internal);
    server.capabilities("").expect_err("a page");
    server.capabilities("").expect("answers at last");
    let digest = server.put(b"x");
    assert_eq!(server.read(&format!("blobs/{digest}"), 0, 0).expect_err("no message").1, Code::Internal);
    let path = format!("/cas/{}", digest.hex());
    let (code, body) = http(&server, "GET", &path, b"");
    assert!(code == 200 && body != b"x");
    let (code, body) = http(&server, "PUT", &path, b"x");
    assert!(code == 502 && body.starts_with(b"<html>"));
}

#[test]
fn calls_that_hang_end_with_the_server() {
    let mut server = with_faults(
        "[[fault]]\nkind = 'hang'\nmethod = 'GetCapabilities'\n\
         [[fault]]\nkind = 'hang'\nmethod = 'Read'\nbytes = 3",
    );
    let digest = server.put(b"abcdef");
    let (mut capabilities, mut bytes) = (server.capabilities_client(), server.bytes());
    let unary = server
        .runtime
        .spawn(async move { capabilities.get_capabilities(proto::GetCapabilitiesRequest::default()).await.map(drop) });
    let request = ReadRequest { resource_name: format!("blobs/{digest}"), ..Default::default() };
    let mut stream = server.runtime.block_on(bytes.read(request)).expect("begins").into_inner();
    let first = server.runtime.block_on(stream.message()).expect("some").expect("bytes");
    assert_eq!(first.data, b"abc");
    server.wait_for("the call", || server.server().counters().calls("GetCapabilities") == 1);
    assert!(!unary.is_finished());
    server.shutdown();
    let ended = |status: tonic::Status| assert_eq!(status.message(), "the server is going down");
    ended(server.runtime.block_on(unary).expect("sound").expect_err("no answer"));
    ended(server.runtime.block_on(stream.message()).expect_err("no more"));
}

#[test]
fn blobs_of_the_wrong_length() {
    let server = with_faults(
        "[[fault]]\nkind = 'short'\nbytes = 2\nevery = 3\n\
         [[fault]]\nkind = 'long'\nbytes = 100000000\nevery = 3\nafter = 1",
    );
    let digest = server.put(b"hello");
    let plain = format!("blobs/{digest}");
    let packed = format!("compressed-blobs/zstd/{digest}");
    let unpack = |bytes: &[u8]| zstd::stream::decode_all(bytes).expect("unpacks");
    assert_eq!(server.read(&plain, 0, 0).expect("a good end"), b"hel");
    let bomb = server.read(&packed, 0, 0).expect("a good end");
    assert!(bomb.len() < 100_000, "{} bytes", bomb.len());
    let bomb = unpack(&bomb);
    assert!(bomb.starts_with(b"hello\0") && bomb.len() == 100_000_005);
    assert_eq!(server.read(&plain, 0, 0).expect("as it is"), b"hello");
    let packed = server.read(&packed, 0, 0).expect("a good end");
    assert_eq!(unpack(&packed), b"hel");
    let batch = || batch_read(&server, &digest).1;
    assert!(batch().len() > 1_000_000);
    assert_eq!((batch(), batch()), (b"hello".to_vec(), b"hel".to_vec()));
}

fn batch_read(server: &Fixture, digest: &Digest) -> (Option<proto::Digest>, Vec<u8>) {
    let request = proto::BatchReadBlobsRequest { digests: vec![digest_message(digest)], ..Default::default() };
    let answer = server.runtime.block_on(server.cas().batch_read_blobs(request)).expect("answers").into_inner();
    let reply = answer.responses.into_iter().next().expect("one");
    (reply.digest, reply.data)
}

#[test]
fn lies() {
    let lie = |method: &str| format!("[[fault]]\nkind = 'lie'\nmethod = '{method}'\ntimes = 1\n");
    let methods = ["FindMissingBlobs", "Write", "BatchUpdateBlobs", "BatchReadBlobs", "GetActionResult"];
    let server = with_faults(&methods.map(lie).concat());
    let digest = F.digest(b"x");
    assert!(server.has(&digest), "so it says");
    assert!(!server.has(&digest));
    server.put(b"x");
    assert!(!server.has(&digest), "it said that it took it");
    server.put(b"x");
    assert!(server.has(&digest));
    let other = F.digest(b"other");
    let upload = format!("uploads/u/blobs/{other}");
    assert_eq!(server.write(&upload, 0, &[b"other"], true), Ok(4));
    assert_eq!(server.get(&other), b"other");
    assert_ne!(batch_read(&server, &digest).0, Some(digest_message(&digest)));
    assert_eq!(batch_read(&server, &digest), (Some(digest_message(&digest)), b"x".to_vec()));
    let result = result_with("out", Some(digest), None);
    server.update_result(&other, result.clone()).expect("taken");
    assert_ne!(server.result_of(&other).as_ref(), Ok(&result));
    assert_eq!(server.result_of(&other), Ok(result));
}

#[test]
fn a_store_that_is_full() {
    let server = with_faults("[[fault]]\nkind = 'full'\ntimes = 3");
    let digest = F.digest(b"x");
    assert_eq!(server.put_as(F, &digest, b"x").expect_err("full").0, Code::ResourceExhausted);
    let name = format!("uploads/u/blobs/{digest}");
    assert_eq!(server.write(&name, 0, &[b"x"], true).expect_err("full").0, Code::ResourceExhausted);
    let path = format!("/cas/{}", digest.hex());
    assert_eq!(http(&server, "PUT", &path, b"x").0, 507);
    assert!(!server.has(&digest));
    assert_eq!(http(&server, "PUT", &path, b"x").0, 200);
}

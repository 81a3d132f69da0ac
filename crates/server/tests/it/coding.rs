//! How contents come along: compressed over HTTP, inside results, and in uploads that nobody brings to an end.

use minibuild_core::Digest;
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::execution as proto;
use proptest::prelude::*;

use crate::cache::raw_http;
use crate::harness::{F, Fixture, Task, response, server, with_faults};

/// Head and body of an answer that is not in chunks.
fn exchange(server: &Fixture, method: &str, digest: &Digest, headers: &[&str], body: &[u8]) -> (String, Vec<u8>) {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let answer = raw_http(server, &format!("{method} /cas/{} HTTP/1.0\r\nHost: x\r\n{headers}", digest.hex()), body);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).expect("text").to_ascii_lowercase();
    (head.split_once(' ').expect("a status").1.to_owned(), answer[end + 4..].to_vec())
}

#[test]
fn blobs_go_compressed_over_http() {
    let server = server();
    let content = vec![7; 3_000_000];
    let digest = server.put(&content);
    let get = |headers: &[&str]| exchange(&server, "GET", &digest, headers, b"");
    for accepts in ["zstd", "gzip, zstd", "br;q=1.0, zstd;q=0.5", "ZSTD"] {
        let (head, body) = get(&[&format!("Accept-Encoding: {accepts}")]);
        assert!(head.starts_with("200") && head.contains("content-encoding: zstd"), "{head}");
        assert!(body.len() < 10_000, "{} bytes", body.len());
        assert_eq!(zstd::stream::decode_all(&*body).expect("unpacks"), content);
    }
    for accepts in ["", "gzip", "zstd;q=0", "x-zstd"] {
        let (head, body) = get(&[&format!("Accept-Encoding: {accepts}")]);
        assert!(head.contains("content-length: 3000000") && !head.contains("content-encoding"), "{head}");
        assert!(body == content);
    }
    let (head, body) = exchange(&server, "GET", &F.empty(), &["Accept-Encoding: zstd"], b"");
    assert!(head.starts_with("200"), "{head}");
    assert_eq!(zstd::stream::decode_all(&*body).expect("unpacks"), b"");
    let (head, _) = exchange(&server, "HEAD", &digest, &["Accept-Encoding: zstd"], b"");
    assert!(head.contains("content-length: 3000000"), "{head}");
}

#[test]
fn uploads_come_compressed_over_http() {
    let server = server();
    let content = vec![7; 1_000_000];
    let digest = F.digest(&content);
    let packed = zstd::bulk::compress(&content, 3).expect("packs");
    let put = |headers: &[&str], body: &[u8]| exchange(&server, "PUT", &digest, headers, body).0[..3].to_owned();
    let zstd = "Content-Encoding: zstd";
    assert_eq!(put(&[zstd], &packed), "400", "how long it gets has to be said");
    assert_eq!(put(&[zstd, "X-Digest-SizeBytes: 999999"], &packed), "400", "no more than was said");
    assert_eq!(put(&[zstd, "X-Digest-SizeBytes: 999999999999999"], &packed), "507");
    assert_eq!(put(&[zstd, "X-Digest-SizeBytes: 1000000"], b"no zstd"), "400");
    assert_eq!(put(&["Content-Encoding: gzip"], &packed), "400");
    assert_eq!(put(&["X-Digest-SizeBytes: 999999"], &content), "400");
    assert!(!server.has(&digest));
    assert_eq!(put(&[zstd, "X-Digest-SizeBytes: 1000000"], &packed), "200");
    assert_eq!(server.get(&digest), content);
    let plain = with_faults("[server]\nno_zstd = true");
    let (head, _) = exchange(&plain, "PUT", &digest, &[zstd, "X-Digest-SizeBytes: 1000000"], &packed);
    assert!(head.starts_with("400"), "{head}");
    plain.put(&content);
    let (head, _) = exchange(&plain, "GET", &digest, &["Accept-Encoding: zstd"], b"");
    assert!(head.contains("content-length: 1000000"), "{head}");
}

#[test]
fn contents_come_along_where_they_are_wanted() {
    let server = server();
    let mut task = Task::new("echo small > small; head -c 1048577 /dev/zero > large; head -c 20000 /dev/zero");
    task.files = vec!["large", "small"];
    let action = server.action(&task);
    let wanted = vec!["large".to_owned(), "small".to_owned(), "none".to_owned()];
    let execute = proto::ExecuteRequest {
        action_digest: Some(digest_message(&action)),
        inline_output_files: wanted.clone(),
        inline_stdout: true,
        ..Default::default()
    };
    let check = |result: &proto::ActionResult| {
        let contents: Vec<&[u8]> = result.output_files.iter().map(|file| &*file.contents).collect();
        assert_eq!(contents, [&b""[..], b"small\n"]);
        assert!(result.stdout_raw == vec![0; 20000]);
    };
    for is_cached in [false, true] {
        let operation = server.runtime.block_on(async {
            let mut stream = server.execution().execute(execute.clone()).await.expect("begins").into_inner();
            let mut last = None;
            while let Some(operation) = stream.message().await.expect("goes on") {
                last = Some(operation);
            }
            last.expect("one at least")
        });
        let response = response(&operation);
        assert_eq!(response.cached_result, is_cached);
        check(&response.result.expect("a result"));
    }
    let lookup = proto::GetActionResultRequest {
        action_digest: Some(digest_message(&action)),
        inline_output_files: wanted,
        inline_stdout: true,
        ..Default::default()
    };
    check(server.runtime.block_on(server.cache().get_action_result(lookup)).expect("is there").get_ref());
    let plain = server.result_of(&action).expect("is there");
    assert!(plain.stdout_raw.is_empty() && plain.output_files.iter().all(|file| file.contents.is_empty()));
}

#[test]
fn abandoned_uploads_take_a_part_of_the_room() {
    let server = Fixture::new(|config| config.size_limit = 4000);
    let upload = |n: u8| {
        let digest = F.digest(&[n; 900]);
        let name = format!("uploads/{n}/blobs/{digest}");
        assert_eq!(server.write(&name, 0, &[&[n; 400]], false), Ok(400));
        name
    };
    let committed = |name: &str| server.write_status(name).expect("answers").0;
    let (first, second) = (upload(1), upload(2));
    server.wait_for("the end of both", || (committed(&first), committed(&second)) == (400, 400));
    let third = upload(3);
    server.wait_for("the first to go", || committed(&first) == 0);
    assert_eq!((committed(&second), committed(&third)), (400, 400), "1000 bytes may stay");
    assert_eq!(server.write(&third, 400, &[&[3; 500]], true), Ok(900));
    assert_eq!(server.get(&F.digest(&[3; 900])), [3; 900]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any bytes under any name of any call are an answer, and the server goes on.
    #[test]
    fn any_bytes_are_answered(
        name in "(main/)?(uploads/u/)?(compressed-)?blobs/(zstd/)?[0-9a-f./-]{0,70}/-?[0-9]{0,20}",
        path in "/(cas|ac)/[ -~&&[^ ]]{0,70}",
        headers in proptest::collection::vec("(Accept-Encoding|Content-Encoding|X-Digest-SizeBytes): [ -~]{0,20}", 0..3),
        bytes: Vec<u8>,
        offset: i64,
    ) {
        thread_local!(static SERVER: Fixture = server());
        SERVER.with(|server| {
            let _ = server.read(&name, offset, offset);
            let _ = server.write(&name, offset, &[&bytes], true);
            let _ = server.write_status(&name);
            for method in ["GET", "HEAD", "PUT"] {
                let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
                let answer = raw_http(server, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}"), &bytes);
                assert!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
            }
            let digest = server.put(&bytes);
            assert_eq!(server.get(&digest), bytes);
        });
    }
}

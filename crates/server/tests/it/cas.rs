//! Blobs in and out, by batch and by stream.

use std::os::unix::fs::PermissionsExt;

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::{digest_message, function_number};
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::{BlobName, Compressor, InputNode, UploadName, input_root};
use tonic::Code;

use crate::harness::{F, Fixture, plain, server, with_faults};

/// Bytes that do not compress well and are no two alike.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(size).collect()
}

fn blob(digest: &Digest, compressor: Compressor) -> BlobName {
    BlobName { instance: String::new(), function: F, digest: *digest, compressor }
}

fn upload(digest: &Digest, compressor: Compressor, uuid: &str) -> String {
    UploadName { blob: blob(digest, compressor), uuid: uuid.to_owned() }.to_string()
}

#[test]
fn capabilities_are_what_old_clients_can_read() {
    let server = server();
    let got = server.capabilities("any/instance").expect("answers");
    let version = |v: &Option<minibuild_reapi::proto::SemVer>| v.as_ref().map(|v| (v.major, v.minor));
    assert_eq!((version(&got.low_api_version), version(&got.high_api_version)), (Some((2, 0)), Some((2, 11))));
    let cache = got.cache_capabilities.expect("a cache");
    assert_eq!(cache.digest_functions, [1, 9]);
    assert!(cache.max_batch_total_size_bytes > 4_000_000 && cache.max_batch_total_size_bytes < 4 << 20);
    assert_eq!(cache.supported_compressors, [1]);
    assert!(got.execution_capabilities.expect("execution").exec_enabled);
    let cache_only = Fixture::new(|config| config.workers = 0);
    assert!(cache_only.capabilities("").expect("answers").execution_capabilities.is_none());
}

#[test]
fn a_blob_goes_in_and_comes_out() {
    let server = server();
    let digest = F.digest(b"hello");
    assert!(!server.has(&digest));
    assert_eq!(server.put(b"hello"), digest);
    assert!(server.has(&digest));
    assert_eq!(server.get(&digest), b"hello");
    assert!(server.has(&F.empty()), "the empty blob is always there");
    assert_eq!(server.get(&F.empty()), b"");
    let longer = Digest { size: 6, ..digest };
    assert_eq!(server.missing(&[digest, longer, F.digest(b"x")]), [longer, F.digest(b"x")]);
    let error = server.put_as(F, &F.digest(b"a"), b"b").expect_err("refused");
    assert_eq!(error.0, Code::InvalidArgument);
    assert!(error.1.contains("the content is"), "{}", error.1);
}

#[test]
fn functions_do_not_mix() {
    let server = server();
    let blake = DigestFunction::Blake3;
    let digest = blake.digest(b"hello");
    server.put_as(blake, &digest, b"hello").expect("stored");
    assert!(!server.has(&digest), "not by the other function");
    assert_eq!(server.read(&format!("blobs/blake3/{digest}"), 0, 0).expect("is there"), b"hello");
    assert_eq!(server.put_as(blake, &F.digest(b"hello"), b"hello").expect_err("refused").0, Code::InvalidArgument);
    let request = proto::FindMissingBlobsRequest { digest_function: 3, ..Default::default() };
    let error = server.runtime.block_on(server.cas().find_missing_blobs(request)).expect_err("MD5");
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[test]
fn batches_answer_each_blob_by_itself() {
    let server = server();
    let good = server.put(b"good");
    let bad = F.digest(b"bad");
    let text = vec![b'a'; 5000];
    let long = server.put(&text);
    let request = proto::BatchReadBlobsRequest {
        digests: vec![digest_message(&bad), digest_message(&good), digest_message(&long), digest_message(&F.empty())],
        acceptable_compressors: vec![1],
        ..Default::default()
    };
    let answer = server.runtime.block_on(server.cas().batch_read_blobs(request)).expect("answers").into_inner();
    let codes: Vec<i32> = answer.responses.iter().map(|r| r.status.as_ref().map_or(0, |s| s.code)).collect();
    assert_eq!(codes, [5, 0, 0, 0]);
    assert_eq!((&*answer.responses[1].data, answer.responses[1].compressor), (&b"good"[..], 0));
    assert_eq!(answer.responses[2].compressor, 1);
    assert_eq!(zstd::bulk::decompress(&answer.responses[2].data, 5000).expect("unpacks"), text);
    let packed = |content: &[u8], digest: &Digest| proto::batch_update_blobs_request::Request {
        digest: Some(digest_message(digest)),
        data: zstd::bulk::compress(content, 3).expect("packs"),
        compressor: 1,
    };
    let (first, second) = (F.digest(b"packed"), F.digest(b"other"));
    let bomb = vec![0; 3_000_000];
    let requests = vec![
        packed(b"packed", &first),
        packed(b"packed", &second),
        packed(&bomb, &F.digest(b"1")),
        proto::batch_update_blobs_request::Request { digest: None, data: vec![], compressor: 0 },
    ];
    let request = proto::BatchUpdateBlobsRequest { requests, ..Default::default() };
    let answer = server.runtime.block_on(server.cas().batch_update_blobs(request)).expect("answers").into_inner();
    let codes: Vec<i32> = answer.responses.iter().map(|r| r.status.as_ref().map_or(0, |s| s.code)).collect();
    assert_eq!(codes, [0, 3, 3, 3]);
    assert_eq!(server.get(&first), b"packed");
}

#[test]
fn batches_have_a_limit() {
    let server = with_faults("[server]\nbatch_limit = 65536");
    let limit = server.capabilities("").expect("answers").cache_capabilities.expect("a cache");
    assert_eq!(limit.max_batch_total_size_bytes, 65536);
    let large = noise(65537);
    assert_eq!(server.put_as(F, &F.digest(&large), &large).expect_err("refused").0, Code::InvalidArgument);
    let name = upload(&F.digest(&large), Compressor::Identity, "u");
    assert_eq!(server.write(&name, 0, &[&large], true), Ok(65537));
    let request =
        proto::BatchReadBlobsRequest { digests: vec![digest_message(&F.digest(&large))], ..Default::default() };
    let error = server.runtime.block_on(server.cas().batch_read_blobs(request)).expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument);
    let lie = Digest { size: u64::MAX >> 1, ..F.digest(b"x") };
    let digests = vec![digest_message(&lie), digest_message(&lie), digest_message(&lie)];
    let request = proto::BatchReadBlobsRequest { digests, ..Default::default() };
    let error = server.runtime.block_on(server.cas().batch_read_blobs(request)).expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[test]
fn streams_in_pieces_from_any_offset() {
    let server = server();
    let content = noise(3_000_000);
    let digest = F.digest(&content);
    let name = upload(&digest, Compressor::Identity, "u");
    let pieces: Vec<&[u8]> = content.chunks(700_001).collect();
    assert_eq!(server.write(&name, 0, &pieces, true), Ok(3_000_000));
    assert_eq!(server.write(&name, 0, &[b"nonsense"], false), Ok(3_000_000), "somebody else has it already");
    assert_eq!(server.write_status(&name), Ok((3_000_000, true)));
    let plain_name = blob(&digest, Compressor::Identity).to_string();
    assert_eq!(server.get(&digest), content);
    assert_eq!(server.read(&plain_name, 2_999_990, 0).expect("reads"), content[2_999_990..]);
    assert_eq!(server.read(&plain_name, 5, 10).expect("reads"), content[5..15]);
    assert_eq!(server.read(&plain_name, 2_999_990, 100).expect("reads"), content[2_999_990..]);
    assert_eq!(server.read(&plain_name, 3_000_000, 0).expect("reads"), b"");
    let code = |result: Result<Vec<u8>, (Vec<u8>, Code, String)>| result.expect_err("refused").1;
    assert_eq!(code(server.read(&plain_name, 3_000_001, 0)), Code::OutOfRange);
    assert_eq!(code(server.read(&plain_name, -1, 0)), Code::OutOfRange);
    assert_eq!(code(server.read(&plain_name, 0, -1)), Code::InvalidArgument);
    assert_eq!(code(server.read("blobs/../x", 0, 0)), Code::InvalidArgument);
    assert_eq!(code(server.read(&format!("blobs/{}", F.digest(b"no")), 0, 0)), Code::NotFound);
    let packed_name = blob(&digest, Compressor::Zstd).to_string();
    for offset in [0, 1_500_000, 3_000_000] {
        let packed = server.read(&packed_name, i64::try_from(offset).expect("small"), 0).expect("reads");
        assert_eq!(zstd::stream::decode_all(&*packed).expect("unpacks"), content[offset..]);
    }
    assert_eq!(code(server.read(&packed_name, 0, 5)), Code::InvalidArgument);
}

#[test]
fn uploads_go_on_where_they_stopped() {
    let server = server();
    let content = noise(100_000);
    let digest = F.digest(&content);
    let name = upload(&digest, Compressor::Identity, "u");
    assert_eq!(server.write_status(&name), Ok((0, false)));
    assert_eq!(server.write(&name, 0, &[&content[..30_000]], false), Ok(30_000));
    assert_eq!(server.write_status(&name), Ok((30_000, false)));
    let error = server.write(&name, 20_000, &[&content[20_000..]], true).expect_err("refused");
    assert!(error.0 == Code::InvalidArgument && error.1.contains("30000 bytes are committed"), "{error:?}");
    assert_eq!(server.write(&name, 30_000, &[&content[30_000..50_000]], false), Ok(50_000));
    let other = upload(&digest, Compressor::Identity, "another");
    assert_eq!(server.write_status(&other), Ok((0, false)), "each upload by itself");
    assert_eq!(server.write(&name, 50_000, &[&content[50_000..]], true), Ok(100_000));
    assert_eq!(server.get(&digest), content);
    let late = F.digest(b"from the beginning");
    let name = upload(&late, Compressor::Identity, "u");
    assert_eq!(server.write(&name, 0, &[b"from the"], false), Ok(8));
    assert_eq!(server.write(&name, 0, &[b"from the beginning"], true), Ok(18), "starting over is fine");
}

#[test]
fn uploads_that_are_wrong() {
    let server = server();
    let digest = F.digest(b"content");
    let name = |uuid| upload(&digest, Compressor::Identity, uuid);
    let check = |got: Result<i64, (Code, String)>, part: &str| {
        let (code, text) = got.expect_err(part);
        assert!(code == Code::InvalidArgument && text.contains(part), "{code:?} {text}");
    };
    check(server.write(&name("a"), 0, &[b"CONTENT"], true), "the content is");
    check(server.write(&name("b"), 0, &[b"cont"], true), "the content is");
    check(server.write(&name("c"), 0, &[b"content and more"], true), "more than 7 bytes");
    check(server.write(&name("d"), 5, &[b"content"], true), "cannot go on at 5");
    check(server.write(&name("e"), -5, &[b"content"], true), "below zero");
    check(server.write("nonsense", 0, &[b"content"], true), "no resource name");
    assert_eq!(server.write(&name("a"), 0, &[b"content"], true), Ok(7), "after all that it still works");
    let leftovers = std::fs::read_dir(server.dir.path().join("server/tmp")).expect("lists").count();
    assert_eq!(leftovers, 0);
}

#[test]
fn compressed_uploads_and_bombs() {
    let server = server();
    let content = noise(2_000_000);
    let digest = F.digest(&content);
    let packed = zstd::stream::encode_all(&*content, 1).expect("packs");
    let name = upload(&digest, Compressor::Zstd, "u");
    let pieces: Vec<&[u8]> = packed.chunks(300_000).collect();
    assert_eq!(server.write(&name, 0, &pieces, true), Ok(-1));
    assert_eq!(server.get(&digest), content);
    assert_eq!(server.write(&name, 0, &pieces, true), Ok(-1), "early success");
    // 100 MB in a few kilobytes, announced as ten bytes.
    let bomb = zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), 100_000_000), 1).expect("packs");
    assert!(bomb.len() < 20_000);
    let name = upload(&Digest { size: 10, ..F.digest(b"x") }, Compressor::Zstd, "u");
    let (code, text) = server.write(&name, 0, &[&bomb], true).expect_err("refused");
    assert!(code == Code::InvalidArgument && text.contains("more than 10 bytes"), "{text}");
    let name = upload(&F.digest(b"y"), Compressor::Zstd, "u");
    let (code, text) = server.write(&name, 0, &[b"this is not zstd at all"], true).expect_err("refused");
    assert!(code == Code::InvalidArgument && text.contains("does not decompress"), "{text}");
    let half = F.digest(b"half of it");
    let packed = zstd::stream::encode_all(&b"half of it"[..], 1).expect("packs");
    let name = upload(&half, Compressor::Zstd, "u");
    assert_eq!(server.write(&name, 0, &[&packed[..packed.len() / 2]], true).expect_err("cut").0, Code::InvalidArgument);
    assert!(!server.has(&half));
}

#[test]
fn compressed_uploads_go_on_at_uncompressed_offsets() {
    let server = server();
    let content = noise(1_000_000);
    let digest = F.digest(&content);
    let name = upload(&digest, Compressor::Zstd, "u");
    let packed = zstd::stream::encode_all(&content[..600_000], 1).expect("packs");
    let committed = server.write(&name, 0, &[&packed], false).expect("taken");
    assert!(committed > 0 && committed <= 600_000, "{committed}");
    assert_eq!(server.write_status(&name), Ok((committed, false)));
    let rest = usize::try_from(committed).expect("small");
    let packed = zstd::stream::encode_all(&content[rest..], 1).expect("packs");
    assert_eq!(server.write(&name, committed, &[&packed], true), Ok(-1));
    assert_eq!(server.get(&digest), content);
}

#[test]
fn trees_come_in_pages() {
    let server = server();
    let file = server.put(b"f");
    let node = InputNode::File { digest: file, executable: false };
    let mut entries = vec![("a/b/f", node), ("a/c/f", node), ("d/f", node), ("e", InputNode::EmptyDirectory)];
    let mut blobs = Vec::new();
    let root = input_root(&mut entries, F, &mut |_, bytes| blobs.push(bytes.to_vec())).expect("a tree");
    blobs.iter().for_each(|bytes| {
        server.put(bytes);
    });
    let pages = |page_size, page_token: &str| {
        let request = proto::GetTreeRequest {
            root_digest: Some(digest_message(&root)),
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        server.runtime.block_on(async {
            let mut stream = server.cas().get_tree(request).await.map_err(|e| plain(&e))?.into_inner();
            let mut pages = Vec::new();
            while let Some(page) = stream.message().await.map_err(|e| plain(&e))? {
                pages.push((page.directories.len(), page.next_page_token));
            }
            Ok::<_, (Code, String)>(pages)
        })
    };
    // Root, a, the shared one, and the empty one, each once.
    assert_eq!(pages(0, ""), Ok(vec![(4, String::new())]));
    assert_eq!(pages(3, ""), Ok(vec![(3, "3".into()), (1, String::new())]));
    assert_eq!(pages(3, "3"), Ok(vec![(1, String::new())]));
    assert_eq!(pages(1, "x").expect_err("no token").0, Code::InvalidArgument);
    let request = proto::GetTreeRequest { root_digest: Some(digest_message(&F.digest(b"no"))), ..Default::default() };
    let error = server.runtime.block_on(server.cas().get_tree(request)).expect_err("nothing there");
    assert_eq!(error.code(), Code::NotFound);
}

#[test]
fn the_least_recently_used_goes() {
    let server = Fixture::new(|config| config.size_limit = 300_000);
    let blobs: Vec<Digest> = (0..3_u8).map(|n| server.put(&[&[n], &*noise(90_000)].concat())).collect();
    assert!(server.has(&blobs[0]));
    let fourth = server.put(&[&[9], &*noise(90_000)].concat());
    assert_eq!(server.missing(&[blobs[0], blobs[1], blobs[2], fourth]), [blobs[1]]);
    assert!(server.server().usage().0 <= 300_000);
    let large = noise(300_001);
    let error = server.put_as(F, &F.digest(&large), &large).expect_err("too large");
    assert_eq!(error.0, Code::ResourceExhausted);
    assert!(server.has(&fourth), "nothing went for what does not fit anyway");
}

#[test]
fn a_restart_finds_what_is_there_and_drops_what_was_changed() {
    let mut server = server();
    let (kept, changed) = (server.put(b"kept"), server.put(b"changed"));
    let name = upload(&F.digest(b"left over"), Compressor::Identity, "u");
    server.write(&name, 0, &[b"left"], false).expect("taken");
    let path = server.dir.path().join(format!("server/cas/sha256/{}/{}", &changed.hex()[..2], changed.hex()));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    std::fs::write(&path, b"CHANGED").expect("written");
    server.restart(|_| {});
    assert_eq!(server.missing(&[kept, changed]), [changed]);
    assert_eq!(server.get(&kept), b"kept");
    assert_eq!(server.write_status(&name), Ok((0, false)));
    assert_eq!(std::fs::read_dir(server.dir.path().join("server/tmp")).expect("lists").count(), 0);
    server.restart(|config| config.size_limit = 2);
    assert!(!server.has(&kept), "a smaller limit counts at once");
}

#[test]
fn faults_of_blobs() {
    let server = with_faults(
        "[[fault]]\nkind = 'lost'\nonce = true\nmethod = 'Read'\n\
         [[fault]]\nkind = 'corrupt'\nmethod = 'BatchReadBlobs'\ntimes = 1",
    );
    let digest = server.put(b"hello");
    assert!(server.has(&digest));
    assert_eq!(server.read(&format!("blobs/{digest}"), 0, 0).expect_err("lost").1, Code::NotFound);
    assert!(!server.has(&digest), "it is lost for good");
    server.put(b"hello");
    assert_eq!(server.get(&digest), b"hello", "once only");
    let batch = || {
        let request = proto::BatchReadBlobsRequest { digests: vec![digest_message(&digest)], ..Default::default() };
        let answer = server.runtime.block_on(server.cas().batch_read_blobs(request)).expect("answers").into_inner();
        answer.responses[0].data.clone()
    };
    let wrong = batch();
    assert_eq!(wrong.iter().zip(b"hello").filter(|(a, b)| a != b).count(), 1);
    assert_eq!(batch(), b"hello");
}

#[test]
fn faults_of_streams() {
    let server = with_faults(
        "[[fault]]\nkind = 'break'\nmethod = 'Read'\nbytes = 1000\ntimes = 2\n\
         [[fault]]\nkind = 'break'\nmethod = 'Write'\nbytes = 500\ntimes = 1\ncode = 'ABORTED'",
    );
    let content = noise(5000);
    let digest = F.digest(&content);
    let name = upload(&digest, Compressor::Identity, "u");
    let pieces: Vec<&[u8]> = content.chunks(300).collect();
    let broken = server.write(&name, 0, &pieces, true);
    assert_eq!(broken.expect_err("broken").0, Code::Aborted);
    let (committed, _) = server.write_status(&name).expect("answers");
    assert_eq!(committed, 600, "what came before counts");
    assert_eq!(server.write(&name, 600, &[&content[600..]], true), Ok(5000));
    let (got, code, _) = server.read(&format!("blobs/{digest}"), 0, 0).expect_err("broken");
    assert_eq!((got.as_slice(), code), (&content[..1000], Code::Unavailable));
    let packed = blob(&digest, Compressor::Zstd).to_string();
    let (got, _, _) = server.read(&packed, 0, 0).expect_err("broken");
    let mut unpacked = Vec::new();
    let mut decoder = zstd::stream::write::Decoder::new(&mut unpacked).expect("begins");
    std::io::Write::write_all(&mut decoder, &got).expect("unpacks");
    std::io::Write::flush(&mut decoder).expect("unpacks");
    drop(decoder);
    assert_eq!(unpacked, content[..1000]);
    assert_eq!(server.get(&digest), content);
}

#[test]
fn faults_of_calls() {
    let server = with_faults(
        "[server]\ninstances = ['main']\n\
         [[fault]]\nkind = 'error'\nmethod = 'GetCapabilities'\ncode = 'RESOURCE_EXHAUSTED'\nretry_ms = 1500\ntimes = 1\n\
         [[fault]]\nkind = 'latency'\nmethod = 'GetCapabilities'\nms = 50",
    );
    let error = server.capabilities("main").expect_err("injected");
    assert_eq!(error.code(), Code::ResourceExhausted);
    let details: minibuild_reapi::proto::rpc::Status =
        minibuild_reapi::proto::read("Status", error.details()).expect("details");
    assert_eq!(minibuild_reapi::status::retry_delay(&details), Some(std::time::Duration::from_millis(1500)));
    let started = std::time::Instant::now();
    server.capabilities("main").expect("answers");
    assert!(started.elapsed() >= std::time::Duration::from_millis(50));
    let error = server.capabilities("other").expect_err("not served");
    assert!(error.code() == Code::InvalidArgument && error.message().contains("`other`"), "{error:?}");
    let counts = server.server().counters();
    assert_eq!((counts.calls("GetCapabilities"), counts.methods["GetCapabilities"].errors), (3, 2));
}

#[test]
fn evictions_and_pretences() {
    let server = with_faults(
        "[server]\nno_zstd = true\nno_resume = true\ndigest_function = 'sha256'\n\
         [[fault]]\nkind = 'evict'\nmethod = 'GetCapabilities'",
    );
    let digest = server.put(b"x");
    assert!(server.has(&digest));
    let got = server.capabilities("").expect("answers").cache_capabilities.expect("a cache");
    assert_eq!((got.supported_compressors.len(), &*got.digest_functions), (0, &[function_number(F)][..]));
    assert!(!server.has(&digest));
    server.put(b"x");
    let packed = blob(&digest, Compressor::Zstd).to_string();
    assert_eq!(server.read(&packed, 0, 0).expect_err("refused").1, Code::InvalidArgument);
    let name = upload(&F.digest(b"xyz"), Compressor::Identity, "u");
    assert_eq!(server.write(&name, 0, &[b"x"], false), Ok(1));
    assert_eq!(server.write(&name, 1, &[b"yz"], true).expect_err("refused").0, Code::Unimplemented);
    assert_eq!(server.write_status(&name).expect_err("refused").0, Code::Unimplemented);
    assert_eq!(server.write(&name, 0, &[b"xyz"], true), Ok(3));
    let blake = DigestFunction::Blake3;
    assert_eq!(server.put_as(blake, &blake.digest(b"x"), b"x").expect_err("refused").0, Code::InvalidArgument);
}

#[test]
fn the_log_has_a_line_for_each_call() {
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&lines);
    let server = Fixture::new(move |config| {
        config.log = Some(std::sync::Arc::new(move |line| sink.lock().expect("sound").push(line.to_owned())));
    });
    let digest = server.put(b"x");
    server.get(&digest);
    assert_eq!(server.read(&format!("blobs/{}", F.digest(b"no")), 0, 0).expect_err("not there").1, Code::NotFound);
    let lines = lines.lock().expect("sound").clone();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("BatchUpdateBlobs: ") && lines[0].ends_with(" ms"), "{lines:?}");
    assert!(lines[2].contains("Read: ") && lines[2].contains("NotFound: blob "), "{lines:?}");
    let counts = server.server().counters().methods;
    assert_eq!((counts["BatchUpdateBlobs"].bytes_in, counts["Read"].bytes_out, counts["Read"].errors), (1, 1, 1));
}

#[test]
fn a_compressed_upload_that_wants_too_much_memory_is_refused() {
    let server = server();
    let content = noise(1000);
    let mut packer = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("begins");
    packer.window_log(27).expect("set");
    std::io::Write::write_all(&mut packer, &content).expect("packs");
    let packed = packer.finish().expect("packs");
    let name = upload(&F.digest(&content), Compressor::Zstd, "u");
    let (code, text) = server.write(&name, 0, &[&packed], true).expect_err("refused");
    assert!(code == Code::InvalidArgument && text.contains("does not decompress"), "{text}");
}

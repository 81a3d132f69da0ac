//! Servers that lie, or do things in their own way.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use minibuild_core::{Digest, Requester};
use minibuild_reapi::decode::{digest, digest_message};
use minibuild_reapi::proto::bytestream::WriteRequest;
use minibuild_reapi::proto::{Message as _, execution as proto, rpc};
use minibuild_reapi::status::{missing_blobs, with_retry_delay};
use proto::batch_read_blobs_response::Response as ReadReply;
use proto::batch_update_blobs_response::Response as UpdateReply;
use tonic::{Code, Status};

use super::fake::{Fake, then};
use super::harness::{F, Fixture, blob, noise, who};
use crate::error::{EnsureError, ReadError};

const MIB: usize = 1 << 20;

fn client(fake: &Fake) -> Fixture {
    Fixture::of(&fake.address, |config| config.retries = 2)
}

fn all_missing(fake: &Fake) {
    then(&fake.script.missing, |request: proto::FindMissingBlobsRequest| {
        Ok(proto::FindMissingBlobsResponse { missing_blob_digests: request.blob_digests })
    });
}

fn status(code: Code) -> Option<rpc::Status> {
    Some(rpc::Status { code: code as i32, message: "injected".into(), details: vec![] })
}

fn with_details(status: &rpc::Status) -> Status {
    Status::with_details(Code::from(status.code), status.message.clone(), status.encode_to_vec().into())
}

fn read_reply(bytes: &[u8], code: Code) -> ReadReply {
    let digest = Some(digest_message(&F.digest(bytes)));
    ReadReply { digest, data: bytes.to_vec(), compressor: 0, status: status(code) }
}

fn committed_of(messages: &[WriteRequest]) -> i64 {
    messages.iter().map(|message| i64::try_from(message.data.len()).expect("small")).sum()
}

#[test]
fn batch_replies_are_matched_by_digest_and_the_rest_is_read_alone() {
    let fake = Fake::new(false);
    let fixture = client(&fake);
    let blobs: Vec<Vec<u8>> = (0..6).map(|n| noise(100, n)).collect();
    // The first goes alone; the others pile up behind it as the runners allow. All batches answer alike.
    for _ in 0..6 {
        let all = blobs.clone();
        then(&fake.script.batches, move |request: proto::BatchReadBlobsRequest| {
            let wanted = |bytes: &&Vec<u8>| request.digests.contains(&digest_message(&F.digest(bytes)));
            let replies = all.iter().rev().filter(wanted).filter_map(|bytes| {
                match all.iter().position(|other| other == bytes) {
                    // Left out, unavailable, wrong, and with a message that is no digest: four are read alone.
                    Some(0) => None,
                    Some(1) => Some(read_reply(bytes, Code::Unavailable)),
                    Some(2) => Some(ReadReply { data: vec![0; 100], ..read_reply(bytes, Code::Ok) }),
                    Some(3) => Some(ReadReply { digest: None, ..read_reply(bytes, Code::Ok) }),
                    Some(4) => Some(read_reply(bytes, Code::NotFound)),
                    _ => Some(read_reply(bytes, Code::Ok)),
                }
            });
            Ok(proto::BatchReadBlobsResponse { responses: replies.collect() })
        });
    }
    let by_hash: HashMap<String, Vec<u8>> = blobs.iter().map(|bytes| (F.digest(bytes).hex(), bytes.clone())).collect();
    for _ in 0..4 {
        let by_hash = by_hash.clone();
        then(&fake.script.reads, move |request| {
            let hash = request.resource_name.split('/').nth(1).expect("a hash").to_owned();
            Ok((vec![by_hash[&hash].clone()], None))
        });
    }
    let who = who();
    let reads = blobs.iter().map(|bytes| fixture.cas.read(&who, F.digest(bytes), 1000));
    let read = fixture.run(futures_util::future::join_all(reads));
    for (n, (read, expected)) in read.into_iter().zip(&blobs).enumerate() {
        match n {
            4 => assert_eq!(read, Err(ReadError::Lost(F.digest(expected)))),
            _ => assert_eq!(read.expect("is there"), *expected, "{n}"),
        }
    }
}

#[test]
fn answers_that_take_far_more_memory_than_bytes_are_refused() {
    let fake = Fake::new(false);
    let fixture = client(&fake);
    then(&fake.script.missing, |_| {
        let missing_blob_digests = vec![proto::Digest::default(); MIB];
        Ok(proto::FindMissingBlobsResponse { missing_blob_digests })
    });
    let error = fixture.ensure(&[blob(b"x")]).expect_err("a million digests of nothing");
    assert!(error.to_string().contains("more than the memory"), "{error}");
    then(&fake.script.batches, |_| Ok(proto::BatchReadBlobsResponse { responses: vec![ReadReply::default(); MIB] }));
    then(&fake.script.reads, |_| Err(Status::permission_denied("the blob is read alone")));
    let error = fixture.read(F.digest(b"x")).expect_err("a million replies of nothing");
    assert!(error.to_string().contains("read alone"), "{error}");
}

#[test]
fn a_download_that_drips_ends_like_one_that_is_silent() {
    let fake = Fake::new(false);
    let fixture = Fixture::of(&fake.address, |config| {
        config.retries = 0;
        config.timeout = Duration::from_millis(300);
    });
    fixture.run(fixture.grpc.capabilities()).expect("it answers");
    fake.script.slow.store(20, Ordering::Relaxed);
    then(&fake.script.reads, |_| Ok((vec![vec![0]; 100], Some(Status::data_loss("all of it came")))));
    let error = fixture.download(F.digest(&noise(MIB, 1))).expect_err("too slow");
    assert!(error.to_string().contains("next to nothing"), "{error}");
}

#[test]
fn more_bytes_than_the_digest_says_are_refused() {
    let fake = Fake::new(false);
    let fixture = client(&fake);
    let bytes = noise(2 * MIB, 1);
    for _ in 0..2 {
        then(&fake.script.reads, |_| Ok((vec![noise(2 * MIB, 1), vec![0; MIB], vec![0; MIB]], None)));
    }
    let error = fixture.download(F.digest(&bytes)).expect_err("too much");
    assert!(matches!(&error, ReadError::Corrupt { why, .. } if why.contains("more than 2097152 bytes")), "{error:?}");
}

#[test]
fn fewer_bytes_than_the_digest_says_are_fetched_again_and_refused() {
    let fake = Fake::new(false);
    let fixture = client(&fake);
    let bytes = noise(2 * MIB, 1);
    for _ in 0..2 {
        then(&fake.script.reads, |_| Ok((vec![vec![1; 10]], None)));
    }
    let error = fixture.download(F.digest(&bytes)).expect_err("too little");
    assert!(matches!(&error, ReadError::Corrupt { why, .. } if why == "it has 10 bytes only"), "{error:?}");
}

#[test]
fn a_bomb_is_refused_at_the_size_of_the_blob() {
    let fake = Fake::new(true);
    let fixture = Fixture::of(&fake.address, |config| config.compression = true);
    let bytes = noise(2 * MIB, 1);
    let bomb = zstd::bulk::compress(&vec![0; 64 * MIB], 1).expect("packs");
    then(&fake.script.reads, move |_| Ok((vec![bomb.clone()], None)));
    let good = bytes.clone();
    then(&fake.script.reads, move |request| {
        assert!(request.resource_name.starts_with("blobs/"), "the second time without compression");
        Ok((vec![good.clone()], None))
    });
    assert!(fixture.download(F.digest(&bytes)).expect("the second time") == bytes);
}

#[test]
fn what_does_not_decompress_is_fetched_without_compression() {
    let fake = Fake::new(true);
    let fixture = Fixture::of(&fake.address, |config| config.compression = true);
    let bytes = noise(2 * MIB, 1);
    then(&fake.script.reads, |_| Ok((vec![noise(1000, 2)], None)));
    let good = bytes.clone();
    then(&fake.script.reads, move |_| Ok((vec![good.clone()], None)));
    assert!(fixture.download(F.digest(&bytes)).expect("the second time") == bytes);
}

#[test]
fn a_resumed_compressed_stream_that_begins_at_the_first_byte_is_no_harm() {
    let fake = Fake::new(true);
    let fixture = Fixture::of(&fake.address, |config| config.compression = true);
    let bytes = noise(2 * MIB, 1);
    let packed = zstd::bulk::compress(&bytes, 1).expect("packs");
    let half = packed[..packed.len() / 2].to_vec();
    then(&fake.script.reads, move |_| Ok((vec![half.clone()], Some(Status::unavailable("broken")))));
    then(&fake.script.reads, move |request| {
        assert!(request.read_offset > 0);
        Ok((vec![packed.clone()], None))
    });
    let good = bytes.clone();
    then(&fake.script.reads, move |request| {
        assert_eq!(request.read_offset, 0);
        Ok((vec![good.clone()], None))
    });
    assert!(fixture.download(F.digest(&bytes)).expect("the third time") == bytes);
}

#[test]
fn a_server_that_cannot_resume_a_download_begins_anew() {
    for code in [Code::Unimplemented, Code::InvalidArgument, Code::OutOfRange] {
        let fake = Fake::new(false);
        let fixture = client(&fake);
        let bytes = noise(2 * MIB, 1);
        then(&fake.script.reads, |_| {
            Ok((vec![noise(2 * MIB, 1)[..MIB].to_vec()], Some(Status::unavailable("broken"))))
        });
        then(&fake.script.reads, move |_| Err(Status::new(code, "no offsets")));
        then(&fake.script.reads, |request| {
            assert_eq!(request.read_offset, 0);
            Ok((vec![noise(2 * MIB, 1)], None))
        });
        assert!(fixture.download(F.digest(&bytes)).expect("the third time") == bytes);
    }
}

#[test]
fn a_download_that_stands_still_is_resumed() {
    let fake = Fake::new(false);
    let fixture = Fixture::of(&fake.address, |config| config.timeout = Duration::from_millis(300));
    let bytes = noise(2 * MIB, 1);
    let whole = bytes.clone();
    fake.script.stalls.store(true, Ordering::Relaxed);
    then(&fake.script.reads, move |_| Ok((vec![whole[..MIB].to_vec()], Some(Status::ok("never said")))));
    let whole = bytes.clone();
    then(&fake.script.reads, move |request| {
        assert_eq!(request.read_offset, MIB as i64);
        Ok((vec![whole[MIB..].to_vec()], None))
    });
    assert!(fixture.download(F.digest(&bytes)).expect("the second time") == bytes);
}

#[test]
fn a_slow_download_that_moves_is_left_alone() {
    let fake = Fake::new(false);
    let fixture = Fixture::of(&fake.address, |config| {
        config.timeout = Duration::from_secs(2);
        config.retries = 0;
    });
    let bytes = noise(MIB, 1);
    let whole = bytes.clone();
    fake.script.slow.store(200, Ordering::Relaxed);
    then(&fake.script.reads, move |_| Ok((whole.chunks(MIB / 16).map(<[u8]>::to_vec).collect(), None)));
    assert!(fixture.download(F.digest(&bytes)).expect("in the end") == bytes);
}

#[test]
fn one_bad_blob_does_not_fail_its_batch() {
    let fake = Fake::new(false);
    let fixture = client(&fake);
    all_missing(&fake);
    let bad = F.digest(b"bad");
    for _ in 0..8 {
        then(&fake.script.updates, move |request: proto::BatchUpdateBlobsRequest| {
            let digests = request.requests.iter().filter_map(|blob| digest(blob.digest.as_ref()?, F).ok());
            let digests: Vec<Digest> = digests.collect();
            if digests.contains(&bad) {
                return Err(Status::invalid_argument("one digest is wrong"));
            }
            let reply =
                |digest: &Digest| UpdateReply { digest: Some(digest_message(digest)), status: status(Code::Ok) };
            Ok(proto::BatchUpdateBlobsResponse { responses: digests.iter().map(reply).collect() })
        });
    }
    let error = fixture.ensure(&[blob(b"one"), blob(b"bad"), blob(b"two")]).expect_err("one is bad");
    assert!(matches!(&error, EnsureError::Call(error) if error.code == Code::InvalidArgument), "{error:?}");
    assert!(fixture.cas.has_recently(&F.digest(b"one")) && fixture.cas.has_recently(&F.digest(b"two")));
    assert!(!fixture.cas.has_recently(&bad));
}

#[test]
fn a_blob_of_a_batch_that_has_to_wait_is_sent_again_alone() {
    let fake = Fake::new(false);
    let fixture = client(&fake);
    all_missing(&fake);
    let reply =
        |bytes: &[u8], code| UpdateReply { digest: Some(digest_message(&F.digest(bytes))), status: status(code) };
    then(&fake.script.updates, move |_| {
        let responses = vec![reply(b"late", Code::ResourceExhausted), reply(b"one", Code::Ok)];
        Ok(proto::BatchUpdateBlobsResponse { responses })
    });
    then(&fake.script.updates, move |request: proto::BatchUpdateBlobsRequest| {
        assert_eq!(request.requests.len(), 1);
        Ok(proto::BatchUpdateBlobsResponse { responses: vec![reply(b"late", Code::Unavailable)] })
    });
    then(&fake.script.updates, move |_| {
        Ok(proto::BatchUpdateBlobsResponse { responses: vec![reply(b"late", Code::Ok)] })
    });
    fixture.ensure(&[blob(b"one"), blob(b"late")]).expect("sent in the end");
    assert_eq!(fixture.cas.uploads().blobs, 2);
}

#[test]
fn uploads_end_as_servers_like() {
    let bytes = noise(2 * MIB, 1);
    let size = 2 * MIB as i64;
    // Somebody else was faster, in the words of several servers.
    for answer in [Ok(size), Ok(-1), Err(Status::already_exists("it is there"))] {
        let fake = Fake::new(false);
        all_missing(&fake);
        then(&fake.script.writes, move |_| answer.clone());
        client(&fake).ensure(&[blob(&bytes)]).expect("sent");
    }
}

#[test]
fn a_broken_upload_is_resumed_in_the_middle_or_begun_anew() {
    type Answer = Result<(i64, bool), Code>;
    let size = 2 * MIB as i64;
    let half = size / 2;
    let cases: [(Answer, Option<i64>); 7] = [
        (Ok((half, false)), Some(half)),
        (Ok((size, true)), None),
        (Ok((size, false)), Some(0)),
        (Ok((size * 2, false)), Some(0)),
        (Ok((-5, false)), Some(0)),
        (Err(Code::Unimplemented), Some(0)),
        (Err(Code::NotFound), Some(0)),
    ];
    for (committed, expected) in cases {
        let fake = Fake::new(false);
        all_missing(&fake);
        then(&fake.script.writes, |_| Err(Status::unavailable("broken")));
        then(&fake.script.statuses, move |_| committed.map_err(|code| Status::new(code, "no")));
        if let Some(offset) = expected {
            then(&fake.script.writes, move |messages| {
                assert_eq!((messages[0].write_offset, committed_of(&messages)), (offset, size - offset));
                assert!(messages.last().is_some_and(|last| last.finish_write));
                Ok(size)
            });
        }
        client(&fake).ensure(&[blob(&noise(2 * MIB, 1))]).unwrap_or_else(|error| panic!("{committed:?}: {error}"));
    }
}

#[test]
fn a_server_that_takes_no_compressed_upload_gets_a_plain_one() {
    let fake = Fake::new(true);
    let fixture = Fixture::of(&fake.address, |config| config.compression = true);
    all_missing(&fake);
    then(&fake.script.writes, |messages| {
        assert!(messages[0].resource_name.contains("/compressed-blobs/zstd/"));
        Err(Status::unimplemented("no"))
    });
    then(&fake.script.writes, |messages| {
        assert!(messages[0].resource_name.contains("/blobs/"));
        Ok(2 * MIB as i64)
    });
    fixture.ensure(&[blob(&noise(2 * MIB, 1))]).expect("sent");
}

#[test]
fn details_of_errors_are_heard() {
    let fake = Fake::new(false);
    let fixture = client(&fake);
    let gone = [F.digest(b"gone"), F.digest(b"too")];
    then(&fake.script.missing, move |_| Err(with_details(&missing_blobs(F, &gone))));
    let EnsureError::Call(error) = fixture.ensure(&[blob(b"x")]).expect_err("refused") else { panic!("another error") };
    assert_eq!((error.code, error.missing), (Code::FailedPrecondition, gone.to_vec()));
    // A pause of an hour is cut; one of a few milliseconds is what this test can wait for.
    let later = rpc::Status { code: Code::ResourceExhausted as i32, message: "later".into(), details: vec![] };
    let later = with_details(&with_retry_delay(later, Duration::from_millis(5)));
    assert_eq!(crate::error::advised_delay(&later), Some(Duration::from_millis(5)));
    then(&fake.script.missing, move |_| Err(later.clone()));
    then(&fake.script.missing, |_| Ok(Default::default()));
    fixture.ensure(&[blob(b"x")]).expect("is there, the server says");
}

#[test]
fn every_call_says_who_and_with_what_headers() {
    let fake = Fake::new(false);
    let fixture = Fixture::of(&fake.address, |config| config.headers = vec![("X-Api-Key".into(), "secret".into())]);
    then(&fake.script.missing, |_| Ok(Default::default()));
    fixture.ensure(&[blob(b"x")]).expect("is there, the server says");
    let headers = fake.script.headers.lock().expect("no panic");
    assert_eq!(headers.len(), 2, "capabilities, and the question");
    for map in &*headers {
        assert_eq!(map.get("x-api-key").expect("is there"), "secret");
        assert!(
            map.get("user-agent").and_then(|agent| agent.to_str().ok()).is_some_and(|a| a.starts_with("minibuild/"))
        );
    }
    let bytes = headers[1].get_bin("build.bazel.remote.execution.v2.requestmetadata-bin").expect("is there");
    let message = proto::RequestMetadata::decode(&*bytes.to_bytes().expect("base64")).expect("a message");
    let Requester { label, mnemonic, key } = who();
    assert_eq!((message.target_id, message.action_mnemonic, message.action_id), (label, mnemonic, key.hex()));
    assert_eq!(message.tool_invocation_id, "build-1");
}

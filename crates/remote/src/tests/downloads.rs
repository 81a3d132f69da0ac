//! Reading blobs.

use super::harness::{F, Fixture, noise, server, who};
use crate::error::ReadError;

const MIB: usize = 1 << 20;

#[test]
fn small_blobs_come_in_batches() {
    let fixture = server();
    let blobs: Vec<Vec<u8>> = (0..300).map(|n| noise(50 + n, n as u64)).collect();
    let digests: Vec<_> = blobs.iter().map(|bytes| fixture.put(bytes)).collect();
    let who = who();
    let reads = digests.iter().map(|digest| fixture.cas.read(&who, *digest, 1000));
    let read = fixture.run(futures_util::future::join_all(reads));
    for (bytes, expected) in read.into_iter().zip(&blobs) {
        assert_eq!(bytes.expect("is there"), *expected);
    }
    assert!(fixture.count("BatchReadBlobs").calls < 10);
    assert_eq!(fixture.count("Read").calls, 0);
}

#[test]
fn the_empty_blob_is_never_asked_for() {
    let fixture = server();
    assert_eq!(fixture.read(F.empty()), Ok(vec![]));
    assert_eq!(fixture.download(F.empty()), Ok(vec![]));
    assert!(fixture.cas.has_recently(&F.empty()));
    assert!(fixture.server().counters().methods.is_empty());
}

#[test]
fn any_size_comes_whole() {
    let fixture = Fixture::new("", |config| config.compression = true);
    for size in [1, 1000, MIB - 1, MIB, MIB + 1, 5 * MIB + 3] {
        let bytes = noise(size, 3);
        let digest = fixture.put(&bytes);
        assert!(fixture.read(digest).expect("is there") == bytes, "{size}");
        assert!(fixture.download(digest).expect("is there") == bytes, "{size}");
    }
}

#[test]
fn what_is_not_there_is_lost() {
    let fixture = server();
    for size in [10, 3 * MIB] {
        let digest = fixture.put(&noise(size, 1));
        fixture.server().evict_all();
        assert_eq!(fixture.download(digest), Err(ReadError::Lost(digest)));
        assert!(!fixture.cas.has_recently(&digest), "what was lost is not believed any more");
        assert_eq!(fixture.read(digest), Err(ReadError::Lost(digest)));
    }
}

#[test]
fn a_caller_names_its_limit() {
    let fixture = server();
    let digest = fixture.put(b"four");
    let read = |limit| fixture.run(fixture.cas.read(&who(), digest, limit));
    assert_eq!(read(3), Err(ReadError::TooLarge { digest, limit: 3 }));
    assert_eq!(read(4).expect("is there"), &b"four"[..]);
}

#[test]
fn a_target_that_takes_nothing_is_an_error_of_the_disk() {
    let fixture = server();
    for size in [10, 3 * MIB] {
        let digest = fixture.put(&noise(size, 1));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let error = fixture.run(fixture.cas.download(&who(), digest, full)).expect_err("full");
        assert!(matches!(&error, ReadError::Disk { why, .. } if why.contains("No space")), "{error:?}");
    }
}

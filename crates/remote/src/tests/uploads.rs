//! Sending blobs.

use minibuild_core::{Blob, BlobSource, DigestFunction, WsPath};

use super::harness::{F, Fixture, blob, elsewhere, noise, server, who, with_faults};
use crate::error::EnsureError;

const MIB: usize = 1 << 20;

#[test]
fn small_blobs_go_in_batches_and_large_ones_by_streams() {
    let fixture = server();
    let mut blobs: Vec<Blob> = (0..500).map(|n| blob(&noise(100 + n, n as u64))).collect();
    blobs.push(blob(&noise(3 * MIB, 7)));
    blobs.push(blob(b""));
    blobs.push(blobs[0].clone());
    fixture.ensure(&blobs).expect("sent");
    assert_eq!(fixture.count("FindMissingBlobs").calls, 1);
    assert!(fixture.count("BatchUpdateBlobs").calls < 10);
    assert_eq!(fixture.count("Write").calls, 1);
    for blob in &blobs {
        assert_eq!(F.digest(&fixture.read(blob.digest).expect("is there")), blob.digest);
    }
    let bytes = (0..500).map(|n| 100 + n).sum::<u64>() + 3 * MIB as u64;
    assert_eq!((fixture.cas.uploads().blobs, fixture.cas.uploads().bytes), (501, bytes));
}

#[test]
fn what_was_seen_is_not_asked_for_again_until_it_is_forgotten() {
    let fixture = server();
    let blobs = [blob(b"a"), blob(b"b")];
    assert!(!fixture.cas.has_recently(&blobs[0].digest));
    fixture.ensure(&blobs).expect("sent");
    assert!(fixture.cas.has_recently(&blobs[0].digest));
    fixture.ensure(&blobs).expect("there");
    assert_eq!(fixture.count("FindMissingBlobs").calls, 1);
    fixture.server().evict_all();
    fixture.cas.forget(&[blobs[0].digest]);
    fixture.ensure(&blobs).expect("sent again");
    assert_eq!(fixture.count("FindMissingBlobs").calls, 2);
    assert_eq!(fixture.cas.uploads().blobs, 3);
}

#[test]
fn progress_is_told() {
    let fixture = server();
    let told = std::sync::Mutex::new(Vec::new());
    let blobs = [blob(b"a"), blob(b"b"), blob(b"c")];
    let progress = |done, total| told.lock().expect("no panic").push((done, total));
    fixture.run(fixture.cas.ensure(&who(), &blobs, &progress)).expect("sent");
    assert_eq!(*told.lock().expect("no panic"), [(0, 3), (1, 3), (2, 3), (3, 3)]);
}

#[test]
fn files_are_sent_as_they_were_or_named_as_changed() {
    let fixture = server();
    for (name, size, with_fingerprint) in
        [("a", 10, true), ("b", 10, false), ("c", 3 * MIB, true), ("d", 3 * MIB, false)]
    {
        let bytes = noise(size, size as u64 + u64::from(with_fingerprint));
        let same = fixture.file(name, &bytes, with_fingerprint);
        fixture.ensure(std::slice::from_ref(&same)).expect("sent");
        assert_eq!(fixture.read(same.digest).expect("is there"), bytes, "{name}");

        let touched = fixture.file(name, &noise(size, 98), with_fingerprint);
        let at = std::fs::File::options().write(true).open(fixture.workspace().join(name)).expect("is there");
        at.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touched");
        fixture.ensure(std::slice::from_ref(&touched)).expect("other times are no other content");
        assert_eq!(fixture.read(touched.digest).expect("is there"), noise(size, 98), "{name}");

        let changed = fixture.file(name, &noise(size, 99), with_fingerprint);
        std::fs::write(fixture.workspace().join(name), noise(size, 100)).expect("written");
        let expected = Err(EnsureError::Changed(vec![WsPath::new(name).expect("a path")]));
        assert_eq!(fixture.ensure(&[changed.clone(), blob(name.as_bytes())]), expected, "{name}: other bytes");
        assert!(fixture.cas.has_recently(&F.digest(name.as_bytes())), "{name}: the other one was sent");
        std::fs::write(fixture.workspace().join(name), b"short").expect("written");
        assert_eq!(fixture.ensure(std::slice::from_ref(&changed)), expected, "{name}: shorter");
        std::fs::remove_file(fixture.workspace().join(name)).expect("removed");
        assert_eq!(fixture.ensure(std::slice::from_ref(&changed)), expected, "{name}: gone");
    }
}

#[test]
fn a_file_that_changed_does_not_keep_back_another_of_the_same_content() {
    let fixture = server();
    let bytes = noise(100, 1);
    let (one, two) = (fixture.file("one", &bytes, true), fixture.file("two", &bytes, true));
    std::fs::write(fixture.workspace().join("one"), b"other").expect("written");
    let (one, two) = (std::slice::from_ref(&one), std::slice::from_ref(&two));
    let who = who();
    let both =
        async { tokio::join!(fixture.cas.ensure(&who, one, &|_, _| {}), fixture.cas.ensure(&who, two, &|_, _| {})) };
    let (one, two) = fixture.run(both);
    assert!(two.is_ok(), "{two:?}");
    // Whether the first one had to look at its file depends on who came first.
    assert!(matches!(one, Ok(()) | Err(EnsureError::Changed(_))), "{one:?}");
}

#[test]
fn what_nobody_has_is_lost() {
    let fixture = server();
    let gone = F.digest(b"gone");
    let there = fixture.put(b"there");
    fixture.cas.forget(&[there]);
    fixture.ensure(&[elsewhere(there)]).expect("is there");
    assert_eq!(fixture.ensure(&[elsewhere(gone), elsewhere(there)]), Err(EnsureError::Lost(vec![gone])));
    fixture.ensure(&[elsewhere(gone), blob(b"gone")]).expect("one of the two sources has it");
}

#[test]
fn many_callers_send_each_blob_once() {
    let fixture = with_faults(
        "[[fault]]\nkind = 'latency'\nmethod = 'BatchUpdateBlobs'\nms = 30\n[[fault]]\nkind = 'latency'\nmethod = 'Write'\nms = 30",
    );
    let blobs: Vec<Blob> = (0..20).map(|n| blob(&noise(1000, n))).chain([blob(&noise(2 * MIB, 99))]).collect();
    let who = who();
    let all = futures_util::future::join_all((0..50).map(|_| fixture.cas.ensure(&who, &blobs, &|_, _| {})));
    assert!(fixture.run(all).iter().all(Result::is_ok));
    assert_eq!(fixture.cas.uploads().blobs, 21);
    assert_eq!(fixture.count("Write").calls, 1);
    assert!(fixture.count("FindMissingBlobs").calls <= 4, "questions go together");
    let sent = fixture.count("BatchUpdateBlobs").bytes_in + fixture.count("Write").bytes_in;
    assert_eq!(sent, 20_000 + 2 * MIB as u64);
}

#[test]
fn a_caller_that_goes_away_does_not_take_the_upload_with_it() {
    let fixture = with_faults("[[fault]]\nkind = 'latency'\nmethod = 'Write'\nms = 50");
    let big = [blob(&noise(2 * MIB, 5))];
    let who = who();
    fixture.run(async {
        let mut leader = Box::pin(fixture.cas.ensure(&who, &big, &|_, _| {}));
        // Polled until its upload is under way, then dropped.
        while fixture.count("Write").calls == 0 {
            tokio::select! {
                biased;
                _ = &mut leader => break,
                () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {}
            }
        }
        let follower = fixture.cas.ensure(&who, &big, &|_, _| {});
        let mut follower = Box::pin(follower);
        tokio::select! {
            biased;
            _ = &mut follower => panic!("nothing is sent yet"),
            () = std::future::ready(()) => {}
        }
        drop(leader);
        follower.await.expect("sent");
    });
    assert_eq!(fixture.read(big[0].digest).expect("is there").len(), 2 * MIB);
}

#[test]
fn the_limit_of_a_batch_is_obeyed() {
    let fixture = with_faults("[server]\nbatch_limit = 65536");
    let sizes = [65_536, 65_000, 65_376, 65_377, 40_000, 40_000, 100];
    let blobs: Vec<Blob> = sizes.iter().enumerate().map(|(n, size)| blob(&noise(*size, n as u64))).collect();
    fixture.ensure(&blobs).expect("sent");
    assert_eq!(fixture.count("Write").calls, 2, "those for which no batch has room");
    for blob in &blobs {
        assert!(fixture.read(blob.digest).is_ok());
    }
}

#[test]
fn large_blobs_are_compressed_where_both_want_it() {
    let text = b"the same again and again ".repeat(MIB / 5);
    for (faults, compression, packed) in
        [("", true, true), ("", false, false), ("[server]\nno_zstd = true", true, false)]
    {
        let fixture = Fixture::new(faults, |config| config.compression = compression);
        let digest = fixture.put(&text);
        assert_eq!(fixture.count("Write").bytes_in < MIB as u64, packed, "{faults}");
        assert_eq!(fixture.read(digest).expect("is there"), text);
        assert_eq!(fixture.download(digest).expect("is there"), text);
        assert_eq!(fixture.count("Read").bytes_out < MIB as u64, packed, "{faults}");
    }
}

#[test]
fn blake3_is_spoken() {
    let f = DigestFunction::Blake3;
    let fixture = Fixture::new("[server]\ndigest_function = 'blake3'", |config| config.function = f);
    for size in [10, 3 * MIB] {
        let bytes = noise(size, 1);
        let blob = Blob { digest: f.digest(&bytes), source: BlobSource::Bytes(bytes.clone().into()) };
        fixture.ensure(std::slice::from_ref(&blob)).expect("sent");
        assert_eq!(fixture.read(blob.digest).expect("is there"), bytes);
        assert_eq!(fixture.download(blob.digest).expect("is there"), bytes);
    }
}

#[test]
fn a_wrong_blob_fails_alone() {
    let fixture = server();
    // The caller is wrong about this one: same size, other hash.
    let wrong = Blob { digest: F.digest(b"aa"), source: BlobSource::Bytes(b"bb"[..].into()) };
    let blobs = [blob(b"x"), wrong.clone(), blob(b"y")];
    let error = fixture.ensure(&blobs).expect_err("one is wrong");
    assert!(matches!(&error, EnsureError::Call(e) if e.code == tonic::Code::InvalidArgument), "{error:?}");
    assert!(fixture.cas.has_recently(&blobs[0].digest) && fixture.cas.has_recently(&blobs[2].digest));
    assert!(!fixture.cas.has_recently(&wrong.digest));
}

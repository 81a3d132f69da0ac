//! The store on a real directory; what may go when is the index's own test.

use std::fs::{FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::SystemTime;

use super::*;

const F: DigestFunction = DigestFunction::Sha256;

struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

fn store(limit: u64) -> Fixture {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Arc::new(Store::open(&dir.path().join("s"), limit).expect("opens"));
    Fixture { dir, store }
}

fn reopen(fixture: Fixture, limit: u64) -> Fixture {
    let Fixture { dir, store } = fixture;
    drop(store);
    let store = Arc::new(Store::open(&dir.path().join("s"), limit).expect("opens again"));
    Fixture { dir, store }
}

fn file(fixture: &Fixture, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = fixture.dir.path().join(name);
    fs::write(&path, content).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
    path
}

#[test]
fn blobs_are_read_as_they_were_put() {
    let fixture = store(1000);
    let store = &fixture.store;
    let digest = F.digest(b"hello");
    assert_eq!(store.read(F, &digest).expect("no error"), None);
    store.put(F, &digest, b"hello").expect("put");
    store.put(F, &digest, b"hello").expect("again is fine");
    assert_eq!(store.read(F, &digest).expect("no error").as_deref(), Some(&b"hello"[..]));
    assert_eq!(store.read(F, &F.empty()).expect("no error"), Some(Vec::new()));
    assert!(store.open_blob(F, &F.empty()).expect("no error").is_some());
    assert!(matches!(store.put(F, &digest, b"HELLO"), Err(StoreError::Mismatch { .. })));
    let error = store.put_new(F, &[0; 1001]).expect_err("too large");
    assert!(matches!(error, StoreError::Full { size: 1001, limit: 1000 }), "{error}");
    assert_eq!(store.digest_of(F, digest.hash), Some(digest));
    assert_eq!(store.digest_of(F, F.empty().hash), Some(F.empty()));
    assert_eq!(store.usage(), (5, 1));
    store.evict_all();
    assert_eq!((store.usage(), store.has(F, &digest), store.has(F, &F.empty())), ((0, 0), false, true));
}

#[test]
fn a_file_that_vanished_or_shrank_is_forgotten() {
    let fixture = store(1000);
    let store = &fixture.store;
    for damage in [
        |path: &Path| fs::remove_file(path).expect("removed"),
        |path: &Path| {
            fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod");
            fs::write(path, b"h").expect("written");
        },
    ] {
        let digest = store.put_new(F, b"hello").expect("put");
        damage(&store.path(&blob(F, &digest)));
        assert_eq!(store.read(F, &digest).expect("no error"), None);
        assert!(!store.has(F, &digest));
    }
}

#[test]
fn ingests_check_what_they_promise() {
    let fixture = store(1000);
    let store = &fixture.store;
    let ingest = |limit: u64, pieces: &[&[u8]], expected: Option<Digest>| {
        let mut ingest = Ingest::new(store, F, limit)?;
        pieces.iter().try_for_each(|piece| ingest.write(piece))?;
        ingest.finish(expected.as_ref())
    };
    let digest = F.digest(b"hello");
    assert!(matches!(ingest(5, &[b"hel", b"lo!"], Some(digest)), Err(StoreError::TooLong(5))));
    assert!(matches!(ingest(5, &[b"hel"], Some(digest)), Err(StoreError::Mismatch { .. })));
    assert!(matches!(ingest(1001, &[], None), Err(StoreError::Full { .. })));
    assert!(!store.has(F, &digest));
    assert_eq!(ingest(5, &[b"hel", b"", b"lo"], Some(digest)).expect("is right"), digest);
    assert_eq!(ingest(9, &[b"any"], None).expect("anything"), F.digest(b"any"));
    assert_eq!(ingest(0, &[], Some(F.empty())).expect("empty"), F.empty());
    assert_eq!(fs::read_dir(fixture.dir.path().join("s/tmp")).expect("lists").count(), 0, "nothing is left");
}

#[test]
fn adopted_files_are_linked_where_that_harms_nobody() {
    let fixture = store(1000);
    let store = &fixture.store;
    let own = file(&fixture, "own", "one name", 0o755);
    let digest = store.adopt(&own, F).expect("adopted");
    assert_eq!(digest, F.digest(b"one name"));
    let kept = fs::metadata(store.path(&blob(F, &digest))).expect("kept");
    assert_eq!(kept.ino(), fs::metadata(&own).expect("still there").ino());
    assert_eq!(kept.mode() & 0o7777, 0o444);
    let shared = file(&fixture, "shared", "two names", 0o644);
    rustix::fs::link(&shared, fixture.dir.path().join("other")).expect("linked");
    let digest = store.adopt(&shared, F).expect("adopted");
    let kept = fs::metadata(store.path(&blob(F, &digest))).expect("kept");
    let there = fs::metadata(&shared).expect("still there");
    assert_ne!(kept.ino(), there.ino());
    assert_eq!(there.mode() & 0o7777, 0o644, "somebody else's file is left alone");
    assert!(store.adopt(&fixture.dir.path().join("missing"), F).is_err());
}

#[test]
fn variants_and_whether_they_were_changed() {
    let fixture = store(1000);
    let store = &fixture.store;
    let digest = store.put_new(F, b"#!/bin/sh").expect("put");
    for (executable, mode) in [(false, 0o444), (true, 0o555)] {
        let path = store.variant(F, &digest, executable).expect("no error").expect("is there");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, mode);
        assert_eq!(store.variant(F, &digest, executable).expect("no error"), Some(path.clone()));
        assert!(store.is_intact(F, &digest, executable));
        // The same content and mode again, yet somebody wrote.
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        assert!(!store.is_intact(F, &digest, executable), "the mode");
        fs::write(&path, b"#!/bin/sh").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        assert!(!store.is_intact(F, &digest, executable), "the time");
    }
    assert_eq!(store.usage(), (18, 1), "both count");
    store.drop_blob(F, &digest);
    assert_eq!(store.usage(), (0, 0));
    assert_eq!(store.variant(F, &digest, true).expect("no error"), None);
    let left = walkdir::WalkDir::new(fixture.dir.path().join("s/cas")).into_iter().flatten();
    assert_eq!(left.filter(|entry| entry.file_type().is_file()).count(), 0);
}

#[test]
fn pins_hold_as_long_as_they_live() {
    let fixture = store(20);
    let store = &fixture.store;
    let (first, second) =
        (store.put_new(F, b"0123456789").expect("put"), store.put_new(F, b"abcdefghij").expect("put"));
    let mut pins = store.pins();
    let other = F.digest(b"x");
    assert_eq!(store.pin(F, [&first, &other, &F.empty()].into_iter(), &mut pins), [other]);
    store.put_new(F, b"ABCDEFGHIJ").expect("the other one goes");
    assert!(store.has(F, &first) && !store.has(F, &second));
    assert!(matches!(store.put_new(F, b"0123456789A"), Err(StoreError::Full { .. })));
    drop(pins);
    store.put_new(F, b"0123456789A").expect("now it goes");
}

#[test]
fn a_store_opened_again_has_what_fits_and_is_whole() {
    let fixture = store(1000);
    let blobs: Vec<Digest> = (0..4).map(|n| fixture.store.put_new(F, &[n; 100]).expect("put")).collect();
    fixture.store.variant(F, &blobs[0], true).expect("no error").expect("is there");
    let key = Key { space: Space::Results, function: F, hash: [7; 32] };
    fixture.store.put_result(&key, b"result").expect("put");
    let paths: Vec<PathBuf> = blobs.iter().map(|digest| fixture.store.path(&blob(F, digest))).collect();
    // The first was used last.
    for (path, second) in paths.iter().zip([400, 100, 200, 300]) {
        let times = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        File::open(path).and_then(|file| file.set_times(times)).expect("set");
    }
    fs::write(fixture.dir.path().join("s/tmp/left"), b"x").expect("written");
    fs::write(fixture.dir.path().join("s/cas/sha256/stray"), b"x").expect("written");
    let fixture = reopen(fixture, 1000);
    assert_eq!(fixture.store.usage(), (506, 5));
    assert_eq!(fixture.store.read_result(&key).expect("no error").as_deref(), Some(&b"result"[..]));
    let fixture = reopen(fixture, 310);
    let there: Vec<bool> = blobs.iter().map(|digest| fixture.store.has(F, digest)).collect();
    assert!(there[0] && !there[1], "{there:?}");
    assert!(fixture.store.usage().0 <= 410, "{:?}", fixture.store.usage());
    fs::write(&paths[0], b"changed").expect("root may write");
    let fixture = reopen(fixture, 1000);
    assert!(!fixture.store.has(F, &blobs[0]));
}

#[test]
fn a_directory_has_one_server() {
    let fixture = store(1000);
    let error = Store::open(&fixture.dir.path().join("s"), 1000).err().expect("refused");
    assert!(error.to_string().contains("another server"), "{error}");
    let path = fixture.dir.path().join("s");
    let next = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Store::open(&path, 1000));
        drop(fixture.store);
        waiting.join().expect("no panic")
    });
    assert!(next.is_ok(), "who waits a little gets it");
}

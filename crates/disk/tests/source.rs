//! The source tree as the loader sees it, and what is remembered of the looks.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use minibuild_core::{DigestFunction, EntryKind, SourceFs};
use minibuild_disk::{Answer, DiskFs, FsInstant, NameSet};

const NOW: FsInstant = FsInstant::of_all_devices(i64::MAX, Duration::from_millis(20));

fn fixture() -> (tempfile::TempDir, DiskFs) {
    let dir = tempfile::tempdir().expect("temp dir");
    let at = |name: &str| dir.path().join(name);
    for name in ["a/b/c", "a-b", "skip/deep", "empty"] {
        fs::create_dir_all(at(name)).expect("mkdir");
    }
    for name in ["BUILD.toml", "a/BUILD.toml", "a/b/f", "a-b/g", "skip/deep/h"] {
        fs::write(at(name), name).expect("write");
    }
    symlink("a", at("link")).expect("symlink");
    symlink("nowhere", at("dangling")).expect("symlink");
    fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").expect("write");
    let source = DiskFs::new(dir.path(), NOW);
    (dir, source)
}

fn names(entries: &[minibuild_core::DirEntry]) -> Vec<String> {
    let show = |entry: &minibuild_core::DirEntry| match &entry.name {
        Ok(name) => format!("{name} {:?}", entry.kind),
        Err(lossy) => format!("!{lossy} {:?}", entry.kind),
    };
    entries.iter().map(show).collect()
}

#[test]
fn answers_are_those_of_the_disk() {
    let (dir, source) = fixture();
    assert_eq!(source.read("a/BUILD.toml").expect("read"), b"a/BUILD.toml");
    assert_eq!(source.read(&dir.path().join("a/b/f").display().to_string()).expect("absolute"), b"a/b/f");
    assert_eq!(source.read("missing").map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    assert_eq!(source.read("a").map_err(|e| e.kind()), Err(ErrorKind::IsADirectory));
    let kinds = || {
        ["", "a", "BUILD.toml", "link", "dangling", "missing", "missing/x", "BUILD.toml/x", "a/b/f"]
            .map(|path| source.kind(path).expect("no error"))
    };
    nix::unistd::mkfifo(&dir.path().join("empty/pipe"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    assert_eq!(source.read("empty/pipe").map_err(|e| e.kind()), Err(ErrorKind::InvalidInput));
    use EntryKind::{Directory, File, Symlink};
    let expected =
        [Some(Directory), Some(Directory), Some(File), Some(Symlink), Some(Symlink), None, None, None, Some(File)];
    assert_eq!(kinds(), expected);
    let behind = ["", "a", "link", "dangling", "BUILD.toml", "missing"].map(|path| source.kind_behind(path));
    assert_eq!(behind, [Some(Directory), Some(Directory), Some(Directory), None, Some(File), None]);
    let listed = names(&source.list_dir("").expect("listed"));
    let expected = [
        "BUILD.toml File",
        "a Directory",
        "a-b Directory",
        "!bad\u{fffd} File",
        "dangling Symlink",
        "empty Directory",
        "link Symlink",
        "skip Directory",
    ];
    assert_eq!(listed, expected);
    assert_eq!(source.list_dir("missing").map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    assert_eq!(source.list_dir("BUILD.toml").map_err(|e| e.kind()), Err(ErrorKind::NotADirectory));
}

#[test]
fn answers_do_not_change_within_one_load() {
    let (dir, source) = fixture();
    let ask = || {
        let listed = source.list_dir("a").map(|entries| names(&entries)).map_err(|e| e.kind());
        let read = ["BUILD.toml", "missing"].map(|path| source.read(path).map_err(|e| e.kind()));
        let kinds = ["a/b", "missing", "a/new"].map(|path| source.kind(path).expect("no error"));
        let walked: Vec<String> =
            source.walk("", &[], "barrier", &|_| true).into_iter().map(|(path, _)| path).collect();
        (listed, read, kinds, walked.len(), source.kind_behind("a/b"))
    };
    let before = ask();
    fs::write(dir.path().join("BUILD.toml"), "other").expect("write");
    fs::write(dir.path().join("missing"), "here now").expect("write");
    fs::write(dir.path().join("a/new"), "here now").expect("write");
    assert_eq!(ask(), before);
}

#[test]
fn a_walk_enters_what_it_may_and_gives_what_was_asked_for() {
    let (_dir, source) = fixture();
    let walked = source.walk("", &["BUILD.toml", "f"], "barrier", &|path| path != "skip");
    let shown: Vec<(&str, Vec<String>)> =
        walked.iter().map(|(path, listing)| (&**path, names(listing.as_ref().expect("readable")))).collect();
    let top = ["BUILD.toml File", "a Directory", "a-b Directory", "empty Directory", "skip Directory"];
    let expected: [(&str, &[&str]); 6] = [
        ("", &top),
        ("a", &["BUILD.toml File", "b Directory"]),
        ("a-b", &[]),
        ("a/b", &["c Directory", "f File"]),
        ("a/b/c", &[]),
        ("empty", &[]),
    ];
    assert_eq!(shown, expected.map(|(path, names)| (path, names.iter().map(|&name| name.to_owned()).collect())));
    // The whole listing is known as well.
    let fresh = DiskFs::new(_dir.path(), NOW);
    for (path, _) in &walked {
        assert_eq!(
            names(&source.list_dir(path).expect("known")),
            names(&fresh.list_dir(path).expect("listed")),
            "{path}"
        );
    }
    let below: Vec<String> = source.walk("a/b", &[], "barrier", &|_| true).into_iter().map(|(path, _)| path).collect();
    assert_eq!(below, ["a/b", "a/b/c"]);
    assert!(source.walk("a", &[], "barrier", &|_| false).is_empty());
    let missing = source.walk("missing", &[], "barrier", &|_| true);
    assert!(missing.len() == 1 && missing[0].1.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound), "{missing:?}");
    let file = source.walk("BUILD.toml", &[], "barrier", &|_| true);
    assert!(file.len() == 1 && file[0].1.is_err(), "{file:?}");
}

#[test]
fn a_walk_leaves_out_what_lies_behind_a_barrier() {
    let (dir, _) = fixture();
    let barrier = dir.path().join("a/b/stop");
    let walk = |source: &DiskFs| -> Vec<String> {
        source.walk("a", &["f"], "stop", &|_| true).into_iter().map(|(path, _)| path).collect()
    };
    let is_same = |before: &DiskFs| {
        let again = DiskFs::new(dir.path(), NOW);
        before.looks().iter().all(|look| again.ask_again(look).is_some())
    };
    let open = DiskFs::new(dir.path(), NOW);
    assert_eq!(walk(&open), ["a", "a/b", "a/b/c"]);
    assert!(is_same(&open));
    symlink("nowhere", &barrier).expect("symlink");
    assert!(!is_same(&open), "a barrier that comes is noticed");
    let barred = DiskFs::new(dir.path(), NOW);
    assert_eq!(walk(&barred), ["a"]);
    fs::write(dir.path().join("a/b/c/new"), "").expect("write");
    assert!(is_same(&barred), "what lies behind it counts for nothing");
    fs::remove_file(&barrier).expect("rm");
    assert!(!is_same(&barred), "a barrier that goes is noticed");
    fs::create_dir(&barrier).expect("mkdir");
    let start: Vec<String> =
        DiskFs::new(dir.path(), NOW).walk("a/b", &[], "f", &|_| true).into_iter().map(|(path, _)| path).collect();
    assert_eq!(start, ["a/b", "a/b/c", "a/b/stop"], "neither the start nor a directory of that name bars");
}

#[test]
fn a_directory_whose_name_is_not_utf_8_is_given_only_if_what_is_asked_for_lies_below() {
    let (dir, _) = fixture();
    let bad = dir.path().join(std::ffi::OsStr::from_bytes(b"a/caf\xff"));
    fs::create_dir_all(bad.join("deep")).expect("mkdir");
    let walk = |accept: bool| {
        let source = DiskFs::new(dir.path(), NOW);
        let found = source.walk("a", &["f"], "stop", &|path| accept || !path.contains('\u{fffd}'));
        let failed = found.into_iter().find_map(|(path, listing)| Some((path, listing.err()?.to_string())));
        (failed, source.looks().iter().any(|look| look.answer == Answer::Refused))
    };
    assert_eq!(walk(true), (None, true), "it cannot be asked again");
    fs::write(bad.join("deep/f"), "").expect("write");
    let error = "its name is not UTF-8, and there is a `f` at or below it".to_owned();
    assert_eq!(walk(true), (Some(("a/caf\u{fffd}".to_owned(), error)), true));
    assert_eq!(walk(false), (None, false));
}

#[test]
fn of_a_listing_only_what_was_asked_for_has_to_stay() {
    let check = |change: &dyn Fn(&std::path::Path), stays: [bool; 3]| {
        let (dir, walked) = fixture();
        let listed = DiskFs::new(dir.path(), NOW);
        let asked = DiskFs::new(dir.path(), NOW);
        for fs in [&walked, &asked] {
            fs.walk("a", &["BUILD.toml"], "barrier", &|_| true);
        }
        let _ = (asked.kind("a/f"), asked.kind("a/new.o/BUILD.toml"), asked.kind_behind("a/dir"), listed.list_dir("a"));
        change(&dir.path().join("a"));
        for (fs, stays) in [walked, asked, listed].into_iter().zip(stays) {
            let look = fs.looks().into_iter().find(|look| look.path == "a").expect("walked");
            let again = DiskFs::new(dir.path(), NOW).ask_again(&look);
            assert_eq!(again.is_some(), stays, "{look:?}");
            // And from then on it is as good as the first.
            if let Some(again) = again {
                assert_eq!(DiskFs::new(dir.path(), NOW).ask_again(&again).as_ref(), Some(&again));
            }
        }
    };
    let write = |name: &'static str| move |a: &std::path::Path| fs::write(a.join(name), "x").expect("write");
    check(&|_| {}, [true, true, true]);
    check(&write(".f.swp"), [true, true, false]);
    check(&write("f"), [true, false, false]);
    check(&write("new.o"), [true, false, false]);
    check(&write("dir"), [true, false, false]);
    check(&|a| fs::create_dir(a.join("more")).expect("mkdir"), [false, false, false]);
    check(&|a| fs::remove_file(a.join("BUILD.toml")).expect("rm"), [false, false, false]);
    check(&|a| fs::remove_dir_all(a).expect("rm"), [false, false, false]);
}

#[test]
fn every_look_is_remembered_absent_ones_too() {
    let (_dir, source) = fixture();
    let _ = (source.read("BUILD.toml"), source.read("no"), source.kind("a/BUILD.toml"), source.kind("gone/x"));
    let _ = (source.kind_behind("link"), source.list_dir("a/b"), source.kind("a/b/f"), source.list_dir("none"));
    let looks = source.looks();
    let shown: Vec<String> = looks
        .iter()
        .map(|look| {
            let what = match &look.answer {
                Answer::Content(digest, stamp) => {
                    assert!(stamp.trusted);
                    assert_eq!(*digest, DigestFunction::Blake3.digest(look.path.as_bytes()));
                    "content".to_owned()
                }
                Answer::Listing(digest, stamp) => {
                    assert!(stamp.trusted);
                    assert_eq!(*digest, minibuild_disk::listing_digest(&source.list_dir(&look.path).expect("known")));
                    "listing".to_owned()
                }
                other => format!("{other:?}"),
            };
            format!("{}: {what}", look.path)
        })
        .collect();
    let expected = [
        "BUILD.toml: content",
        "a/BUILD.toml: Kind(File)",
        "a/b: listing",
        "gone/x: Absent",
        "link: Behind(Some(Directory))",
        "no: Absent",
        "none: Absent",
    ];
    assert_eq!(shown, expected, "`a/b/f` is part of the listing of `a/b`");
}

#[test]
fn what_a_listing_rules_out_is_not_looked_at() {
    let (dir, source) = fixture();
    let _ = (source.list_dir(""), source.list_dir("a"));
    let known = ["none/BUILD.toml", "none/of/it", "BUILD.toml/x", "a/new.o/BUILD.toml", "a/BUILD.toml/x/y"];
    let asked = ["a/b/f", "a/b/none", "link/BUILD.toml", "link/b/f", "dangling/x", "skip/deep/h"];
    let expected = known.map(|path| dir.path().join(path).exists());
    assert_eq!(known.map(|path| source.kind(path).expect("no error").is_some()), expected);
    let expected = asked.map(|path| dir.path().join(path).exists());
    assert_eq!(asked.map(|path| source.kind(path).expect("no error").is_some()), expected);
    let mut looks: Vec<String> = source.looks().into_iter().map(|look| look.path).collect();
    looks.retain(|path| !["", "a"].contains(&path.as_str()));
    let mut asked = asked.map(str::to_owned);
    asked.sort();
    assert_eq!(looks, asked);
}

#[test]
fn listing_digests_tell_names_and_kinds() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut seen = std::collections::HashSet::new();
    let mut look = || {
        let source = DiskFs::new(dir.path(), NOW);
        let listing = source.list_dir("").expect("listed");
        assert!(seen.insert(minibuild_disk::listing_digest(&listing)), "{listing:?}");
    };
    look();
    fs::write(dir.path().join("a"), "x").expect("write");
    look();
    fs::remove_file(dir.path().join("a")).expect("rm");
    fs::create_dir(dir.path().join("a")).expect("mkdir");
    look();
    fs::write(dir.path().join("b"), "x").expect("write");
    look();
    fs::rename(dir.path().join("b"), dir.path().join("c")).expect("mv");
    look();
}

#[test]
fn threads_get_one_answer() {
    let (dir, source) = fixture();
    let answers: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let ask = |number: usize| {
            fs::write(dir.path().join("changing"), number.to_string()).expect("write");
            source.read("changing").expect("read")
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || ask(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[test]
fn name_set_of_many_names_contains_no_other_name() {
    let outputs = |numbers: std::ops::Range<u32>| numbers.map(|number| format!("minibuild-out/bin/p/out{number}.o"));
    let kept: Vec<String> = outputs(0..200_000).collect();
    let names = NameSet::of(kept.iter().map(String::as_str));
    assert!(kept.iter().all(|name| names.contains(name)));
    let mistaken: Vec<String> = outputs(200_000..400_000).filter(|name| names.contains(name)).collect();
    assert_eq!(mistaken, Vec::<String>::new());
}

//! Both ways of staging a file: without a name, and with one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::*;

/// A clock by which nothing is old enough to be trusted.
struct Stopped;

impl FileClock for Stopped {
    fn now(&self) -> Result<FsInstant, DiskError> {
        Ok(FsInstant::of_all_devices(0, std::time::Duration::ZERO))
    }
}

/// A tree in which files are staged with or without names.
fn tree(is_unnamed: bool) -> (tempfile::TempDir, OutTree) {
    let dir = tempfile::tempdir().expect("temp dir");
    let tree = OutTree::open(dir.path()).expect("opens");
    tree.staging().has_unnamed.set(is_unnamed).expect("not tried yet");
    (dir, tree)
}

fn file(tree: &OutTree, text: &str) -> Staged {
    let staged = tree.stage_unnamed_file().expect("stages");
    staged.file().write_all(text.as_bytes()).expect("writes");
    staged.finish(false).expect("finishes")
}

fn staged_names(dir: &tempfile::TempDir) -> usize {
    fs::read_dir(dir.path().join("minibuild-out/.state/staging")).expect("lists").count()
}

/// Whether the temporary directory is on a file system with files that have no name, as all common local ones are.
fn can_be_unnamed() -> bool {
    let dir = tempfile::tempdir().expect("temp dir");
    let tree = OutTree::open(dir.path()).expect("opens");
    tree.staging().unnamed().is_some()
}

/// Both ways of staging, as far as they are to be had.
fn ways() -> Vec<bool> {
    if can_be_unnamed() { vec![true, false] } else { vec![false] }
}

#[test]
fn either_way_replaces_whatever_lies_at_the_place() {
    type Before = fn(&Path);
    let before: [Before; 6] = [
        |_| {},
        |p| fs::write(p, "old").expect("writes"),
        |p| symlink("nowhere", p).expect("links"),
        |p| fs::create_dir_all(p.join("a/b")).expect("makes"),
        |p| fs::set_permissions(p.parent().expect("one"), fs::Permissions::from_mode(0o555)).expect("chmod"),
        |p| {
            fs::create_dir_all(p.join("a")).expect("makes");
            fs::set_permissions(p, fs::Permissions::from_mode(0o555)).expect("chmod");
        },
    ];
    for is_unnamed in ways() {
        for prepare in before {
            let (dir, tree) = tree(is_unnamed);
            let place = dir.path().join("minibuild-out/bin/p/out");
            fs::create_dir_all(place.parent().expect("one")).expect("makes");
            prepare(&place);
            let path = WsPath::new("minibuild-out/bin/p/out").expect("a path");
            tree.publish(file(&tree, "new"), &path, None, &Stopped).expect("publishes");
            assert_eq!(fs::read_to_string(&place).expect("is there"), "new");
            assert_eq!(staged_names(&dir), 0);
        }
    }
}

#[test]
fn files_of_a_killed_build_have_no_name_to_be_found_under() {
    for is_unnamed in ways() {
        let (dir, tree) = tree(is_unnamed);
        std::mem::forget(file(&tree, "complete"));
        std::mem::forget(tree.stage_unnamed_file().expect("stages"));
        assert_eq!(staged_names(&dir), if is_unnamed { 0 } else { 2 });
        tree.sweep_staging().expect("sweeps");
        assert_eq!(staged_names(&dir), 0);
    }
}

#[test]
fn a_file_that_waits_has_a_name_and_loses_it_with_its_owner() {
    for is_unnamed in ways() {
        let (dir, tree) = tree(is_unnamed);
        let waiting = file(&tree, "x").named().expect("named");
        assert_eq!(staged_names(&dir), 1);
        drop(waiting);
        assert_eq!(staged_names(&dir), 0);
        let path = WsPath::new("minibuild-out/bin/out").expect("a path");
        let waiting = file(&tree, "y").named().expect("named");
        tree.publish(waiting, &path, None, &Stopped).expect("publishes");
        assert_eq!(fs::read_to_string(dir.path().join(path.as_path())).expect("is there"), "y");
    }
}

#[test]
fn a_store_gets_the_file_over_the_one_it_has() {
    for is_unnamed in ways() {
        let (dir, tree) = tree(is_unnamed);
        let store = File::open(dir.path()).expect("opens");
        for text in ["first", "second"] {
            file(&tree, text).move_to(store.as_fd(), "blob").expect("moves");
            assert_eq!(fs::read_to_string(dir.path().join("blob")).expect("is there"), text);
            assert_eq!(staged_names(&dir), 0);
        }
    }
}

#[test]
fn unnamed_files_are_used_where_they_can_be() {
    let (dir, tree) = (tempfile::tempdir().expect("temp dir"), Path::new("minibuild-out/.state/staging"));
    let opened = OutTree::open(dir.path()).expect("opens");
    let staged = opened.stage_unnamed_file().expect("stages");
    let is_unnamed = matches!(staged.place, Place::Unnamed(_));
    assert_eq!(is_unnamed, can_be_unnamed());
    assert_eq!(fs::read_dir(dir.path().join(tree)).expect("lists").count(), usize::from(!is_unnamed));
}

#[test]
fn entries_that_cannot_be_moved_away_are_removed_in_place() {
    let (dir, trash) = (tempfile::tempdir().expect("temp dir"), "minibuild-out/.state/trash");
    let opened = OutTree::open(dir.path()).expect("opens");
    let staging = dir.path().join("minibuild-out/.state/staging");
    fs::create_dir_all(staging.join("left/below")).expect("makes");
    fs::write(staging.join("file"), "").expect("writes");
    // Nothing can be moved to a directory that is gone.
    fs::remove_dir(dir.path().join(trash)).expect("removes");
    opened.sweep_staging().expect("sweeps");
    assert_eq!(fs::read_dir(staging).expect("lists").count(), 0);
}

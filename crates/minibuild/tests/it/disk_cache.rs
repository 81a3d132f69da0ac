//! The disk cache: results that workspaces share.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use minibuild_testkit::{Run, Workspace};

use crate::{genrule, test, with_targets, workspace};

fn targets() -> String {
    genrule("mid", &["in"], &["mid", "none"], "cat $SRC > $OUT; : > ${OUT%mid}none; echo made")
        + &genrule("top", &[":mid"], &["top"], "(echo '#!/bin/cat'; cat $SRCS) > $OUT; chmod +x $OUT")
        + "[[genrule]]\nname = \"tree\"\nsrcs = [\"in\"]\nout_dirs = [\"t\"]\n"
        + "cmd = \"mkdir -p $OUT_DIR/d/e; cp $SRC $OUT_DIR/d/f; ln -s d/f $OUT_DIR/l\"\n"
        + "[[genrule]]\nname = \"link\"\nsrcs = [\"in\"]\nout_symlinks = [\"link\"]\ncmd = \"ln -s $(cat $SRC) minibuild-out/bin/link\"\n"
}

fn worktree() -> Workspace {
    with_targets(&targets()).file("in", "1\n")
}

/// Asserts that a build went well and ran nothing but took so many results from the cache.
#[track_caller]
fn took(run: Run, hits: u64) -> Run {
    let run = run.ok();
    assert_eq!((run.counts().disk_cache, run.counts().local), (hits, 0));
    run
}

/// A cache that outlives the workspaces of a test.
struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("makes a directory"))
    }

    fn flag(&self) -> String {
        format!("--disk-cache={}", self.0.path().display())
    }

    fn build(&self, ws: &Workspace, args: &[&str]) -> Run {
        ws.build(&[&[&*self.flag()], args, &["//..."]].concat())
    }

    fn files(&self, below: &str) -> Vec<PathBuf> {
        walk(&self.0.path().join(below))
    }

    /// Bytes of all files.
    fn bytes(&self) -> u64 {
        self.files("").iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum()
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        found.extend(if path.is_dir() { walk(&path) } else { vec![path] });
    }
    found
}

#[test]
fn users_share_a_cache_that_lets_them() {
    for mode in [0o777, 0o1777] {
        let cache = Cache::new();
        fs::set_permissions(cache.0.path(), fs::Permissions::from_mode(mode)).expect("sets mode");
        let (first, second) = (worktree(), worktree());
        if !first.become_user(65_534) || !second.become_user(65_533) {
            return;
        }
        let build = |ws: &Workspace| cache.build(ws, &["--disk-cache-size=1GiB"]).says_nothing_of("WARNING");
        build(&first).ok();
        took(build(&second), 4);
        // And the other way round, of what the second made.
        second.write("in", "2\n");
        build(&second).ok();
        first.write("in", "2\n");
        took(build(&first), 4);
    }
}

#[test]
fn a_second_worktree_runs_nothing() {
    let cache = Cache::new();
    let (first, second) = (worktree(), worktree());
    let run = cache.build(&first, &[]).ok();
    assert_eq!(run.counts().local, 4);
    let run = took(cache.build(&second, &[]), 4).says(&["4 disk cache hit", "made"]);
    assert_eq!((run.counts().total, run.downloads().files, run.downloads().files_copied), (4, 0, 4));
    assert_eq!(second.outputs(), first.outputs());
    cache.build(&second, &[]).ok_without_running().from_snapshot();
    // Without the cache it is the same.
    let run = second.build(&["//..."]).ok_without_running();
    assert_eq!(run.counts().up_to_date, 4);
    // A change runs what it has to, and is there for the other one.
    second.write("in", "2\n");
    assert_eq!(cache.build(&second, &[]).ok().counts().local, 4);
    first.write("in", "2\n");
    took(cache.build(&first, &[]), 4);
    assert_eq!(first.outputs(), second.outputs());
}

#[test]
fn what_is_only_in_the_cache_is_brought_when_it_is_needed() {
    let cache = Cache::new();
    let (first, second) = (worktree(), worktree());
    cache.build(&first, &[]).ok();
    let flag = cache.flag();
    took(second.build(&[&flag, "//:top"]), 2);
    assert!(!second.has_output("mid"), "nobody needs it");
    second.write("BUILD.toml", targets().replace("#!/bin/cat", "#!/bin/less"));
    second.build(&[&flag, "//:top"]).ok().started_only(&["//:top"]);
    assert_eq!((second.output("mid"), second.output("top")), ("1\n".to_owned(), "#!/bin/less\n1\n".to_owned()));
    second.run(&["clean"]).ok();
    second.build(&[&flag, "//:top"]).ok_without_running();
    took(second.build(&[&flag, "--download=all", "//..."]), 2);
    assert!(second.has_output("mid"));
}

#[test]
fn what_is_damaged_or_gone_is_a_miss() {
    type Damage = fn(&Path);
    let remove: Damage = |path| fs::remove_file(path).expect("removes");
    let cut: Damage = |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changes");
        fs::write(path, "").expect("writes");
    };
    let change: Damage = |path| {
        let mut bytes = fs::read(path).expect("reads");
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changes");
        fs::write(path, bytes).expect("writes");
    };
    for below in ["cas", "ac"] {
        for damage in [remove, cut, change] {
            let cache = Cache::new();
            let (first, second, third) = (worktree(), worktree(), worktree());
            cache.build(&first, &[]).ok();
            cache.files(below).iter().for_each(|path| damage(path));
            cache.build(&second, &[]).ok();
            assert_eq!(second.outputs(), first.outputs());
            cache.build(&second, &[]).ok_without_running();
            // What was run is stored anew.
            cache.build(&third, &[]).ok();
            assert_eq!(third.outputs(), first.outputs());
        }
    }
}

#[test]
fn nothing_is_stored_or_taken_that_should_not_be() {
    let cache = Cache::new();
    let targets = genrule("untold", &["in"], &["u"], "cat $SRC > $OUT").replace("srcs", "tags = [\"no-cache\"]\nsrcs")
        + &genrule("fails", &["in"], &["f"], "cat $SRC > $OUT; exit 3")
        + &genrule("leaves", &["in"], &["l"], "cat $SRC > $OUT; sleep 1000 >/dev/null 2>&1 &")
        + &genrule("good", &["in"], &["g"], "cat $SRC > $OUT");
    let (first, second) = (with_targets(&targets).file("in", "1\n"), with_targets(&targets).file("in", "1\n"));
    cache.build(&first, &["-k"]).code(1);
    let run = cache.build(&second, &["-k"]).code(1);
    assert_eq!((run.counts().disk_cache, run.counts().local), (1, 2), "{:?}", run.ran());
    first.nothing_is_left_running();
    second.nothing_is_left_running();
}

#[test]
fn a_test_that_passed_elsewhere_is_not_run() {
    let cache = Cache::new();
    let tests = || with_targets(&test("t", &["in"], "echo checked; grep -q 1 in")).file("in", "1\n");
    let (first, second) = (tests(), tests());
    let flag = cache.flag();
    first.test(&[&flag, "//:t"]).ok();
    took(second.test(&[&flag, "//:t"]), 1);
    assert_eq!(second.read("minibuild-out/testlogs/t/test.log"), "checked\n");
    let run = second.test(&[&flag, "--no-cache-tests", "//:t"]).ok();
    assert_eq!(run.ran(), ["//:t"]);
}

#[test]
fn one_that_cannot_be_used_costs_a_warning() {
    let ws = worktree().file("cache", "a file\n");
    let run = ws.build(&["--disk-cache=cache", "//..."]).ok();
    let warnings = run.messages("warning");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("the disk cache `") && warnings[0].contains("cannot be used"), "{warnings:?}");
    assert_eq!(run.counts().local, 4);
    ws.build(&["--disk-cache=none", "//..."]).ok_without_running().says_nothing_of("disk cache `");
}

#[test]
fn it_is_opened_by_nobody_who_has_nothing_to_do() {
    let ws = worktree();
    ws.build(&["//..."]).ok();
    ws.build(&["--disk-cache=cache", "//..."]).ok_without_running().from_snapshot();
    assert!(!ws.path("cache").exists());
}

#[test]
fn a_killed_build_leaves_nothing_that_harms() {
    let cache = Cache::new();
    let ws = workspace();
    let mut gate = ws.gate("go");
    let blocked = genrule("last", &[":top"], &["last"], &format!("{}; cat $SRC > $OUT", gate.pass()));
    ws.write("BUILD.toml", targets() + &blocked);
    ws.write("in", "1\n");
    let flag = cache.flag();
    let run = ws.start_build(&[&flag, "--disk-cache-size=1MiB", "//..."]);
    gate.arrival();
    run.kill();
    gate.open();
    ws.nothing_is_left_running();
    let other = worktree();
    other.write("in", "2\n");
    cache.build(&other, &["--disk-cache-size=1MiB"]).ok();
    assert_eq!(fs::read_dir(cache.0.path().join("tmp")).expect("lists").count(), 0, "its session is deleted");
    let third = worktree();
    third.write("in", "2\n");
    took(cache.build(&third, &[]), 4);
    assert_eq!(third.outputs(), other.outputs());
}

/// Targets of which each makes other bytes, so many times four kilobytes.
fn large(count: usize, blocks: usize) -> String {
    let one = |number: usize| {
        let cmd = format!("i=0; while [ $i -lt {blocks} ]; do printf '%04096d' {number}; i=$((i+1)); done > $OUT");
        genrule(&format!("t{number}"), &["in"], &[&format!("o{number}")], &cmd)
    };
    (0..count).map(one).collect()
}

#[test]
fn the_limit_holds_and_what_is_recent_stays() {
    let cache = Cache::new();
    let targets = large(20, 8);
    let first = with_targets(&targets).file("in", "1\n");
    // Twenty results of 36 KiB, and room for ten.
    let run = cache.build(&first, &["--disk-cache-size=360KiB"]).ok();
    run.says(&["is full of what was used within the hour"]);
    assert!(cache.bytes() <= 360 << 10, "{}", cache.bytes());
    let entries = cache.files("ac").len();
    assert!((9..=10).contains(&entries), "{entries}");
    let second = with_targets(&targets).file("in", "1\n");
    let run = cache.build(&second, &["--disk-cache-size=360KiB"]).ok();
    assert_eq!((run.counts().disk_cache, run.counts().local), (entries as u64, 20 - entries as u64));
    // What was not used for two hours makes room.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
    for path in cache.files("cas").iter().chain(&cache.files("ac")) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changes");
        fs::File::options().write(true).open(path).expect("opens").set_modified(old).expect("sets");
    }
    // A cache known to be full is looked at again after a minute; the account is not needed.
    fs::remove_file(cache.0.path().join("size")).expect("removes");
    first.write("in", "2\n");
    cache.build(&first, &["--disk-cache-size=360KiB"]).ok();
    assert!(cache.bytes() <= 360 << 10, "{}", cache.bytes());
    second.write("in", "2\n");
    let run = cache.build(&second, &["--disk-cache-size=360KiB"]).ok();
    assert!((9..=10).contains(&run.counts().disk_cache), "{:?}", run.counts());
}

#[test]
fn many_builds_at_once_are_right_and_hold_the_limit() {
    let cache = Cache::new();
    let (builds, limit) = (8, 8 * 6 * 36 * 1024 / 2);
    let flag = format!("--disk-cache-size={limit}");
    // Of what each makes half is also made by its neighbour.
    let workspaces: Vec<Workspace> = (0..builds)
        .map(|number| {
            let shared = large(3, 8).replace("'%04096d'", &format!("'%04096d{}'", number / 2));
            let own = large(3, 8).replace("'%04096d'", &format!("'%04096d-{number}'"));
            let own = own.replace("\"t", "\"u").replace("\"o", "\"p");
            with_targets(&(shared + &own)).file("in", "1\n")
        })
        .collect();
    for round in 0..3 {
        let running: Vec<_> = workspaces.iter().map(|ws| ws.start_build(&[&cache.flag(), &flag, "//..."])).collect();
        for run in running {
            run.wait().ok();
        }
        assert!(cache.bytes() <= limit + limit / 10, "round {round}: {} of {limit}", cache.bytes());
        for ws in &workspaces {
            let from_cache = ws.outputs();
            ws.run(&["clean", "--all"]).ok();
            ws.build(&["//..."]).ok();
            assert_eq!(ws.outputs(), from_cache);
            ws.run(&["clean", "--all"]).ok();
        }
    }
    assert_eq!(fs::read_dir(cache.0.path().join("tmp")).expect("lists").count(), 0);
}

#[test]
fn entry_that_was_copied_over_another_is_a_miss() {
    let cache = Cache::new();
    let worktree = |input: &str| with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT")).file("in", input);
    cache.build(&worktree("one\n"), &[]).ok();
    let [one] = &cache.files("ac")[..] else { panic!("one entry") };
    let (one, entry) = (one.clone(), fs::read(one).expect("reads"));
    cache.build(&worktree("two\n"), &[]).ok();
    let two = cache.files("ac").into_iter().find(|path| *path != one).expect("another entry");
    fs::remove_file(&two).expect("removes");
    fs::write(&two, entry).expect("writes");
    let ws = worktree("two\n");
    assert_eq!(cache.build(&ws, &[]).ok().counts().disk_cache, 0);
    assert_eq!(ws.output("a"), "two\n");
}

#[test]
fn lock_that_is_not_let_go_delays_no_build() {
    let cache = Cache::new();
    cache.build(&worktree(), &[]).ok();
    let size = fs::File::open(cache.0.path().join("size")).expect("who may read may lock");
    let lock = nix::fcntl::Flock::lock(size, nix::fcntl::FlockArg::LockExclusive).expect("locks");
    let ws = worktree().file("in", "2\n");
    let run = cache.build(&ws, &[]).ok().says(&["is locked by another process, and not everything is stored"]);
    assert_eq!(run.messages("warning").len(), 1, "{}", run.stderr);
    drop(lock);
    took(cache.build(&worktree(), &[]), 4);
}

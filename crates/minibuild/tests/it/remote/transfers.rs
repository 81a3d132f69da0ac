//! Large downloads that break off, stall, are slow, are given up or die with the build (scenarios T).

use std::os::unix::fs::MetadataExt as _;

use minibuild_server::Listen;
use minibuild_testkit::{Fate, Proxy, Running as Build, Signal, Workspace};

use super::{Remote, chain, downloaded};
use crate::{genrule, with_targets};

pub(super) const SIZE: u64 = 6_000_000;
pub(super) const HALF: u64 = SIZE / 2;

/// What is counted is what a file holds.
const PLAIN: &str = "[server]\nno_zstd = true\n";

/// A server that breaks off, or falls silent in, so many reads after the first half; 0 is all of them.
pub(super) fn stops(kind: &str, times: u32) -> Remote {
    Remote::with(&format!("{PLAIN}[[fault]]\nkind = {kind:?}\nmethod = \"Read\"\nbytes = {HALF}\ntimes = {times}\n"))
}

/// A file that is read as a stream.
fn big() -> String {
    genrule("big", &[], &["big"], &format!("head -c {SIZE} /dev/zero > $OUT"))
}

#[track_caller]
fn is_whole(ws: &Workspace) {
    let bytes = std::fs::read(ws.bin("big")).expect("it is there");
    assert!(bytes.len() as u64 == SIZE && bytes.iter().all(|&byte| byte == 0));
}

/// What is neither there nor forgotten yet.
pub(super) fn staged(ws: &Workspace) -> Vec<u64> {
    let entries = std::fs::read_dir(ws.path("minibuild-out/.state/staging")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.size())).collect()
}

/// Waits until a part of a file came.
#[track_caller]
fn wait_for_a_part(build: &Build, ws: &Workspace) {
    build.wait_until("a part of the file is staged", || staged(ws).iter().any(|&size| size > 0));
}

#[track_caller]
fn nothing_is_half_there(ws: &Workspace) {
    assert!(!ws.has_output("big"));
    assert_eq!(staged(ws), [] as [u64; 0]);
}

#[test]
fn t34_stale_partial_downloads_of_a_killed_build_are_removed_and_never_published() {
    let remote = stops("hang", 0);
    let ws = with_targets(&big());
    let build = remote.start(&ws, &["//..."]);
    wait_for_a_part(&build, &ws);
    build.kill();
    assert!(!ws.has_output("big"));
    assert_eq!(staged(&ws).len(), 1, "else there is nothing to be removed");
    remote.restart(PLAIN);
    let run = remote.build(&ws, &["//...", "--download=minimal"]).ok();
    assert_eq!(downloaded(&run), []);
    nothing_is_half_there(&ws);
    remote.build(&ws, &["//..."]).ok_without_running();
    is_whole(&ws);
    assert_eq!(remote.ran(), 0, "the result is in the cache since the first build");
}

/// What the local store has of blobs that did not come whole.
fn parts(ws: &Workspace) -> Vec<u64> {
    crate::store::kept(ws, "partial").iter().map(|path| path.metadata().expect("is there").len()).collect()
}

#[test]
fn what_came_before_an_interrupt_is_not_brought_again() {
    let remote = stops("hang", 0);
    // In a directory beside one that comes whole, too.
    let files = format!("echo small > $OUT_DIR/small; head -c {SIZE} /dev/zero > $OUT_DIR/large");
    let tree = format!("[[genrule]]\nname = \"tree\"\nout_dirs = [\"tree\"]\ncmd = {files:?}\n");
    let ws = with_targets(&tree);
    let build = remote.start(&ws, &["//..."]);
    // What waits to be written when the stream falls silent is at most a mebibyte.
    build.wait_until("a good part of the file is staged", || staged(&ws).iter().any(|&size| size > HALF / 2));
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    assert_eq!((staged(&ws), ws.has_output("tree")), (vec![], false));
    let [part] = parts(&ws)[..] else { panic!("one is kept") };
    remote.restart(PLAIN);
    let run = remote.build(&ws, &["//..."]).ok();
    let bytes = std::fs::read(ws.bin("tree/large")).expect("it is there");
    assert!(bytes.len() as u64 == SIZE && bytes.iter().all(|&byte| byte == 0));
    assert_eq!(ws.output("tree/small"), "small\n");
    assert_eq!((parts(&ws), remote.ran(), remote.sent()), (vec![], 0, SIZE - part), "{:?}", run.messages("warning"));
}

#[test]
fn t46_truncated_stream_resumes_at_its_offset() {
    let remote = stops("break", 1);
    let ws = with_targets(&big());
    let run = remote.build(&ws, &["//..."]).ok();
    is_whole(&ws);
    assert_eq!((remote.calls(&["Read"]), remote.sent()), (2, SIZE));
    assert_eq!(downloaded(&run), [("big", "toplevel")]);
}

/// A server behind a proxy, and the flags of builds with it.
fn behind(fate: Fate) -> (Remote, Proxy, Vec<String>) {
    let remote = Remote::with(PLAIN);
    let Listen::Tcp(target) = remote.listen else { panic!("the server listens on TCP") };
    let proxy = Proxy::start(target);
    proxy.set_default(fate);
    let executor = format!("--remote-executor=grpc://{}", proxy.address());
    let flags = [&executor, "--strategy=remote", "--on-remote-failure=fail", "--remote-timeout=1s"];
    (remote, proxy, flags.map(str::to_owned).to_vec())
}

#[test]
fn t47_deadline_measures_progress() {
    let (remote, _proxy, flags) = behind(Fate::Slow(1_000_000));
    let ws = with_targets(&big());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    ws.build(&[&flags[..], &["//..."]].concat()).ok();
    is_whole(&ws);
    // Six at least if a second were all the time there is; this machine may be away for a second itself.
    assert!(remote.calls(&["Read"]) <= 3, "{}", remote.calls(&["Read"]));
}

#[test]
fn t47_a_stall_fails_over() {
    let (remote, proxy, flags) = behind(Fate::StallAfter(HALF));
    let ws = with_targets(&big());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    ws.build(&[&flags[..], &["//..."]].concat()).ok();
    is_whole(&ws);
    assert!(remote.calls(&["Read"]) >= 2 && proxy.accepted() >= 2, "it came without a stall");
    assert_eq!(remote.ran(), 1);
}

#[test]
fn t48_keep_going_with_one_failed_target() {
    let remote = Remote::new();
    let ws = chain();
    let more = genrule("bad", &[], &["bad"], "exit 1") + &genrule("after", &[":bad"], &["after"], "cat $SRC > $OUT");
    ws.write("BUILD.toml", more + &ws.read("BUILD.toml"));
    let run = remote.build(&ws, &["-k", "//..."]).code(1);
    let files = ["a.txt", "b.txt", "c.txt"].map(|path| (path, "toplevel"));
    assert_eq!(downloaded(&run), files);
    let mut targets = run.targets();
    targets.sort_unstable();
    assert_eq!(targets, [("//:a", true), ("//:after", false), ("//:b", true), ("//:bad", false), ("//:c", true)]);
    ws.remove("minibuild-out/bin/b.txt");
    let run = remote.build(&ws, &["-k", "//..."]).code(1).started_only(&["//:bad"]);
    assert_eq!(downloaded(&run), [("b.txt", "toplevel")]);
}

/// A download that would never end, and an action beside it that fails when it is let go.
fn endless(end: impl FnOnce(Build, minibuild_testkit::Gate) -> minibuild_testkit::Run) {
    let remote = stops("hang", 0);
    let ws = with_targets("");
    let mut gate = ws.gate("bad");
    let bad = genrule("bad", &[], &["bad"], &format!("{}; exit 1", gate.pass())) + "tags = [\"no-remote\"]\n";
    ws.write("BUILD.toml", big() + &bad);
    let build = remote.start(&ws, &["//...", "--remote-timeout=1000s"]);
    gate.arrival();
    wait_for_a_part(&build, &ws);
    let run = end(build, gate);
    assert!(!run.targets().contains(&("//:big", true)));
    nothing_is_half_there(&ws);
    remote.restart(PLAIN);
    let run = remote.build(&ws, &["//:big"]).ok_without_running();
    assert_eq!((downloaded(&run), remote.ran()), (vec![("big", "toplevel")], 0));
    is_whole(&ws);
}

#[test]
fn t49_downloads_of_a_failed_build_are_cancelled_promptly() {
    endless(|build, mut gate| {
        gate.open();
        build.wait().code(1)
    });
}

#[test]
fn t49_downloads_of_an_interrupted_build_are_cancelled_promptly() {
    endless(|build, _gate| {
        build.signal(Signal::SIGINT);
        build.wait().code(8)
    });
}

#[test]
fn t50_concurrent_builds_wait() {
    let remote = stops("hang", 1);
    let ws = with_targets(&(big() + &genrule("small", &[":big"], &["small"], "wc -c < $SRC > $OUT")));
    let first = remote.start(&ws, &["//:big", "--remote-retries=20"]);
    wait_for_a_part(&first, &ws);
    let mut second = remote.start(&ws, &["//:small"]);
    second.wait_for_stderr("waiting for");
    let sent = remote.sent();
    remote.restart(PLAIN);
    let run = first.wait().ok();
    assert_eq!(downloaded(&run), [("big", "toplevel")]);
    let run = second.wait().ok().started_only(&["//:small"]);
    assert_eq!(downloaded(&run), [("small", "toplevel")]);
    is_whole(&ws);
    assert_eq!(ws.output("small").trim(), SIZE.to_string());
    assert_eq!((sent, remote.sent()), (HALF, SIZE - HALF + 8), "what the first had is kept");
}

//! What the server counts: the bytes that had to come and none besides, and no connection where nothing is to be said.

use minibuild_server::Listen;
use minibuild_testkit::{Proxy, Workspace};

use super::Remote;
use crate::{genrule, with_targets};

const PLAIN: &str = "[server]\nno_zstd = true\n";
const SMALL: u64 = 1_000;
const LARGE: u64 = 300_000;

/// `both`: a small and a large file of a small and a large one that nobody asks for. Each file is another one.
fn files() -> Workspace {
    let file = |name: &str, srcs: &[&str], size: u64| {
        let cmd = format!("(echo {name}; cat $SRCS /dev/zero) | head -c {size} > $OUT");
        genrule(name, srcs, &[name], &cmd)
    };
    with_targets(
        &[
            file("small", &["in.txt"], SMALL),
            file("large", &["in.txt"], LARGE),
            file("a", &[":small", ":large"], SMALL),
            file("b", &[":small", ":large"], LARGE),
            "[[filegroup]]\nname = \"both\"\nsrcs = [\":a\", \":b\"]\n".to_owned(),
        ]
        .concat(),
    )
    .file("in.txt", "one\n")
}

/// Bytes sent in builds of `//:both` in one mode after the other, each in the same workspace.
#[track_caller]
fn sends(build: impl Fn(&Remote, &Workspace, &[&str]), remote: &Remote) {
    let ws = files();
    for (mode, bytes) in [("minimal", 0), ("toplevel", SMALL + LARGE), ("all", SMALL + LARGE), ("toplevel", 0)] {
        let before = remote.sent();
        build(remote, &ws, &["//:both", &format!("--download={mode}")]);
        assert_eq!(remote.sent() - before, bytes, "{mode}");
    }
    ws.remove("minibuild-out/bin/b");
    let before = remote.sent();
    build(remote, &ws, &["//:both"]);
    assert_eq!(remote.sent() - before, LARGE, "a deleted file");
}

#[test]
fn a_mode_reads_exactly_the_bytes_it_brings() {
    let remote = Remote::with(PLAIN);
    sends(|remote, ws, args| drop(remote.build(ws, args).ok()), &remote);
    assert_eq!(remote.ran(), 4);
    sends(|remote, ws, args| drop(remote.build_cached(ws, args).ok()), &remote);
    assert_eq!(remote.ran(), 4);
}

#[test]
fn a_build_without_a_change_opens_no_connection() {
    let remote = Remote::new();
    let Listen::Tcp(target) = remote.listen else { panic!("the server listens on TCP") };
    let proxy = Proxy::start(target);
    for side in ["executor", "cache"] {
        let endpoint = format!("--remote-{side}=grpc://{}", proxy.address());
        for mode in ["--download=minimal", "--download=toplevel", "--download=all"] {
            let ws = files();
            let before = proxy.accepted();
            ws.build(&["//:both", mode, &endpoint]).ok();
            let after = proxy.accepted();
            assert!(after > before);
            ws.build(&["//:both", mode, &endpoint]).ok_without_running();
            ws.build(&["//:both", "--download=minimal", &endpoint]).ok_without_running();
            assert_eq!(proxy.accepted(), after, "{side}, {mode}");
        }
    }
}

#[test]
fn what_only_the_server_has_is_asked_for_in_builds_that_speak_to_it_anyway() {
    let questions = |lease: &str| {
        let (remote, ws) = (Remote::new(), with_targets(""));
        let targets: String =
            ["a", "b", "c"].map(|name| genrule(name, &[], &[name], &format!("echo {name} > $OUT"))).concat();
        ws.write("BUILD.toml", &targets);
        let executor = remote.executor();
        let build = || {
            let args = ["build", "//...", "--download=minimal", &executor, "--strategy=remote"];
            let run = ws.invoke(&args).env("MINIBUILD_REMOTE_LEASE", lease).run().ok();
            (run, remote.calls(&["FindMissingBlobs"]))
        };
        let (_, first) = build();
        assert_eq!(build().1, first, "a build without a change asks nothing");
        ws.write("BUILD.toml", targets.replace("echo c", "echo changed"));
        let second = build().1;
        ws.write("BUILD.toml", targets.replace("echo c", "echo again"));
        (second - first, build().1 - second)
    };
    let (without, _) = questions("0s");
    assert_eq!(questions("1h"), (without + 1, without), "once in an hour");
    assert_eq!(questions("0s"), (without, without));
}

//! minibuild as a client of servers that others wrote: what one workspace put there, another one finds.

use minibuild_testkit::{Peer, PeerKind, Run, Workspace, difference};

use super::sides::of_all_kinds;

/// How many actions [`of_all_kinds`] has.
const ACTIONS: u64 = 5;

/// Builds in a workspace of its own.
fn build(args: &[&str]) -> (Workspace, Run) {
    let ws = of_all_kinds();
    let run = ws.build(&[&["//...", "--download=all"], args].concat()).ok();
    (ws, run)
}

/// A workspace that never built anything gets everything from the cache, and the same files.
#[track_caller]
fn all_hits(filled: &Workspace, args: &[&str]) {
    let (ws, run) = build(args);
    assert_eq!((run.counts().remote_cache, run.counts().total), (ACTIONS, ACTIONS), "{}", run.stderr);
    assert_eq!(difference(&filled.outputs(), &ws.outputs()), Vec::<String>::new());
    assert!(run.messages("warning").is_empty(), "{:?}", run.messages("warning"));
    ws.build(&[&["//...", "--download=all"], args].concat()).ok_without_running();
}

/// Results of local runs are uploaded and found again.
#[track_caller]
fn round_trip(cache: &str) {
    let cache = format!("--remote-cache={cache}");
    let (filled, run) = build(&[&cache]);
    assert_eq!(run.counts().local, ACTIONS);
    assert!(run.messages("warning").is_empty(), "{:?}", run.messages("warning"));
    all_hits(&filled, &[&cache]);
}

#[test]
fn casd_executes() {
    let Ok(peer) = Peer::start(PeerKind::Casd) else { return };
    let executor = format!("--remote-executor={}", peer.endpoint());
    let args = [&*executor, "--strategy=remote", "--on-remote-failure=fail"];
    // A symlink as an output of its own is an error there.
    let (here, _) = build(&[]);
    let remote_link = |ws: Workspace| {
        let targets = ws.read("BUILD.toml");
        ws.write("BUILD.toml", targets.replace("name = \"link\"\n", "name = \"link\"\ntags = [\"no-remote\"]\n"));
        ws
    };
    let ws = remote_link(of_all_kinds());
    let run = ws.build(&[&["//...", "--download=all"], &args[..]].concat()).ok();
    assert_eq!((run.counts().remote, run.counts().local), (ACTIONS - 1, 1));
    assert_eq!(difference(&here.outputs(), &ws.outputs()), Vec::<String>::new());
    let ws = remote_link(of_all_kinds());
    let run = ws.build(&[&["//...", "--download=all"], &args[..]].concat()).ok();
    assert_eq!((run.counts().remote_cache, run.counts().local), (ACTIONS - 1, 1));
    assert_eq!(difference(&here.outputs(), &ws.outputs()), Vec::<String>::new());
}

#[test]
fn casd_as_a_cache() {
    let Ok(peer) = Peer::start(PeerKind::Casd) else { return };
    round_trip(peer.endpoint());
}

#[test]
fn buildgrid_as_a_cache() {
    let Ok(peer) = Peer::start(PeerKind::BuildGrid) else { return };
    round_trip(peer.endpoint());
}

#[test]
fn nginx_as_a_cache() {
    let Ok(peer) = Peer::start(PeerKind::Nginx) else { return };
    round_trip(peer.endpoint());
    let with_password = peer.endpoint().replace("http://", "http://me:s3cret@") + "/team/";
    round_trip(&with_password);
    assert!(peer.dir().join("files/team/ac").is_dir(), "the path is part of where things lie");
    assert!(!peer.log().contains("s3cret"));
}

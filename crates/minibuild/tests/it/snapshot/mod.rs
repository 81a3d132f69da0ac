//! The short way from a snapshot: what it is taken for, every doubt that sends a build the full way, and that both ways
//! say and make the same.

mod doubts;
mod equal;
mod reload;
mod used;

use std::fs;
use std::path::PathBuf;

use minibuild_testkit::Workspace;

use crate::{genrule, workspace};

/// `a` reads `in`, `b` reads `a`, `c` reads `d/x`, `all` reads what matches a glob; one package more.
fn sample() -> Workspace {
    let glob = "[[genrule]]\nname = \"all\"\nsrcs = [{ glob = [\"g/*.txt\"] }]\nouts = [\"all\"]\ncmd = \"cat $SRCS > $OUT\"\n";
    let targets = genrule("a", &["in"], &["a"], "cat $SRC > $OUT")
        + &genrule("b", &[":a"], &["b"], "cat $SRC > $OUT")
        + &genrule("c", &["//d:x"], &["c"], "cat $SRC > $OUT")
        + glob;
    workspace()
        .file("BUILD.toml", targets)
        .file("in", "in\n")
        .file("g/one.txt", "one\n")
        .file("d/BUILD.toml", genrule("x", &["x.txt"], &["x"], "cat $SRC > $OUT"))
        .file("d/x.txt", "x\n")
}

/// A workspace that was built, and built again, so that nothing is left that was looked at too soon.
fn settled() -> Workspace {
    let ws = sample();
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok_without_running();
    ws
}

/// The files of snapshots.
fn snapshots(ws: &Workspace) -> Vec<PathBuf> {
    let listing = fs::read_dir(ws.path("minibuild-out/.state")).expect("lists");
    let paths = listing.map(|entry| entry.expect("reads").path());
    let is_snapshot =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot-"));
    let mut found: Vec<PathBuf> = paths.filter(is_snapshot).collect();
    found.sort();
    found
}

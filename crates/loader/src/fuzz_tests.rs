//! Arbitrary and damaged files never panic, hang or leave diagnostics that cannot be rendered.

use proptest::prelude::*;

use crate::testing::MemoryFs;
use crate::{ConfigInput, HostFacts, LoadRequest, load, render};

const BUILD: &str = r#"
[[genrule]]
name = "g"
srcs = ["x.c", ":f", { glob = ["*.c"], exclude = ["y*"] }, { when = { vars.os = ["linux"] }, items = ["x.c"] }]
outs = ["o", "d/e"]
out_dirs = ["t"]
cmd = "cat $(location x.c) $(locations :f) $SRCS > $OUT é	"
env = { A = "$(location :f)" }
tags = ["no-remote"]
timeout = "1h30m"
rspfile = { path = "r", content = ["$(locations :f)"] }
host_tools = ["cc", { program = "/bin/sh", version = ["-v"] }]
[[filegroup]]
name = "f"
srcs = ["x.c"]
[[c_binary]]
name = "b"
srcs = ["x.c"]
copts = ["$(location x.c)"]
[[test]]
name = "t"
executable = ":b"
args = ["a"]
"#;

const WORKSPACE: &str = r#"
[workspace]
rules = ["@std/c.toml"]
ignore = ["q"]
[build]
jobs = 3
pools = { a = 1 }
strategy = { default = "local", Genrule = "remote" }
[remote]
timeout = "5s"
headers = { a = "b" }
[config.x.vars]
cc = "clang"
"#;

fn try_load(build: &[u8], workspace: &[u8], pattern: &str) {
    let mut fs = MemoryFs::new(&[("a/x.c", ""), ("a/y.c", "")]);
    fs.file("a/BUILD.toml", build);
    fs.file("minibuild.toml", workspace);
    let request = LoadRequest {
        config: ConfigInput { configs: vec!["x".into()], ..ConfigInput::default() },
        patterns: vec![pattern.to_owned(), "//a:all".to_owned()],
        cwd: "a".into(),
        host: HostFacts { os: "linux".into(), arch: "x86_64".into() },
        threads: 1,
    };
    match load(&fs, &request) {
        Ok(loaded) => {
            for index in 0..loaded.model.actions.len() {
                loaded.commands.work(minibuild_core::ActionId::new(index));
            }
        }
        Err(failure) => {
            assert!(!failure.diagnostics.list.is_empty());
            render(&failure.diagnostics, &failure.sources, true);
        }
    }
}

#[test]
fn the_undamaged_files_load() {
    let fs = MemoryFs::new(&[("a/x.c", ""), ("a/y.c", ""), ("a/BUILD.toml", BUILD), ("minibuild.toml", WORKSPACE)]);
    let request = LoadRequest {
        config: ConfigInput::default(),
        patterns: vec!["//a:all".to_owned()],
        cwd: String::new(),
        host: HostFacts { os: "linux".into(), arch: "x86_64".into() },
        threads: 1,
    };
    let failure = load(&fs, &request).err().map(|f| render(&f.diagnostics, &f.sources, false));
    assert_eq!(failure, None);
}

/// A copy of `text` with a piece cut out, doubled or overwritten.
fn damaged(text: &str, edits: &[(prop::sample::Index, usize, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, len, what) in edits {
        if bytes.is_empty() {
            break;
        }
        let start = at.index(bytes.len());
        let end = (start + len).min(bytes.len());
        match what % 4 {
            0 => drop(bytes.drain(start..end)),
            1 => {
                let piece = bytes[start..end].to_vec();
                bytes.splice(start..start, piece);
            }
            2 => bytes[start] = *what,
            _ => bytes[start] = b"\"[]{}=\n'.,$()/:#"[usize::from(*what) % 16],
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(build in proptest::collection::vec(any::<u8>(), 0..200), pattern in ".{0,20}") {
        try_load(&build, b"", &pattern);
    }

    #[test]
    fn damaged_files(
        build in proptest::collection::vec((any::<prop::sample::Index>(), 1..30usize, any::<u8>()), 0..4),
        workspace in proptest::collection::vec((any::<prop::sample::Index>(), 1..30usize, any::<u8>()), 0..3),
    ) {
        try_load(&damaged(BUILD, &build), &damaged(WORKSPACE, &workspace), "//a");
    }
}

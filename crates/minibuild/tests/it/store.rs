//! The local store: what outputs were before comes back without a run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use minibuild_testkit::{Event, Run, Workspace};

use crate::{genrule, with_targets, workspace};

/// A rule whose command has a variable in it, and a chain, a tree and a program made of what it writes.
const RULES: &str = r#"
    doc = "A rule that writes a variable."
    [vars]
    greeting = { type = "string", default = "plain", doc = "What is said." }
    [rule.say]
    doc = "Writes the greeting."
    outputs = ["{write.text}"]
    [rule.say.action.write]
    mnemonic = "Say"
    outs = { text = "{name}.txt" }
    args = ["/bin/sh", "-c", "echo {vars.greeting} > {out.text}"]
    [rule.note]
    doc = "Has minibuild write it."
    outputs = ["{write.text}"]
    [rule.note.action.write]
    outs = { text = "{name}.note" }
    write = ["{vars.greeting}"]
"#;

const SETTINGS: &str = "[workspace]\nrules = [\"say.toml\"]\n[config.loud.vars]\ngreeting = \"LOUD\"\n[config.odd.vars]\ngreeting = \"odd\"\n";

fn switched() -> Workspace {
    let targets = "[[say]]\nname = \"hello\"\n[[note]]\nname = \"note\"\n".to_owned()
        + &genrule("copy", &[":hello"], &["copy", "same"], "cat $SRC > $OUT; cp $OUT ${OUT%copy}same")
        + &genrule(
            "program",
            &[":hello"],
            &["program"],
            "(echo '#!/bin/sh'; echo \"echo $(cat $SRC)\") > $OUT; chmod +x $OUT",
        )
        + "[[genrule]]\nname = \"tree\"\nsrcs = [\":hello\"]\nout_dirs = [\"t\"]\n"
        + "cmd = \"mkdir -p $OUT_DIR/d/e; cp $SRC $OUT_DIR/d/f; ln -s d/f $OUT_DIR/l; touch $OUT_DIR/empty\"\n"
        + "[[genrule]]\nname = \"link\"\nsrcs = [\":hello\"]\nout_symlinks = [\"link\"]\n"
        + "cmd = \"ln -s $(cat $SRC) minibuild-out/bin/link\"\n";
    workspace().file("minibuild.toml", SETTINGS).file("say.toml", RULES).file("BUILD.toml", targets)
}

/// Files in a part of the store, by their paths.
pub(crate) fn kept(ws: &Workspace, part: &str) -> Vec<PathBuf> {
    let files = walk(&ws.path(&format!("minibuild-out/.state/store/{part}")));
    files.into_iter().filter(|path| path.is_file()).collect()
}

fn walk(dir: &std::path::Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        found.extend(if path.is_dir() { walk(&path) } else { vec![path] });
    }
    found
}

fn build(ws: &Workspace, args: &[&str]) -> Run {
    ws.build(&[args, &["//:all"]].concat()).ok()
}

#[test]
fn switching_a_config_back_and_forth_runs_nothing() {
    let ws = switched();
    let configs: [&[&str]; 3] = [&[], &["--config=loud"], &["--config=odd"]];
    let mut outputs = Vec::new();
    for config in configs {
        build(&ws, config);
        outputs.push(ws.outputs());
    }
    assert_ne!(outputs[0], outputs[1]);
    for _ in 0..2 {
        for (config, expected) in configs.iter().zip(&outputs) {
            build(&ws, config).ok_without_running();
            assert_eq!(ws.outputs(), *expected);
            build(&ws, config).ok_without_running();
        }
    }
}

#[test]
fn what_would_come_back_is_said_to_be_up_to_date() {
    let ws = switched();
    build(&ws, &[]);
    build(&ws, &["--config=loud"]);
    ws.run(&["build", "--dry-run", "//:all"]).ok().says(&["6 actions: 6 up to date."]);
    ws.run(&["build", "--dry-run", "--config=odd", "//:all"]).ok().says(&["would run"]);
}

#[test]
fn what_comes_back_is_counted_as_copied() {
    let ws = switched();
    build(&ws, &[]);
    build(&ws, &["--config=loud"]);
    let run = build(&ws, &[]).ok_without_running();
    let downloads = run.downloads();
    assert_eq!((downloads.files, downloads.bytes), (0, 0));
    assert!(downloads.files_copied >= 5, "{downloads:?}");
}

#[test]
fn copy_from_the_store_is_not_told_as_a_download() {
    let ws = switched();
    build(&ws, &[]);
    build(&ws, &["--config=loud"]);
    let run = build(&ws, &["--explain"]).ok_without_running();
    let run = run.says(&["hello.txt was copied from this machine", "Copied: "]).says_nothing_of("ownloaded");
    let copied = run.events.iter().filter(|event| matches!(event, Event::FileDownloaded { copied: true, .. }));
    assert!(copied.count() >= 5);
    assert!(!run.events.iter().any(|event| matches!(event, Event::FileDownloaded { copied: false, .. })));
}

#[test]
fn a_branch_and_back_runs_nothing() {
    let targets = |more: &str| genrule("a", &["in"], &["a"], "cat $SRC > $OUT") + more;
    let other = genrule("b", &[":a", "only"], &["b"], "cat $SRCS > $OUT");
    let ws = with_targets(&targets(&other)).file("in", "main\n").file("only", "here\n");
    ws.build(&["//..."]).ok();
    let main = ws.outputs();
    let to_branch = || {
        ws.write("BUILD.toml", targets(""));
        ws.write("in", "branch\n");
        ws.remove("only");
    };
    let to_main = || {
        ws.write("BUILD.toml", targets(&other));
        ws.write("in", "main\n");
        ws.write("only", "here\n");
    };
    to_branch();
    ws.build(&["//..."]).ok().started_only(&["//:a"]);
    assert!(!ws.has_output("b"), "nobody declares it");
    let branch = ws.outputs();
    for _ in 0..2 {
        to_main();
        ws.build(&["//..."]).ok_without_running();
        assert_eq!(ws.outputs(), main);
        to_branch();
        ws.build(&["//..."]).ok_without_running();
        assert_eq!(ws.outputs(), branch);
    }
}

#[test]
fn an_intermediate_comes_back_when_it_is_needed() {
    let targets = |say: &str| {
        genrule("mid", &["in"], &["mid"], "cat $SRC > $OUT")
            + &genrule("top", &[":mid"], &["top"], &format!("(cat $SRC; echo {say}) > $OUT"))
    };
    let ws = with_targets(&targets("one")).file("in", "1\n");
    ws.build(&["//:top"]).ok();
    ws.write("in", "2\n");
    ws.build(&["//:top"]).ok();
    ws.write("in", "1\n");
    ws.build(&["//:top"]).ok_without_running();
    assert_eq!(ws.output("top"), "1\none\n");
    assert!(!ws.has_output("mid"), "nobody needs it");
    ws.write("BUILD.toml", targets("two"));
    ws.build(&["//:top"]).ok().started_only(&["//:top"]);
    assert_eq!((ws.output("mid"), ws.output("top")), ("1\n".to_owned(), "1\ntwo\n".to_owned()));
}

#[test]
fn what_is_wrong_or_gone_is_made_again() {
    type Damage = fn(&PathBuf);
    let damages: [Damage; 4] = [
        |path| fs::remove_file(path).expect("removes"),
        |path| {
            let length = fs::metadata(path).expect("is there").len();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changes");
            fs::write(path, vec![b'x'; usize::try_from(length).expect("fits")]).expect("writes");
        },
        |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changes");
            fs::write(path, "").expect("cuts");
        },
        |path| {
            fs::remove_file(path).expect("removes");
            std::os::unix::fs::symlink("/etc/passwd", path).expect("links");
        },
    ];
    for damage in damages {
        let ws = switched();
        build(&ws, &[]);
        let plain = ws.outputs();
        build(&ws, &["--config=loud"]);
        kept(&ws, "cas").iter().for_each(damage);
        build(&ws, &[]);
        assert_eq!(ws.outputs(), plain);
        build(&ws, &[]).ok_without_running();
    }
}

#[test]
fn what_a_hand_changed_is_not_kept() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT")).file("in", "1\n");
    ws.build(&["//:a"]).ok();
    fs::set_permissions(ws.bin("a"), fs::Permissions::from_mode(0o644)).expect("changes");
    fs::write(ws.bin("a"), "mine\n").expect("writes");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "1\n");
    assert_eq!(kept(&ws, "cas"), Vec::<PathBuf>::new());
}

#[test]
fn a_store_of_no_size_keeps_nothing() {
    let ws = switched();
    ws.write("minibuild.toml", SETTINGS.to_owned() + "[build]\nstore_size = \"0\"\n");
    build(&ws, &[]);
    let plain = ws.outputs();
    build(&ws, &["--config=loud"]);
    assert_eq!(kept(&ws, "cas"), Vec::<PathBuf>::new());
    let run = build(&ws, &[]);
    assert_ne!(run.ran(), Vec::<&str>::new());
    assert_eq!(ws.outputs(), plain);
}

#[test]
fn the_store_is_cut_back_to_its_size() {
    let targets = genrule("a", &["in"], &["a"], "for i in 1 2 3 4; do cat $SRC; done > $OUT");
    let ws = with_targets(&targets);
    ws.write("minibuild.toml", "[build]\nstore_size = \"100KiB\"\n");
    for number in 0..12 {
        ws.write("in", format!("{number}").repeat(2000));
        ws.build(&["//:a"]).ok();
        let sizes = kept(&ws, "cas").iter().map(|path| fs::metadata(path).expect("is there").len()).sum::<u64>();
        assert!(sizes <= 100 << 10, "{sizes}");
    }
    assert!(kept(&ws, "cas").len() >= 8, "it is used, too");
    ws.write("in", "10".repeat(2000));
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn the_store_survives_clean_and_goes_with_everything() {
    let ws = switched();
    build(&ws, &[]);
    let plain = ws.outputs();
    build(&ws, &["--config=loud"]);
    ws.run(&["clean"]).ok();
    build(&ws, &[]).ok_without_running();
    assert_eq!(ws.outputs(), plain);
    ws.run(&["clean", "--all"]).ok();
    let run = build(&ws, &[]);
    assert_ne!(run.ran(), Vec::<&str>::new());
}

#[test]
fn a_build_with_nothing_to_do_leaves_the_store_alone() {
    let ws = switched();
    build(&ws, &[]);
    assert!(!ws.path("minibuild-out/.state/store").exists(), "nothing was ever replaced");
    build(&ws, &[]).ok_without_running().from_snapshot();
    assert!(!ws.path("minibuild-out/.state/store").exists());
}

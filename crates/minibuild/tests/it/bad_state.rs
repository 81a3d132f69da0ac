//! State files that are cut off, garbage, foreign or out of date: never believed, never in the way.

use std::fs;

use minibuild_testkit::{Random, Workspace};

use crate::bad_actions::SmallDisk;
use crate::{genrule, with_targets};

/// in -> a -> b, built once with `in` holding `1`.
fn built() -> Workspace {
    let targets =
        genrule("a", &["in"], &["a"], "cat $SRC > $OUT") + &genrule("b", &[":a"], &["b"], "(cat $SRC; echo b) > $OUT");
    let ws = with_targets(&targets).file("in", "1\n");
    ws.build(&["//:b"]).ok();
    ws
}

/// Changes the source and builds: the outputs are what they should be.
#[track_caller]
fn check_build(ws: &Workspace, content: &str, what: &str) -> Vec<String> {
    ws.write("in", content);
    let run = ws.build(&["//:a", "//:b"]).ok();
    let found = (ws.output("a"), ws.output("b"));
    assert_eq!(found, (content.to_owned(), format!("{content}b\n")), "{what}\n{}", run.stderr);
    run.messages("warning").into_iter().map(str::to_owned).collect()
}

/// Builds with each damaged version of a state file. Each source content comes twice, so that old results may be found.
fn check_damaged(name: &str, versions: impl Fn(&[u8]) -> Vec<Vec<u8>>, expect_warning: impl Fn(&[u8], &[u8]) -> bool) {
    let ws = built();
    let path = ws.path("minibuild-out/.state").join(name);
    let whole = fs::read(&path).expect("the state is there");
    for (number, bytes) in versions(&whole).iter().enumerate() {
        fs::write(&path, bytes).expect("writes");
        let what = format!("version {number} of {name}: {} of {} bytes", bytes.len(), whole.len());
        let warnings = check_build(&ws, &format!("{}\n", number / 2 % 3), &what);
        assert_eq!(!warnings.is_empty(), expect_warning(&whole, bytes), "{what}: {warnings:?}");
    }
    ws.build(&["//:b"]).ok_without_running();
}

/// Where each record of a log ends, its header counted as one.
fn ends(log: &[u8]) -> Vec<usize> {
    let mut ends = vec![0, 16];
    let mut at = 16;
    while at < log.len() {
        let length = u32::from_le_bytes(log[at..at + 4].try_into().expect("four bytes"));
        at += 8 + usize::try_from(length).expect("it fits");
        ends.push(at);
    }
    ends
}

/// Beginnings of a log: every length close to the end of a record, each fourth elsewhere. (The unit tests of the log cut
/// it at each.)
fn prefixes(whole: &[u8]) -> Vec<Vec<u8>> {
    let ends = ends(whole);
    let is_wanted = |length: &usize| length.is_multiple_of(4) || ends.iter().any(|end| end.abs_diff(*length) <= 2);
    (0..=whole.len()).filter(is_wanted).map(|length| whole[..length].to_vec()).collect()
}

#[test]
fn records_cut_off_at_every_length() {
    // Records that are empty beside manifests were lost.
    check_damaged("records", prefixes, |whole, cut| cut.is_empty() || !ends(whole).contains(&cut.len()));
}

#[test]
fn manifests_cut_off_at_every_length() {
    check_damaged("manifests", prefixes, |whole, cut| !ends(whole).contains(&cut.len()));
}

#[test]
fn a_bit_that_flipped() {
    for name in ["records", "manifests"] {
        let flipped = |whole: &[u8]| -> Vec<Vec<u8>> {
            let flip = |at: usize| {
                let mut bytes = whole.to_vec();
                bytes[at] ^= 1 << (at % 8);
                bytes
            };
            (0..whole.len()).step_by(13).map(flip).collect()
        };
        check_damaged(name, flipped, |_, _| true);
    }
}

#[test]
fn garbage_and_files_of_other_versions() {
    let versions = |whole: &[u8]| -> Vec<Vec<u8>> {
        let mut random = Random::new(7);
        let mut noise = |length: usize| (0..length).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
        let mut bumped = whole.to_vec();
        bumped[8] += 1;
        let long = [whole, &[0xff; 8]].concat();
        let zeros = [whole, &[0; 4096]].concat();
        vec![noise(1), noise(100), noise(100_000), bumped, long, zeros, vec![0; 5000], b"text\n".to_vec()]
    };
    for name in ["records", "manifests"] {
        check_damaged(name, versions, |_, _| true);
    }
}

#[test]
fn warnings_say_what_and_what_follows() {
    let ws = built();
    let path = ws.path("minibuild-out/.state/records");
    fs::write(&path, "garbage, for sure no state").expect("writes");
    let warnings = check_build(&ws, "1\n", "garbage");
    assert!(warnings[0].contains("another version"), "{warnings:?}");
    assert!(check_build(&ws, "1\n", "the build after").is_empty());
}

#[test]
fn one_file_is_missing() {
    for name in ["records", "manifests", "clock"] {
        let ws = built();
        fs::remove_file(ws.path("minibuild-out/.state").join(name)).expect("removes");
        check_build(&ws, "2\n", name);
    }
}

#[test]
fn an_old_state_beside_new_files() {
    let ws = built();
    let state = ws.path("minibuild-out/.state");
    let old: Vec<_> = ["records", "manifests"].map(|name| (name, fs::read(state.join(name)).expect("reads"))).into();
    check_build(&ws, "2\n", "new");
    for (name, bytes) in &old {
        fs::write(state.join(name), bytes).expect("writes");
    }
    // It says that `a` and `b` hold what they held then, and knows nothing of what lies there now.
    check_build(&ws, "1\n", "back to the content the state knows");
    for (name, bytes) in &old {
        fs::write(state.join(name), bytes).expect("writes");
    }
    check_build(&ws, "3\n", "on to another");
}

#[test]
fn a_state_that_is_no_file_is_dropped() {
    let ws = built();
    for name in ["records", "manifests"] {
        let path = ws.path("minibuild-out/.state").join(name);
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("makes a directory");
        let warnings = check_build(&ws, &format!("{name}\n"), "with a directory in its place");
        assert!(warnings.iter().any(|text| text.contains("it is dropped")), "{warnings:?}");
        ws.build(&["//:b"]).ok_without_running();
    }
}

#[test]
fn a_state_that_cannot_be_opened_is_an_error_that_says_what_to_do() {
    let ws = built();
    let path = ws.path("minibuild-out/.state/records");
    fs::remove_file(&path).expect("removes");
    // A mount point can be neither opened as a file nor removed.
    let Some(disk) = SmallDisk::mount_at(path, "64k") else { return };
    ws.build(&["//:b"])
        .code(1)
        .says(&["cannot open the state in `[ws]/minibuild-out/.state`", "hint: `minibuild clean --all`"]);
    drop(disk);
    ws.run(&["clean", "--all"]).ok();
    check_build(&ws, "2\n", "after the hint was followed");
}

#[test]
fn leftovers_of_a_killed_build_are_deleted() {
    let ws = built();
    for path in ["minibuild-out/.state/trash/7/d/f", "minibuild-out/.state/tmp/slot0/tmp/left"] {
        ws.write(path, "x");
    }
    check_build(&ws, "2\n", "with leftovers");
    assert!(ws.snapshot("minibuild-out/.state/trash").is_empty(), "{:?}", ws.snapshot("minibuild-out/.state/trash"));
    assert!(!ws.path("minibuild-out/.state/tmp/slot0/tmp/left").exists());
}

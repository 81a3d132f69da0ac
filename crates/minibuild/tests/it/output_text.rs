//! What commands print, as it is shown: text unaltered, colours only where there are colours, long output without memory.

use minibuild_testkit::{Running, Workspace};

use crate::{genrule, test, with_targets, workspace};

/// Bytes on the standard error of a build whose only action prints some and fails.
fn shown(print: &str, flags: &[&str]) -> Vec<u8> {
    let ws = with_targets(&genrule("g", &[], &["g"], &format!("{print} >&2; exit 1")));
    let path = ws.outside().join("shown");
    let file = std::fs::File::create(&path).expect("makes a file");
    ws.invoke(&[&["build"], flags, &["//..."]].concat()).stderr(file).run().code(1);
    std::fs::read(path).expect("reads")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn bytes_that_are_no_utf8_are_shown_as_they_are() {
    let shown = shown(r"printf 'x\346\227y \304\326\n'", &[]);
    assert!(contains(&shown, b"\nx\xe6\x97y \xc4\xd6\n"), "{}", String::from_utf8_lossy(&shown));
}

#[test]
fn escape_sequences_do_not_get_where_there_are_no_colours() {
    let print = r"printf '\033[31mred\033]0;title\007\033[2J and more'";
    for flags in [&[][..], &["--color=never"]] {
        let shown = shown(print, flags);
        assert!(contains(&shown, b"\nred and more\n") && !shown.contains(&0x1b), "{}", String::from_utf8_lossy(&shown));
    }
    let shown = shown(print, &["--color=always"]);
    assert!(contains(&shown, b"\n\x1b[31mred and more\x1b[0m\n"), "{}", String::from_utf8_lossy(&shown));
}

#[test]
fn control_characters_in_names_are_shown_by_their_pictures() {
    let ws = with_targets(&genrule("g", &["SRC"], &["g"], "false").replace("SRC", "a\\u001b[31m.txt"));
    ws.build(&["//..."]).code(2).says(&["a␛[31m.txt"]).says_nothing_of("\x1b");
    ws.write("a\u{1b}[31m.txt", "");
    ws.write("minibuild.toml", "[workspace]\nunknown = \"\\u001b[31m\"\n");
    ws.build(&["//..."]).code(2).says_nothing_of("\x1b");
}

/// Megabytes of memory that a build has had at most.
fn peak(build: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", build.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("it is told");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

const PRINTED: u64 = 150_000_000;

/// Prints a first line, far more than is shown, and a last line.
fn loud(stream: &str) -> String {
    format!("{{ echo first; head -c {PRINTED} /dev/zero | tr '\\0' '\\n'; echo last; }} {stream}")
}

fn place_of_all(stderr: &str) -> String {
    let place = stderr.split("  the whole output: ").nth(1).expect("it is told");
    place.lines().next().expect("a line").to_owned()
}

fn size(ws: &Workspace, path: &str) -> u64 {
    ws.path(path).metadata().map_or(0, |meta| meta.len())
}

#[test]
fn log_of_a_verbose_test_takes_no_memory() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    let targets = test("loud", &[], &format!("{}; echo error >&2", loud(""))) + &test("held", &[], &gate.pass());
    ws.write("BUILD.toml", targets);
    let build = ws.invoke(&["test", "-j2", "//..."]).start();
    gate.arrival();
    let (log, expected) = ("minibuild-out/testlogs/loud/test.log", PRINTED + 11 + 6);
    build.wait_until("the log is complete", || size(&ws, log) == expected);
    build.wait_for_event("\"test_completed\"");
    let peak = peak(&build);
    gate.open();
    build.wait().ok().says(&["//:loud PASSED"]);
    assert!(peak < 100, "{peak} MB");
    assert!(ws.read(log).ends_with("\nlast\nerror\n"));
}

#[test]
fn long_output_is_shown_in_part_with_the_place_of_all_of_it() {
    let failing = format!("{}; {}; exit 1", loud(""), loud(">&2"));
    let targets = genrule("g", &[], &["g"], &failing) + &test("t", &[], &format!("{}; exit 1", loud("")));
    let ws = with_targets(&targets);
    let run = ws.test(&["//:t"]).code(3);
    assert_eq!(place_of_all(&run.stderr), "minibuild-out/testlogs/t/test.log");
    assert_eq!(size(&ws, &place_of_all(&run.stderr)), PRINTED + 11);
    let run = ws.build(&["//:g"]).code(1).says(&["\nfirst\n", "bytes of output are left out here)\n", "\nlast\n"]);
    assert!(run.stderr.len() < 2_000_000, "{} bytes are shown", run.stderr.len());
    let whole = place_of_all(&run.stderr);
    let files: Vec<&str> = whole.split(", ").collect();
    assert_eq!(files.iter().map(|file| size(&ws, file)).collect::<Vec<_>>(), [PRINTED + 11; 2]);
    // The next build removes them.
    ws.write("BUILD.toml", genrule("g", &[], &["g"], ": > $OUT"));
    ws.build(&["//..."]).ok();
    assert_eq!(size(&ws, files[0]), 0);
}

#[test]
fn long_output_from_elsewhere_is_shown_in_part_too() {
    let print = "echo first; head -c 20000000 /dev/zero | tr '\\0' '\\n'; echo last";
    let ws = with_targets(&(genrule("g", &[], &["g"], &format!("{print}; : > $OUT")) + &test("t", &[], print)));
    let remote = ["--remote-executor=embedded", "--strategy=remote"];
    let run = ws.build(&[&remote[..], &["//:g"]].concat()).ok();
    assert_eq!(run.counts().remote, 1);
    assert!(run.stderr.len() < 1_000_000, "{} bytes are shown", run.stderr.len());
    let run = run.says(&["\nfirst\n", "bytes of output are left out here)\n", "\nlast\n"]);
    let whole = place_of_all(&run.stderr);
    assert_eq!(size(&ws, &whole), 20_000_011);
    ws.run(&["clean"]).ok();
    assert_eq!(size(&ws, &whole), 0);
    let run = ws.test(&[&remote[..], &["--test-output=all", "//:t"]].concat()).ok();
    assert_eq!(place_of_all(&run.stderr), "minibuild-out/testlogs/t/test.log");
    assert_eq!(size(&ws, "minibuild-out/testlogs/t/test.log"), 20_000_011);
}

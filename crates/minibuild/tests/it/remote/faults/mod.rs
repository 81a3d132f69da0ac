//! Servers that are down, silent, full, foreign or lie: the build ends as it was told to, with the right files or none.
//!
//! Whatever a server does, three builds are looked at: one that has to fail, one that may fall back to this machine, and
//! one that uses the server as a cache only.

mod connections;
mod results;

use minibuild_testkit::{Run, Workspace};

use super::{Remote, chain};

/// What no output of any run may hold.
const SECRET: &str = "s3cret-word";

/// What a build with `--on-remote-failure=fail` comes to.
#[derive(Clone, Copy, PartialEq)]
enum Strict {
    /// The fault is survived.
    Succeeds,
    /// It ends with this code.
    Ends(i32),
}

/// The retries and the patience of tests.
const IMPATIENT: &[&str] = &["//:c", "--remote-timeout=1s"];
const ONE_RETRY: &str = "--remote-retries=1";

/// The three builds against one server.
struct Trial<'a> {
    executor: &'a str,
    cache: &'a str,
    flags: &'a [&'a str],
}

impl Trial<'_> {
    fn run(&self, ws: &Workspace, more: &[&str]) -> Run {
        let retries =
            if self.flags.iter().any(|flag| flag.starts_with("--remote-retries")) { None } else { Some(ONE_RETRY) };
        let run = ws.build(&[IMPATIENT, retries.as_slice(), self.flags, more].concat());
        let everything = format!("{}{}{:?}", run.stdout, run.stderr, run.events);
        assert!(!everything.contains(SECRET), "a secret is shown:\n{everything}");
        let made = ws.has_output("c.txt").then(|| ws.output("c.txt"));
        assert!(made.as_ref().is_none_or(|text| text == "ONE\nb\nc\n"), "a wrong file: {made:?}");
        run
    }

    /// All three; the strict one says these texts where it fails.
    #[track_caller]
    fn all(&self, strict: Strict, says: &[&str]) {
        self.strict(strict, says);
        let ws = chain();
        self.run(&ws, &[self.executor, "--strategy=remote"]).ok();
        assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
        let ws = chain();
        let run = self.run(&ws, &[self.cache]).ok();
        assert_eq!((run.counts().failed, ws.output("c.txt").as_str()), (0, "ONE\nb\nc\n"));
    }

    #[track_caller]
    fn strict(&self, strict: Strict, says: &[&str]) {
        let ws = chain();
        let run = self.run(&ws, &[self.executor, "--strategy=remote", "--on-remote-failure=fail"]);
        match strict {
            Strict::Succeeds => drop(run.ok()),
            Strict::Ends(code) => {
                run.code(code).says(says);
                assert!(!ws.has_output("c.txt"));
            }
        }
    }
}

/// The three builds against a server with faults.
#[track_caller]
fn check(faults: &str, flags: &[&str], strict: Strict, says: &[&str]) {
    let remote = Remote::with(faults);
    check_server(&remote, flags, strict, says);
}

#[track_caller]
fn check_server(remote: &Remote, flags: &[&str], strict: Strict, says: &[&str]) {
    let (executor, cache) = (remote.executor(), remote.cache());
    Trial { executor: &executor, cache: &cache, flags }.all(strict, says);
}

/// A fault of a kind in a method.
fn fault(kind: &str, method: &str, more: &str) -> String {
    format!("[[fault]]\nkind = {kind:?}\nmethod = {method:?}\n{more}\n")
}

#[test]
fn calls_that_are_never_answered() {
    for method in ["GetCapabilities", "FindMissingBlobs", "BatchUpdateBlobs"] {
        check(&fault("hang", method, ""), &["--remote-retries=0"], Strict::Ends(34), &["grpc://127.", "for 1 s"]);
    }
    // A cache that is silent about results is none; the executor is asked.
    check(&fault("hang", "GetActionResult", ""), &["--remote-retries=0"], Strict::Succeeds, &[]);
    check(&fault("hang", "BatchReadBlobs", ""), &["--remote-retries=0"], Strict::Ends(34), &["grpc://127."]);
}

#[test]
fn answers_that_are_no_messages() {
    for kind in ["garbage", "proxy"] {
        for method in ["GetCapabilities", "FindMissingBlobs", "Execute"] {
            check(&fault(kind, method, ""), &[], Strict::Ends(34), &["grpc://127."]);
        }
        check(&fault(kind, "BatchReadBlobs", ""), &[], Strict::Ends(34), &["grpc://127."]);
    }
}

#[test]
fn a_cache_that_talks_nonsense_is_passed_over() {
    for kind in ["garbage", "proxy"] {
        check(&fault(kind, "GetActionResult", "after = 1"), &[], Strict::Succeeds, &[]);
        check(&fault(kind, "GetActionResult", ""), &[], Strict::Succeeds, &[]);
    }
}

#[test]
fn lies_about_sizes() {
    check(&fault("lie", "GetActionResult", ""), &[], Strict::Succeeds, &[]);
    check(&fault("lie", "BatchReadBlobs", ""), &[], Strict::Succeeds, &[]);
    for kind in ["short", "long"] {
        let wrong = format!("[[fault]]\nkind = {kind:?}\nbytes = 3\n");
        check(&wrong, &[], Strict::Ends(39), &["minibuild-out/bin/c.txt", "something else"]);
    }
}

#[test]
fn lies_about_what_is_there() {
    check(&fault("lie", "FindMissingBlobs", ""), &[], Strict::Succeeds, &[]);
    check(&fault("lie", "BatchUpdateBlobs", "times = 2"), &[], Strict::Succeeds, &[]);
}

#[test]
fn exhausted_for_a_while() {
    for method in
        ["GetCapabilities", "GetActionResult", "FindMissingBlobs", "BatchUpdateBlobs", "Execute", "BatchReadBlobs"]
    {
        let passing = fault("error", method, "code = \"RESOURCE_EXHAUSTED\"\nretry_ms = 20\ntimes = 3");
        check(&passing, &["--remote-retries=3"], Strict::Succeeds, &[]);
    }
}

#[test]
fn exhausted_for_ever() {
    for method in ["GetCapabilities", "FindMissingBlobs", "BatchUpdateBlobs", "Execute"] {
        let lasting = fault("error", method, "code = \"RESOURCE_EXHAUSTED\"\nretry_ms = 20");
        check(&lasting, &[], Strict::Ends(34), &["RESOURCE_EXHAUSTED", "grpc://127.", "tried 2 times"]);
    }
}

#[test]
fn a_store_that_is_full() {
    let full = fault("full", "BatchUpdateBlobs", "");
    check(&full, &[], Strict::Ends(34), &["RESOURCE_EXHAUSTED", "the store is full"]);
    let remote = Remote::configured("", |config| config.size_limit = 100);
    check_server(&remote, &[], Strict::Ends(34), &["RESOURCE_EXHAUSTED"]);
}

#[test]
fn an_instance_that_does_not_exist() {
    let served = "[server]\ninstances = [\"main\"]\n";
    check(served, &["--remote-instance=main"], Strict::Succeeds, &[]);
    check(served, &["--remote-instance=other"], Strict::Ends(34), &["instance name `other`", "grpc://127."]);
    check(served, &[], Strict::Ends(34), &["instance name ``"]);
}

#[test]
fn wrong_credentials() {
    let asked = format!("[server]\nrequire = [\"authorization=Bearer {SECRET}\"]\n");
    let header = |value: &str| format!("--remote-header=authorization=Bearer {value}");
    check(&asked, &[&header(SECRET)], Strict::Succeeds, &[]);
    let wrong = header(&format!("{SECRET}-but-wrong"));
    check(&asked, &[&wrong, "-v", "--explain"], Strict::Ends(34), &["UNAUTHENTICATED", "grpc://127."]);
    check(&asked, &[], Strict::Ends(34), &["UNAUTHENTICATED"]);
}

#[test]
fn a_cache_only_server_as_executor() {
    check("[server]\ncache_only = true\n", &[], Strict::Ends(34), &["grpc://127.", "execut"]);
}

#[test]
fn errors_of_every_code_in_every_call() {
    let codes = [
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "ABORTED",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
    ];
    for (number, method) in ["FindMissingBlobs", "BatchUpdateBlobs", "Execute"].into_iter().enumerate() {
        for code in codes.iter().skip(number).step_by(3) {
            check(&fault("error", method, &format!("code = {code:?}")), &[], Strict::Ends(34), &["grpc://127."]);
        }
    }
}

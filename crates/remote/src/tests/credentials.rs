//! Credential helpers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tonic::Status;

use super::fake::{Fake, then};
use super::harness::{Fixture, blob};
use crate::error::EnsureError;

/// A helper that counts its runs in a file `runs` beside it.
pub(super) fn helper(dir: &Path, script: &str) -> String {
    let path = dir.join("helper");
    let runs = dir.join("runs");
    let text = format!(
        "#!/bin/sh\nread -r request\nprintf '%s %s\\n' \"$1\" \"$request\" >> '{}'\n{script}\n",
        runs.display()
    );
    // Under another name first: a file that is written cannot be executed at the same time.
    std::fs::write(dir.join("new"), text).expect("written");
    std::fs::set_permissions(dir.join("new"), std::fs::Permissions::from_mode(0o755)).expect("set");
    std::fs::rename(dir.join("new"), &path).expect("renamed");
    path.to_str().expect("UTF-8").to_owned()
}

pub(super) fn runs(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn ask(fixture: &Fixture) -> Result<(), EnsureError> {
    fixture.ensure(&[blob(b"x")])
}

fn with_helper(fake: &Fake, dir: &Path, script: &str) -> Fixture {
    let program = helper(dir, script);
    Fixture::of(&fake.address, |config| config.credential_helper = Some(program))
}

/// Answers that the blob is missing and cannot be sent, so that the next call asks again.
fn refuse_then(fake: &Fake, count: usize) {
    for _ in 0..count {
        then(&fake.script.missing, |_| Err(Status::permission_denied("not you")));
    }
}

#[test]
fn headers_of_a_helper_are_sent_and_kept() {
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    let script = r#"echo '{"expires":"2999-01-01T00:00:00Z","headers":{"Authorization":["Bearer token"]}}'"#;
    let fixture = with_helper(&fake, dir.path(), script);
    refuse_then(&fake, 3);
    for _ in 0..3 {
        ask(&fixture).expect_err("refused");
    }
    let host = fake.address.trim_start_matches("grpc://");
    assert_eq!(runs(dir.path()), [format!("get {{\"uri\":\"https://{host}/\"}}")]);
    let headers = fake.script.headers.lock().expect("no panic");
    assert!(headers.iter().all(|map| map.get("authorization").is_some_and(|value| value == "Bearer token")));
}

#[test]
fn what_has_expired_is_asked_for_anew() {
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture = with_helper(&fake, dir.path(), r#"echo '{"expires":"2001-01-01T00:00:00Z","headers":{"a":["b"]}}'"#);
    refuse_then(&fake, 2);
    for _ in 0..2 {
        ask(&fixture).expect_err("refused");
    }
    assert_eq!(runs(dir.path()).len(), 3, "one for the capabilities, one for each question");
}

#[test]
fn refused_credentials_are_asked_for_once_more() {
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture = with_helper(&fake, dir.path(), r#"echo '{"headers":{"a":["b"]}}'"#);
    then(&fake.script.missing, |_| Err(Status::unauthenticated("old")));
    then(&fake.script.missing, |_| Ok(Default::default()));
    ask(&fixture).expect("with new ones");
    assert_eq!(runs(dir.path()).len(), 2);
    fixture.cas.forget(&[blob(b"x").digest]);
    for _ in 0..2 {
        then(&fake.script.missing, |_| Err(Status::unauthenticated("never")));
    }
    ask(&fixture).expect_err("refused twice");
    assert_eq!(runs(dir.path()).len(), 3);
}

#[test]
fn helpers_that_fail_say_why_and_nothing_secret() {
    for (script, part) in [
        ("echo secret; echo 'log in first' >&2; exit 3", "failed (exit status: 3): log in first"),
        ("echo secret", "printed something else than headers"),
        (r#"echo '{"headers":{"a b":["secret"]}}'"#, "printed a bad remote header `a b`"),
        (r#"echo '{"headers":{"a":"secret"}}'"#, "printed something else than headers"),
        (r#"echo '{"expires":"secret","headers":{}}'"#, "`expires` that is no time"),
    ] {
        let fake = Fake::new(false);
        let dir = tempfile::tempdir().expect("temp dir");
        let error = ask(&with_helper(&fake, dir.path(), script)).expect_err(script).to_string();
        assert!(error.contains(part) && error.contains("UNAUTHENTICATED") && !error.contains("secret"), "{error}");
    }
    let fake = Fake::new(false);
    let fixture = Fixture::of(&fake.address, |config| config.credential_helper = Some("/nonexistent/helper".into()));
    let error = ask(&fixture).expect_err("no helper").to_string();
    assert!(error.contains("`/nonexistent/helper` cannot be run"), "{error}");
}

/// An answer as a helper prints it.
const ANSWER: &str = r#"echo '{"headers":{"a":["b"]}}'"#;

#[test]
fn children_of_a_helper_that_keep_its_output_open_are_not_waited_for() {
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture =
        with_helper(&fake, dir.path(), &format!("sleep 1000 & echo $! > '{}/pid'; {ANSWER}", dir.path().display()));
    then(&fake.script.missing, |_| Ok(Default::default()));
    ask(&fixture).expect("with its headers");
    let pid = std::fs::read_to_string(dir.path().join("pid")).expect("written").trim().parse().expect("a number");
    assert!(minibuild_testkit::wait_until_dead(pid, std::time::Duration::from_secs(60)), "it lives on");
    assert!(fixture.told().is_empty(), "{:?}", fixture.told());
}

#[test]
fn helper_that_prints_without_end_is_ended() {
    for script in ["exec yes", "exec yes >&2", "head -c 300000 /dev/zero"] {
        let fake = Fake::new(false);
        let dir = tempfile::tempdir().expect("temp dir");
        let error = ask(&with_helper(&fake, dir.path(), script)).expect_err(script).to_string();
        assert!(error.contains("printed more than 256 KiB"), "{script}: {error}");
    }
    // What writes on when the helper has ended: how much of it is read in time is chance.
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    ask(&with_helper(&fake, dir.path(), "yes & exit 0")).expect_err("no headers");
}

#[test]
fn helper_that_failed_is_not_asked_by_each_call() {
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture = with_helper(&fake, dir.path(), "echo 'log in first' >&2; exit 3");
    for _ in 0..3 {
        ask(&fixture).expect_err("no credentials");
    }
    assert_eq!(runs(dir.path()).len(), 1);
    let told = fixture.told();
    assert!(
        matches!(&told[..], [one] if one.contains("log in first") && one.contains("going on without it")),
        "{told:?}"
    );
}

/// A call that is dropped once it was told that the helper is slow.
fn begin_to_ask(fixture: &Fixture) {
    let waits = async {
        while fixture.told().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (who, blobs) = (super::harness::who(), [blob(b"x")]);
    fixture.run(async {
        tokio::select! {
            _ = fixture.cas.ensure(&who, &blobs, &|_, _| {}) => panic!("no answer was given"),
            () = waits => {}
        }
    });
}

#[test]
fn slow_helper_is_told_of_and_ends_with_the_client() {
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture = with_helper(&fake, dir.path(), &format!("echo $$ > '{}/pid'; sleep 1000", dir.path().display()));
    begin_to_ask(&fixture);
    let told = fixture.told();
    assert!(matches!(&told[..], [one] if one.starts_with("waiting for the credential helper `")), "{told:?}");
    drop(fixture);
    let pid = std::fs::read_to_string(dir.path().join("pid")).expect("written").trim().parse().expect("a number");
    assert!(minibuild_testkit::wait_until_dead(pid, std::time::Duration::from_secs(60)), "it lives on");
}

#[test]
fn answer_that_the_first_call_did_not_wait_for_is_the_next_ones() {
    let fake = Fake::new(false);
    let dir = tempfile::tempdir().expect("temp dir");
    let go = dir.path().join("go");
    let fixture = with_helper(&fake, dir.path(), &format!("mkfifo '{0}'; read -r x < '{0}'; {ANSWER}", go.display()));
    begin_to_ask(&fixture);
    std::fs::write(&go, "\n").expect("it waits");
    then(&fake.script.missing, |_| Ok(Default::default()));
    ask(&fixture).expect("with headers");
    assert_eq!(runs(dir.path()).len(), 1);
}

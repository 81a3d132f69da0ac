//! Exit codes of the contract (DESIGN §5).

use minibuild_engine::machine::Outcome;

/// Everything asked for is done.
pub const SUCCESS: u8 = 0;
/// The build failed.
pub const BUILD_FAILED: u8 = 1;
/// Bad command line, configuration, TOML or label.
pub const BAD_INPUT: u8 = 2;
/// Tests failed.
pub const TESTS_FAILED: u8 = 3;
/// The patterns are valid, but name no test.
pub const NO_TESTS: u8 = 4;
/// Ctrl-C, SIGTERM or SIGHUP.
pub const INTERRUPTED: u8 = 8;
/// The remote side failed, and nothing else could take its place.
pub const REMOTE_FAILED: u8 = 34;
/// Something of minibuild itself is wrong.
pub const INTERNAL: u8 = 37;
/// Events or profile could not be written.
pub const EVENTS_NOT_WRITTEN: u8 = 38;
/// Blobs are lost and cannot be made again.
pub const LOST: u8 = 39;

/// The code of a build; of several causes the gravest.
pub fn of(outcome: &Outcome) -> u8 {
    let causes = [
        (outcome.internal.is_some(), INTERNAL),
        (outcome.interrupted, INTERRUPTED),
        (outcome.lost, LOST),
        (outcome.remote_failed, REMOTE_FAILED),
        (outcome.failed, BUILD_FAILED),
        (outcome.tests_failed, TESTS_FAILED),
    ];
    causes.iter().find(|(applies, _)| *applies).map_or(SUCCESS, |(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_cause_decides() {
        let check = |outcome: Outcome, expected| assert_eq!(of(&outcome), expected, "{outcome:?}");
        let none = Outcome::default();
        check(none.clone(), 0);
        check(Outcome { tests_failed: true, ..none.clone() }, 3);
        check(Outcome { tests_failed: true, failed: true, ..none.clone() }, 1);
        check(Outcome { lost: true, failed: true, ..none.clone() }, 39);
        check(Outcome { remote_failed: true, failed: true, ..none.clone() }, 34);
        check(Outcome { lost: true, remote_failed: true, ..none.clone() }, 39);
        check(Outcome { interrupted: true, lost: true, ..none.clone() }, 8);
        check(Outcome { interrupted: true, internal: Some("bug".into()), ..none }, 37);
    }
}

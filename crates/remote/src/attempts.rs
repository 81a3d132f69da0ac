//! What to do next with a remote execution, given how the last step ended.
//!
//! A protocol by values: it holds no connection and no clock, and every counter of it is bounded. It does not know how
//! a step is carried out.

use std::time::Duration;

use minibuild_core::{Digest, DigestFunction, visible_line};
use minibuild_reapi::proto::rpc::Status;
use minibuild_reapi::status::{missing_blobs_of, retry_delay};

use crate::error::code_name;

/// How often blobs that the server misses are uploaded again.
const MISSING: u32 = 5;
/// How often an action is executed anew because its operation is gone.
const ANEW: u32 = 5;
/// How often an action is executed anew because blobs of its result are gone.
const RESULTS_LOST: u32 = 3;
/// How often a stream is taken up again in all.
const ATTACHED: u32 = 1000;

/// How a step ended without a result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// The stream broke, or ended without the result; whether it had brought anything.
    Broken {
        /// What was seen.
        why: String,
        /// Whether the stream told anything before.
        had_news: bool,
    },
    /// The server does not know the operation (any more).
    Forgotten(String),
    /// The server refused the action or gave it up.
    Refused(Status),
    /// The result names blobs the server does not have.
    ResultLost(String),
    /// The server cannot be called.
    Failed(String),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take the operation up again, after a pause.
    Wait(Pause),
    /// Ask the action cache, then execute.
    AskCache,
    /// Execute, after a pause.
    Execute(Pause),
    /// Execute, whatever is in the action cache.
    ExecuteBypassingCache,
    /// Upload these and whatever else is missing, then execute.
    UploadMissing(Vec<Digest>),
    /// Look afresh what is missing, upload it, then execute.
    UploadAfresh,
    /// It ran too long.
    TimedOut,
    /// It cannot be done here.
    GiveUp(String),
}

/// A pause before a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Whether there is a reason to pause at all.
    pub(crate) follows_failure: bool,
    /// Failures in a row before the one that led here.
    pub(crate) failures: u32,
    /// `RetryInfo`.
    pub(crate) asked: Option<Duration>,
}

/// The attempts at one action.
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    function: DigestFunction,
    retries: u32,
    failures: u32,
    missing: u32,
    anew: u32,
    attached: u32,
    results_lost: u32,
    is_afresh: bool,
}

impl Attempts {
    /// `retries` failures in a row are forgiven.
    pub(crate) fn new(function: DigestFunction, retries: u32) -> Self {
        Self { function, retries, failures: 0, missing: 0, anew: 0, attached: 0, results_lost: 0, is_afresh: false }
    }

    /// What to do after `ending`; `is_named` tells whether there is an operation to take up.
    pub(crate) fn next(&mut self, ending: Ending, is_named: bool) -> Step {
        match ending {
            Ending::Broken { why, had_news } => self.broken(why, had_news, is_named),
            Ending::Forgotten(why) => self.forgotten(why),
            Ending::Refused(status) => self.refused(&status),
            Ending::ResultLost(_) if self.results_lost < RESULTS_LOST => {
                self.results_lost += 1;
                Step::ExecuteBypassingCache
            }
            Ending::ResultLost(why) | Ending::Failed(why) => Step::GiveUp(why),
        }
    }

    fn broken(&mut self, why: String, had_news: bool, is_named: bool) -> Step {
        if had_news {
            self.failures = 0;
        }
        self.attached += 1;
        if self.attached > ATTACHED {
            return Step::GiveUp(why);
        }
        match (self.pause(None, &why), is_named) {
            (Ok(pause), true) => Step::Wait(pause),
            (Ok(pause), false) => Step::Execute(pause),
            (Err(step), _) => step,
        }
    }

    fn forgotten(&mut self, why: String) -> Step {
        self.anew += 1;
        if self.anew > ANEW { Step::GiveUp(why) } else { Step::AskCache }
    }

    fn refused(&mut self, status: &Status) -> Step {
        let text = || status_text(status);
        match status.code {
            code::FAILED_PRECONDITION | code::INTERNAL | code::NOT_FOUND | code::INVALID_ARGUMENT => {
                let missing = self.missing_of(status);
                if !missing.is_empty() && self.missing < MISSING {
                    self.missing += 1;
                    return Step::UploadMissing(missing);
                }
                if status.code == code::INVALID_ARGUMENT || self.is_afresh {
                    return Step::GiveUp(text());
                }
                self.is_afresh = true;
                Step::UploadAfresh
            }
            code::DEADLINE_EXCEEDED => Step::TimedOut,
            code::CANCELLED | code::UNAVAILABLE | code::RESOURCE_EXHAUSTED | code::ABORTED | code::UNKNOWN => {
                match self.pause(retry_delay(status), &text()) {
                    Ok(pause) => Step::Execute(pause),
                    Err(step) => step,
                }
            }
            _ => Step::GiveUp(text()),
        }
    }

    fn missing_of(&self, status: &Status) -> Vec<Digest> {
        let missing = missing_blobs_of(status).into_iter();
        missing.filter(|(function, _)| *function == self.function).map(|(_, digest)| digest).collect()
    }

    fn pause(&mut self, asked: Option<Duration>, why: &str) -> Result<Pause, Step> {
        if self.failures >= self.retries {
            return Err(Step::GiveUp(why.to_owned()));
        }
        let pause = Pause { follows_failure: true, failures: self.failures, asked };
        self.failures += 1;
        Ok(pause)
    }
}

/// A status as a message shows it.
pub(crate) fn status_text(status: &Status) -> String {
    let name = code_name(tonic::Code::from(status.code));
    if status.message.is_empty() { name.to_owned() } else { format!("{name}: {}", visible_line(&status.message)) }
}

/// Numbers of `google.rpc.Code`.
pub(crate) mod code {
    pub(crate) const CANCELLED: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const DEADLINE_EXCEEDED: i32 = 4;
    pub(crate) const NOT_FOUND: i32 = 5;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const FAILED_PRECONDITION: i32 = 9;
    pub(crate) const ABORTED: i32 = 10;
    pub(crate) const INTERNAL: i32 = 13;
    pub(crate) const UNAVAILABLE: i32 = 14;
}

#[cfg(test)]
mod tests {
    use minibuild_reapi::status::{missing_blobs, with_retry_delay};

    use super::*;

    const F: DigestFunction = DigestFunction::Sha256;

    fn attempts() -> Attempts {
        Attempts::new(F, 3)
    }

    fn broken(had_news: bool) -> Ending {
        Ending::Broken { why: "cut".into(), had_news }
    }

    fn refused(code: i32) -> Ending {
        Ending::Refused(Status { code, message: "no".into(), details: vec![] })
    }

    fn pause(failures: u32) -> Pause {
        Pause { follows_failure: true, failures, asked: None }
    }

    #[test]
    fn broken_streams_are_taken_up_again_and_news_forgive() {
        let mut a = attempts();
        assert_eq!(a.next(broken(false), false), Step::Execute(pause(0)));
        assert_eq!(a.next(broken(false), true), Step::Wait(pause(1)));
        assert_eq!(a.next(broken(true), true), Step::Wait(pause(0)));
        assert_eq!(a.next(broken(false), true), Step::Wait(pause(1)));
        assert_eq!(a.next(broken(false), true), Step::Wait(pause(2)));
        assert_eq!(a.next(broken(false), true), Step::GiveUp("cut".into()));
    }

    #[test]
    fn no_server_is_asked_for_ever() {
        let endings = [
            broken(true),
            Ending::Forgotten("gone".into()),
            Ending::Refused(missing_blobs(F, &[F.digest(b"x")])),
            Ending::ResultLost("lost".into()),
            Ending::Failed("down".into()),
            refused(code::INTERNAL),
            refused(code::CANCELLED),
            refused(code::UNAVAILABLE),
        ];
        for ending in endings {
            let mut a = attempts();
            let steps = (0..2000).map(|_| a.next(ending.clone(), true));
            assert!(steps.take_while(|step| !matches!(step, Step::GiveUp(_))).count() <= 1000, "{ending:?}");
        }
    }

    #[test]
    fn forgotten_operations_are_looked_up_then_executed_anew() {
        let mut a = attempts();
        for _ in 0..ANEW {
            assert_eq!(a.next(Ending::Forgotten("gone".into()), true), Step::AskCache);
        }
        assert_eq!(a.next(Ending::Forgotten("gone".into()), true), Step::GiveUp("gone".into()));
    }

    #[test]
    fn missing_blobs_are_uploaded_some_times_then_all_of_them_once() {
        let digests = [F.digest(b"a"), F.digest(b"b")];
        let ending = Ending::Refused(missing_blobs(F, &digests));
        let mut a = attempts();
        for _ in 0..MISSING {
            assert_eq!(a.next(ending.clone(), true), Step::UploadMissing(digests.to_vec()));
        }
        assert_eq!(a.next(ending.clone(), true), Step::UploadAfresh);
        assert!(matches!(a.next(ending, true), Step::GiveUp(text) if text.contains("2 blobs")));
    }

    #[test]
    fn refusals_without_details() {
        for code in [code::FAILED_PRECONDITION, code::INTERNAL, code::NOT_FOUND] {
            let mut a = attempts();
            assert_eq!(a.next(refused(code), true), Step::UploadAfresh);
            assert!(matches!(a.next(refused(code), true), Step::GiveUp(text) if text.ends_with(": no")));
        }
        for code in [code::CANCELLED, code::UNAVAILABLE, code::ABORTED, code::UNKNOWN, code::RESOURCE_EXHAUSTED] {
            assert_eq!(attempts().next(refused(code), true), Step::Execute(pause(0)));
        }
        for code in [code::INVALID_ARGUMENT, 7, 11, 12, 16] {
            assert!(matches!(attempts().next(refused(code), true), Step::GiveUp(_)), "{code}");
        }
        assert_eq!(attempts().next(refused(code::DEADLINE_EXCEEDED), true), Step::TimedOut);
        let wait = with_retry_delay(Status { code: code::UNAVAILABLE, ..Default::default() }, Duration::from_secs(7));
        let asked = Pause { asked: Some(Duration::from_secs(7)), ..pause(0) };
        assert_eq!(attempts().next(Ending::Refused(wait), true), Step::Execute(asked));
    }

    #[test]
    fn a_result_without_its_blobs_is_made_again_some_times() {
        let mut a = attempts();
        for _ in 0..RESULTS_LOST {
            assert_eq!(a.next(Ending::ResultLost("lost".into()), true), Step::ExecuteBypassingCache);
        }
        assert_eq!(a.next(Ending::ResultLost("lost".into()), true), Step::GiveUp("lost".into()));
    }
}

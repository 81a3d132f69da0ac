//! Questions to the cache as parts of races: what comes back wins, or is a miss.
//!
//! Those for the bytes of a known result, before there is a race, are in `remote`.

use std::time::Duration;

use minibuild_core::{ActionId, Branch, CacheAnswer, Digest, RunId};
use minibuild_dynamic::policy::Event as Chosen;
use minibuild_dynamic::race::{Answer, Attempt, Event as Heard};

use super::race::{Report, Run};
use super::{Machine, Status, Step};

/// A question to the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookUp {
    attempt: Attempt,
    since: Duration,
    /// Of contents, when it was asked.
    generation: u64,
}

impl Machine {
    pub(super) fn begin_look_up(&mut self, action: ActionId, attempt: Attempt) {
        let (since, generation) = (self.now, self.generation);
        let Some(running) = self.running.get_mut(&action) else { return };
        running.look_up = Some(LookUp { attempt, since, generation });
        let key = running.key.action;
        if self.status_of(action) == Status::Queued {
            self.set_status(action, Status::LookingUp);
        }
        let lookup = self.lookup_for(RunId { action, attempt: attempt.0 }, key);
        self.steps.push(Step::LookUp(Box::new(lookup)));
    }

    pub(super) fn drop_look_up(&mut self, action: ActionId) {
        if let Some(running) = self.running.get_mut(&action) {
            running.look_up = None;
        }
        self.tell_policy(Chosen::LookUpFailed(action));
    }

    /// The cache answered an action that is on its way.
    pub(super) fn take_raced_answer(&mut self, run: RunId, answer: CacheAnswer, took: Duration) {
        let action = run.action;
        let Some(running) = self.running.get_mut(&action) else { return };
        let Some(asked) = running.look_up.take_if(|asked| asked.attempt.0 == run.attempt) else { return };
        let key = running.key.action;
        let stands = asked.generation == self.generation || self.has_key(action, key);
        let has_failed = matches!(answer, CacheAnswer::Failed(_));
        self.outcome.cache_errors += u64::from(has_failed && stands);
        let found = match answer {
            CacheAnswer::Hit(report) if stands => self.usable_hit(action, key, asked, report),
            _ => None,
        };
        if stands && found.is_none() {
            self.missed.insert(action, key);
        }
        if self.status_of(action) == Status::LookingUp {
            if !stands {
                // With other inputs it is another question.
                return self.reopen(action);
            }
            if found.is_none() {
                self.set_status(action, Status::Queued);
            }
        }
        self.tell_policy(match has_failed {
            true => Chosen::LookUpFailed(action),
            false => Chosen::LookedUp { action, hit: found.is_some(), took: Some(took) },
        });
        let answer = match found {
            Some(report) => Answer::Hit { to_stage: self.is_to_be_staged(action), report },
            None => Answer::Miss,
        };
        self.tell_race(action, Heard::LookedUp(asked.attempt, answer));
        if self.running.contains_key(&action) && self.status_of(action) == Status::LookingUp {
            // A hit that is to be compared waits for the run here.
            self.set_running(action);
        }
    }

    /// Whether the action's inputs still make this key.
    fn has_key(&mut self, action: ActionId, key: Digest) -> bool {
        let command = self.command_of(action);
        let inputs = self.flat_inputs(action);
        self.key(action, &command, &inputs).is_ok_and(|now| now.action == key)
    }

    /// A cached result, if it is of use. Beside a local run it is a branch of its own.
    fn usable_hit(&mut self, action: ActionId, key: Digest, asked: LookUp, report: Report) -> Option<Report> {
        if self.is_known_to_be_lost(action, &key, &report.outputs) {
            return None;
        }
        let read = self.read_inputs(action, &report).ok()?;
        let ended = Some(self.now);
        let running = self.running.get_mut(&action)?;
        let is_race = running.local.is_some();
        let run = Run::new(asked.attempt.0, asked.since);
        running.remote = Some(Run { is_over: true, read, ended, ..run });
        if is_race {
            self.note_branch(action, Branch::Remote, "the cache had its result".to_owned());
        }
        Some(report)
    }
}

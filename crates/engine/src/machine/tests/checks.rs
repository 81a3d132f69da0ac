//! What must hold of a build after each event and at its end.

use std::collections::BTreeMap;

use minibuild_core::{ActionId, ArtifactId, ArtifactKind, Branch, FetchRequest, RunId, Urgency};

use super::fake::content_of;
use super::session::Session;
use crate::machine::held_starts::{Cause, Rank};
use crate::machine::{Running, Status, Stopping};

impl Session<'_> {
    pub(super) fn actions(&self) -> impl Iterator<Item = ActionId> + use<> {
        (0..self.fake.plan.actions.len()).map(ActionId::new)
    }

    /// What holds after each event.
    pub(super) fn check_always(&self) {
        let machine = &self.machine;
        if machine.stopping.is_some() {
            assert!(self.fake.runs.values().all(|run| run.stop.is_some()), "something runs on after a stop");
        }
        let count = |status| self.actions().filter(|&a| machine.status_of(a) == status).count() as u64;
        let counts = &machine.outcome.counts;
        let made = counts.up_to_date + counts.local + counts.remote + counts.remote_cache + counts.disk_cache;
        assert_eq!(count(Status::Done), made, "{counts:?}");
        assert_eq!(count(Status::Failed), counts.failed, "{counts:?}");
        assert!(machine.progress().done <= counts.total, "{counts:?}");
        self.check_remote();
        let remote = &self.fake.remote;
        for action in self.actions() {
            let running = machine.running.get(&action);
            let has_begun = running.is_some_and(Running::has_begun);
            assert_eq!(machine.status_of(action) == Status::Running, has_begun, "{action:?}");
            let may_begin = matches!(machine.status_of(action), Status::Queued | Status::LookingUp);
            assert!(running.is_none() || has_begun || may_begin, "{action:?} has a race that nobody runs");
            let runs_on = |branch| running.is_some_and(|running| running.runs_on(branch));
            assert_eq!(self.fake.runs.contains_key(&action), runs_on(Branch::Local));
            let is_of = |run: &RunId| run.action == action;
            let runs_there = remote.runs.keys().any(is_of);
            assert_eq!(runs_there, runs_on(Branch::Remote));
            let is_moved = remote.stagings.keys().any(is_of) || remote.publishing.keys().any(is_of);
            let is_under_way = self.fake.runs.contains_key(&action) || runs_there || is_moved;
            let needs = running.is_some_and(|running| running.needs.is_some());
            let is_held = machine.use_waiters.has_answer_for(action);
            let is_asked = remote.lookups.keys().any(is_of) || is_held;
            assert!(!has_begun || is_under_way || needs || is_asked, "{action:?} is not given up, and nothing goes on");
            assert!(has_begun || !is_under_way, "{action:?} is under way, and nobody knows");
        }
        assert_eq!((machine.running_here, machine.running_there), (self.fake.runs.len(), remote.runs.len()));
        if let Some(chooser) = machine.chooser.as_ref().filter(|_| machine.stopping.is_none()) {
            let (here, there) = chooser.policy.under_way();
            assert_eq!(here, machine.running_here, "the policy counts other runs here");
            assert!(there >= machine.running_there, "the policy counts fewer runs there");
        }
        for action in self.actions() {
            if machine.status_of(action) == Status::Done {
                self.check_done(action);
            }
        }
        if machine.stopping.is_none() && self.outcome.is_none() {
            self.actions().for_each(|action| self.check_queue_of(action));
            // What was offered to the policy has taken its part already, whether it starts or not.
            let may_start =
                |action| machine.chooser.as_ref().is_some_and(|c| c.policy.may_start_on(action, Branch::Local));
            let is_reserved = self.actions().any(may_start);
            machine.held_starts.all().for_each(|(rank, cause)| self.check_cause(*rank, cause, is_reserved));
        }
    }

    /// Each start that may happen stands in one queue: the machine's, or one of the policy's.
    fn check_queue_of(&self, action: ActionId) {
        let machine = &self.machine;
        let status = machine.status_of(action);
        if status == Status::Reopened {
            let user = machine.use_waiters.user_before(action);
            assert!(user.is_some_and(|user| self.is_user(user)), "{action:?} waits for {user:?}, whose use is over");
        }
        let Some(chooser) = &machine.chooser else {
            let is_held = machine.held_starts.has(action, Branch::Local);
            return assert_eq!(is_held, status == Status::Queued, "{action:?} stands nowhere, or where it should not");
        };
        let policy = &chooser.policy;
        for branch in [Branch::Local, Branch::Remote] {
            let is_held = machine.held_starts.has(action, branch);
            let is_parked = policy.is_parked(action, branch) && machine.is_open_for(action, branch);
            assert!(!is_parked || is_held, "{action:?} on {branch:?} came back and stands nowhere");
            assert!(!is_held || policy.is_parked(action, branch), "{action:?} on {branch:?} stands in two queues");
        }
        let is_held = machine.held_starts.has(action, Branch::Local) || machine.held_starts.has(action, Branch::Remote);
        assert!(status != Status::Queued || is_held || policy.may_start(action), "{action:?} stands nowhere");
    }

    /// Whether outputs may be in use by this action.
    fn is_user(&self, action: ActionId) -> bool {
        self.machine.status_of(action) == Status::Running || self.machine.is_being_fetched(action)
    }

    /// What a start is held for is in its way still, and somebody will tell when it is not.
    fn check_cause(&self, rank: Rank, cause: &Cause, is_reserved: bool) {
        let (machine, (_, action, branch)) = (&self.machine, rank);
        // What waits for places is not looked at behind something more urgent that does, nor while there is none at all.
        let may_start = |rank: Rank| machine.fit(rank.1, &machine.usage) != Some(Cause::Room);
        let is_next_stuck = machine.chooser.is_none() && !machine.next_here().is_some_and(may_start);
        let is_passed_over = is_next_stuck || is_reserved || machine.held_starts.is_blocked(rank);
        let lasts = match cause {
            Cause::Unknown => is_next_stuck,
            Cause::InUse(user) => self.is_user(*user) && machine.use_waiters.has_start(*user, action, branch),
            Cause::Pool(pool) => is_passed_over || !machine.has_place_in(pool, &machine.usage),
            Cause::Exclusive => is_passed_over || machine.running_here > 0,
            Cause::Room => is_passed_over || machine.fit(action, &machine.usage) == Some(Cause::Room),
            Cause::Behind => is_passed_over,
            Cause::Inputs(inputs) => inputs.last().is_some_and(|&input| machine.is_missing(input, branch)),
        };
        assert!(lasts, "{action:?} is held on {branch:?} for what is over: {cause:?}");
    }

    /// What the machine thinks is under way remotely is so, and while a build is not over something is.
    fn check_remote(&self) {
        let (machine, remote) = (&self.machine, &self.fake.remote);
        if machine.stopping.is_some() {
            assert!(remote.runs.values().all(|run| run.stop.is_some()), "something runs remotely after a stop");
            let stop = remote.fetches.values().all(|fetch| self.is_remains(fetch));
            assert!(stop || remote.fetches_stopped, "fetches go on after a stop");
        }
        if self.outcome.is_some() {
            assert!(!machine.awaits_uploads() || machine.stopping >= Some(Stopping::Interrupted));
            return;
        }
        let statuses = &machine.status;
        assert!(!self.doing().is_empty(), "nothing is under way, and the build is not over: {statuses:?}");
        assert_eq!(machine.uploading.len(), remote.uploads.len());
        let ids = (0..machine.known.len()).map(ArtifactId::new);
        let on_their_way = ids.filter(|&id| machine.bytes.is_on_its_way(id)).count();
        let fetches = remote.fetches.len() + self.fake.stores.fetches().count();
        assert_eq!((on_their_way, machine.bytes.under_way()), (fetches, fetches));
        let waits = |&action: &ActionId| machine.stopping.is_none() && machine.status_of(action) == Status::LookingUp;
        for action in self.actions().filter(waits) {
            let is_held = machine.use_waiters.has_answer_for(action);
            let is_asked = remote.lookups.keys().any(|run| run.action == action) || !remote.checks.is_empty();
            assert!(is_asked || is_held || self.fake.stores.is_asked(action), "{action:?} waits for no answer");
        }
    }

    /// Whether a fetch brings what a failed action left, which a stop does not forbid.
    pub(super) fn is_remains(&self, request: &FetchRequest) -> bool {
        self.machine.status_of(request.producer) == Status::Failed && request.urgency == Urgency::Background
    }

    /// Where no bytes are asked for, only what an action reads here is brought here.
    pub(super) fn check_fetch(&self, id: ArtifactId, request: &FetchRequest) {
        let machine = &self.machine;
        assert_eq!(machine.bytes.here(id), None, "`{}` is here", request.path);
        if machine.bytes.wanted(id).is_some() {
            return;
        }
        let waits = |&action: &ActionId| {
            let (plain, discoverable) = self.fake.inputs(action);
            // The whole event is over by now: whoever was queued in it may have been skipped in it, too.
            let is_open = matches!(
                machine.status_of(action),
                Status::Queued
                    | Status::LookingUp
                    | Status::Running
                    | Status::AwaitingInputs
                    | Status::Reopened
                    | Status::Skipped
                    | Status::Failed
            );
            is_open
                && plain.iter().chain(&discoverable).any(|&input| input == id)
                // What only a store of this machine has is brought to its place before it is sent.
                && machine.sides(action).is_ok_and(|sides| sides.here || self.ask.stores.any())
        };
        assert!(self.actions().any(|action| waits(&action)), "nobody needs `{}`", request.path);
        assert_eq!(request.urgency, Urgency::Input);
    }

    /// What is known of a finished action's outputs is what lies on the disk.
    fn check_done(&self, action: ActionId) {
        for &id in &self.fake.model.action(action).outputs {
            let (known, bytes) = (&self.machine.known[id.index()], &self.machine.bytes);
            let artifact = self.fake.model.artifact(id);
            let here = self.fake.disk.get(artifact.path.as_str());
            match bytes.here(id) {
                Some(fingerprint) => {
                    let here = here.unwrap_or_else(|| panic!("`{}` is not on disk", artifact.path));
                    assert_eq!(*known, Some(here.content()), "`{}`", artifact.path);
                    assert!(artifact.kind == ArtifactKind::Directory || fingerprint == here.fingerprint());
                }
                None => {
                    let may_be_absent = bytes.wanted(id).is_none()
                        || bytes.is_on_its_way(id)
                        || self.disk_failed
                        || self.machine.outcome.remote_failed
                        || self.machine.can_fetch() && self.machine.stopping.is_some();
                    assert!(may_be_absent, "`{}` is wanted and not here", artifact.path);
                    let here = here.map(|entry| entry.content());
                    assert!(here.is_none() || here != *known, "`{}` is on disk unnoticed", artifact.path);
                }
            }
        }
    }

    pub(super) fn check_end(&self) {
        let outcome = self.outcome.as_ref().expect("the build is over");
        assert_eq!(outcome.internal, None);
        assert_eq!(self.announced.len(), self.ask.targets.len(), "each target is announced");
        let is_good = !(outcome.failed || outcome.tests_failed || outcome.interrupted || outcome.lost);
        let counts = &outcome.counts;
        if is_good {
            let made = counts.up_to_date + counts.local + counts.remote + counts.remote_cache + counts.disk_cache;
            assert_eq!(counts.total, made);
            assert!(self.announced.values().all(|&success| success), "{:?}", self.announced);
            if !self.is_mixed {
                self.check_against_clean_build();
            }
        }
    }

    /// Every wanted output is what a build from nothing would have made of the sources as they were seen.
    fn check_against_clean_build(&self) {
        let mut clean = Clean { session: self, texts: BTreeMap::new() };
        for action in self.actions().filter(|&a| self.machine.status_of(a) == Status::Done) {
            for &id in &self.fake.model.action(action).outputs {
                let expected = clean.text(id);
                let kind = self.fake.model.artifact(id).kind;
                let path = &self.fake.model.artifact(id).path;
                assert_eq!(self.machine.known[id.index()], Some(content_of(kind, &expected)), "`{path}`");
            }
        }
    }
}

/// A build from nothing, on paper.
struct Clean<'a, 'b> {
    session: &'a Session<'b>,
    texts: BTreeMap<ArtifactId, String>,
}

impl Clean<'_, '_> {
    fn text(&mut self, id: ArtifactId) -> String {
        if let Some(text) = self.texts.get(&id) {
            return text.clone();
        }
        let fake = &*self.session.fake;
        let artifact = fake.model.artifact(id);
        let text = match artifact.producer {
            None => self.source_text(id),
            Some(action) => self.output_text(action, id),
        };
        self.texts.insert(id, text.clone());
        text
    }

    /// As it was seen when the build began: one that changes meanwhile is the next build's matter.
    fn source_text(&self, id: ArtifactId) -> String {
        let content = self.session.machine.known[id.index()].as_ref().expect("a usable source");
        self.session.fake.texts.get(&content.digest_and_size().0).expect("seen").clone()
    }

    fn output_text(&mut self, action: ActionId, id: ArtifactId) -> String {
        let fake = &*self.session.fake;
        let behaviour = &fake.behaviours[action.index()];
        if fake.plan.actions[action.index()].kind == minibuild_core::ActionKind::Write {
            return format!("command {}", behaviour.command);
        }
        let (plain, discoverable) = fake.inputs(action);
        let texts: BTreeMap<ArtifactId, String> =
            plain.into_iter().chain(discoverable).map(|input| (input, self.text(input))).collect();
        let fake = &*self.session.fake;
        let base = fake.output_text(action, behaviour.command, &|input| texts[&input].clone());
        let number = fake.model.action(action).outputs.iter().position(|&o| o == id).expect("its output");
        if !behaviour.random {
            return format!("{base} output {number}");
        }
        // Whatever it made last, as long as it made that of these inputs.
        let content = self.session.machine.known[id.index()].as_ref().expect("made");
        let made = fake.texts.get(&content.digest_and_size().0).expect("made");
        assert!(made.starts_with(&format!("{base} ")), "`{made}` was made of other inputs than `{base}`");
        made.clone()
    }
}

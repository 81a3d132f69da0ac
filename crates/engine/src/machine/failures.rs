//! What the failure of an action means: for the build, for what needs it, and for what is shown.

use std::time::Duration;

use minibuild_core::{
    ActionId, Branch, CommandLine, Digest, ExecutionReport, ExecutionStatus, OutputMeta, Runner, TestStatus,
    not_started_code,
};
use minibuild_dynamic::race::{FailureClass, SidedFailure};

use super::race::Report;
use super::{MAX_ATTEMPTS, Machine, Running, key_path};

/// The failure of one side of an action of which the other has yet to be heard.
pub(super) struct Earlier {
    failure: SidedFailure<Report>,
    /// What happened, as the end of a sentence.
    why: String,
    command: CommandLine,
}

impl Machine {
    /// One side failed in a way that lets the other decide, which could not start at once: should it fail, too, both are
    /// shown.
    pub(super) fn keep_failure(
        &mut self,
        action: ActionId,
        running: &Running,
        failures: [Option<SidedFailure<Report>>; 2],
    ) {
        // What could not start has nothing to tell.
        let mut told = failures.into_iter().flatten().filter(|failure| failure.class == FailureClass::Doubtful);
        if let Some(failure) = told.next() {
            let why = self.failure_text(action, running, failure.branch, &failure.report);
            self.earlier_failures.insert(action, Earlier { failure, why, command: running.made.command.clone() });
        }
    }

    /// A branch that was needed could not start: the action runs here, or is looked at anew.
    pub(super) fn take_refused(&mut self, action: ActionId) {
        if self.stopping.is_some() {
            return self.take_stopped(action);
        }
        self.reopen(action);
    }

    pub(super) fn take_failures(
        &mut self,
        action: ActionId,
        running: Running,
        first: SidedFailure<Report>,
        second: Option<SidedFailure<Report>>,
    ) {
        let report = *first.report;
        match (&report.status, first.branch) {
            _ if first.class == FailureClass::Inputs && !report.changed_inputs.is_empty() => {
                self.take_changed_inputs(action, running, report)
            }
            (ExecutionStatus::LostInputs(_), _) if self.stopping.is_some() => self.take_stopped(action),
            (ExecutionStatus::LostInputs(digests), _) => {
                let digests = digests.clone();
                self.take_lost_inputs(action, running, report, &digests);
            }
            (ExecutionStatus::Infrastructure(why), Branch::Remote) if second.is_none() => {
                let why = why.clone();
                self.take_unreachable(action, running, report, &why);
            }
            _ => {
                let why = self.failure_text(action, &running, first.branch, &report);
                let second = second.map(|failure| {
                    let why = self.failure_text(action, &running, failure.branch, &failure.report);
                    Earlier { failure, why, command: running.made.command.clone() }
                });
                let second = second.or_else(|| self.earlier_failures.remove(&action));
                self.take_failure(action, first.branch, running, report, &why);
                if let Some(Earlier { failure, why, command }) = second {
                    let side = if failure.branch == Branch::Local { "here" } else { "remotely" };
                    self.show(action, Some(format!("{side}, too: {why}")), command, *failure.report);
                }
            }
        }
    }

    /// What happened, as the end of a sentence.
    fn failure_text(&self, action: ActionId, running: &Running, branch: Branch, report: &ExecutionReport) -> String {
        let timeout = self.model.action(action).timeout.unwrap_or_default();
        match &report.status {
            ExecutionStatus::Exited(0) => {
                running.run(branch).and_then(|run| run.problem.clone()).unwrap_or_else(|| "it failed".to_owned())
            }
            ExecutionStatus::Stopped(_) => "it was stopped, though nobody asked for that".to_owned(),
            ExecutionStatus::Exited(code) => format!("exit code {code}"),
            ExecutionStatus::Signalled(signal) => format!("ended by signal {signal}{}", signal_name(*signal)),
            ExecutionStatus::TimedOut => format!("killed after its timeout of {timeout:?}"),
            ExecutionStatus::NotStarted(why) => format!("could not be started: {why}"),
            ExecutionStatus::Infrastructure(why) if branch == Branch::Remote => {
                format!("it could not be run remotely: {why}")
            }
            ExecutionStatus::Infrastructure(why) => format!("could not be run: {why}"),
            ExecutionStatus::Stuck(who) => format!("processes cannot be killed: {who}"),
            ExecutionStatus::LostInputs(digests) => format!("{} inputs are lost", digests.len()),
            ExecutionStatus::BadOutputs(problems) => {
                let lines = problems.iter().map(|p| format!("`{}` {}", p.path, p.what));
                format!("its outputs are not as declared: {}", lines.collect::<Vec<_>>().join("; "))
            }
        }
    }

    /// The remote side could not do it, through no fault of the action's.
    fn take_unreachable(&mut self, action: ActionId, running: Running, report: ExecutionReport, why: &str) {
        if self.may_fall_back(action) {
            if self.stopping.is_some() {
                // It would have run here.
                return self.take_stopped(action);
            }
            return self.fall_back(action, why);
        }
        self.outcome.remote_failed = true;
        self.take_failure(action, Branch::Remote, running, report, &format!("it could not be run remotely: {why}"));
    }

    fn take_lost_inputs(&mut self, action: ActionId, running: Running, report: ExecutionReport, lost: &[Digest]) {
        if self.runs[action.index()] > MAX_ATTEMPTS || !self.heal_inputs(action, lost) {
            let names: Vec<String> = lost.iter().map(Digest::to_string).collect();
            self.outcome.lost = true;
            let why = format!("neither the server nor this machine has {}, which it reads", names.join(", "));
            return self.take_failure(action, Branch::Remote, running, report, &why);
        }
        self.queue(action);
    }

    pub(super) fn take_failure(
        &mut self,
        action: ActionId,
        branch: Branch,
        running: Running,
        report: ExecutionReport,
        why: &str,
    ) {
        self.chain_failure(action, report.cost.wall);
        let code = exit_code(&report.status);
        let runner = if branch == Branch::Local { Runner::Local } else { Runner::Remote };
        self.emit_completed(action, false, runner, code, report.cost.wall, running.made.reason.clone());
        let status = if report.status == ExecutionStatus::TimedOut { TestStatus::Timeout } else { TestStatus::Failed };
        self.finish_test(action, status, &report);
        let is_remote = branch == Branch::Remote;
        let left = report.outputs.iter().filter(|_| is_remote).map(|output| output.meta.clone());
        let left: Vec<OutputMeta> = left.collect();
        self.show(action, Some(why.to_owned()), running.made.command, report);
        if self.is_test(action) {
            // Its last verdict counts, not an earlier pass of the same key.
            self.state.forget_result(&key_path(&self.model, action), &running.key.action);
            self.outcome.tests_failed = true;
        } else {
            self.fail_build();
        }
        self.fail(action);
        self.fetch_remains(action, &left);
    }

    fn chain_failure(&mut self, action: ActionId, wall: Duration) {
        let row = self.node(action);
        self.chain[row] += wall;
    }
}

/// As a shell would report it.
fn exit_code(status: &ExecutionStatus) -> i32 {
    match status {
        ExecutionStatus::Exited(code) => *code,
        ExecutionStatus::Signalled(signal) => 128 + signal,
        ExecutionStatus::TimedOut => 128 + 15,
        ExecutionStatus::NotStarted(why) => not_started_code(why),
        ExecutionStatus::Stopped(_)
        | ExecutionStatus::BadOutputs(_)
        | ExecutionStatus::Infrastructure(_)
        | ExecutionStatus::Stuck(_)
        | ExecutionStatus::LostInputs(_) => 1,
    }
}

fn signal_name(signal: i32) -> &'static str {
    // The names of Linux on x86-64 and aarch64, which agree; a table keeps this free of the operating system.
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        5 => " (SIGTRAP)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        10 => " (SIGUSR1)",
        11 => " (SIGSEGV)",
        12 => " (SIGUSR2)",
        13 => " (SIGPIPE)",
        14 => " (SIGALRM)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

//! What is told of an action that is over: its block on the console, and the log of a test.

use minibuild_core::{
    ActionId, CommandLine, ExecutionReport, ExecutionStatus, LONG_OUTPUT_ROOT, LONGEST_OUTPUT, TestStatus, WsPath,
    excerpt_of,
};

use super::{LogText, Machine, Shown, Step};

impl Machine {
    pub(super) fn finish_test(&mut self, action: ActionId, status: TestStatus, report: &ExecutionReport) {
        if !self.is_test(action) {
            return;
        }
        let log = self.model.test_log_path(action);
        let text = match report.whole_output.is_empty() {
            true => LogText::Bytes([&report.stdout[..], &report.stderr[..]].concat()),
            false => LogText::Files(report.whole_output.clone()),
        };
        self.steps.push(Step::WriteLog(log, text));
        self.emit_test(action, status, 1, report.cost.wall);
    }

    pub(super) fn show(
        &mut self,
        action: ActionId,
        failure: Option<String>,
        command: CommandLine,
        mut report: ExecutionReport,
    ) {
        let test = self.is_test(action).then_some(match &failure {
            None => TestStatus::Passed,
            Some(_) if report.status == ExecutionStatus::TimedOut => TestStatus::Timeout,
            Some(_) => TestStatus::Failed,
        });
        let whole_output = self.cut_output(action, &mut report);
        let shown = Shown {
            label: self.model.label_of(action).to_string(),
            mnemonic: self.model.action(action).mnemonic.to_string(),
            failure,
            command,
            stdout: report.stdout,
            stderr: report.stderr,
            whole_output,
            test,
        };
        self.steps.push(Step::Show(Box::new(shown)));
    }

    /// Leaves excerpts of output that is too long to be shown; where all of it lies.
    fn cut_output(&mut self, action: ActionId, report: &mut ExecutionReport) -> Vec<WsPath> {
        let is_long = report.stdout.len() as u64 + report.stderr.len() as u64 > LONGEST_OUTPUT;
        let mut whole = std::mem::take(&mut report.whole_output);
        if self.is_test(action) && (is_long || !whole.is_empty()) {
            // It is its log.
            whole = vec![self.model.test_log_path(action)];
        } else if is_long
            && let Ok(path) = WsPath::new(&format!("{LONG_OUTPUT_ROOT}/{}.{}", action.index(), report.run.attempt))
        {
            // It came from elsewhere, and is nowhere here.
            let text = [&report.stdout[..], &report.stderr[..]].concat();
            self.steps.push(Step::WriteLog(path.clone(), LogText::Bytes(text)));
            whole = vec![path];
        }
        if is_long {
            (report.stdout, report.stderr) = (excerpt_of(&report.stdout), excerpt_of(&report.stderr));
        }
        whole
    }
}

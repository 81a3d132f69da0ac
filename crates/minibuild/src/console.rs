//! What the user sees on stderr: progress, blocks of actions, the summary.
//!
//! One writer for everything, drawn around the bar where there is one. It knows the terminal and decides nothing.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use minibuild_core::{
    BuildEvent, CommandLine, DownloadReason, Level, OutputEvent, Runner, TestStatus, WsPath, visible, visible_line,
};
use minibuild_engine::machine::{Outcome, Progress, RunningAction, Shown};
use minibuild_loader::{ProgressMode, Settings, TestOutput};

use crate::background::BackgroundWriter;
use crate::prefix::{prefix, use_color};
use crate::progress::{Rate, bar_text, line_text};
use crate::quote;
use crate::test_stream::TestStream;
use crate::tool_output::ToolOutput;

/// How often the bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Files of a target that are named after a build, unless more targets are.
const SHOWN_FILES: usize = 20;
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// The console of one build.
pub struct Console {
    out: BackgroundWriter,
    root: String,
    bar: Option<ProgressBar>,
    plain: bool,
    color: bool,
    tool_output: ToolOutput,
    verbose: bool,
    explain: bool,
    test_output: TestOutput,
    show_result: usize,
    last: Duration,
    rate: Rate,
    targets: Vec<(String, bool, Vec<OutputEvent>)>,
    /// Targets that are up to date and too many to be named.
    unnamed: usize,
    tests: BTreeMap<String, (TestStatus, u64, String)>,
    /// The test whose output was shown as it came, and what of it is left.
    streamed: Option<(String, TestStream)>,
    problems: Vec<String>,
    /// Files and bytes that came down, by reason.
    downloads: BTreeMap<(bool, &'static str), (u64, u64)>,
}

impl Console {
    /// A console for these settings, which writes to `out`.
    pub fn new(settings: &Settings, root: &str, explain: bool, out: BackgroundWriter) -> Self {
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let color = use_color(settings.color);
        let bar = match settings.progress {
            ProgressMode::Auto => terminal,
            ProgressMode::Bar => true,
            ProgressMode::Plain | ProgressMode::None => false,
        };
        Self {
            root: root.to_owned(),
            bar: bar.then(|| new_bar(out.clone())),
            out,
            plain: !bar && settings.progress != ProgressMode::None,
            color,
            tool_output: ToolOutput { colour: color, is_terminal: io::stderr().is_terminal() },
            verbose: settings.verbose,
            explain,
            test_output: settings.test_output,
            show_result: settings.show_result as usize,
            last: Duration::ZERO,
            rate: Rate::default(),
            targets: Vec::new(),
            unnamed: 0,
            tests: BTreeMap::new(),
            streamed: None,
            problems: Vec::new(),
            downloads: BTreeMap::new(),
        }
    }

    /// Prints lines, around the bar if there is one.
    pub fn print(&self, text: &str) {
        self.print_bytes(text.as_bytes());
    }

    fn print_bytes(&self, text: &[u8]) {
        let write = || {
            self.out.put(text);
            if !text.ends_with(b"\n") {
                self.out.put(b"\n");
            }
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn tag(&self, level: Level) -> String {
        prefix(level, self.color)
    }

    /// Prints a message.
    pub fn message(&self, level: Level, text: &str) {
        self.print(&format!("{} {}", self.tag(level), visible(text)));
    }

    /// Takes note of an event, and prints those that are for people.
    pub fn event(&mut self, event: &BuildEvent) {
        match event {
            BuildEvent::Message { level, text } => self.message(*level, text),
            BuildEvent::ActionCompleted { label, mnemonic, runner, reason, success, .. }
                if self.explain && *success && *runner != Runner::UpToDate =>
            {
                self.message(Level::Info, &format!("{label} ({mnemonic}) ran: {reason}"));
            }
            BuildEvent::FileDownloaded { path, size, why, copied, .. } => {
                let (files, bytes) = self.downloads.entry((*copied, reason_text(*why))).or_default();
                (*files, *bytes) = (*files + 1, *bytes + size);
                if self.explain {
                    let what = if *copied { "copied from this machine" } else { "downloaded" };
                    self.message(Level::Info, &format!("{path} was {what}: {}", reason_text(*why)));
                }
            }
            BuildEvent::TestCompleted { label, status, ms, log, .. } => {
                self.tests.insert(label.clone(), (*status, *ms, log.clone()));
            }
            BuildEvent::TargetCompleted { label, success, outputs } => {
                self.targets.push((label.clone(), *success, outputs.clone()));
            }
            _ => {}
        }
    }

    /// Whether so many targets are named after the build.
    pub fn names(&self, targets: usize) -> bool {
        targets <= self.show_result
    }

    /// Takes note of targets that are up to date, more than are named.
    pub fn count_up_to_date(&mut self, targets: usize) {
        self.unnamed += targets;
    }

    /// Shows a command that is about to be started, with `-v`.
    pub fn starting(&self, label: &str, command: &CommandLine) {
        if self.verbose && !command.argv.is_empty() {
            self.print(&format!("# {label}\n{}", visible(&quote::command(command))));
        }
    }

    /// A piece of what a test prints that runs.
    pub fn test_output(&mut self, label: &str, mnemonic: &str, stream: usize, text: &[u8]) {
        if self.streamed.as_ref().is_none_or(|(streamed, _)| streamed != label) {
            self.print(&format!("{} From {label} ({mnemonic}):", self.tag(Level::Info)));
        }
        let (streamed, mut rest) = self.streamed.take().unwrap_or_default();
        if streamed != label {
            rest = TestStream::default();
        }
        let lines = rest.take(stream, text, self.tool_output);
        if !lines.is_empty() {
            self.print_bytes(&lines);
        }
        self.streamed = Some((label.to_owned(), rest));
    }

    /// That test has ended.
    pub fn test_output_ended(&mut self, label: &str) {
        if let Some((streamed, rest)) = &mut self.streamed
            && streamed == label
        {
            let lines = std::mem::take(rest).end(self.tool_output);
            if !lines.is_empty() {
                self.print_bytes(&lines);
            }
        }
    }

    /// An action's block: its output, or its failure.
    pub fn show(&mut self, shown: &Shown) {
        let is_streamed = shown.test.is_some() && self.streamed.take_if(|(label, _)| *label == shown.label).is_some();
        let wanted = match (shown.test, self.test_output) {
            _ if is_streamed => false,
            (None, _) | (_, TestOutput::All | TestOutput::Streamed) => true,
            (Some(TestStatus::Passed | TestStatus::Cached), _) => false,
            (Some(_), output) => output == TestOutput::Errors,
        };
        let heading = match &shown.failure {
            Some(why) => self.failure(shown, why),
            None => format!("{} From {} ({}):\n", self.tag(Level::Info), shown.label, shown.mnemonic),
        };
        let mut block = heading.into_bytes();
        if wanted {
            for stream in [&shown.stdout, &shown.stderr] {
                self.tool_output.append_block(stream, &mut block);
            }
            if !shown.whole_output.is_empty() {
                let files: Vec<&str> = shown.whole_output.iter().map(WsPath::as_str).collect();
                block.extend_from_slice(format!("  the whole output: {}\n", files.join(", ")).as_bytes());
            }
        } else if shown.failure.is_none() {
            return;
        }
        self.print_bytes(&block);
    }

    fn failure(&mut self, shown: &Shown, why: &str) -> String {
        let headline = visible(&format!("{} ({}) failed: {why}", shown.label, shown.mnemonic)).into_owned();
        self.problems.push(headline.clone());
        let mut block = format!("{} {headline}\n", self.tag(Level::Error));
        if !shown.command.argv.is_empty() {
            block.push_str(&format!("  command: {}\n", visible(&quote::command(&shown.command))));
            block.push_str(&format!("  in:      {}\n", visible(&self.root)));
            block.push_str(&format!("  by hand: {}\n", visible(&quote::by_hand(&shown.command, &self.root))));
        }
        block
    }

    /// Draws the bar, or prints a line now and then.
    pub fn progress(&mut self, now: Duration, progress: Progress, running: &dyn Fn() -> Vec<RunningAction>) {
        let every = if self.bar.is_some() { DRAW_EVERY } else { LINE_EVERY };
        // A terminal that is behind shows a later state once it catches up.
        let is_due = now.saturating_sub(self.last) >= every && self.out.is_idle();
        if !is_due || (self.bar.is_none() && !self.plain) {
            return;
        }
        self.last = now;
        let (running, rate) = (running(), self.rate.at(now, progress.received));
        match &self.bar {
            Some(bar) => bar.set_message(bar_text(now, progress, rate, &running, terminal_size().1.into())),
            None => self.print(&line_text(now, progress, rate, &running)),
        }
    }

    /// How often [`Self::progress`] wants to be called while nothing happens.
    pub fn tick(&self) -> Option<Duration> {
        match (&self.bar, self.plain) {
            (Some(_), _) => Some(DRAW_EVERY),
            (None, true) => Some(LINE_EVERY),
            (None, false) => None,
        }
    }

    /// Takes the bar away for good.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The last lines of a build.
    pub fn summary(&mut self, outcome: &Outcome, elapsed: Duration) {
        self.clear();
        let mut text = self.targets_text();
        text.push_str(&self.tests_text());
        if let Some(bug) = &outcome.internal {
            text.push_str(&format!("{} {bug}\n", self.tag(Level::Error)));
        }
        if outcome.interrupted {
            text.push_str(&format!("{} the build was interrupted\n", self.tag(Level::Error)));
        }
        let info = self.tag(Level::Info);
        if self.explain || self.downloads.len() > 1 {
            for ((copied, why), (files, bytes)) in &self.downloads {
                let what = if *copied { "Copied" } else { "Downloaded" };
                text.push_str(&format!("{info} {what}: {} ({}), {why}\n", number(*files, "file"), HumanBytes(*bytes)));
            }
        }
        let (elapsed, path) = (precise(elapsed), precise(outcome.critical_path));
        text.push_str(&format!("{info} Elapsed time: {elapsed}, critical path: {path}\n"));
        text.push_str(&format!("{info} {}\n", counts_text(outcome)));
        self.print(&text);
    }

    fn targets_text(&self) -> String {
        let (done, failed): (Vec<_>, Vec<_>) = self.targets.iter().partition(|(_, success, _)| *success);
        let mut text = String::new();
        if self.names(done.len() + self.unnamed) {
            for (label, _, outputs) in &done {
                if self.tests.contains_key(label) && outputs.is_empty() {
                    continue;
                }
                if outputs.is_empty() {
                    text.push_str(&format!("Target {label} up-to-date (nothing to build)\n"));
                    continue;
                }
                text.push_str(&format!("Target {label} up-to-date:\n"));
                let shown = outputs.len().min(self.show_result.max(SHOWN_FILES));
                for output in &outputs[..shown] {
                    let absent = format!("{} (not downloaded, {})", output.path, output.digest);
                    let line = if output.present == Some(false) { &absent } else { &output.path };
                    text.push_str(&format!("  {}\n", visible_line(line)));
                }
                if shown < outputs.len() {
                    text.push_str(&format!("  … and {} more\n", outputs.len() - shown));
                }
            }
        } else {
            text.push_str(&format!("{} up-to-date\n", number((done.len() + self.unnamed) as u64, "target")));
        }
        for (label, ..) in failed {
            if !self.tests.contains_key(label) {
                text.push_str(&self.paint("31;1", &format!("Target {label} failed to build")));
                text.push('\n');
            }
        }
        text
    }

    fn tests_text(&self) -> String {
        let mut text = String::new();
        let few = self.tests.len() <= self.show_result;
        for (label, (status, ms, log)) in &self.tests {
            let time = precise(Duration::from_millis(*ms));
            let line = match status {
                TestStatus::Passed => format!("{label} {} in {time}\n", self.paint("32", "PASSED")),
                TestStatus::Cached => format!("{label} {} (cached)\n", self.paint("32", "PASSED")),
                TestStatus::Failed => format!("{label} {} in {time}\n  {log}\n", self.paint("31;1", "FAILED")),
                TestStatus::Timeout => format!("{label} {} after {time}\n  {log}\n", self.paint("31;1", "TIMEOUT")),
            };
            if few || matches!(status, TestStatus::Failed | TestStatus::Timeout) {
                text.push_str(&line);
            }
        }
        if !few {
            let passed =
                self.tests.values().filter(|(s, ..)| matches!(s, TestStatus::Passed | TestStatus::Cached)).count();
            text.push_str(&format!("{passed} of {} tests passed\n", self.tests.len()));
        }
        text
    }
}

/// `12 actions: 4 up to date, 2 local, 3 failed; 2 files downloaded (1.2 MiB).`
fn counts_text(outcome: &Outcome) -> String {
    let counts = &outcome.counts;
    let named = [
        (counts.up_to_date, "up to date"),
        (counts.disk_cache, "disk cache hit"),
        (counts.remote_cache, "remote cache hit"),
        (counts.local, "local"),
        (counts.remote, "remote"),
        (counts.failed, "failed"),
    ];
    let known: u64 = named.iter().map(|(count, _)| count).sum();
    let mut parts: Vec<String> = named.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if known < counts.total {
        parts.push(format!("{} not reached", counts.total - known));
    }
    let colon = if parts.is_empty() { "" } else { ": " };
    let mut text = format!("{}{colon}{}", number(counts.total, "action"), parts.join(", "));
    let downloads = &outcome.downloads;
    if downloads.files > 0 {
        let files = number(downloads.files, "file");
        text.push_str(&format!("; {files} downloaded ({})", HumanBytes(downloads.bytes)));
    }
    if downloads.files_copied > 0 {
        text.push_str(&format!("; {} copied", number(downloads.files_copied, "file")));
    }
    if outcome.uploads.files > 0 {
        let blobs = number(outcome.uploads.files, "blob");
        text.push_str(&format!("; {blobs} uploaded ({})", HumanBytes(outcome.uploads.bytes)));
    }
    let races = &outcome.races;
    if races.run > 0 {
        text.push_str(&format!(
            "; {} ({} won here, {} remotely; {} ms here and {} ms remotely for nothing)",
            number(races.run, "race"),
            races.local_won,
            races.remote_won,
            races.wasted_local_ms,
            races.wasted_remote_ms
        ));
    }
    if outcome.cache_errors > 0 {
        text.push_str(&format!("; {}", number(outcome.cache_errors, "cache error")));
    }
    text + "."
}

/// Why a file was brought here.
pub fn reason_text(why: DownloadReason) -> &'static str {
    match why {
        DownloadReason::Toplevel => "an output of a requested target",
        DownloadReason::Input => "an input of an action that runs here",
        DownloadReason::All => "every output is wanted",
        DownloadReason::Regex => "its path matches `--download-regex`",
        DownloadReason::Failed => "left by an action that failed",
        DownloadReason::Run => "needed by the program to be run",
        DownloadReason::Fetch => "asked for by `fetch`",
        DownloadReason::Log => "a log",
    }
}

/// `1 file`, `2 files`.
fn number(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The terminal a bar is drawn on, through the writer that everything else goes through.
#[derive(Debug)]
struct BarTerminal {
    out: BackgroundWriter,
    /// One drawing, written as a whole.
    drawing: Mutex<String>,
}

impl BarTerminal {
    fn draw(&self, text: &str) -> io::Result<()> {
        self.drawing.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// Moves the cursor: up `A`, down `B`, right `C` or left `D`.
    fn move_cursor(&self, count: usize, direction: char) -> io::Result<()> {
        if count > 0 { self.draw(&format!("\x1b[{count}{direction}")) } else { Ok(()) }
    }
}

impl TermLike for BarTerminal {
    fn width(&self) -> u16 {
        terminal_size().1
    }

    fn height(&self) -> u16 {
        terminal_size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(&format!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let drawing = std::mem::take(&mut *self.drawing.lock().unwrap_or_else(PoisonError::into_inner));
        self.out.put(drawing.as_bytes());
        Ok(())
    }
}

/// Returns the rows and columns of the terminal, or those of a usual one where it does not tell.
fn terminal_size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

fn new_bar(out: BackgroundWriter) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::term_like(Box::new(BarTerminal { out, drawing: Mutex::default() })),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(None, target);
    bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

fn precise(time: Duration) -> String {
    format!("{:.3}s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use minibuild_core::{ActionCounts, DownloadCounts, RaceCounts, UploadCounts};

    use super::*;

    #[test]
    fn of_many_files_the_first_are_named() {
        let console = |files: usize, show_result: u32| {
            let settings = Settings { show_result, ..Settings::default() };
            let out = BackgroundWriter::stderr(|_| {}, minibuild_core::StopFlag::default());
            let mut console = Console::new(&settings, "/ws", false, out);
            let output = |index: usize| OutputEvent {
                path: format!("f{index}"),
                kind: minibuild_core::OutputKind::File,
                digest: minibuild_core::DigestFunction::Sha256.empty(),
                size: 0,
                present: Some(true),
            };
            console.targets.push(("//:x".to_owned(), true, (0..files).map(output).collect()));
            console.targets_text()
        };
        assert_eq!(console(1, 10), "Target //:x up-to-date:\n  f0\n");
        assert_eq!(console(0, 10), "Target //:x up-to-date (nothing to build)\n");
        let text = console(3000, 10);
        assert!(text.ends_with("  f19\n  … and 2980 more\n") && text.lines().count() == 22, "{text}");
        assert_eq!(console(20, 1).lines().count(), 21);
        assert_eq!(console(3000, 100).lines().count(), 102);
    }

    #[test]
    fn counts_name_only_what_there_is() {
        let check = |outcome: Outcome, expected: &str| assert_eq!(counts_text(&outcome), expected);
        let counts = ActionCounts { total: 12, up_to_date: 4, local: 7, failed: 1, ..Default::default() };
        check(Outcome { counts, ..Default::default() }, "12 actions: 4 up to date, 7 local, 1 failed.");
        let counts = ActionCounts { total: 1, ..Default::default() };
        check(Outcome { counts, ..Default::default() }, "1 action: 1 not reached.");
        check(Outcome::default(), "0 actions.");
        let counts = ActionCounts { total: 3, remote_cache: 1, remote: 2, ..Default::default() };
        let downloads = DownloadCounts { files: 2, bytes: 3 << 19, files_copied: 1 };
        let uploads = UploadCounts { files: 1, bytes: 10 };
        let outcome = Outcome { counts, downloads, uploads, cache_errors: 1, ..Default::default() };
        let expected = "3 actions: 1 remote cache hit, 2 remote; 2 files downloaded (1.50 MiB); 1 file copied; 1 blob uploaded (10 B); 1 cache error.";
        let races = RaceCounts { run: 2, local_won: 1, remote_won: 1, wasted_local_ms: 30, wasted_remote_ms: 4 };
        let counts_of_race = ActionCounts { total: 2, local: 1, remote: 1, ..Default::default() };
        let raced = Outcome { counts: counts_of_race, races, ..Default::default() };
        check(
            raced,
            "2 actions: 1 local, 1 remote; 2 races (1 won here, 1 remotely; 30 ms here and 4 ms remotely for nothing).",
        );
        check(outcome, expected);
    }
}

//! The output of a test that is shown while it runs: read from the files it goes to, a piece at a time.
//!
//! It does not know which tests are shown this way, nor how.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use minibuild_core::{RunId, StopFlag};
use minibuild_local::LocalExecutor;

use crate::reporter::Reporter;

/// How often it is looked for more.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes read at a time.
const PIECE: usize = 64 << 10;

/// The test whose output is shown.
pub(crate) struct StreamedTest {
    run: RunId,
    label: String,
    mnemonic: String,
    /// Standard output and error, once its command was given to a helper.
    files: Option<[File; 2]>,
}

impl StreamedTest {
    /// Of a run that is about to start.
    pub fn new(run: RunId, label: String, mnemonic: String) -> Self {
        Self { run, label, mnemonic, files: None }
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Shows a piece of what is new. Whether that was all of it.
    pub(crate) fn show_some(&mut self, executor: &LocalExecutor, reporter: &mut dyn Reporter) -> bool {
        if self.files.is_none() {
            self.files = executor.output_of(self.run);
        }
        let Some(files) = &mut self.files else { return true };
        let mut is_all = true;
        for (stream, file) in files.iter_mut().enumerate() {
            let text = read_some(file).unwrap_or_default();
            is_all &= text.len() < PIECE;
            if !text.is_empty() {
                reporter.test_output(&self.label, &self.mnemonic, stream, &text);
            }
        }
        is_all
    }

    /// Its command is over: shows the rest, but not to somebody who interrupted it. Where nothing was shown by then, the report
    /// has it.
    pub fn end(mut self, executor: &LocalExecutor, reporter: &mut dyn Reporter, stop: &StopFlag) {
        if self.files.is_some() {
            while !stop.is_set() && !self.show_some(executor, reporter) {}
        }
        reporter.test_output_ended(&self.label);
    }
}

fn read_some(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(PIECE as u64).read_to_end(&mut text)?;
    Ok(text)
}

//! Events as a reader of `--events` sees them: the fields DESIGN §9 promises, each of them required.
//!
//! Knows nothing of the crates that write them.

use serde::Deserialize;

/// One line of the event file.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// Milliseconds since the start of the build.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the contract, under its names")]
pub enum Event {
    BuildStarted {
        build_id: String,
        command: String,
        patterns: Vec<String>,
        options: Vec<String>,
    },
    ActionStarted {
        action: String,
        label: String,
        mnemonic: String,
    },
    BranchStarted {
        action: String,
        branch: String,
        reason: String,
    },
    BranchFinished {
        action: String,
        branch: String,
        outcome: String,
        ms: u64,
    },
    ActionCompleted {
        action: String,
        label: String,
        mnemonic: String,
        success: bool,
        runner: String,
        exit_code: i32,
        wall_ms: u64,
        reason: String,
        outputs: Vec<Output>,
    },
    FileDownloaded {
        path: String,
        digest: String,
        size: u64,
        why: String,
        copied: bool,
    },
    TestCompleted {
        label: String,
        status: String,
        attempt: u32,
        ms: u64,
        log: String,
    },
    Message {
        level: String,
        text: String,
    },
    TargetCompleted {
        label: String,
        success: bool,
        outputs: Vec<Output>,
    },
    BuildFinished {
        exit_code: i32,
        success: bool,
        wall_ms: u64,
        critical_path_ms: u64,
        actions: Actions,
        downloads: Downloads,
        uploads: Uploads,
        races: Races,
        /// `used`, or why a snapshot was not.
        #[serde(default)]
        snapshot: String,
    },
}

/// One output of an action or target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the contract, under its names")]
pub struct Output {
    pub path: String,
    pub kind: String,
    pub digest: String,
    pub size: u64,
    /// Only in `target_completed`.
    pub present: Option<bool>,
}

/// Counts of actions by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the contract, under its names")]
pub struct Actions {
    pub total: u64,
    pub up_to_date: u64,
    pub disk_cache: u64,
    pub remote_cache: u64,
    pub local: u64,
    pub remote: u64,
    pub failed: u64,
}

/// What came down.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Downloads {
    pub files: u64,
    pub bytes: u64,
    pub files_copied: u64,
}

/// What went up.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Uploads {
    pub files: u64,
    pub bytes: u64,
}

/// How races went.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Races {
    pub run: u64,
    pub local_won: u64,
    pub remote_won: u64,
    pub wasted_local_ms: u64,
    pub wasted_remote_ms: u64,
}

/// Reads an event file; a last line without its end (the writer was killed) is left out.
///
/// # Errors
/// The first line that is not an event of the contract, with the reason.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| serde_json::from_str(line).map_err(|e| format!("{e} in {line}"));
    whole.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_a_broken_last_one_is_left_out() {
        let text =
            "{\"event\":\"message\",\"level\":\"info\",\"text\":\"x\",\"time_ms\":7,\"added\":1}\n{\"event\":\"mess";
        let lines = parse(text).expect("parses");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].time_ms, 7);
        assert!(matches!(&lines[0].event, Event::Message { level, .. } if level == "info"));
    }

    #[test]
    fn a_missing_field_or_unknown_event_is_an_error() {
        for bad in
            ["{\"event\":\"message\",\"level\":\"info\",\"time_ms\":7}\n", "{\"event\":\"x\",\"time_ms\":7}\n", "{}\n"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

//! `--events`: one JSON object a line, flushed.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use minibuild_core::{BuildEvent, StopFlag};
use serde::Serialize;

use crate::background::OutputFile;

/// The file events go to, if any.
pub struct EventLog {
    file: Option<OutputFile>,
    began: Instant,
    error: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a BuildEvent,
    time_ms: u64,
}

impl EventLog {
    /// Opens the file; one that cannot be is said at the end of the build. After a stop no reader is waited for.
    pub fn open(path: Option<&Path>, began: Instant, stop: &StopFlag) -> Self {
        let opened = path.map(|path| {
            OutputFile::create(path, stop).map_err(|e| format!("events cannot be written to `{}`: {e}", path.display()))
        });
        match opened {
            None => Self { file: None, began, error: None },
            Some(Ok(file)) => Self { file: Some(file), began, error: None },
            Some(Err(error)) => Self { file: None, began, error: Some(error) },
        }
    }

    /// Writes one event.
    pub fn write(&mut self, event: &BuildEvent) {
        let Some(mut file) = self.file.as_ref() else { return };
        let time_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let written = serde_json::to_string(&Line { event, time_ms })
            .map_err(std::io::Error::from)
            .and_then(|line| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            self.error = Some(format!("events cannot be written: {error}"));
            self.file = None;
        }
    }

    /// Whether anybody reads events.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Waits until all events are written.
    pub fn finish(&mut self) {
        if let Some(Err(error)) = self.file.as_ref().map(OutputFile::finish) {
            self.error = Some(format!("events cannot be written: {error}"));
        }
    }

    /// Why events are missing, if they are.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use minibuild_core::Level;

    use super::*;

    #[test]
    fn a_line_is_an_object_with_event_and_time() {
        let event = BuildEvent::Message { level: Level::Warning, text: "a\nb".into() };
        let line = serde_json::to_string(&Line { event: &event, time_ms: 7 }).expect("serialises");
        assert_eq!(line, r#"{"event":"message","level":"warning","text":"a\nb","time_ms":7}"#);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_at_the_end() {
        let mut log = EventLog::open(Some(Path::new("/nonexistent/events")), Instant::now(), &StopFlag::default());
        log.write(&BuildEvent::Message { level: Level::Info, text: String::new() });
        assert!(log.error().is_some_and(|e| e.contains("/nonexistent/events")));
    }
}

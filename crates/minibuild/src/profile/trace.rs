//! Chrome's trace format: rows of JSON, times in microseconds. Knows the format, not what is drawn.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// One row.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    ph: &'static str,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u64>,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cname: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: Value,
}

/// A stretch of time on a lane of a track.
#[derive(Clone, Debug)]
pub struct Slice<'a> {
    /// Track, from 1.
    pub track: u32,
    /// Lane of it.
    pub lane: u32,
    /// What is written on it.
    pub name: &'a str,
    /// Its kind.
    pub category: &'a str,
    /// Since the start of the build.
    pub start: Duration,
    /// Likewise.
    pub end: Duration,
    /// How it stands out.
    pub mark: Mark,
    /// An object, or null.
    pub details: Value,
}

/// What a slice is drawn as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Like most.
    None,
    /// What the build waited for.
    Critical,
    /// Work for nothing.
    Lost,
}

/// Writes a trace.
pub struct Trace<W: Write> {
    to: W,
    is_empty: bool,
}

impl<W: Write> Trace<W> {
    /// Begins one.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn begin(mut to: W) -> io::Result<Self> {
        to.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        Ok(Self { to, is_empty: true })
    }

    fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.to.write_all(if self.is_empty { b"\n" } else { b",\n" })?;
        self.is_empty = false;
        serde_json::to_writer(&mut self.to, row).map_err(io::Error::from)
    }

    /// Names a track; they are shown in the order of their numbers.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn track(&mut self, track: u32, name: &str) -> io::Result<()> {
        let row = |key: &'static str, args: Value| Row {
            name: key,
            cat: "",
            ph: "M",
            ts: 0,
            dur: None,
            pid: track,
            tid: 0,
            cname: None,
            args,
        };
        self.row(&row("process_name", serde_json::json!({ "name": name })))?;
        self.row(&row("process_sort_index", serde_json::json!({ "sort_index": track })))
    }

    /// Names a lane.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn lane(&mut self, track: u32, lane: u32, name: &str) -> io::Result<()> {
        let args = serde_json::json!({ "name": name });
        self.row(&Row {
            name: "thread_name",
            cat: "",
            ph: "M",
            ts: 0,
            dur: None,
            pid: track,
            tid: lane,
            cname: None,
            args,
        })
    }

    /// Draws a slice.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn slice(&mut self, slice: Slice<'_>) -> io::Result<()> {
        self.row(&Row {
            name: slice.name,
            cat: slice.category,
            ph: "X",
            ts: micros(slice.start),
            dur: Some(micros(slice.end).saturating_sub(micros(slice.start))),
            pid: slice.track,
            tid: slice.lane,
            cname: match slice.mark {
                Mark::None => None,
                Mark::Critical => Some("terrible"),
                Mark::Lost => Some("grey"),
            },
            args: slice.details,
        })
    }

    /// A point of a chart.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn counts(&mut self, track: u32, name: &str, at: Duration, counts: Value) -> io::Result<()> {
        self.row(&Row {
            name,
            cat: "",
            ph: "C",
            ts: micros(at),
            dur: None,
            pid: track,
            tid: 0,
            cname: None,
            args: counts,
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn end(mut self, about: &Value) -> io::Result<()> {
        writeln!(self.to, "\n],\"otherData\":{about}}}")?;
        self.to.flush()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

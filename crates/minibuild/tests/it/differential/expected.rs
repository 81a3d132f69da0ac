//! What each output has to say, by the sources and by what is known of the outputs that its command read.
//!
//! Contents of deterministic commands follow from the sources alone. What a random command drew is learnt from the first place
//! that tells it (its output, or one that was made of it), and each other place has to tell the same.

use std::collections::{BTreeMap, BTreeSet};

use minibuild_core::DigestFunction;

use super::definition::{TargetDefinition, TargetInput, TargetShape, ordered_inputs};
use super::sources::{Resolved, SourceState};

/// One path that a command reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// As the command names it.
    pub path: String,
    pub kind: ReadingKind,
}

/// What lies at such a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadingKind {
    Directory,
    /// A kept symlink that leads nowhere, and its text.
    Dangling(String),
    /// A file: the path without symlinks, and whether it is executable.
    File(String, bool),
}

/// What is known of one file.
#[derive(Clone, Debug, Default)]
pub struct FileFact {
    pub digest: Option<String>,
    pub first_line: Option<String>,
}

/// The contents of one build, as far as they are known.
#[derive(Debug, Default)]
pub struct FactTable {
    pub files: BTreeMap<String, FileFact>,
    /// What each random command drew.
    nonces: BTreeMap<usize, String>,
}

/// What a part of a line is about.
#[derive(Clone, Debug)]
enum LineTopic {
    Nonce(usize),
    Digest(String),
    FirstLine(String),
    Fixed,
}

/// A line of an output: fixed text around a value that may not be known yet.
#[derive(Clone, Debug)]
struct ExpectedLine {
    before: String,
    value: Option<String>,
    after: String,
    topic: LineTopic,
}

/// An output as it has to be.
#[derive(Debug)]
pub struct ExpectedFile {
    pub path: String,
    pub is_executable: bool,
    padding: usize,
    lines: Vec<ExpectedLine>,
}

/// One declared output, or an entry of one.
#[derive(Debug)]
pub enum ExpectedEntry {
    File(ExpectedFile),
    Symlink(String, String),
    Directory(String),
}

/// A workspace's sources with one of its two configurations.
#[derive(Clone, Copy)]
pub struct BuildInputs<'a> {
    pub targets: &'a [TargetDefinition],
    pub sources: &'a SourceState,
    pub is_other: bool,
}

impl ReadingKind {
    fn source(sources: &SourceState, resolved: Resolved) -> Self {
        match resolved {
            Resolved::Directory(_) => Self::Directory,
            Resolved::File(real) => {
                let is_executable = sources.files[&real].is_executable;
                Self::File(real, is_executable)
            }
        }
    }
}

impl BuildInputs<'_> {
    fn version(&self, number: usize) -> usize {
        self.sources.targets[number].version
    }

    /// All that a target's command reads, in its order, each path once.
    pub fn readings(&self, number: usize) -> Vec<Reading> {
        let target = &self.targets[number];
        let mut readings = Vec::new();
        for input in ordered_inputs(target, self.sources.targets[number]) {
            readings.extend(self.input_readings(target, input));
        }
        if target.shape == TargetShape::Scan {
            readings.extend(self.headers(target.package, &readings[0].path.clone()));
        }
        let mut seen = BTreeSet::new();
        readings.retain(|reading| seen.insert(reading.path.clone()));
        readings
    }

    fn headers(&self, package: usize, source: &str) -> Vec<Reading> {
        let text = &self.sources.files[source].text;
        let names = text.lines().filter_map(|line| line.strip_prefix("use "));
        names.map(|name| self.source_reading(&format!("p{package}/h/{name}"))).collect()
    }

    fn source_reading(&self, path: &str) -> Reading {
        let resolved = self.sources.resolve(path).expect("sources of a course stay");
        Reading { path: path.to_owned(), kind: ReadingKind::source(self.sources, resolved) }
    }

    fn input_readings(&self, target: &TargetDefinition, input: TargetInput) -> Vec<Reading> {
        let package = target.package;
        match input {
            TargetInput::Source(number) => vec![self.source_reading(&format!("p{package}/s{number}"))],
            TargetInput::Flavoured(plain, other) => {
                let number = if self.is_other { other } else { plain };
                vec![self.source_reading(&format!("p{package}/s{number}"))]
            }
            TargetInput::Glob => {
                let below = format!("p{package}/g/");
                let globbed = self.sources.files.keys().filter(|path| path.starts_with(&below));
                globbed.map(|path| self.source_reading(path)).collect()
            }
            TargetInput::FileLink => vec![self.source_reading(&format!("p{package}/lf"))],
            TargetInput::DirectoryLink => {
                let listed = self.sources.list(&format!("p{package}/ld"));
                let reading = |(path, resolved)| Reading { path, kind: ReadingKind::source(self.sources, resolved) };
                listed.into_iter().map(reading).collect()
            }
            TargetInput::Target(number) => self.output_readings(number),
            TargetInput::FirstHalf(number) => vec![file_reading(self.targets[number].output("one"), false)],
            TargetInput::SecondHalf(number) => vec![file_reading(self.targets[number].output("two"), false)],
        }
    }

    /// What a command sees that reads all outputs of a target.
    fn output_readings(&self, number: usize) -> Vec<Reading> {
        let target = &self.targets[number];
        match target.shape {
            TargetShape::Group => self.readings(number),
            TargetShape::Tree => self.tree_readings(number),
            TargetShape::DanglingLink => {
                let kind = ReadingKind::Dangling(format!("gone-v{}", self.version(number)));
                vec![Reading { path: target.output("lnk"), kind }]
            }
            TargetShape::SiblingLink => {
                let sibling = &self.targets[number - 1];
                let kind = ReadingKind::File(sibling.output("out"), sibling.is_executable);
                vec![Reading { path: target.output("lnk"), kind }]
            }
            _ => target.outputs().into_iter().map(|path| file_reading(path, target.is_executable)).collect(),
        }
    }

    fn tree_readings(&self, number: usize) -> Vec<Reading> {
        let root = self.targets[number].output("tree");
        let entry = |name: &str, kind| Reading { path: format!("{root}{name}"), kind };
        let file = |name: &str, is_executable| ReadingKind::File(format!("{root}{name}"), is_executable);
        let mut readings = vec![
            entry("", ReadingKind::Directory),
            entry("/empty", ReadingKind::Directory),
            entry("/first", file("/first", false)),
            entry("/link", file("/sub/run", true)),
            entry("/sub", ReadingKind::Directory),
            entry("/sub/run", file("/sub/run", true)),
        ];
        if self.version(number) == 1 {
            readings.insert(4, entry("/more", file("/more", false)));
        }
        readings
    }

    /// All that has to be on disk of a target whose outputs are there.
    pub fn entries(&self, number: usize, facts: &FactTable) -> Vec<ExpectedEntry> {
        let target = &self.targets[number];
        let file = |path: String, is_first: bool, is_executable: bool| {
            let padding = if is_first { target.padding } else { 0 };
            ExpectedEntry::File(ExpectedFile { lines: self.lines(number, &path, facts), path, is_executable, padding })
        };
        let outputs = target.outputs();
        match target.shape {
            TargetShape::Tree => self.tree_entries(number, file),
            TargetShape::DanglingLink => {
                vec![ExpectedEntry::Symlink(outputs[0].clone(), format!("gone-v{}", self.version(number)))]
            }
            TargetShape::SiblingLink => {
                vec![ExpectedEntry::Symlink(outputs[0].clone(), format!("t{:02}.out", number - 1))]
            }
            _ => outputs
                .into_iter()
                .enumerate()
                .map(|(index, path)| file(path, index == 0, target.is_executable))
                .collect(),
        }
    }

    fn tree_entries(&self, number: usize, file: impl Fn(String, bool, bool) -> ExpectedEntry) -> Vec<ExpectedEntry> {
        let entry = |reading: Reading| match reading.kind {
            ReadingKind::File(real, _) if real != reading.path => {
                ExpectedEntry::Symlink(reading.path, "sub/run".to_owned())
            }
            ReadingKind::File(real, is_executable) => {
                let is_first = real.ends_with("/first");
                file(real, is_first, is_executable)
            }
            _ => ExpectedEntry::Directory(reading.path),
        };
        self.tree_readings(number).into_iter().map(entry).collect()
    }

    fn lines(&self, number: usize, path: &str, facts: &FactTable) -> Vec<ExpectedLine> {
        let target = &self.targets[number];
        let flavour = match target.shape {
            TargetShape::Halves | TargetShape::Scan => {
                if self.is_other {
                    "other"
                } else {
                    "plain"
                }
            }
            _ => "any",
        };
        let readings = self.readings(number);
        let nonce = if target.is_random { facts.nonces.get(&number).cloned() } else { Some("-".to_owned()) };
        let mut lines = vec![ExpectedLine {
            before: format!("{path} v{} {flavour} ", self.version(number)),
            value: nonce,
            after: String::new(),
            topic: if target.is_random { LineTopic::Nonce(number) } else { LineTopic::Fixed },
        }];
        lines.extend(readings.iter().filter_map(|reading| digest_line(reading, facts)));
        lines.extend(readings.iter().map(|reading| entry_line(reading, facts)));
        lines
    }
}

fn file_reading(path: String, is_executable: bool) -> Reading {
    Reading { path: path.clone(), kind: ReadingKind::File(path, is_executable) }
}

fn digest_line(reading: &Reading, facts: &FactTable) -> Option<ExpectedLine> {
    let ReadingKind::File(real, _) = &reading.kind else { return None };
    Some(ExpectedLine {
        before: String::new(),
        value: facts.digest(real),
        after: format!("  {}", reading.path),
        topic: LineTopic::Digest(real.clone()),
    })
}

fn entry_line(reading: &Reading, facts: &FactTable) -> ExpectedLine {
    let path = &reading.path;
    let fixed =
        |before| ExpectedLine { before, value: Some(String::new()), after: String::new(), topic: LineTopic::Fixed };
    match &reading.kind {
        ReadingKind::Directory => fixed(format!("d {path}")),
        ReadingKind::Dangling(text) => fixed(format!("l {path} {text}")),
        ReadingKind::File(real, is_executable) => ExpectedLine {
            before: format!("{} {path} ", if *is_executable { 'x' } else { '-' }),
            value: facts.files.get(real).and_then(|fact| fact.first_line.clone()),
            after: String::new(),
            topic: LineTopic::FirstLine(real.clone()),
        },
    }
}

/// The digest of bytes as events and commands write it.
pub fn hex_digest(bytes: &[u8]) -> String {
    DigestFunction::Sha256.digest(bytes).hex()
}

impl FactTable {
    /// What is known before any output is looked at.
    pub fn of_sources(sources: &SourceState) -> Self {
        let fact = |text: &str| FileFact {
            digest: Some(hex_digest(text.as_bytes())),
            first_line: text.lines().next().map(str::to_owned),
        };
        let files = sources.files.iter().map(|(path, file)| (path.clone(), fact(&file.text))).collect();
        Self { files, nonces: BTreeMap::new() }
    }

    fn digest(&self, path: &str) -> Option<String> {
        self.files.get(path)?.digest.clone()
    }

    /// Takes in what something says of the digest of a file.
    ///
    /// # Errors
    /// The other digest that is known.
    pub fn learn_digest(&mut self, path: &str, digest: &str) -> Result<(), String> {
        let fact = self.files.entry(path.to_owned()).or_default();
        learn(&mut fact.digest, digest)
    }

    fn learn_line(&mut self, topic: &LineTopic, value: &str) -> Result<(), String> {
        match topic {
            LineTopic::Fixed => Ok(()),
            LineTopic::Digest(path) => self.learn_digest(path, value),
            LineTopic::FirstLine(path) => {
                let fact = self.files.entry(path.clone()).or_default();
                learn(&mut fact.first_line, value)
            }
            LineTopic::Nonce(number) => match self.nonces.get(number) {
                Some(known) if known != value => Err(known.clone()),
                _ => {
                    self.nonces.insert(*number, value.to_owned());
                    Ok(())
                }
            },
        }
    }
}

fn learn(known: &mut Option<String>, value: &str) -> Result<(), String> {
    match known {
        Some(known) if known != value => Err(known.clone()),
        Some(_) => Ok(()),
        None => {
            *known = Some(value.to_owned());
            Ok(())
        }
    }
}

impl ExpectedFile {
    /// Compares bytes with what they have to be, and learns from them.
    ///
    /// # Errors
    /// The first line that is another, with what was expected.
    pub fn compare(&self, bytes: &[u8], facts: &mut FactTable) -> Result<(), String> {
        let text = bytes.strip_suffix(vec![0; self.padding].as_slice()).unwrap_or(bytes);
        let text = String::from_utf8_lossy(text);
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        for (index, expected) in self.lines.iter().enumerate() {
            let line = lines.get(index).copied().unwrap_or("nothing");
            expected.compare(line, facts).map_err(|wanted| format!("line {}: `{line}` {wanted}", index + 1))?;
        }
        if lines.len() != self.lines.len() {
            return Err(format!("{} lines instead of {}", lines.len(), self.lines.len()));
        }
        let first_line = lines.first().copied().unwrap_or_default();
        let path = LineTopic::FirstLine(self.path.clone());
        facts.learn_line(&path, first_line).map_err(|known| format!("`{first_line}` instead of `{known}`"))?;
        facts.learn_digest(&self.path, &hex_digest(bytes)).map_err(|known| format!("its digest is to be {known}"))
    }

    /// The bytes, if all of them are known.
    pub fn render(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for line in &self.lines {
            let text = format!("{}{}{}\n", line.before, line.value.as_ref()?, line.after);
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.resize(bytes.len() + self.padding, 0);
        Some(bytes)
    }
}

impl ExpectedLine {
    fn compare(&self, line: &str, facts: &mut FactTable) -> Result<(), String> {
        let found = line.strip_prefix(&self.before).and_then(|rest| rest.strip_suffix(&self.after));
        let wanted = || format!("instead of `{}{}{}`", self.before, self.value.as_deref().unwrap_or("…"), self.after);
        let found = found.ok_or_else(wanted)?;
        if self.value.as_deref().is_some_and(|value| value != found) {
            return Err(wanted());
        }
        facts.learn_line(&self.topic, found).map_err(|known| format!("instead of one with `{known}`"))
    }
}

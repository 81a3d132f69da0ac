//! Reads the fields of one target by their types. Knows the types of [`FieldType`], lists with `glob` and `when`,
//! `$(location)`; not which rules have which fields.

mod when;

use std::sync::Arc;

use minibuild_core::{ArtifactKind, BIN_ROOT, EntryKind, HostTool, Label, OUT_ROOT, WsPath};
use minibuild_diagnostics::diag::Span;
use minibuild_diagnostics::suggest::did_you_mean;
use minibuild_diagnostics::walk::{Value, Walk};
use minibuild_rules::attr::AttrType;
use toml::de::{DeTable, DeValue};

use crate::glob;
use crate::package_files::PackageFiles;
use crate::rule_table::{Field, FieldType};
use crate::values::{LabelRef, Placed, RawLoc, RawOut, RawPart, RawRspFile, RawValue, Reference};

/// Reads fields of one target.
pub struct FieldReader<'r, 'a> {
    /// Values and complaints.
    pub walk: &'r mut Walk<'a>,
    /// The package.
    pub files: &'r mut PackageFiles<'a>,
    /// Outputs of the target read so far: as written, and where they lie.
    pub own: Vec<(String, WsPath)>,
}

/// Whether a field names something the target makes.
pub fn declares_output(ty: &FieldType) -> bool {
    matches!(ty, FieldType::Outs(_) | FieldType::OutPath | FieldType::RspFile)
}

/// What a list of files or targets may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Files, labels and globs.
    Files,
    /// Files and labels.
    Tools,
    /// Labels only.
    Targets,
}

/// Names that minibuild sets itself.
const RESERVED_ENV: [&str; 6] = ["SRC", "SRCS", "OUT", "OUTS", "OUT_DIR", "TMPDIR"];

impl FieldReader<'_, '_> {
    /// The value of a field, or `None` after a complaint.
    pub fn read(&mut self, field: &Field, value: &Value<'_>) -> Option<RawValue> {
        let name = &*field.name;
        match &field.ty {
            FieldType::Attr(ty) => self.attr(name, ty, value),
            FieldType::Loc => {
                let text = self.walk.string(value, name)?;
                Some(RawValue::Loc(self.location_text(value, text)))
            }
            FieldType::Outs(kind) => self.outs(name, *kind, value).map(RawValue::Outs),
            FieldType::OutPath => {
                let text = self.walk.string(value, name)?;
                self.out_path(text, self.walk.span(value)).map(RawValue::OutPath)
            }
            FieldType::RspFile => self.rspfile(name, value).map(RawValue::RspFile),
            FieldType::Duration => self.walk.time_limit(value, name).map(RawValue::Duration),
            FieldType::Memory => self.walk.size(value, name).map(RawValue::Memory),
            FieldType::HostTools => self.host_tools(name, value).map(RawValue::HostTools),
            FieldType::Tags => {
                let texts = self.texts(name, value)?;
                Some(RawValue::Tags(texts.iter().map(|(text, _)| Box::from(&**text)).collect()))
            }
            FieldType::Platform => self.platform(name, value).map(RawValue::Platform),
        }
    }

    fn attr(&mut self, name: &str, ty: &AttrType, value: &Value<'_>) -> Option<RawValue> {
        match ty {
            AttrType::String { pattern } => {
                let text = self.walk.string(value, name)?;
                self.check_pattern(name, pattern.as_ref(), text, self.walk.span(value))?;
                Some(RawValue::Text(Arc::from(text)))
            }
            AttrType::Int => self.walk.integer(value, name).map(RawValue::Int),
            AttrType::Enum { values } => self.enumeration(name, values, value),
            AttrType::Bool => self.walk.boolean(value, name).map(RawValue::Bool),
            AttrType::Strings { pattern } => {
                let texts = self.texts(name, value)?;
                let fine =
                    texts.iter().all(|(text, span)| self.check_pattern(name, pattern.as_ref(), text, *span).is_some());
                fine.then(|| RawValue::Texts(texts.into_iter().map(|(text, _)| text).collect()))
            }
            AttrType::Path => {
                let text = self.walk.string(value, name)?;
                self.directory(name, text, self.walk.span(value)).map(|path| RawValue::Paths(vec![path]))
            }
            AttrType::Paths => {
                let texts = self.texts(name, value)?;
                let paths: Vec<_> = texts.iter().filter_map(|(text, span)| self.directory(name, text, *span)).collect();
                (paths.len() == texts.len()).then_some(RawValue::Paths(paths))
            }
            AttrType::File { .. } => self.single(name, Wanted::Files, value),
            AttrType::Tool => self.single(name, Wanted::Tools, value),
            AttrType::Target { .. } => self.single(name, Wanted::Targets, value),
            AttrType::Files { .. } => self.references(name, Wanted::Files, value),
            AttrType::Tools => self.references(name, Wanted::Tools, value),
            AttrType::Targets { .. } => self.references(name, Wanted::Targets, value),
            AttrType::Args => self.args(name, value).map(RawValue::Args),
            AttrType::Env => self.env(name, value).map(RawValue::Env),
        }
    }

    fn enumeration(&mut self, name: &str, values: &[Arc<str>], value: &Value<'_>) -> Option<RawValue> {
        let text = self.walk.string(value, name)?;
        let span = self.walk.span(value);
        self.one_of(name, values, text, span).map(RawValue::Text)
    }

    /// The value of an enum that a text is.
    pub fn one_of(&mut self, name: &str, values: &[Arc<str>], text: &str, span: Span) -> Option<Arc<str>> {
        if let Some(known) = values.iter().find(|v| &***v == text) {
            return Some(known.clone());
        }
        let all: Vec<String> = values.iter().map(|v| format!("`{v}`")).collect();
        let hint =
            did_you_mean(text, values.iter().map(|v| &**v)).unwrap_or_else(|| format!("one of {}", all.join(", ")));
        self.walk.error_at(span, format!("`{name}` cannot be `{text}`")).hints.push(hint);
        None
    }

    /// Complains about a text that does not match as a whole.
    pub fn check_pattern(&mut self, name: &str, pattern: Option<&regex::Regex>, text: &str, span: Span) -> Option<()> {
        let Some(pattern) = pattern else { return Some(()) };
        if pattern.find(text).is_some_and(|m| m.start() == 0 && m.end() == text.len()) {
            return Some(());
        }
        let shown = pattern.as_str();
        self.walk
            .error_at(span, format!("`{name}` cannot be `{text}`"))
            .hints
            .push(format!("it must match `{shown}` as a whole"));
        None
    }

    fn texts(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<(Arc<str>, Span)>> {
        let mut texts = Vec::new();
        let fine = self.each(name, value, &mut |reader, item| {
            let Some(text) = reader.plain_string(name, item) else { return false };
            texts.push((Arc::from(text), reader.walk.span(item)));
            true
        });
        fine.then_some(texts)
    }

    /// A string of a list; a `glob` there gets an answer of its own.
    fn plain_string<'v>(&mut self, name: &str, item: &'v Value<'_>) -> Option<&'v str> {
        if let DeValue::Table(table) = item.get_ref()
            && table.contains_key("glob")
        {
            self.walk.error(item, format!("`{name}` is no list of files: `glob` is not allowed here"));
            return None;
        }
        self.walk.string(item, name)
    }

    /// Visits the items of a list, those of `when` tables that hold included.
    fn each(&mut self, name: &str, value: &Value<'_>, visit: &mut dyn FnMut(&mut Self, &Value<'_>) -> bool) -> bool {
        let Some(items) = self.walk.array(value, name) else { return false };
        let mut fine = true;
        for item in items {
            fine &= match item.get_ref() {
                DeValue::Table(table) if table.contains_key("when") || table.contains_key("items") => {
                    self.conditional(name, item, table, visit)
                }
                _ => visit(self, item),
            };
        }
        fine
    }

    fn single(&mut self, name: &str, wanted: Wanted, value: &Value<'_>) -> Option<RawValue> {
        let text = self.walk.string(value, name)?;
        let span = self.walk.span(value);
        let reference = self.reference(name, wanted, text, span)?;
        Some(RawValue::References(vec![Placed { value: reference, span }]))
    }

    fn references(&mut self, name: &str, wanted: Wanted, value: &Value<'_>) -> Option<RawValue> {
        let mut references = Vec::new();
        self.each(name, value, &mut |reader, item| {
            if wanted == Wanted::Files
                && let DeValue::Table(table) = item.get_ref()
            {
                return reader.glob(item, table, &mut references);
            }
            let Some(text) = reader.plain_string(name, item) else { return false };
            let span = reader.walk.span(item);
            let reference = reader.reference(name, wanted, text, span);
            let found = reference.is_some();
            references.extend(reference.map(|value| Placed { value, span }));
            found
        });
        // What could be read counts, so that its labels are looked up; the target has failed all the same.
        Some(RawValue::References(references))
    }

    fn glob(&mut self, item: &Value<'_>, table: &DeTable<'_>, references: &mut Vec<Placed<Reference>>) -> bool {
        let Some((found, span)) = self.glob_matches(item, table) else { return false };
        let dir = self.files.path.clone();
        for path in found {
            match dir.join(&path) {
                Ok(path) => references.push(Placed { value: Reference::Source(path), span }),
                Err(error) => {
                    self.walk.error_at(span, error.to_string());
                }
            }
        }
        true
    }

    fn glob_matches(&mut self, item: &Value<'_>, table: &DeTable<'_>) -> Option<(Vec<String>, Span)> {
        for (key, _) in table.iter().filter(|(key, _)| !matches!(&**key.get_ref(), "glob" | "exclude" | "allow_empty"))
        {
            self.walk.unknown_key(key, "a glob entry", ["glob", "exclude", "allow_empty"]);
        }
        let Some(glob) = table.get("glob") else {
            self.walk.error(item, "an entry is a string, `{ glob = [...] }` or `{ when = {...}, items = [...] }`");
            return None;
        };
        let patterns = self.walk.strings(glob, "glob")?;
        let exclude = match table.get("exclude") {
            Some(value) => self.walk.strings(value, "exclude")?,
            None => Vec::new(),
        };
        let allow_empty = match table.get("allow_empty") {
            Some(value) => self.walk.boolean(value, "allow_empty")?,
            None => false,
        };
        let texts = |list: &[(&'_ str, Span)]| list.iter().map(|(text, _)| (*text).to_owned()).collect::<Vec<_>>();
        let (include_texts, exclude_texts) = (texts(&patterns), texts(&exclude));
        let include: Vec<&str> = include_texts.iter().map(String::as_str).collect();
        let excluded: Vec<&str> = exclude_texts.iter().map(String::as_str).collect();
        let (fs, dir) = (self.files.cx.tree.fs, self.files.path.clone());
        let files = &mut *self.files;
        let result = glob::expand(fs, &mut |dir| files.list(dir), dir.as_str(), &include, &excluded);
        let span = self.walk.span(glob);
        match result {
            Ok(found) if found.is_empty() && !allow_empty => {
                let error = self.walk.error_at(span, "the glob matches nothing");
                error.hints.push("set `allow_empty = true` if that is fine".into());
                None
            }
            Ok(found) => Some((found, span)),
            Err((index, error)) => {
                let places = patterns.iter().chain(&exclude).map(|(_, span)| *span);
                let at = places.clone().nth(index).unwrap_or(span);
                let hint = error.hint();
                self.walk.error_at(at, error.to_string()).hints.extend(hint);
                None
            }
        }
    }

    /// What a text names.
    pub fn reference(&mut self, name: &str, wanted: Wanted, text: &str, span: Span) -> Option<Reference> {
        if text.starts_with("//") || text.starts_with(':') {
            return self.label(text, span, wanted != Wanted::Targets).map(Reference::Label);
        }
        if wanted == Wanted::Targets {
            let error = self.walk.error_at(span, format!("`{name}` takes labels, not `{text}`"));
            error.hints.push(format!("a target of this package is `:{text}`, of another `//package:name`"));
            return None;
        }
        self.source(text, span).map(Reference::Source)
    }

    fn label(&mut self, text: &str, span: Span, groups: bool) -> Option<LabelRef> {
        let (label, group) = match text.strip_suffix(']').and_then(|t| t.split_once('[')) {
            Some((label, group)) => (label, Some(group)),
            None => (text, None),
        };
        if group.is_some() && !groups {
            self.walk.error_at(span, format!("`{text}` names an output group; whole targets are needed here"));
            return None;
        }
        match Label::parse(label, self.files.path.as_str()) {
            Ok(label) => Some(LabelRef::new(label, group.map(Arc::from))),
            Err(error) => {
                self.walk.error_at(span, error.to_string());
                None
            }
        }
    }

    /// A source file of the package that exists.
    fn source(&mut self, text: &str, span: Span) -> Option<WsPath> {
        let path = self.package_path(text, span)?;
        match self.files.cx.tree.fs.kind(path.as_str()) {
            Ok(Some(EntryKind::File | EntryKind::Symlink)) => Some(path),
            Ok(Some(EntryKind::Directory)) => {
                let error = self.walk.error_at(span, format!("`{text}` is a directory"));
                error.hints.push(format!("name its files: `{{ glob = [\"{text}/**\"] }}`"));
                None
            }
            Ok(Some(EntryKind::Other)) => {
                self.walk.error_at(span, format!("`{text}` is neither a file nor a symlink"));
                None
            }
            Ok(None) => {
                self.missing(text, &path, span);
                None
            }
            Err(error) => {
                self.walk.error_at(span, format!("cannot look at `{path}`: {error}"));
                None
            }
        }
    }

    fn missing(&mut self, text: &str, path: &WsPath, span: Span) {
        let (dir, name) = (path.parent().unwrap_or_default(), path.file_name());
        let near = self.files.list(dir).ok().and_then(|entries| {
            let names: Vec<&str> = entries.iter().filter_map(|e| e.name.as_deref().ok()).collect();
            did_you_mean(name, names)
        });
        let package = self.files.path.clone();
        let is_glob = text.contains(['*', '?', '[', '{']);
        let hint = match near {
            _ if is_glob => format!("a pattern is written `{{ glob = [\"{text}\"] }}`"),
            Some(near) => near,
            None if text.contains(['.', '/']) => "if a target makes it, name that target: `:NAME`".to_owned(),
            None => format!("a target of this package is written `:{text}`"),
        };
        self.walk.error_at(span, format!("no file `{text}` in package `//{package}`")).hints.push(hint);
    }

    /// A path below the package that crosses no border.
    fn package_path(&mut self, text: &str, span: Span) -> Option<WsPath> {
        if text.is_empty() {
            self.walk.error_at(span, "an empty text names no file");
            return None;
        }
        // Where the joined path is one, the text alone is one too; where not, the text alone says why.
        let path = match self.files.path.join(text) {
            Ok(path) => path,
            Err(joined) => {
                let error = WsPath::new(text).err().unwrap_or(joined);
                let error = self.walk.error_at(span, error.to_string());
                if text.contains("..") {
                    error.hints.push("a file of another package is reached by a label of a target there".into());
                }
                return None;
            }
        };
        if path.is_at_or_below(OUT_ROOT) {
            self.walk.error_at(span, format!("`{path}` is written by minibuild; name the target that makes it"));
            return None;
        }
        if let Some(owner) = self.files.border(path.as_str()) {
            let error = self.walk.error_at(span, format!("`{text}` belongs to the package `//{owner}`"));
            error.hints.push(format!(
                "make it available there, for example by a filegroup, and name it by its label `//{owner}:NAME`"
            ));
            return None;
        }
        Some(path)
    }

    /// A directory at or below the package.
    pub fn directory(&mut self, name: &str, text: &str, span: Span) -> Option<WsPath> {
        if text == "." {
            return Some(self.files.path.clone());
        }
        if text.is_empty() {
            self.walk.error_at(span, format!("`{name}` takes a directory below the package, `.` for itself"));
            return None;
        }
        match WsPath::new(text).and_then(|_| self.files.path.join(text)) {
            Ok(path) => Some(path),
            Err(error) => {
                self.walk.error_at(span, error.to_string());
                None
            }
        }
    }

    fn args(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<RawLoc>> {
        let mut args = Vec::new();
        self.each(name, value, &mut |reader, item| {
            let Some(text) = reader.plain_string(name, item) else { return false };
            let loc = reader.location_text(item, text);
            args.push(loc);
            true
        });
        Some(args)
    }

    fn env(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<(Arc<str>, RawLoc)>> {
        let mut entries: Vec<(Arc<str>, RawLoc)> = Vec::new();
        for (key, value) in self.walk.table(value, name)? {
            let variable = key.get_ref();
            if variable.is_empty() || variable.contains(['=', '\0']) {
                self.walk.error(key, format!("`{variable}` cannot name an environment variable"));
            } else if RESERVED_ENV.contains(&&**variable) {
                self.walk.error(key, format!("`{variable}` is set by minibuild"));
            } else if let Some(text) = self.walk.string(value, variable) {
                let loc = self.location_text(value, text);
                entries.push((Arc::from(&**variable), loc));
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(entries)
    }

    /// A text with its `$(location X)` and `$(locations X)` found; every other `$` stays.
    fn location_text(&mut self, value: &Value<'_>, text: &str) -> RawLoc {
        let mut parts = Vec::new();
        let mut done = 0;
        let mut from = 0;
        while let Some(at) = text[from..].find("$(location").map(|at| from + at) {
            let after = &text[at + "$(location".len()..];
            let many = after.starts_with('s');
            let inner = &after[usize::from(many)..];
            from = at + 2;
            if !inner.starts_with([' ', '\t']) {
                continue;
            }
            let Some(close) = inner.find(')') else {
                let span = self.walk.span_inside(value, text, at, at + "$(location".len() + usize::from(many));
                self.walk.error_at(span, "`$(location` without `)`");
                break;
            };
            let name = inner[..close].trim();
            let start = text.len() - inner.len() + (inner.len() - inner.trim_start().len());
            let span = self.walk.span_inside(value, text, start, start + name.len());
            if let Some(of) = self.location(name, span) {
                if at > done {
                    parts.push(RawPart::Text(Arc::from(&text[done..at])));
                }
                parts.push(RawPart::Location { of: Placed { value: of, span }, many });
            }
            done = text.len() - inner.len() + close + 1;
            from = done;
        }
        if done < text.len() || parts.is_empty() {
            parts.push(RawPart::Text(Arc::from(&text[done..])));
        }
        RawLoc { parts }
    }

    fn location(&mut self, name: &str, span: Span) -> Option<Reference> {
        if let Some((_, path)) = self.own.iter().find(|(own, _)| own == name) {
            return Some(Reference::Own(path.clone()));
        }
        self.reference("location", Wanted::Tools, name, span)
    }

    fn outs(&mut self, name: &str, kind: ArtifactKind, value: &Value<'_>) -> Option<Vec<RawOut>> {
        let mut outs = Vec::new();
        let fine = self.each(name, value, &mut |reader, item| {
            let Some(text) = reader.plain_string(name, item) else { return false };
            let span = reader.walk.span(item);
            let Some(path) = reader.out_path(text, span) else { return false };
            outs.push(RawOut { path, kind, span });
            true
        });
        fine.then_some(outs)
    }

    /// Where an output lies; it may not cross a border either.
    fn out_path(&mut self, text: &str, span: Span) -> Option<WsPath> {
        let below = self.package_path(text, span)?;
        if self.files.is_package(below.as_str()) {
            self.walk.error_at(span, format!("`{text}` is the directory of the package `//{below}`"));
            return None;
        }
        let path = WsPath::new(&format!("{BIN_ROOT}/{below}")).ok()?;
        self.own.push((text.to_owned(), path.clone()));
        Some(path)
    }

    fn rspfile(&mut self, name: &str, value: &Value<'_>) -> Option<RawRspFile> {
        let table = self.walk.table(value, name)?;
        for (key, _) in table.iter().filter(|(key, _)| !matches!(&**key.get_ref(), "path" | "content")) {
            self.walk.unknown_key(key, name, ["path", "content"]);
        }
        let (Some(path), Some(content)) = (table.get("path"), table.get("content")) else {
            self.walk.error(value, format!("`{name}` needs `path` and `content`"));
            return None;
        };
        let text = self.walk.string(path, "path")?;
        let path = self.out_path(text, self.walk.span(path))?;
        let (content, lines) = match content.get_ref() {
            DeValue::String(text) => (vec![self.location_text(content, text)], false),
            _ => (self.args("content", content)?, true),
        };
        Some(RawRspFile { path, content, lines })
    }

    fn host_tools(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<HostTool>> {
        let mut tools = Vec::new();
        let fine = self.each(name, value, &mut |reader, item| {
            let tool = match item.get_ref() {
                DeValue::Table(table) => reader.host_tool_table(name, item, table),
                _ => reader
                    .walk
                    .string(item, name)
                    .map(|text| HostTool { program: Box::from(text), version_args: Box::default() }),
            };
            let Some(tool) = tool else { return false };
            if tool.program.is_empty() || (tool.program.contains('/') && !tool.program.starts_with('/')) {
                let text = format!("`{}` is neither a program's name nor an absolute path", tool.program);
                reader.walk.error(item, text);
                return false;
            }
            tools.push(tool);
            true
        });
        fine.then_some(tools)
    }

    fn host_tool_table(&mut self, name: &str, item: &Value<'_>, table: &DeTable<'_>) -> Option<HostTool> {
        for (key, _) in table.iter().filter(|(key, _)| !matches!(&**key.get_ref(), "program" | "version")) {
            self.walk.unknown_key(key, name, ["program", "version"]);
        }
        let Some(program) = table.get("program") else {
            self.walk.error(item, format!("an entry of `{name}` needs `program`"));
            return None;
        };
        let program = Box::from(self.walk.string(program, "program")?);
        let version = match table.get("version") {
            Some(value) => self.walk.strings(value, "version")?,
            None => Vec::new(),
        };
        Some(HostTool { program, version_args: version.into_iter().map(|(text, _)| Box::from(text)).collect() })
    }

    fn platform(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<(Box<str>, Box<str>)>> {
        let mut properties = Vec::new();
        for (key, value) in self.walk.table(value, name)? {
            if let Some(text) = self.walk.string(value, key.get_ref()) {
                properties.push((Box::from(&**key.get_ref()), Box::from(text)));
            }
        }
        properties.sort();
        Some(properties)
    }
}

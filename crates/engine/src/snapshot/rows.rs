//! What a snapshot says of single things, and how that is written. Values only.

use std::collections::BTreeMap;
use std::time::Duration;

use minibuild_core::{
    ActionKind, ActionTags, ArtifactKind, CommandLine, Content, Digest, DigestFunction, Fingerprint, Stamp, Work,
    WrittenFile, WsPath,
};
use minibuild_disk::Look;
use serde::{Deserialize, Serialize};

use crate::state::Mark;
use crate::tools::ToolTrace;

/// No action, no offset.
pub(super) const NONE: u32 = u32::MAX;
/// Marks a set among artifacts, and among actions.
pub(super) const SET: u32 = 1 << 31;

/// Kind of an artifact, in the lowest bits.
const KIND: u8 = 3;
/// It is on disk.
pub(super) const PRESENT: u8 = 4;
/// An equal fingerprint proves equal content.
pub(super) const TRUSTED: u8 = 8;
pub(super) const EXECUTABLE: u8 = 16;
/// The content is no regular file's: it is among the extras.
pub(super) const EXTRA: u8 = 32;
/// What its action makes is not known.
pub(super) const UNKNOWN: u8 = 64;

/// The first section.
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    /// What the whole snapshot depends on besides files: see [`super::Key`].
    pub key: [u8; 32],
    /// What the loader was told.
    pub looks: Vec<Look>,
    /// Host programs, by the model's ids: how each was found.
    pub tools: Vec<ToolRow>,
    /// `[env]`, from which environments of commands are told apart.
    pub env: BTreeMap<String, String>,
    /// One word each.
    pub mnemonics: Vec<String>,
    /// The state it goes with.
    pub mark: Mark,
    /// Places of records every build needs.
    pub common: Vec<u64>,
    /// Of all outputs the loaded packages declare, wanted or not.
    pub declared: Declared,
    /// Loaded packages.
    pub packages: Vec<String>,
}

/// Stands for the paths of a set of outputs, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Declared(u128);

impl Declared {
    /// Those of `model`.
    pub fn of(model: &minibuild_core::Model) -> Self {
        let outputs = model.artifacts.iter().filter(|artifact| artifact.producer.is_some());
        outputs.fold(Self::default(), |all, output| {
            let hash = DigestFunction::Blake3.digest(output.path.as_str().as_bytes()).hash;
            let half = hash.first_chunk().map_or(0, |half| u128::from_le_bytes(*half));
            Self(all.0.wrapping_add(half))
        })
    }
}

/// A host program.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ToolRow {
    pub program: String,
    pub version_args: Vec<String>,
    /// How it was found, if a wanted action uses it.
    pub trace: Option<Option<ToolTrace>>,
}

/// An artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ArtifactRow {
    pub flags: u8,
    pub print: Fingerprint,
    /// Of a regular file; zero for others.
    pub digest: Digest,
    /// Where the state's record lies, 0 for nowhere.
    pub file_at: u64,
    /// Of a directory or symlink.
    pub extra: Option<ExtraRow>,
}

/// How an artifact lies on disk: what changes of its row while its content stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PrintRow {
    pub flags: u8,
    pub print: Fingerprint,
}

impl PrintRow {
    /// That of something that lies there under `here`; the other arguments as in [`ArtifactRow::new`].
    pub fn new(kind: ArtifactKind, here: Fingerprint, stamps: Option<&[Stamp]>) -> Self {
        let is_sealed = kind != ArtifactKind::File || here.mode & 0o222 == 0;
        let is_trusted = matches!(stamps, Some([stamp]) if stamp.trusted && stamp.fingerprint == here) && is_sealed;
        Self { flags: kind_bits(kind) | PRESENT | if is_trusted { TRUSTED } else { 0 }, print: here }
    }
}

/// Content and stamps of what is no regular file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ExtraRow {
    pub content: Content,
    pub stamps: Vec<Stamp>,
}

/// What changes of an action from build to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ActionRow {
    /// Where the state's record lies, 0 for nowhere.
    pub record_at: u64,
    /// It has to be looked at whatever changed.
    pub is_dirty: bool,
}

pub(super) fn kind_bits(kind: ArtifactKind) -> u8 {
    match kind {
        ArtifactKind::Source => 0,
        ArtifactKind::File => 1,
        ArtifactKind::Directory => 2,
        ArtifactKind::Symlink => 3,
    }
}

pub(super) fn kind_of(flags: u8) -> ArtifactKind {
    match flags & KIND {
        0 => ArtifactKind::Source,
        1 => ArtifactKind::File,
        2 => ArtifactKind::Directory,
        _ => ArtifactKind::Symlink,
    }
}

pub(super) fn is_executable(flags: u8) -> bool {
    flags & EXECUTABLE != 0
}

impl ArtifactRow {
    /// The row of something with this content, lying on disk under `here`. `stamps` are those the state has for that
    /// content, if any.
    pub fn new(
        kind: ArtifactKind,
        content: Option<&Content>,
        here: Option<Fingerprint>,
        stamps: Option<&[Stamp]>,
        file_at: u64,
    ) -> Self {
        let zero = Digest { hash: [0; 32], size: 0 };
        let mut row =
            Self { flags: kind_bits(kind), print: Fingerprint::default(), digest: zero, file_at, extra: None };
        let Some(content) = content else {
            row.flags |= UNKNOWN;
            return row;
        };
        if let Some(here) = here {
            let seen = PrintRow::new(kind, here, stamps);
            (row.flags, row.print) = (seen.flags, seen.print);
        }
        match content {
            Content::File { digest, executable } => {
                row.digest = *digest;
                row.flags |= if *executable { EXECUTABLE } else { 0 };
            }
            other => {
                row.flags |= EXTRA;
                row.extra = Some(ExtraRow { content: other.clone(), stamps: stamps.unwrap_or_default().to_vec() });
            }
        }
        row
    }
}

/// What an action is besides its edges: read only of those that may have to run.
#[derive(Serialize, Deserialize)]
pub(super) struct Detail {
    kind: u8,
    tags: u8,
    pub depfile: Option<WsPath>,
    pub tools: Vec<u32>,
    pub timeout: Option<Duration>,
    pub platform: Vec<(String, String)>,
    pub pool: Option<String>,
    pub cpus: u32,
    pub memory: u64,
    work: WorkRow,
}

#[derive(Serialize, Deserialize)]
enum WorkRow {
    Spawn {
        argv: Vec<String>,
        /// Variables that are not those of `[env]`.
        env: Vec<(String, String)>,
        /// Variables of `[env]` that it has not.
        without: Vec<String>,
        files: Vec<FileRow>,
    },
    Write(FileRow),
}

#[derive(Serialize, Deserialize)]
struct FileRow {
    path: WsPath,
    content: Vec<u8>,
    executable: bool,
}

impl From<WrittenFile> for FileRow {
    fn from(file: WrittenFile) -> Self {
        Self { path: file.path, content: file.content, executable: file.executable }
    }
}

impl From<FileRow> for WrittenFile {
    fn from(row: FileRow) -> Self {
        Self { path: row.path, content: row.content, executable: row.executable }
    }
}

impl Detail {
    /// What `action` is, with its `work`; `env` is `[env]`, `tools` the rows of the model's host tools.
    pub fn new(action: &minibuild_core::Action, work: Work, env: &BTreeMap<String, String>, tools: &[u32]) -> Self {
        let work = match work {
            Work::Write(file) => WorkRow::Write(file.into()),
            Work::Spawn(command) => WorkRow::Spawn {
                without: env.keys().filter(|name| !command.env.contains_key(*name)).cloned().collect(),
                env: command.env.into_iter().filter(|(name, value)| env.get(name) != Some(value)).collect(),
                argv: command.argv,
                files: command.files.into_iter().map(FileRow::from).collect(),
            },
        };
        Self {
            kind: match action.kind {
                ActionKind::Spawn => 0,
                ActionKind::Write => 1,
                ActionKind::Test => 2,
            },
            tags: tag_bits(action.tags),
            depfile: action.depfile.clone(),
            tools: action.host_tools.iter().map(|id| tools.get(id.index()).copied().unwrap_or(NONE)).collect(),
            timeout: action.timeout,
            platform: action.platform.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            pool: action.resources.pool.as_ref().map(ToString::to_string),
            cpus: action.resources.cpus,
            memory: action.resources.memory,
            work,
        }
    }

    /// How it is carried out.
    pub fn kind(&self) -> Option<ActionKind> {
        [ActionKind::Spawn, ActionKind::Write, ActionKind::Test].get(usize::from(self.kind)).copied()
    }

    /// Where it may run and be stored.
    pub fn tags(&self) -> ActionTags {
        let has = |bit: u8| self.tags & 1 << bit != 0;
        ActionTags {
            no_remote: has(0),
            no_local: has(1),
            no_cache: has(2),
            no_remote_cache: has(3),
            exclusive: has(4),
            hermetic: has(5),
        }
    }

    /// Its work, where `env` is `[env]`.
    pub fn into_work(self, env: &BTreeMap<String, String>) -> Work {
        match self.work {
            WorkRow::Write(file) => Work::Write(file.into()),
            WorkRow::Spawn { argv, env: own, without, files } => {
                let mut all = env.clone();
                all.retain(|name, _| !without.contains(name));
                all.extend(own);
                Work::Spawn(CommandLine { argv, env: all, files: files.into_iter().map(WrittenFile::from).collect() })
            }
        }
    }
}

fn tag_bits(tags: ActionTags) -> u8 {
    let ActionTags { no_remote, no_local, no_cache, no_remote_cache, exclusive, hermetic } = tags;
    let bits = [no_remote, no_local, no_cache, no_remote_cache, exclusive, hermetic];
    bits.iter().enumerate().fold(0, |all, (bit, is_set)| all | u8::from(*is_set) << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_stamp_of_a_sealed_file_is_trusted() {
        let content = Content::File { digest: DigestFunction::Sha256.digest(b"x"), executable: true };
        let check = |kind, mode, trusted, here: Option<u64>, expected: u8| {
            let print = |size| Fingerprint { size, mode, ..Default::default() };
            let stamp = Stamp { fingerprint: print(1), trusted };
            let row = ArtifactRow::new(kind, Some(&content), here.map(print), Some(&[stamp]), 7);
            assert_eq!(row.flags & (PRESENT | TRUSTED), expected, "{kind:?} {mode:o} {trusted} {here:?}");
            assert!(is_executable(row.flags) && kind_of(row.flags) == kind);
        };
        check(ArtifactKind::File, 0o100_555, true, Some(1), PRESENT | TRUSTED);
        check(ArtifactKind::File, 0o100_755, true, Some(1), PRESENT);
        check(ArtifactKind::Source, 0o100_755, true, Some(1), PRESENT | TRUSTED);
        check(ArtifactKind::File, 0o100_555, false, Some(1), PRESENT);
        check(ArtifactKind::File, 0o100_555, true, Some(2), PRESENT);
        check(ArtifactKind::File, 0o100_555, true, None, 0);
        let unknown = ArtifactRow::new(ArtifactKind::File, None, Some(Fingerprint::default()), None, 0);
        assert_eq!(unknown.flags & (UNKNOWN | PRESENT | TRUSTED), UNKNOWN);
    }

    #[test]
    fn work_comes_back_whatever_its_environment() {
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let base = text(&[("PATH", "/bin"), ("LC_ALL", "C")]);
        for env in [base.clone(), text(&[]), text(&[("PATH", "/other"), ("OUT", "o"), ("LC_ALL", "C")])] {
            let file = WrittenFile { path: WsPath::new("r").expect("valid"), content: vec![0, 255], executable: true };
            let work = Work::Spawn(CommandLine { argv: vec!["a".into()], env, files: vec![file] });
            let action = minibuild_core::Action {
                target: minibuild_core::TargetId::new(0),
                mnemonic: "M".into(),
                kind: ActionKind::Test,
                inputs: Box::default(),
                discoverable: Box::default(),
                outputs: Box::default(),
                depfile: None,
                host_tools: Box::default(),
                tags: ActionTags { no_local: true, hermetic: true, ..Default::default() },
                timeout: Some(Duration::from_secs(3)),
                platform: std::sync::Arc::from([("a".into(), "b".into())]),
                resources: Default::default(),
            };
            let bytes = postcard::to_allocvec(&Detail::new(&action, work.clone(), &base, &[])).expect("encodes");
            let back: Detail = postcard::from_bytes(&bytes).expect("decodes");
            assert_eq!((back.kind(), back.tags(), back.timeout), (Some(action.kind), action.tags, action.timeout));
            assert_eq!(back.into_work(&base), work);
        }
    }
}

//! The loaded build as plain tables: what the rule loader hands to the action graph.
//!
//! Everything is an index into a vector, so a model of a million actions is a few large allocations and can be
//! written to disk as it is. What is expensive to make and rarely needed – argument vectors, environments, texts
//! to be written – is not here but behind [`CommandSource`], asked only for actions that may have to run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ActionId, ArtifactId, HostToolId, Label, PackageId, SetId, TargetId, WsPath};

/// All that was loaded.
#[derive(Debug, Default)]
pub struct Model {
    /// Packages, by [`PackageId`].
    pub packages: Vec<Package>,
    /// Targets, by [`TargetId`].
    pub targets: Vec<Target>,
    /// Actions, by [`ActionId`].
    pub actions: Vec<Action>,
    /// Source files and outputs, by [`ArtifactId`]; no two have one path.
    pub artifacts: Vec<Artifact>,
    /// Shared sets of artifacts, by [`SetId`]; children have smaller ids than their parents.
    pub sets: Vec<ArtifactSet>,
    /// Programs of the host, by [`HostToolId`].
    pub host_tools: Vec<HostTool>,
}

/// A directory with a `BUILD.toml`.
#[derive(Debug)]
pub struct Package {
    /// Path below the workspace root, `""` for the root itself.
    pub path: WsPath,
}

/// A target as the rest of the system sees it.
#[derive(Debug)]
pub struct Target {
    /// Its label.
    pub label: Label,
    /// Its package.
    pub package: PackageId,
    /// The rule it is an instance of, such as `genrule` or `c_library`.
    pub rule: Arc<str>,
    /// Free-form tags as written.
    pub tags: Box<[Box<str>]>,
    /// What the target stands for on the command line.
    pub outputs: Inputs,
    /// Named output groups: provider name to the files it gives.
    pub groups: BTreeMap<Box<str>, Inputs>,
    /// Set for runnable targets, and for aliases of such.
    pub run: Option<RunInfo>,
    /// The action that runs the test, for tests only.
    pub test: Option<ActionId>,
    /// Direct dependencies, for queries.
    pub deps: Box<[TargetId]>,
    /// What an `alias` stands for.
    pub alias_of: Option<TargetId>,
}

impl Target {
    /// Whether wildcards leave this target out.
    pub fn is_manual(&self) -> bool {
        self.tags.iter().any(|tag| &**tag == "manual")
    }
}

/// What `minibuild run` and tools need of a target.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// The program.
    pub executable: ArtifactId,
    /// Files it needs when it runs.
    pub runfiles: Inputs,
    /// Arguments given before the user's own. Templates are expanded.
    pub args: Box<[String]>,
    /// Variables added to the environment.
    pub env: BTreeMap<String, String>,
}

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ArtifactKind {
    /// A file of the source tree.
    Source,
    /// An output that is a regular file.
    File,
    /// An output that is a directory whose contents are unknown beforehand: a tree artifact.
    Directory,
    /// An output that is a symlink, kept as it is.
    Symlink,
}

/// A source file or an output of an action.
#[derive(Debug)]
pub struct Artifact {
    /// Where it lies, relative to the workspace root.
    pub path: WsPath,
    /// What it is.
    pub kind: ArtifactKind,
    /// The action that makes it; `None` for source files.
    pub producer: Option<ActionId>,
}

/// One artifact or a shared set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A single artifact.
    Artifact(ArtifactId),
    /// All members of a set.
    Set(SetId),
}

/// An ordered list of artifacts and sets.
pub type Inputs = Box<[Input]>;

/// A shared set: own artifacts and further sets. Membership is what counts here; orders are the loader's matter.
#[derive(Debug, Default)]
pub struct ArtifactSet {
    /// Members of this set itself, and sets below it (always with smaller ids).
    pub items: Inputs,
}

/// A program of the host: text of a `tool` variable or of `host_tools`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostTool {
    /// A name looked up in the action's `PATH`, or an absolute path.
    pub program: Box<str>,
    /// Arguments whose output joins the key; empty for none.
    pub version_args: Box<[Box<str>]>,
}

/// How an action is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// Runs a command.
    Spawn,
    /// minibuild itself writes the one output.
    Write,
    /// Runs a test: no declared outputs, its log is kept.
    Test,
}

/// Where an action may run and be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionTags {
    /// `local` or `no-remote`: never remotely.
    pub no_remote: bool,
    /// `no-local`: never here.
    pub no_local: bool,
    /// `no-cache`: stored in no cache.
    pub no_cache: bool,
    /// `no-remote-cache`: stored in no remote cache.
    pub no_remote_cache: bool,
    /// `exclusive`: runs while nothing else does.
    pub exclusive: bool,
    /// `hermetic = true`: reads nothing but its declared inputs, so its local results may be uploaded.
    pub hermetic: bool,
}

/// What an action takes while it runs here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Named pool of `[build] pools`.
    pub pool: Option<Box<str>>,
    /// Job slots; 0 means one.
    pub cpus: u32,
    /// Bytes of memory; 0 means unknown.
    pub memory: u64,
}

/// One action: a command with its declared inputs and outputs.
#[derive(Debug)]
pub struct Action {
    /// The target it belongs to.
    pub target: TargetId,
    /// Kind of work in one word, such as `CCompile`.
    pub mnemonic: Arc<str>,
    /// How it is carried out.
    pub kind: ActionKind,
    /// Everything it may read, except [`Self::discoverable`].
    pub inputs: Inputs,
    /// Inputs that count only where the depfile names them (RULES §5 `inputs`); empty without a depfile.
    pub discoverable: Inputs,
    /// What it must make; the first identifies the action across builds.
    pub outputs: Box<[ArtifactId]>,
    /// Make-style file of discovered inputs it writes.
    pub depfile: Option<WsPath>,
    /// Host programs whose fingerprints are part of the key.
    pub host_tools: Box<[HostToolId]>,
    /// Where it may run and be stored.
    pub tags: ActionTags,
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Platform properties as the user wrote them, sorted by name.
    pub platform: Arc<[(Box<str>, Box<str>)]>,
    /// What it takes while it runs here.
    pub resources: Resources,
}

/// A file minibuild writes beside a command: a response file, or the text of a `write` action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Where.
    pub path: WsPath,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Whether it gets its executable bits.
    pub executable: bool,
}

/// The expensive half of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A command to run.
    Spawn(CommandLine),
    /// The one output's content.
    Write(WrittenFile),
}

/// A command as it is run, here or elsewhere. The working directory is the workspace root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// The whole environment, `PATH` included; `TMPDIR` is added where it runs and is no part of the key.
    pub env: BTreeMap<String, String>,
    /// Response files: private inputs minibuild writes first.
    pub files: Vec<WrittenFile>,
}

/// Makes the expensive half of actions on demand.
///
/// 1. Pure: the same action gives the same work, whenever asked.
/// 2. Never fails: everything that can be wrong was reported when the target was loaded.
/// 3. Callable from several threads at once.
pub trait CommandSource: Send + Sync {
    /// The work of `action`.
    fn work(&self, action: ActionId) -> Work;
}

impl Model {
    /// The artifact's row.
    pub fn artifact(&self, id: ArtifactId) -> &Artifact {
        &self.artifacts[id.index()]
    }

    /// The action's row.
    pub fn action(&self, id: ActionId) -> &Action {
        &self.actions[id.index()]
    }

    /// The target's row.
    pub fn target(&self, id: TargetId) -> &Target {
        &self.targets[id.index()]
    }

    /// The label of the target an action belongs to.
    pub fn label_of(&self, id: ActionId) -> &Label {
        &self.target(self.action(id).target).label
    }

    /// Calls `visit` once for each artifact in `inputs`, sets included, in the order they are met.
    pub fn for_each_artifact(&self, inputs: &[Input], mut visit: impl FnMut(ArtifactId)) {
        let mut seen_sets = std::collections::HashSet::new();
        let mut seen = std::collections::HashSet::new();
        let mut stack: Vec<Input> = inputs.iter().rev().copied().collect();
        while let Some(input) = stack.pop() {
            match input {
                Input::Artifact(id) => {
                    if seen.insert(id) {
                        visit(id);
                    }
                }
                Input::Set(id) => {
                    if seen_sets.insert(id) {
                        stack.extend(self.sets[id.index()].items.iter().rev());
                    }
                }
            }
        }
    }

    /// The path that identifies an action across builds: its first output, or the log of a test.
    pub fn action_key_path(&self, id: ActionId) -> String {
        let action = self.action(id);
        match action.outputs.first() {
            Some(&output) => self.artifact(output).path.to_string(),
            None => self.test_log_path(id).to_string(),
        }
    }

    /// Where the log of a test action lies.
    pub fn test_log_path(&self, id: ActionId) -> WsPath {
        let label = self.label_of(id);
        let package = label.package();
        let slash = if package.is_empty() { "" } else { "/" };
        WsPath::new(&format!("{}/{package}{slash}{}/test.log", crate::TEST_LOG_ROOT, label.name()))
            .expect("packages and names are valid segments")
    }
}

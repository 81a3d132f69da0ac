//! Keys of actions: the digest of the Remote Execution API's `Action`, the same wherever the action runs.
//!
//! [`Facts`] is everything that decides an action's result, collected once; the key, the pruned key and the manifest
//! text are three readings of it, so an explanation cannot drift from the key. It does not know where contents come
//! from.

use std::cell::RefCell;
use std::time::Duration;

use minibuild_core::{ArtifactId, ArtifactKind, CommandLine, Content, Digest, DigestFunction, WrittenFile, WsPath};
use minibuild_reapi::{ActionMessage, CommandMessage, DirectoryBlobs, InputNode, InputRootError, input_root};

use crate::root_cache::{RootCache, WORTH_CACHING, node};

/// What is true of the host and of the whole build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// `OSFamily` of this host, such as `linux`.
    pub os: String,
    /// `ISA` of this host, such as `x86_64`.
    pub isa: String,
    /// `[build] salt`.
    pub salt: String,
    /// Hash function of all digests.
    pub function: DigestFunction,
}

/// A host program as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostToolFact {
    /// Text of the rule or variable.
    pub program: String,
    /// Digest of the file it resolves to; `None` where it was not found.
    pub digest: Option<Digest>,
    /// Output of its version arguments.
    pub version: String,
}

/// One input with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFact<'a> {
    /// Its row where it is an artifact; what a symlink leads to is none.
    pub id: Option<ArtifactId>,
    /// Where it lies.
    pub path: &'a WsPath,
    /// What it is.
    pub content: &'a Content,
    /// Whether it counts only where the depfile names it.
    pub discoverable: bool,
}

/// Everything that decides an action's result.
pub struct Facts<'a> {
    /// Command with environment and response files; a `write` action has none.
    pub command: &'a CommandLine,
    /// Declared outputs.
    pub outputs: Vec<(&'a WsPath, ArtifactKind)>,
    /// The depfile it writes: a file that comes back like an output.
    pub depfile: Option<&'a WsPath>,
    /// Inputs, sets flattened.
    pub inputs: Vec<InputFact<'a>>,
    /// Platform properties as the user wrote them.
    pub platform: &'a [(Box<str>, Box<str>)],
    /// The action's time limit.
    pub timeout: Option<Duration>,
    /// Whether its result may be cached.
    pub no_cache: bool,
    /// Host programs it uses.
    pub tools: Vec<&'a HostToolFact>,
    /// The host.
    pub host: &'a HostFacts,
    /// Directories encoded before; artifacts have one content as long as it is not told to forget.
    pub roots: Option<&'a RefCell<RootCache>>,
}

/// The key of an action with the digests it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionKey {
    /// Digest of the `Action`.
    pub action: Digest,
    /// Digest of its `Command`.
    pub command: Digest,
    /// Digest of its input root.
    pub input_root: Digest,
}

/// What must be equal for an action whose unread inputs changed to be still up to date: command, environment,
/// tools, undiscovered inputs, the set of names of discoverable ones, and the content of those that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunedKey(pub Digest);

/// Bumped whenever the same facts would give another result for a reason not among them.
const SALT_VERSION: &str = "minibuild-1";

impl<'a> Facts<'a> {
    /// The action's key.
    ///
    /// # Errors
    /// Where inputs contradict each other.
    pub fn key(&self) -> Result<ActionKey, InputRootError> {
        self.key_of_root(self.root(|_| true)?)
    }

    /// The action's key; `blobs` gets all `Directory` messages of the input root.
    ///
    /// # Errors
    /// Where inputs contradict each other.
    pub fn key_with(&self, blobs: &mut DirectoryBlobs<'_>) -> Result<ActionKey, InputRootError> {
        self.key_of_root(self.encode_root(|_| true, blobs)?)
    }

    fn key_of_root(&self, input_root: Digest) -> Result<ActionKey, InputRootError> {
        let command = self.host.function.digest(&self.command_bytes());
        let action = self.host.function.digest(&self.action_bytes(command, input_root));
        Ok(ActionKey { action, command, input_root })
    }

    /// Canonical bytes of the `Command`.
    pub fn command_bytes(&self) -> Vec<u8> {
        let (directories, files): (Vec<_>, Vec<_>) =
            self.outputs.iter().partition(|(_, k)| *k == ArtifactKind::Directory);
        CommandMessage {
            arguments: self.command.argv.iter().map(String::as_str).collect(),
            environment: self.command.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
            output_files: files.iter().map(|(p, _)| *p).chain(self.depfile).map(WsPath::as_str).collect(),
            output_directories: directories.iter().map(|(p, _)| p.as_str()).collect(),
            platform: self.platform_pairs(),
            ..Default::default()
        }
        .encode()
    }

    /// The pruned key, where `was_read` says which discoverable inputs the depfile named.
    ///
    /// # Errors
    /// Where inputs contradict each other.
    pub fn pruned_key(&self, was_read: impl Fn(&WsPath) -> bool) -> Result<PrunedKey, InputRootError> {
        let read_root = self.root(|input| !input.discoverable || was_read(input.path))?;
        let command = self.host.function.digest(&self.command_bytes());
        let mut names: Vec<&str> = self.inputs.iter().filter(|i| i.discoverable).map(|i| i.path.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut message = self.action_bytes(command, read_root);
        for name in names {
            message.push(0);
            message.extend_from_slice(name.as_bytes());
        }
        Ok(PrunedKey(DigestFunction::Sha256.digest(&message)))
    }

    /// One fact a line: kind, name and value separated by tabs, see the module `manifest`.
    pub fn manifest(&self) -> String {
        // About what a command with a few inputs takes.
        let mut text = String::with_capacity(1024);
        let mut line = |kind: &str, name: &str, value: &str| crate::manifest::write_line(&mut text, kind, name, value);
        for (index, argument) in self.command.argv.iter().enumerate() {
            line("arg", &index.to_string(), argument);
        }
        for (name, value) in &self.command.env {
            line("env", name, value);
        }
        for file in &self.command.files {
            line("file", file.path.as_str(), &describe(&self.content_of(file)));
        }
        for (path, kind) in &self.outputs {
            line("output", path.as_str(), &format!("{kind:?}").to_lowercase());
        }
        if let Some(depfile) = self.depfile {
            line("depfile", "", depfile.as_str());
        }
        for (name, value) in self.platform {
            line("platform", name, value);
        }
        if let Some(timeout) = self.timeout {
            line("timeout", "", &format!("{timeout:?}"));
        }
        for tool in &self.tools {
            line("tool", &tool.program, &tool_text(tool));
        }
        if self.no_cache {
            line("cache", "", "no-cache");
        }
        line("version", "", SALT_VERSION);
        line("host", "os", &self.intended_os());
        line("host", "isa", &self.intended_isa());
        line("salt", "", &self.host.salt);
        for input in &self.inputs {
            let kind = if input.discoverable { "discoverable" } else { "input" };
            line(kind, input.path.as_str(), &describe(input.content));
        }
        text
    }

    /// Canonical bytes of the `Action` with this command and input root.
    pub fn action_bytes(&self, command: Digest, input_root: Digest) -> Vec<u8> {
        ActionMessage {
            command,
            input_root,
            timeout: self.timeout,
            do_not_cache: self.no_cache,
            salt: self.salt().as_bytes(),
            platform: self.platform_pairs(),
        }
        .encode()
    }

    fn platform_pairs(&self) -> Vec<(&'a str, &'a str)> {
        self.platform.iter().map(|(n, v)| (&**n, &**v)).collect()
    }

    fn property(&self, name: &str) -> Option<&str> {
        self.platform.iter().find(|(n, _)| &**n == name).map(|(_, v)| &**v)
    }

    fn intended_os(&self) -> String {
        self.property("OSFamily").unwrap_or(&self.host.os).to_lowercase()
    }

    fn intended_isa(&self) -> String {
        self.property("ISA").or_else(|| self.property("Arch")).unwrap_or(&self.host.isa).to_lowercase()
    }

    /// Everything in the salt but the tools: what the intended platform is, and the user's own.
    fn host_salt(&self) -> String {
        format!("{SALT_VERSION} os={} isa={} {}", self.intended_os(), self.intended_isa(), self.host.salt)
    }

    fn salt(&self) -> String {
        let mut salt = self.host_salt();
        let mut tools: Vec<String> = self.tools.iter().map(|t| format!("{}\0{}", t.program, tool_text(t))).collect();
        tools.sort_unstable();
        tools.dedup();
        for tool in tools {
            salt.push('\0');
            salt.push_str(&tool);
        }
        salt
    }

    fn content_of(&self, file: &WrittenFile) -> Content {
        Content::File { digest: self.host.function.digest(&file.content), executable: file.executable }
    }

    /// Digest of the input root of those inputs, by way of the remembered directories where that is worth it.
    fn root(&self, keep: impl Fn(&InputFact<'_>) -> bool) -> Result<Digest, InputRootError> {
        let Some(roots) = self.roots.filter(|_| self.inputs.len() >= WORTH_CACHING) else {
            return self.encode_root(keep, &mut |_, _| {});
        };
        let written = self.written();
        let mut others = self.others(&written);
        let mut members = Vec::with_capacity(self.inputs.len());
        for input in self.inputs.iter().filter(|i| keep(i)) {
            match input.id {
                Some(id) => members.push((id, input.path, input.content)),
                None => others.push((input.path.as_str(), node(input.content))),
            }
        }
        roots.borrow_mut().root(&members, &others, self.host.function)
    }

    fn encode_root(
        &self,
        keep: impl Fn(&InputFact<'_>) -> bool,
        blobs: &mut DirectoryBlobs<'_>,
    ) -> Result<Digest, InputRootError> {
        let written = self.written();
        let mut entries = self.others(&written);
        entries.extend(self.inputs.iter().filter(|i| keep(i)).map(|i| (i.path.as_str(), node(i.content))));
        input_root(&mut entries, self.host.function, blobs)
    }

    fn written(&self) -> Vec<Content> {
        self.command.files.iter().map(|f| self.content_of(f)).collect()
    }

    /// Entries of the input root that are no inputs of the graph: response files and output directories.
    fn others<'s>(&'s self, written: &'s [Content]) -> Vec<(&'s str, InputNode<'s>)> {
        let files = self.command.files.iter().zip(written).map(|(f, c)| (f.path.as_str(), node(c)));
        let directories = self.outputs.iter().filter(|(_, kind)| *kind == ArtifactKind::Directory);
        files.chain(directories.map(|(path, _)| (path.as_str(), InputNode::EmptyDirectory))).collect()
    }
}

fn tool_text(tool: &HostToolFact) -> String {
    let digest = tool.digest.map_or_else(|| "not found".to_owned(), |d| d.to_string());
    if tool.version.is_empty() { digest } else { format!("{digest} {}", tool.version) }
}

/// A content in one word or two.
fn describe(content: &Content) -> String {
    match content {
        Content::File { digest, executable: false } => digest.to_string(),
        Content::File { digest, executable: true } => format!("{digest} executable"),
        Content::Symlink { target } => format!("-> {target}"),
        Content::Directory(tree) => format!("{} directory", tree.root),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Case {
        command: CommandLine,
        inputs: Vec<(WsPath, Content, bool)>,
        outputs: Vec<(WsPath, ArtifactKind)>,
        depfile: Option<WsPath>,
        no_cache: bool,
        platform: Vec<(Box<str>, Box<str>)>,
        timeout: Option<Duration>,
        tools: Vec<HostToolFact>,
        host: HostFacts,
    }

    fn path(text: &str) -> WsPath {
        WsPath::new(text).expect("valid path")
    }

    fn file(text: &str) -> Content {
        Content::File { digest: DigestFunction::Sha256.digest(text.as_bytes()), executable: false }
    }

    fn case() -> Case {
        Case {
            command: CommandLine {
                argv: vec!["cc".into(), "-c".into()],
                env: [("PATH".to_owned(), "/bin".to_owned())].into(),
                files: vec![],
            },
            inputs: vec![
                (path("a.c"), file("a"), false),
                (path("a.h"), file("h"), true),
                (path("b.h"), file("i"), true),
            ],
            outputs: vec![(path("minibuild-out/bin/a.o"), ArtifactKind::File)],
            depfile: None,
            no_cache: false,
            platform: vec![],
            timeout: None,
            tools: vec![HostToolFact { program: "cc".into(), digest: None, version: String::new() }],
            host: HostFacts {
                os: "linux".into(),
                isa: "x86_64".into(),
                salt: String::new(),
                function: DigestFunction::Sha256,
            },
        }
    }

    impl Case {
        fn facts(&self) -> Facts<'_> {
            Facts {
                command: &self.command,
                outputs: self.outputs.iter().map(|(p, k)| (p, *k)).collect(),
                depfile: self.depfile.as_ref(),
                inputs: self
                    .inputs
                    .iter()
                    .enumerate()
                    .map(|(index, (path, content, discoverable))| InputFact {
                        id: Some(ArtifactId::new(index)),
                        path,
                        content,
                        discoverable: *discoverable,
                    })
                    .collect(),
                platform: &self.platform,
                timeout: self.timeout,
                no_cache: self.no_cache,
                tools: self.tools.iter().collect(),
                host: &self.host,
                roots: None,
            }
        }

        fn key(&self) -> Digest {
            self.facts().key().expect("no contradiction").action
        }

        fn pruned(&self) -> PrunedKey {
            self.facts().pruned_key(|p| p.as_str() == "a.h").expect("no contradiction")
        }
    }

    /// Each change alters the key; the flag says whether it alters the pruned key too.
    #[test]
    fn each_fact_is_in_the_key_and_in_the_manifest() {
        type Edit = fn(&mut Case);
        let edits: Vec<(&str, Edit, bool)> = vec![
            ("argument", |c| c.command.argv[1] = "-S".into(), true),
            ("argument added", |c| c.command.argv.push(String::new()), true),
            ("environment", |c| drop(c.command.env.insert("A".into(), "1".into())), true),
            ("read header", |c| c.inputs[1].1 = file("h2"), true),
            ("unread header", |c| c.inputs[2].1 = file("i2"), false),
            ("new header", |c| c.inputs.push((path("c.h"), file("j"), true)), true),
            ("header gone", |c| drop(c.inputs.pop()), true),
            ("source", |c| c.inputs[0].1 = file("a2"), true),
            ("source renamed", |c| c.inputs[0].0 = path("z.c"), true),
            (
                "executable bit",
                |c| c.inputs[0].1 = Content::File { digest: DigestFunction::Sha256.digest(b"a"), executable: true },
                true,
            ),
            ("symlink", |c| c.inputs[0].1 = Content::Symlink { target: "x".into() }, true),
            ("output", |c| c.outputs[0].0 = path("minibuild-out/bin/b.o"), true),
            ("output kind", |c| c.outputs[0].1 = ArtifactKind::Directory, true),
            ("depfile", |c| c.depfile = Some(path("minibuild-out/bin/a.d")), true),
            ("no cache", |c| c.no_cache = true, true),
            ("platform", |c| c.platform.push(("a".into(), "b".into())), true),
            ("timeout", |c| c.timeout = Some(Duration::from_secs(1)), true),
            ("tool", |c| c.tools[0].digest = Some(DigestFunction::Sha256.digest(b"cc")), true),
            ("tool version", |c| c.tools[0].version = "13".into(), true),
            ("salt", |c| c.host.salt = "x".into(), true),
            ("isa", |c| c.host.isa = "aarch64".into(), true),
            (
                "response file",
                |c| c.command.files.push(WrittenFile { path: path("r"), content: b"x".to_vec(), executable: false }),
                true,
            ),
        ];
        let base = case();
        for (name, edit, pruned_too) in edits {
            let mut changed = case();
            edit(&mut changed);
            assert_ne!(base.key(), changed.key(), "{name}");
            assert_eq!(base.pruned() != changed.pruned(), pruned_too, "{name}");
            assert_ne!(base.facts().manifest(), changed.facts().manifest(), "{name}");
        }
        assert_eq!(case().key(), base.key());
    }

    #[test]
    fn order_of_inputs_does_not_matter_and_a_tree_counts_by_its_root() {
        let mut reordered = case();
        reordered.inputs.reverse();
        assert_eq!(reordered.key(), case().key());
        let tree = |root: &[u8], size| {
            let root = DigestFunction::Sha256.digest(root);
            Content::Directory(Arc::new(minibuild_core::TreeMeta { root, size, entries: vec![] }))
        };
        let with = |content| {
            let mut c = case();
            c.inputs[0].1 = content;
            c.key()
        };
        assert_eq!(with(tree(b"r", 1)), with(tree(b"r", 1)));
        assert_ne!(with(tree(b"r", 1)), with(tree(b"s", 1)));
    }

    #[test]
    fn many_inputs_have_the_same_key_by_way_of_the_cache() {
        let mut many = case();
        for i in 0..200 {
            many.inputs.push((path(&format!("inc/d{}/h{i}.h", i % 9)), file(&format!("h{i}")), i % 3 == 0));
        }
        many.outputs.push((path("minibuild-out/bin/tree"), ArtifactKind::Directory));
        many.command.files.push(WrittenFile { path: path("inc/r"), content: b"x".to_vec(), executable: false });
        let roots = RefCell::new(RootCache::default());
        let plain = many.facts();
        let cached = Facts { roots: Some(&roots), ..many.facts() };
        assert_eq!(cached.key(), plain.key());
        let was_read = |path: &WsPath| path.as_str().ends_with("3.h");
        assert_eq!(cached.pruned_key(was_read), plain.pruned_key(was_read));
    }

    #[test]
    fn platform_overrides_the_host_in_the_salt() {
        let mut on_arm = case();
        on_arm.host.isa = "aarch64".into();
        on_arm.platform.push(("ISA".into(), "x86_64".into()));
        let mut here = case();
        here.platform.push(("ISA".into(), "x86_64".into()));
        assert_eq!(on_arm.key(), here.key());
    }

    #[test]
    fn contradicting_inputs_are_an_error() {
        let mut twice = case();
        twice.inputs.push((path("a.c"), file("other"), false));
        assert_eq!(twice.facts().key(), Err(InputRootError::Twice("a.c".into())));
    }
}

//! What a fake build consists of, and how its actions behave. Knows nothing of the machine.

use std::sync::Arc;

use minibuild_core::{
    Action, ActionId, ActionKind, ActionTags, Artifact, ArtifactId, ArtifactKind, ArtifactSet, CommandLine,
    CommandSource, Input, Label, Model, Package, PackageId, Resources, SetId, Target, TargetId, Work, WrittenFile,
    WsPath,
};

/// An input of a fake action or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// Source number so.
    Source(usize),
    /// An action's output.
    Out(usize, usize),
    /// A shared set.
    Set(usize),
}

/// The shape of a fake action.
#[derive(Clone, Debug)]
pub struct Spec {
    pub inputs: Vec<In>,
    pub discoverable: Vec<In>,
    pub outputs: Vec<ArtifactKind>,
    pub kind: ActionKind,
    pub exclusive: bool,
    pub no_local: bool,
    pub no_remote: bool,
    pub no_cache: bool,
    pub hermetic: bool,
    pub resources: Resources,
}

/// How a fake action behaves; may change between builds without changing the graph.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Text of its command.
    pub command: u32,
    pub fails: bool,
    /// Makes something else each time.
    pub random: bool,
    /// Its depfile names a file nobody declared.
    pub undeclared: bool,
    /// It did so in some build.
    pub was_undeclared: bool,
    /// Makes the same whatever it reads.
    pub constant: bool,
    /// Milliseconds a run takes.
    pub wall: u64,
}

/// The shape of a fake build. Every action is a target of its own.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub sources: usize,
    pub sets: Vec<Vec<In>>,
    pub actions: Vec<Spec>,
}

/// An action with one output file.
pub fn action(inputs: &[In]) -> Spec {
    Spec {
        inputs: inputs.to_vec(),
        discoverable: Vec::new(),
        outputs: vec![ArtifactKind::File],
        kind: ActionKind::Spawn,
        exclusive: false,
        no_local: false,
        no_remote: false,
        no_cache: false,
        hermetic: false,
        resources: Resources::default(),
    }
}

/// A test action.
pub fn test(inputs: &[In]) -> Spec {
    Spec { kind: ActionKind::Test, outputs: Vec::new(), ..action(inputs) }
}

impl Plan {
    /// `sources` sources and these actions, without sets.
    pub fn new(sources: usize, actions: Vec<Spec>) -> Self {
        Self { sources, sets: Vec::new(), actions }
    }

    /// The id of an output.
    pub fn artifact(&self, action: usize, output: usize) -> ArtifactId {
        let before: usize = self.actions[..action].iter().map(|a| a.outputs.len()).sum();
        ArtifactId::new(self.sources + before + output)
    }

    fn input(&self, input: In) -> Input {
        match input {
            In::Source(i) => Input::Artifact(ArtifactId::new(i)),
            In::Out(action, output) => Input::Artifact(self.artifact(action, output)),
            In::Set(set) => Input::Set(SetId::new(set)),
        }
    }

    /// The loaded form.
    pub fn model(&self) -> Model {
        let mut model = Model { packages: vec![Package { path: path("p") }], ..Default::default() };
        let source = |i| Artifact { path: path(&source_path(i)), kind: ArtifactKind::Source, producer: None };
        model.artifacts.extend((0..self.sources).map(source));
        for (number, spec) in self.actions.iter().enumerate() {
            for (output, &kind) in spec.outputs.iter().enumerate() {
                let path = path(&output_path(number, output));
                model.artifacts.push(Artifact { path, kind, producer: Some(ActionId::new(number)) });
            }
            model.actions.push(self.row(number, spec));
            model.targets.push(self.target(number, spec));
        }
        for items in &self.sets {
            model.sets.push(ArtifactSet { items: items.iter().map(|&i| self.input(i)).collect() });
        }
        model
    }

    fn row(&self, number: usize, spec: &Spec) -> Action {
        let depfile = (!spec.discoverable.is_empty()).then(|| path(&format!("minibuild-out/bin/p/a{number}.d")));
        Action {
            target: TargetId::new(number),
            mnemonic: Arc::from("Fake"),
            kind: spec.kind,
            inputs: spec.inputs.iter().map(|&i| self.input(i)).collect(),
            discoverable: spec.discoverable.iter().map(|&i| self.input(i)).collect(),
            outputs: (0..spec.outputs.len()).map(|output| self.artifact(number, output)).collect(),
            depfile,
            host_tools: Box::default(),
            tags: ActionTags {
                exclusive: spec.exclusive,
                no_local: spec.no_local,
                no_remote: spec.no_remote,
                no_cache: spec.no_cache,
                hermetic: spec.hermetic,
                ..Default::default()
            },
            timeout: None,
            platform: Arc::from([]),
            resources: spec.resources.clone(),
        }
    }

    fn target(&self, number: usize, spec: &Spec) -> Target {
        Target {
            label: Label::new("p", &format!("a{number}")).expect("valid label"),
            package: PackageId::new(0),
            rule: Arc::from("fake"),
            tags: Box::default(),
            outputs: (0..spec.outputs.len()).map(|o| Input::Artifact(self.artifact(number, o))).collect(),
            groups: Default::default(),
            run: None,
            test: (spec.kind == ActionKind::Test).then(|| ActionId::new(number)),
            deps: Box::default(),
            alias_of: None,
        }
    }
}

pub fn path(text: &str) -> WsPath {
    WsPath::new(text).expect("valid path")
}

pub fn source_path(source: usize) -> String {
    format!("p/s{source}")
}

pub fn output_path(action: usize, output: usize) -> String {
    format!("minibuild-out/bin/p/a{action}.{output}")
}

/// The commands of a plan.
pub struct Commands {
    pub plan: Plan,
    pub behaviours: Vec<Behaviour>,
}

impl CommandSource for Commands {
    fn work(&self, action: ActionId) -> Work {
        let number = action.index();
        let text = format!("command {}", self.behaviours[number].command);
        match self.plan.actions[number].kind {
            ActionKind::Write => {
                let path = path(&output_path(number, 0));
                Work::Write(WrittenFile { path, content: text.into_bytes(), executable: false })
            }
            ActionKind::Spawn | ActionKind::Test => {
                Work::Spawn(CommandLine { argv: vec!["fake".into(), text], ..Default::default() })
            }
        }
    }
}

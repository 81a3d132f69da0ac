//! What the machine itself costs: a synthetic build (each action reads one source and two earlier outputs), an executor
//! that is done at once. Prints CPU time per action of each phase.
//!
//!     cargo run --release -p minibuild-engine --example machine_cost -- [ACTIONS] [pool|cpus|memory|exclusive] [cache]
//!
//! With the second argument all actions are in the way of each other, one runs at a time; with the third a remote cache is
//! asked for each of them and has nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    Action, ActionId, ActionKind, ActionTags, Artifact, ArtifactId, ArtifactKind, CacheAnswer, CommandLine,
    CommandSource, Content, Digest, DigestFunction, ExecutionReport, ExecutionRequest, ExecutionStatus, ExecutorEvent,
    Fingerprint, FoundOutput, Input, Label, Model, OutputMeta, Package, PackageId, RemoteEvent, Resources, RunCost,
    Stamp, Target, TargetId, Work, WsPath,
};
use minibuild_engine::machine::{
    Event, Goal, Goals, Machine, Outcome, RemoteGoals, SourceFact, Step, Uploads, Wanted, World,
};
use minibuild_engine::state::State;
use minibuild_graph::HostFacts;
use nix::sys::resource::{UsageWho, getrusage};

/// Targets of each package.
const PER_PACKAGE: usize = 100;

struct Commands(Arc<Model>);

impl CommandSource for Commands {
    fn work(&self, action: ActionId) -> Work {
        let row = self.0.action(action);
        let mut text = "head -q -c 512".to_owned();
        self.0.for_each_artifact(&row.inputs, |id| {
            text.push(' ');
            text.push_str(self.0.artifact(id).path.as_str());
        });
        let argv = ["/bin/sh", "-e", "-c", &text].map(str::to_owned).to_vec();
        let env = [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into();
        Work::Spawn(CommandLine { argv, env, files: Vec::new() })
    }
}

fn path(text: &str) -> WsPath {
    WsPath::new(text).expect("valid path")
}

/// Sources first, then one output of each action.
fn model(actions: usize, kind: &str) -> Model {
    let mut model = Model::default();
    let mut random = 7_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % limit.max(1) as u64).unwrap_or_default()
    };
    let (mnemonic, rule, platform) = (Arc::from("Genrule"), Arc::from("genrule"), Arc::from([]));
    for number in 0..actions {
        let path = path(&format!("p{:04}/s{:04}.txt", number / PER_PACKAGE, number % PER_PACKAGE));
        model.artifacts.push(Artifact { path, kind: ArtifactKind::Source, producer: None });
    }
    for number in 0..actions {
        let package = format!("p{:04}", number / PER_PACKAGE);
        let name = format!("t{:04}", number % PER_PACKAGE);
        if number % PER_PACKAGE == 0 {
            model.packages.push(Package { path: path(&package) });
        }
        let output = ArtifactId::new(actions + number);
        let path = path(&format!("minibuild-out/bin/{package}/{name}.out"));
        model.artifacts.push(Artifact { path, kind: ArtifactKind::File, producer: Some(ActionId::new(number)) });
        let mut inputs = vec![Input::Artifact(ArtifactId::new(number))];
        if number > 0 {
            inputs.extend((0..2).map(|_| Input::Artifact(ArtifactId::new(actions + below(number / 2)))));
        }
        model.actions.push(Action {
            target: TargetId::new(number),
            mnemonic: Arc::clone(&mnemonic),
            kind: ActionKind::Spawn,
            inputs: inputs.into(),
            discoverable: Box::default(),
            outputs: Box::new([output]),
            depfile: None,
            host_tools: Box::default(),
            tags: ActionTags { exclusive: kind == "exclusive", ..Default::default() },
            timeout: None,
            platform: Arc::clone(&platform),
            resources: resources(kind),
        });
        model.targets.push(Target {
            label: Label::new(&package, &name).expect("valid label"),
            package: PackageId::new(number / PER_PACKAGE),
            rule: Arc::clone(&rule),
            tags: Box::default(),
            outputs: Box::new([Input::Artifact(output)]),
            groups: Default::default(),
            run: None,
            test: None,
            deps: Box::default(),
            alias_of: None,
        });
    }
    model
}

fn digest(number: usize, round: u8) -> Digest {
    let mut hash = [round; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    Digest { hash, size: 512 }
}

fn stamp(number: usize) -> Stamp {
    Stamp { fingerprint: Fingerprint { ino: number as u64, size: 512, ..Default::default() }, trusted: true }
}

fn file(number: usize, round: u8) -> Content {
    Content::File { digest: digest(number, round), executable: false }
}

/// What an action takes that is in the way of all others.
fn resources(kind: &str) -> Resources {
    match kind {
        "pool" => Resources { pool: Some("p".into()), ..Default::default() },
        "cpus" => Resources { cpus: 8, ..Default::default() },
        "memory" => Resources { memory: 1 << 29 | 1, ..Default::default() },
        _ => Resources::default(),
    }
}

fn cache() -> RemoteGoals {
    RemoteGoals {
        store: "store".to_owned(),
        executes: false,
        caches: true,
        jobs: 1,
        uploads: Uploads::Never,
        waits_for_uploads: false,
        falls_back: true,
        lease: None,
    }
}

/// All targets asked for by name, or as members of one target.
fn goals(model: &Model, as_one: bool, has_cache: bool) -> Goals {
    let goal = |target: usize, outputs: Vec<ArtifactId>| Goal {
        target: TargetId::new(target),
        artifacts: outputs,
        runfiles: Vec::new(),
        test: None,
    };
    let actions = model.actions.len();
    let outputs = (0..actions).map(|number| ArtifactId::new(actions + number));
    let targets = match as_one {
        true => vec![goal(0, outputs.collect())],
        false => outputs.enumerate().map(|(number, output)| goal(number, vec![output])).collect(),
    };
    Goals {
        root: "/ws".to_owned(),
        is_absent: |_| false,
        targets,
        wishes: Default::default(),
        runs_nothing: false,
        jobs: 8,
        ahead: 0,
        pools: Default::default(),
        memory: 1 << 30,
        keep_going: false,
        fresh_tests: false,
        streams_tests: false,
        all_events: false,
        strategies: Default::default(),
        dynamic: Default::default(),
        remote: has_cache.then(cache),
        stores: Default::default(),
    }
}

/// Sources as they were in that round, and the outputs some record describes.
fn world(model: &Model, state: &State, round: u8) -> World {
    let mut world = World::default();
    for (index, artifact) in model.artifacts.iter().enumerate() {
        let id = ArtifactId::new(index);
        if artifact.producer.is_none() {
            let fact = SourceFact::file(file(index, round), stamp(index).fingerprint);
            world.sources.insert(id, Ok(fact));
        } else if let Some(record) = state.file(artifact.path.as_str()) {
            world.outputs.insert(id, (record.content.clone(), record.stamps[0].fingerprint));
        }
    }
    world
}

fn report(model: &Model, request: &ExecutionRequest, round: u8) -> ExecutionReport {
    let number = model.action(request.run.action).outputs[0].index();
    let meta = OutputMeta { path: request.outputs[0].path.clone(), content: file(number, round) };
    ExecutionReport {
        run: request.run,
        status: ExecutionStatus::Exited(0),
        stdout: Vec::new(),
        stderr: Vec::new(),
        whole_output: Vec::new(),
        outputs: vec![FoundOutput { meta, stamps: vec![stamp(number)] }],
        depfile: None,
        changed_inputs: Vec::new(),
        killed: Vec::new(),
        cost: RunCost { wall: Duration::from_millis(1), ..Default::default() },
        from_cache: false,
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("own usage is readable");
    let time =
        |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec().unsigned_abs(), t.tv_usec().unsigned_abs() as u32 * 1000);
    time(usage.user_time()) + time(usage.system_time())
}

/// Prints the CPU time since `since`, per action.
fn lap(what: &str, actions: usize, since: &mut Duration) {
    let now = cpu();
    let each = (now - *since).as_nanos() / actions as u128;
    println!("  {what:<24} {each:>6} ns per action");
    *since = now;
}

fn build(name: &str, model: &Arc<Model>, dir: &std::path::Path, round: u8, as_one: bool, has_cache: bool) -> Outcome {
    let actions = model.actions.len();
    println!("{name}:");
    let mut at = cpu();
    let (mut state, _) = State::open(dir, "boot", DigestFunction::Sha256).expect("the state opens");
    lap("state read", actions, &mut at);
    let goals = goals(model, as_one, has_cache);
    let wanted = Wanted::new(model, &goals.targets).expect("no cycle");
    lap("graph and order", actions, &mut at);
    let world = world(model, &state, round);
    at = cpu();
    let host =
        HostFacts { os: "linux".into(), isa: "x86_64".into(), salt: String::new(), function: DigestFunction::Sha256 };
    state.flush().expect("the state is written");
    let commands = Arc::new(Commands(Arc::clone(model)));
    let mut machine = Machine::new(Arc::clone(model), commands, wanted, goals, host, world, state);
    lap("machine made", actions, &mut at);
    let mut events = VecDeque::from([Event::Begin]);
    let mut outcome = None;
    while let Some(event) = events.pop_front() {
        for step in machine.handle_event(event, Duration::ZERO) {
            match step {
                Step::Start(request) => {
                    let report = report(model, &request, round);
                    events.push_back(Event::Executor(ExecutorEvent::Finished(Box::new(report))));
                }
                Step::LookUp(lookup) => {
                    let (run, answer) = (lookup.run, CacheAnswer::Miss);
                    events.push_back(Event::Remote(RemoteEvent::LookedUp { run, answer, took: Duration::ZERO }));
                }
                Step::Finish(end) => outcome = Some(end),
                _ => {}
            }
        }
    }
    lap("events handled", actions, &mut at);
    machine.state().flush().expect("the state is written");
    lap("state written", actions, &mut at);
    outcome.expect("the build is over")
}

fn main() {
    let actions = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let kind = std::env::args().nth(2).unwrap_or_default();
    let has_cache = std::env::args().nth(3).is_some();
    let model = Arc::new(model(actions, &kind));
    let dir = tempfile::tempdir().expect("temporary directory");
    for (name, round, as_one) in [
        ("from nothing", 0, false),
        ("nothing changed", 0, false),
        ("nothing changed, one target of all", 0, true),
        ("every source changed, one target of all", 1, true),
    ] {
        let outcome = build(name, &model, dir.path(), round, as_one, has_cache);
        println!("  {:?}", outcome.counts);
    }
}

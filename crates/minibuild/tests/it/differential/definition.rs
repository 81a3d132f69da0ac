//! The targets of a random workspace, and the text of its `BUILD.toml` files.
//!
//! A definition is fixed for one course. What edits change of it (versions, dropped targets) is in `sources`.

use std::fmt::Write as _;

use minibuild_testkit::Random;

/// Packages `p0`, `p1`, …; each has the same kinds of sources.
pub const PACKAGES: usize = 4;
/// Sources `s0`, `s1`, … of each package.
pub const SOURCES: usize = 4;
/// Headers `h/h0`, `h/h1`, … of each package.
pub const HEADERS: usize = 3;

/// What a target is, and what its command makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetShape {
    /// A genrule with one file.
    File,
    /// A genrule with two files.
    Pair,
    /// A target of the rule `pair`: two files that can be read without each other.
    Halves,
    /// A genrule with a directory.
    Tree,
    /// A genrule with a symlink that leads nowhere and is kept.
    DanglingLink,
    /// A genrule with a symlink to the output of the target before it, kept.
    SiblingLink,
    /// A target of the rule `scan`, with a depfile.
    Scan,
    /// A test.
    Test,
    /// A filegroup.
    Group,
}

/// One entry of a target's `srcs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetInput {
    /// A source of the target's package.
    Source(usize),
    /// All outputs of a target.
    Target(usize),
    /// The first output of a `Halves` target.
    FirstHalf(usize),
    /// The second output of a `Halves` target.
    SecondHalf(usize),
    /// All of `g/*`.
    Glob,
    /// The one source with `flavour = "plain"`, the other with `flavour = "other"`.
    Flavoured(usize, usize),
    /// The symlink `lf` to a source.
    FileLink,
    /// The symlink `ld` to a directory with further symlinks.
    DirectoryLink,
}

/// One target.
#[derive(Clone, Debug)]
pub struct TargetDefinition {
    pub package: usize,
    pub number: usize,
    pub shape: TargetShape,
    pub inputs: Vec<TargetInput>,
    /// Each run makes other bytes.
    pub is_random: bool,
    /// Zero bytes after the text of the first output.
    pub padding: usize,
    /// How long the command waits between its two looks at what it reads.
    pub delay_ms: usize,
    /// Its command changes the times of a source it reads, and nothing else of it.
    pub touches: bool,
    pub is_executable: bool,
    pub tags: Vec<&'static str>,
    /// Further lines, for places and processors.
    pub resources: &'static str,
    /// No other target reads it.
    pub is_leaf: bool,
}

/// What a course decides once for its workspaces.
#[derive(Clone, Copy, Debug)]
pub struct CourseTraits {
    /// Sources and inputs that are symlinks; with any, no build takes the null fast path.
    pub has_links: bool,
    /// Commands whose outputs differ each time.
    pub has_random: bool,
    /// Actions that only a server may run.
    pub has_no_local: bool,
    /// Actions that share places and processors.
    pub has_resources: bool,
    /// Largest padding of an output.
    pub largest_padding: usize,
    /// Largest delay of a command.
    pub longest_delay_ms: usize,
}

impl CourseTraits {
    pub fn random(random: &mut Random, has_server: bool, is_small_disk: bool) -> Self {
        Self {
            has_links: random.below(3) == 0,
            has_random: random.below(3) != 0,
            has_no_local: has_server && random.below(6) == 0,
            has_resources: random.below(2) == 0,
            largest_padding: if is_small_disk {
                300_000
            } else {
                [0, 0, 20_000, 1_500_000, 8_000_000][random.below(5)]
            },
            longest_delay_ms: [0, 0, 15, 60][random.below(4)],
        }
    }
}

impl TargetDefinition {
    pub fn name(&self) -> String {
        format!("t{:02}", self.number)
    }

    pub fn label(&self) -> String {
        format!("//p{}:{}", self.package, self.name())
    }

    /// The workspace-relative path of an output with this ending.
    pub fn output(&self, ending: &str) -> String {
        format!("minibuild-out/bin/p{}/{}.{ending}", self.package, self.name())
    }

    /// Paths of all declared outputs.
    pub fn outputs(&self) -> Vec<String> {
        let endings: &[&str] = match self.shape {
            TargetShape::File => &["out"],
            TargetShape::Pair | TargetShape::Halves => &["one", "two"],
            TargetShape::Tree => &["tree"],
            TargetShape::DanglingLink | TargetShape::SiblingLink => &["lnk"],
            TargetShape::Scan => &["scan"],
            TargetShape::Test | TargetShape::Group => &[],
        };
        endings.iter().map(|ending| self.output(ending)).collect()
    }

    /// Whether the target has an action that makes something.
    pub fn is_made(&self) -> bool {
        !matches!(self.shape, TargetShape::Test | TargetShape::Group)
    }
}

/// The targets of a course, each of which reads only earlier ones.
pub fn random_targets(random: &mut Random, traits: &CourseTraits) -> Vec<TargetDefinition> {
    let count = 8 + random.below(16);
    let mut targets: Vec<TargetDefinition> = Vec::new();
    for number in 0..count {
        let target = random_target(random, traits, number, &targets);
        targets.push(target);
    }
    mark_leaves(&mut targets);
    targets
}

fn mark_leaves(targets: &mut [TargetDefinition]) {
    let read: Vec<usize> =
        targets.iter().flat_map(|target| target.inputs.iter()).filter_map(|i| i.producer()).collect();
    for target in targets {
        target.is_leaf = !read.contains(&target.number);
    }
}

impl TargetInput {
    /// The number of the target that makes it.
    pub fn producer(self) -> Option<usize> {
        match self {
            Self::Target(number) | Self::FirstHalf(number) | Self::SecondHalf(number) => Some(number),
            _ => None,
        }
    }
}

fn random_target(
    random: &mut Random,
    traits: &CourseTraits,
    number: usize,
    before: &[TargetDefinition],
) -> TargetDefinition {
    let mut package = random.below(PACKAGES);
    let mut shape = random_shape(random);
    let sibling = before.last().filter(|target| target.shape == TargetShape::File);
    if shape == TargetShape::SiblingLink {
        match sibling {
            Some(target) => package = target.package,
            None => shape = TargetShape::File,
        }
    }
    let inputs = match shape {
        TargetShape::SiblingLink => vec![TargetInput::Target(number - 1)],
        TargetShape::Scan => vec![TargetInput::Source(random.below(SOURCES))],
        _ => random_inputs(random, traits, before),
    };
    let can_vary = matches!(shape, TargetShape::File | TargetShape::Pair | TargetShape::Halves | TargetShape::Tree);
    let reads_source = inputs.iter().any(|input| matches!(input, TargetInput::Source(_)));
    let touches = shape == TargetShape::File && reads_source && random.below(8) == 0;
    let is_random = traits.has_random && can_vary && random.below(3) == 0;
    TargetDefinition {
        package,
        number,
        shape,
        inputs,
        is_random,
        padding: if can_vary && random.below(3) == 0 { random.below(traits.largest_padding + 1) } else { 0 },
        delay_ms: if random.below(2) == 0 { random.below(traits.longest_delay_ms + 1) } else { 0 },
        touches,
        is_executable: shape == TargetShape::File && random.below(5) == 0,
        tags: if touches { vec!["no-remote"] } else { random_tags(random, traits, shape) },
        resources: random_resources(random, traits, shape),
        is_leaf: false,
    }
}

fn random_shape(random: &mut Random) -> TargetShape {
    match random.below(20) {
        0..=5 => TargetShape::File,
        6 | 7 => TargetShape::Pair,
        8..=11 => TargetShape::Halves,
        12 | 13 => TargetShape::Tree,
        14 => TargetShape::DanglingLink,
        15 => TargetShape::SiblingLink,
        16 | 17 => TargetShape::Scan,
        18 => TargetShape::Test,
        _ => TargetShape::Group,
    }
}

fn random_inputs(random: &mut Random, traits: &CourseTraits, before: &[TargetDefinition]) -> Vec<TargetInput> {
    let mut inputs: Vec<TargetInput> = Vec::new();
    for _ in 0..random.below(4) + 1 {
        let input = random_input(random, traits, before);
        let is_new = match input.producer() {
            Some(producer) => inputs.iter().all(|other| other.producer() != Some(producer)),
            None => inputs.iter().all(|other| std::mem::discriminant(other) != std::mem::discriminant(&input)),
        };
        if is_new {
            inputs.push(input);
        }
    }
    inputs
}

fn random_input(random: &mut Random, traits: &CourseTraits, before: &[TargetDefinition]) -> TargetInput {
    let source = random.below(SOURCES);
    match random.below(12) {
        0 if traits.has_links => TargetInput::FileLink,
        1 if traits.has_links => TargetInput::DirectoryLink,
        2 => TargetInput::Glob,
        3 => TargetInput::Flavoured(source, (source + 1) % SOURCES),
        4..=6 => TargetInput::Source(source),
        _ => random_producer(random, before).unwrap_or(TargetInput::Source(source)),
    }
}

fn random_producer(random: &mut Random, before: &[TargetDefinition]) -> Option<TargetInput> {
    let target = before.get(random.below(before.len().max(1)))?;
    match (target.shape, random.below(5)) {
        (TargetShape::Test, _) => None,
        (TargetShape::Halves, 0 | 1) => Some(TargetInput::FirstHalf(target.number)),
        (TargetShape::Halves, 2 | 3) => Some(TargetInput::SecondHalf(target.number)),
        _ => Some(TargetInput::Target(target.number)),
    }
}

fn random_tags(random: &mut Random, traits: &CourseTraits, shape: TargetShape) -> Vec<&'static str> {
    let tag = match random.below(24) {
        0 => "no-remote",
        1 => "no-cache",
        2 => "no-remote-cache",
        3 => "exclusive",
        4..=8 if traits.has_no_local => "no-local",
        _ => return Vec::new(),
    };
    if shape == TargetShape::Group { Vec::new() } else { vec![tag] }
}

fn random_resources(random: &mut Random, traits: &CourseTraits, shape: TargetShape) -> &'static str {
    if !traits.has_resources || matches!(shape, TargetShape::Halves | TargetShape::Scan | TargetShape::Group) {
        return "";
    }
    match random.below(6) {
        0 | 1 => "pool = \"single\"\n",
        2 => "pool = \"double\"\n",
        3 => "cpus = 2\n",
        4 if shape != TargetShape::Test => "hermetic = true\n",
        _ => "",
    }
}

/// What edits change of a target.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetEdits {
    /// Stands in the command and in each output.
    pub version: usize,
    /// The target is not in its `BUILD.toml`.
    pub is_dropped: bool,
    /// The inputs stand in the opposite order.
    pub is_reversed: bool,
}

/// The inputs in the order of `srcs`.
pub fn ordered_inputs(target: &TargetDefinition, edits: TargetEdits) -> Vec<TargetInput> {
    let mut inputs = target.inputs.clone();
    if edits.is_reversed {
        inputs.reverse();
    }
    inputs
}

/// The text of a package's `BUILD.toml`.
pub fn package_text(package: usize, targets: &[TargetDefinition], edits: &[TargetEdits], comment: usize) -> String {
    let mut text = format!("# {comment}\n");
    for (target, edits) in targets.iter().zip(edits) {
        if target.package == package && !edits.is_dropped {
            text.push_str(&target_text(target, *edits, targets));
        }
    }
    text
}

fn target_text(target: &TargetDefinition, edits: TargetEdits, targets: &[TargetDefinition]) -> String {
    let rule = match target.shape {
        TargetShape::Halves => "pair",
        TargetShape::Scan => "scan",
        TargetShape::Test => "test",
        TargetShape::Group => "filegroup",
        _ => "genrule",
    };
    let mut text = format!("[[{rule}]]\nname = {:?}\n", target.name());
    if !target.tags.is_empty() {
        let _ = writeln!(text, "tags = {:?}", target.tags);
    }
    text.push_str(target.resources);
    let inputs: Vec<String> = ordered_inputs(target, edits).iter().map(|input| input_text(*input, targets)).collect();
    match target.shape {
        TargetShape::Scan => {
            let settings = settings(target, edits);
            let _ = writeln!(text, "src = {}\nhdrs = [{{ glob = [\"h/*\"] }}]\nsettings = [{settings:?}]", inputs[0]);
        }
        TargetShape::Halves => {
            let settings = settings(target, edits);
            let _ = writeln!(text, "srcs = [{}]\nsettings = [{settings:?}]", inputs.join(", "));
        }
        TargetShape::Group => drop(writeln!(text, "srcs = [{}]", inputs.join(", "))),
        _ => {
            let cmd = format!(". $(location //tools:make); {}; flavour=any; {}", settings(target, edits), body(target));
            let _ = writeln!(text, "srcs = [{}]\ntools = [\"//tools:make\"]\ncmd = {cmd:?}", inputs.join(", "));
            text.push_str(&declared(target));
        }
    }
    text
}

fn input_text(input: TargetInput, targets: &[TargetDefinition]) -> String {
    match input {
        TargetInput::Source(number) => format!("\"s{number}\""),
        TargetInput::Target(number) => format!("{:?}", targets[number].label()),
        TargetInput::FirstHalf(number) => format!("\"{}[one]\"", targets[number].label()),
        TargetInput::SecondHalf(number) => format!("\"{}[two]\"", targets[number].label()),
        TargetInput::Glob => "{ glob = [\"g/*\"], allow_empty = true }".to_owned(),
        TargetInput::Flavoured(plain, other) => format!(
            "{{ when = {{ vars.flavour = \"plain\" }}, items = [\"s{plain}\"] }}, \
             {{ when = {{ vars.flavour = \"other\" }}, items = [\"s{other}\"] }}"
        ),
        TargetInput::FileLink => "\"lf\"".to_owned(),
        TargetInput::DirectoryLink => "\"ld\"".to_owned(),
    }
}

/// Assignments for the shell.
fn settings(target: &TargetDefinition, edits: TargetEdits) -> String {
    let mut text = format!("version=v{}", edits.version);
    if target.delay_ms > 0 {
        let _ = write!(text, "; delay=0.{:03}", target.delay_ms);
    }
    if target.padding > 0 {
        let _ = write!(text, "; pad={}", target.padding);
    }
    if target.is_random {
        text.push_str("; draw");
    }
    text
}

/// The command after the settings.
fn body(target: &TargetDefinition) -> String {
    let first = target.outputs().into_iter().next().unwrap_or_default();
    let made = match target.shape {
        TargetShape::File => "write $OUT".to_owned(),
        TargetShape::Pair => "set -- $OUTS; write $1; pad=; write $2".to_owned(),
        TargetShape::Tree => "mkdir $OUT_DIR/empty $OUT_DIR/sub; write $OUT_DIR/first; pad=; write $OUT_DIR/sub/run; \
             chmod +x $OUT_DIR/sub/run; ln -s sub/run $OUT_DIR/link; [ $version != v1 ] || write $OUT_DIR/more"
            .to_owned(),
        TargetShape::DanglingLink => format!("ln -s gone-$version {first}"),
        TargetShape::SiblingLink => format!("ln -s t{:02}.out {first}", target.number - 1),
        _ => "case $entries in *word7*) echo the verdict is bad; exit 1; esac".to_owned(),
    };
    let source = target.inputs.iter().find_map(|input| match input {
        TargetInput::Source(number) => Some(format!("p{}/s{number}", target.package)),
        _ => None,
    });
    let touch = source.filter(|_| target.touches).map_or(String::new(), |source| format!("touch {source}; "));
    let chmod = if target.is_executable { "; chmod +x $OUT" } else { "" };
    // Without inputs the variable is not set.
    format!("{touch}describe $SRCS; {made}{chmod}")
}

fn declared(target: &TargetDefinition) -> String {
    let names: Vec<String> =
        target.outputs().iter().map(|path| format!("{:?}", path.rsplit('/').next().unwrap_or_default())).collect();
    let names = names.join(", ");
    match target.shape {
        TargetShape::Tree => format!("out_dirs = [{names}]\n"),
        TargetShape::DanglingLink | TargetShape::SiblingLink => format!("out_symlinks = [{names}]\n"),
        TargetShape::Test => String::new(),
        _ => format!("outs = [{names}]\n"),
    }
}

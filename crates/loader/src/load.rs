//! The whole way from a workspace to a [`Model`]: configuration, rule files, packages round by round, targets,
//! patterns. Each step is in a module of its own; this one knows their order.

use std::sync::Arc;

use minibuild_core::{
    ActionId, BUILD_FILE, CommandSource, EntryKind, Label, Model, SourceFs, TargetId, WORKSPACE_FILE, WsPath,
    map_parallel,
};
use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, FileId, Sources, Span};
use minibuild_diagnostics::suggest::did_you_mean;
use minibuild_diagnostics::text;
use minibuild_rules::lang::{self, HostFacts, RuleSet, VarId, VarInputs, Vars};
use minibuild_rules::std_files;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::command::{Commands, RecipeSlot};
use crate::config::{self, Config, ConfigInput};
use crate::expand::{BUILTIN_MNEMONICS, Expander, Setup};
use crate::package;
use crate::package_files::PackageCx;
use crate::pattern::{self, Pattern, PatternKind, Requested};
use crate::resolve::TargetGraph;
use crate::rule_table::{RuleKind, RuleTable};
use crate::settings::Settings;
use crate::source_tree::{SourceTree, has_build_file, join};
use crate::values::{RawPackage, RawTarget};

/// The personal settings beside minibuild.toml.
pub const LOCAL_FILE: &str = "minibuild.local.toml";

/// What is to be loaded.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// Settings besides those of the workspace's files.
    pub config: ConfigInput,
    /// Target patterns.
    pub patterns: Vec<String>,
    /// The caller's directory below the workspace root, for relative patterns.
    pub cwd: String,
    /// Values of `vars.os` and `vars.arch`.
    pub host: HostFacts,
    /// Threads that read packages; at least one is used.
    pub threads: usize,
}

/// A loaded workspace.
pub struct Loaded {
    /// Everything in the packages that were reached.
    pub model: Arc<Model>,
    /// The configuration.
    pub settings: Settings,
    /// What the patterns mean, in their order, each once.
    pub requested: Vec<Requested>,
    /// Makes the commands.
    pub commands: Arc<dyn CommandSource>,
    recipes: Arc<Commands>,
    patterns: Vec<Pattern>,
    /// What is not wrong enough to stop.
    pub warnings: Diagnostics,
    /// For rendering the warnings.
    pub sources: Arc<Sources>,
    /// Directories of the loaded packages, sorted.
    pub packages: Vec<WsPath>,
}

impl Loaded {
    /// The arguments of an action, one a line, each with the line of the rule file and the attribute it came from.
    pub fn explain_argv(&self, action: ActionId) -> String {
        lang::show_argv(&self.recipes.explain(action), &self.sources)
    }

    /// What an argument of an action comes from: a variable, or an attribute with the place where it is given. `None` where it
    /// is the rule's own text.
    pub fn argument_origin(&self, action: ActionId, index: usize) -> Option<String> {
        lang::show_origin(self.recipes.explain(action).get(index)?, &self.sources)
    }

    /// What each pattern of the request means by itself, in their order; sorted.
    pub fn targets_by_pattern(&self) -> Vec<Vec<TargetId>> {
        let targets = || self.model.targets.iter().enumerate().map(|(index, target)| (TargetId::new(index), target));
        let by_label: FxHashMap<&Label, TargetId> = targets().map(|(id, target)| (&target.label, id)).collect();
        let meant = |pattern: &Pattern| match &pattern.kind {
            PatternKind::Target(label, _) => by_label.get(label).copied().into_iter().collect(),
            _ => targets()
                .filter(|(_, target)| pattern.matches_package(target.label.package()) && !target.is_manual())
                .map(|(id, _)| id)
                .collect(),
        };
        self.patterns.iter().map(meant).collect()
    }
}

/// Why nothing was loaded.
pub struct LoadFailure {
    /// All that is wrong.
    pub diagnostics: Diagnostics,
    /// For rendering.
    pub sources: Arc<Sources>,
}

/// Loads what the patterns reach.
///
/// # Errors
/// Every error of every file that was reached.
pub fn load(fs: &dyn SourceFs, request: &LoadRequest) -> Result<Loaded, LoadFailure> {
    let (sources, diags) = (Sources::default(), Diagnostics::default());
    let mut loader = Loader { fs, request, sources, diags, own: FxHashSet::default() };
    match loader.run() {
        Some(loaded) if !loader.diags.has_errors() => {
            Ok(Loaded { warnings: loader.diags, sources: Arc::new(loader.sources), ..loaded })
        }
        _ => Err(LoadFailure { diagnostics: loader.diags, sources: Arc::new(loader.sources) }),
    }
}

/// Reads the configuration alone.
///
/// # Errors
/// Every error of the configuration files, variables and flags.
pub fn load_settings(fs: &dyn SourceFs, input: &ConfigInput) -> Result<(Settings, Diagnostics, Sources), LoadFailure> {
    let mut sources = Sources::default();
    let mut diags = Diagnostics::default();
    let config = read_config(fs, input, &mut sources, &mut diags);
    if diags.has_errors() {
        return Err(LoadFailure { diagnostics: diags, sources: Arc::new(sources) });
    }
    Ok((config.settings, diags, sources))
}

/// Reads all layers of the configuration.
pub fn read_config(fs: &dyn SourceFs, input: &ConfigInput, sources: &mut Sources, diags: &mut Diagnostics) -> Config {
    let mut files = Vec::new();
    files.extend(input.user_file.clone());
    for path in [WORKSPACE_FILE, LOCAL_FILE] {
        match fs.read(path) {
            Ok(bytes) => files.push((path.to_owned(), bytes)),
            Err(error) => diags.list.extend(unreadable(fs, path, &error)),
        }
    }
    let files = config::register(files, sources, diags);
    config::resolve(input, &files, diags)
}

struct Loader<'a> {
    fs: &'a dyn SourceFs,
    request: &'a LoadRequest,
    sources: Sources,
    diags: Diagnostics,
    /// Directories that are known to lie in no nested workspace.
    own: FxHashSet<String>,
}

impl Loader<'_> {
    fn run(&mut self) -> Option<Loaded> {
        let config = read_config(self.fs, &self.request.config, &mut self.sources, &mut self.diags);
        let files = rule_files(self.fs, &config, &mut self.sources, &mut self.diags);
        let set = lang::compile(&files, &self.sources, &mut self.diags);
        check_configs(&config, &set, &mut self.diags);
        check_mnemonics(&config, &set, &mut self.diags);
        let vars = set.resolve_vars(&var_inputs(&config, &self.request.host), &mut self.diags);
        let rules = RuleTable::new(&set);
        let tree = SourceTree { fs: self.fs, ignored: &config.settings.ignore };
        let patterns = self.patterns(tree);
        let tools = tool_labels(&vars, &mut self.diags);
        let names: Vec<Arc<str>> = set.vars().iter().map(|decl| decl.name.clone()).collect();
        let cx = PackageCx { tree, rules: &rules, vars: &vars, var_names: &names };
        let packages = self.packages(cx, &patterns, &|target| tools_of(target, &rules, &set, &tools));
        let (mut graph, order, tool_vars) = self.graph(&packages, &rules, &set, &tools);
        let borders = |dir: &str| tree.is_package(dir);
        let setup = Setup {
            rules: &rules,
            set: &set,
            pools: &config.settings.pools,
            is_package: &borders,
            tool_vars: &tool_vars,
        };
        let mut expander = Expander::new(&graph, setup, Arc::new(vars.clone()), &mut self.diags);
        for id in order {
            expander.expand(id);
        }
        expander.check_conflicts();
        let (requested, errors) = requested(&graph, &expander, &patterns);
        let recipes = std::mem::take(&mut expander.recipes);
        let model = std::mem::take(&mut expander.builder.model);
        let scraps = (std::mem::take(&mut expander.builder), std::mem::take(&mut expander.provided));
        drop(expander);
        let names = std::mem::take(&mut graph.deps);
        drop(graph);
        give_back((scraps, names, packages), model.targets.len());
        self.diags.list.extend(errors);
        if !self.diags.has_errors() && (recipes.len() != model.actions.len() || recipes.iter().any(Option::is_none)) {
            self.diags.push(Diagnostic::error("bug: an action has no recipe"));
        }
        if self.diags.has_errors() {
            return None;
        }
        Some(self.finish(config.settings, model, recipes, requested, patterns))
    }

    /// Targets, their order, and the tool variables that are labels.
    fn graph<'p>(
        &mut self,
        packages: &'p [RawPackage],
        rules: &RuleTable,
        set: &RuleSet,
        tools: &[(VarId, Label)],
    ) -> (TargetGraph<'p>, Vec<TargetId>, Vec<(TargetId, VarId)>) {
        let extra = |target: &RawTarget, by_label: &FxHashMap<&Label, TargetId>| {
            tools_of(target, rules, set, tools).into_iter().filter_map(|label| by_label.get(label).copied()).collect()
        };
        let mut graph = TargetGraph::new(packages, &extra, self.request.threads, &mut self.diags);
        let mut tool_vars = Vec::new();
        let used: FxHashSet<&Label> =
            packages.iter().flat_map(|p| &p.targets).flat_map(|t| tools_of(t, rules, set, tools)).collect();
        for (var, label) in tools.iter().filter(|(_, label)| used.contains(label)) {
            match graph.by_label.get(label) {
                Some(target) => tool_vars.push((*target, *var)),
                None => self.diags.list.extend(graph.unknown_label(label)),
            }
        }
        let order = graph.order(&mut self.diags);
        (graph, order, tool_vars)
    }

    fn finish(
        &self,
        settings: Settings,
        model: Model,
        recipes: Vec<Option<RecipeSlot>>,
        requested: Vec<Requested>,
        patterns: Vec<Pattern>,
    ) -> Loaded {
        let model = Arc::new(model);
        let base_env = Arc::new(settings.env.clone());
        let recipes = recipes.into_iter().flatten().collect();
        let recipes = Arc::new(Commands { model: model.clone(), recipes, base_env });
        let mut packages: Vec<WsPath> = model.packages.iter().map(|p| p.path.clone()).collect();
        packages.sort();
        Loaded {
            commands: recipes.clone(),
            recipes,
            patterns,
            model,
            settings,
            requested,
            warnings: Diagnostics::default(),
            sources: Arc::default(),
            packages,
        }
    }

    fn patterns(&mut self, tree: SourceTree<'_>) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for text in &self.request.patterns {
            match pattern::parse(text, &self.request.cwd) {
                Ok(pattern) => patterns.push(settled(pattern, tree)),
                Err(message) => self.diags.push(Diagnostic::error(message)),
            }
        }
        patterns
    }

    /// Reads the packages the patterns name, then those their targets name, and so on.
    fn packages<'t>(
        &mut self,
        cx: PackageCx<'_>,
        patterns: &[Pattern],
        tools_of: &dyn Fn(&RawTarget) -> Vec<&'t Label>,
    ) -> Vec<RawPackage> {
        let mut wanted = self.pattern_packages(cx, patterns);
        let mut seen: FxHashMap<String, ()> = FxHashMap::default();
        let mut packages: Vec<RawPackage> = Vec::new();
        while !wanted.is_empty() {
            wanted.sort();
            wanted.dedup();
            wanted.retain(|p| seen.insert(p.clone(), ()).is_none());
            let first = packages.len();
            wanted.retain(|p| !self.is_nested(cx.tree, p, &mut packages));
            self.read_round(cx, &wanted, &mut packages);
            wanted = Vec::new();
            for target in packages[first..].iter().flat_map(|p| &p.targets) {
                let own = target.label.package();
                let mut want = |label: &Label| {
                    let package = label.package();
                    if package != own && !seen.contains_key(package) {
                        wanted.push(package.to_owned());
                    }
                };
                target.for_each_label(&mut |label, _| want(&label.label));
                tools_of(target).into_iter().for_each(want);
            }
        }
        packages.sort_by(|a, b| a.path.cmp(&b.path));
        packages
    }

    fn pattern_packages(&mut self, cx: PackageCx<'_>, patterns: &[Pattern]) -> Vec<String> {
        let mut wanted = Vec::new();
        for pattern in patterns.iter().filter(|p| !p.subtract) {
            match &pattern.kind {
                PatternKind::Target(label, _) => wanted.push(label.package().to_owned()),
                PatternKind::Package(package) => wanted.push(package.clone()),
                PatternKind::Below(top) => wanted.extend(self.packages_below(cx, top)),
            }
        }
        wanted
    }

    /// Whether a package lies in a workspace below this one. Then it is an empty package here, and the error is told.
    fn is_nested(&mut self, tree: SourceTree<'_>, package: &str, packages: &mut Vec<RawPackage>) -> bool {
        let mut open: Vec<String> = Vec::new();
        let mut dir = package.to_owned();
        while !dir.is_empty() && !self.own.contains(&dir) {
            if tree.is_workspace(&dir) {
                let message = format!("`//{package}` is in the workspace `{dir}`, not in this one");
                self.diags.push(Diagnostic::error(message).hint(format!("build it there, with `-C {dir}`")));
                let path = WsPath::new(package).ok();
                packages.extend(path.map(|path| RawPackage { path, targets: Vec::new(), broken: true }));
                return true;
            }
            let parent = dir.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
            open.push(std::mem::replace(&mut dir, parent));
        }
        self.own.extend(open);
        false
    }

    fn packages_below(&mut self, cx: PackageCx<'_>, top: &str) -> Vec<String> {
        if cx.tree.nested_workspace(top).is_some() {
            return vec![top.to_owned()];
        }
        let mut found = Vec::new();
        for (dir, entries) in cx.tree.walk(top) {
            match entries {
                Ok(entries) if !has_build_file(&entries) => {}
                Ok(_) if Label::is_package(&dir) => {
                    self.own.insert(dir.clone());
                    found.push(dir);
                }
                Ok(_) => self.diags.push(bad_package_name(&dir)),
                // `no_package` says it.
                Err(error) if dir == top && is_absent(&error) => {}
                Err(error) => {
                    let error = Diagnostic::error(format!("cannot list `{dir}`: {error}"));
                    self.diags.push(error.hint(LEAVE_OUT));
                }
            }
        }
        found
    }

    fn read_round(&mut self, cx: PackageCx<'_>, wanted: &[String], packages: &mut Vec<RawPackage>) {
        let first = self.sources.len();
        let threads = self.request.threads.clamp(1, wanted.len().max(1));
        let chunk = wanted.len().div_ceil(threads).max(1);
        let mut results: Vec<ReadPackage> = Vec::with_capacity(wanted.len());
        if threads == 1 {
            results.extend(wanted.iter().enumerate().map(|(i, path)| read_package(cx, path, first + i)));
        } else {
            let read_chunk = |(index, paths): (usize, &'_ [String])| {
                let start = first + index * chunk;
                paths.iter().enumerate().map(|(i, path)| read_package(cx, path, start + i)).collect::<Vec<_>>()
            };
            let chunks = wanted.chunks(chunk).enumerate().collect();
            results.extend(map_parallel(chunks, threads, read_chunk).into_iter().flatten());
        }
        for result in results {
            self.sources.add(&result.path, result.text);
            self.diags.list.extend(result.diags.list);
            packages.extend(result.package);
        }
    }
}

/// A bare word is a package below the current directory or, where there is none, a target here.
fn settled(mut pattern: Pattern, tree: SourceTree<'_>) -> Pattern {
    if let (PatternKind::Target(label, group), Some(target)) = (&pattern.kind, &pattern.or_target)
        && !tree.is_package(label.package())
    {
        pattern.kind = PatternKind::Target(target.clone(), group.clone());
    }
    pattern
}

/// Reads the rule files that the configuration names.
pub fn rule_files(fs: &dyn SourceFs, config: &Config, sources: &mut Sources, diags: &mut Diagnostics) -> Vec<FileId> {
    let mut files: Vec<FileId> = Vec::new();
    for name in &config.settings.rules {
        match rule_text(fs, name) {
            Ok(_) if files.iter().any(|file| sources.path(*file) == name) => {}
            Ok(text) => files.push(sources.add(name, text)),
            Err(mut error) => {
                error.primary = config.rules_span.map(|span| (inside(sources, span, name), String::new()));
                diags.push(*error);
            }
        }
    }
    files
}

/// The place of `text` within a span, or all of it.
fn inside(sources: &Sources, span: Span, text: &str) -> Span {
    let whole = sources.text(span.file).get(span.start as usize..span.end as usize).unwrap_or_default();
    match whole.find(text) {
        Some(at) => {
            let start = span.start as usize + at;
            Span::new(span.file, start..start + text.len())
        }
        None => span,
    }
}

fn rule_text(fs: &dyn SourceFs, name: &str) -> Result<Arc<str>, Box<Diagnostic>> {
    if name.starts_with('@') {
        return std_files::find(name).map(Arc::from).ok_or_else(|| {
            let error = Diagnostic::error(format!("no rule file `{name}` is built in"));
            let known: Vec<String> = std_files::names().map(|n| format!("`{n}`")).collect();
            let near = did_you_mean(name, std_files::names());
            Box::new(error.hint(near.unwrap_or_else(|| format!("there are {}", known.join(", ")))))
        });
    }
    let error = |message: String| Box::new(Diagnostic::error(message));
    let path = WsPath::new(name).map_err(|e| error(e.to_string()))?;
    let bytes = fs.read(path.as_str()).map_err(|e| error(format!("cannot read `{path}`: {e}")))?;
    text::decode(path.as_str(), bytes).map_err(error)
}

fn var_inputs(config: &Config, host: &HostFacts) -> VarInputs {
    VarInputs {
        host: host.clone(),
        base: config.base_vars.clone(),
        configs: config.config_vars.clone(),
        flags: config.flag_vars.clone(),
    }
}

fn check_configs(config: &Config, set: &RuleSet, diags: &mut Diagnostics) {
    let known: Vec<&str> =
        config.config_names.iter().map(String::as_str).chain(set.configs().map(|name| &**name)).collect();
    for (name, _) in config.config_vars.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        let error =
            Diagnostic::error(format!("--config={name}: no `[config.{name}]` in minibuild.toml or a rule file"));
        diags.push(did_you_mean(name, known.iter().copied()).into_iter().fold(error, Diagnostic::hint));
    }
}

fn check_mnemonics(config: &Config, set: &RuleSet, diags: &mut Diagnostics) {
    if config.strategy_mnemonics.is_empty() || diags.has_errors() {
        return;
    }
    let known: FxHashSet<&str> = set.mnemonics().chain(BUILTIN_MNEMONICS).collect();
    for (mnemonic, place) in config.strategy_mnemonics.iter().filter(|(name, _)| !known.contains(name.as_str())) {
        let message = format!("no rule has actions of the mnemonic `{mnemonic}`");
        let error = match place {
            Ok(span) => Diagnostic::at(*span, message),
            Err(flag) => Diagnostic::error(format!("{flag}: {message}")),
        };
        let hint = did_you_mean(mnemonic, known.iter().copied()).unwrap_or_else(|| {
            let mut all: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            all.sort();
            format!("there are {}", all.join(", "))
        });
        diags.push(error.hint(hint));
    }
}

/// Tool variables that are labels.
fn tool_labels(vars: &Vars, diags: &mut Diagnostics) -> Vec<(VarId, Label)> {
    let mut labels = Vec::new();
    for (id, text) in vars.tool_labels() {
        match Label::parse(text, "") {
            Ok(label) => labels.push((id, label)),
            Err(error) => diags.push(Diagnostic::error(format!("a tool variable: {error}"))),
        }
    }
    labels
}

/// Labels of the tool variables that a target's rule mentions.
fn tools_of<'t>(target: &RawTarget, rules: &RuleTable, set: &RuleSet, tools: &'t [(VarId, Label)]) -> Vec<&'t Label> {
    if tools.is_empty() {
        return Vec::new();
    }
    let RuleKind::Loaded(rule) = rules.rules[target.rule].kind else { return Vec::new() };
    let used = set.tool_vars(rule);
    tools.iter().filter(|(id, _)| used.contains(id)).map(|(_, label)| label).collect()
}

/// How to build what lies beside a directory that cannot be loaded.
const LEAVE_OUT: &str = "to leave it out, add its path to `[workspace] ignore` in minibuild.toml";

fn bad_package_name(dir: &str) -> Diagnostic {
    let name = "letters, digits and `_.+=,@~-`";
    Diagnostic::error(format!("`{dir}` has a BUILD.toml, but its path names no package: each part may hold {name}"))
        .hint("rename the directory")
        .hint(LEAVE_OUT)
}

struct ReadPackage {
    path: String,
    text: Arc<str>,
    package: Option<RawPackage>,
    diags: Diagnostics,
}

fn read_package(cx: PackageCx<'_>, dir: &str, file: usize) -> ReadPackage {
    let path = join(dir, BUILD_FILE);
    let mut read = ReadPackage { path, text: Arc::from(""), package: None, diags: Diagnostics::default() };
    let Ok(dir) = WsPath::new(dir) else { return read };
    if !cx.tree.may_hold_packages(dir.as_str()) {
        return read;
    }
    match cx.tree.fs.read(&read.path) {
        Ok(bytes) => match text::decode(&read.path, bytes) {
            Ok(text) => {
                let file = FileId(u32::try_from(file).unwrap_or(u32::MAX));
                let (package, diags) = package::read(cx, &dir, file, &text);
                (read.text, read.package, read.diags) = (text, Some(package), diags);
            }
            Err(message) => read.set_broken(dir, Diagnostic::error(message)),
        },
        Err(error) => {
            if let Some(problem) = unreadable(cx.tree.fs, &read.path, &error) {
                read.set_broken(dir, problem);
            }
        }
    }
    read
}

impl ReadPackage {
    /// A package that is there and cannot be read: nobody is told in addition that it is not there.
    fn set_broken(&mut self, path: WsPath, problem: Diagnostic) {
        self.diags.push(problem);
        self.package = Some(RawPackage { path, targets: Vec::new(), broken: true });
    }
}

/// Frees what is of no use any more; of many targets these are a million small pieces, which nobody has to wait for.
fn give_back(scraps: impl Send + 'static, targets: usize) {
    const WORTH_A_THREAD: usize = 1000;
    if targets >= WORTH_A_THREAD {
        // Without a thread they are freed right now.
        drop(std::thread::Builder::new().spawn(move || drop(scraps)));
    }
}

/// Why a file cannot be read; `None` where there is none. A dangling symlink is something.
fn unreadable(fs: &dyn SourceFs, path: &str, error: &std::io::Error) -> Option<Diagnostic> {
    let reason = match fs.kind(path) {
        Ok(None) if is_absent(error) => return None,
        Ok(Some(EntryKind::Symlink)) if is_absent(error) => "the symlink leads nowhere".to_owned(),
        Ok(Some(EntryKind::Other)) => "it is not a regular file".to_owned(),
        _ => error.to_string(),
    };
    Some(Diagnostic::error(format!("cannot read `{path}`: {reason}")))
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// What the patterns mean, and what is wrong with them.
fn requested(
    graph: &TargetGraph<'_>,
    expander: &Expander<'_, '_>,
    patterns: &[Pattern],
) -> (Vec<Requested>, Vec<Diagnostic>) {
    let mut requested: Vec<Requested> = Vec::new();
    let mut errors = Vec::new();
    for pattern in patterns {
        let found = match &pattern.kind {
            PatternKind::Target(label, group) => match graph.by_label.get(label) {
                Some(&target) => {
                    errors.extend(expander.group_of(target, group.as_deref()).err().map(|e| *e));
                    vec![Requested { target, group: group.clone(), explicit: true }]
                }
                None if pattern.subtract => Vec::new(),
                None => {
                    errors.extend(graph.unknown_label(label));
                    Vec::new()
                }
            },
            _ => wildcard(graph, expander, pattern, &mut errors),
        };
        if pattern.subtract {
            let whole =
                |r: &Requested| found.iter().any(|f| f.target == r.target && (f.group.is_none() || f.group == r.group));
            requested.retain(|r| !whole(r));
        } else {
            requested.extend(found);
        }
    }
    let mut seen: FxHashMap<(minibuild_core::TargetId, Option<Arc<str>>), ()> = FxHashMap::default();
    requested.retain(|r| seen.insert((r.target, r.group.clone()), ()).is_none());
    (requested, errors)
}

fn wildcard(
    graph: &TargetGraph<'_>,
    expander: &Expander<'_, '_>,
    pattern: &Pattern,
    errors: &mut Vec<Diagnostic>,
) -> Vec<Requested> {
    let matches: Vec<bool> = graph.packages.iter().map(|p| pattern.matches_package(p.path.as_str())).collect();
    if !pattern.subtract && !matches.contains(&true) {
        errors.push(no_package(graph, pattern));
    }
    let model = &expander.builder.model;
    let ids = (0..graph.targets.len()).map(minibuild_core::TargetId::new);
    ids.filter(|id| matches[graph.targets[id.index()].1])
        .filter(|id| pattern.subtract || !model.target(*id).is_manual())
        .map(|target| Requested { target, group: None, explicit: false })
        .collect()
}

fn no_package(graph: &TargetGraph<'_>, pattern: &Pattern) -> Diagnostic {
    let (PatternKind::Package(package) | PatternKind::Below(package)) = &pattern.kind else {
        return Diagnostic::error(format!("`{}` matches nothing", pattern.text));
    };
    let below = if matches!(pattern.kind, PatternKind::Below(_)) { "at or below" } else { "at" };
    let mut error =
        Diagnostic::error(format!("`{}` matches nothing: there is no package {below} `//{package}`", pattern.text));
    error.hints.extend(did_you_mean(package, graph.packages.iter().map(|p| p.path.as_str())));
    error
}

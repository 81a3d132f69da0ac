//! Builds that are killed at random points, with edits in between: the build after equals a clean build of the same
//! sources byte for byte, modes too, and nothing of the killed build is alive.
//!
//! `scripts/chaos [--remote] N [SEED]` is the long form; the seed is printed and decides all but the timing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use minibuild_testkit::{Entry, Random, Running, Signal, Snapshot, Workspace, difference, kill, wait_until_dead};

use crate::workspace;

const SOURCES: usize = 30;
const HEADERS: usize = 12;
const TREES: usize = 25;
const SCANS: usize = 25;
const FILES: usize = 100;

const RULES: &str = r#"
    [rule.scan]
    doc = "Follows the `use` lines of a file, and tells in a depfile which it followed."
    outputs = ["{scan.out}"]
    [rule.scan.attrs]
    src = { type = "file", required = true, doc = "Where to begin." }
    hdrs = { type = "files", doc = "What may be used." }
    [rule.scan.action.scan]
    outs = { out = "{name}.scan" }
    depfile = "{name}.d"
    inputs = ["{hdrs}"]
    args = ["{src}", "{out.out}", "{out.depfile}"]
    cmd = '''
    printf '%s: %s' "$2" "$1" > "$3"
    cat "$1" > "$2"
    for name in $(sed -n 's/^use //p' "$1"); do
        printf ' h/%s' "$name" >> "$3"
        cat "h/$name" >> "$2"
    done
    echo >> "$3"
    '''
"#;

/// Makes directories, files, some of them executable, an empty directory and a symlink.
const TREE_COMMAND: &str = "i=0; while read -r line; do i=$((i + 1)); d=$OUT_DIR/d$((i % 3)); mkdir -p $d; echo \"$line\" > $d/f$i; \
    if [ $((i % 2)) = 0 ]; then chmod +x $d/f$i; fi; done < $SRC; mkdir $OUT_DIR/empty; ln -s d1/f1 $OUT_DIR/link";

/// Sums up files and trees; `SUM` is `cksum`, or `wc -l`, which often gives the same again.
const FILE_COMMAND: &str = "echo begun > $OUT; sum=$(for f in $SRCS; do if [ -d $f ]; then find $f | LC_ALL=C sort; \
    find $f -type f | LC_ALL=C sort | xargs -r cat; else cat $f; fi; done | SUM); echo \"$sum\" > $OUT";

/// The sources of a workspace as they should be.
struct Sources {
    random: Random,
    files: BTreeMap<String, String>,
    /// Targets nobody needs, which come and go.
    dropped: Vec<bool>,
    /// Sources of each summing target.
    needs: Vec<Vec<String>>,
}

impl Sources {
    fn new(seed: u64) -> Self {
        let mut sources =
            Self { random: Random::new(seed), files: BTreeMap::new(), dropped: vec![false; FILES], needs: Vec::new() };
        sources.files.insert("minibuild.toml".into(), "[workspace]\nrules = [\"rules.toml\"]\n".into());
        sources.files.insert("rules.toml".into(), RULES.into());
        for number in 0..SOURCES {
            sources.edit_source(number);
        }
        for number in 0..HEADERS {
            sources.edit_header(number);
        }
        for number in 0..FILES {
            let needs = sources.choose_needs(number);
            sources.needs.push(needs);
        }
        sources.write_targets();
        sources
    }

    fn edit_source(&mut self, number: usize) {
        let mut text = String::new();
        for _ in 0..self.random.below(6) + 1 {
            let _ = writeln!(text, "word{}", self.random.below(50));
        }
        for _ in 0..self.random.below(4) {
            let _ = writeln!(text, "use h{}", self.random.below(HEADERS));
        }
        self.files.insert(format!("s{number}"), text);
    }

    fn edit_header(&mut self, number: usize) {
        let text = format!("header {}\n", self.random.below(1000));
        self.files.insert(format!("h/h{number}"), text);
    }

    fn choose_needs(&mut self, number: usize) -> Vec<String> {
        let mut needs: Vec<String> = (0..self.random.below(4) + 1)
            .map(|_| match self.random.below(4) {
                0 => format!("s{}", self.random.below(SOURCES)),
                1 => format!(":t{}", self.random.below(TREES)),
                2 => format!(":c{}", self.random.below(SCANS)),
                // Every third is needed by nobody, and may go.
                _ if number > 0 => format!(":f{}", self.random.below(number) / 3 * 3),
                _ => "s0".to_owned(),
            })
            .collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    fn write_targets(&mut self) {
        let mut text = String::new();
        for number in 0..TREES {
            let source = format!("s{}", number % SOURCES);
            let _ = writeln!(
                text,
                "[[genrule]]\nname = \"t{number}\"\nsrcs = [\"{source}\"]\nout_dirs = [\"t{number}.tree\"]\ncmd = {TREE_COMMAND:?}"
            );
        }
        for number in 0..SCANS {
            let source = format!("s{}", (number * 7) % SOURCES);
            let _ =
                writeln!(text, "[[scan]]\nname = \"c{number}\"\nsrc = \"{source}\"\nhdrs = [{{ glob = [\"h/*\"] }}]");
        }
        for (number, needs) in self.needs.iter().enumerate().filter(|(number, _)| !self.dropped[*number]) {
            let cmd = FILE_COMMAND.replace("SUM", if number % 4 == 0 { "wc -l" } else { "cksum" });
            let outs = [format!("f/f{number}")];
            let _ =
                writeln!(text, "[[genrule]]\nname = \"f{number}\"\nsrcs = {needs:?}\nouts = {outs:?}\ncmd = {cmd:?}");
        }
        self.files.insert("BUILD.toml".into(), text);
    }

    /// Changes a third of everything.
    fn edit(&mut self) {
        for number in 0..SOURCES {
            if self.random.below(3) == 0 {
                self.edit_source(number);
            }
        }
        for _ in 0..self.random.below(4) {
            let number = self.random.below(HEADERS);
            self.edit_header(number);
        }
        for number in (0..FILES).filter(|number| number % 3 != 0) {
            if self.random.below(8) == 0 {
                self.dropped[number] = !self.dropped[number];
            }
        }
        self.write_targets();
    }

    /// Writes what is not so yet.
    fn apply(&self, ws: &Workspace) {
        for (path, text) in &self.files {
            if fs::read_to_string(ws.path(path)).ok().as_deref() != Some(text) {
                ws.write(path, text);
            }
        }
    }
}

/// Removes or overwrites some outputs, as somebody might who wonders what is wrong.
fn meddle(ws: &Workspace, random: &mut Random) {
    let outputs: Vec<String> =
        ws.outputs().into_iter().filter(|(_, e)| matches!(e, Entry::File(..))).map(|(path, _)| path).collect();
    for _ in 0..random.below(4) {
        let Some(path) = outputs.get(random.below(outputs.len().max(1))) else { return };
        let path = ws.bin(path);
        if random.below(2) == 0 {
            let _ = fs::remove_file(&path);
        } else {
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o644));
            let _ = fs::write(&path, "meddled with");
        }
    }
}

/// Everything but directories that no tree artifact is made of.
fn results(ws: &Workspace) -> Snapshot {
    let mut all = ws.outputs();
    all.retain(|path, entry| *entry != Entry::Directory || path.contains(".tree"));
    all
}

/// Kills a build: mostly its main process, sometimes its helpers with it, so that commands are on their own.
fn strike(build: Running, with_helpers: bool) -> bool {
    let helpers = if with_helpers { build.helpers() } else { Vec::new() };
    if with_helpers {
        // Not to do a helper's work.
        build.signal(Signal::SIGSTOP);
    }
    for &pid in &helpers {
        kill(pid, Signal::SIGKILL);
    }
    matches!(build.kill().ending, minibuild_testkit::Ending::Signalled(_))
}

struct Chaos<'a> {
    /// Of each build, but not of the clean ones.
    flags: &'a [&'a str],
    /// Of one build to be killed each.
    further: &'a [&'a str],
    sources: Sources,
    random: Random,
    ws: Workspace,
    clean: Workspace,
    /// About how long a build takes here and now.
    whole: Duration,
}

impl<'a> Chaos<'a> {
    fn new(seed: u64, flags: &'a [&'a str], further: &'a [&'a str]) -> Self {
        let (sources, ws, clean) = (Sources::new(seed), workspace(), workspace());
        let mut chaos = Self { flags, further, sources, random: Random::new(!seed), ws, clean, whole: Duration::ZERO };
        chaos.sources.apply(&chaos.ws);
        let began = Instant::now();
        chaos.ws.build(&[&["-j4", "//..."], flags].concat()).ok();
        chaos.whole = began.elapsed();
        chaos.check("the first build");
        chaos
    }

    /// Edits, and kills a build at a random point; whether it was still running.
    fn strike(&mut self) -> bool {
        self.sources.edit();
        self.sources.apply(&self.ws);
        if self.random.below(3) == 0 {
            meddle(&self.ws, &mut self.random);
        }
        let further = self.further.get(self.random.below(self.further.len().max(1))).copied();
        let build = self.ws.start_build(&[&["-j4", "//..."], self.flags, further.as_slice()].concat());
        let limit = usize::try_from(self.whole.as_micros()).unwrap_or(usize::MAX);
        let point = Duration::from_micros(self.random.below(limit) as u64);
        // Not to wait for its end, but to be there at that point.
        let _ = wait_until_dead(build.pid(), point);
        strike(build, self.random.below(4) == 0)
    }

    /// The next build is right.
    fn check(&mut self, what: &str) {
        let began = Instant::now();
        let run = self.ws.build(&[&["-j4", "//..."], self.flags].concat()).ok();
        // As long as the next one, which begins from as many edits.
        self.whole = self.whole.min(began.elapsed().max(self.whole / 4));
        assert_eq!(self.ws.processes(), [], "{what}: nobody of an earlier build is left");
        self.clean.run(&["clean", "--all"]).ok();
        self.sources.apply(&self.clean);
        self.clean.build(&["-j4", "//..."]).ok();
        let differences = difference(&results(&self.clean), &results(&self.ws));
        assert!(
            differences.is_empty(),
            "{what}: a clean build differs (-) from this one (+):\n{}\n{}",
            differences.join("\n"),
            run.stderr
        );
        self.ws.build(&[&["//..."], self.flags].concat()).ok_without_running();
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Kills builds with these flags, each with one of the further ones as well.
pub fn survives(flags: &[&str], further: &[&str]) {
    let wanted = number("MINIBUILD_CHAOS_KILLS").unwrap_or(8);
    let fresh = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs() << 30
    };
    let seed = number("MINIBUILD_CHAOS_SEED").unwrap_or_else(fresh);
    eprintln!("seed {seed}: again with `scripts/chaos {wanted} {seed}`");
    let mut chaos = Chaos::new(seed, flags, further);
    let (mut kills, mut builds) = (0, 0);
    while kills < wanted {
        let in_a_row = chaos.random.below(3) + 1;
        let hit = (0..in_a_row).filter(|_| chaos.strike()).count();
        (kills, builds) = (kills + hit as u64, builds + 1);
        chaos.check(&format!("seed {seed}, after {kills} kills"));
    }
    eprintln!("{kills} kills, {builds} builds after them, each equal to a clean build");
}

#[test]
fn builds_killed_at_random_points_leave_nothing_wrong() {
    survives(&[], &[]);
}

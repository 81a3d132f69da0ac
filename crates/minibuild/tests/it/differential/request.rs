//! One invocation of a course: command, patterns and flags, and which targets they ask for.

use std::collections::BTreeSet;

use minibuild_testkit::Random;

use super::definition::{PACKAGES, TargetDefinition, TargetInput, TargetShape};
use super::expected::{BuildInputs, Reading, ReadingKind};

/// Which outputs have to be on disk after a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadMode {
    All,
    Toplevel,
    Minimal,
}

/// What a course offers to its builds.
#[derive(Clone, Debug)]
pub struct CourseOffer {
    /// `127.0.0.1:PORT` of the course's server.
    pub server: Option<String>,
    /// The directory of the shared disk cache.
    pub disk_cache: String,
    /// Some actions run on the server only.
    pub has_no_local: bool,
    /// The disk cache would lie on another disk than the one that is to be full.
    pub is_small_disk: bool,
}

/// One invocation.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    pub is_test: bool,
    pub patterns: Vec<String>,
    pub flags: Vec<String>,
    pub env: Vec<(&'static str, String)>,
    /// Numbers of the targets that the patterns stand for.
    pub roots: Vec<usize>,
    pub is_other: bool,
    pub download: DownloadMode,
    pub keeps_going: bool,
    /// No action may run here instead of on the server.
    pub needs_server: bool,
}

impl BuildRequest {
    pub fn random(
        random: &mut Random,
        offer: &CourseOffer,
        targets: &[TargetDefinition],
        is_dropped: impl Fn(usize) -> bool,
    ) -> Self {
        let present: Vec<usize> = (0..targets.len()).filter(|&number| !is_dropped(number)).collect();
        let (patterns, roots) = random_patterns(random, targets, &present);
        let mut request = Self {
            is_test: random.below(8) == 0,
            patterns,
            flags: Vec::new(),
            env: Vec::new(),
            roots,
            is_other: random.below(4) == 0,
            download: DownloadMode::Toplevel,
            keeps_going: random.below(3) == 0,
            needs_server: false,
        };
        request.add_flags(random, offer);
        request
    }

    fn add_flags(&mut self, random: &mut Random, offer: &CourseOffer) {
        self.flag(format!("-j{}", random.below(4) + 1));
        if random.below(3) != 0 {
            self.flag("--events-detail=all");
        }
        if self.keeps_going {
            self.flag("-k");
        }
        if self.is_other {
            self.flag("--config=other");
        }
        if random.below(2) == 0 && !offer.is_small_disk {
            self.flag(format!("--disk-cache={}", offer.disk_cache));
            if random.below(4) == 0 {
                self.flag("--disk-cache-size=2MiB");
            }
        }
        self.add_download(random);
        if let Some(server) = &offer.server {
            self.add_server(random, server, offer.has_no_local);
        }
    }

    fn add_download(&mut self, random: &mut Random) {
        self.download = match random.below(6) {
            0 | 1 => DownloadMode::All,
            2 => DownloadMode::Minimal,
            _ => DownloadMode::Toplevel,
        };
        match self.download {
            DownloadMode::All => self.flag("--download=all"),
            DownloadMode::Minimal => self.flag("--download=minimal"),
            DownloadMode::Toplevel => {}
        }
        if random.below(10) == 0 {
            self.flag("--download-regex=.*[.](one|out)");
        }
    }

    fn add_server(&mut self, random: &mut Random, server: &str, has_no_local: bool) {
        let side = if has_no_local { 4 + random.below(12) } else { random.below(16) };
        match side {
            0 => return,
            1 => return self.flag(format!("--remote-cache=http://{server}")),
            2 | 3 => return self.flag(format!("--remote-cache=grpc://{server}")),
            4 if !has_no_local => self.flag("--remote-executor=embedded"),
            _ => self.flag(format!("--remote-executor=grpc://{server}")),
        }
        self.flag("--remote-timeout=2s");
        match random.below(8) {
            0 => self.flag("--strategy=local"),
            1 | 2 => self.flag("--strategy=remote"),
            3 => {
                self.flag("--strategy=remote");
                self.flag("--on-remote-failure=fail");
                self.needs_server = true;
            }
            4 => self.flag("--dynamic-policy=race"),
            5 => self.flag("--strategy=Pair=remote"),
            6 => self.flag("--compare"),
            _ => {}
        }
        if random.below(4) == 0 {
            self.flag("--remote-retries=1");
        }
        if random.below(5) == 0 {
            self.flag(format!("--remote-jobs={}", random.below(3) + 1));
        }
        let upload = ["auto", "always", "never"][random.below(3)];
        self.env.push(("MINIBUILD_REMOTE_UPLOAD_LOCAL_RESULTS", upload.to_owned()));
        if random.below(4) == 0 {
            self.env.push(("MINIBUILD_REMOTE_LEASE", "0s".to_owned()));
        }
    }

    fn flag(&mut self, flag: impl Into<String>) {
        self.flags.push(flag.into());
    }

    /// The words after the program's name.
    pub fn arguments(&self) -> Vec<String> {
        let command = if self.is_test { "test" } else { "build" };
        let words = std::iter::once(command.to_owned());
        words.chain(self.patterns.iter().cloned()).chain(self.flags.iter().cloned()).collect()
    }

    /// Whether all packages are loaded.
    pub fn loads_all(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern == "//...")
    }
}

fn random_patterns(random: &mut Random, targets: &[TargetDefinition], present: &[usize]) -> (Vec<String>, Vec<usize>) {
    let package = random.below(PACKAGES);
    let of_package: Vec<usize> = present.iter().copied().filter(|&n| targets[n].package == package).collect();
    let some: Vec<usize> = (0..random.below(3) + 1).map(|_| present[random.below(present.len())]).collect();
    match random.below(8) {
        0 if !of_package.is_empty() => (vec![format!("//p{package}/...")], of_package),
        1 | 2 => (some.iter().map(|&number| targets[number].label()).collect(), some),
        _ => (vec!["//...".to_owned()], present.to_vec()),
    }
}

impl BuildInputs<'_> {
    /// The numbers of all targets that these need, and of these, in order.
    pub fn closure(&self, roots: &[usize]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut pending = roots.to_vec();
        while let Some(number) = pending.pop() {
            if found.insert(number) {
                pending.extend(self.targets[number].inputs.iter().filter_map(|input| TargetInput::producer(*input)));
            }
        }
        found
    }

    /// First lines of the sources that a target's command reads.
    fn first_lines(&self, number: usize) -> Vec<&str> {
        let readings = self.readings(number);
        let text = |reading: &Reading| match &reading.kind {
            ReadingKind::File(real, _) => self.sources.files.get(real).and_then(|file| file.text.lines().next()),
            _ => None,
        };
        readings.iter().filter_map(text).collect()
    }

    /// Whether a target's own command fails.
    pub fn fails(&self, number: usize) -> bool {
        self.targets[number].is_made() && self.first_lines(number).iter().any(|line| line.starts_with("fail"))
    }

    /// Whether a test that runs does not pass.
    pub fn has_bad_verdict(&self, number: usize) -> bool {
        self.targets[number].shape == TargetShape::Test
            && self.first_lines(number).iter().any(|line| line.starts_with("fail") || line.starts_with("word7"))
    }
}

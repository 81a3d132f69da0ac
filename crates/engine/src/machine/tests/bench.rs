//! A workspace for tests of rules: builds one after the other, and what happens between them.

use std::path::Path;

use tempfile::TempDir;

use super::fake::{Fake, outputs_of};
use super::plan::{In, Plan, Spec, action, source_path};
use super::session::{Ask, Session, state_dir};

/// A workspace: disk and state.
pub struct Bench {
    pub fake: Fake,
    dir: TempDir,
}

impl Bench {
    pub fn new(sources: usize, actions: Vec<Spec>) -> Self {
        Self::of(Plan::new(sources, actions))
    }

    pub fn of(plan: Plan) -> Self {
        Self { fake: Fake::new(plan), dir: state_dir() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn begin(&mut self, ask: &Ask) -> Session<'_> {
        Session::begin(&mut self.fake, self.dir.path(), ask)
    }

    /// Builds to the end, first come first served; gives what was started.
    pub fn build(&mut self, ask: &Ask) -> Vec<usize> {
        self.built(ask).started
    }

    pub fn built(&mut self, ask: &Ask) -> Session<'_> {
        let mut session = self.begin(ask);
        session.finish(|_| 0);
        session
    }

    pub fn edit(&mut self, source: usize, text: &str) {
        self.fake.write(&source_path(source), text.to_owned());
    }

    pub fn delete(&mut self, action: usize) {
        for path in outputs_of(&self.fake.model, action) {
            self.fake.disk.remove(path.as_str());
        }
    }

    /// Another checkout: the same sources, nothing built, the same servers.
    pub fn check_out_again(&mut self) {
        self.fake.disk.retain(|path, _| !path.starts_with(minibuild_core::OUT_ROOT));
        self.dir = state_dir();
    }

    /// All stores lose all blobs; their action caches stay.
    pub fn evict_all(&mut self) {
        self.fake.remote.evict(|_| true);
    }

    pub fn has(&self, action: usize) -> bool {
        outputs_of(&self.fake.model, action).iter().all(|path| self.fake.disk.contains_key(path.as_str()))
    }
}

/// Action 0 reads source 0, each further one reads the one before.
pub fn chain(length: usize) -> Bench {
    let link = |i: usize| action(&[if i == 0 { In::Source(0) } else { In::Out(i - 1, 0) }]);
    Bench::new(1, (0..length).map(link).collect())
}

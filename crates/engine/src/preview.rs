//! What a build would do: looks at the workspace and the state as a build does, and leaves both as they are.
//!
//! Takes no lock: what a build beside it writes meanwhile is seen, or not. It does not know who asks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{CommandSource, Digest, Model, StopFlag, WsPath};
use minibuild_disk::{DiskError, FileClock, FsInstant};
use minibuild_graph::HostFacts;
use rustc_hash::FxHashMap;

use crate::build_error::BuildError;
use crate::machine::{Foreseen, Goals, StoreGoals};
use crate::parts::Parts;
use crate::state::State;
use crate::world::Look;

/// What is needed to know what a build would do.
pub struct Preview<'a> {
    /// The workspace root.
    pub root: &'a Path,
    /// The state's directory, which need not exist.
    pub state_dir: &'a Path,
    /// What was loaded.
    pub model: Arc<Model>,
    /// Makes its commands.
    pub commands: Arc<dyn CommandSource>,
    /// What is asked for. Caches are not asked.
    pub goals: Goals,
    /// The host.
    pub host: HostFacts,
    /// `[env]` with `PATH`: where host tools are looked for.
    pub env: &'a BTreeMap<String, String>,
    /// Whether symlinks that leave the workspace count as what they lead to.
    pub follow_external: bool,
    /// `[workspace] ignore`.
    pub ignored: &'a [WsPath],
    /// Identifies the boot of the machine.
    pub boot_id: &'a str,
    /// Threads that look at files.
    pub threads: usize,
    /// Blobs that the local store has.
    pub stored: Vec<Digest>,
}

/// No stamp made by it is trusted, and none is kept.
struct StoppedClock;

impl FileClock for StoppedClock {
    fn now(&self) -> Result<FsInstant, DiskError> {
        Ok(FsInstant::of_all_devices(0, Duration::ZERO))
    }
}

impl Preview<'_> {
    /// What would become of each wanted action, each after what it needs.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn foresee(mut self) -> Result<Vec<Foreseen>, BuildError> {
        let function = self.host.function;
        let state = State::look(self.state_dir, self.boot_id, function)
            .map_err(|source| BuildError::State { path: self.state_dir.display().to_string(), source })?;
        if let Some(remote) = &mut self.goals.remote {
            remote.caches = false;
        }
        self.goals.stores = StoreGoals { local: !self.stored.is_empty(), disk_cache: false };
        let stored = std::mem::take(&mut self.stored);
        let look = Look {
            model: &self.model,
            root: self.root,
            function,
            tree: None,
            clock: &StoppedClock,
            threads: self.threads,
            follow_external: self.follow_external,
            ignored: self.ignored,
            known: &FxHashMap::default(),
            stop: &StopFlag::default(),
        };
        let parts = Parts {
            look,
            model: &self.model,
            commands: &self.commands,
            goals: &self.goals,
            host: &self.host,
            env: self.env,
        };
        let (mut machine, order) = parts.machine(state, None)?;
        machine.assume_stored(stored);
        Ok(machine.preview(&order))
    }
}

//! The stores of this machine, from the settings: what is kept in the workspace, and the disk cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minibuild_disk::{FsClock, OutTree};
use minibuild_engine::machine::{Event, StoreGoals};
use minibuild_loader::Settings;
use minibuild_store::{CacheConfig, Stores, StoresConfig};

use crate::build_channel::BuildChannel;
use crate::workspace;

/// Threads that look up, copy and store at most.
const MOST_THREADS: usize = 8;

/// What the settings want kept here.
pub fn goals(settings: &Settings) -> StoreGoals {
    StoreGoals { local: settings.store_size > 0, disk_cache: settings.disk_cache.is_some() }
}

/// The stores of these settings. Nothing is opened or started yet.
pub fn open(settings: &Settings, tree: &Arc<OutTree>, clock: &Arc<FsClock>, line: &BuildChannel) -> Stores {
    let sender = line.sender.clone();
    let cache = settings.disk_cache.as_ref().map(|path| CacheConfig {
        path: absolute(path, tree.workspace(), std::env::var_os("HOME").map(PathBuf::from).as_deref()),
        size: settings.disk_cache_size,
    });
    Stores::new(StoresConfig {
        tree: tree.clone(),
        clock: clock.clone(),
        local_size: settings.store_size,
        cache,
        threads: workspace::cores().min(MOST_THREADS),
        // The loop outlives the stores; an event after its end interests nobody.
        sink: Arc::new(move |event| drop(sender.send(Event::Store(event)))),
    })
}

/// Where a cache is: `~/` is the user's home, and what is relative is so to the workspace.
fn absolute(path: &str, workspace: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(below), Some(home)) => home.join(below),
        _ => workspace.join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_the_home_the_workspace_or_nothing() {
        let check = |path: &str, home: Option<&str>, expected: &str| {
            assert_eq!(absolute(path, Path::new("/ws"), home.map(Path::new)), Path::new(expected), "{path}");
        };
        check("/var/cache", Some("/u"), "/var/cache");
        check("~/cache", Some("/u"), "/u/cache");
        check("~/cache", None, "/ws/~/cache");
        check("../cache", Some("/u"), "/ws/../cache");
    }
}

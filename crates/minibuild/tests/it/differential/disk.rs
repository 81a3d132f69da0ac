//! A file system of a few megabytes for one workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use minibuild_testkit::{Random, skipped};

/// A mounted tmpfs. It stays where a test fails, so that the workspace can be looked at.
#[derive(Debug)]
pub struct SmallDisk {
    root: PathBuf,
}

/// Room for edits, which builds do not get.
const RESERVE: usize = 512 << 10;

impl SmallDisk {
    /// Mounts one on an empty directory; `None`, loudly, where that is not allowed.
    pub fn mount(root: &Path, kib: usize) -> Option<Self> {
        let options = format!("size={kib}k,mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(root).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { root: root.to_owned() }),
            Ok(output) => {
                skipped(&format!("a small disk needs root: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                skipped(&format!("a small disk needs `mount`: {error}"));
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.root.join("minibuild-filler")
    }

    /// Leaves only a little room, a random part of what there is.
    pub fn fill(&self, random: &mut Random) -> usize {
        let free = nix::sys::statvfs::statvfs(&self.root).map_or(0, |stat| stat.blocks_free() * stat.fragment_size());
        let room = random.below(usize::try_from(free).unwrap_or(0).max(1));
        let size = usize::try_from(free).unwrap_or(0) - room;
        // Up to the last page is near enough.
        let _ = fs::write(self.filler(), vec![1; size]);
        room
    }

    /// Gives the room back.
    pub fn free(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn reserve(&self) -> PathBuf {
        self.root.join("minibuild-reserve")
    }

    /// Keeps room for the edits to come.
    pub fn keep_reserve(&self) {
        // As much as there is, should it be less.
        let _ = fs::write(self.reserve(), vec![1; RESERVE]);
    }

    /// Makes room for edits.
    pub fn free_reserve(&self) {
        let _ = fs::remove_file(self.reserve());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return eprintln!("the small disk stays mounted on {}", self.root.display());
        }
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.root).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.root.display());
        }
    }
}

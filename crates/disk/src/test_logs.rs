//! Logs of tests, which outlive `clean`: a test that need not run again still has one.
//!
//! It does not know which tests there are.

use minibuild_core::{STATE_ROOT, TEST_LOG_ROOT, WrittenFile, WsPath};

use crate::DiskError;
use crate::out_tree::{OutTree, retry_writable};

impl OutTree {
    /// Writes the log of a test that ran.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_log(&self, log: &WrittenFile) -> Result<(), DiskError> {
        self.write(log)?;
        // That of an earlier run must not take its place one day.
        kept_place(&log.path).map_or(Ok(()), |kept| self.remove(&kept))
    }

    /// Moves all logs to where `clean` leaves them.
    ///
    /// # Errors
    /// The first that cannot be moved.
    pub fn keep_logs(&self) -> Result<(), DiskError> {
        let mut directories: Vec<WsPath> = WsPath::new(TEST_LOG_ROOT).into_iter().collect();
        while let Some(directory) = directories.pop() {
            for (name, is_dir) in self.list(&directory)? {
                let Ok(path) = directory.join(&name) else { continue };
                if is_dir {
                    directories.push(path);
                } else if let Some(kept) = kept_place(&path) {
                    self.move_file(&path, &kept)?;
                }
            }
        }
        Ok(())
    }

    /// Sees to it that the log of a test lies at its place that did not run: the one that was kept, or a note that there
    /// is none.
    ///
    /// # Errors
    /// Where it cannot be moved or written.
    pub fn restore_log(&self, path: &WsPath) -> Result<(), DiskError> {
        if self.look(path).is_ok() {
            return Ok(());
        }
        if let Some(kept) = kept_place(path).filter(|kept| self.look(kept).is_ok()) {
            return self.move_file(&kept, path);
        }
        let content = "(the test passed in an earlier build; what it printed was deleted since)\n".into();
        self.write(&WrittenFile { path: path.clone(), content, executable: false })
    }

    fn move_file(&self, from: &WsPath, to: &WsPath) -> Result<(), DiskError> {
        let (from_dir, from_name) = self.split(from)?;
        let (to_dir, to_name) = self.split(to)?;
        let (from_dir, to_dir) = (self.open_dir(from_dir)?, self.ensure_dir(to_dir)?);
        let rename = || rustix::fs::renameat(&from_dir, from_name, &to_dir, to_name);
        retry_writable(std::os::fd::AsFd::as_fd(&from_dir), rename)
            .map_err(|e| DiskError::new("move", from.as_str(), e))
    }
}

/// Where `clean` leaves a log.
fn kept_place(log: &WsPath) -> Option<WsPath> {
    let below = log.as_str().strip_prefix(TEST_LOG_ROOT)?.strip_prefix('/')?;
    WsPath::new(&format!("{STATE_ROOT}/testlogs/{below}")).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn logs_survive_clean_and_newer_ones_replace_them() {
        let dir = tempfile::tempdir().expect("temp dir");
        let tree = OutTree::open(dir.path()).expect("opens");
        let path = |name: &str| WsPath::new(&format!("{TEST_LOG_ROOT}/{name}/test.log")).expect("a path");
        let write = |name: &str, text: &str| {
            let log = WrittenFile { path: path(name), content: text.into(), executable: false };
            tree.write_log(&log).expect("writes");
        };
        let clean = || {
            tree.keep_logs().expect("keeps");
            tree.set_aside(&WsPath::new(TEST_LOG_ROOT).expect("a path")).expect("sets aside");
        };
        let restored = |name: &str| {
            tree.restore_log(&path(name)).expect("restores");
            fs::read_to_string(dir.path().join(path(name).as_path())).expect("reads")
        };
        clean();
        write("p/a", "a");
        write("b", "b");
        clean();
        assert_eq!((restored("p/a").as_str(), restored("p/a").as_str()), ("a", "a"));
        write("b", "newer");
        clean();
        assert_eq!(restored("b"), "newer");
        clean();
        write("b", "newest");
        fs::remove_dir_all(dir.path().join(TEST_LOG_ROOT)).expect("removes");
        assert!(restored("b").contains("deleted since"));
        assert_eq!(restored("p/a"), "a");
    }
}

//! Logs of tests, which outlive `clean`: a test that need not run again still has one.
//!
//! It does not know which tests there are.

use std::fs::File;
use std::io;

use minibuild_core::{LONG_OUTPUT_ROOT, STATE_ROOT, TEST_LOG_ROOT, WrittenFile, WsPath};

use rustix::fs::{Mode, OFlags};

use crate::DiskError;
use crate::mode::set_mode;
use crate::out_tree::OutTree;
use crate::writable::retry_writable;

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

    /// Makes the log of a test that ran of the files with what it printed, which are gone then. The first one becomes the log: a
    /// long output is not copied.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn join_log(&self, path: &WsPath, parts: &[WsPath]) -> Result<(), DiskError> {
        let failed = |e: io::Error| DiskError::new("write", path.as_str(), e);
        self.write_log(&WrittenFile { path: path.clone(), content: Vec::new(), executable: false })?;
        let Some((first, rest)) = parts.split_first() else { return Ok(()) };
        let opened = self.open_to_append(first)?;
        for part in rest {
            let file = self.open_file(part)?;
            file.map_or(Ok(0), |mut file| io::copy(&mut file, &mut &opened)).map_err(failed)?;
            self.remove(part)?;
        }
        set_mode(&opened, Mode::from_raw_mode(0o444)).map_err(|e| failed(e.into()))?;
        self.move_file(first, path)
    }

    fn open_to_append(&self, path: &WsPath) -> Result<File, DiskError> {
        let (dir, name) = self.split(path)?;
        let dir = self.open_dir(dir)?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&dir, name, flags, Mode::empty());
        opened.map(File::from).map_err(|e| DiskError::new("write", path.as_str(), e))
    }

    /// Removes what an earlier build kept of long outputs.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn sweep_long_output(&self) -> Result<(), DiskError> {
        WsPath::new(LONG_OUTPUT_ROOT).map_or(Ok(()), |path| self.remove(&path))
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

    /// Renames a file, with parent directories made, over whatever file lies there.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn move_file(&self, from: &WsPath, to: &WsPath) -> Result<(), DiskError> {
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

//! Getting rid of things in constant time: renamed into the trash now, deleted by a background thread later.
//!
//! It does not know what the things were. What a killed build leaves in the trash the next one deletes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rustix::io::{Errno, Result};

use crate::remove::{is_dir, make_writable, open_listing, remove_at};
use crate::rename::rename_new;

/// The trash directory with its deleting thread, which starts with the first thing thrown away.
pub(crate) struct Trash {
    dir: Arc<OwnedFd>,
    counter: AtomicU64,
    worker: Mutex<Option<(Sender<CString>, JoinHandle<()>)>>,
    /// What could not be deleted, with the reason.
    kept: Arc<Mutex<Vec<(CString, Errno)>>>,
}

impl Trash {
    /// The trash in the open directory `dir`.
    pub(crate) fn new(dir: OwnedFd) -> Self {
        Self { dir: Arc::new(dir), counter: AtomicU64::new(0), worker: Mutex::new(None), kept: Arc::default() }
    }

    /// Moves `name` in `parent` away; nothing there is fine. Directories without write permission are given it,
    /// since a rename to another parent writes into the directory itself.
    pub(crate) fn set_aside(&self, parent: impl AsFd, name: &CStr) -> Result<()> {
        let mut made_writable = false;
        loop {
            let unique = format!("{}-{}", std::process::id(), self.counter.fetch_add(1, Ordering::Relaxed));
            let unique = CString::new(unique).unwrap_or_default();
            match rename_new(&parent, name, &*self.dir, &unique) {
                Ok(()) => {
                    self.delete_later(unique);
                    return Ok(());
                }
                // Either there is nothing, or something removed the trash itself.
                Err(Errno::NOENT) if is_there(&parent, name) => return Err(Errno::NOENT),
                Err(Errno::NOENT) => return Ok(()),
                // Left by an earlier process with our id.
                Err(Errno::EXIST) => {}
                Err(Errno::ACCESS) if !made_writable => {
                    made_writable = true;
                    make_writable(&parent, c".")?;
                    if is_dir(&parent, name) {
                        make_writable(&parent, name)?;
                    }
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Has everything deleted that earlier builds left.
    pub(crate) fn sweep(&self) -> Result<()> {
        let listing = open_listing(&*self.dir, c".")?;
        for entry in rustix::fs::Dir::read_from(listing)? {
            let entry = entry?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                self.delete_later(entry.file_name().to_owned());
            }
        }
        Ok(())
    }

    /// What turned out so far, and since the last call, not to be deletable, with the reason.
    pub(crate) fn take_kept(&self) -> Vec<(CString, Errno)> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until everything thrown away so far is deleted.
    pub(crate) fn finish(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, thread)) = worker {
            drop(sender);
            // A thread that panicked leaves its work to the next build.
            let _ = thread.join();
        }
    }

    fn delete_later(&self, name: CString) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = self.start();
        }
        if let Some((sender, _)) = &*worker {
            // Without a thread the thing stays in the trash until the next build.
            let _ = sender.send(name);
        }
    }

    fn start(&self) -> Option<(Sender<CString>, JoinHandle<()>)> {
        let (sender, receiver) = channel::<CString>();
        let (dir, kept) = (Arc::clone(&self.dir), Arc::clone(&self.kept));
        let work = move || {
            for name in receiver {
                // The next build tries again.
                if let Err(error) = remove_at(dir.as_fd(), &name) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push((name, error));
                }
            }
        };
        let thread = std::thread::Builder::new().name("trash".into()).spawn(work).ok()?;
        Some((sender, thread))
    }
}

fn is_there(parent: impl AsFd, name: &CStr) -> bool {
    rustix::fs::statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn things_leave_their_place_at_once_and_the_disk_in_the_end() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (place, trash_dir) = (dir.path().join("place"), dir.path().join("trash"));
        fs::create_dir_all(place.join("tree/sub")).expect("mkdir");
        fs::write(place.join("tree/sub/f"), "x").expect("write");
        fs::set_permissions(place.join("tree/sub"), Permissions::from_mode(0o555)).expect("chmod");
        fs::set_permissions(place.join("tree"), Permissions::from_mode(0o555)).expect("chmod");
        fs::create_dir_all(trash_dir.join("left/over")).expect("mkdir");
        let trash = Trash::new(File::open(&trash_dir).expect("open").into());
        let parent = File::open(&place).expect("open");
        trash.set_aside(&parent, c"tree").expect("set aside");
        trash.set_aside(&parent, c"nothing").expect("nothing there is fine");
        assert_eq!(fs::read_dir(&place).expect("list").count(), 0);
        trash.sweep().expect("sweep");
        trash.finish();
        assert_eq!(fs::read_dir(&trash_dir).expect("list").count(), 0);
        fs::write(place.join("again"), "x").expect("write");
        trash.set_aside(&parent, c"again").expect("set aside after finish");
        trash.finish();
        assert_eq!(fs::read_dir(&trash_dir).expect("list").count(), 0);
    }

    #[test]
    fn what_stays_because_the_trash_is_gone_is_an_error() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (place, trash_dir) = (dir.path().join("place"), dir.path().join("trash"));
        fs::create_dir_all(place.join("tree")).expect("mkdir");
        fs::create_dir(&trash_dir).expect("mkdir");
        let trash = Trash::new(File::open(&trash_dir).expect("open").into());
        let parent = File::open(&place).expect("open");
        fs::remove_dir(&trash_dir).expect("rmdir");
        assert_eq!(trash.set_aside(&parent, c"tree"), Err(Errno::NOENT));
        assert_eq!(trash.set_aside(&parent, c"nothing"), Ok(()));
    }
}

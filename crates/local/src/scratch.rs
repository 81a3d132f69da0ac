//! What a helper gives its commands to write to: two files for their output, and a directory for temporary files.
//!
//! All are empty when a command starts. What one wrote is not read here: the files, and the directory, get a name with the
//! number of the run, and new ones take their place, so that the next command need not wait for somebody to look at them.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use minibuild_core::Fingerprint;
use minibuild_disk::{granularity_of, look_at};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// The two files.
pub(crate) const LOGS: [&str; 2] = ["out", "err"];
/// The directory.
const TMP: &str = "tmp";

/// What a run wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes in its two files.
    pub(crate) lengths: [u64; 2],
    /// Something is left in the directory.
    pub(crate) left_files: bool,
}

/// A helper's own directory.
pub(crate) struct Scratch {
    dir: OwnedFd,
    logs: [File; 2],
    tmp: Option<Tmp>,
    /// `TMPDIR=` with the path, where there is such a directory.
    variable: String,
}

/// What is known of the directory for temporary files.
struct Tmp {
    /// How it looked when it was empty, and since when it has looked like that.
    empty: Option<(Fingerprint, Instant)>,
    /// That is long enough ago: a change since then would have given it another time.
    is_trusted: bool,
    /// How long is long enough.
    tick: Duration,
}

impl Scratch {
    /// Makes what is missing in the directory, which has to be there. Files are new: a helper that was given up may still have
    /// processes that write to the old ones.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn open(path: &Path, with_tmp: bool) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let logs = [new_log(dir.as_fd(), LOGS[0])?, new_log(dir.as_fd(), LOGS[1])?];
        let mut variable = OsString::from("TMPDIR=");
        variable.push(path.join(TMP));
        let variable = variable.to_string_lossy().into_owned();
        let magic = u64::try_from(rustix::fs::fstatfs(&dir)?.f_type).unwrap_or_default();
        let sample = i64::try_from(rustix::fs::fstat(&logs[0])?.st_mtime_nsec).unwrap_or_default();
        let tick = granularity_of(magic, sample);
        let tmp = with_tmp.then_some(Tmp { empty: None, is_trusted: false, tick });
        let mut scratch = Self { dir, logs, tmp, variable };
        // Whatever an earlier build left is not this one's.
        scratch.clear_tmp(0)?;
        Ok(scratch)
    }

    /// Where the next command's output goes.
    pub(crate) fn logs(&self) -> [BorrowedFd<'_>; 2] {
        self.logs.each_ref().map(AsFd::as_fd)
    }

    /// `TMPDIR=` with the path, where commands get such a directory.
    pub(crate) fn variable(&self) -> Option<&str> {
        self.tmp.as_ref().map(|_| &*self.variable)
    }

    /// What the run wrote, which is out of the way of the next one now.
    ///
    /// # Errors
    /// Those of the operating system; whatever could be cleared is.
    pub(crate) fn clear(&mut self, seq: u64) -> io::Result<Written> {
        let mut written = Written::default();
        for ((log, name), length) in self.logs.iter_mut().zip(LOGS).zip(&mut written.lengths) {
            *length = u64::try_from(rustix::fs::fstat(&*log)?.st_size).unwrap_or_default();
            if *length > 0 {
                let moved = format!("{name}.{seq}");
                rustix::fs::renameat(&self.dir, name, &self.dir, &moved)?;
                match new_log(self.dir.as_fd(), name) {
                    Ok(new) => *log = new,
                    Err(error) => {
                        // Without inodes there is no new one: the next run takes this one, which then is empty.
                        let _ = rustix::fs::renameat(&self.dir, &moved, &self.dir, name);
                        let _ = log.set_len(0);
                        return Err(error);
                    }
                }
            }
        }
        written.left_files = self.clear_tmp(seq)?;
        Ok(written)
    }

    /// Sees to it that the directory is empty; whether something was in it.
    fn clear_tmp(&mut self, seq: u64) -> io::Result<bool> {
        let Some(tmp) = &mut self.tmp else { return Ok(false) };
        let now = Instant::now();
        let look = match look_at(&self.dir, TMP) {
            Ok(seen) => Some(seen.fingerprint),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match (look, &tmp.empty) {
            (Some(look), Some((empty, _))) if look == *empty && tmp.is_trusted => return Ok(false),
            (Some(look), known) if look.mode == PRIVATE_DIR && is_empty(self.dir.as_fd())? => {
                let since = known.as_ref().filter(|(empty, _)| *empty == look).map_or(now, |(_, since)| *since);
                tmp.is_trusted = now.duration_since(since) > tmp.tick;
                tmp.empty = Some((look, since));
                return Ok(false);
            }
            _ => {}
        }
        (tmp.empty, tmp.is_trusted) = (None, false);
        let left = format!("{TMP}.{seq}");
        let was_there = match rustix::fs::renameat(&self.dir, TMP, &self.dir, &left) {
            Err(Errno::NOENT) => false,
            // What an earlier helper left under this name goes first.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => {
                rustix::fs::renameat(&self.dir, TMP, &self.dir, format!("{left}.{}", std::process::id()))?;
                true
            }
            renamed => renamed.map(|()| true)?,
        };
        rustix::fs::mkdirat(&self.dir, TMP, Mode::from_raw_mode(0o700))?;
        Ok(was_there)
    }
}

/// The mode of a directory nobody else may enter.
const PRIVATE_DIR: u32 = 0o040_700;

fn is_empty(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    for entry in rustix::fs::Dir::new(rustix::fs::openat(dir, TMP, flags, Mode::empty())?)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Appending, so that a command that reopens its output by name leaves no hole.
fn new_log(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(error) if error != Errno::NOENT => return Err(error.into()),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_wrote_is_out_of_the_way_of_the_next_one() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at(TMP)).expect("mkdir");
        std::fs::write(at("tmp/of-an-earlier-build"), "").expect("write");
        let mut scratch = Scratch::open(dir.path(), true).expect("opens");
        assert_eq!(scratch.variable(), Some(&*format!("TMPDIR={}/tmp", dir.path().display())));
        assert_eq!(scratch.clear(1).expect("clears"), Written::default());
        for seq in 2..5 {
            std::fs::write(at("tmp/file"), "").expect("it is there");
            rustix::io::write(scratch.logs()[0], b"out").expect("written");
            rustix::io::write(scratch.logs()[1], b"error").expect("written");
            let written = scratch.clear(seq).expect("clears");
            assert_eq!(written, Written { lengths: [3, 5], left_files: true });
            assert_eq!(std::fs::read_to_string(at(&format!("out.{seq}"))).expect("reads"), "out");
            assert!(at(&format!("tmp.{seq}/file")).exists());
            assert_eq!(scratch.clear(seq + 100).expect("clears"), Written::default());
        }
        // What is not as it was is replaced, whatever it became.
        std::fs::remove_dir(at(TMP)).expect("empty");
        assert!(!scratch.clear(10).expect("clears").left_files);
        std::fs::remove_dir(at(TMP)).expect("empty");
        std::fs::write(at(TMP), "a file").expect("write");
        assert!(scratch.clear(11).expect("clears").left_files);
        std::os::unix::fs::symlink("/", at("link")).expect("link");
        std::fs::remove_dir(at(TMP)).expect("empty");
        std::fs::rename(at("link"), at(TMP)).expect("renamed");
        assert!(scratch.clear(12).expect("clears").left_files);
        assert!(std::fs::symlink_metadata(at(TMP)).expect("there").is_dir());
    }

    /// On a disk without inodes: a mount of its own, which needs root and is skipped loudly without.
    #[test]
    fn a_log_that_could_not_be_made_again_is_no_trouble_later() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mount = |args: &[&str]| {
            let done = std::process::Command::new(args[0]).args(&args[1..]).arg(dir.path()).status();
            done.is_ok_and(|status| status.success())
        };
        if !mount(&["mount", "-t", "tmpfs", "-o", "nr_inodes=16", "minibuild-test"]) {
            eprintln!("SKIPPED: cannot mount a tmpfs here (root needed)");
            return;
        }
        let mut scratch = Scratch::open(dir.path(), true).expect("opens");
        let fill = |number: &u32| std::fs::File::create(dir.path().join(format!("fill{number}"))).is_ok();
        let filled = (0..100).take_while(fill).count();
        assert!(filled < 16);
        rustix::io::write(scratch.logs()[0], b"first").expect("written");
        let error = scratch.clear(1).expect_err("there is no inode for a new log");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        (0..filled).for_each(|number| std::fs::remove_file(dir.path().join(format!("fill{number}"))).expect("removes"));
        rustix::io::write(scratch.logs()[0], b"second").expect("written");
        assert_eq!(scratch.clear(2).expect("clears").lengths, [6, 0]);
        assert_eq!(std::fs::read_to_string(dir.path().join("out.2")).expect("reads"), "second");
        drop(scratch);
        assert!(mount(&["umount", "--lazy"]));
    }

    #[test]
    fn a_directory_that_looks_as_when_it_was_empty_is_believed_only_later() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut scratch = Scratch::open(dir.path(), true).expect("opens");
        let long_ago = Instant::now().checked_sub(Duration::from_secs(5)).expect("the machine has run for longer");
        scratch.tmp.as_mut().expect("asked for").tick = Duration::from_secs(2);
        scratch.clear(1).expect("clears");
        let tmp = scratch.tmp.as_mut().expect("asked for");
        assert!(!tmp.is_trusted);
        tmp.empty.as_mut().expect("known").1 = long_ago;
        // Looks the same, but was it empty all the time? One more listing says so.
        scratch.clear(2).expect("clears");
        assert!(scratch.tmp.as_ref().expect("asked for").is_trusted);
        std::fs::write(dir.path().join("tmp/file"), "").expect("write");
        assert!(scratch.clear(3).expect("clears").left_files);
        assert!(!scratch.tmp.as_ref().expect("asked for").is_trusted);
    }
}

//! How much a shared cache may hold, agreed on by all processes that use it.
//!
//! One small file holds an upper bound of the bytes in use; whoever changes it holds its lock. Bytes are added before they
//! are written, and what a process has added and not yet written is the length of a file that it keeps locked. So a bound
//! is never too low, whoever is killed when; where it is too high a listing sets it right. It does not know what is
//! written.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use minibuild_core::StopFlag;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::blobs::{Rights, ensure_dir, since_epoch};
use crate::collect::{Listing, names, open_dir};

/// What was used within so many seconds is not collected. Five minutes more than promised, since times of use are that
/// coarse.
const SPARED: u64 = 3600 + 300;
/// A cache that is full is not listed again for so many seconds.
const FULL_FOR: u64 = 60;
/// A collection makes so much room, in hundredths of the limit, that not each result needs one.
const KEPT_PERCENT: u64 = 90;

/// How long the lock is waited for. Who holds it longer lists a large cache, or means ill: who may read a file may lock it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is tried meanwhile.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// The directories whose files count.
const COUNTED: [&str; 2] = ["cas", "ac"];

/// The share of one process in a cache.
pub(crate) struct Budget {
    root: OwnedFd,
    limit: Option<u64>,
    rights: Rights,
    size: File,
    session: Mutex<Session>,
    /// The lock was not to be had last time: nobody waits for it again before it is.
    is_busy: AtomicBool,
    stop: StopFlag,
}

/// The directory in which this process writes before it publishes.
struct Session {
    dir: Option<OwnedFd>,
    name: String,
    /// Locked as long as the process lives; as long as what it has reserved.
    held: Option<File>,
    reserved: u64,
    next: u64,
}

/// Room for so many bytes, given back when dropped.
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    bytes: u64,
}

/// What the shared file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    /// At most so many bytes are in use, where that is known.
    bytes: Option<u64>,
    /// Until then nothing can be collected, in seconds since the epoch.
    full_until: u64,
}

impl Budget {
    /// That of the cache in `root`.
    pub fn open(root: OwnedFd, limit: Option<u64>, rights: Rights, stop: StopFlag) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = rights.file | Mode::RUSR | Mode::WUSR;
        let size = File::from(rustix::fs::openat(&root, "size", flags, mode)?);
        // The process's mask is not for what is shared; another owner has done the same.
        let _ = rustix::fs::fchmod(&size, mode);
        let session = Session { dir: None, name: String::new(), held: None, reserved: 0, next: 0 };
        let is_busy = AtomicBool::new(false);
        Ok(Self { root, limit, rights, size, session: Mutex::new(session), is_busy, stop })
    }

    /// Room for so many more bytes; `None` where there is none to be had.
    ///
    /// # Errors
    /// Those of the operating system; `WouldBlock` where another process holds the lock and does not let go.
    pub fn reserve(&self, bytes: u64) -> io::Result<Option<Reservation<'_>>> {
        if self.limit.is_some_and(|limit| bytes > limit) {
            return Ok(None);
        }
        let mut session = self.session();
        let _lock = self.lock()?;
        if session.dir.is_none() {
            self.begin(&mut session)?;
        }
        let mut account = self.account();
        let is_granted = match self.limit {
            Some(limit) => self.grant(&mut account, bytes, limit),
            None => {
                // Others may have one.
                account.bytes = account.bytes.and_then(|used| used.checked_add(bytes));
                true
            }
        };
        if is_granted {
            // Before the bound says so: a listing from here on counts it.
            let reserved = session.reserved + bytes;
            session.set_reserved(reserved)?;
        }
        self.write_account(account)?;
        Ok(is_granted.then(|| Reservation { budget: self, bytes }))
    }

    fn lock(&self) -> io::Result<Locked<'_>> {
        let began = Instant::now();
        let patience = if self.is_busy.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        loop {
            let lock = Locked::try_take(&self.size)?;
            let has_waited = lock.is_none() && (began.elapsed() >= patience || self.stop.wait_for(TRY_EVERY));
            if lock.is_some() || has_waited {
                self.is_busy.store(lock.is_none(), Ordering::Relaxed);
                return lock.ok_or_else(|| io::ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Whether so many bytes may be added, after a collection where that helps.
    fn grant(&self, account: &mut Account, bytes: u64, limit: u64) -> bool {
        let time = since_epoch(SystemTime::now());
        let now = time.as_secs();
        let fits = |used: Option<u64>| used.and_then(|used| used.checked_add(bytes)).filter(|all| *all <= limit);
        if let Some(all) = fits(account.bytes) {
            account.bytes = Some(all);
            return true;
        }
        let is_known_to_be_full =
            account.bytes.is_some() && now < account.full_until && account.full_until <= now + FULL_FOR;
        if is_known_to_be_full {
            return false;
        }
        let mut listing = Listing::of(self.root.as_fd(), &COUNTED);
        let reserved = self.sweep_sessions();
        // Without a count there may be room enough: collected is only what has to be.
        let most = match fits(Some(listing.bytes + reserved)) {
            Some(_) => limit,
            None => limit.saturating_mul(KEPT_PERCENT) / 100,
        };
        let most = most.saturating_sub(reserved.saturating_add(bytes));
        let oldest = listing.trim(self.root.as_fd(), most, time.saturating_sub(Duration::from_secs(SPARED)), time);
        account.bytes = Some(listing.bytes.saturating_add(reserved));
        match fits(account.bytes) {
            Some(all) => {
                account.bytes = Some(all);
                account.full_until = 0;
                true
            }
            None => {
                let next = oldest.map_or(0, |used| used.as_secs().saturating_add(SPARED));
                account.full_until = next.clamp(now + 1, now + FULL_FOR);
                false
            }
        }
    }

    /// A new file of this session, to be published by a rename.
    pub fn make_file(&self) -> io::Result<Draft<'_>> {
        let mut session = self.session();
        let name = CString::new(format!("tmp/{}/{}", session.name, session.next))?;
        session.next += 1;
        drop(session);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.root, &name, flags, Mode::RUSR | Mode::WUSR)?);
        Ok(Draft { budget: self, file, name, is_published: false })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the session's directory; what dead processes left is deleted. The lock of the account is held.
    fn begin(&self, session: &mut Session) -> io::Result<()> {
        self.sweep_sessions();
        let tmp = ensure_dir(self.root.as_fd(), "tmp", self.rights)?;
        for number in 0..10_000 {
            // Of another machine or container there may be the same id.
            let name = format!("{}-{number}", std::process::id());
            match rustix::fs::mkdirat(&tmp, &name, self.rights.directory) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            }
            let dir = open_dir(tmp.as_fd(), &name)?;
            let _ = rustix::fs::fchmod(&dir, self.rights.directory);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let held = File::from(rustix::fs::openat(&dir, "held", flags, self.rights.file | Mode::WUSR)?);
            let _ = rustix::fs::fchmod(&held, self.rights.file | Mode::WUSR);
            rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive)?;
            (session.dir, session.name, session.held) = (Some(dir), name, Some(held));
            return Ok(());
        }
        Err(io::Error::other("its directory `tmp` is full of sessions"))
    }

    /// Deletes what dead processes left, and gives what living ones have reserved.
    fn sweep_sessions(&self) -> u64 {
        let Ok(tmp) = open_dir(self.root.as_fd(), "tmp") else { return 0 };
        let mut reserved = 0_u64;
        for name in names(&tmp) {
            let held = format!("{}/held", name.to_string_lossy());
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(held) = rustix::fs::openat(&tmp, held, flags, Mode::empty())
                && rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).is_err()
            {
                let length = rustix::fs::fstat(&held).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
                reserved = reserved.saturating_add(length);
                continue;
            }
            remove_session(&tmp, &name);
        }
        reserved
    }

    fn account(&self) -> Account {
        let mut text = [0; 64];
        let length = self.size.read_at(&mut text, 0).unwrap_or(0);
        Account::parse(&String::from_utf8_lossy(&text[..length]))
    }

    fn write_account(&self, account: Account) -> io::Result<()> {
        let text = account.text();
        self.size.write_all_at(text.as_bytes(), 0)?;
        self.size.set_len(text.len() as u64)
    }
}

impl Account {
    /// What cannot be read is not known.
    fn parse(text: &str) -> Self {
        let numbers = text.strip_suffix('\n').and_then(|line| line.split_once(' '));
        let numbers = numbers.and_then(|(bytes, until)| Some((bytes.parse().ok()?, until.parse().ok()?)));
        numbers.map_or_else(Self::default, |(bytes, full_until)| Self { bytes: Some(bytes), full_until })
    }

    fn text(self) -> String {
        match self.bytes {
            Some(bytes) => format!("{bytes} {}\n", self.full_until),
            None => String::new(),
        }
    }
}

impl Session {
    fn set_reserved(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(held) = &self.held {
            held.set_len(bytes)?;
        }
        self.reserved = bytes;
        Ok(())
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner);
        if session.dir.take().is_some()
            && let (Ok(tmp), Ok(name)) = (open_dir(self.root.as_fd(), "tmp"), CString::new(session.name.as_str()))
        {
            remove_session(&tmp, &name);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut session = self.budget.session();
        let left = session.reserved.saturating_sub(self.bytes);
        // One that stays too long is given back with the session.
        let _ = session.set_reserved(left);
    }
}

/// A file that has no name yet that anybody knows; dropped, it is deleted.
pub(crate) struct Draft<'a> {
    budget: &'a Budget,
    file: File,
    name: CString,
    is_published: bool,
}

impl Draft<'_> {
    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn publish(mut self, dir: std::os::fd::BorrowedFd<'_>, name: &CString, mode: Mode) -> io::Result<()> {
        minibuild_disk::set_mode(&self.file, mode)?;
        rustix::fs::renameat(&self.budget.root, &self.name, dir, name)?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            // What stays goes with the session.
            let _ = rustix::fs::unlinkat(&self.budget.root, &self.name, AtFlags::empty());
        }
    }
}

/// Deletes a session's directory; what cannot be deleted is tried again by the next who comes by.
fn remove_session(tmp: &OwnedFd, name: &CString) {
    if let Ok(dir) = open_dir(tmp.as_fd(), &name.to_string_lossy()) {
        for file in names(&dir) {
            let _ = rustix::fs::unlinkat(&dir, &file, AtFlags::empty());
        }
    }
    let _ = rustix::fs::unlinkat(tmp, name, AtFlags::REMOVEDIR);
}

/// The lock of a file, as long as it is held. Other threads of this process are kept out by the caller.
struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    /// `None` while another process has it.
    fn try_take(file: &'a File) -> io::Result<Option<Self>> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It ends with the file at the latest.
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn open(root: &Path, limit: u64) -> Budget {
        let dir = OwnedFd::from(File::open(root).expect("opens"));
        Budget::open(dir, Some(limit), Rights::private(), StopFlag::default()).expect("opens")
    }

    /// A kept file of one block that was used so long ago.
    fn put(root: &Path, name: &str, ago: u64) {
        let path = root.join("cas/sha256/aa").join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
        fs::write(&path, "x").expect("writes");
        let time = SystemTime::now() - Duration::from_secs(ago);
        File::options().write(true).open(&path).expect("opens").set_modified(time).expect("sets");
    }

    #[test]
    fn an_account_is_read_or_not_known() {
        let check = |text: &str, bytes| assert_eq!(Account::parse(text).bytes, bytes, "{text:?}");
        check("12 0\n", Some(12));
        check("12 0", None);
        check("", None);
        check("12\n", None);
        check("-1 0\n", None);
        let account = Account { bytes: Some(7), full_until: 9 };
        assert_eq!(Account::parse(&account.text()), account);
    }

    #[test]
    fn nobody_gets_more_than_there_is() {
        let root = tempfile::tempdir().expect("temp dir");
        let (a, b) = (open(root.path(), 100_000), open(root.path(), 100_000));
        let first = a.reserve(60_000).expect("works").expect("room");
        assert!(b.reserve(60_000).expect("works").is_none(), "the other has it");
        let second = b.reserve(40_000).expect("works").expect("room");
        assert!(a.reserve(1).expect("works").is_none());
        assert!(a.reserve(200_000).expect("works").is_none());
        // Nothing was written, and after the listing that a doubt causes that is known.
        drop((first, second));
        a.size.set_len(0).expect("cuts");
        assert!(a.reserve(100_000).expect("works").is_some());
    }

    #[test]
    fn lock_that_another_process_holds_is_waited_for_once_and_not_after_a_stop() {
        let root = tempfile::tempdir().expect("temp dir");
        let budget = open(root.path(), 10_000);
        let other = File::open(root.path().join("size")).expect("who may read may lock");
        rustix::fs::flock(&other, FlockOperation::LockExclusive).expect("locks");
        let kind = |budget: &Budget| budget.reserve(10).map(|_| ()).map_err(|error| error.kind());
        let began = Instant::now();
        assert_eq!(kind(&budget), Err(io::ErrorKind::WouldBlock));
        assert!(began.elapsed() >= PATIENCE && budget.is_busy.load(Ordering::Relaxed));
        assert_eq!(kind(&budget), Err(io::ErrorKind::WouldBlock));
        rustix::fs::flock(&other, FlockOperation::Unlock).expect("unlocks");
        assert_eq!(kind(&budget), Ok(()));
        rustix::fs::flock(&other, FlockOperation::LockExclusive).expect("locks");
        assert!(!budget.is_busy.load(Ordering::Relaxed), "it is waited for again");
        budget.stop.set();
        assert_eq!(kind(&budget), Err(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn what_a_dead_process_reserved_and_left_is_taken_back() {
        let root = tempfile::tempdir().expect("temp dir");
        let budget = open(root.path(), 10_000);
        std::mem::forget(budget.reserve(9_000).expect("works").expect("room"));
        let draft = budget.make_file().expect("makes");
        std::mem::forget(draft);
        let session = root.path().join("tmp").join(&budget.session().name);
        assert!(session.join("held").exists());
        let other = open(root.path(), 10_000);
        assert!(other.reserve(9_000).expect("works").is_none());
        // As the end of the process would.
        budget.session().held = None;
        other.size.set_len(0).expect("cuts");
        assert!(other.reserve(9_000).expect("works").is_some());
        assert!(!session.exists());
    }

    #[test]
    fn what_was_used_within_the_hour_stays_and_then_nothing_is_granted() {
        let root = tempfile::tempdir().expect("temp dir");
        for (name, ago) in [("old", 8000), ("older", 9000), ("new", 100), ("newer", 0)] {
            put(root.path(), name, ago);
        }
        let budget = open(root.path(), 4 * 4096);
        let left = || fs::read_dir(root.path().join("cas/sha256/aa")).expect("lists").count();
        assert!(budget.reserve(4096).expect("works").is_some());
        assert_eq!(left(), 2, "90 % is three blocks and a bit, one of them to come");
        assert!(!root.path().join("cas/sha256/aa/older").exists());
        assert!(budget.reserve(3 * 4096).expect("works").is_none(), "two are recent");
        assert_eq!(left(), 2);
        let until = budget.account().full_until;
        assert!(until > since_epoch(SystemTime::now()).as_secs());
        // Known to be full, nobody lists it again.
        put(root.path(), "ancient", 100_000);
        assert!(budget.reserve(3 * 4096).expect("works").is_none());
        assert_eq!(left(), 3);
    }

    #[test]
    fn who_has_no_limit_counts_for_those_who_have() {
        let root = tempfile::tempdir().expect("temp dir");
        let limited = open(root.path(), 10_000);
        drop(limited.reserve(1_000).expect("works").expect("room"));
        let dir = OwnedFd::from(File::open(root.path()).expect("opens"));
        let free = Budget::open(dir, None, Rights::private(), StopFlag::default()).expect("opens");
        let room = free.reserve(50_000).expect("works").expect("there is always room");
        assert_eq!(limited.account().bytes, Some(51_000));
        assert!(limited.reserve(1_000).expect("works").is_none(), "it is not written yet");
        drop(room);
    }

    #[test]
    fn a_session_leaves_nothing() {
        let root = tempfile::tempdir().expect("temp dir");
        let budget = open(root.path(), 10_000);
        let room = budget.reserve(10).expect("works").expect("room");
        drop(budget.make_file().expect("makes"));
        drop(room);
        drop(budget);
        assert_eq!(fs::read_dir(root.path().join("tmp")).expect("lists").count(), 0);
    }
}

//! The file system's own clock, and how fine it ticks.
//!
//! Whether a fingerprint can be trusted is a question about the clock that stamps files, which on network file
//! systems is not this machine's. It is read by touching a private file. It does not know who asks or why.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use minibuild_core::{Fingerprint, Stamp};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::DiskError;
use crate::stat::fingerprint_of;

/// Margin on file systems with coarse or foreign clocks.
const COARSE: Duration = Duration::from_secs(2);
/// Margin elsewhere: more than a tick of the slowest kernel.
const FINE: Duration = Duration::from_millis(20);

/// A moment on the clock that stamps files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsInstant {
    /// Nanoseconds since the epoch.
    pub ns: i64,
    /// How far apart two changes must be to have different times for certain.
    pub granularity: Duration,
    /// The device whose clock was read; `None` where all devices share it.
    device: Option<DeviceClock>,
}

/// A device with its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DeviceClock {
    dev: u64,
    /// The clock of this machine at the same moment, in nanoseconds since the epoch.
    system_ns: i64,
}

impl FsInstant {
    /// Returns a moment on a clock that all devices share.
    pub const fn of_all_devices(ns: i64, granularity: Duration) -> Self {
        Self { ns, granularity, device: None }
    }

    /// Returns the stamp of a file whose content was read after this moment.
    ///
    /// A file of another device (sources on a network or FAT mount, a `minibuild-out` that leads to another disk) was
    /// stamped by a clock nothing is known of: it may tick in steps of two seconds, and only this machine's clock is near it.
    pub fn stamp(&self, fingerprint: Fingerprint) -> Stamp {
        let trusted = match self.device {
            Some(device) if device.dev != fingerprint.dev => {
                fingerprint.is_trusted(self.ns.min(device.system_ns), COARSE.max(self.granularity))
            }
            _ => fingerprint.is_trusted(self.ns, self.granularity),
        };
        Stamp { fingerprint, trusted }
    }
}

/// A clock that stamps files; a trait so that tests can bring a coarse one.
pub trait FileClock: Send + Sync {
    /// The time a file written now would get.
    ///
    /// # Errors
    /// Those of writing the private file.
    fn now(&self) -> Result<FsInstant, DiskError>;
}

/// The clock of the file system that holds the state directory.
pub struct FsClock {
    file: File,
    path: String,
    granularity: Duration,
}

impl FsClock {
    /// Opens the clock's private file in `state_dir`, which must exist.
    ///
    /// # Errors
    /// Where the file cannot be made or written.
    pub fn open(state_dir: &Path) -> Result<Self, DiskError> {
        let path = state_dir.join("clock");
        let shown = path.display().to_string();
        let fail = |error: io::Error| DiskError::new("write", shown.clone(), error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&path, flags, Mode::from(0o644));
        let opened = match open() {
            // A symlink came with a checkout, and leads where nothing is to be written. A pipe that nobody reads is no file.
            Err(Errno::LOOP | Errno::NXIO) => {
                std::fs::remove_file(&path).map_err(fail).and_then(|()| open().map_err(|e| fail(e.into())))
            }
            opened => opened.map_err(|e| fail(e.into())),
        };
        let file = File::from(opened?);
        let kind = rustix::fs::fstatfs(&file).map_err(|e| fail(e.into()))?.f_type;
        let mut clock = Self { file, path: shown.clone(), granularity: FINE };
        let first = clock.now()?.ns;
        clock.granularity = granularity_of(u64::try_from(kind).unwrap_or_default(), first);
        Ok(clock)
    }
}

impl FileClock for FsClock {
    fn now(&self) -> Result<FsInstant, DiskError> {
        let touch = || {
            self.file.write_all_at(b"t", 0)?;
            Ok(fingerprint_of(&rustix::fs::fstat(&self.file)?))
        };
        let fingerprint = touch().map_err(|e: io::Error| DiskError::new("write", self.path.clone(), e))?;
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let system_ns = i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX);
        let device = DeviceClock { dev: fingerprint.dev, system_ns };
        Ok(FsInstant { ns: fingerprint.mtime_ns, granularity: self.granularity, device: Some(device) })
    }
}

/// The margin for a file system of type `magic` (of `statfs`) that stamped a file with `sample_ns` just now.
///
/// A stamp without a part below the second is taken as a sign of a coarse clock: by chance that happens once in
/// hundreds of millions of looks and costs some hashing. Network file systems are coarse because the server's
/// clock and the attribute cache of this machine need not agree.
pub fn granularity_of(magic: u64, sample_ns: i64) -> Duration {
    /// FAT, NFS, SMB, CIFS, SMB2, 9p, FUSE, Ceph, AFS, HFS+.
    const COARSE_TYPES: [u64; 10] =
        [0x4d44, 0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x6573_5546, 0x00c3_6400, 0x5346_414f, 0x482b];
    if COARSE_TYPES.contains(&magic) || sample_ns % 1_000_000_000 == 0 { COARSE } else { FINE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_by_type_and_sample() {
        let check = |magic, sample, expected| assert_eq!(granularity_of(magic, sample), expected, "{magic:x} {sample}");
        check(0xef53, 1_700_000_000_123_456_789, FINE);
        check(0xef53, 1_700_000_000_000_000_000, COARSE);
        check(0x6969, 1_700_000_000_123_456_789, COARSE);
        check(0x0102_1994, 1_700_000_000_000_000_001, FINE);
    }

    #[test]
    fn what_is_no_file_in_the_place_of_the_clock_is_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let place = dir.path().join("clock");
        nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
        FsClock::open(dir.path()).expect("clock").now().expect("now");
        std::fs::remove_file(&place).expect("removes");
        std::os::unix::fs::symlink("elsewhere", &place).expect("links");
        FsClock::open(dir.path()).expect("clock").now().expect("now");
        assert!(place.is_file() && !dir.path().join("elsewhere").exists());
    }

    #[test]
    fn clock_goes_forward_and_agrees_with_new_files() {
        let dir = tempfile::tempdir().expect("temp dir");
        let clock = FsClock::open(dir.path()).expect("clock");
        let before = clock.now().expect("now");
        std::fs::write(dir.path().join("f"), "x").expect("write");
        let stat = rustix::fs::lstat(dir.path().join("f")).expect("stat");
        let fingerprint = fingerprint_of(&stat);
        assert!(before.ns <= fingerprint.mtime_ns);
        assert!(!before.stamp(fingerprint).trusted, "written after the clock was read");
        let later = FsInstant::of_all_devices(fingerprint.ctime_ns + 20_000_001, FINE);
        assert!(later.stamp(fingerprint).trusted);
        let coarse = FsInstant { granularity: COARSE, ..later };
        assert!(!coarse.stamp(fingerprint).trusted);
    }

    #[test]
    fn stamp_of_foreign_device_takes_coarse_margin_and_earlier_clock() {
        const SECOND: i64 = 1_000_000_000;
        let check = |dev, clock_s, system_s, expected| {
            let fingerprint = Fingerprint { dev, mtime_ns: 100 * SECOND, ctime_ns: 100 * SECOND, ..Default::default() };
            let device = Some(DeviceClock { dev: 1, system_ns: system_s * SECOND });
            let now = FsInstant { ns: clock_s * SECOND, granularity: FINE, device };
            assert_eq!(now.stamp(fingerprint).trusted, expected, "{dev} {clock_s} {system_s}");
        };
        check(1, 101, 0, true);
        check(2, 101, 101, false);
        check(2, 103, 103, true);
        // The clock of the state's server is ahead of this machine's, which stamped the file just now.
        check(2, 160, 100, false);
        check(2, 100, 160, false);
    }
}

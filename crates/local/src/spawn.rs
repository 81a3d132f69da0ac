//! Starting programs, and saying why one cannot be started.
//!
//! Nothing is copied: the cost of a start must not grow with the memory of who starts it. It does not know what the
//! programs are for.

use std::ffi::{CStr, CString, c_char};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

/// Descriptors for a new process, each with the number it gets there, below [`LOWEST_SOURCE`]. Others it has by accident only.
pub(crate) type Given<'a> = [(BorrowedFd<'a>, RawFd)];

/// Above all numbers anything is given under, so that no descriptor is overwritten before it was copied.
const LOWEST_SOURCE: RawFd = 16;

/// Starts `program` (a path) as the leader of a new session: no terminal, no signals from one. No signal is blocked in it, and all
/// are as they were for a process nobody changed them for.
pub(crate) fn start_session(program: &CStr, argv: &[CString], given: &Given<'_>) -> nix::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    let mut sources = Vec::new();
    for (fd, number) in given {
        let copy = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(LOWEST_SOURCE))?;
        // SAFETY: `fcntl` has just made this descriptor for us.
        sources.push(unsafe { OwnedFd::from_raw_fd(copy) });
        actions.add_dup2(copy, *number)?;
    }
    let mut attr = PosixSpawnAttr::init()?;
    // Known to glibc and musl, but not to nix.
    let session = PosixSpawnFlags::from_bits_retain(i32::from(nix::libc::POSIX_SPAWN_SETSID));
    attr.set_flags(session | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    attr.set_sigdefault(&SigSet::all())?;
    attr.set_sigmask(&SigSet::empty())?;
    posix_spawn(program, &actions, &attr, argv, &[] as &[CString])
}

/// What a start on a stack of its own needs at most.
const STACK: usize = 64 * 1024;

/// Starts commands, each the leader of a new process group, one at a time, for a process that has one thread and waits for the
/// end of each before it starts the next.
///
/// The new process lives in this one's memory until it is another program, as with `posix_spawn`, but this one does not wait so
/// long: why a start failed is known when the process has ended. What each start would map, block and reset once more is here
/// already.
pub(crate) struct Launcher {
    /// Never freed: the process is about to end when this is dropped, and a new one may still be on its way.
    launch: ManuallyDrop<Box<Launch>>,
    stack: ManuallyDrop<Vec<u8>>,
}

/// What a new process reads, and where it says what went wrong.
struct Launch {
    /// Signals that are ignored here and not to be ignored there.
    ignored: Vec<i32>,
    stdio: [RawFd; 3],
    program: CString,
    /// What the pointers point at.
    texts: [String; 2],
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// An error number; zero as long as nothing went wrong.
    failure: AtomicI32,
}

impl Launcher {
    /// The exit code of a process that did not become another program. Programs have it, too; see [`Self::failure`].
    pub(crate) const FAILED: i32 = 127;

    /// For a process that ignores and blocks these signals, and all of whose others are at their defaults.
    pub(crate) fn new(ignored: &[Signal]) -> Self {
        let launch = Launch {
            ignored: ignored.iter().map(|&signal| signal as i32).collect(),
            stdio: [0; 3],
            program: CString::default(),
            texts: Default::default(),
            argv: Vec::new(),
            env: Vec::new(),
            failure: AtomicI32::new(0),
        };
        Self { launch: ManuallyDrop::new(Box::new(launch)), stack: ManuallyDrop::new(vec![0; STACK]) }
    }

    /// Starts `program` (a path); see [`joined`] for arguments and environment. The descriptors have to stay open until the new
    /// process has ended.
    pub(crate) fn start(
        &mut self,
        program: CString,
        argv: String,
        env: String,
        stdio: [BorrowedFd<'_>; 3],
    ) -> nix::Result<Pid> {
        let launch = &mut **self.launch;
        (launch.program, launch.texts, launch.stdio) = (program, [argv, env], stdio.map(|fd| fd.as_raw_fd()));
        point_at(&launch.texts[0], &mut launch.argv);
        point_at(&launch.texts[1], &mut launch.env);
        launch.failure.store(0, Ordering::Relaxed);
        let flags = libc::CLONE_VM | libc::SIGCHLD;
        // The stack grows down from an address that is a multiple of 16.
        let top = self.stack.as_mut_ptr_range().end;
        // SAFETY: stays within the stack.
        let top = unsafe { top.sub(top.addr() % 16) };
        // SAFETY: this process has one thread, and no handler of a signal of its own. Stack and `launch` stay as they are until the
        // new process has left this memory, since the next start comes after its end, and they are never freed.
        let pid = unsafe {
            libc::clone(become_program, top.cast(), flags, std::ptr::from_ref::<Launch>(launch).cast_mut().cast())
        };
        Errno::result(pid).map(Pid::from_raw)
    }

    /// Why the last process, which has ended, could not become another program.
    pub(crate) fn failure(&self) -> Option<Errno> {
        let number = self.launch.failure.load(Ordering::Relaxed);
        (number != 0).then(|| Errno::from_raw(number))
    }

    /// What was to be started last.
    pub(crate) fn program(&self) -> &CStr {
        &self.launch.program
    }

    /// The length of its arguments and environment.
    pub(crate) fn bytes(&self) -> usize {
        self.launch.texts.iter().map(String::len).sum()
    }
}

/// What the new process does. A call that fails writes the error number where the process that started this one looks for its own:
/// until the new process has left this memory nothing there may depend on which error it was.
extern "C" fn become_program(launch: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it is the launch this process was started with, which stays as it is.
    let launch = unsafe { &*launch.cast_const().cast::<Launch>() };
    // SAFETY: nothing but calls to the system. This memory belongs to another process as well, so nothing of it is changed but the
    // number of the failure; all pointers end with a NUL byte or a null pointer.
    unsafe {
        let is_ready = launch.ignored.iter().all(|&signal| libc::signal(signal, libc::SIG_DFL) != libc::SIG_ERR)
            && libc::setpgid(0, 0) == 0
            && (0..).zip(launch.stdio).all(|(number, fd)| libc::dup2(fd, number) == number)
            && unblock_all();
        if is_ready {
            libc::execve(launch.program.as_ptr(), launch.argv.as_ptr(), launch.env.as_ptr());
        }
        launch.failure.store(Errno::last_raw(), Ordering::Relaxed);
        libc::_exit(Launcher::FAILED)
    }
}

/// Lets all signals through.
///
/// # Safety
/// For a process that may change its mask.
unsafe fn unblock_all() -> bool {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is made before it is used.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr()) == 0
            && libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) == 0
    }
}

/// Texts one after the other, each with a NUL character at its end, as a new program gets them.
///
/// # Errors
/// Where one has such a character itself; `what` they are.
pub(crate) fn joined<T: AsRef<[U]>, U: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    what: &str,
) -> Result<String, String> {
    let mut all = String::new();
    for text in texts {
        let begin = all.len();
        text.as_ref().iter().for_each(|part| all.push_str(part.as_ref()));
        if let Some(at) = all[begin..].find('\0') {
            let shown = all[begin..].escape_default();
            return Err(format!("{what} holds a NUL character at byte {at}: \"{shown}\""));
        }
        all.push('\0');
    }
    Ok(all)
}

/// Pointers to all parts of what [`joined`] gave, and a null pointer.
fn point_at(texts: &str, pointers: &mut Vec<*const c_char>) {
    pointers.clear();
    pointers.extend(texts.split_inclusive('\0').map(|text| text.as_ptr().cast()));
    pointers.push(std::ptr::null());
}

/// Where the program of a command lies: as it is if it has a slash, else the first match in `PATH`.
///
/// # Errors
/// The text of `NotStarted`.
pub(crate) fn find_program(name: &str, path: Option<&str>) -> Result<CString, String> {
    if name.is_empty() {
        return Err("the command has an empty program name".into());
    }
    let nul = |_| format!("the program name {name:?} holds a NUL character");
    if name.contains('/') {
        return CString::new(name).map_err(nul);
    }
    let Some(path) = path else {
        return Err(format!("cannot find program `{name}`: the environment has no `PATH`"));
    };
    let mut denied = None;
    for dir in path.split(':') {
        // An empty entry of PATH means the working directory.
        let candidate = if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") };
        match executable(&candidate) {
            Ok(()) => return CString::new(candidate).map_err(nul),
            Err(Errno::EACCES) => denied = denied.or(Some(candidate)),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(file) => format!("cannot run `{file}`: it is not an executable file"),
        None => format!("cannot find program `{name}` in `PATH` ({path})"),
    })
}

fn executable(path: &str) -> nix::Result<()> {
    use nix::unistd::{AccessFlags, access};
    access(path, AccessFlags::X_OK)?;
    if Path::new(path).is_file() { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether nothing on the file system of this path can be run, whatever its permissions say.
fn is_on_noexec_mount(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path).is_ok_and(|disk| disk.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC))
}

/// Why starting failed, for people.
pub fn spawn_error(program: &CStr, argv_bytes: usize, error: Errno) -> String {
    let shown = program.to_string_lossy();
    let path = Path::new(std::ffi::OsStr::from_bytes(program.to_bytes()));
    match error {
        Errno::ENOENT if path.exists() => {
            format!("cannot run `{shown}`: the interpreter its first line names does not exist")
        }
        Errno::ENOENT => format!("cannot run `{shown}`: there is no such file"),
        Errno::EACCES if path.is_dir() => format!("cannot run `{shown}`: it is a directory"),
        Errno::EACCES if is_on_noexec_mount(path) => {
            format!("cannot run `{shown}`: its file system is mounted `noexec`")
        }
        Errno::EACCES => format!("cannot run `{shown}`: it is not executable"),
        Errno::ENOEXEC => format!(
            "cannot run `{shown}`: it is no program of this machine (exec format error)\nhint: a script needs a `#!` line"
        ),
        Errno::E2BIG => format!(
            "cannot run `{shown}`: arguments and environment are too long ({argv_bytes} bytes)\n\
             hint: pass long lists in a response file (`rspfile`)"
        ),
        other => format!("cannot run `{shown}`: {}", other.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_looked_up_like_a_shell_does() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name).display().to_string();
        for (place, mode) in [("one", 0o644), ("two", 0o755)] {
            std::fs::create_dir(at(place)).expect("mkdir");
            let tool = format!("{}/tool", at(place));
            std::fs::write(&tool, "#!/bin/sh\n").expect("write");
            std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(mode)).expect("chmod");
        }
        std::fs::create_dir(at("two/dir")).expect("mkdir");
        let path = format!("{}:{}:{}", at("missing"), at("one"), at("two"));
        let check = |name: &str, path: Option<&str>, expected: Result<String, &str>| {
            let found = find_program(name, path).map(|found| found.to_string_lossy().into_owned());
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected)),
                Err(part) => assert!(found.clone().is_err_and(|text| text.contains(part)), "{found:?} lacks {part}"),
            }
        };
        check("tool", Some(&path), Ok(format!("{}/tool", at("two"))));
        check("a/b", Some(&path), Ok("a/b".into()));
        check("a/b", None, Ok("a/b".into()));
        check("tool", Some(&at("one")), Err("not an executable file"));
        check("dir", Some(&path), Err("not an executable file"));
        check("nothing", Some(&path), Err("cannot find program `nothing` in `PATH`"));
        check("tool", None, Err("no `PATH`"));
        check("", Some(&path), Err("empty program name"));
        check("to\0ol/", None, Err("NUL"));
    }

    #[test]
    fn every_failure_names_the_program() {
        for error in [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::E2BIG, Errno::ENOMEM] {
            let text = spawn_error(c"/no/such", 9, error);
            assert!(text.starts_with("cannot run `/no/such`: "), "{text}");
        }
        let is_noexec = is_on_noexec_mount(Path::new("/proc/version"));
        let text = spawn_error(c"/proc/version", 0, Errno::EACCES);
        assert_eq!(text.contains("mounted `noexec`"), is_noexec, "{text}");
        assert!(!is_on_noexec_mount(Path::new("/bin/sh")) && !is_on_noexec_mount(Path::new("/no/such")));
        assert!(spawn_error(c"/usr", 0, Errno::EACCES).contains("directory"));
        assert!(spawn_error(c"/usr", 0, Errno::ENOENT).contains("interpreter"));
    }
}

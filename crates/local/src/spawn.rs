//! Starting programs, and saying why one cannot be started.
//!
//! Nothing is copied: the cost of a start must not grow with the memory of who starts it. It does not know what the
//! programs are for.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, clone};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Descriptors a new process gets as its standard ones; `None` leaves it this process's own.
pub(crate) type Stdio<'a> = [Option<BorrowedFd<'a>>; 3];

/// Starts `program` (a path) as the leader of a new session: no terminal, no signals from one. No signal is blocked in it, and all
/// are as they were for a process nobody changed them for.
pub(crate) fn start_session(program: &CStr, argv: &[CString], stdio: Stdio<'_>) -> nix::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    for (number, fd) in (0..).zip(stdio) {
        if let Some(fd) = fd {
            actions.add_dup2(fd.as_raw_fd(), number)?;
        }
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

/// Starts commands, each the leader of a new process group, for a process that has one thread.
///
/// As `posix_spawn` does it, the new process lives in this one's memory until it is another program, and this one waits so
/// long. But what each start would map, block and reset once more is here already.
pub(crate) struct Launcher {
    /// What they get as their standard descriptors; kept open by the owner.
    stdio: [RawFd; 3],
    /// Signals that are ignored here and not to be ignored there.
    ignored: Vec<i32>,
    stack: Vec<u8>,
    /// Room for pointers.
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

impl Launcher {
    /// For commands that get `stdio`, whose descriptors have to stay open.
    pub(crate) fn new(stdio: [BorrowedFd<'_>; 3], ignored: &[Signal]) -> Self {
        let ignored = ignored.iter().map(|&signal| signal as i32).collect();
        let stdio = stdio.map(|fd| fd.as_raw_fd());
        Self { stdio, ignored, stack: vec![0; STACK], argv: Vec::new(), env: Vec::new() }
    }

    /// Starts `program` (a path); see [`joined`] for arguments and environment.
    pub(crate) fn start(&mut self, program: &CStr, argv: &str, env: &str) -> nix::Result<Pid> {
        point_at(argv, &mut self.argv);
        point_at(env, &mut self.env);
        let (stdio, ignored, failure) = (self.stdio, &self.ignored[..], Cell::new(0));
        let (program, argv, env) = (program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
        let become_program = || {
            // SAFETY: nothing but calls to the system, on memory that stays as it is until this ends, since its owner waits; all
            // pointers end with a NUL byte or a null pointer.
            unsafe {
                let is_ready = ignored.iter().all(|&signal| libc::signal(signal, libc::SIG_DFL) != libc::SIG_ERR)
                    && libc::setpgid(0, 0) == 0
                    && (0..).zip(stdio).all(|(number, fd)| libc::dup2(fd, number) == number)
                    && unblock_all();
                if is_ready {
                    libc::execve(program, argv, env);
                }
                failure.set(Errno::last_raw());
                libc::_exit(127)
            }
        };
        let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        // SAFETY: this process has one thread, and no handler of a signal of its own; the stack is used by nobody else, since this
        // call comes back only when the new process has left it.
        let pid = unsafe { clone(Box::new(become_program), &mut self.stack, flags, Some(libc::SIGCHLD)) }?;
        if failure.get() == 0 {
            return Ok(pid);
        }
        while waitpid(pid, None) == Err(Errno::EINTR) {}
        Err(Errno::from_raw(failure.get()))
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

/// Why starting failed, for people.
pub(crate) fn spawn_error(program: &CStr, argv_bytes: usize, error: Errno) -> String {
    let shown = program.to_string_lossy();
    let path = Path::new(std::ffi::OsStr::from_bytes(program.to_bytes()));
    match error {
        Errno::ENOENT if path.exists() => {
            format!("cannot run `{shown}`: the interpreter its first line names does not exist")
        }
        Errno::ENOENT => format!("cannot run `{shown}`: there is no such file"),
        Errno::EACCES if path.is_dir() => format!("cannot run `{shown}`: it is a directory"),
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
        assert!(spawn_error(c"/usr", 0, Errno::EACCES).contains("directory"));
        assert!(spawn_error(c"/usr", 0, Errno::ENOENT).contains("interpreter"));
    }
}

//! Starting programs with `posix_spawn`, and saying why one cannot be started.
//!
//! Never forks: the cost of a start must not grow with the memory of who starts it. It does not know what the
//! programs are for.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

/// Where a new process stands among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Leads a new process group of this session.
    NewGroup,
    /// Leads a new session: no terminal, no signals from one.
    NewSession,
}

/// Descriptors a new process gets as its standard ones; `None` leaves it this process's own.
pub(crate) type Stdio<'a> = [Option<BorrowedFd<'a>>; 3];

/// What is the same for many starts, made once: each descriptor and each signal costs calls to set up.
pub(crate) struct Starter {
    actions: PosixSpawnFileActions,
    attr: PosixSpawnAttr,
}

impl Starter {
    /// For processes that get `stdio`, whose descriptors have to stay open, and no signal mask. Signals in `reset` are as they
    /// were for a process nobody changed them for: those that are ignored here.
    pub(crate) fn new(stdio: Stdio<'_>, standing: Standing, reset: &SigSet) -> nix::Result<Self> {
        let mut actions = PosixSpawnFileActions::init()?;
        for (number, fd) in (0..).zip(stdio) {
            if let Some(fd) = fd {
                actions.add_dup2(fd.as_raw_fd(), number)?;
            }
        }
        let mut attr = PosixSpawnAttr::init()?;
        let place = match standing {
            Standing::NewGroup => PosixSpawnFlags::POSIX_SPAWN_SETPGROUP,
            // Known to glibc and musl, but not to nix.
            Standing::NewSession => PosixSpawnFlags::from_bits_retain(i32::from(nix::libc::POSIX_SPAWN_SETSID)),
        };
        attr.set_flags(place | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
        attr.set_pgroup(Pid::from_raw(0))?;
        attr.set_sigdefault(reset)?;
        attr.set_sigmask(&SigSet::empty())?;
        Ok(Self { actions, attr })
    }

    /// Starts `program` (a path).
    pub(crate) fn start(&self, program: &CStr, argv: &[CString], env: &[CString]) -> nix::Result<Pid> {
        posix_spawn(program, &self.actions, &self.attr, argv, env)
    }
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

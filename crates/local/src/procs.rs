//! Looking at processes through `/proc`: who descends from whom, and what they are.
//!
//! A list of processes is old the moment it is read; users repeat until a wait says that no child is left. It
//! does not know which processes matter or why.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal};

/// One process as its `stat` file told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proc {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Ended, but not waited for.
    pub(crate) is_zombie: bool,
    /// Clock ticks since boot; with the pid it names a process for ever.
    start_time: u64,
}

impl Proc {
    /// Whether it is the same process, at whatever moment each was looked at.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }
}

/// All living or unwaited descendants of `root`, parents before children.
pub(crate) fn descendants(root: i32) -> Vec<Proc> {
    let mut found: Vec<Proc> = Vec::new();
    let mut next = 0;
    let mut children = children_of(root);
    loop {
        for child in children {
            if found.iter().all(|known| known.pid != child.pid) {
                found.push(child);
            }
        }
        let Some(parent) = found.get(next) else { return found };
        next += 1;
        children = children_of(parent.pid);
    }
}

/// The children of all threads of a process.
pub(crate) fn children_of(pid: i32) -> Vec<Proc> {
    let listed = listed_children(pid).unwrap_or_else(|| scan_for_children(pid));
    listed.into_iter().filter_map(look).collect()
}

/// From the `children` files, which not every kernel has.
fn listed_children(pid: i32) -> Option<Vec<i32>> {
    let mut children = Vec::new();
    let tasks = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(tasks) => tasks,
        Err(_) => return Some(children),
    };
    for task in tasks.flatten() {
        match fs::read_to_string(task.path().join("children")) {
            Ok(text) => children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // The thread may be gone; the file missing while the thread is there means no such files at all.
            Err(_) if task.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

fn scan_for_children(parent: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| look(pid).is_some_and(|found| found.parent == parent)).collect()
}

/// Whether this process descends from `pid`.
pub fn is_ancestor(pid: u32) -> bool {
    let wanted = i32::try_from(pid).unwrap_or_default();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    std::iter::successors(look(own), |process| look(process.parent)).any(|process| process.parent == wanted)
}

/// One process, `None` where there is none any more.
pub(crate) fn look(pid: i32) -> Option<Proc> {
    parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, so fields are counted from the last one that closes.
fn parse_stat(pid: i32, stat: &[u8]) -> Option<Proc> {
    let close = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    Some(Proc {
        pid,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        is_zombie: matches!(*fields.first()?, "Z" | "X" | "x"),
        start_time: fields.get(19)?.parse().ok()?,
    })
}

/// Pid and command line, for people. A process that has no command line any more is shown by its name.
pub(crate) fn describe(pid: i32) -> String {
    const SHOWN: usize = 200;
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = raw.split(|&b| b == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    let mut line = words.join(" ");
    if line.is_empty() {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        line = format!("[{}]", String::from_utf8_lossy(name.trim_ascii()));
    }
    if line.chars().count() > SHOWN {
        line = line.chars().take(SHOWN).chain("...".chars()).collect();
    }
    format!("{pid} {}", line.replace(['\n', '\r'], " "))
}

/// Sends a signal to this very process, never to one that got its number since.
pub(crate) fn signal(process: &Proc, signal: Signal) {
    let Some(pidfd) = open(process.pid) else { return };
    if look(process.pid).is_some_and(|now| now.start_time == process.start_time) {
        // It may have ended just now.
        let _ = rustix::process::pidfd_send_signal(&pidfd, signal);
    }
}

/// A descriptor that becomes readable when the process ends.
pub(crate) fn open(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names() {
        let tail = "S 10 11 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987 1000 200";
        for name in ["sh", "a b", ") Z 1 1", "(x)", "\u{e4}"] {
            let parsed = parse_stat(42, format!("42 ({name}) {tail}\n").as_bytes()).expect(name);
            let expected = Proc { pid: 42, parent: 10, group: 11, session: 12, is_zombie: false, start_time: 987 };
            assert_eq!(parsed, expected);
        }
        for bad in ["", "42 (sh", "42 (sh) S 1", "42 (sh) S x y z"] {
            assert_eq!(parse_stat(42, bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn children_are_found_both_ways() {
        let mut child =
            std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().expect("cat starts");
        let pid = i32::try_from(child.id()).expect("a pid");
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(scan_for_children(me).contains(&pid));
        assert!(descendants(me).iter().any(|found| found.pid == pid && found.parent == me));
        assert!(describe(pid).starts_with(&format!("{pid} ")), "{}", describe(pid));
        let found = look(pid).expect("alive");
        signal(&Proc { start_time: found.start_time + 1, ..found }, Signal::KILL);
        assert_eq!(child.try_wait().expect("wait"), None, "another process's signal");
        signal(&found, Signal::KILL);
        assert!(!child.wait().expect("wait").success());
    }
}

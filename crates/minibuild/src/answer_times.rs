//! How soon remote caches answer, kept for the user and not for a workspace.
//!
//! The state of a workspace knows it, too, but is gone after `clean --all` and is not there in a new checkout, whose first
//! build would run here what the cache has. A line for each endpoint, the last used first, under a hash of the endpoint as
//! it may be shown: the file names no server and holds no secret. It is a guess that spares time: where it cannot be read or
//! written, or holds something else, nothing is known.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use minibuild_core::DigestFunction;
use minibuild_dynamic::policy::Running;
use minibuild_loader::RemoteSettings;

use crate::remote_side;

const HEADER: &str = "minibuild answer times 1";
/// Endpoints that are kept.
const MOST_ENDPOINTS: usize = 64;
/// More than as many lines take.
const MOST_BYTES: u64 = 16 << 10;
/// No cache is waited for this long, in seconds: a longer time is damage.
const MOST_SECONDS: f64 = 3600.0;

/// What is kept of one endpoint.
pub struct AnswerTimes {
    path: PathBuf,
    key: String,
}

impl AnswerTimes {
    /// That of the endpoint that these settings ask; `None` where there is none, or no place for a file.
    pub fn of(remote: &RemoteSettings) -> Option<Self> {
        let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let path = file(set("XDG_STATE_HOME"), set("HOME"))?;
        Some(Self { path, key: key(&remote_side::endpoint(remote)?) })
    }

    /// What earlier builds learnt, in seconds.
    pub fn read(&self) -> Running {
        let known = read(&self.path);
        known.into_iter().find(|(key, _)| *key == self.key).map(|(_, answer)| answer).unwrap_or_default()
    }

    /// Keeps what a build learnt. Of two builds that do so at once one may be forgotten.
    pub fn remember(&self, answer: Running) {
        let others = read(&self.path).into_iter().filter(|(key, _)| *key != self.key);
        let own = std::iter::once((self.key.clone(), answer));
        let mut text = format!("{HEADER}\n");
        for (key, Running { count, mean, deviation }) in own.chain(others).take(MOST_ENDPOINTS) {
            let _ = writeln!(text, "{key} {count} {mean:.6} {deviation:.6}");
        }
        let _ = replace(&self.path, &text);
    }
}

/// Where the file is. What is not absolute is to be ignored, says the XDG specification.
fn file(state_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state_home = state_home.filter(|dir| dir.is_absolute());
    let state_home = state_home.or_else(|| Some(home.filter(|dir| dir.is_absolute())?.join(".local/state")))?;
    Some(state_home.join("minibuild/answer-times"))
}

fn key(endpoint: &str) -> String {
    DigestFunction::Sha256.digest(endpoint.as_bytes()).hex()[..32].to_owned()
}

/// All that is known, as far as it can be made out.
fn read(path: &Path) -> Vec<(String, Running)> {
    let text = read_text(path).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Vec::new();
    }
    lines.filter_map(entry).take(MOST_ENDPOINTS).collect()
}

/// A pipe or a device at this place is not waited for.
fn read_text(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let mut text = String::new();
    if file.metadata()?.is_file() {
        file.take(MOST_BYTES).read_to_string(&mut text)?;
    }
    Ok(text)
}

fn entry(line: &str) -> Option<(String, Running)> {
    let words: Vec<&str> = line.split(' ').collect();
    let [key, count, mean, deviation] = words[..] else { return None };
    let seconds = |text: &str| text.parse().ok().filter(|seconds| (0.0..=MOST_SECONDS).contains(seconds));
    let running = Running { count: count.parse().ok()?, mean: seconds(mean)?, deviation: seconds(deviation)? };
    let is_key = key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_key && running.count > 0).then(|| (key.to_owned(), running))
}

/// Writes beside and renames: another build reads the old text or the new.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    let beside = directory.join(format!("answer-times.{}", std::process::id()));
    // One that is there is another build's, in a container that counts processes by itself, or was left by one that was killed.
    let mut file = File::create_new(&beside)?;
    let done = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn times(dir: &Path, endpoint: &str) -> AnswerTimes {
        AnswerTimes { path: dir.join("state/minibuild/answer-times"), key: key(endpoint) }
    }

    fn answer(mean: f64) -> Running {
        Running { count: 3, mean, deviation: 0.0005 }
    }

    #[test]
    fn the_file_lies_where_xdg_says() {
        let check = |state: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            let expected = expected.map(|dir| Path::new(dir).join("minibuild/answer-times"));
            assert_eq!(file(state.map(PathBuf::from), home.map(PathBuf::from)), expected, "{state:?} {home:?}");
        };
        check(Some("/s"), Some("/h"), Some("/s"));
        check(None, Some("/h"), Some("/h/.local/state"));
        check(Some(""), Some("/h"), Some("/h/.local/state"));
        check(Some("s"), Some("/h"), Some("/h/.local/state"));
        check(None, Some(""), None);
        check(None, None, None);
    }

    #[test]
    fn each_endpoint_keeps_its_own_and_the_file_names_none() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (a, b) = (times(dir.path(), "grpc://a:1"), times(dir.path(), "grpc://b:1"));
        assert_eq!(a.read(), Running::default());
        a.remember(answer(0.002));
        b.remember(answer(0.3));
        a.remember(answer(0.004));
        assert_eq!((a.read(), b.read()), (answer(0.004), answer(0.3)));
        let text = fs::read_to_string(&a.path).expect("reads");
        assert!(!text.contains("grpc"), "{text}");
        let names: Vec<_> = fs::read_dir(dir.path().join("state/minibuild")).expect("lists").collect();
        assert_eq!(names.len(), 1, "nothing is left beside it");
    }

    #[test]
    fn it_stays_small_and_forgets_what_was_not_used_for_longest() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let of = |number: usize| times(dir.path(), &format!("grpc://{number}"));
        (0..MOST_ENDPOINTS + 2).for_each(|number| of(number).remember(answer(1e-3 * number as f64)));
        assert_eq!((of(1).read(), of(2).read()), (Running::default(), answer(0.002)));
        let size = fs::metadata(&of(0).path).expect("is there").len();
        assert!(size < MOST_BYTES, "{size}");
    }

    #[test]
    fn what_is_no_such_file_is_no_knowledge_and_mended_where_it_can_be() {
        let good = format!("{HEADER}\n{} 3 0.002000 0.000500\n", key("e"));
        let damaged: [&[u8]; 7] = [
            b"",
            b"minibuild answer times 2\nx",
            b"\xff\xfe",
            &good.as_bytes()[..good.len() / 2],
            good.replace("0.002000", "nan").leak().as_bytes(),
            good.replace("0.002000", "-1").leak().as_bytes(),
            &[b'x'; 100_000],
        ];
        for bytes in damaged {
            let dir = tempfile::tempdir().expect("temporary directory");
            let times = times(dir.path(), "e");
            fs::create_dir_all(times.path.parent().expect("has one")).expect("makes");
            fs::write(&times.path, bytes).expect("writes");
            assert_eq!(times.read(), Running::default(), "{}", String::from_utf8_lossy(bytes));
            times.remember(answer(0.002));
            assert_eq!(times.read(), answer(0.002));
        }
    }

    #[test]
    fn a_pipe_or_a_directory_in_its_place_changes_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pipe = AnswerTimes { path: dir.path().join("pipe"), key: key("e") };
        nix::unistd::mkfifo(&pipe.path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        assert_eq!(pipe.read(), Running::default());
        let directory = AnswerTimes { path: dir.path().join("directory"), key: key("e") };
        fs::create_dir(&directory.path).expect("makes");
        directory.remember(answer(0.1));
        assert_eq!(directory.read(), Running::default());
        let below_a_file = AnswerTimes { path: dir.path().join("file/x"), key: key("e") };
        fs::write(dir.path().join("file"), "").expect("writes");
        below_a_file.remember(answer(0.1));
        let read_only = AnswerTimes { path: dir.path().join("closed/x"), key: key("e") };
        fs::create_dir(dir.path().join("closed")).expect("makes");
        fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o500)).expect("chmod");
        read_only.remember(answer(0.1));
        fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700)).expect("chmod");
    }

    #[test]
    fn two_that_write_at_once_leave_a_whole_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("state/minibuild/answer-times");
        std::thread::scope(|scope| {
            for number in 0..4 {
                let times = times(dir.path(), &number.to_string());
                scope.spawn(move || (0..50).for_each(|_| times.remember(answer(0.002))));
            }
            for _ in 0..200 {
                let text = read_text(&path).unwrap_or_default();
                assert!(text.is_empty() || text.ends_with('\n') && text.starts_with(HEADER), "{text}");
            }
        });
    }
}

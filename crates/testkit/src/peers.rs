//! Servers written by others, for tests of minibuild as their client.
//!
//! How a server is installed, started and stopped is known to `scripts/peers` alone; this module calls it. Outside of CI a
//! server that cannot be had skips its test, loudly; in CI that is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// buildbox-casd: all of the Remote Execution API; SHA-256, no compression.
    Casd,
    /// BuildGrid as a cache only: storage and action cache, no execution.
    BuildGrid,
    /// nginx: an HTTP cache that stores whatever it is given.
    Nginx,
}

/// A server that runs until it is dropped, or until this process ends in whatever way.
#[derive(Debug)]
pub struct Peer {
    kind: PeerKind,
    endpoint: String,
    dir: TempDir,
}

/// The test cannot be done here: there is no such server. Said already, so the test need only end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Why it cannot be had.
    pub why: String,
}

impl PeerKind {
    /// What `scripts/peers` calls it.
    pub fn name(self) -> &'static str {
        match self {
            PeerKind::Casd => "casd",
            PeerKind::BuildGrid => "buildgrid",
            PeerKind::Nginx => "nginx",
        }
    }
}

impl Peer {
    /// Starts a server on an empty store and waits until it can be reached.
    ///
    /// # Errors
    /// The server is not installed or does not start, outside of CI; standard error says so.
    ///
    /// # Panics
    /// The same in CI, where the environment has `CI=true`.
    #[track_caller]
    pub fn start(kind: PeerKind) -> Result<Peer, Skipped> {
        let dir = tempfile::Builder::new().prefix("minibuild-peer-").tempdir().expect("makes a directory");
        match launch(kind, dir.path(), &[]) {
            Ok(endpoint) => Ok(Peer { kind, endpoint, dir }),
            Err(why) => {
                let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
                assert!(!in_ci, "peer {}: {why}", kind.name());
                crate::say(&format!("SKIPPED peer {}: {why}", kind.name()));
                Err(Skipped { why })
            }
        }
    }

    /// Where it is: `grpc://HOST:PORT` or `http://HOST:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The directory that holds all it has, for tests that look behind its back.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- peer {}\n{}", self.kind.name(), self.log().trim_end());
        }
        if let Err(why) = run(script().arg("stop").arg(self.dir())) {
            eprintln!("peer {} cannot be stopped: {why}", self.kind.name());
        }
    }
}

/// Starts a server in `dir`; its endpoint, or why there is none.
fn launch(kind: PeerKind, dir: &Path, env: &[(&str, &str)]) -> Result<String, String> {
    let mut command = script();
    command.args(["start", kind.name()]).arg(dir);
    command.env("PEERS_OWNER", std::process::id().to_string()).envs(env.iter().copied());
    run(&mut command)
}

fn script() -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(root.join("scripts/peers"));
    command.stdin(Stdio::null());
    command
}

/// What the script prints, or what it complains of.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("`scripts/peers` cannot be run: {e}"))?;
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text).trim().to_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::gate::SOON;
    use crate::process::{Pid, kill, wait_until_dead};

    fn connect(endpoint: &str) -> std::io::Result<TcpStream> {
        let (_, address) = endpoint.split_once("://").expect("an endpoint has a scheme");
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    fn pid(dir: &Path) -> Pid {
        fs::read_to_string(dir.join("pid")).expect("there is a pid").trim().parse().expect("it is a number")
    }

    /// Sends the start of an HTTP/2 connection with empty settings; gives the type of the first frame that comes back.
    fn first_frame_type(peer: &Peer) -> u8 {
        let mut stream = connect(peer.endpoint()).expect("connects");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("writes");
        let mut header = [0; 9];
        stream.read_exact(&mut header).expect("it answers");
        header[3]
    }

    /// Sends one request, gives all of the answer.
    fn http(endpoint: &str, request: &str, body: &str) -> String {
        let mut stream = connect(endpoint).expect("connects");
        let length = body.len();
        let rest = format!("Host: peer\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(format!("{request} HTTP/1.1\r\n{rest}").as_bytes()).expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    fn speaks_http2_and_ends(kind: PeerKind) {
        const SETTINGS: u8 = 4;
        let Ok(peer) = Peer::start(kind) else { return };
        assert_eq!(first_frame_type(&peer), SETTINGS, "{}", peer.log());
        let (endpoint, pid) = (peer.endpoint().to_owned(), pid(peer.dir()));
        drop(peer);
        assert!(wait_until_dead(pid, SOON));
        assert!(connect(&endpoint).is_err());
    }

    #[test]
    fn casd_answers_and_is_gone_with_its_handle() {
        speaks_http2_and_ends(PeerKind::Casd);
    }

    #[test]
    fn buildgrid_answers_and_is_gone_with_its_handle() {
        speaks_http2_and_ends(PeerKind::BuildGrid);
    }

    #[test]
    fn nginx_stores_what_is_put() {
        let Ok(peer) = Peer::start(PeerKind::Nginx) else { return };
        let get = || http(peer.endpoint(), "GET /ac/ab12", "");
        assert!(get().starts_with("HTTP/1.1 404 "), "{}", get());
        let put = http(peer.endpoint(), "PUT /ac/ab12", "result");
        assert!(put.starts_with("HTTP/1.1 201 "), "{put}");
        assert!(get().starts_with("HTTP/1.1 200 ") && get().ends_with("\r\n\r\nresult"), "{}", get());
    }

    #[test]
    fn two_servers_of_one_kind_do_not_meet() {
        let (Ok(one), Ok(two)) = (Peer::start(PeerKind::Nginx), Peer::start(PeerKind::Nginx)) else { return };
        http(one.endpoint(), "PUT /cas/ab12", "blob");
        assert!(http(two.endpoint(), "GET /cas/ab12", "").starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn a_server_does_not_outlive_its_owner() {
        let Ok(peer) = Peer::start(PeerKind::Nginx) else { return };
        let mut owner = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().expect("cat starts");
        let dir = tempfile::tempdir().expect("temporary directory");
        let owned = [("PEERS_OWNER", owner.id().to_string())];
        launch(peer.kind, dir.path(), &owned.each_ref().map(|(name, pid)| (*name, pid.as_str()))).expect("starts");
        let server = pid(dir.path());
        kill(owner.id().cast_signed(), Signal::SIGKILL);
        owner.wait().expect("waits");
        assert!(wait_until_dead(server, SOON));
        assert!(!wait_until_dead(pid(peer.dir()), std::time::Duration::ZERO));
    }

    #[test]
    fn what_is_not_installed_is_said_with_what_to_do() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let nowhere = dir.path().join("none").display().to_string();
        let why = launch(PeerKind::BuildGrid, dir.path(), &[("MINIBUILD_PEERS_DIR", &nowhere)]).expect_err("no server");
        assert!(why.contains("BuildGrid is not installed") && why.contains("scripts/peers install"), "{why}");
    }
}

//! A `minibuild serve` in a directory of its own, what it cost so far, and connections to it.
//!
//! It does not know what is measured.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use tonic::transport::{Channel, Endpoint};

/// Killed when dropped.
pub struct Server {
    child: Child,
    address: String,
    /// Its store, and room for who measures.
    pub dir: tempfile::TempDir,
}

/// What a server and its helpers have cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Seconds of processor time of the server itself.
    pub server: f64,
    /// Seconds of processor time of its helpers, without what they ran.
    pub helpers: f64,
    /// Helper processes.
    pub processes: usize,
    /// KiB the server had in memory at most.
    pub peak_kib: u64,
    /// KiB the helpers have in memory, what they share counted once.
    pub helpers_kib: u64,
}

impl Server {
    pub fn start(program: &str, workers: u64) -> Self {
        let dir = tempfile::tempdir();
        let dir = dir.expect("a directory");
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--workers", &workers.to_string(), "--dir"]);
        command.arg(dir.path().join("server")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("says where");
        let address = line.trim_end().strip_prefix("listening on grpc://").expect("an address").to_owned();
        Self { child, address, dir }
    }

    pub async fn connect(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        let endpoint = endpoint
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(1 << 20);
        endpoint.connect().await.expect("connects")
    }

    pub fn cost(&self) -> Cost {
        let own = self.child.id();
        let helpers = children_of(own);
        Cost {
            server: seconds(own),
            helpers: helpers.iter().map(|pid| seconds(*pid)).sum(),
            processes: helpers.len(),
            peak_kib: kib(&format!("/proc/{own}/status"), "VmHWM:"),
            helpers_kib: helpers.iter().map(|pid| kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// Processor time of all threads; finer than the ticks of `stat`.
fn seconds(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    times.filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

fn kib(path: &str, field: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

//! The server of a course: a process of its own that misbehaves, is killed, and forgets.

use std::fs;
use std::path::PathBuf;

use minibuild_testkit::{Random, Running, Signal, Workspace, free_port};

/// What the faults of a server excuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultExcuses {
    /// Calls fail or break: an action that only the server may run can end the build with 34.
    pub may_break: bool,
    /// Blobs are lost without end: such a build may end with 39.
    pub may_lose: bool,
}

/// A file for `minibuild serve --inject`.
#[derive(Clone, Debug, Default)]
pub struct FaultProfile {
    pub text: String,
    pub excuses: FaultExcuses,
    /// Some fault loses blobs, for a while or without end.
    loses: bool,
}

const CALLS: &[&str] = &[
    "GetActionResult",
    "Execute",
    "FindMissingBlobs",
    "BatchUpdateBlobs",
    "BatchReadBlobs",
    "Read",
    "Write",
    "UpdateActionResult",
];
const READS: &[&str] = &["BatchReadBlobs", "Read"];
const CODES: &[&str] = &["UNAVAILABLE", "INTERNAL", "ABORTED", "UNKNOWN", "RESOURCE_EXHAUSTED"];

impl FaultProfile {
    pub fn random(random: &mut Random) -> Self {
        let mut profile = Self::default();
        if random.below(5) == 0 {
            return profile;
        }
        profile.text = format!("seed = {}\n", random.below(1_000_000));
        if random.below(3) == 0 {
            profile.text.push_str("[server]\nbatch_limit = 2048\n");
        }
        for _ in 0..random.below(3) + 1 {
            profile.add(random);
        }
        profile
    }

    fn add(&mut self, random: &mut Random) {
        let call = CALLS[random.below(CALLS.len())];
        let read = READS[random.below(READS.len())];
        let code = CODES[random.below(CODES.len())];
        let is_endless = random.below(3) == 0;
        let often = if is_endless {
            format!("probability = 0.{:02}\n", [5, 20, 50][random.below(3)])
        } else {
            format!("probability = 0.5\ntimes = {}\n", random.below(3) + 1)
        };
        let latency = format!("ms = {}\njitter_ms = {}\n", [5, 30, 120, 290][random.below(4)], random.below(40));
        let (kind, more, excuses) = match random.below(13) {
            0..=2 => ("latency", format!("method = {call:?}\n{latency}"), FaultExcuses::default()),
            3 => ("latency", format!("method = \"GetActionResult\"\n{latency}"), FaultExcuses::default()),
            4 => ("slow", format!("ms = {}\n{often}", random.below(200)), FaultExcuses::default()),
            5 => ("lost", format!("once = true\n{often}"), lossy(is_endless)),
            6 => ("lost", format!("method = \"Execute\"\n{often}"), lossy(is_endless)),
            7 => ("evict", format!("method = {call:?}\n{often}"), lossy(is_endless)),
            8 => ("corrupt", format!("method = {read:?}\n{often}"), FaultExcuses { may_break: true, may_lose: true }),
            9 => ("break", format!("method = {read:?}\nbytes = {}\n{often}", random.below(2000)), breaking()),
            10 => ("forget", often, breaking()),
            11 => ("fail", format!("code = {code:?}\n{often}"), breaking()),
            _ => ("error", format!("method = {call:?}\ncode = {code:?}\nretry_ms = 5\n{often}"), breaking()),
        };
        self.text.push_str(&format!("[[fault]]\nkind = {kind:?}\n{more}"));
        self.excuses = self.excuses.and(excuses);
        let loses = ["lost", "evict"].contains(&kind);
        // What one fault does ends before a build gives up; two of them may go on for longer.
        self.excuses = self.excuses.and(lossy(loses && self.loses));
        self.loses |= loses;
    }
}

fn lossy(is_endless: bool) -> FaultExcuses {
    FaultExcuses { may_break: is_endless, may_lose: is_endless }
}

fn breaking() -> FaultExcuses {
    FaultExcuses { may_break: true, may_lose: false }
}

impl FaultExcuses {
    pub fn and(self, other: Self) -> Self {
        Self { may_break: self.may_break || other.may_break, may_lose: self.may_lose || other.may_lose }
    }
}

/// `minibuild serve` with a store that outlives it.
pub struct FaultyServer<'a> {
    place: &'a Workspace,
    running: Option<Running>,
    pub address: String,
    profile: FaultProfile,
}

impl<'a> FaultyServer<'a> {
    /// Starts a server whose files lie beside `place`.
    pub fn start(place: &'a Workspace) -> Self {
        let mut server =
            Self { place, running: None, address: free_port().to_string(), profile: FaultProfile::default() };
        server.resume();
        server
    }

    pub fn store(&self) -> PathBuf {
        self.place.outside().join("store")
    }

    pub fn excuses(&self) -> FaultExcuses {
        self.profile.excuses
    }

    /// Ends the server, in one of the ways in which servers end.
    pub fn stop(&mut self, is_killed: bool) {
        let Some(running) = self.running.take() else { return };
        if is_killed {
            running.kill();
        } else {
            running.signal(Signal::SIGTERM);
            running.wait();
        }
    }

    /// Takes other faults, which strike once the server is resumed.
    pub fn set_profile(&mut self, profile: FaultProfile) {
        self.profile = profile;
    }

    /// Starts the server again, at the address it had.
    pub fn resume(&mut self) {
        let faults = self.place.outside().join("faults.toml");
        fs::write(&faults, &self.profile.text).expect("writes a file");
        let dir = self.store().display().to_string();
        let faults = faults.display().to_string();
        let words = ["serve", "--listen", &self.address, "--dir", &dir, "--workers", "2", "--inject", &faults];
        let mut running = self.place.invoke(&words).start();
        let line = running.wait_for_stdout("listening on grpc://");
        let address = line.lines().find_map(|line| line.strip_prefix("listening on grpc://"));
        self.address = address.expect("it says its address").trim().to_owned();
        self.running = Some(running);
    }
}

//! Connections that are cut all the time: the build goes on, and nothing is done twice.

use std::net::SocketAddr;

use minibuild_server::Listen;
use minibuild_testkit::{Fate, Proxy, Random, Workspace, difference};

use super::Remote;
use crate::{genrule, with_targets};

const ACTIONS: usize = 60;
const LARGEST: usize = 2 << 20;
const CUTS: usize = 60;

/// Files of 1 B to 2 MB, each made of a source of its own and of the one made three before.
fn sixty() -> Workspace {
    let mut random = Random::new(7);
    let mut targets = String::new();
    let mut ws = with_targets("");
    for i in 0..ACTIONS {
        let size = LARGEST >> random.below(22);
        let before = i.checked_sub(3).map(|before| format!(":a{before}"));
        let source = format!("s{i}.txt");
        let srcs: Vec<&str> = [Some(source.as_str()), before.as_deref()].into_iter().flatten().collect();
        // Content that does not compress to nothing, and is the same everywhere.
        let cmd =
            format!("cat $SRCS | cksum | (read -r sum rest; seq $sum 1000003 9999999999 | head -c {size} > $OUT)");
        targets.push_str(&genrule(&format!("a{i}"), &srcs, &[&format!("{i}.out")], &cmd));
        ws = ws.file(&source, noise(&mut random, size.min(200_000)));
    }
    ws.write("BUILD.toml", targets);
    ws
}

fn noise(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&random.number().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A proxy to a server that cuts so many connections, each after a random number of bytes, alternately of either
/// direction.
fn cutting(remote: &Remote, seed: u64) -> Proxy {
    let Listen::Tcp(target) = &remote.listen else { panic!("the server listens on TCP") };
    let target: SocketAddr = *target;
    let proxy = Proxy::start(target);
    let mut random = Random::new(seed);
    let mut fate = |number: usize| {
        let bytes = random.below(300_000) as u64;
        if number.is_multiple_of(2) { Fate::CutAfter(bytes) } else { Fate::CutAfterSent(bytes) }
    };
    proxy.plan(&(0..CUTS).map(&mut fate).collect::<Vec<_>>());
    proxy
}

#[track_caller]
fn survives(seed: u64, retries: &[&str]) {
    let local = sixty();
    local.build(&["//..."]).ok();
    let remote = Remote::new();
    let proxy = cutting(&remote, seed);
    let ws = sixty();
    let executor = format!("--remote-executor=grpc://{}", proxy.address());
    let args = ["//...", &executor, "--strategy=remote", "--on-remote-failure=fail", "--download=all"];
    let run = ws.build(&[&args[..], retries].concat()).ok();
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
    let made = run.counts().remote + run.counts().remote_cache;
    assert_eq!((made, remote.ran()), (ACTIONS as u64, ACTIONS as u64), "what had finished runs again");
    assert!(proxy.accepted() > 50, "only {} connections were cut", proxy.accepted());
}

#[test]
fn sixty_cuts_in_sixty_actions() {
    survives(1, &["--remote-retries=20"]);
}

#[test]
fn with_the_retries_of_every_build() {
    survives(2, &[]);
}

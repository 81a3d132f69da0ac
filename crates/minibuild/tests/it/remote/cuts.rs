//! Connections that are cut all the time: the build goes on, and nothing is done twice.

use minibuild_server::Listen;
use minibuild_testkit::{Fate, Proxy, Random, Workspace, difference};

use super::Remote;
use crate::{genrule, with_targets};

const ACTIONS: usize = 60;
const LARGEST: usize = 2 << 20;
const CUTS: usize = 60;

/// Files of 1 B to 2 MB that do not compress, each made of a source of its own and of the one made three before.
fn sixty() -> Workspace {
    let mut random = Random::new(7);
    let mut targets = String::new();
    let mut ws = with_targets("");
    for i in 0..ACTIONS {
        let size = LARGEST >> random.below(22);
        let before = i.checked_sub(3).map(|before| format!(":a{before}"));
        let source = format!("s{i}.txt");
        let srcs: Vec<&str> = [Some(source.as_str()), before.as_deref()].into_iter().flatten().collect();
        let cmd = format!("(cat {source}; cat $SRCS | cksum) > $OUT");
        targets.push_str(&genrule(&format!("a{i}"), &srcs, &[&format!("{i}.out")], &cmd));
        ws = ws.file(&source, noise(&mut random, size));
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

/// A proxy to a server that cuts so many connections, each after a number of bytes between one and all of a large file.
fn cutting(remote: &Remote, seed: u64) -> Proxy {
    let Listen::Tcp(target) = remote.listen else { panic!("the server listens on TCP") };
    let proxy = Proxy::start(target);
    let mut random = Random::new(seed);
    let mut fate = |_| Fate::CutAfterBoth((LARGEST >> random.below(12)) as u64);
    proxy.plan(&(0..CUTS).map(&mut fate).collect::<Vec<_>>());
    proxy
}

/// A build through such a proxy. Gives how many commands the server ran, and how many were run here.
#[track_caller]
fn survives(seed: u64, flags: &[&str]) -> (u64, u64) {
    let local = sixty();
    local.build(&["//..."]).ok();
    let remote = Remote::new();
    let proxy = cutting(&remote, seed);
    let ws = sixty();
    let executor = format!("--remote-executor=grpc://{}", proxy.address());
    let run = ws.build(&[&["//...", &executor, "--strategy=remote", "--download=all"], flags].concat()).ok();
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
    assert!(proxy.accepted() > CUTS, "only {} connections were made", proxy.accepted());
    (remote.ran(), run.counts().local)
}

#[test]
fn sixty_cuts_in_sixty_actions() {
    let ran = survives(1, &["--remote-retries=20", "--on-remote-failure=fail"]);
    assert_eq!(ran, (ACTIONS as u64, 0), "nothing that had finished runs again");
}

#[test]
fn with_the_retries_of_every_build() {
    // What cannot be sent or brought back within five retries is made here; the server runs nothing twice.
    let (there, _) = survives(2, &[]);
    assert!(there <= ACTIONS as u64, "{there}");
}

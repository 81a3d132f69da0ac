//! Credential helpers that do not answer: the build goes on without the server, says so once, and can be interrupted.

use minibuild_testkit::{Gate, Signal, Workspace, write_program};

use super::Remote;
use crate::{genrule, with_targets};

/// A server that wants a header, and a workspace of four independent targets whose credential helper runs a script.
fn scene(script: impl FnOnce(&Gate) -> String) -> (Remote, Workspace, Gate) {
    let remote = Remote::with("[server]\nrequire = [\"authorization=me\"]\n");
    let targets: String = (0..4).map(|i| genrule(&format!("t{i}"), &[], &[&format!("o{i}")], "echo > $OUT")).collect();
    let ws = with_targets(&targets);
    let helper = ws.outside().join("helper");
    let gate = ws.gate("g");
    let script = format!("#!/bin/sh\necho >> '{}'\n{}\n", ws.outside().join("asked").display(), script(&gate));
    write_program(&helper, &script);
    ws.write("minibuild.toml", format!("[remote]\ncredential_helper = \"{}\"\n", helper.display()));
    (remote, ws, gate)
}

fn asked(ws: &Workspace) -> usize {
    std::fs::read_to_string(ws.outside().join("asked")).unwrap_or_default().lines().count()
}

#[test]
fn helper_that_never_answers_costs_one_wait_for_all_calls() {
    let flags: [fn(&Remote) -> Vec<String>; 3] = [
        |remote| vec![remote.executor(), "--strategy=remote".to_owned()],
        |remote| vec![remote.cache()],
        |remote| vec![remote.cache().replace("grpc://", "http://")],
    ];
    let start = |flags: fn(&Remote) -> Vec<String>| {
        let (remote, ws, gate) = scene(|gate| format!("trap '' TERM; {}", gate.pass()));
        let flags = flags(&remote);
        let build = ws.start_build(&flags.iter().map(String::as_str).chain(["//..."]).collect::<Vec<_>>());
        (remote, ws, gate, flags, build)
    };
    let builds: Vec<_> = flags.into_iter().map(start).collect();
    for (_remote, ws, mut gate, flags, build) in builds {
        gate.arrival();
        let run = build.wait().ok();
        assert_eq!((run.counts().local, asked(&ws)), (4, 1), "{}", run.stderr);
        let given_up = run.messages("warning");
        let is_told = |text: &&str| text.contains("gave no answer for 10 s); going on without it");
        assert_eq!(given_up.iter().filter(|text| is_told(text)).count(), 1, "{flags:?}: {given_up:?}");
        assert!(run.messages("info").iter().any(|text| text.starts_with("waiting for the credential helper `")));
        ws.nothing_is_left_running();
    }
}

#[test]
fn first_signal_ends_the_wait_for_a_helper() {
    for flag in ["--strategy=local", "--strategy=remote"] {
        let (remote, ws, mut gate) = scene(|gate| format!("trap '' TERM INT; {}", gate.pass()));
        let build = ws.start_build(&[&remote.executor(), flag, "//..."]);
        gate.arrival();
        build.signal(Signal::SIGINT);
        build.wait().code(8);
        ws.nothing_is_left_running();
    }
}

#[test]
fn helper_that_prints_without_end_takes_no_memory() {
    let (remote, ws, _gate) = scene(|_| "exec yes".to_owned());
    let invocation = ws.invoke(&["build", &remote.executor(), "//..."]).through(&["prlimit", "--as=4000000000"]);
    let run = invocation.run().ok().says(&["printed more than 256 KiB); going on without it"]);
    assert_eq!((run.counts().local, asked(&ws)), (4, 1), "{}", run.stderr);
}

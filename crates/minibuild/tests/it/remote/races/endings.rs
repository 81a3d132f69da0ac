//! Sides that hang, servers that go away, processes that live on.

use std::time::Duration;

use minibuild_testkit::{Signal, is_alive, kill, wait_until_dead};

use super::{Remote, branches, races, runners, sides};
use crate::{genrule, with_targets};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn d32_slow_remote_never_blocks() {
    let never = "[[fault]]\nkind = \"hang\"\nmethod = \"Execute\"\n";
    for policy in ["race", "adaptive"] {
        // A call that is not answered, and a command that does not end.
        for (faults, there) in [(never, "echo $OUT > $OUT"), ("", "sleep 1000")] {
            let (remote, ws) = (Remote::with(faults), with_targets(""));
            let mut held = ws.gate("held");
            let here = |n: usize| {
                format!("echo $OUT > $OUT{}", if n == 0 { format!("; {}", held.pass()) } else { String::new() })
            };
            let target = |n: usize| genrule(&format!("a{n}"), &[], &[&format!("a{n}")], &sides(&here(n), there));
            ws.write("BUILD.toml", (0..12).map(target).collect::<String>());
            let build = remote.start_race(&ws, &["//...", "--remote-jobs=1", &format!("--dynamic-policy={policy}")]);
            held.arrival();
            // Twelve short commands can be over before the cache has answered for one of them.
            build.wait_for_event("\"branch\":\"remote\"");
            held.open();
            let run = build.wait().ok();
            assert_eq!(run.counts().local, 12, "{policy}");
            assert!(branches(&run).contains(&("remote", "lost")), "{policy}: nothing was tried there");
            ws.nothing_is_left_running();
        }
    }
}

/// Text of a process that does what it can to live on, and goes on writing an output.
fn daemon(said: &str, output: &str) -> String {
    format!(
        "(setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > \"{said}\"; while :; do echo late >> {output}; done' \
         > /dev/null 2>&1 &)"
    )
}

#[test]
fn d39_background_child_of_a_local_winner() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there, mut late) = (ws.gate("here"), ws.gate("there"), ws.gate("late"));
    let said = ws.outside().join("gates/late.arrived").display().to_string();
    let command = sides(
        &format!("echo a > $OUT; {}; {}", daemon(&said, "minibuild-out/bin/a"), here.pass()),
        &format!("{}; echo b > $OUT", there.pass()),
    );
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &command));
    let build = remote.start_race(&ws, &["//..."]);
    let child = late.arrival();
    here.arrival();
    there.arrival();
    assert!(is_alive(child));
    here.open();
    let run = build.wait().ok();
    assert!(!is_alive(child), "it outlives its action");
    assert_eq!(races(&run), (1, 1, 0));
    let warnings = run.messages("warning");
    let expected = "processes of `//:a` outlived its command and were killed: ";
    assert!(
        matches!(&warnings[..], [text] if text.starts_with(expected) && text.contains(&child.to_string())),
        "{warnings:?}"
    );
    // What was hashed is what lies there.
    let size = ws.output("a").len() as u64;
    assert_eq!(run.outputs_of("//:a")[0].size, size, "it was read before everybody was dead");
    remote.race(&ws, &["//..."]).ok_without_running();
    assert_eq!(ws.output("a").len() as u64, size);
    remote.stop();
}

#[test]
fn d39_background_child_of_a_remote_winner() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there, mut late) = (ws.gate("here"), ws.gate("there"), ws.gate("late"));
    let said = ws.outside().join("gates/late.arrived").display().to_string();
    let command =
        sides(&here.pass(), &format!("echo a > $OUT; {}; {}", daemon(&said, "minibuild-out/bin/a"), there.pass()));
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &command));
    let build = remote.start_race(&ws, &["//..."]);
    let child = late.arrival();
    here.arrival();
    there.arrival();
    there.open();
    let run = build.wait().ok();
    assert_eq!(races(&run), (1, 0, 1));
    assert!(wait_until_dead(child, SOON), "it outlives its action");
    assert_eq!(run.outputs_of("//:a")[0].size, ws.output("a").len() as u64);
    remote.race(&ws, &["//..."]).ok_without_running();
}

#[test]
fn d40_survivor_of_kill_9() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let command = sides(
        &format!("echo half > $OUT; {}; echo late > $OUT", here.pass()),
        &format!("{}; echo there > $OUT", there.pass()),
    );
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &command));
    let build = remote.start_race(&ws, &["//..."]);
    let survivor = here.arrival();
    there.arrival();
    let helpers = build.helpers();
    // All at once: nobody is left to kill the command. The main process is stopped first, not to do a helper's work.
    build.signal(Signal::SIGSTOP);
    for &pid in &helpers {
        kill(pid, Signal::SIGKILL);
        assert!(wait_until_dead(pid, SOON));
    }
    build.kill();
    assert!(is_alive(survivor), "it survives");
    let mut next = remote.start_race(&ws, &["//..."]);
    next.wait_for_stderr("waiting for process");
    assert!(next.stderr_so_far().contains(&survivor.to_string()), "{survivor}: {}", next.stderr_so_far());
    // The remote result is there to be had, and must not be put where the survivor writes.
    there.open();
    next.wait_until("the server has the result", || remote.ran() > 0);
    assert_eq!((next.has_ended(), ws.output("a").as_str()), (false, "half\n"));
    here.open();
    assert!(wait_until_dead(survivor, SOON));
    let run = next.wait().ok();
    assert_eq!((runners(&run), ws.output("a").as_str()), (vec![("//:a", "remote_cache")], "there\n"));
    remote.race(&ws, &["//..."]).ok_without_running();
}

#[test]
fn d36_server_forgets_the_operation_mid_race() {
    // The stream breaks once the operation has a name, and by then nobody knows that name any more.
    let forgets = "[[fault]]\nkind = \"forget\"\ntimes = 1\n\
                   [[fault]]\nkind = \"break\"\nmethod = \"Execute\"\nbytes = 1\ntimes = 1\n";
    let (remote, ws) = (Remote::with(forgets), with_targets(""));
    let here = ws.gate("here");
    let command = sides(&format!("echo half > $OUT; {}", here.pass()), "echo there > $OUT");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &command));
    let run = remote.race(&ws, &["//..."]).ok();
    // It was waited for, found forgotten, looked up, and executed anew or found.
    assert!(remote.calls(&["WaitExecution"]) >= 1 && remote.calls(&["GetActionResult"]) >= 2);
    assert_eq!((races(&run), ws.output("a").as_str()), ((1, 0, 1), "there\n"));
}

#[test]
fn d37_server_dies_mid_race_and_comes_back() {
    const MANY: usize = 24;
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let target = |n: usize| genrule(&format!("a{n}"), &[":first"], &[&format!("a{n}")], "cat $SRC > $OUT");
    let held = sides(&format!("{}; echo a > $OUT", here.pass()), &there.pass());
    ws.write("BUILD.toml", genrule("first", &[], &["first"], &held) + &(0..MANY).map(target).collect::<String>());
    let flags = ["//...", "--remote-retries=0", "--remote-timeout=5s"];
    let build = remote.start_race(&ws, &flags);
    here.arrival();
    there.arrival();
    remote.stop();
    here.open();
    let run = build.wait().ok();
    assert_eq!(run.counts().local, MANY as u64 + 1);
    let told = run.messages("warning").into_iter().filter(|text| text.contains("going on without it")).count();
    assert_eq!(told, 1, "{:?}", run.messages("warning"));
    remote.restart("");
    ws.write("BUILD.toml", genrule("c", &[], &["c"], &sides("sleep 1000", "echo c > $OUT")));
    let run = remote.race(&ws, &flags).ok();
    assert_eq!((runners(&run), run.messages("warning")), (vec![("//:c", "remote")], vec![]));
}

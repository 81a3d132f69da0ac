//! Signals outside of the loop: nothing blocks a build so that none gets through, and the second one ends everything.

mod instants;

use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use minibuild_testkit::{Ending, Event, Invocation, Running, Signal, is_alive, wait_until_dead};

use nix::fcntl::{FcntlArg, fcntl};

use crate::{genrule, with_targets};

/// Prints more than a pipe and the buffers of the build take.
pub(crate) fn loud() -> String {
    let print = "head -c 4000000 /dev/zero | tr '\\0' x; : > $OUT";
    genrule("loud", &[], &["loud"], print) + &genrule("after", &[":loud"], &["after"], ": > $OUT")
}

/// A pipe as standard error, of which nothing is read as long as the reader is only held.
pub(crate) fn unread(invocation: Invocation<'_>) -> (Running, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (invocation.stderr(writer).start(), reader)
}

/// Waits until the pipe is full: its writer is in the middle of a write.
#[track_caller]
pub(crate) fn wait_until_full(build: &Running, reader: &PipeReader) {
    build.wait_until("the pipe is full", || is_full(reader));
}

fn is_full(reader: &PipeReader) -> bool {
    let capacity = fcntl(reader, FcntlArg::F_GETPIPE_SZ).expect("a pipe");
    let mut length = 0;
    // SAFETY: the pointer is to a number of the right type.
    let answer = unsafe { nix::libc::ioctl(reader.as_raw_fd(), nix::libc::FIONREAD, &raw mut length) };
    // A short write may have a page of its own.
    const PAGE: i32 = 4096;
    answer == 0 && length > capacity - PAGE
}

#[test]
fn first_signal_gets_through_while_nothing_reads_stderr() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let ws = with_targets(&loud());
        let (build, reader) = unread(ws.invoke(&["build", "//:after"]));
        wait_until_full(&build, &reader);
        build.signal(signal);
        let run = build.wait().code(8);
        assert!(matches!(run.events.last(), Some(Event::BuildFinished { .. })), "its events are complete");
        ws.nothing_is_left_running();
    }
}

#[test]
fn slow_reader_of_stderr_gets_everything() {
    let ws = with_targets(&loud());
    let (build, mut reader) = unread(ws.invoke(&["build", "//:after"]));
    wait_until_full(&build, &reader);
    let reading = std::thread::spawn(move || std::io::read_to_string(&mut reader).expect("UTF-8"));
    build.wait().ok();
    let text = reading.join().expect("no panic");
    assert_eq!(text.matches('x').count() / 4_000_000, 1, "{}", text.len());
    assert!(text.trim_end().ends_with("2 local."), "the summary comes last");
}

#[test]
fn reader_of_stderr_that_goes_away_is_an_interrupt() {
    let ws = with_targets(&loud());
    let (build, reader) = unread(ws.invoke(&["build", "//:after"]));
    wait_until_full(&build, &reader);
    drop(reader);
    build.wait().code(8);
    assert!(!ws.has_output("after"));
}

#[test]
fn first_signal_gets_through_while_nothing_reads_events_or_profile() {
    for flag in ["--events", "--profile"] {
        let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
        let fifo = ws.outside().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        let args = ["build", &format!("{flag}={}", fifo.display()), "//..."];
        let mut build = ws.invoke(&args).without_events().start();
        build.wait_for_stderr("1 local.");
        assert!(!build.has_ended(), "it waits for a reader");
        build.signal(Signal::SIGINT);
        build.wait().code(8);
    }
}

#[test]
fn events_reach_the_reader_of_a_fifo() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
    let fifo = ws.outside().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let events = format!("--events={}", fifo.display());
    let build = ws.invoke(&["build", &events, "//..."]).without_events().start();
    let text = std::fs::read_to_string(&fifo).expect("reads");
    build.wait().ok();
    assert!(text.lines().last().is_some_and(|line| line.contains("build_finished")), "{text}");
}

#[test]
fn first_signal_ends_the_capture_of_a_huge_output() {
    // A terabyte without a block on disk: to hash it takes an hour.
    let ws = with_targets(&genrule("huge", &[], &["huge"], "truncate -s 1T $OUT"));
    let build = ws.start_build(&["//..."]);
    build.wait_until("it is made", || std::fs::metadata(ws.bin("huge")).is_ok_and(|meta| meta.len() > 0));
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    ws.nothing_is_left_running();
}

#[test]
fn first_signal_ends_the_look_at_a_huge_source() {
    let ws = with_targets(&genrule("a", &["huge"], &["a"], ": > $OUT"));
    let huge = std::fs::File::create(ws.path("huge")).expect("a file");
    huge.set_len(1 << 40).expect("a sparse file");
    let build = ws.start_build(&["//..."]);
    let reads = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", build.pid())).into_iter().flatten().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|path| path == ws.path("huge"))
    };
    build.wait_until("it is read", reads);
    build.signal(Signal::SIGINT);
    build.wait().code(8);
}

#[test]
fn second_signal_kills_what_keeps_its_helper_stopped() {
    let ws = crate::workspace();
    let mut gate = ws.gate("g");
    let stop = "trap '' TERM INT HUP; while :; do kill -STOP $PPID; done &";
    let cmd = format!("trap '' TERM INT HUP; {stop} {}; : > $OUT", gate.pass());
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &cmd));
    // There is no time to complete the events.
    let build = ws.invoke(&["build", "//..."]).without_events().start();
    let command = gate.arrival();
    let helpers = build.helpers();
    build.signal(Signal::SIGINT);
    build.signal(Signal::SIGTERM);
    build.wait().code(8);
    for pid in helpers.into_iter().chain([command]) {
        assert!(wait_until_dead(pid, Duration::from_secs(60)));
    }
    ws.nothing_is_left_running();
}

/// Starts with `signals` ignored.
fn ignoring(signals: &str) -> [String; 3] {
    ["/bin/sh".to_owned(), "-c".to_owned(), format!("trap '' {signals}; exec \"$0\" \"$@\"")]
}

#[test]
fn signal_that_is_ignored_at_the_start_stays_ignored() {
    for (name, signal) in [("HUP", Signal::SIGHUP), ("INT", Signal::SIGINT)] {
        for command in ["build", "test", "run"] {
            let ws = crate::workspace();
            let mut gate = ws.gate("g");
            let program = format!("{}; echo '#!/bin/sh' > $OUT; chmod +x $OUT", gate.pass());
            let held = genrule("held", &[], &["held"], &program);
            ws.write("BUILD.toml", held + "[[test]]\nname = \"t\"\nexecutable = \":held\"\n");
            let through = ignoring(name);
            let through: Vec<&str> = through.iter().map(String::as_str).collect();
            let target = if command == "build" { "//:held" } else { "//:t" };
            let build = ws.invoke(&[command, target]).through(&through).start();
            gate.arrival();
            build.signal(signal);
            build.signal(signal);
            gate.open();
            build.wait().ok();
        }
    }
}

#[test]
fn nohup_keeps_a_server_serving() {
    let ws = crate::workspace();
    let dir = ws.outside().join("served");
    let args = ["serve", "--listen=127.0.0.1:0", "--dir", dir.to_str().expect("UTF-8")];
    let through = ignoring("HUP");
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    let mut server = ws.invoke(&args).through(&through).start();
    server.wait_for_stdout("listening on");
    server.signal(Signal::SIGHUP);
    assert!(!wait_until_dead(server.pid(), Duration::from_millis(300)));
    server.signal(Signal::SIGTERM);
    server.wait().ok();
}

#[test]
fn answer_that_nothing_reads_does_not_keep_a_signal_from_query() {
    let targets: String =
        (0..3000).map(|i| genrule(&format!("target_with_a_name_{i}"), &[], &[&format!("o{i}")], ": > $OUT")).collect();
    let ws = with_targets(&targets);
    let (reader, writer): (PipeReader, PipeWriter) = std::io::pipe().expect("a pipe");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_minibuild"));
    command.env("HOME", ws.home()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME");
    let mut query = command.args(["query", "//..."]).current_dir(ws.root()).stdout(writer).spawn().expect("starts");
    drop(command);
    let pid = query.id().cast_signed();
    while !is_full(&reader) {
        assert!(!wait_until_dead(pid, Duration::from_millis(5)), "it prints more than the pipe takes");
    }
    minibuild_testkit::kill(pid, Signal::SIGINT);
    let status = query.wait().expect("ours");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::SIGINT as i32));
    assert!(!is_alive(pid));
}

#[test]
fn absurd_numbers_of_jobs_are_bad_input() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
    for jobs in ["10001", "65538", "4294967295"] {
        for flag in ["-j", "--remote-jobs"] {
            ws.build(&[flag, jobs, "//..."]).code(2).says(&["10000 at most"]);
        }
        ws.invoke(&["build", "//..."]).env("MINIBUILD_JOBS", jobs).run().code(2).says(&["10000 at most"]);
    }
    let args = ["serve", "--workers=65538", "--listen=127.0.0.1:0", "--dir=served"];
    ws.run(&args).code(2).says(&["10000 at most"]);
    ws.build(&["-j10000", "//..."]).ok();
}

#[test]
fn lack_of_threads_and_processes_is_an_error_and_no_panic() {
    // A user of its own: the limit counts all processes of one.
    const USER: u32 = 60_321;
    let targets = ["a", "b", "c"].map(|name| genrule(name, &[], &[name], "echo > $OUT")).concat();
    let ws = with_targets(&targets);
    for package in ["p", "q"] {
        ws.write(&format!("{package}/BUILD.toml"), &targets);
    }
    if !nix::unistd::geteuid().is_root() || !ws.become_user(USER) {
        return;
    }
    for flags in [&[][..], &["--remote-executor=embedded", "--strategy=remote"]] {
        for limit in [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20] {
            let through = ["prlimit", &format!("--nproc={limit}"), "--"];
            let args = [&["build", "//..."], flags].concat();
            let run = ws.invoke(&args).without_events().through(&through).run();
            let is_told = matches!(run.ending, Ending::Exited(0 | 1 | 34 | 37));
            assert!(is_told && !run.stderr.contains("panicked"), "{flags:?} {limit}: {:?}\n{}", run.ending, run.stderr);
            ws.run(&["clean", "--all"]).ok();
        }
    }
}

//! `minibuild run`.

use minibuild_testkit::{Ending, Signal, Workspace};

use crate::{genrule, workspace};

const RULES: &str = r#"
    [rule.script]
    doc = "A shell script made from a file."
    outputs = ["{make.bin}"]
    run = { executable = "{make.bin}", runfiles = ["{data}"] }
    [rule.script.attrs]
    src = { type = "file", required = true, doc = "Its text." }
    data = { type = "files", doc = "What it reads." }
    [rule.script.action.make]
    outs = { bin = "{name}.bin" }
    args = ["{src}", "{out.bin}"]
    cmd = 'cp "$1" "$2"; chmod +x "$2"'
"#;

/// A workspace with the program `//tools:prog`.
pub fn program(text: &str, rest: &str) -> Workspace {
    workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"script.toml\"]\n")
        .file("script.toml", RULES)
        .file("tools/BUILD.toml", format!("[[script]]\nname = \"prog\"\nsrc = \"prog.sh\"\n{rest}"))
        .file("tools/prog.sh", format!("#!/bin/sh\n{text}\n"))
}

#[test]
fn arguments_directory_environment_and_exit_code_are_the_programs_own() {
    let ws =
        program("printf '<%s>' \"$@\"; echo; pwd; echo \"$MINIBUILD_WORKSPACE\"; env | grep -c ^MINE=; exit 42", "");
    let run = ws.invoke(&["run", "//tools:prog", "--", "a b", "-x", "--", "$HOME"]).dir("tools").env("MINE", "1").run();
    assert_eq!(run.ending, Ending::Exited(42), "{}", run.stderr);
    assert_eq!(run.stdout, "<a b><-x><--><$HOME>\n[ws]/tools\n[ws]\n1\n");
}

#[test]
fn arguments_and_environment_of_the_target_come_first() {
    let ws = program(
        "printf '<%s>' \"$MODE\" \"$@\"",
        "args = [\"one\", \"$(location prog.sh)\"]\nenv = { MODE = \"x\" }\n",
    );
    let run = ws.run(&["run", "//tools:prog", "--", "two"]).ok();
    assert_eq!(run.stdout, "<x><one><tools/prog.sh><two>");
}

#[test]
fn a_signal_that_ends_the_program_is_the_ending() {
    let ws = program("kill -TERM $$", "");
    assert_eq!(
        ws.invoke(&["run", "//tools:prog"]).without_events().run().ending,
        Ending::Signalled(Signal::SIGTERM as i32)
    );
}

#[test]
fn its_runtime_files_are_made_even_when_nothing_is_wanted_on_disk() {
    let rest = "data = [\":made\"]\n".to_owned() + &genrule("made", &[], &["made.txt"], "echo data > $OUT");
    let ws = program("cat minibuild-out/bin/tools/made.txt", &rest);
    let run = ws.run(&["run", "--download=minimal", "//tools:prog"]).ok();
    assert_eq!(run.stdout, "data\n");
    std::fs::remove_dir_all(ws.bin("")).expect("removes");
    let run = ws.run(&["run", "--download=minimal", "//tools:prog"]).ok();
    assert_eq!(run.stdout, "data\n");
}

#[test]
fn the_lock_is_released_while_the_program_runs() {
    let ws = program("", &genrule("other", &[], &["other"], ": > $OUT"));
    let mut gate = ws.gate("program");
    ws.write("tools/prog.sh", format!("#!/bin/sh\n{}\nexit 5\n", gate.pass()));
    let program = ws.invoke(&["run", "//tools:prog"]).without_events().start();
    assert_eq!(gate.arrival(), program.pid(), "minibuild becomes the program");
    ws.build(&["//tools:other"]).ok().says_nothing_of("waiting for");
    gate.open();
    program.wait().code(5);
}

#[test]
fn events_end_before_the_program_starts() {
    let ws = program("exit 9", "");
    let events = ws.outside().join("events");
    let flag = format!("--events={}", events.display());
    ws.invoke(&["run", &flag, "//tools:prog"]).without_events().run().code(9);
    let text = std::fs::read_to_string(&events).expect("it was written");
    let last = text.lines().last().expect("it has lines");
    assert!(last.contains("\"event\":\"build_finished\"") && last.contains("\"exit_code\":0"), "{last}");
}

#[test]
fn a_program_that_fails_to_build_is_not_run() {
    let ws = program("echo ran", "");
    ws.write("script.toml", RULES.replace("cp \"$1\"", "exit 3; cp \"$1\""));
    let run = ws.run(&["run", "//tools:prog"]).code(1).says(&["//tools:prog (make) failed: exit code 3"]);
    assert_eq!(run.stdout, "");
}

#[test]
fn only_one_runnable_target_can_be_run() {
    let ws = program("", &(genrule("made", &[], &["made.txt"], ": > $OUT")));
    ws.run(&["run", "//tools:made"])
        .code(2)
        .says(&["`//tools:made` is a `genrule`, which cannot be run"])
        .started_only(&[]);
    ws.run(&["run", "//..."]).code(2).says(&["`run` takes one target"]).started_only(&[]);
    ws.run(&["run", "//tools:nothing"]).code(2);
    ws.run(&["run"]).code(2);
}

#[test]
fn an_alias_of_a_program_is_run() {
    let ws = program("echo it", "\n[[alias]]\nname = \"also\"\nactual = \":prog\"\n");
    assert_eq!(ws.run(&["run", "//tools:also"]).ok().stdout, "it\n");
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    let ws = program("", "");
    ws.write("tools/prog.sh", "#!/no/such/interpreter\n");
    ws.invoke(&["run", "//tools:prog"]).without_events().run().code(1).says(&["cannot run `", "tools/prog.bin`"]);
}

#[test]
fn what_the_kernel_cannot_run_is_said_as_in_a_test() {
    let target = "[[test]]\nname = \"t\"\nexecutable = \"r\"\n";
    // For a machine that nobody has.
    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(64, 0);
    foreign[18] = 0xfe;
    for (content, why) in [
        (&b""[..], "it is no program of this machine (exec format error)"),
        (&foreign, "it is no program of this machine (exec format error)"),
        (b"echo ran\n", "it is no program of this machine (exec format error)"),
        (b"#!/no/such/interpreter\n", "the interpreter its first line names does not exist"),
    ] {
        let ws = workspace().file("BUILD.toml", target);
        std::fs::write(ws.path("r"), content).expect("writes");
        std::fs::set_permissions(ws.path("r"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let run = ws.run(&["run", "//:t"]).code(1).says(&["ERROR: cannot run `", why]);
        assert_eq!(run.stdout, "");
        ws.test(&["//:t"]).code(3).says(&[why]);
    }
}

#[test]
fn a_program_dies_of_a_closed_pipe_as_any_other() {
    let ws = program("kill -PIPE $$; echo lives", "");
    let run = ws.invoke(&["run", "//tools:prog"]).without_events().run();
    assert_eq!(run.ending, Ending::Signalled(Signal::SIGPIPE as i32));
}

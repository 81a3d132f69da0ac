//! Running actions.

use std::time::{Duration, Instant};

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::{self, Limits, digest, digest_message};
use minibuild_reapi::proto::longrunning::{CancelOperationRequest, GetOperationRequest, Operation};
use minibuild_reapi::proto::{execution as proto, read, rpc};
use minibuild_reapi::status::missing_blobs_of;
use minibuild_reapi::{ActionMessage, CommandMessage, InputNode, input_root};
use tonic::{Code, Streaming};

use crate::harness::{F, Fixture, Task, is_alive, response, server, stage, with_faults};

/// The result of a run that is no infrastructure error.
fn result(response: proto::ExecuteResponse) -> proto::ActionResult {
    assert_eq!(response.status, Some(rpc::Status::default()));
    response.result.expect("a result")
}

fn content(server: &Fixture, message: Option<&proto::Digest>) -> String {
    let digest = digest(message.expect("a digest"), F).expect("valid");
    String::from_utf8(server.get(&digest)).expect("text")
}

#[test]
fn an_action_reads_its_inputs_and_its_outputs_come_back() {
    let server = server();
    let mut task =
        Task::new("cat in/x > out/y; chmod +x out/y; echo says; echo complains >&2").input("in/x", "content");
    task.files = vec!["out/y", "out/never"];
    let got = result(server.run(&task));
    assert_eq!((got.exit_code, &*got.stdout_raw, &*got.stderr_raw), (0, &b"says\n"[..], &b"complains\n"[..]));
    assert_eq!(content(&server, got.stdout_digest.as_ref()), "says\n");
    assert_eq!(got.output_files.len(), 1, "what is not there is not named");
    let file = &got.output_files[0];
    assert_eq!((&*file.path, file.is_executable), ("out/y", true));
    assert_eq!(content(&server, file.digest.as_ref()), "content");
    let times = got.execution_metadata.as_ref().expect("metadata");
    assert!(times.worker.starts_with("minibuild-"));
    let order = [
        &times.queued_timestamp,
        &times.worker_start_timestamp,
        &times.input_fetch_start_timestamp,
        &times.input_fetch_completed_timestamp,
        &times.execution_start_timestamp,
        &times.execution_completed_timestamp,
        &times.output_upload_start_timestamp,
        &times.output_upload_completed_timestamp,
        &times.worker_completed_timestamp,
    ];
    let order: Vec<(i64, i32)> = order.iter().map(|t| t.as_ref().map_or((0, 0), |t| (t.seconds, t.nanos))).collect();
    assert!(order.is_sorted() && order[0].0 > 0, "{order:?}");
    let again = server.run(&task);
    assert!(again.cached_result);
    assert_eq!(again.result, Some(got));
    assert_eq!(server.server().counters().actions.run, 1);
}

#[test]
fn nothing_but_the_declared_is_there() {
    let server = server();
    let task = Task::new("find . -mindepth 1 | sort; /usr/bin/env | grep -v '^PWD=\\|^SHLVL=\\|^_=' | sort");
    let mut task = task.input("a/b/c", "1").input("run.sh", "2");
    task.inputs.insert("x".into(), ("3".into(), true));
    task.inputs.insert("same".into(), ("3".into(), false));
    task.inputs.insert("empty".into(), (String::new(), false));
    task.links = vec![("l".into(), "a/b".into()), ("dangling".into(), "/no/where".into())];
    task.files = vec!["deep/er/out"];
    task.env.push(("VAR", "a b"));
    let got = result(server.run(&task));
    let expected = "./a\n./a/b\n./a/b/c\n./dangling\n./deep\n./deep/er\n./empty\n./l\n./run.sh\n./same\n./x\n\
                    PATH=/usr/bin:/bin\nVAR=a b\n";
    assert_eq!(String::from_utf8_lossy(&got.stdout_raw), expected);
    let modes = Task { script: "stat -c '%A %n' x same empty".into(), ..task };
    let got = result(server.run(&modes));
    let expected = "-r-xr-xr-x x\n-r--r--r-- same\n-r--r--r-- empty\n";
    assert_eq!(String::from_utf8_lossy(&got.stdout_raw), expected);
    assert!(!server.dir.path().join("server/work/0/root").exists(), "nothing stays");
}

#[test]
#[expect(deprecated, reason = "clients of version 2.0 know the old fields only")]
fn outputs_of_all_kinds() {
    let server = server();
    let script = "mkdir -p d/sub d/empty; echo 1 > d/f; echo 2 > d/sub/g; chmod +x d/sub/g; ln -s f d/link; \
                  ln -s d/f to-file; ln -s d to-dir; ln -s nowhere dangling; echo 3 > file";
    let mut task = Task::new(script);
    task.files = vec!["file", "to-file", "to-dir", "dangling", "d/f"];
    task.directories = vec!["d", "d/sub"];
    let check_tree = |path: &str, got: &proto::ActionResult, expected: &[&str]| {
        let directory = got.output_directories.iter().find(|d| d.path == path).expect(path);
        let tree = digest(directory.tree_digest.as_ref().expect("a tree"), F).expect("valid");
        let tree = decode::tree(&server.get(&tree), F, Limits::default()).expect("a tree");
        let shown: Vec<String> = tree.entries.iter().map(|entry| format!("{} {:?}", entry.path, entry.node)).collect();
        let shown: Vec<String> =
            shown.iter().map(|text| text.split(", executable").collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(shown.len(), expected.len(), "{shown:?}");
        for (got, part) in shown.iter().zip(expected) {
            assert!(got.starts_with(part), "{got} is not {part}");
        }
    };
    let got = result(server.run(&task));
    check_tree("d", &got, &["empty EmptyDirectory", "f File", "link Symlink", "sub/g File"]);
    check_tree("d/sub", &got, &["g File"]);
    let files: Vec<&str> = got.output_files.iter().map(|file| &*file.path).collect();
    assert_eq!(files, ["d/f", "file"]);
    let paths =
        |links: &[proto::OutputSymlink]| links.iter().map(|l| format!("{}>{}", l.path, l.target)).collect::<Vec<_>>();
    assert_eq!(paths(&got.output_symlinks), ["dangling>nowhere", "to-dir>d", "to-file>d/f"]);
    assert_eq!(paths(&got.output_file_symlinks), ["dangling>nowhere", "to-file>d/f"]);
    assert_eq!(paths(&got.output_directory_symlinks), ["to-dir>d"]);
    // The same as a client of version 2.0 asks for it; a kind other than the declared is left out.
    task.edit = Some(|command| {
        command.output_paths.clear();
        command.output_files.push("d".into());
        command.output_directories = vec!["file".into(), "d/sub".into()];
        command.output_files.retain(|path| path != "file");
    });
    let old = result(server.run(&task));
    assert_eq!(old.output_files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["d/f"]);
    check_tree("d/sub", &old, &["g File"]);
    assert_eq!(old.output_directories.len(), 1);
}

#[test]
fn an_executable_stays_one_however_often_it_is_an_output() {
    let server = server();
    let mut task = Task::new("mkdir -p d; echo x > d/f; chmod +x d/f");
    task.files = vec!["d/f"];
    task.directories = vec!["d"];
    let got = result(server.run(&task));
    assert!(got.output_files[0].is_executable);
    let tree = digest(got.output_directories[0].tree_digest.as_ref().expect("a tree"), F).expect("valid");
    let tree = decode::tree(&server.get(&tree), F, Limits::default()).expect("a tree");
    assert!(matches!(tree.entries[0].node, minibuild_core::TreeNode::File { executable: true, .. }));
}

#[test]
fn directories_as_directory_messages() {
    let server = server();
    let mut task = Task::new("mkdir -p d/sub; echo 1 > d/sub/f");
    task.directories = vec!["d"];
    task.edit = Some(|command| command.output_directory_format = 2);
    let got = result(server.run(&task));
    let directory = &got.output_directories[0];
    assert!(directory.tree_digest.is_some(), "both were asked for");
    let root = digest(directory.root_directory_digest.as_ref().expect("a root"), F).expect("valid");
    let root = decode::directory(&server.get(&root), F).expect("a directory");
    let sub = decode::directory(&server.get(&root.directories[0].1), F).expect("a directory");
    assert_eq!(sub.files[0].name, "f");
    assert!(server.run(&task).cached_result);
}

#[test]
fn a_working_directory_is_where_paths_begin() {
    let server = server();
    let mut task =
        Task::new("pwd | sed 's/.*root//'; cat ../other; echo out > sub/out").input("wd/keep", "").input("other", "o");
    task.files = vec!["sub/out"];
    task.edit = Some(|command| command.working_directory = "wd".into());
    let got = result(server.run(&task));
    assert_eq!(String::from_utf8_lossy(&got.stdout_raw), "/wd\no");
    assert_eq!(got.output_files[0].path, "sub/out");
    task.edit = Some(|command| command.working_directory = "missing".into());
    let response = server.run(&task);
    let status = response.status.expect("an error");
    assert!(status.code == 3 && status.message.contains("`missing`"), "{status:?}");
}

#[test]
fn exit_codes_signals_and_programs_that_are_not_there() {
    let server = server();
    let check = |task: Task, code: i32, stderr: &str| {
        let got = result(server.run(&task));
        let text = String::from_utf8_lossy(&got.stderr_raw).into_owned();
        assert!(got.exit_code == code && text.contains(stderr), "{} {text}", got.exit_code);
        assert!(!server.run(&task).cached_result, "failures are not cached");
    };
    check(Task::new("echo no >&2; exit 3"), 3, "no\n");
    check(Task::new("kill -9 $$"), 137, "");
    check(Task::new("kill -TERM $$"), 143, "");
    check(Task { argv: vec!["no-such-program".into()], ..Task::new("") }, 127, "cannot find program `no-such-program`");
    check(Task { argv: vec!["./no/such".into()], ..Task::new("") }, 127, "no such file");
    check(Task { argv: vec!["./data".into()], ..Task::new("").input("data", "x") }, 126, "cannot run");
}

#[test]
fn long_logs_are_blobs_only() {
    let server = server();
    let got = result(server.run(&Task::new("yes | head -c 200000; echo short >&2")));
    assert!(got.stdout_raw.is_empty());
    assert_eq!(content(&server, got.stdout_digest.as_ref()).len(), 200_000);
    assert_eq!(got.stderr_raw, b"short\n");
}

#[test]
fn a_timeout_is_told_with_what_there_is() {
    let server = server();
    let mut task = Task::new("echo partial > out; echo so far; sleep 1000");
    task.files = vec!["out"];
    task.timeout = Some(Duration::from_millis(300));
    let started = Instant::now();
    let response = server.run(&task);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(response.status.expect("an error").code, 4);
    let result = response.result.expect("a partial result");
    assert_eq!((result.exit_code, &*result.stdout_raw, result.output_files.len()), (137, &b"so far\n"[..], 1));
    assert!(!server.run(&Task { timeout: Some(Duration::from_millis(301)), ..task }).cached_result);
}

#[test]
fn missing_blobs_are_named_each() {
    let server = server();
    let task = Task::new("true").input("a", "one").input("b/c", "two");
    let action = server.action(&task);
    let empty_server = self::server();
    let error = empty_server.try_execute(&action, false).expect_err("the action is missing");
    let details: rpc::Status = read("Status", error.details()).expect("details");
    assert_eq!((error.code(), missing_blobs_of(&details)), (Code::FailedPrecondition, vec![(F, action)]));
    // The action itself is here, its command is not.
    let command = F.digest(b"nowhere");
    let message = ActionMessage {
        command,
        input_root: F.empty(),
        timeout: None,
        do_not_cache: false,
        salt: b"",
        platform: vec![],
    };
    let action = server.put(&message.encode());
    let error = server.try_execute(&action, false).expect_err("the command is missing");
    let details: rpc::Status = read("Status", error.details()).expect("details");
    assert_eq!(missing_blobs_of(&details), [(F, command)]);
    // Inputs are found missing by the worker.
    let faults = format!(
        "[[fault]]\nkind = 'lost'\nonce = true\ndigest = '{}'\n[[fault]]\nkind = 'lost'\nonce = true\ndigest = '{}'",
        F.digest(b"one").hex(),
        F.digest(b"two").hex()
    );
    let server = with_faults(&faults);
    let status = server.run(&task).status.expect("an error");
    let mut missing: Vec<Digest> = missing_blobs_of(&status).into_iter().map(|(_, digest)| digest).collect();
    missing.sort();
    let mut expected = [F.digest(b"one"), F.digest(b"two")];
    expected.sort();
    assert_eq!((status.code, missing), (9, expected.to_vec()));
    assert_eq!(result(server.run(&task)).exit_code, 0, "uploaded again it runs");
}

#[test]
fn messages_that_are_none_are_refused() {
    let server = server();
    let action = server.put(b"\xff\xff\xff no action");
    assert_eq!(server.try_execute(&action, false).expect_err("refused").code(), Code::InvalidArgument);
    let bad_root = proto::Directory {
        files: vec![proto::FileNode {
            name: "../../escape".into(),
            digest: Some(digest_message(&server.put(b"x"))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let status = refusal(&server, server.put(&encoded(&bad_root)));
    assert!(status.code == 3 && status.message.contains("no name"), "{status:?}");
    assert!(!server.dir.path().join("server/escape").exists());
}

fn encoded(directory: &proto::Directory) -> Vec<u8> {
    minibuild_reapi::proto::Message::encode_to_vec(directory)
}

/// The error of an action with this input root.
fn refusal(server: &Fixture, input_root: Digest) -> rpc::Status {
    let command = CommandMessage { arguments: vec!["true"], environment: vec![("PATH", "/bin")], ..Default::default() };
    let message = ActionMessage {
        command: server.put(&command.encode()),
        input_root,
        timeout: None,
        do_not_cache: false,
        salt: b"",
        platform: vec![],
    };
    server.execute(&server.put(&message.encode()), false).status.expect("an error")
}

#[test]
fn an_input_root_with_paths_no_system_takes_is_refused_unlaid() {
    let server = server();
    let mut digest = F.empty();
    for _ in 0..17 {
        let node = proto::DirectoryNode { name: "n".repeat(255), digest: Some(digest_message(&digest)) };
        digest = server.put(&encoded(&proto::Directory { directories: vec![node], ..Default::default() }));
    }
    let status = refusal(&server, digest);
    assert!(status.code == 3 && status.message.contains("4095 bytes in a path"), "{status:?}");
}

#[test]
fn platforms_of_other_machines_are_refused() {
    let server = server();
    let run = |platform: Vec<(&'static str, &'static str)>| {
        let action = server.action(&Task { platform, ..Task::new("true") });
        server.try_execute(&action, false).map(drop).map_err(|e| e.code())
    };
    assert_eq!(run(vec![("OSFamily", "Linux"), ("container-image", "x")]), Ok(()));
    assert_eq!(run(vec![("OSFamily", "windows")]), Err(Code::FailedPrecondition));
    assert_eq!(run(vec![("ISA", "pdp-11")]), Err(Code::FailedPrecondition));
}

#[test]
fn what_may_not_be_cached_is_run_each_time() {
    let server = server();
    let task = Task { do_not_cache: true, ..Task::new("true") };
    assert!(!server.run(&task).cached_result && !server.run(&task).cached_result);
    let action = server.action(&Task::new("true"));
    assert!(!server.execute(&action, false).cached_result);
    assert!(!server.execute(&action, true).cached_result, "skip_cache_lookup");
    assert!(server.execute(&action, false).cached_result);
    assert_eq!(server.server().counters().actions.run, 4);
}

/// Begins an execution and reads up to the first operation that says EXECUTING.
fn begin(server: &Fixture, action: &Digest) -> (Streaming<Operation>, Operation) {
    let request = proto::ExecuteRequest { action_digest: Some(digest_message(action)), ..Default::default() };
    server.runtime.block_on(async {
        let mut stream = server.execution().execute(request).await.expect("begins").into_inner();
        loop {
            let operation = stream.message().await.expect("goes on").expect("not the end");
            if stage(&operation) == proto::execution_stage::Value::Executing as i32 {
                return (stream, operation);
            }
        }
    })
}

fn last(server: &Fixture, mut stream: Streaming<Operation>) -> Operation {
    server.runtime.block_on(async {
        let mut last = None;
        while let Some(operation) = stream.message().await.expect("goes on") {
            last = Some(operation);
        }
        last.expect("one at least")
    })
}

fn wait(server: &Fixture, name: &str) -> Result<Operation, Code> {
    let request = proto::WaitExecutionRequest { name: name.to_owned() };
    let stream = server.runtime.block_on(server.execution().wait_execution(request)).map_err(|e| e.code())?;
    Ok(last(server, stream.into_inner()))
}

fn cancel(server: &Fixture, name: &str) -> Result<(), Code> {
    let request = CancelOperationRequest { name: name.to_owned() };
    server.runtime.block_on(server.operations().cancel_operation(request)).map(drop).map_err(|e| e.code())
}

/// An action that says where it is, by a file outside its directory, and goes on when that file is removed.
fn gated(server: &Fixture, name: &str) -> (Digest, std::path::PathBuf) {
    let gate = server.dir.path().join(name);
    let script = format!("touch {0}; while [ -e {0} ]; do sleep 0.02; done; echo done", gate.display());
    (server.action(&Task::new(&script)), gate)
}

#[test]
fn a_dropped_stream_is_found_again() {
    let server = server();
    let (action, gate) = gated(&server, "gate");
    let (stream, operation) = begin(&server, &action);
    server.wait_for("the command", || gate.exists());
    drop(stream);
    let request = GetOperationRequest { name: operation.name.clone() };
    let seen = server.runtime.block_on(server.operations().get_operation(request)).expect("known").into_inner();
    assert!(!seen.done);
    std::fs::remove_file(&gate).expect("opened");
    let end = wait(&server, &operation.name).expect("known");
    assert_eq!(result(response(&end)).stdout_raw, b"done\n");
    assert!(wait(&server, &operation.name).expect("still known").done);
    assert_eq!(wait(&server, "operations/unknown"), Err(Code::NotFound));
    assert_eq!(server.server().counters().actions.run, 1);
}

#[test]
fn equal_actions_run_once() {
    let server = server();
    let (action, gate) = gated(&server, "gate");
    let (first, operation) = begin(&server, &action);
    let (second, other) = begin(&server, &action);
    assert_ne!(operation.name, other.name);
    server.wait_for("the command", || gate.exists());
    assert_eq!(cancel(&server, &operation.name), Ok(()));
    assert_eq!(response(&last(&server, first)).status.expect("an error").code, 1);
    assert!(gate.exists(), "the other one still waits for it");
    std::fs::remove_file(&gate).expect("opened");
    assert_eq!(result(response(&last(&server, second))).stdout_raw, b"done\n");
    let actions = server.server().counters().actions;
    assert_eq!((actions.run, actions.merged), (1, 1));
}

#[test]
fn a_cancelled_action_dies_at_once_with_all_it_started() {
    let server = server();
    let pids = server.dir.path().join("pids");
    let script =
        format!("setsid sleep 1000 & echo $! > {0}.tmp; echo $$ >> {0}.tmp; mv {0}.tmp {0}; wait", pids.display());
    let action = server.action(&Task::new(&script));
    let (stream, operation) = begin(&server, &action);
    server.wait_for("the command", || pids.exists());
    let running = std::fs::read_to_string(&pids).expect("written");
    assert!(running.lines().all(is_alive));
    assert_eq!(cancel(&server, &operation.name), Ok(()));
    assert_eq!(response(&last(&server, stream)).status.expect("an error").code, 1);
    server.wait_for("the end of all processes", || !running.lines().any(is_alive));
    assert_eq!(cancel(&server, "operations/unknown"), Err(Code::NotFound));
    let again = server.run(&Task::new("echo fine"));
    assert_eq!(result(again).stdout_raw, b"fine\n");
}

#[test]
fn descendants_are_dead_when_an_action_ends() {
    let server = server();
    let mut task = Task::new(
        "(setsid sh -c 'echo > begun; sleep 1000; echo late > out' & echo $!) > pid; \
         while [ ! -e begun ]; do sleep 0.01; done; echo early > out",
    );
    task.files = vec!["out", "pid"];
    let response = server.run(&task);
    assert!(response.message.contains("sleep 1000"), "{}", response.message);
    let got = result(response);
    assert_eq!(content(&server, got.output_files[0].digest.as_ref()), "early\n");
    let pid = content(&server, got.output_files[1].digest.as_ref());
    assert!(!is_alive(pid.trim()));
}

#[test]
fn an_action_that_changes_its_input_harms_nobody() {
    let server = server();
    let digest = F.digest(b"precious");
    // Tests run as root too, for whom read-only files are none.
    let task = Task::new("chmod u+w in; echo spoiled > in; cat in").input("in", "precious");
    let status = server.run(&task).status.expect("a status");
    assert_eq!(status.code, 14, "{status:?}");
    assert!(!server.has(&digest), "the blob is dropped, not served");
    let got = result(server.run(&task));
    assert_eq!(got.stdout_raw, b"spoiled\n", "on a copy it may");
    assert_eq!(server.get(&digest), b"precious");
    let reader = Task::new("cat in").input("in", "precious");
    assert_eq!(result(server.run(&reader)).stdout_raw, b"precious");
}

#[test]
fn inputs_in_use_do_not_go() {
    let server = Fixture::new(|config| config.size_limit = 100_000);
    let gate = server.dir.path().join("gate");
    let large = "x".repeat(60_000);
    let script = format!("touch {0}; while [ -e {0} ]; do sleep 0.02; done; wc -c < in", gate.display());
    let action = server.action(&Task::new(&script).input("in", &large));
    let (stream, _) = begin(&server, &action);
    server.wait_for("the command", || gate.exists());
    let other = vec![b'y'; 60_000];
    let error = server.put_as(F, &F.digest(&other), &other).expect_err("no room beside it");
    assert_eq!(error.0, Code::ResourceExhausted);
    assert!(server.has(&F.digest(large.as_bytes())));
    std::fs::remove_file(&gate).expect("opened");
    assert_eq!(result(response(&last(&server, stream))).stdout_raw, b"60000\n");
    server.wait_for("room", || server.put_as(F, &F.digest(&other), &other).is_ok());
}

#[test]
fn a_shutdown_kills_what_runs() {
    let mut server = server();
    let pids = server.dir.path().join("pids");
    let script = format!("echo $$ > {0}.tmp; mv {0}.tmp {0}; sleep 1000", pids.display());
    let action = server.action(&Task::new(&script));
    let (stream, _) = begin(&server, &action);
    server.wait_for("the command", || pids.exists());
    let pid = std::fs::read_to_string(&pids).expect("written");
    let started = Instant::now();
    server.shutdown();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!is_alive(pid.trim()));
    drop(stream);
}

#[test]
fn faults_of_actions() {
    let server = with_faults(
        "[[fault]]\nkind = 'slow'\ncommand = 'slowly'\nms = 200\n\
         [[fault]]\nkind = 'fail'\ncommand = 'badly'\nexit_code = 7\ntimes = 1\n\
         [[fault]]\nkind = 'fail'\ncommand = 'worse'\ncode = 'INTERNAL'\n\
         [[fault]]\nkind = 'forget'\nmethod = 'Execute'\nafter = 3\ntimes = 1\n\
         [[fault]]\nkind = 'break'\nmethod = 'Execute'\nbytes = 1\nafter = 4",
    );
    let started = Instant::now();
    assert_eq!(result(server.run(&Task::new("echo slowly"))).stdout_raw, b"slowly\n");
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(result(server.run(&Task::new("echo badly"))).exit_code, 7);
    assert_eq!(server.run(&Task::new("echo worse")).status.expect("an error").code, 13);
    let action = server.action(&Task::new("echo forgotten"));
    let operations = server.try_execute(&action, false).expect("begins");
    assert!(operations.iter().all(|operation| !operation.done), "the stream ends without an end");
    assert_eq!(wait(&server, &operations[0].name), Err(Code::NotFound));
    let action = server.action(&Task::new("echo broken"));
    assert_eq!(server.try_execute(&action, false).expect_err("broken").code(), Code::Unavailable);
}

#[test]
fn what_is_forgotten_has_no_end_even_if_it_was_over() {
    let server = with_faults("[[fault]]\nkind = 'forget'\nmethod = 'Execute'\nafter = 1\ntimes = 1");
    let task = Task::new("echo known");
    assert_eq!(result(server.run(&task)).exit_code, 0);
    // Its result is known by now: the operation is done from the beginning.
    let operations = server.try_execute(&server.action(&task), false).expect("begins");
    assert!(!operations.is_empty() && operations.iter().all(|operation| !operation.done));
    assert_eq!(wait(&server, &operations[0].name), Err(Code::NotFound));
    assert_eq!(result(server.run(&task)).exit_code, 0);
}

#[test]
fn the_other_digest_function_serves_all_the_way() {
    let server = server();
    let blake = DigestFunction::Blake3;
    let put = |bytes: &[u8]| {
        let digest = blake.digest(bytes);
        server.put_as(blake, &digest, bytes).expect("stored");
        digest
    };
    let mut nodes = vec![("in", InputNode::File { digest: put(b"content"), executable: false })];
    let root = input_root(&mut nodes, blake, &mut |_, bytes| {
        put(bytes);
    });
    let command = CommandMessage {
        arguments: vec!["/bin/cp", "in", "out"],
        environment: vec![("PATH", "/bin")],
        output_files: vec!["out"],
        ..Default::default()
    };
    let message = ActionMessage {
        command: put(&command.encode()),
        input_root: root.expect("a tree"),
        timeout: None,
        do_not_cache: false,
        salt: b"",
        platform: vec![],
    };
    let request = proto::ExecuteRequest {
        action_digest: Some(digest_message(&put(&message.encode()))),
        digest_function: decode::function_number(blake),
        ..Default::default()
    };
    let stream = server.runtime.block_on(server.execution().execute(request)).expect("begins").into_inner();
    let got = result(response(&last(&server, stream)));
    let output = digest(got.output_files[0].digest.as_ref().expect("a digest"), blake).expect("valid");
    assert_eq!(output, blake.digest(b"content"));
}

#[test]
fn many_at_once() {
    let server = Fixture::new(|config| config.workers = 8);
    let actions: Vec<Digest> = (0..60).map(|n| server.action(&Task::new(&format!("echo {n}")))).collect();
    let requests = actions.iter().map(|action| {
        let request = proto::ExecuteRequest { action_digest: Some(digest_message(action)), ..Default::default() };
        let mut client = server.execution();
        async move {
            let mut stream = client.execute(request).await.expect("begins").into_inner();
            let mut last = None;
            while let Some(operation) = stream.message().await.expect("goes on") {
                last = Some(operation);
            }
            last.expect("one at least")
        }
    });
    let ends = server.runtime.block_on(futures_util::future::join_all(requests));
    for (n, end) in ends.iter().enumerate() {
        assert_eq!(result(response(end)).stdout_raw, format!("{n}\n").into_bytes());
    }
}

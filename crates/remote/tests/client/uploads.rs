//! Storing results of local runs, by both protocols, and what comes back of them.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use minibuild_core::{
    ArtifactKind, Blob, BlobSource, CacheAnswer, Content, DeclaredOutput, FetchOutcome, UploadRequest, WsPath,
};
use minibuild_disk::{FsClock, OutTree};
use minibuild_testkit::{HttpAnswer, HttpRequest, serve_http};

use crate::harness::{Client, F, Fixture, Task, file_output, output, path, run_id};

/// A task whose outputs lie in the workspace as if it had been run here.
fn run_here(fixture: &Fixture, salt: &str) -> (Task, UploadRequest) {
    let task = Task::new("never run anywhere")
        .salt(salt)
        .output("minibuild-out/bin/file", ArtifactKind::File)
        .output("minibuild-out/bin/link", ArtifactKind::Symlink)
        .output("minibuild-out/bin/tree", ArtifactKind::Directory);
    fixture.write("minibuild-out/bin/file", "content");
    fixture.write("minibuild-out/bin/tree/sub/large", &"z".repeat(300_000));
    fixture.write("minibuild-out/bin/tree/small", "s");
    let bin = fixture.workspace().join("minibuild-out/bin");
    std::fs::create_dir_all(bin.join("tree/empty")).expect("makes");
    for (target, name) in [("nowhere", "link"), ("small", "tree/l")] {
        std::os::unix::fs::symlink(target, bin.join(name)).expect("links");
    }
    let request = upload_of(fixture, &task, &task.outputs);
    (task, request)
}

fn upload_of(fixture: &Fixture, task: &Task, outputs: &[DeclaredOutput]) -> UploadRequest {
    let tree = OutTree::open(&fixture.workspace()).expect("output tree");
    let clock = FsClock::open(&fixture.workspace().join("minibuild-out/.state")).expect("clock");
    let request = task.request();
    UploadRequest {
        run: run_id(),
        who: request.who,
        blobs: request.blobs,
        outputs: tree.capture(outputs, &clock).expect("as declared"),
        depfile: None,
        stdout: (*b"told\n").into(),
        stderr: [].into(),
        wall: Duration::from_millis(1500),
    }
}

fn http(fixture: &Fixture) -> Client {
    let url = fixture.http_address();
    fixture.client_with(|config| {
        config.executor = None;
        config.cache = Some(url);
    })
}

/// Uploads, finds the result, removes all outputs, and brings them back.
fn round_trip(fixture: &Fixture, client: &mut Client) {
    let (task, request) = run_here(fixture, "");
    let made = request.outputs.clone();
    assert!(matches!(client.look_up(&task), CacheAnswer::Miss));
    assert_eq!(client.upload(request), None);
    let CacheAnswer::Hit(report) = client.look_up(&task) else { panic!("was stored") };
    assert_eq!((&*report.stdout, &*report.stderr), (&b"told\n"[..], &b""[..]));
    assert_eq!(report.cost.wall, Duration::from_millis(1500));
    let metas = |outputs: &[minibuild_core::FoundOutput]| outputs.iter().map(|o| o.meta.clone()).collect::<Vec<_>>();
    assert_eq!(metas(&report.outputs), metas(&made));
    let bin = fixture.workspace().join("minibuild-out/bin");
    std::fs::remove_dir_all(&bin).expect("removes");
    for output in &report.outputs {
        let outcome = client.fetch(output);
        assert!(matches!(outcome, FetchOutcome::Done { .. }), "{outcome:?}");
    }
    assert_eq!(fixture.read("minibuild-out/bin/file"), "content");
    assert_eq!(fixture.read("minibuild-out/bin/tree/sub/large").len(), 300_000);
    assert_eq!(fixture.read("minibuild-out/bin/tree/l"), "s");
    assert!(bin.join("tree/empty").is_dir());
}

#[test]
fn a_result_goes_round_by_grpc() {
    let fixture = Fixture::new();
    round_trip(&fixture, &mut fixture.client());
}

#[test]
fn a_result_goes_round_by_http() {
    let fixture = Fixture::new();
    let mut client = http(&fixture);
    round_trip(&fixture, &mut client);
    let sent = client.remote().transfer_counts();
    assert!(sent.files >= 6 && sent.bytes > 300_000, "{sent:?}");
    assert_eq!(fixture.calls("GetActionResult") + fixture.calls("FindMissingBlobs"), 0);
    // All is known to be there.
    std::fs::remove_dir_all(fixture.workspace().join("minibuild-out/bin")).expect("removes");
    let (_, request) = run_here(&fixture, "");
    assert_eq!(client.upload(request), None);
    assert_eq!(client.remote().transfer_counts(), sent);
    assert_eq!(client.messages(), Vec::<String>::new());
}

#[test]
fn what_one_protocol_stored_the_other_finds() {
    let fixture = Fixture::new();
    let (task, request) = run_here(&fixture, "");
    assert_eq!(http(&fixture).upload(request), None);
    assert!(matches!(fixture.client().look_up(&task), CacheAnswer::Hit(_)));
}

#[test]
fn depfiles_are_part_of_the_result() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let (mut task, mut request) = run_here(&fixture, "");
    task.depfile = Some("minibuild-out/bin/x.d");
    request.who = task.request().who;
    request.blobs = task.request().blobs;
    let mut without = request.clone();
    without.run = run_id();
    assert_eq!(client.upload(without), None);
    assert!(matches!(client.look_up(&task), CacheAnswer::Miss), "the depfile is wanted too");
    request.depfile = Some((path("minibuild-out/bin/x.d"), (*b"a: b\n").into()));
    assert_eq!(client.upload(request), None);
    let CacheAnswer::Hit(report) = client.look_up(&task) else { panic!("was stored") };
    assert_eq!(report.depfile.as_deref(), Some(&b"a: b\n"[..]));
}

#[test]
fn a_file_that_changed_is_not_uploaded() {
    for is_http in [false, true] {
        for now in [Some("y".repeat(300_000)), Some("z".repeat(299_999)), None] {
            let fixture = Fixture::new();
            let mut client = if is_http { http(&fixture) } else { fixture.client() };
            let (task, request) = run_here(&fixture, "");
            let changed = fixture.workspace().join("minibuild-out/bin/tree/sub/large");
            std::fs::remove_file(&changed).expect("removes");
            if let Some(now) = now {
                std::fs::write(&changed, now).expect("writes");
            }
            let error = client.upload(request).expect("it is not what it was");
            assert!(error.contains("`minibuild-out/bin/tree/sub/large` changed"), "{error}");
            assert!(matches!(client.look_up(&task), CacheAnswer::Miss));
            assert_eq!(client.messages(), Vec::<String>::new(), "the server is not to blame");
        }
    }
}

#[test]
fn a_cache_that_takes_nothing_is_told_once_and_no_error() {
    // Only one of them is about a blob, and small blobs may go in two batches.
    for (method, about, most) in [
        ("UpdateActionResult", "(UpdateActionResult)", 1),
        ("FindMissingBlobs", "(FindMissingBlobs)", 1),
        ("BatchUpdateBlobs", "(blob ", 2),
    ] {
        let faults = format!("[[fault]]\nkind = \"error\"\nmethod = \"{method}\"\ncode = \"PERMISSION_DENIED\"\n");
        let fixture = Fixture::with_faults(&faults);
        let mut client = fixture.client();
        for salt in ["a", "b", "c"] {
            let (_, mut request) = run_here(&fixture, salt);
            request.outputs.truncate(1);
            assert_eq!(client.upload(request), None);
            std::fs::remove_dir_all(fixture.workspace().join("minibuild-out/bin")).expect("removes");
        }
        let messages = client.messages();
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(fixture.calls(method) <= most, "{}", fixture.calls(method));
        for part in ["not uploaded", about, "`//a:b`"] {
            assert!(messages[0].contains(part), "{messages:?} lacks {part}");
        }
    }
}

#[test]
fn an_outage_forbids_no_later_upload() {
    let fixture = Fixture::with_faults("[[fault]]\nkind = \"error\"\ncode = \"ABORTED\"\ntimes = 3\n");
    let mut client = fixture.client_with(|config| config.retries = 0);
    let (task, mut request) = run_here(&fixture, "");
    let mut errors = 0;
    while client.upload(request.clone()).is_some() {
        errors += 1;
        request.run = run_id();
    }
    assert!((1..=3).contains(&errors), "{errors}");
    assert!(matches!(client.look_up(&task), CacheAnswer::Hit(_)));
    assert_eq!(client.messages(), Vec::<String>::new());
}

#[test]
fn http_errors_that_pass_are_tried_again() {
    for method in ["HTTP GET", "HTTP PUT", "HTTP HEAD"] {
        let faults = format!("[[fault]]\nkind = \"error\"\nmethod = \"{method}\"\ncode = \"UNAVAILABLE\"\ntimes = 2\n");
        let fixture = Fixture::with_faults(&faults);
        let mut client = http(&fixture);
        round_trip(&fixture, &mut client);
        assert_eq!(client.messages(), Vec::<String>::new(), "{method}");
    }
}

#[test]
fn http_errors_that_stay_are_counted_and_told_once() {
    let mut fixture = Fixture::new();
    let (task, request) = run_here(&fixture, "");
    fixture.shutdown();
    let url = fixture.http_address();
    let mut client = fixture.client_with(|config| {
        config.executor = None;
        config.cache = Some(url);
        config.retries = 1;
    });
    for _ in 0..3 {
        assert!(matches!(client.look_up(&task), CacheAnswer::Failed(_)));
    }
    assert!(client.upload(request).is_some());
    assert_eq!(client.messages().len(), 1);
}

#[test]
fn corrupt_blobs_by_http_are_read_again_and_then_given_up() {
    for size in [5, 300_000] {
        for (times, is_there) in [(1, true), (0, false)] {
            let bytes = "q".repeat(size);
            let digest = F.digest(bytes.as_bytes());
            let faults = format!("[[fault]]\nkind = \"corrupt\"\ndigest = \"{}\"\ntimes = {times}\n", digest.hex());
            let fixture = Fixture::with_faults(&faults);
            fixture.write("minibuild-out/bin/file", &bytes);
            let mut client = http(&fixture);
            let task = Task::new("never run");
            let upload = upload_of(&fixture, &task, &[output("minibuild-out/bin/file", ArtifactKind::File)]);
            assert_eq!(client.upload(upload), None);
            let place = file_output("minibuild-out/bin/copy", bytes.as_bytes());
            match client.fetch(&place) {
                FetchOutcome::Done { .. } => assert!(is_there && fixture.read("minibuild-out/bin/copy") == bytes),
                FetchOutcome::Lost { digests, .. } => assert!(!is_there && digests == [digest]),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_an_http_cache_lacks_is_lost() {
    let fixture = Fixture::new();
    let mut client = http(&fixture);
    let FetchOutcome::Lost { digests, .. } = client.fetch(&file_output("minibuild-out/bin/x", b"none")) else {
        panic!("is lost")
    };
    assert_eq!(digests, [F.digest(b"none")]);
}

/// A server that gives one answer to every request and keeps what it was asked.
fn one_answer(status: &'static str) -> (SocketAddr, Receiver<HttpRequest>) {
    let (sender, asked) = channel();
    let address = serve_http(move |request| {
        // A test that is over wants to know nothing more.
        let _ = sender.send(request.clone());
        HttpAnswer::status(status)
    });
    (address, asked)
}

#[test]
fn user_password_and_headers_are_sent_and_never_shown() {
    let (address, asked) = one_answer("403 Forbidden");
    let fixture = Fixture::new();
    let mut client = fixture.client_with(|config| {
        config.executor = None;
        config.cache = Some(format!("http://me:p%40ss@{address}/prefix/"));
        config.headers = vec![("X-Key".to_owned(), "hidden".to_owned())];
    });
    let task = Task::new("true");
    let CacheAnswer::Failed(why) = client.look_up(&task) else { panic!("forbidden") };
    assert!(why.contains("403") && why.contains("***@") && !why.contains("ss@"), "{why}");
    let asked = asked.recv().expect("was asked");
    assert_eq!(asked.line, format!("GET /prefix/ac/{} HTTP/1.1", task.request().who.key.hex()));
    // base64 of `me:p@ss`
    assert_eq!(asked.header("authorization"), Some("Basic bWU6cEBzcw=="));
    assert_eq!(asked.header("x-key"), Some("hidden"));
    assert_eq!((asked.header("accept-encoding"), asked.header("cookie")), (None, None));
    assert!(!format!("{:?}", client.rest()).contains("hidden"));
}

#[test]
fn a_redirect_is_not_followed() {
    let fixture = Fixture::new();
    let elsewhere = fixture.http_address();
    let address = serve_http(move |request| {
        let headers = format!("location: {elsewhere}{}\r\n", request.path());
        HttpAnswer { headers, ..HttpAnswer::status("307 Temporary Redirect") }
    });
    let mut client = fixture.client_with(|config| {
        config.executor = None;
        config.cache = Some(format!("http://{address}"));
        config.headers = vec![("authorization".to_owned(), "hidden".to_owned())];
    });
    let CacheAnswer::Failed(why) = client.look_up(&Task::new("true")) else { panic!("led elsewhere") };
    assert!(why.contains("307"), "{why}");
    assert!(fixture.counts().methods.is_empty());
}

#[test]
fn a_store_without_head_is_just_written_to() {
    let (address, asked) = one_answer("405 Method Not Allowed");
    let fixture = Fixture::new();
    let mut client = fixture.client_with(|config| {
        config.executor = None;
        config.cache = Some(format!("http://{address}"));
    });
    let (_, mut request) = run_here(&fixture, "");
    request.outputs.clear();
    request.stdout = [].into();
    request.blobs = vec![Blob { digest: F.digest(b"b"), source: BlobSource::Bytes((*b"b").into()) }];
    assert_eq!(client.upload(request), None, "a cache that takes nothing is no error");
    let lines = [asked.recv(), asked.recv()].map(|request| request.expect("was asked").line[..4].to_owned());
    assert_eq!(lines, ["HEAD", "PUT "]);
    assert!(client.messages()[0].contains("405"));
}

#[test]
fn links_in_results_that_lead_out_are_misses() {
    // Stored by a client that does not look; `bad` is declared as a directory.
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let (task, mut request) = run_here(&fixture, "");
    let tree = request.outputs.iter_mut().find_map(|found| match &mut found.meta.content {
        Content::Directory(tree) => Some(std::sync::Arc::make_mut(tree)),
        Content::File { .. } | Content::Symlink { .. } => None,
    });
    for entry in &mut tree.expect("there is one").entries {
        if entry.path == WsPath::new("l").expect("a path") {
            entry.node = minibuild_core::TreeNode::Symlink { target: "../../../../etc/passwd".to_owned() };
        }
    }
    assert_eq!(client.upload(request), None);
    assert!(matches!(client.look_up(&task), CacheAnswer::Miss));
}

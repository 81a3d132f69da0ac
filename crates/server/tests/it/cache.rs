//! Results of actions, by gRPC and by HTTP, and where a server may listen.

use std::io::{Read, Write};
use std::net::TcpStream;

use minibuild_core::Digest;
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::{Message, execution as proto, read};
use minibuild_reapi::status::missing_blobs_of;
use minibuild_reapi::{InputNode, tree_message};
use minibuild_server::{Listen, Server, ServerConfig, StartError};
use tonic::Code;

use crate::harness::{F, Fixture, server, with_faults};

fn result(files: &[Digest], trees: &[Digest]) -> proto::ActionResult {
    let file = |(number, digest): (usize, &Digest)| proto::OutputFile {
        path: format!("f{number}"),
        digest: Some(digest_message(digest)),
        ..Default::default()
    };
    let tree = |(number, digest): (usize, &Digest)| proto::OutputDirectory {
        path: format!("d{number}"),
        tree_digest: Some(digest_message(digest)),
        ..Default::default()
    };
    proto::ActionResult {
        output_files: files.iter().enumerate().map(file).collect(),
        output_directories: trees.iter().enumerate().map(tree).collect(),
        ..Default::default()
    }
}

fn tree_of(file: Digest) -> Vec<u8> {
    let mut entries = vec![("sub/file", InputNode::File { digest: file, executable: true })];
    tree_message(&mut entries, F).expect("a tree").bytes
}

#[test]
fn a_result_is_there_until_something_of_it_is_lost() {
    for (lose_file, lose_tree) in [(true, false), (false, true), (false, false)] {
        let lost = F.digest(if lose_file { b"plain" } else { b"inner" });
        let faults = format!("[[fault]]\nkind = 'lost'\nmethod = 'FindMissingBlobs'\ndigest = '{}'", lost.hex());
        let server = with_faults(&faults);
        let action = server.put(b"action");
        let (plain, inner) = (server.put(b"plain"), server.put(b"inner"));
        let tree = server.put(&tree_of(inner));
        assert_eq!(server.result_of(&action).expect_err("nothing yet").0, Code::NotFound);
        let result = result(&[plain], &[tree]);
        server.update_result(&action, result.clone()).expect("taken");
        assert_eq!(server.result_of(&action), Ok(result));
        if lose_file || lose_tree {
            assert!(!server.has(&lost), "the fault struck");
            assert_eq!(server.result_of(&action).expect_err("not whole").0, Code::NotFound);
            server.put(b"plain");
            server.put(b"inner");
            assert_eq!(server.result_of(&action).expect_err("gone for good").0, Code::NotFound);
        }
    }
}

#[test]
fn results_that_are_refused() {
    let server = server();
    let action = server.put(b"action");
    let (here, missing) = (server.put(b"here"), F.digest(b"missing"));
    let error = server.update_result(&action, result(&[here, missing], &[])).expect_err("not whole");
    assert_eq!(error.code(), Code::FailedPrecondition);
    let details = read("Status", error.details()).expect("details");
    assert_eq!(missing_blobs_of(&details), [(F, missing)]);
    let tree = server.put(&tree_of(missing));
    let error = server.update_result(&action, result(&[here], &[tree])).expect_err("the tree is not whole");
    assert_eq!(error.code(), Code::FailedPrecondition);
    for path in ["../up", "/abs", "a/../b", ""] {
        let mut bad = result(&[here], &[]);
        bad.output_files[0].path = path.to_owned();
        assert_eq!(server.update_result(&action, bad).expect_err(path).code(), Code::InvalidArgument);
    }
    let no_tree = server.put(b"this is no tree");
    let error = server.update_result(&action, result(&[], &[no_tree])).expect_err("no tree");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(server.result_of(&action).expect_err("nothing was kept").0, Code::NotFound);
}

#[test]
fn results_outlive_a_restart() {
    let mut server = server();
    let action = server.put(b"action");
    let result = result(&[server.put(b"x")], &[]);
    server.update_result(&action, result.clone()).expect("taken");
    server.restart(|_| {});
    assert_eq!(server.result_of(&action), Ok(result));
}

/// One exchange of HTTP/1.1; status and body.
pub fn http(server: &Fixture, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let answer = raw_http(server, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n"), body);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let status = std::str::from_utf8(&answer[9..12]).expect("text").parse().expect("a number");
    (status, answer[end + 4..].to_vec())
}

pub fn raw_http(server: &Fixture, head: &str, body: &[u8]) -> Vec<u8> {
    let Listen::Tcp(address) = server.server().address() else { panic!("listens on TCP") };
    let mut stream = TcpStream::connect(address).expect("connects");
    let rest = format!("Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), rest.as_bytes(), body].concat()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    answer
}

#[test]
fn the_http_cache_shares_the_store() {
    let server = server();
    let digest = F.digest(b"by http");
    let path = format!("/cas/{}", digest.hex());
    assert_eq!(http(&server, "GET", &path, b"").0, 404);
    assert_eq!(http(&server, "HEAD", &path, b"").0, 404);
    assert_eq!(http(&server, "PUT", &path, b"something else").0, 400);
    assert_eq!(http(&server, "PUT", &path, b"by http").0, 200);
    assert_eq!(http(&server, "GET", &path, b""), (200, b"by http".to_vec()));
    assert_eq!(http(&server, "HEAD", &format!("/any/prefix{path}"), b""), (200, vec![]));
    assert_eq!(server.get(&digest), b"by http");
    let large = server.put(&vec![7; 2_500_000]);
    assert_eq!(http(&server, "GET", &format!("/cas/{}", large.hex()), b"").1, vec![7; 2_500_000]);
    let (action, other) = (F.digest(b"action"), F.digest(b"other action"));
    let whole = result(&[digest], &[]);
    let path = |action: &Digest| format!("/ac/{}", action.hex());
    assert_eq!(http(&server, "GET", &path(&action), b"").0, 404);
    assert_eq!(http(&server, "PUT", &path(&action), &whole.encode_to_vec()).0, 200);
    assert_eq!(http(&server, "GET", &path(&action), b""), (200, whole.encode_to_vec()));
    assert_eq!(server.result_of(&action), Ok(whole));
    let partial = result(&[F.digest(b"nowhere")], &[]);
    assert_eq!(http(&server, "PUT", &path(&other), &partial.encode_to_vec()).0, 200, "blobs may come later");
    assert_eq!(http(&server, "GET", &path(&other), b"").0, 404, "but they have to be there");
    assert_eq!(http(&server, "PUT", &path(&other), b"\xff\xff no result").0, 400);
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/cas/../../etc/passwd", 404),
        ("DELETE", &*path(&action), 405),
        ("POST", "/build.bazel.remote.execution.v2.Nothing/Call", 404),
    ] {
        assert_eq!(http(&server, method, path, b"").0, status, "{method} {path}");
    }
    assert!(server.server().counters().calls("HTTP GET") >= 5);
    let answer =
        raw_http(&server, "POST /no.such.Service/Call HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\n", b"");
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("grpc-status: 12"), "{answer}");
}

#[test]
fn a_server_is_private_unless_told_otherwise() {
    let dir = tempfile::tempdir().expect("temp dir");
    let config = |listen: &str| ServerConfig::new(listen.parse().expect("an address"), dir.path().join("server"), 0);
    let error = Server::start(config("0.0.0.0:0")).err().expect("refused");
    assert!(matches!(error, StartError::Exposed(_)) && error.to_string().contains("--insecure"), "{error}");
    let running = Server::start(ServerConfig { insecure: true, ..config("0.0.0.0:0") }).expect("told so");
    let error = Server::start(config("127.0.0.1:0")).err().expect("one server for each directory");
    assert!(error.to_string().contains("another server"), "{error}");
    running.shutdown();
    let running = Server::start(config("127.0.0.1:0")).expect("the directory is free again");
    let Listen::Tcp(address) = running.address() else { panic!("listens on TCP") };
    assert_ne!(address.port(), 0);
    let taken = ServerConfig { dir: dir.path().join("other"), ..config(&address.to_string()) };
    let error = Server::start(taken).err().expect("taken");
    assert!(error.to_string().starts_with(&format!("cannot listen on `grpc://{address}`")), "{error}");
}

#[test]
fn unix_sockets_are_for_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let sockets = tempfile::tempdir().expect("temp dir");
    let path = sockets.path().join("s");
    let mut server = Fixture::new(|config| config.listen = Listen::Unix(path.clone()));
    let digest = server.put(b"x");
    assert_eq!(server.get(&digest), b"x");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.shutdown();
    assert!(!path.exists());
    // A socket left behind by a server that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    let server = Fixture::new(|config| config.listen = Listen::Unix(path.clone()));
    assert!(!server.has(&digest));
}

//! What goes wrong before a call is a call: nobody there, silence, other protocols, certificates, and a server that goes
//! down in the middle.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use minibuild_server::TlsConfig;
use minibuild_testkit::{Authority, Validity, Workspace, free_port, own_loopback};

use super::{Strict, Trial};
use crate::remote::{Remote, chain};
use crate::{genrule, with_targets};

/// A port nobody listens on.
fn nobody() -> String {
    let listener = TcpListener::bind(free_port()).expect("a free port");
    listener.local_addr().expect("is bound").to_string()
}

/// A server that does the same with each connection, as long as the test runs.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind(free_port()).expect("a free port");
    let address = listener.local_addr().expect("is bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads whatever comes until the other end closes.
fn drain(mut stream: &TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
}

/// A web server that has a page for everything.
fn pages(status: &'static str) -> String {
    listen(move |stream| {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: 13\r\n\r\n<html></html>"
        );
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && (&stream).read(&mut byte).is_ok_and(|length| length > 0) {
            head.push(byte[0]);
        }
        // A client that has gone hears nothing.
        let _ = (&stream).write_all(answer.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        drain(&stream);
    })
}

#[track_caller]
fn check(place: &str, says: &[&str]) {
    let (executor, cache) = (format!("--remote-executor=grpc://{place}"), format!("--remote-cache=grpc://{place}"));
    let says = [&[place], says].concat();
    Trial { executor: &executor, cache: &cache, flags: &[] }.all(Strict::Ends(34), &says);
}

#[test]
fn nobody_listens() {
    check(&nobody(), &["UNAVAILABLE", "refused"]);
    check("no-such-host.invalid:1", &["UNAVAILABLE"]);
}

#[test]
fn an_outage_is_told_once_and_not_by_each_action() {
    let targets: String = (0..30).map(|i| genrule(&format!("a{i}"), &[], &[&i.to_string()], "echo x > $OUT")).collect();
    let ws = with_targets(&targets);
    let executor = format!("--remote-executor=grpc://{}", nobody());
    let run = ws.build(&["//...", &executor, "--strategy=remote", "--remote-retries=0"]).ok();
    assert_eq!(run.counts().local, 30);
    let warnings = run.messages("warning");
    // That the server is given up, and what that means for an action that was under way and for one that comes later.
    assert!((2..=4).contains(&warnings.len()), "{warnings:?}");
}

#[test]
fn silence() {
    check(&listen(|stream| drain(&stream)), &[]);
}

#[test]
fn connections_that_close_at_once() {
    check(&listen(drop), &[]);
}

#[test]
fn something_that_speaks_no_grpc() {
    check(&pages("200 OK"), &[]);
    check(
        &listen(|mut stream| {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            drain(&stream);
        }),
        &[],
    );
}

/// A build with an `http` cache that is none succeeds, here.
#[track_caller]
fn check_http(url: &str, says: &[&str]) {
    let ws = chain();
    let run = ws.build(&["//:c", &format!("--remote-cache={url}"), "--remote-retries=1", "--remote-timeout=1s"]).ok();
    assert_eq!((run.counts().local, ws.output("c.txt").as_str()), (3, "ONE\nb\nc\n"));
    run.says(says);
}

#[test]
fn http_servers_that_are_no_cache() {
    for status in ["200 OK", "401 Unauthorized", "403 Forbidden", "405 Method Not Allowed", "500 Oops", "302 Found"] {
        let place = pages(status);
        check_http(&format!("http://{place}/cache"), &[&place]);
    }
    let place = nobody();
    check_http(&format!("http://{place}"), &[&place, "refused"]);
    check_http(&format!("http://{}", listen(|stream| drain(&stream))), &["cache error"]);
    check_http(&format!("http://{}", listen(drop)), &["cache error"]);
    check_http(&format!("https://{}", pages("200 OK")), &["cache error"]);
}

#[test]
fn passwords_in_urls_stay_secret() {
    for status in ["401 Unauthorized", "500 Oops"] {
        let url = format!("http://me:{}@{}", super::SECRET, pages(status));
        let run =
            chain().build(&["//:c", &format!("--remote-cache={url}"), "--remote-retries=0", "-v", "--explain"]).ok();
        assert!(!format!("{}{}{:?}", run.stdout, run.stderr, run.events).contains(super::SECRET));
    }
}

fn with_certificate(authority: &Authority, names: &[&str], validity: Validity) -> Remote {
    let certificate = authority.issue(names, validity);
    Remote::configured("", move |config| {
        config.tls = Some(TlsConfig {
            certificates: certificate.certificate.clone().into(),
            key: certificate.key.clone().into(),
            client_authorities: None,
        });
    })
}

/// A file with the certificate of an authority.
fn pem(ws: &Workspace, authority: &Authority) -> PathBuf {
    let path = ws.outside().join("authority.pem");
    std::fs::write(&path, authority.pem()).expect("writes");
    path
}

#[test]
fn certificates() {
    let own = own_loopback().to_string();
    let here = [own.as_str()];
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    let keeper = crate::workspace();
    let trusted = format!("MINIBUILD_REMOTE_TLS_CA={}", pem(&keeper, &authority).display());
    let build = |remote: &Remote| {
        let ws = chain();
        let (name, value) = trusted.split_once('=').expect("has one");
        let executor = remote.executor();
        let args = ["build", "//:c", &executor, "--strategy=remote", "--on-remote-failure=fail", "--remote-retries=1"];
        let run = ws.invoke(&args).env(name, value).run();
        assert_eq!(run.ending == minibuild_testkit::Ending::Exited(0), ws.has_output("c.txt"));
        run
    };
    build(&with_certificate(&authority, &here, Validity::Now)).ok();
    let refused = |remote: &Remote, why: &str| drop(build(remote).code(34).says(&["grpcs://127.", why]));
    refused(&with_certificate(&authority, &here, Validity::Expired), "xpired");
    refused(&with_certificate(&authority, &["example.org"], Validity::Now), "name");
    refused(&with_certificate(&other, &here, Validity::Now), "nknown");
}

#[test]
fn http_caches_are_asked_by_tls_and_by_no_proxy() {
    let authority = Authority::new("authority");
    let remote = with_certificate(&authority, &["cache.example.org"], Validity::Now);
    let cache = format!("--remote-cache={}", remote.url().replace("grpcs://", "https://"));
    let build = |name: &str| {
        let ws = chain();
        let pem = pem(&ws, &authority).display().to_string();
        let command = ws.invoke(&["build", "//...", &cache, "--remote-retries=0"]);
        let command = command.env("MINIBUILD_REMOTE_TLS_CA", &pem).env("MINIBUILD_REMOTE_TLS_SERVER_NAME", name);
        let proxies = ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"];
        let proxy = format!("http://{}", nobody());
        proxies.iter().fold(command, |command, name| command.env(name, &proxy)).run().ok()
    };
    assert_eq!(build("cache.example.org").counts().local, 3);
    let run = build("cache.example.org");
    assert_eq!((run.counts().remote_cache, run.counts().local), (3, 0));
    let run = build("other.example.org");
    assert_eq!(run.counts().local, 3, "a cache that is not believed breaks no build");
    run.says(&["cache error", "certificate"]);
}

#[test]
fn the_wrong_one_of_grpc_and_grpcs() {
    let authority = Authority::new("authority");
    let secure = with_certificate(&authority, &[&own_loopback().to_string()], Validity::Now);
    check(secure.url().strip_prefix("grpcs://").expect("it is one"), &[]);
    let plain = Remote::new();
    let ws = chain();
    let executor = plain.executor().replace("grpc://", "grpcs://");
    let args = ["build", "//:c", &executor, "--strategy=remote", "--on-remote-failure=fail", "--remote-retries=0"];
    let pem = pem(&ws, &authority).display().to_string();
    ws.invoke(&args).env("MINIBUILD_REMOTE_TLS_CA", &pem).run().code(34).says(&["grpcs://127.", "does not speak TLS"]);
}

/// `b` is held where it runs.
fn held() -> (Workspace, minibuild_testkit::Gate) {
    let ws = with_targets("").file("in.txt", "one\n");
    let gate = ws.gate("held");
    let targets = [
        genrule("a", &["in.txt"], &["a.txt"], "tr a-z A-Z < $SRC > $OUT"),
        genrule("b", &[":a"], &["b.txt"], &format!("{}; (cat $SRC; echo b) > $OUT", gate.pass())),
        genrule("c", &[":b"], &["c.txt"], "(cat $SRC; echo c) > $OUT"),
    ];
    ws.write("BUILD.toml", targets.concat());
    (ws, gate)
}

const HELD: &[&str] = &["//:c", "--strategy=remote", "--remote-retries=1"];

#[test]
fn t61_outage_mid_build_rebuilds_remote_only_intermediates() {
    let (remote, (ws, mut gate)) = (Remote::new(), held());
    let executor = remote.executor();
    let build = ws.start_build(&[HELD, &[&executor]].concat());
    gate.arrival();
    remote.stop();
    gate.arrival();
    gate.open();
    let run = build.wait().ok();
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
    // What `a` made went down with the server, so it is made again too.
    assert_eq!(run.counts().local, 3, "{:?}", run.counts());
    ws.build(&[HELD, &[&executor]].concat()).ok_without_running();
}

#[test]
fn a_server_that_goes_down_in_the_middle_of_a_build_that_needs_it() {
    let (remote, (ws, mut gate)) = (Remote::new(), held());
    let executor = remote.executor();
    let build = ws.start_build(&[HELD, &[&executor, "--on-remote-failure=fail"]].concat());
    gate.arrival();
    remote.stop();
    build.wait().code(34).says(&["//:b", "grpc://127."]);
    assert!(!ws.has_output("c.txt"));
}

#[test]
fn a_server_that_comes_back_in_the_middle() {
    let (remote, (ws, mut gate)) = (Remote::new(), held());
    let executor = remote.executor();
    let build =
        ws.start_build(&["//:c", "--strategy=remote", "--remote-retries=20", &executor, "--on-remote-failure=fail"]);
    gate.arrival();
    remote.restart("");
    gate.arrival();
    gate.open();
    build.wait().ok();
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
}

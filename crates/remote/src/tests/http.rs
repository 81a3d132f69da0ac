//! The HTTP cache: who is let in, how long an upload may take, how long presence is believed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use minibuild_testkit::{HttpAnswer, HttpRequest, free_port, serve_http};

use super::credentials::{helper, runs};
use super::harness::{F, Http, blob, noise, server};
use crate::cache::{EnsureFailure, ReadFailure};
use crate::presence::LIFE;

/// A store without anything in it, for those who show the right authorization.
fn guarded(expected: &'static str) -> SocketAddr {
    serve_http(move |request: &HttpRequest| match request.header("authorization") {
        Some(shown) if shown == expected => HttpAnswer::status("404 Not Found"),
        _ => HttpAnswer::status("401 Unauthorized"),
    })
}

fn look(http: &Http) -> Result<bool, String> {
    http.run(http.cache.result(&F.digest(b"key"))).map(|found| found.is_some())
}

#[test]
fn user_and_password_of_the_url_let_in() {
    // base64 of `me:p@ss:word`
    let address = guarded("Basic bWU6cEBzczp3b3Jk");
    assert_eq!(look(&Http::new(&format!("http://me:p%40ss:word@{address}"), |_| {})), Ok(false));
    for wrong in ["me:p%40ss@", "me@", ":p%40ss:word@", ""] {
        let why = look(&Http::new(&format!("http://{wrong}{address}/cache"), |_| {})).expect_err(wrong);
        assert!(why.contains("401") && !why.contains("ss"), "{why}");
    }
}

#[test]
fn a_header_stands_above_the_url_and_a_helper_above_both() {
    let dir = tempfile::tempdir().expect("temp dir");
    let program = helper(dir.path(), r#"echo '{"headers":{"Authorization":["helped"]}}'"#);
    let header = |name: &str| vec![(name.to_owned(), "given".to_owned())];
    let url = |expected| format!("http://me:secret@{}", guarded(expected));
    assert_eq!(look(&Http::new(&url("given"), |config| config.headers = header("Authorization"))), Ok(false));
    let both = Http::new(&url("helped"), |config| {
        config.headers = header("authorization");
        config.credential_helper = Some(program);
    });
    assert_eq!(look(&both), Ok(false));
}

#[test]
fn refused_credentials_are_asked_for_once_more() {
    let dir = tempfile::tempdir().expect("temp dir");
    let script = r#"echo "{\"headers\":{\"Authorization\":[\"token $(wc -l < "${0%helper}runs")\"]}}""#;
    let program = helper(dir.path(), script);
    let address = guarded("token 2");
    let open = || Http::new(&format!("http://{address}/x/"), |config| config.credential_helper = Some(program.clone()));
    let http = open();
    for _ in 0..3 {
        assert_eq!(look(&http), Ok(false));
    }
    assert_eq!(runs(dir.path()), vec![format!("get {{\"uri\":\"http://{address}/x\"}}"); 2]);
    let why = look(&open()).expect_err("both answers are too new");
    assert!(why.contains("401") && !why.contains("token"), "{why}");
    assert_eq!(runs(dir.path()).len(), 4, "one answer, and one more");
}

#[test]
fn a_helper_that_fails_says_why() {
    let dir = tempfile::tempdir().expect("temp dir");
    let program = helper(dir.path(), "echo secret; echo 'log in first' >&2; exit 3");
    let http = Http::new(&format!("http://{}", guarded("")), |config| {
        config.credential_helper = Some(program);
        config.retries = 0;
    });
    let why = look(&http).expect_err("no credentials");
    assert!(why.contains("log in first") && !why.contains("secret"), "{why}");
}

/// Reads the head of a request; the length of its body.
fn read_head(stream: &mut BufReader<TcpStream>) -> u64 {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("reads");
        let line = line.trim_end().to_ascii_lowercase();
        match line.strip_prefix("content-length: ") {
            Some(text) => length = text.parse().expect("a number"),
            None if line.is_empty() => return length,
            None => {}
        }
    }
}

/// A store that has nothing, and takes a mebibyte each 20 ms.
fn slow_store() -> SocketAddr {
    let listener = TcpListener::bind(free_port()).expect("a free port");
    let address = listener.local_addr().expect("is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut left = read_head(&mut stream);
                let status = if left == 0 { "404 Not Found" } else { "200 OK" };
                while left > 0 {
                    std::thread::park_timeout(Duration::from_millis(20));
                    let piece = left.min(1 << 20);
                    let taken = std::io::copy(&mut (&mut stream).take(piece), &mut std::io::sink());
                    // A client that gave up is seen by the test.
                    let Ok(true) = taken.map(|taken| taken == piece) else { return };
                    left -= piece;
                }
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.get_mut().write_all(answer.as_bytes());
            });
        }
    });
    address
}

#[test]
fn an_upload_goes_on_as_long_as_it_moves() {
    // All of it takes more than twice as long as the longest time without progress.
    let http = Http::new(&format!("http://{}", slow_store()), |config| config.timeout = Duration::from_millis(600));
    let file = http.file("large", &noise(64 << 20, 3));
    assert_eq!(http.ensure(&[file]), Ok(()));
    assert_eq!(http.cache.sent().bytes, 64 << 20);
}

#[test]
fn a_store_that_says_nothing_is_given_up() {
    // Connections are made, and nobody takes them.
    let listener = TcpListener::bind(free_port()).expect("a free port");
    let http = Http::new(&format!("http://{}", listener.local_addr().expect("is bound")), |config| {
        config.timeout = Duration::from_millis(100);
        config.retries = 1;
    });
    let nothing = |why: &str| why.contains("nothing came for 0.1 s") || why.contains("given up for now");
    assert!(look(&http).is_err_and(|why| nothing(&why)));
    assert!(matches!(http.read(F.digest(b"x")), Err(ReadFailure::Unreachable(why)) if nothing(&why)));
    assert!(matches!(http.ensure(&[blob(b"x")]), Err(EnsureFailure::Failed(why)) if nothing(&why)));
}

/// A store whose answer to everything is longer than a client waits, a byte now and then, and that then ends.
fn dripping_store() -> SocketAddr {
    let listener = TcpListener::bind(free_port()).expect("a free port");
    let address = listener.local_addr().expect("is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                read_head(&mut stream);
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
                let mut left = 100;
                let mut sent = stream.get_mut().write_all(head);
                while sent.is_ok() && left > 0 {
                    std::thread::park_timeout(Duration::from_millis(20));
                    sent = stream.get_mut().write_all(b"x");
                    left -= 1;
                }
            });
        }
    });
    address
}

#[test]
fn a_store_that_drips_is_given_up_like_one_that_is_silent() {
    let http = Http::new(&format!("http://{}", dripping_store()), |config| {
        config.timeout = Duration::from_millis(200);
        config.retries = 0;
    });
    let next_to_nothing = |why: &str| why.contains("next to nothing") || why.contains("given up for now");
    let why = look(&http).expect_err("no result in time");
    assert!(next_to_nothing(&why), "{why}");
    let read = http.read(F.digest(&noise(1000, 1)));
    assert!(matches!(&read, Err(ReadFailure::Unreachable(why)) if next_to_nothing(why)), "{read:?}");
}

#[test]
fn a_result_that_takes_far_more_memory_than_bytes_is_refused() {
    let address =
        serve_http(|_: &HttpRequest| HttpAnswer { body: [0x12, 0].repeat(4 << 20), ..HttpAnswer::status("200 OK") });
    let why = look(&Http::new(&format!("http://{address}"), |_| {})).expect_err("four million outputs of nothing");
    assert!(why.contains("more than the memory"), "{why}");
}

#[test]
fn a_refusal_names_the_blob() {
    let address = serve_http(|request: &HttpRequest| match request.header("content-length") {
        Some("1") => HttpAnswer::status("403 Forbidden"),
        Some("2") => HttpAnswer::status("413 Payload Too Large"),
        _ => HttpAnswer::status("404 Not Found"),
    });
    let http = Http::new(&format!("http://{address}"), |_| {});
    for (bytes, part) in [(&b"x"[..], "403 Forbidden"), (b"xy", "413 Payload Too Large")] {
        let failure = http.ensure(&[blob(bytes)]).expect_err(part);
        let (EnsureFailure::Denied(why) | EnsureFailure::Failed(why)) = &failure else { panic!("{failure:?}") };
        assert!(why.contains(part) && why.contains(&F.digest(bytes).to_string()), "{why}");
    }
}

#[test]
fn presence_is_believed_for_a_while() {
    let fixture = server();
    let mut http = Http::new(&fixture.server().url().replace("grpc://", "http://"), |_| {});
    let blobs = [blob(b"a"), blob(b"b")];
    for (pause, heads) in [(Duration::ZERO, 2), (LIFE / 2, 2), (LIFE, 4), (LIFE / 2, 4)] {
        http.cache.grow_older(pause);
        assert_eq!(http.ensure(&blobs), Ok(()));
        assert_eq!(fixture.count("HTTP HEAD").calls, heads, "after {pause:?} more");
    }
    assert_eq!(fixture.count("HTTP PUT").calls, 2);
}

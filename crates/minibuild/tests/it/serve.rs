//! `serve`: the server as a program. What it answers is tested in its own crate.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use minibuild_testkit::{Authority, Signal, Validity};

use crate::workspace;

#[test]
fn it_tells_its_address_answers_and_ends_at_a_signal() {
    let ws = workspace();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server =
            ws.invoke(&["serve", "--listen", "127.0.0.1:0", "--dir", "../home/server"]).without_events().start();
        let line = server.wait_for_stdout("\n");
        let address = line.strip_prefix("listening on grpc://").unwrap_or_else(|| panic!("{line}")).trim_end();
        let mut stream = TcpStream::connect(address).expect("connects");
        let missing = "0".repeat(64);
        let request = format!("GET /cas/{missing} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        server.signal(signal);
        let run = server.wait().code(0);
        assert_eq!(run.stdout, line, "one line and no more");
        assert_eq!(run.stderr, "");
    }
}

#[test]
fn with_a_certificate_it_speaks_tls() {
    let ws = workspace();
    let authority = Authority::new("authority");
    let issued = authority.issue(&["localhost"], Validity::Now);
    ws.write("cert.pem", &issued.certificate);
    ws.write("key.pem", &issued.key);
    ws.write("ca.pem", authority.pem());
    let files = ["--tls-certificate", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "ca.pem"];
    let listen = ["serve", "--dir", "../home/server", "--listen", "0.0.0.0:0"];
    let mut server = ws.invoke(&[&listen[..], &files].concat()).without_events().start();
    let line = server.wait_for_stdout("\n");
    assert!(line.starts_with("listening on grpcs://0.0.0.0:"), "{line}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(0).stderr, "");
    ws.run(&[&listen[..], &files[..2]].concat()).code(2).says(&["--tls-key"]);
    ws.run(&[&listen[..], &["--tls-client-ca", "ca.pem"]].concat()).code(2).says(&["--tls-certificate"]);
    let swapped = ["--tls-certificate", "key.pem", "--tls-key", "cert.pem"];
    ws.run(&[&listen[..], &swapped].concat()).code(2).says(&["the server's certificate is not usable"]);
}

#[test]
fn an_address_others_can_reach_needs_a_word() {
    let ws = workspace();
    let serve = |args: &[&str]| ws.run(&[&["serve", "--dir", "../home/server"], args].concat());
    serve(&["--listen", "0.0.0.0:0"]).code(2).says(&["0.0.0.0", "--insecure"]);
    serve(&["--listen", "example.org:1"]).code(2).says(&["example.org:1", "127.0.0.1:8980"]);
    serve(&["--inject", "none.toml"]).code(2).says(&["none.toml"]);
}

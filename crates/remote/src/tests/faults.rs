//! What goes wrong on the way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use minibuild_core::DigestFunction;
use minibuild_testkit::free_port;
use tonic::Code;

use super::harness::{F, Fixture, blob, noise, with_faults};
use crate::error::{EnsureError, ReadError};

const MIB: usize = 1 << 20;

fn fault(kind: &str, method: &str, more: &str) -> String {
    format!("[[fault]]\nkind = '{kind}'\nmethod = '{method}'\n{more}\n")
}

#[test]
fn calls_that_fail_for_a_while_are_repeated() {
    for code in ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNKNOWN"] {
        let mut faults = String::new();
        for method in ["GetCapabilities", "FindMissingBlobs", "BatchUpdateBlobs", "BatchReadBlobs", "Write", "Read"] {
            faults += &fault("error", method, &format!("times = 1\ncode = '{code}'\nretry_ms = 1"));
        }
        let fixture = with_faults(&faults);
        for size in [10, 2 * MIB] {
            let bytes = noise(size, 1);
            let digest = fixture.put(&bytes);
            assert!(fixture.download(digest).expect("is there") == bytes, "{code}");
        }
        assert!(fixture.told().is_empty(), "{:?}", fixture.told());
    }
}

#[test]
fn refusals_are_not_repeated() {
    for code in ["INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "PERMISSION_DENIED", "FAILED_PRECONDITION"] {
        let fixture = with_faults(&fault("error", "FindMissingBlobs", &format!("code = '{code}'")));
        let error = fixture.ensure(&[blob(b"a")]).expect_err("refused");
        let EnsureError::Call(error) = error else { panic!("{error:?}") };
        assert_eq!((crate::error::code_name(error.code), error.attempts), (code, 1));
        assert_eq!(fixture.count("FindMissingBlobs").calls, 1);
    }
}

#[test]
fn retries_end() {
    let fixture = Fixture::new(&fault("error", "FindMissingBlobs", "retry_ms = 1"), |config| config.retries = 2);
    let error = fixture.ensure(&[blob(b"a")]).expect_err("refused");
    let EnsureError::Call(error) = error else { panic!("{error:?}") };
    assert_eq!((error.code, error.attempts), (Code::Unavailable, 3));
    assert!(
        error.to_string().contains("(FindMissingBlobs): UNAVAILABLE: ")
            && error.to_string().contains("(tried 3 times)"),
        "{error}"
    );
}

#[test]
fn broken_uploads_go_on_where_they_were() {
    for compression in [false, true] {
        let faults = fault("break", "Write", &format!("times = 3\nbytes = {}", MIB));
        let fixture = Fixture::new(&faults, |config| {
            config.compression = compression;
            // Each break comes after progress: one retry is enough.
            config.retries = 1;
        });
        let bytes = noise(8 * MIB, 2);
        let digest = fixture.put(&bytes);
        assert!(fixture.read(digest).expect("is there") == bytes);
        assert_eq!(fixture.count("Write").calls, 4);
        assert!(fixture.count("Write").bytes_in < 14 * MIB as u64, "{}", fixture.count("Write").bytes_in);
    }
}

#[test]
fn broken_uploads_begin_anew_where_the_server_cannot_resume() {
    for compression in [false, true] {
        let faults =
            format!("[server]\nno_resume = true\n{}", fault("break", "Write", &format!("times = 2\nbytes = {MIB}")));
        let fixture = Fixture::new(&faults, |config| config.compression = compression);
        let bytes = noise(4 * MIB, 2);
        let digest = fixture.put(&bytes);
        assert!(fixture.read(digest).expect("is there") == bytes);
    }
}

#[test]
fn broken_downloads_go_on_where_they_were() {
    for compression in [false, true] {
        let faults = fault("break", "Read", &format!("times = 5\nbytes = {MIB}"));
        let fixture = Fixture::new(&faults, |config| {
            config.compression = compression;
            config.retries = 1;
        });
        let bytes = noise(8 * MIB, 2);
        let digest = fixture.put(&bytes);
        assert!(fixture.download(digest).expect("is there") == bytes);
        assert_eq!(fixture.count("Read").calls, 6);
        let sent = fixture.count("Read").bytes_out;
        assert!(sent < 9 * MIB as u64, "{sent}");
    }
}

#[test]
fn what_breaks_at_the_first_byte_each_time_ends() {
    let fixture = Fixture::new(&fault("break", "Read", "bytes = 0"), |config| config.retries = 2);
    let digest = fixture.put(&noise(2 * MIB, 1));
    assert!(matches!(fixture.download(digest), Err(ReadError::Call(error)) if error.code == Code::Unavailable));
    assert_eq!(fixture.count("Read").calls, 3);
}

#[test]
fn wrong_bytes_are_fetched_again_and_never_kept() {
    for (size, method) in [(100, "BatchReadBlobs"), (2 * MIB, "Read")] {
        for compression in [false, true] {
            let faults = fault("corrupt", method, "times = 1");
            let fixture = Fixture::new(&faults, |config| config.compression = compression);
            let bytes = noise(size, 1);
            let digest = fixture.put(&bytes);
            assert!(fixture.download(digest).expect("is there") == bytes, "{method}");
        }
    }
    for size in [100, 2 * MIB] {
        let fixture = with_faults("[[fault]]\nkind = 'corrupt'");
        let digest = fixture.put(&noise(size, 1));
        let error = fixture.download(digest).expect_err("wrong each time");
        assert!(matches!(&error, ReadError::Corrupt { why, .. } if why.starts_with("its hash is")), "{error:?}");
        assert!(!fixture.cas.has_recently(&digest));
    }
}

#[test]
fn what_is_lost_for_one_call_is_lost() {
    for (size, method) in [(100, "BatchReadBlobs"), (2 * MIB, "Read")] {
        let fixture = with_faults(&fault("lost", method, ""));
        let digest = fixture.put(&noise(size, 1));
        assert_eq!(fixture.download(digest), Err(ReadError::Lost(digest)));
    }
}

#[test]
fn a_server_that_is_not_there_is_given_up_once() {
    let free = TcpListener::bind(free_port()).expect("a port").local_addr().expect("an address");
    let fixture = Fixture::of(&format!("grpc://{free}"), |config| config.retries = 2);
    let first = fixture.ensure(&[blob(b"a")]).expect_err("not there");
    assert!(matches!(&first, EnsureError::Call(error) if error.code == Code::Unavailable), "{first:?}");
    assert!(first.to_string().contains("Connection refused"), "{first}");
    assert!(fixture.grpc.is_out());
    for _ in 0..400 {
        let error = fixture.ensure(&[blob(b"a")]).expect_err("not there");
        assert!(matches!(error, EnsureError::Call(_)));
    }
    let told = fixture.told();
    assert!(told.len() == 1 && told[0].contains("cannot be used"), "{told:?}");
}

#[test]
fn a_server_that_comes_back_is_found_again() {
    let mut fixture = Fixture::new("", |config| config.retries = 0);
    let small = fixture.put(b"small");
    fixture.stop();
    while !fixture.grpc.is_out() {
        assert!(fixture.read(small).is_err());
    }
    assert_eq!(fixture.told().len(), 1, "{:?}", fixture.told());
    fixture.start_again("");
    let until = Instant::now() + Duration::from_secs(60);
    while fixture.grpc.is_out() {
        assert!(Instant::now() < until, "nobody asked it again");
        let _ = fixture.read(small);
    }
    assert_eq!(fixture.read(small).expect("is there"), b"small");
    let told = fixture.told();
    assert!(told.len() == 2 && told[1].contains("can be used again"), "{told:?}");
}

/// Stands before a server and cuts each of the first connections after so many bytes of its answers.
fn cutting_proxy(server: String, cuts: usize, after: usize) -> String {
    let mut left = cuts;
    let (sender, connections) = std::sync::mpsc::channel::<TcpStream>();
    std::thread::spawn(move || {
        for client in connections {
            let Ok(server) = TcpStream::connect(&server) else { continue };
            let limit = if left == 0 { usize::MAX } else { after };
            left = left.saturating_sub(1);
            let (to_server, from_client) = (server.try_clone(), client.try_clone());
            std::thread::spawn(move || {
                let (Ok(mut to_server), Ok(mut from_client)) = (to_server, from_client) else { return };
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut (&server).take(limit as u64), &mut (&client));
                let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
            });
        }
    });
    listener(move |client| drop(sender.send(client)))
}

#[test]
fn connections_that_are_cut_in_the_middle_cost_nothing_but_time() {
    let server = Fixture::new("", |_| {});
    let bytes = noise(8 * MIB, 1);
    let digest = server.put(&bytes);
    let address = server.server().address().to_string().replace("grpc://", "");
    let fixture = Fixture::of(&cutting_proxy(address, 3, 3 * MIB), |_| {});
    assert!(fixture.download(digest).expect("is there") == bytes);
    assert!(server.count("Read").calls > 1);
    fixture.ensure(&[blob(&noise(3 * MIB, 2))]).expect("sent");
    assert!(fixture.told().is_empty(), "{:?}", fixture.told());
}

#[test]
fn a_unix_socket_is_a_server_too() {
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = dir.path().join("socket");
    let listen = minibuild_server::Listen::Unix(socket.clone());
    let config = minibuild_server::ServerConfig::new(listen, dir.path().join("server"), 0);
    let _running = minibuild_server::Server::start(config).expect("starts");
    let fixture = Fixture::of(&format!("unix://{}", socket.display()), |_| {});
    let bytes = noise(2 * MIB, 1);
    let digest = fixture.put(&bytes);
    assert!(fixture.download(digest).expect("is there") == bytes);
}

#[test]
fn a_server_that_is_restarted_is_connected_to_again() {
    let mut fixture = Fixture::new("", |_| {});
    let bytes = noise(3 * MIB, 1);
    let digest = fixture.put(&bytes);
    for _ in 0..3 {
        fixture.restart("");
        assert!(fixture.download(digest).expect("is there") == bytes);
        fixture.ensure(&[blob(&noise(2 * MIB, 9))]).expect("sent");
    }
    assert!(fixture.told().is_empty(), "{:?}", fixture.told());
}

/// Takes connections, one after the other, and does this with each.
fn listener(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind(free_port()).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    format!("grpc://{address}")
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let address = listener(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let fixture = Fixture::of(&address, |config| config.timeout = Duration::from_millis(200));
    assert!(fixture.ensure(&[blob(b"a")]).is_err());
    assert!(fixture.grpc.is_out());
    assert_eq!(fixture.told().len(), 1);
}

#[test]
fn a_server_that_says_nonsense_is_given_up() {
    let address = listener(|mut stream| {
        let _ = stream.write_all(&noise(10_000, 4));
    });
    let fixture = Fixture::of(&address, |config| config.retries = 1);
    assert!(fixture.ensure(&[blob(b"a")]).is_err());
    assert!(matches!(fixture.read(F.digest(b"a")), Err(ReadError::Call(_))));
    assert!(fixture.grpc.is_out());
}

#[test]
fn a_server_without_our_function_or_instance_says_so() {
    let fixture = Fixture::new("[server]\ndigest_function = 'blake3'", |_| {});
    let error = fixture.ensure(&[blob(b"a")]).expect_err("another function").to_string();
    assert!(error.contains("does not offer the digest function SHA256, but BLAKE3"), "{error}");
    let fixture =
        Fixture::new("[server]\ndigest_function = 'sha256'", |config| config.function = DigestFunction::Blake3);
    assert!(fixture.ensure(&[blob(b"a")]).is_err());
    let fixture = Fixture::new("[server]\ninstances = ['main']", |config| config.instance = "other".into());
    let error = fixture.ensure(&[blob(b"a")]).expect_err("another instance").to_string();
    assert!(error.contains("other"), "{error}");
    let fixture = Fixture::new("[server]\ninstances = ['main/sub']", |config| config.instance = "main/sub".into());
    let bytes = noise(2 * MIB, 1);
    let digest = fixture.put(&bytes);
    assert!(fixture.download(digest).expect("is there") == bytes);
}

#[test]
fn texts_of_a_server_are_one_line_without_control_characters() {
    let fake = super::fake::Fake::new(false);
    let words = "\x1b]0;owned\x07\x1b[31mno\n::error::forged";
    super::fake::then(&fake.script.missing, move |_| Err(tonic::Status::permission_denied(words)));
    let error = Fixture::of(&fake.address, |_| {}).ensure(&[blob(b"x")]).expect_err("refused").to_string();
    assert!(error.contains("␛]0;owned␇␛[31mno ::error::forged"), "{error:?}");
}

//! TLS: whom the client believes, and what it shows of itself.

use std::path::Path;

use minibuild_server::{Server, ServerConfig, TlsConfig};
use minibuild_testkit::{Authority, Certificate, Validity};

use super::harness::{Fixture, Http, blob, noise};
use crate::config::{RemoteConfig, Tls};
use crate::endpoint::Endpoint;
use crate::error::ConfigError;

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];

/// Writes a PEM file.
fn pem(dir: &Path, name: &str, text: &str) -> Option<String> {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    Some(path.to_str().expect("UTF-8").to_owned())
}

/// What comes of calls by gRPC and by HTTP to a server with this certificate, which lets those in that `clients`
/// vouches for.
fn call(server: &Certificate, clients: Option<&Authority>, tls: &Tls) -> [Result<(), String>; 2] {
    let dir = tempfile::tempdir().expect("temp dir");
    let address = "127.0.0.1:0".parse().expect("an address");
    let mut config = ServerConfig::new(address, dir.path().join("server"), 0);
    config.tls = Some(TlsConfig {
        certificates: server.certificate.clone().into(),
        key: server.key.clone().into(),
        client_authorities: clients.map(|authority| authority.pem().into()),
    });
    let running = Server::start(config).expect("starts");
    let edit = |config: &mut RemoteConfig| {
        config.tls = tls.clone();
        config.retries = 1;
    };
    [by_grpc(&running.url(), edit), by_http(&running.url().replace("grpcs://", "https://"), edit)]
}

fn by_grpc(url: &str, edit: impl FnOnce(&mut RemoteConfig)) -> Result<(), String> {
    let fixture = Fixture::of(url, edit);
    let bytes = noise(1 << 20, 1);
    fixture.ensure(&[blob(&bytes), blob(b"small")]).map_err(|error| error.to_string())?;
    assert!(fixture.download(blob(&bytes).digest).expect("is there") == bytes);
    Ok(())
}

fn by_http(url: &str, edit: impl FnOnce(&mut RemoteConfig)) -> Result<(), String> {
    let http = Http::new(url, edit);
    let bytes = noise(1 << 20, 2);
    http.ensure(&[blob(&bytes), blob(b"other")]).map_err(|error| format!("{error:?}"))?;
    assert!(http.read(blob(&bytes).digest).expect("is there") == bytes);
    Ok(())
}

fn refused(outcomes: [Result<(), String>; 2], part: &str) {
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|why| why.contains(part))), "{outcomes:?}");
}

const GOOD: [Result<(), String>; 2] = [Ok(()), Ok(())];

#[test]
fn servers_are_believed_whom_the_authority_vouches_for() {
    let dir = tempfile::tempdir().expect("temp dir");
    let authority = Authority::new("authority");
    let ca = pem(dir.path(), "ca.pem", &authority.pem());
    let good = authority.issue(LOCAL, Validity::Now);
    let tls = Tls { ca, ..Tls::default() };
    assert_eq!(call(&good, None, &tls), GOOD);
    let other = authority.issue(&["cache.example.org"], Validity::Now);
    let named = Tls { server_name: Some("cache.example.org".into()), ..tls.clone() };
    assert_eq!(call(&other, None, &named), GOOD);
    refused(call(&other, None, &tls), "certificate");
    let expired = authority.issue(LOCAL, Validity::Expired);
    refused(call(&expired, None, &tls), "certificate");
    let ca = pem(dir.path(), "other.pem", &Authority::new("other").pem());
    refused(call(&good, None, &Tls { ca, ..Tls::default() }), "certificate");
}

#[test]
fn the_client_shows_its_certificate() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (authority, clients) = (Authority::new("authority"), Authority::new("clients"));
    let good = authority.issue(LOCAL, Validity::Now);
    let own = clients.issue(&["client"], Validity::Now);
    let tls = Tls { ca: pem(dir.path(), "ca.pem", &authority.pem()), ..Tls::default() };
    let with_own = Tls {
        certificate: pem(dir.path(), "own.pem", &own.certificate),
        key: pem(dir.path(), "own.key", &own.key),
        ..tls.clone()
    };
    assert_eq!(call(&good, Some(&clients), &with_own), GOOD);
    refused(call(&good, Some(&clients), &tls), "");
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let dir = tempfile::tempdir().expect("temp dir");
    let ca = pem(dir.path(), "ca.pem", &Authority::new("authority").pem());
    let text = pem(dir.path(), "text", "secret");
    let endpoint = Endpoint::parse("grpcs://localhost:1").expect("an endpoint");
    let check = |tls: Tls, part: &str| {
        let transport = crate::channel::transport(&endpoint, &tls, std::time::Duration::from_secs(1));
        let by_http = Http::open("https://localhost:1", |config| config.tls = tls);
        for error in [transport.err().expect("refused"), by_http.err().expect("refused")] {
            assert!(matches!(error, ConfigError::Tls { .. }), "{error}");
            let error = error.to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    };
    check(Tls { ca: Some("/nonexistent".into()), ..Tls::default() }, "`/nonexistent`: No such file");
    check(Tls { ca: text.clone(), ..Tls::default() }, "it is no PEM file");
    check(Tls { ca: ca.clone(), certificate: ca.clone(), ..Tls::default() }, "without a key");
    check(Tls { ca: ca.clone(), key: text.clone(), ..Tls::default() }, "without a certificate");
    check(Tls { ca: ca.clone(), certificate: ca, key: text, ..Tls::default() }, "it is no PEM file");
}

//! TLS: whom the client believes, and what it shows of itself.

use std::path::Path;

use minibuild_server::{Server, ServerConfig, TlsConfig};
use minibuild_testkit::{Authority, Certificate, Validity};

use super::harness::{Fixture, blob, noise};
use crate::config::Tls;
use crate::endpoint::Endpoint;
use crate::error::ConfigError;

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];

/// Writes a PEM file.
fn pem(dir: &Path, name: &str, text: &str) -> Option<String> {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    Some(path.to_str().expect("UTF-8").to_owned())
}

/// What comes of a call to a server with this certificate, which lets those in that `clients` vouches for.
fn call(server: &Certificate, clients: Option<&Authority>, tls: Tls) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("temp dir");
    let address = "127.0.0.1:0".parse().expect("an address");
    let mut config = ServerConfig::new(address, dir.path().join("server"), 0);
    config.tls = Some(TlsConfig {
        certificates: server.certificate.clone().into(),
        key: server.key.clone().into(),
        client_authorities: clients.map(|authority| authority.pem().into()),
    });
    let running = Server::start(config).expect("starts");
    let fixture = Fixture::of(&running.url(), |config| {
        config.tls = tls;
        config.retries = 1;
    });
    let bytes = noise(1 << 20, 1);
    fixture.ensure(&[blob(&bytes), blob(b"small")]).map_err(|error| error.to_string())?;
    assert!(fixture.download(blob(&bytes).digest).expect("is there") == bytes);
    Ok(())
}

#[test]
fn servers_are_believed_whom_the_authority_vouches_for() {
    let dir = tempfile::tempdir().expect("temp dir");
    let authority = Authority::new("authority");
    let ca = pem(dir.path(), "ca.pem", &authority.pem());
    let good = authority.issue(LOCAL, Validity::Now);
    let tls = Tls { ca, ..Tls::default() };
    assert_eq!(call(&good, None, tls.clone()), Ok(()));
    let other = authority.issue(&["cache.example.org"], Validity::Now);
    let named = Tls { server_name: Some("cache.example.org".into()), ..tls.clone() };
    assert_eq!(call(&other, None, named), Ok(()));
    assert!(call(&other, None, tls.clone()).is_err_and(|why| why.contains("certificate")), "another name");
    let expired = authority.issue(LOCAL, Validity::Expired);
    assert!(call(&expired, None, tls).is_err_and(|why| why.contains("certificate")), "too old");
    let ca = pem(dir.path(), "other.pem", &Authority::new("other").pem());
    assert!(
        call(&good, None, Tls { ca, ..Tls::default() }).is_err_and(|why| why.contains("certificate")),
        "a stranger"
    );
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
    assert_eq!(call(&good, Some(&clients), with_own), Ok(()));
    assert!(call(&good, Some(&clients), tls).is_err());
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let dir = tempfile::tempdir().expect("temp dir");
    let ca = pem(dir.path(), "ca.pem", &Authority::new("authority").pem());
    let text = pem(dir.path(), "text", "secret");
    let endpoint = Endpoint::parse("grpcs://localhost:1").expect("an endpoint");
    let check = |tls: Tls, part: &str| {
        let transport = crate::channel::transport(&endpoint, &tls, std::time::Duration::from_secs(1));
        let error = transport.expect_err("refused");
        assert!(matches!(error, ConfigError::Tls { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(part) && !error.contains("secret"), "{error}");
    };
    check(Tls { ca: Some("/nonexistent".into()), ..Tls::default() }, "`/nonexistent`: No such file");
    check(Tls { ca: text.clone(), ..Tls::default() }, "it is no PEM file");
    check(Tls { ca: ca.clone(), certificate: ca.clone(), ..Tls::default() }, "without a key");
    check(Tls { ca: ca.clone(), key: text.clone(), ..Tls::default() }, "without a certificate");
    check(Tls { ca: ca.clone(), certificate: ca, key: text, ..Tls::default() }, "it is no PEM file");
}

//! TLS: who may come in, by gRPC and by HTTP on one port.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use minibuild_server::{Listen, StartError, TlsConfig};
use minibuild_testkit::{Authority, Certificate, Validity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::Code;
use tonic::transport::{Certificate as Pem, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::harness::{F, Fixture};

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];

fn tls(certificate: &Certificate, clients: Option<&Authority>) -> TlsConfig {
    TlsConfig {
        certificates: certificate.certificate.clone().into(),
        key: certificate.key.clone().into(),
        client_authorities: clients.map(|authority| authority.pem().into()),
    }
}

fn address(server: &Fixture) -> SocketAddr {
    let Listen::Tcp(address) = server.server().address() else { panic!("no TCP address") };
    *address
}

/// A client that trusts an authority and shows a certificate.
fn client(server: &Fixture, trusted: &Authority, own: Option<&Certificate>) -> Channel {
    let mut tls = ClientTlsConfig::new().ca_certificate(Pem::from_pem(trusted.pem()));
    if let Some(own) = own {
        tls = tls.identity(Identity::from_pem(&own.certificate, &own.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", address(server))).expect("an address");
    let _inside = server.runtime.enter();
    endpoint.tls_config(tls).expect("certificates").connect_lazy()
}

fn call(server: &mut Fixture, trusted: &Authority, own: Option<&Certificate>) -> Result<(), Code> {
    let channel = client(server, trusted, own);
    server.set_channel(channel);
    server.capabilities("").map(drop).map_err(|status| status.code())
}

#[test]
fn the_server_proves_who_it_is() {
    let authority = Authority::new("authority");
    let good = authority.issue(LOCAL, Validity::Now);
    let reachable = Fixture::new(|config| {
        config.tls = Some(tls(&good, None));
        config.listen = "0.0.0.0:0".parse().expect("an address");
    });
    let url = reachable.server().url();
    assert_eq!(url, format!("grpcs://{}", address(&reachable)), "and no word about safety was needed");
    let mut server = Fixture::new(|config| config.tls = Some(tls(&good, None)));
    assert_eq!(call(&mut server, &authority, None), Ok(()));
    let content = vec![7; 3_000_000];
    let digest = F.digest(&content);
    assert_eq!(server.write(&format!("uploads/u/blobs/{digest}"), 0, &[&content], true), Ok(3_000_000));
    assert_eq!(server.get(&digest), content);
    assert_eq!(call(&mut server, &Authority::new("other"), None), Err(Code::Unavailable));
    let expired = authority.issue(LOCAL, Validity::Expired);
    server.restart(|config| config.tls = Some(tls(&expired, None)));
    assert_eq!(call(&mut server, &authority, None), Err(Code::Unavailable));
    let elsewhere = authority.issue(&["example.org"], Validity::Now);
    server.restart(|config| config.tls = Some(tls(&elsewhere, None)));
    assert_eq!(call(&mut server, &authority, None), Err(Code::Unavailable));
}

#[test]
fn clients_prove_who_they_are() {
    let (authority, clients) = (Authority::new("authority"), Authority::new("clients"));
    let good = authority.issue(LOCAL, Validity::Now);
    let mut server = Fixture::new(|config| config.tls = Some(tls(&good, Some(&clients))));
    assert_eq!(call(&mut server, &authority, Some(&clients.issue(&["client"], Validity::Now))), Ok(()));
    let refused = [None, Some(clients.issue(&["client"], Validity::Expired)), Some(good)];
    for own in refused {
        assert!(call(&mut server, &authority, own.as_ref()).is_err());
    }
    assert_eq!(server.server().counters().calls("GetCapabilities"), 1);
}

#[test]
fn http_on_the_same_port() {
    let authority = Authority::new("authority");
    let good = authority.issue(LOCAL, Validity::Now);
    let mut server = Fixture::new(|config| config.tls = Some(tls(&good, None)));
    // Who says nothing keeps nobody else waiting.
    let silent = TcpStream::connect(address(&server)).expect("connects");
    let channel = client(&server, &authority, None);
    server.set_channel(channel);
    let digest = server.put(b"over both");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a certificate");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let request = format!("GET /cas/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", digest.hex());
    let answer = server.runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address(&server)).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("shakes hands");
        stream.write_all(request.as_bytes()).await.expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answers");
        answer
    });
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nover both"), "{answer}");
    drop(silent);
}

#[test]
fn servers_that_do_not_start() {
    let good = Authority::new("authority").issue(LOCAL, Validity::Now);
    let start = |listen: &str, tls: Option<TlsConfig>| {
        let dir = tempfile::tempdir().expect("temp dir");
        let listen = listen.replace("DIR", &dir.path().display().to_string());
        let mut config =
            minibuild_server::ServerConfig::new(listen.parse().expect("an address"), dir.path().join("x"), 1);
        config.tls = tls;
        minibuild_server::Server::start(config).err()
    };
    assert!(matches!(start("0.0.0.0:0", None), Some(StartError::Exposed(_))));
    assert!(matches!(start("unix:DIR/s", Some(tls(&good, None))), Some(StartError::TlsOnSocket(_))));
    let bad = TlsConfig { key: Vec::new(), ..tls(&good, None) };
    assert!(matches!(start("127.0.0.1:0", Some(bad)), Some(StartError::Tls(_))));
}

//! TLS: certificates from PEM texts, and connections that have shaken hands.
//!
//! It does not know what goes over them. HTTP/2 and HTTP/1.1 are offered on the same port: gRPC and the HTTP cache.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::TcpIncoming;

/// Whoever has not shaken hands by then never will.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once; who comes beyond waits to be accepted.
const HANDSHAKES: usize = 500;

/// What a server proves its name with, and what clients have to prove theirs with. All are PEM texts.
#[derive(Clone)]
pub struct TlsConfig {
    /// The server's certificate and those that lead from it to an authority.
    pub certificates: Vec<u8>,
    /// The key of the first of them.
    pub key: Vec<u8>,
    /// The authorities one of which has to have signed a client's certificate; without them clients show none.
    pub client_authorities: Option<Vec<u8>>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are not for logs, and certificates say nothing to people.
        f.debug_struct("TlsConfig").field("client_authorities", &self.client_authorities.is_some()).finish()
    }
}

/// Why the certificates of a server are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is no certificate in it, or a bad one.
    #[error("the server's certificate is not usable: {0}")]
    Certificates(String),
    /// There is no key in it, or a bad one.
    #[error("the server's key is not usable: {0}")]
    Key(String),
    /// There is no certificate in it, or a bad one.
    #[error("the certificate of the clients' authority is not usable: {0}")]
    Authorities(String),
    /// The key belongs to another certificate, or is of an unknown kind.
    #[error("the server's certificate and key do not fit together: {0}")]
    Mismatch(String),
}

/// Takes handshakes as the configuration says.
pub(crate) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| TlsError::Mismatch(e.to_string()))?;
    let builder = match &config.client_authorities {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(pem)?), provider);
            let verifier = verifier.build().map_err(|e| TlsError::Authorities(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&config.certificates).map_err(TlsError::Certificates)?;
    let key = PrivateKeyDer::from_pem_slice(&config.key).map_err(|e| TlsError::Key(e.to_string()))?;
    let mut server = builder.with_single_cert(chain, key).map_err(|e| TlsError::Mismatch(e.to_string()))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(TlsError::Authorities)? {
        roots.add(certificate).map_err(|e| TlsError::Authorities(e.to_string()))?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    if found.is_empty() { Err("it holds no PEM certificate".into()) } else { Ok(found) }
}

/// Connections that have shaken hands. Those that fail are dropped, and none waits for another's handshake.
pub(crate) fn incoming(
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let shaken = TcpIncoming::from(listener).with_nodelay(Some(true)).map(move |stream| {
        let acceptor = acceptor.clone();
        async move { tokio::time::timeout(HANDSHAKE, acceptor.accept(stream.ok()?)).await.ok()?.ok() }
    });
    shaken.buffer_unordered(HANDSHAKES).filter_map(|shaken| std::future::ready(shaken.map(Ok)))
}

#[cfg(test)]
mod tests {
    use minibuild_testkit::{Authority, Certificate, Validity};

    use super::*;

    fn texts() -> Certificate {
        Authority::new("tests").issue(&["localhost"], Validity::Now)
    }

    #[test]
    fn texts_that_are_of_no_use() {
        let (ours, other) = (texts(), texts());
        let authority = Authority::new("clients").pem();
        let check = |certificates: &str, key: &str, client: Option<&str>, expected: Option<&str>| {
            let config = TlsConfig {
                certificates: certificates.into(),
                key: key.into(),
                client_authorities: client.map(Into::into),
            };
            let error = acceptor(&config).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(error, None),
                Some(part) => assert!(error.as_ref().is_some_and(|e| e.contains(part)), "{error:?} lacks {part}"),
            }
        };
        let (cert, key) = (&*ours.certificate, &*ours.key);
        check(cert, key, None, None);
        check(cert, key, Some(&authority), None);
        check("", key, None, Some("the server's certificate is not usable: it holds no PEM certificate"));
        check(key, key, None, Some("the server's certificate is not usable"));
        check("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", key, None, Some("not usable"));
        check(cert, cert, None, Some("the server's key is not usable"));
        check(cert, &other.key, None, Some("do not fit together"));
        check(cert, key, Some(key), Some("the clients' authority"));
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(cert, key, Some(empty), Some("the clients' authority"));
    }

    #[test]
    fn keys_are_not_shown() {
        let ours = texts();
        let config =
            TlsConfig { certificates: ours.certificate.into(), key: ours.key.into(), client_authorities: None };
        assert_eq!(format!("{config:?}"), "TlsConfig { client_authorities: false }");
    }
}

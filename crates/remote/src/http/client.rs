//! The HTTP client: limits, TLS, where connections lead.
//!
//! Requests, answers and bodies are reqwest's, connections are made here: reqwest's own client lets nothing near its
//! sockets. There is no proxy of the environment, no redirect, no decompression. It does not know what is asked.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::{Body, Request, Response};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::call::MOST;
use super::open::other_name;
use crate::connect::{Destination, TcpConnector};
use crate::endpoint::HttpEndpoint;
use crate::tls::{Pem, unusable};
use crate::{ConfigError, RemoteConfig, Tls};

/// Connections to one endpoint, kept for the next request.
pub(super) struct Client(legacy::Client<HttpsConnector<TcpConnector>, Body>);

impl Client {
    /// Returns a client for one endpoint. Nothing is connected to.
    ///
    /// # Errors
    /// [`ConfigError`] where certificates or keys cannot be used.
    pub(super) fn new(config: &RemoteConfig, endpoint: &HttpEndpoint) -> Result<Self, ConfigError> {
        let tls = if endpoint.tls { tls(&config.tls)? } else { without_certificates(&config.tls)? };
        let destination = match other_name(config, endpoint) {
            Some(_) => Destination::Fixed(endpoint.bare_host().to_owned(), endpoint.port),
            None => Destination::OfUri,
        };
        let tcp = TcpConnector::new(destination, config.timeout);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(MOST)
            .pool_timer(TokioTimer::new())
            .build(HttpsConnector::from((tcp, tls)));
        Ok(Self(client))
    }

    /// Sends a request and returns the answer as soon as its headers are here.
    ///
    /// # Errors
    /// A [`SendError`].
    pub(super) async fn execute(&self, request: Request) -> Result<Response, SendError> {
        let request = request.try_into().map_err(SendError::Request)?;
        let answer = self.0.request(request).await.map_err(SendError::Connection)?;
        Ok(answer.map(Body::wrap).into())
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum SendError {
    Request(reqwest::Error),
    Connection(legacy::Error),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot send a request")
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Request(error) => Some(error),
            Self::Connection(error) => Some(error),
        }
    }
}

/// TLS for connections without: reqwest would look for the system's certificates, and for a provider, by itself.
fn without_certificates(tls: &Tls) -> Result<ClientConfig, ConfigError> {
    Ok(builder(tls)?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn tls(tls: &Tls) -> Result<ClientConfig, ConfigError> {
    let pem = Pem::read(tls)?;
    let builder = builder(tls)?.with_root_certificates(roots(&pem.authorities, tls)?);
    let mut config = match &pem.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let refused = |e: &dyn std::error::Error| unusable("client certificate", tls, &e.to_string());
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| unusable("client key", tls, &e.to_string()))?;
            builder.with_client_auth_cert(chain.map_err(|e| refused(&e))?, key).map_err(|e| refused(&e))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn builder(tls: &Tls) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, ConfigError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    builder.with_safe_default_protocol_versions().map_err(|e| unusable("certificates", tls, &e.to_string()))
}

fn roots(authorities: &[u8], tls: &Tls) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|e| unusable("certificate authorities", tls, &e.to_string()))?;
        // Of a system's bundle some may be too old to be understood.
        let _ = roots.add(certificate);
    }
    Ok(roots)
}

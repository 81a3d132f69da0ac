//! The HTTP client: limits, TLS, where connections lead.
//!
//! It does what it is told and nothing by itself: no proxy of the environment, no redirect, no retry, no
//! decompression. It does not know what is asked.

use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, redirect, retry};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::call::MOST;
use super::open::other_name;
use crate::channel::CONNECT;
use crate::endpoint::HttpEndpoint;
use crate::headers::USER_AGENT;
use crate::tls::{Pem, unusable};
use crate::{ConfigError, RemoteConfig, Tls};

/// A client for one endpoint. Nothing is connected to.
///
/// # Errors
/// [`ConfigError`] where certificates or keys cannot be used.
pub(super) fn client(config: &RemoteConfig, endpoint: &HttpEndpoint) -> Result<Client, ConfigError> {
    let tls = if endpoint.tls { tls(&config.tls)? } else { without_certificates(&config.tls)? };
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .http1_only()
        .https_only(endpoint.tls)
        .connect_timeout(CONNECT.min(config.timeout))
        .pool_max_idle_per_host(MOST)
        .tls_backend_preconfigured(tls);
    if other_name(config, endpoint).is_some() {
        let host = endpoint.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        builder = builder.dns_resolver(Place(host, endpoint.port));
    }
    builder
        .build()
        .map_err(|_| ConfigError::Endpoint { url: endpoint.to_string(), why: "no client can be made for it" })
}

/// Where all connections lead, whatever name is asked for: the name in the certificate may be another.
struct Place(String, u16);

impl Resolve for Place {
    fn resolve(&self, _: Name) -> Resolving {
        let place = (self.0.clone(), self.1);
        Box::pin(async move { Ok(Box::new(tokio::net::lookup_host(place).await?) as Addrs) })
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

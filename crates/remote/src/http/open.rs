//! From a configuration to an HTTP cache.
//!
//! It connects to nothing; certificates are read here.

use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::codegen::http::{HeaderMap, HeaderValue, header};

use super::HttpCache;
use super::call::HttpConfig;
use super::connect::Connector;
use crate::answer::Sink;
use crate::channel::{read, system_authorities};
use crate::credentials::Credentials;
use crate::endpoint::HttpEndpoint;
use crate::headers::Headers;
use crate::{ConfigError, RemoteConfig, Tls};

/// The cache at an endpoint.
///
/// # Errors
/// A [`ConfigError`].
pub(crate) fn open(config: &RemoteConfig, endpoint: &HttpEndpoint, sink: &Sink) -> Result<HttpCache, ConfigError> {
    let scheme = if endpoint.tls { "https" } else { "http" };
    let base = format!("{scheme}://{}:{}{}", endpoint.host, endpoint.port, endpoint.path);
    let tls = if endpoint.tls { Some(tls(&config.tls, &endpoint.host)?) } else { None };
    Ok(HttpCache::new(HttpConfig {
        connector: Connector { host: endpoint.host.as_str().into(), port: endpoint.port, tls, timeout: config.timeout },
        credentials: config.credential_helper.as_deref().map(|helper| Credentials::new(helper, base.clone())),
        base,
        shown: endpoint.to_string(),
        headers: headers(config, endpoint)?,
        function: config.function,
        timeout: config.timeout,
        retries: config.retries,
        workspace: config.tree.workspace().to_owned(),
        sink: Arc::clone(sink),
    }))
}

/// Configured headers, and those of user and password.
fn headers(config: &RemoteConfig, endpoint: &HttpEndpoint) -> Result<HeaderMap, ConfigError> {
    let mut map = HeaderMap::new();
    if let Some((user, password)) = &endpoint.credentials {
        let text = format!("{}:{}", unescaped(user), unescaped(password));
        let fail = |_| ConfigError::Header { name: "authorization".into(), why: "user or password make no header" };
        let mut value = HeaderValue::from_str(&format!("Basic {}", base64(text.as_bytes()))).map_err(fail)?;
        value.set_sensitive(true);
        map.insert(header::AUTHORIZATION, value);
    }
    let pairs = config.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Headers::new(pairs)?.apply(&mut map);
    Ok(map)
}

/// `%40` and the like as what they stand for.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn tls(tls: &Tls, host: &str) -> Result<(TlsConnector, ServerName<'static>), ConfigError> {
    let (what, path) = ("certificate authorities", tls.ca.as_deref());
    let authorities = path.map_or_else(system_authorities, |path| read(what, path))?;
    let unusable = |what, path: Option<&str>, why: String| ConfigError::Tls {
        what,
        path: path.unwrap_or("the system").to_owned(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&authorities) {
        let certificate = certificate.map_err(|e| unusable(what, path, e.to_string()))?;
        // Of a system's bundle some may be too old to be understood.
        let _ = roots.add(certificate);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(what, path, e.to_string()))?
        .with_root_certificates(roots);
    let client = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_slice_iter(&read("client certificate", certificate)?)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| unusable("client certificate", Some(certificate), e.to_string()))?;
            let secret = PrivateKeyDer::from_pem_slice(&read("client key", key)?)
                .map_err(|e| unusable("client key", Some(key), e.to_string()))?;
            let client = builder.with_client_auth_cert(chain, secret);
            client.map_err(|e| unusable("client certificate", Some(certificate), e.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    let name = tls.server_name.as_deref().unwrap_or(host).trim_start_matches('[').trim_end_matches(']').to_owned();
    let bad_name = |_| ConfigError::Endpoint { url: host.to_owned(), why: "its host is no name for TLS" };
    let name = ServerName::try_from(name).map_err(bad_name)?;
    Ok((TlsConnector::from(Arc::new(client)), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_authentication_is_base64() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn user_and_password_may_be_escaped() {
        for (text, expected) in [("a%40b", "a@b"), ("%3A", ":"), ("100%", "100%"), ("%zz", "%zz"), ("%4", "%4")] {
            assert_eq!(unescaped(text), expected);
        }
    }
}

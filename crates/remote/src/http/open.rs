//! From a configuration to an HTTP cache.
//!
//! It connects to nothing; certificates are read here.

use std::sync::Arc;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Url};

use super::HttpCache;
use super::call::HttpConfig;
use super::client::client;
use crate::answer::Sink;
use crate::credentials::Credentials;
use crate::endpoint::HttpEndpoint;
use crate::headers::Headers;
use crate::{ConfigError, RemoteConfig};

/// The cache at an endpoint.
///
/// # Errors
/// A [`ConfigError`].
pub(crate) fn open(config: &RemoteConfig, endpoint: &HttpEndpoint, sink: &Sink) -> Result<HttpCache, ConfigError> {
    let scheme = if endpoint.tls { "https" } else { "http" };
    let written = format!("{scheme}://{}:{}{}", endpoint.host, endpoint.port, endpoint.path);
    let (client, named) = (client(config, endpoint)?, other_name(config, endpoint));
    let (base, headers) = place(&client, endpoint, &written, named)?;
    Ok(HttpCache::new(HttpConfig {
        client,
        base,
        headers: with_configured(config, headers)?,
        credentials: config.credential_helper.as_deref().map(|helper| Credentials::new(helper, written)),
        shown: endpoint.to_string(),
        function: config.function,
        timeout: config.timeout,
        retries: config.retries,
        workspace: config.tree.workspace().to_owned(),
        sink: Arc::clone(sink),
    }))
}

/// The name in the server's certificate, where it is not the host's.
pub(super) fn other_name<'a>(config: &'a RemoteConfig, endpoint: &HttpEndpoint) -> Option<&'a str> {
    config.tls.server_name.as_deref().filter(|name| endpoint.tls && *name != endpoint.host)
}

/// The URL of requests, and the headers that follow from the endpoint: those of user and password, and the host where
/// the URL has the name in the certificate instead.
fn place(
    client: &Client,
    endpoint: &HttpEndpoint,
    written: &str,
    named: Option<&str>,
) -> Result<(Url, HeaderMap), ConfigError> {
    let bad = |why| ConfigError::Endpoint { url: endpoint.to_string(), why };
    let mut url = Url::parse(written).map_err(|_| bad("it is no address"))?;
    let host = url.authority().to_owned();
    if let Some((user, password)) = &endpoint.credentials {
        let set = url.set_username(user).and_then(|()| url.set_password(Some(password)));
        set.map_err(|()| bad("user or password cannot be sent"))?;
    }
    if let Some(name) = named {
        // An address would be connected to.
        let set = url.set_host(Some(name)).is_ok() && url.domain().is_some();
        set.then_some(()).ok_or_else(|| bad("its `tls_server_name` is no name of a host"))?;
    }
    let mut request = client.get(url).build().map_err(|_| bad("it is no address"))?;
    if endpoint.credentials.is_some() && !request.headers().contains_key(header::AUTHORIZATION) {
        return Err(bad("user or password are no text"));
    }
    if named.is_some() {
        let host = HeaderValue::from_str(&host).map_err(|_| bad("its host is no name or address"))?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok((request.url().clone(), request.headers().clone()))
}

fn with_configured(config: &RemoteConfig, mut headers: HeaderMap) -> Result<HeaderMap, ConfigError> {
    let pairs = config.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Headers::new(pairs)?.apply(&mut headers);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use rustls::ClientConfig;

    use super::*;
    use crate::endpoint::Endpoint;

    /// A URL, and headers.
    type Shown<'a> = (&'a str, &'a [(&'a str, &'a str)]);

    /// URL and headers of requests, or why there are none.
    fn check(written: &str, named: Option<&str>, expected: Result<Shown<'_>, &str>) {
        let Ok(Endpoint::Http(endpoint)) = Endpoint::parse(written) else { panic!("{written}") };
        let scheme = if endpoint.tls { "https" } else { "http" };
        let text = format!("{scheme}://{}:{}{}", endpoint.host, endpoint.port, endpoint.path);
        // No certificates are needed for it.
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("versions");
        let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let client = Client::builder().no_proxy().tls_backend_preconfigured(config).build().expect("a client");
        match (place(&client, &endpoint, &text, named), expected) {
            (Ok((url, headers)), Ok((shown, pairs))) => {
                assert_eq!(url.as_str(), shown);
                let text = |(name, value): (&header::HeaderName, &HeaderValue)| {
                    (name.to_string(), value.to_str().expect("ASCII").to_owned())
                };
                let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                assert_eq!(headers.iter().map(text).collect::<Vec<_>>(), pairs.collect::<Vec<_>>(), "{written}");
                assert!(!format!("{headers:?}").contains("Basic"), "is marked as a secret");
            }
            (Err(error), Err(part)) => {
                let error = error.to_string();
                assert!(error.contains(part) && !error.contains("secret"), "{error}");
            }
            (got, _) => panic!("{written}: {got:?}"),
        }
    }

    #[test]
    fn urls_and_headers_of_endpoints() {
        check("http://h", None, Ok(("http://h/", &[])));
        check("https://h/a%20b/", None, Ok(("https://h/a%20b", &[])));
        check("http://[::1]:8/a", None, Ok(("http://[::1]:8/a", &[])));
        // base64 of `f:`, `me:p@ss`, `a@b:c:d`
        check("http://f@h:81", None, Ok(("http://h:81/", &[("authorization", "Basic Zjo=")])));
        check("http://me:p%40ss@h", None, Ok(("http://h/", &[("authorization", "Basic bWU6cEBzcw==")])));
        check("http://a@b:c:d@h", None, Ok(("http://h/", &[("authorization", "Basic YUBiOmM6ZA==")])));
        check("http://%ff:secret@h", None, Err("`http://***@h:80`: user or password are no text"));
    }

    #[test]
    fn a_name_in_the_certificate_takes_the_place_of_the_host() {
        check("https://h/a", Some("n.example"), Ok(("https://n.example/a", &[("host", "h")])));
        check("https://127.0.0.1:8/a", Some("n"), Ok(("https://n:8/a", &[("host", "127.0.0.1:8")])));
        for bad in ["127.0.0.1", "[::1]", "a b", "", "a/b"] {
            check("https://h/a", Some(bad), Err("`tls_server_name` is no name"));
        }
    }
}

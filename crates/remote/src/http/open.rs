//! From a configuration to an HTTP cache.
//!
//! It connects to nothing; certificates are read here.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderValue};

use super::HttpCache;
use super::call::HttpConfig;
use super::client::Client;
use crate::answer::Sink;
use crate::credentials::Credentials;
use crate::endpoint::HttpEndpoint;
use crate::headers::{Headers, USER_AGENT};
use crate::{ConfigError, RemoteConfig};

/// The cache at an endpoint.
///
/// # Errors
/// A [`ConfigError`].
pub(crate) fn open(config: &RemoteConfig, endpoint: &HttpEndpoint, sink: &Sink) -> Result<HttpCache, ConfigError> {
    let scheme = if endpoint.tls { "https" } else { "http" };
    let written = format!("{scheme}://{}:{}{}", endpoint.host, endpoint.port, endpoint.path);
    let helper = config.credential_helper.as_deref();
    let (base, headers) = place(endpoint, &written, other_name(config, endpoint))?;
    Ok(HttpCache::new(HttpConfig {
        client: Client::new(config, endpoint)?,
        base,
        headers: with_configured(config, headers)?,
        credentials: helper.map(|helper| Credentials::new(helper, written, Arc::clone(sink))),
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
fn place(endpoint: &HttpEndpoint, written: &str, named: Option<&str>) -> Result<(Url, HeaderMap), ConfigError> {
    let bad = |why| ConfigError::Endpoint { url: endpoint.to_string(), why };
    let mut url = Url::parse(written).map_err(|_| bad("it is no address"))?;
    let host = url.authority().to_owned();
    let mut headers = HeaderMap::new();
    if let Some((user, password)) = &endpoint.credentials {
        let value = basic(user, password).ok_or_else(|| bad("user or password are no text"))?;
        headers.insert(header::AUTHORIZATION, value);
    }
    if let Some(name) = named {
        // An address would be connected to.
        let set = url.set_host(Some(name)).is_ok() && url.domain().is_some();
        set.then_some(()).ok_or_else(|| bad("its `tls_server_name` is no name of a host"))?;
        let host = HeaderValue::from_str(&host).map_err(|_| bad("its host is no name or address"))?;
        headers.insert(header::HOST, host);
    }
    Ok((url, headers))
}

/// The header of a user and a password as they stand in a URL. `None` where they are no text.
fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let text = |part| percent_decode_str(part).decode_utf8().ok();
    let pair = format!("{}:{}", text(user)?, text(password)?);
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn with_configured(config: &RemoteConfig, mut headers: HeaderMap) -> Result<HeaderMap, ConfigError> {
    let pairs = config.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    Headers::new(pairs)?.apply(&mut headers);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;

    /// A URL, and headers.
    type Shown<'a> = (&'a str, &'a [(&'a str, &'a str)]);

    /// URL and headers of requests, or why there are none.
    fn check(written: &str, named: Option<&str>, expected: Result<Shown<'_>, &str>) {
        let Ok(Endpoint::Http(endpoint)) = Endpoint::parse(written) else { panic!("{written}") };
        let scheme = if endpoint.tls { "https" } else { "http" };
        let text = format!("{scheme}://{}:{}{}", endpoint.host, endpoint.port, endpoint.path);
        match (place(&endpoint, &text, named), expected) {
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

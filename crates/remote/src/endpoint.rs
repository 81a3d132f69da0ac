//! Where a server is: the text a user wrote, taken apart and checked.
//!
//! It connects to nothing. A password is kept, and never shown.

use std::fmt;
use std::path::PathBuf;

use minibuild_core::shown_url;
use tonic::codegen::http::Uri;

use crate::error::ConfigError;

/// Where a server is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// gRPC over TCP.
    Grpc {
        /// `host:port`, an IPv6 address in brackets.
        authority: String,
        /// Whether it is `grpcs://`.
        tls: bool,
    },
    /// gRPC over a Unix socket.
    Unix(PathBuf),
    /// The HTTP cache protocol.
    Http(HttpEndpoint),
}

/// A store that is reached by HTTP.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpEndpoint {
    /// Whether it is `https://`.
    pub(crate) tls: bool,
    /// User and password, as they were written.
    pub(crate) credentials: Option<(String, String)>,
    /// Name or address, an IPv6 address in brackets.
    pub(crate) host: String,
    /// 80 or 443 where none was written.
    pub(crate) port: u16,
    /// With a slash at the beginning and none at the end; may be empty.
    pub(crate) path: String,
}

impl Endpoint {
    /// Reads `grpc://host:port`, `grpcs://host:port`, `unix:///path` or `http(s)://[user:password@]host[:port]/path`.
    ///
    /// # Errors
    /// [`ConfigError::Endpoint`] saying what is wrong, without the password.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        parse(text).map_err(|why| ConfigError::Endpoint { url: shown_url(text), why })
    }

    /// Whether it is gRPC, over whatever.
    pub(crate) fn is_grpc(&self) -> bool {
        !matches!(self, Self::Http(_))
    }
}

impl HttpEndpoint {
    /// The host without the brackets of an IPv6 address.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has white space or control characters in it");
    }
    match text.split_once("://") {
        Some(("grpc", rest)) => grpc(rest, false),
        Some(("grpcs", rest)) => grpc(rest, true),
        Some(("unix", path)) if path.len() > 1 && path.starts_with('/') => Ok(Endpoint::Unix(path.into())),
        Some(("unix", _)) => Err("the path of a Unix socket is absolute, as in `unix:///run/cache.sock`"),
        Some(("http", rest)) => http(rest, false),
        Some(("https", rest)) => http(rest, true),
        _ => Err("it begins with none of `grpc://`, `grpcs://`, `unix://`, `http://`, `https://`"),
    }
}

fn grpc(rest: &str, tls: bool) -> Result<Endpoint, &'static str> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("gRPC has no user and password: give a header or a credential helper");
    }
    if rest.contains(['/', '?', '#']) {
        return Err("there is something behind the port; an instance name is configured by itself");
    }
    let (_, port) = authority(rest)?;
    port.ok_or("it has no port")?;
    Ok(Endpoint::Grpc { authority: rest.to_owned(), tls })
}

fn http(rest: &str, tls: bool) -> Result<Endpoint, &'static str> {
    if rest.contains(['?', '#']) {
        return Err("it has a query or a fragment");
    }
    let (front, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (credentials, place) = match front.rsplit_once('@') {
        None => (None, front),
        Some((user, place)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            (Some((user.to_owned(), password.to_owned())), place)
        }
    };
    let (host, port) = authority(place)?;
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    let path = path.trim_end_matches('/').to_owned();
    if !path.is_empty() && path.parse::<Uri>().is_err() {
        return Err("its path has characters that have to be escaped");
    }
    Ok(Endpoint::Http(HttpEndpoint { tls, credentials, host: host.to_owned(), port, path }))
}

/// Host and port; both parts checked.
fn authority(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("its port is no number"));
    let port = port.transpose()?;
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("its address lacks a `]`")?,
        None if host.contains(':') => return Err("an IPv6 address is written in brackets"),
        None => host,
    };
    if bare.is_empty() {
        return Err("it has no host");
    }
    if format!("http://{host}:1").parse::<Uri>().is_err() {
        return Err("its host is no name or address");
    }
    Ok((host, port))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc { authority, tls: false } => write!(f, "grpc://{authority}"),
            Self::Grpc { authority, tls: true } => write!(f, "grpcs://{authority}"),
            // Nobody else could find it by that name.
            Self::Unix(path) if path.starts_with("/proc/self") => write!(f, "the embedded server"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http(http) => write!(f, "{http}"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let credentials = if self.credentials.is_some() { "***@" } else { "" };
        write!(f, "{scheme}://{credentials}{}:{}{}", self.host, self.port, self.path)
    }
}

impl fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (Endpoint::parse(text), expected) {
            (Ok(endpoint), Ok(shown)) => {
                assert_eq!(endpoint.to_string(), shown);
                assert_eq!(format!("{endpoint:?}"), shown);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error} lacks {part}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn endpoints_are_read() {
        check("grpc://localhost:8980", Ok("grpc://localhost:8980"));
        check("grpcs://cache.example.org:443/", Ok("grpcs://cache.example.org:443"));
        check("grpc://[::1]:1", Ok("grpc://[::1]:1"));
        check("unix:///run/x.sock", Ok("unix:///run/x.sock"));
        check("http://h", Ok("http://h:80"));
        check("https://h/a/b/", Ok("https://h:443/a/b"));
        check("https://me:secret@h:1/a", Ok("https://***@h:1/a"));
        check("http://[::1]/a", Ok("http://[::1]:80/a"));
    }

    #[test]
    fn a_password_is_kept() {
        let Ok(Endpoint::Http(http)) = Endpoint::parse("http://me:p:w@h") else { panic!("is one") };
        assert_eq!(http.credentials, Some(("me".to_owned(), "p:w".to_owned())));
    }

    #[test]
    fn texts_that_are_none() {
        check("", Err("begins with none"));
        check("localhost:8980", Err("begins with none"));
        check("ftp://h:1", Err("begins with none"));
        check("grpc://h", Err("`grpc://h`: it has no port"));
        check("grpcs://h", Err("it has no port"));
        check("grpc://h:0", Err("no number"));
        check("grpc://h:99999", Err("no number"));
        check("grpc://:1", Err("no host"));
        check("grpc://::1:1", Err("in brackets"));
        check("grpc://[::1:1", Err("lacks a `]`"));
        check("grpc://[::1]", Err("no port"));
        check("grpc://a b:1", Err("white space"));
        check("grpc://h:1/instance", Err("behind the port"));
        check("unix://run/x", Err("absolute"));
        check("unix:///", Err("absolute"));
        check("http://h/a?b", Err("query"));
        check("http://h<>:1/", Err("no name or address"));
        check("http://h/<a>", Err("escaped"));
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in ["grpc://me:secret@h:1", "http://me:secret@h:x/", "me:secret@h", "http://a@b:secret@h:0"] {
            let error = Endpoint::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer(text in "((grpcs?|unix|https?)://)?.*") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                prop_assert!(endpoint.is_grpc() || text.starts_with("http"));
            }
        }
    }
}

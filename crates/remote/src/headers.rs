//! The headers a user configured.
//!
//! Values are secrets: they are marked sensitive and appear in no message.

use std::fmt;

use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ConfigError;

/// What this program calls itself.
pub(crate) const USER_AGENT: &str = concat!("minibuild/", env!("CARGO_PKG_VERSION"));

/// Headers that are sent with every call.
#[derive(Clone, Default)]
pub(crate) struct Headers(HeaderMap);

/// What HTTP/2 and gRPC set themselves.
const RESERVED: [&str; 8] =
    ["content-type", "te", "host", "connection", "content-length", "transfer-encoding", "upgrade", "grpc-timeout"];

impl Headers {
    /// Checks names and values; names are taken in lower case, and one name may be there several times.
    ///
    /// # Errors
    /// [`ConfigError::Header`] naming the header, never its value.
    pub(crate) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.add(name, value)?;
        }
        Ok(headers)
    }

    /// Adds one header.
    ///
    /// # Errors
    /// As [`Headers::new`].
    pub(crate) fn add(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let fail = |why| ConfigError::Header { name: name.chars().take(100).collect(), why };
        let lower = name.to_ascii_lowercase();
        let key = HeaderName::from_bytes(lower.as_bytes()).map_err(|_| fail("this is no name of a header"))?;
        if RESERVED.contains(&key.as_str()) {
            return Err(fail("gRPC sets it itself"));
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| fail("its value has characters no header may have"))?;
        value.set_sensitive(true);
        self.0.append(key, value);
        Ok(())
    }

    /// Puts all of them into `map`; a name that is in it already is replaced.
    pub(crate) fn apply(&self, map: &mut HeaderMap) {
        for name in self.0.keys() {
            map.remove(name);
        }
        for (name, value) in &self.0 {
            map.append(name.clone(), value.clone());
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys().map(HeaderName::as_str)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked_and_their_values_hidden() {
        let good = Headers::new([("X-Api-Key", "secret"), ("x-two", "1"), ("X-Two", "2")]).expect("headers");
        assert_eq!(format!("{good:?}"), "{\"x-api-key\", \"x-two\"}");
        let mut map = HeaderMap::new();
        map.insert("x-two", HeaderValue::from_static("0"));
        good.apply(&mut map);
        assert_eq!(map.get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(!format!("{map:?}").contains("secret"));
        for (name, value, why) in [
            ("", "secret", "no name"),
            ("a b", "secret", "no name"),
            ("ä", "secret", "no name"),
            ("Content-Type", "secret", "itself"),
            ("x", "secret\n", "characters"),
            ("x", "secret\0", "characters"),
        ] {
            let error = Headers::new([(name, value)]).expect_err(name).to_string();
            assert!(
                error.contains(why) && error.contains(&format!("`{name}`")) && !error.contains("secret"),
                "{error}"
            );
        }
    }
}

//! Certificates and keys of a configuration: PEM files, read, and what cannot be used of them.
//!
//! It does not know connections, nor what is written in a certificate.

use std::path::Path;

use minibuild_disk::read_regular_file;

use crate::config::Tls;
use crate::error::ConfigError;

/// Where the certificate authorities of a system lie, in PEM.
const AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

/// The files of a configuration.
pub(crate) struct Pem {
    /// Certificate authorities.
    pub(crate) authorities: Vec<u8>,
    /// Client certificate and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pem {
    /// Reads the files; the authorities are the system's where none are configured.
    ///
    /// # Errors
    /// [`ConfigError`] where a file is missing, or is no PEM file.
    pub(crate) fn read(tls: &Tls) -> Result<Self, ConfigError> {
        let authorities = match &tls.ca {
            Some(path) => read("certificate authorities", path)?,
            None => system_authorities()?,
        };
        let identity = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                Some((read("client certificate", certificate)?, read("client key", key)?))
            }
            (Some(path), None) => return Err(error("client certificate", path, "it comes without a key")),
            (None, Some(path)) => return Err(error("client key", path, "it comes without a certificate")),
            (None, None) => None,
        };
        Ok(Self { authorities, identity })
    }
}

/// What a library says of certificates or keys, as an error that names a file of the configuration.
pub(crate) fn unusable(what: &'static str, tls: &Tls, why: &str) -> ConfigError {
    let path = match what {
        "client key" => tls.key.as_ref(),
        "client certificate" => tls.certificate.as_ref(),
        _ => tls.ca.as_ref().or(tls.certificate.as_ref()),
    };
    error(what, path.map_or("the system", String::as_str), why)
}

fn error(what: &'static str, path: &str, why: &str) -> ConfigError {
    ConfigError::Tls { what, path: path.to_owned(), why: why.to_owned() }
}

fn read(what: &'static str, path: &str) -> Result<Vec<u8>, ConfigError> {
    let bytes = read_regular_file(Path::new(path)).map_err(|e| error(what, path, &e.to_string()))?;
    let is_pem = bytes.windows(10).any(|window| window == b"-----BEGIN");
    if is_pem { Ok(bytes) } else { Err(error(what, path, "it is no PEM file")) }
}

/// The first bundle that is there.
fn system_authorities() -> Result<Vec<u8>, ConfigError> {
    let found = AUTHORITIES.iter().find_map(|path| read("certificate authorities", path).ok());
    found.ok_or_else(|| ConfigError::NoAuthorities(AUTHORITIES.map(|path| format!("`{path}`")).join(", ")))
}

//! Certificates for tests of TLS: an authority, and what it signs, good or expired.
//!
//! X.509 version 3 with ECDSA on P-256, written as DER by hand; just what a strict verifier wants to see. Validity is
//! a fixed span of years, so nothing depends on the clock. It does not know connections.

use std::net::IpAddr;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

/// A certificate with its key, as PEM texts.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS #8.
    pub key: String,
}

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From 2000 to 2049.
    Now,
    /// From 2000 to 2001.
    Expired,
}

/// Signs certificates.
pub struct Authority {
    name: String,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

/// What of a certificate is the same for an authority and for others.
struct Subject<'a> {
    name: &'a str,
    public_key: &'a [u8],
    validity: Validity,
    extensions: Vec<u8>,
}

impl Authority {
    /// An authority of this name with a new key.
    pub fn new(name: &str) -> Self {
        let random = SystemRandom::new();
        let (key, _) = new_key(&random);
        Self { name: name.to_owned(), key, random }
    }

    /// Its own certificate, a PEM text.
    pub fn pem(&self) -> String {
        let public_key = self.key.public_key().as_ref();
        let subject =
            Subject { name: &self.name, public_key, validity: Validity::Now, extensions: authority_extensions() };
        pem("CERTIFICATE", &self.sign(&subject))
    }

    /// A certificate for a server or client with these DNS names or IP addresses.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Certificate {
        let (key, pkcs8) = new_key(&self.random);
        let extensions = end_extensions(names);
        let subject = Subject { name: "end", public_key: key.public_key().as_ref(), validity, extensions };
        Certificate { certificate: pem("CERTIFICATE", &self.sign(&subject)), key: pem("PRIVATE KEY", &pkcs8) }
    }

    fn sign(&self, subject: &Subject<'_>) -> Vec<u8> {
        let to_be_signed = sequence(&[
            &explicit(0, &integer(2)),
            &integer(1),
            &algorithm(),
            &distinguished_name(&self.name),
            &validity(subject.validity),
            &distinguished_name(subject.name),
            &public_key_info(subject.public_key),
            &explicit(3, &sequence(&[&subject.extensions])),
        ]);
        let signature = self.key.sign(&self.random, &to_be_signed).expect("a signature");
        sequence(&[&to_be_signed, &algorithm(), &bit_string(signature.as_ref())])
    }
}

fn new_key(random: &SystemRandom) -> (EcdsaKeyPair, Vec<u8>) {
    let kind = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, random).expect("a key").as_ref().to_vec();
    (EcdsaKeyPair::from_pkcs8(kind, &pkcs8, random).expect("a key"), pkcs8)
}

// Tags of DER.
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

// Object identifiers, encoded.
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("certificates are short");
    let mut bytes = vec![tag];
    match length {
        0..=0x7f => bytes.push(length as u8),
        0x80..=0xff => bytes.extend([0x81, length as u8]),
        _ => bytes.extend([&[0x82][..], &length.to_be_bytes()].concat()),
    }
    bytes.extend_from_slice(content);
    bytes
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der(SEQUENCE, &parts.concat())
}

/// Below 128.
fn integer(value: u8) -> Vec<u8> {
    der(INTEGER, &[value])
}

fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    der(0xa0 | number, content)
}

/// Whole bytes only.
fn bit_string(content: &[u8]) -> Vec<u8> {
    der(BIT_STRING, &[&[0], content].concat())
}

fn algorithm() -> Vec<u8> {
    sequence(&[&der(OBJECT, ECDSA_WITH_SHA256)])
}

fn distinguished_name(name: &str) -> Vec<u8> {
    let attribute = sequence(&[&der(OBJECT, COMMON_NAME), &der(UTF8_STRING, name.as_bytes())]);
    sequence(&[&der(SET, &attribute)])
}

fn validity(validity: Validity) -> Vec<u8> {
    let end: &[u8] = match validity {
        Validity::Now => b"491231235959Z",
        Validity::Expired => b"010101000000Z",
    };
    sequence(&[&der(UTC_TIME, b"000101000000Z"), &der(UTC_TIME, end)])
}

fn public_key_info(key: &[u8]) -> Vec<u8> {
    let kind = sequence(&[&der(OBJECT, EC_PUBLIC_KEY), &der(OBJECT, P256)]);
    sequence(&[&kind, &bit_string(key)])
}

fn extension(id: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[BOOLEAN, 1, 0xff] } else { &[] };
    sequence(&[&der(OBJECT, id), critical, &der(OCTET_STRING, content)])
}

fn authority_extensions() -> Vec<u8> {
    extension(BASIC_CONSTRAINTS, true, &sequence(&[&[BOOLEAN, 1, 0xff]]))
}

fn end_extensions(names: &[&str]) -> Vec<u8> {
    let names: Vec<u8> = names.iter().flat_map(|name| alternative_name(name)).collect();
    let usage = sequence(&[&der(OBJECT, SERVER_AUTH), &der(OBJECT, CLIENT_AUTH)]);
    let usage = extension(EXTENDED_USAGE, false, &usage);
    [extension(ALTERNATIVE_NAMES, false, &sequence(&[&names])), usage].concat()
}

fn alternative_name(name: &str) -> Vec<u8> {
    match name.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => der(0x87, &address.octets()),
        Ok(IpAddr::V6(address)) => der(0x87, &address.octets()),
        Err(_) => der(0x82, name.as_bytes()),
    }
}

fn pem(what: &str, bytes: &[u8]) -> String {
    let text = base64(bytes);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 0x3f]);
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_the_standard_shows_it() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn lengths_have_three_forms() {
        for (length, head) in [(0x7f, &[4, 0x7f][..]), (0x80, &[4, 0x81, 0x80]), (0x1234, &[4, 0x82, 0x12, 0x34])] {
            assert!(der(OCTET_STRING, &vec![0; length]).starts_with(head), "{length}");
        }
    }

    #[test]
    fn texts_are_pem() {
        let authority = Authority::new("authority");
        let issued = authority.issue(&["localhost", "127.0.0.1", "::1"], Validity::Now);
        for (text, what) in
            [(authority.pem(), "CERTIFICATE"), (issued.certificate, "CERTIFICATE"), (issued.key, "PRIVATE KEY")]
        {
            assert!(text.starts_with(&format!("-----BEGIN {what}-----\nM")), "{text}");
            assert!(text.ends_with(&format!("\n-----END {what}-----\n")) && text.lines().all(|l| l.len() <= 64));
        }
    }
}

//! Content digests: what a blob *is*, wherever it lies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A hash function of the Remote Execution API (`DigestFunction.Value`). Both have 32-byte values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DigestFunction {
    /// SHA-256, the default.
    #[default]
    Sha256,
    /// BLAKE3, for servers that ask for it.
    Blake3,
}

impl DigestFunction {
    /// A hasher that is fed piece by piece.
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher::Sha256(Default::default(), 0),
            Self::Blake3 => Hasher::Blake3(Default::default(), 0),
        }
    }

    /// Digest of bytes that are all here.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Digest of the empty blob, which is never uploaded or downloaded.
    pub fn empty(self) -> Digest {
        self.digest(&[])
    }
}

/// Incremental hashing with the size counted alongside.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack of one hashing loop; boxing would cost an allocation a file"
)]
pub enum Hasher {
    #[doc(hidden)]
    Sha256(sha2::Sha256, u64),
    #[doc(hidden)]
    Blake3(blake3::Hasher, u64),
}

impl Hasher {
    /// Feeds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher, size) => {
                sha2::Digest::update(hasher, bytes);
                *size += bytes.len() as u64;
            }
            Self::Blake3(hasher, size) => {
                hasher.update(bytes);
                *size += bytes.len() as u64;
            }
        }
    }

    /// The digest of everything fed so far.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher, size) => Digest { hash: sha2::Digest::finalize(hasher).into(), size },
            Self::Blake3(hasher, size) => Digest { hash: hasher.finalize().into(), size },
        }
    }
}

/// Hash and size of a blob (`build.bazel.remote.execution.v2.Digest`). Printed as `hash/size_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    /// The raw hash.
    pub hash: [u8; 32],
    /// Size of the blob in bytes.
    pub size: u64,
}

impl Digest {
    /// The hash in lower-case hexadecimal, 64 characters.
    pub fn hex(&self) -> String {
        self.hex_bytes().iter().copied().map(char::from).collect()
    }

    /// The same as ASCII bytes, for messages that are written by the million.
    pub fn hex_bytes(&self) -> [u8; 64] {
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.hash) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        text
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.hex_bytes();
        f.write_str(std::str::from_utf8(&hex).unwrap_or_default())?;
        write!(f, "/{}", self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", &self.hex()[..12], self.size)
    }
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no digest: expected 64 lower-case hexadecimal digits, `/` and a size in bytes")]
pub struct DigestParseError(String);

impl FromStr for Digest {
    type Err = DigestParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (hex, size) = text.split_once('/')?;
            let bytes = hex.as_bytes();
            if bytes.len() != 64 || !size.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let nibble = |b: u8| HEX.iter().position(|&h| h == b);
            let mut hash = [0; 32];
            for (slot, pair) in hash.iter_mut().zip(bytes.chunks_exact(2)) {
                *slot = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).ok()?;
            }
            Some(Digest { hash, size: size.parse().ok()? })
        };
        parse().ok_or_else(|| DigestParseError(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.hash, self.size).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            let (hash, size) = Deserialize::deserialize(deserializer)?;
            Ok(Digest { hash, size })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_abc_is_the_published_value() {
        let digest = DigestFunction::Sha256.digest(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/3");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn texts_that_are_no_digest_are_refused() {
        let hex = "b".repeat(64);
        for text in ["", "/", "ab/3", &format!("{hex}/"), &format!("{hex}/-1"), &format!("{}/1", "B".repeat(64)), &hex]
        {
            let parsed: Result<Digest, _> = text.parse();
            assert!(parsed.is_err(), "{text}");
        }
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let mut hasher = function.hasher();
            hasher.update(b"ab");
            hasher.update(b"c");
            assert_eq!(hasher.finish(), function.digest(b"abc"));
        }
    }
}

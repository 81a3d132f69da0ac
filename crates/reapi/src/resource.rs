//! Names of blobs in the ByteStream service: reading and writing them.
//!
//! It does not know connections, nor whether a blob exists.

use std::fmt;

use minibuild_core::{Digest, DigestFunction};

/// How bytes are packed on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// As they are.
    #[default]
    Identity,
    /// Zstandard.
    Zstd,
}

/// A blob as `ByteStream.Read` names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobName {
    /// Instance name, may be empty.
    pub instance: String,
    /// Function of the digest.
    pub function: DigestFunction,
    /// Of the blob as it is, uncompressed.
    pub digest: Digest,
    /// How it goes over the line.
    pub compressor: Compressor,
}

/// A blob as `ByteStream.Write` names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadName {
    /// What is uploaded.
    pub blob: BlobName,
    /// Tells this upload from others of the same blob.
    pub uuid: String,
}

/// A text that names no blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no resource name: {why}")]
pub struct ResourceNameError {
    name: String,
    why: &'static str,
}

impl BlobName {
    /// Reads `[instance/]blobs/[function/]hash/size` or `[instance/]compressed-blobs/zstd/[function/]hash/size`.
    ///
    /// # Errors
    /// A [`ResourceNameError`] saying what is wrong.
    pub fn parse(text: &str) -> Result<Self, ResourceNameError> {
        parse_blob(text).map_err(|why| ResourceNameError::new(text, why))
    }
}

impl UploadName {
    /// Reads `[instance/]uploads/uuid/` and what [`BlobName::parse`] reads, anything behind it left aside.
    ///
    /// # Errors
    /// A [`ResourceNameError`] saying what is wrong.
    pub fn parse(text: &str) -> Result<Self, ResourceNameError> {
        parse_upload(text).map_err(|why| ResourceNameError::new(text, why))
    }
}

impl ResourceNameError {
    fn new(name: &str, why: &'static str) -> Self {
        Self { name: name.chars().take(200).collect(), why }
    }
}

type Segments<'a> = std::iter::Peekable<std::str::Split<'a, char>>;

fn parse_blob(text: &str) -> Result<BlobName, &'static str> {
    let mut segments = text.split('/').peekable();
    let instance = instance(&mut segments, &["blobs", "compressed-blobs"])?;
    let blob = blob(instance, &mut segments)?;
    if segments.next().is_some() { Err("there is something behind the size") } else { Ok(blob) }
}

fn parse_upload(text: &str) -> Result<UploadName, &'static str> {
    let mut segments = text.split('/').peekable();
    let instance = instance(&mut segments, &["uploads"])?;
    segments.next();
    let uuid = segments.next().filter(|uuid| !uuid.is_empty() && uuid.len() <= 200).ok_or("it has no UUID")?;
    let blob = blob(instance, &mut segments)?;
    Ok(UploadName { blob, uuid: uuid.to_owned() })
}

/// Everything before the first of the words.
fn instance(segments: &mut Segments<'_>, words: &[&str]) -> Result<String, &'static str> {
    let mut instance: Vec<&str> = Vec::new();
    while let Some(segment) = segments.next_if(|segment| !words.contains(segment)) {
        if segment.is_empty() {
            return Err("it has an empty segment");
        }
        instance.push(segment);
    }
    segments.peek().ok_or("it names no blob")?;
    Ok(instance.join("/"))
}

fn blob(instance: String, segments: &mut Segments<'_>) -> Result<BlobName, &'static str> {
    let compressor = match segments.next() {
        Some("blobs") => Compressor::Identity,
        Some("compressed-blobs") => match segments.next() {
            Some("zstd") => Compressor::Zstd,
            _ => return Err("its compressor is not known here"),
        },
        _ => return Err("it names no blob"),
    };
    let function = match segments.next_if_eq(&"blake3") {
        Some(_) => DigestFunction::Blake3,
        None => DigestFunction::Sha256,
    };
    let hash = segments.next().ok_or("it has no hash")?;
    let size = segments.next().ok_or("it has no size")?;
    if size.len() > 1 && size.starts_with('0') {
        return Err("its size is no number");
    }
    let digest: Digest = format!("{hash}/{size}").parse().map_err(|_| "its hash or size is none")?;
    if i64::try_from(digest.size).is_err() || (digest.size == 0) != (digest.hash == function.empty().hash) {
        return Err("its hash and size do not fit");
    }
    Ok(BlobName { instance, function, digest, compressor })
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_instance(f, &self.instance)?;
        write_blob(f, self)
    }
}

impl fmt::Display for UploadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_instance(f, &self.blob.instance)?;
        write!(f, "uploads/{}/", self.uuid)?;
        write_blob(f, &self.blob)
    }
}

fn write_instance(f: &mut fmt::Formatter<'_>, instance: &str) -> fmt::Result {
    if instance.is_empty() { Ok(()) } else { write!(f, "{instance}/") }
}

fn write_blob(f: &mut fmt::Formatter<'_>, blob: &BlobName) -> fmt::Result {
    f.write_str(match blob.compressor {
        Compressor::Identity => "blobs/",
        Compressor::Zstd => "compressed-blobs/zstd/",
    })?;
    write_digest(f, blob.function, &blob.digest)
}

fn write_digest(f: &mut impl fmt::Write, function: DigestFunction, digest: &Digest) -> fmt::Result {
    if function == DigestFunction::Blake3 {
        f.write_str("blake3/")?;
    }
    write!(f, "{digest}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_come_back_as_they_were_written() {
        for instance in ["", "main", "a/b/c"] {
            for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
                for compressor in [Compressor::Identity, Compressor::Zstd] {
                    let digest = function.digest(b"x");
                    let blob = BlobName { instance: instance.to_owned(), function, digest, compressor };
                    assert_eq!(BlobName::parse(&blob.to_string()), Ok(blob.clone()));
                    let upload = UploadName { blob, uuid: "u-1".into() };
                    assert_eq!(UploadName::parse(&upload.to_string()), Ok(upload.clone()));
                    assert_eq!(UploadName::parse(&format!("{upload}/meta/data")), Ok(upload));
                }
            }
        }
    }

    #[test]
    fn names_that_are_none() {
        let hash = DigestFunction::Sha256.digest(b"x").hex();
        let empty = DigestFunction::Sha256.empty().hex();
        let long = "9".repeat(30);
        for (name, part) in [
            (String::new(), "empty segment"),
            ("main".into(), "names no blob"),
            (format!("blobs/{hash}"), "no size"),
            ("blobs".into(), "no hash"),
            (format!("blobs/{hash}/1/x"), "behind the size"),
            (format!("blobs/{hash}/01"), "no number"),
            (format!("blobs/{hash}/-1"), "is none"),
            (format!("blobs/{hash}/{long}"), "is none"),
            (format!("blobs/{hash}/{}", u64::MAX), "do not fit"),
            (format!("blobs/{hash}/0"), "do not fit"),
            (format!("blobs/{empty}/1"), "do not fit"),
            ("blobs/../../etc/passwd/1".into(), "is none"),
            (format!("/blobs/{hash}/1"), "empty segment"),
            (format!("compressed-blobs/deflate/{hash}/1"), "compressor"),
            (format!("blobs/sha1/{hash}/1"), "is none"),
        ] {
            let got = BlobName::parse(&name);
            assert!(got.clone().is_err_and(|e| e.to_string().contains(part)), "{name}: {got:?} lacks {part}");
        }
        for (name, part) in [
            (format!("blobs/{hash}/1"), "names no blob"),
            ("uploads".into(), "no UUID"),
            (format!("uploads//blobs/{hash}/1"), "no UUID"),
            (format!("uploads/u/{hash}/1"), "names no blob"),
        ] {
            let got = UploadName::parse(&name);
            assert!(got.clone().is_err_and(|e| e.to_string().contains(part)), "{name}: {got:?} lacks {part}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer(text in ".*|(uploads/u/|a/)?(compressed-)?blobs/(zstd/)?(blake3/)?[0-9a-f]{62,65}/[0-9]{1,20}") {
            if let Ok(name) = BlobName::parse(&text) {
                prop_assert_eq!(BlobName::parse(&name.to_string()), Ok(name));
            }
            if let Ok(name) = UploadName::parse(&text) {
                prop_assert_eq!(UploadName::parse(&name.to_string()), Ok(name));
            }
        }
    }
}

//! Validated decoding: from bytes and wire types to values that may become paths and sizes.
//!
//! Everything that comes from a server or a client goes through here before it is used: names that could lead out
//! of a directory, duplicates, wrong order, negative and contradictory sizes, trees without end are refused. It does
//! not know where the bytes come from, nor whether the blobs they name exist.

mod action;
mod directory;
mod path_budget;
mod result;
mod tree;

pub use action::{Action, Command, Outputs, action, command};
pub use directory::{Directory, FileEntry, directory, directory_message};
pub use path_budget::PathBudget;
pub use result::{ActionResult, Log, OutputDirectory, OutputFile, OutputSymlink, action_result, action_result_message};
pub use tree::{Limits, TreeContent, tree, tree_of_directories};

use minibuild_core::{Digest, DigestFunction, WsPath};

use crate::proto::execution as proto;
use crate::{DecodeError, Flaw};

/// A larger `ActionResult` is refused: 100,000 outputs, or the logs that servers let come along.
pub const LARGEST_RESULT: usize = 16 << 20;

/// The digest function a request names; unset means SHA-256, as the length of the hash tells.
///
/// # Errors
/// [`Flaw::Unknown`] for the others.
pub fn digest_function(value: i32) -> Result<DigestFunction, DecodeError> {
    match proto::digest_function::Value::try_from(value) {
        Ok(proto::digest_function::Value::Unknown | proto::digest_function::Value::Sha256) => {
            Ok(DigestFunction::Sha256)
        }
        Ok(proto::digest_function::Value::Blake3) => Ok(DigestFunction::Blake3),
        Ok(other) => Err(unknown_function(other.as_str_name().to_owned())),
        Err(_) => Err(unknown_function(format!("digest function {value}"))),
    }
}

fn unknown_function(name: String) -> DecodeError {
    DecodeError::new("DigestFunction", "", Flaw::Unknown(name))
}

/// The number by which a message names a digest function.
pub fn function_number(function: DigestFunction) -> i32 {
    match function {
        DigestFunction::Sha256 => proto::digest_function::Value::Sha256 as i32,
        DigestFunction::Blake3 => proto::digest_function::Value::Blake3 as i32,
    }
}

/// A digest for a message.
pub fn digest_message(digest: &Digest) -> proto::Digest {
    proto::Digest { hash: digest.hex(), size_bytes: i64::try_from(digest.size).unwrap_or(i64::MAX) }
}

/// A digest of a message: 64 hexadecimal digits, a size that is none below zero, and the empty blob's hash exactly
/// with size 0.
///
/// # Errors
/// A [`DecodeError`] saying which of these does not hold.
pub fn digest(message: &proto::Digest, function: DigestFunction) -> Result<Digest, DecodeError> {
    let fail = |flaw| DecodeError::new("Digest", "", flaw);
    let size = u64::try_from(message.size_bytes).map_err(|_| fail(Flaw::NegativeSize(message.size_bytes)))?;
    let parsed: Result<Digest, _> = format!("{}/{size}", message.hash).parse();
    let digest = parsed.map_err(|_| fail(Flaw::Hash(short(&message.hash))))?;
    let empty = empty_hash(function);
    if (digest.hash == empty) != (size == 0) {
        let text = format!("the hash `{}` and {size} bytes do not fit", message.hash);
        return Err(fail(Flaw::Contradiction(text)));
    }
    Ok(digest)
}

fn empty_hash(function: DigestFunction) -> [u8; 32] {
    use std::sync::LazyLock;
    static SHA256: LazyLock<[u8; 32]> = LazyLock::new(|| DigestFunction::Sha256.empty().hash);
    static BLAKE3: LazyLock<[u8; 32]> = LazyLock::new(|| DigestFunction::Blake3.empty().hash);
    match function {
        DigestFunction::Sha256 => *SHA256,
        DigestFunction::Blake3 => *BLAKE3,
    }
}

/// A digest that has to be there.
fn required(
    what: &'static str,
    field: &'static str,
    message: Option<&proto::Digest>,
    function: DigestFunction,
) -> Result<Digest, DecodeError> {
    let message = message.ok_or_else(|| DecodeError::new(what, "", Flaw::Missing(field)))?;
    digest(message, function).map_err(|e| DecodeError::new(what, field, e.flaw().clone()))
}

/// What file systems take; longer names could not have been made by an action.
const LONGEST_NAME: usize = 255;

/// One segment of a path.
fn check_name(what: &'static str, name: &str) -> Result<(), DecodeError> {
    let bad = matches!(name, "" | "." | "..") || name.contains(['/', '\0']) || name.len() > LONGEST_NAME;
    if bad { Err(DecodeError::new(what, "", Flaw::Name(short(name)))) } else { Ok(()) }
}

/// A relative path below some directory; the empty one is that directory.
fn path(what: &'static str, text: &str) -> Result<WsPath, DecodeError> {
    WsPath::new(text).map_err(|_| DecodeError::new(what, "", Flaw::Path(short(text))))
}

/// A text the operating system takes: not empty, no NUL.
fn check_text(what: &'static str, at: &str, text: &str) -> Result<(), DecodeError> {
    let bad = text.is_empty() || text.contains('\0');
    if bad { Err(DecodeError::new(what, at, Flaw::Text(short(text)))) } else { Ok(()) }
}

/// Enough of a text to recognise it in a message.
fn short(text: &str) -> String {
    const SHOWN: usize = 100;
    if text.chars().count() <= SHOWN {
        text.to_owned()
    } else {
        text.chars().take(SHOWN).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hash_and_fitting_size() {
        let good = DigestFunction::Sha256.digest(b"x");
        let empty = DigestFunction::Sha256.empty();
        let check = |hash: &str, size_bytes, expected: Result<Digest, &str>| {
            let got = digest(&proto::Digest { hash: hash.to_owned(), size_bytes }, DigestFunction::Sha256);
            match expected {
                Ok(expected) => assert_eq!(got, Ok(expected)),
                Err(part) => assert!(got.clone().is_err_and(|e| e.to_string().contains(part)), "{got:?} lacks {part}"),
            }
        };
        check(&good.hex(), 1, Ok(good));
        check(&empty.hex(), 0, Ok(empty));
        check(&good.hex(), -1, Err("-1 is no size"));
        check(&good.hex(), 0, Err("do not fit"));
        check(&empty.hex(), 5, Err("do not fit"));
        check(&good.hex().to_uppercase(), 1, Err("is no hash"));
        check(&good.hex()[1..], 1, Err("is no hash"));
        check("", 0, Err("is no hash"));
        check("../../../etc/passwd", 1, Err("is no hash"));
        check(&format!("{}/1", good.hex()), 1, Err("is no hash"));
        let blake = DigestFunction::Blake3.empty();
        assert_eq!(digest(&digest_message(&blake), DigestFunction::Blake3), Ok(blake));
        assert!(digest(&digest_message(&blake), DigestFunction::Sha256).is_err());
    }

    #[test]
    fn functions_by_number() {
        assert_eq!(digest_function(0), Ok(DigestFunction::Sha256));
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            assert_eq!(digest_function(function_number(function)), Ok(function));
        }
        for other in [2, 3, 8, 10, 99, -1] {
            assert!(digest_function(other).is_err(), "{other}");
        }
    }
}

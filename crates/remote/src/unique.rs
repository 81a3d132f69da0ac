//! Names that nobody else gives.
//!
//! Unique, not secret.

use std::hash::{BuildHasher as _, RandomState};

/// A random UUID (version 4).
pub(crate) fn uuid() -> String {
    // Each of these has keys of its own, from the randomness of the operating system.
    let random = || RandomState::new().hash_one(0_u8);
    let (high, low) = (random(), random());
    let (version, variant) = ((high & !0xf000) | 0x4000, (low & !(3 << 62)) | (1 << 63));
    let text = format!("{version:016x}{variant:016x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_version_4_and_differ() {
        let (one, two) = (uuid(), uuid());
        assert_ne!(one, two);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(&one[14..15], "4");
        assert!("89ab".contains(&one[19..20]));
    }
}

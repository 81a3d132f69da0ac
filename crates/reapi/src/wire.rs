//! Writing protobuf fields in tag order. Knows varints and length prefixes, nothing of any message.

use minibuild_core::Digest;

/// Bytes of a message under construction. Default values are not written, as proto3's canonical form wants.
#[derive(Default)]
pub struct Message {
    bytes: Vec<u8>,
}

const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

impl Message {
    /// An empty message with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// The finished message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// What is written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Starts over, keeping the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.bytes.push(u8::try_from(value).unwrap_or(0));
    }

    /// An integer field.
    pub fn int(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.varint(field << 3 | VARINT);
            self.varint(value);
        }
    }

    /// A boolean field.
    pub fn bool(&mut self, field: u64, value: bool) {
        self.int(field, u64::from(value));
    }

    /// A string or bytes field.
    pub fn text(&mut self, field: u64, value: impl AsRef<[u8]>) {
        if !value.as_ref().is_empty() {
            self.repeated_text(field, value);
        }
    }

    /// An element of a repeated string field: written even if empty.
    pub fn repeated_text(&mut self, field: u64, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.varint(field << 3 | LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// A message field, present even if empty.
    pub fn message(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        self.varint(field << 3 | LENGTH_DELIMITED);
        let begin = self.bytes.len();
        // Nearly all are so short that their length takes one byte.
        self.bytes.push(0);
        write(self);
        let length = self.bytes.len() - begin - 1;
        match u8::try_from(length) {
            Ok(short @ ..0x80) => self.bytes[begin] = short,
            _ => {
                let mut prefix = Message::default();
                prefix.varint(length as u64);
                self.bytes.splice(begin..=begin, prefix.bytes);
            }
        }
    }

    /// A `Digest` field: hash 1, size_bytes 2.
    pub fn digest(&mut self, field: u64, digest: &Digest) {
        let hex = digest.hex_bytes();
        let size_len = if digest.size == 0 { 0 } else { 1 + varint_len(digest.size) };
        self.varint(field << 3 | LENGTH_DELIMITED);
        self.varint(2 + hex.len() as u64 + size_len);
        self.text(1, hex);
        self.int(2, digest.size);
    }
}

/// Length of a varint in bytes.
pub fn varint_len(value: u64) -> u64 {
    u64::from((64 - value.leading_zeros()).max(1).div_ceil(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_lengths_match_what_is_written() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut message = Message::default();
            message.varint(value);
            assert_eq!(varint_len(value), message.as_bytes().len() as u64, "{value}");
        }
    }

    #[test]
    fn messages_have_their_length_in_front_whatever_it_is() {
        for length in [0_usize, 1, 127, 128, 300, 20_000] {
            let mut message = Message::default();
            message.int(1, 7);
            message.message(2, |outer| outer.message(3, |inner| inner.bytes.resize(inner.bytes.len() + length, b'x')));
            let wrap = |field: u64, body: &[u8]| {
                let mut text = Message::default();
                text.repeated_text(field, body);
                text.into_bytes()
            };
            let expected = [&[8, 7][..], &wrap(2, &wrap(3, &vec![b'x'; length]))].concat();
            assert_eq!(message.into_bytes(), expected, "{length}");
        }
    }

    #[test]
    fn the_documented_example_of_protobuf() {
        let mut message = Message::default();
        message.int(1, 150);
        message.text(2, "testing");
        assert_eq!(message.into_bytes(), b"\x08\x96\x01\x12\x07testing");
    }
}
